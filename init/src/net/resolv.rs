//! /run/slipform/resolv.conf. Names and addresses come from the network, so nothing
//! that could start a second line gets into it.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where /etc/resolv.conf points.
pub(crate) const PATH: &str = "/run/slipform/resolv.conf";
/// Longest domain name (RFC 1035 section 2.3.4).
pub(crate) const DOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// What the C library's resolver looks at (resolv.conf(5)).
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;

/// A name server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server<'a> {
    /// Its address.
    pub(crate) address: IpAddr,
    /// The interface that it was learned on.
    pub(crate) link: &'a str,
}

/// Letters, digits, hyphens inside, underscores (RFC 1123 section 2.1; SRV-like names have underscores).
pub(crate) fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= DOMAIN_MAX && name.split('.').all(label)
}

/// The file's text: each server and name once, no more than a resolver takes.
pub(crate) fn text<'a>(
    servers: impl Iterator<Item = Server<'a>>,
    search: impl Iterator<Item = &'a str>,
) -> String {
    let mut text = String::from("# Written by slipform-init from what the network says.\n");
    let mut names: Vec<&str> = Vec::new();
    for name in search.filter(|name| is_domain(name)) {
        if names.len() < SEARCH_MAX && !names.contains(&name) {
            names.push(name);
        }
    }
    if !names.is_empty() {
        text.push_str(&format!("search {}\n", names.join(" ")));
    }
    let mut lines: Vec<String> = Vec::new();
    for Server { address, link } in servers {
        let line = match address {
            // Such an address says nothing without its link.
            IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80 => {
                format!("nameserver {v6}%{link}\n")
            }
            address => format!("nameserver {address}\n"),
        };
        if lines.len() < SERVERS_MAX && !lines.contains(&line) {
            lines.push(line);
        }
    }
    text + &lines.concat()
}

/// Puts `text` at `path` in one step: a resolver sees the old file or the new one.
///
/// # Errors
/// The call that failed, with the path.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(named)?;
    }
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&new)
        .map_err(named)?;
    file.write_all(text.as_bytes()).map_err(named)?;
    // /run is a tmpfs: there is nothing that a sync would save.
    fs::rename(&new, path).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_byte_for_byte() {
        let servers = ["10.0.2.3", "fe80::1", "10.0.2.3", "fd00::53", "8.8.8.8"];
        let servers = servers.map(|text| Server {
            address: text.parse().expect("an address"),
            link: "eth0",
        });
        let search = ["example.org", "evil\nnameserver 6.6.6.6", "b.c", "b.c"];
        let expected = "# Written by slipform-init from what the network says.\n\
                        search example.org b.c\nnameserver 10.0.2.3\nnameserver fe80::1%eth0\n\
                        nameserver fd00::53\n";
        let got = text(servers.into_iter(), search.into_iter());
        assert_eq!(got, expected);
        assert_eq!(text([].into_iter(), [].into_iter()).lines().count(), 1);
    }

    #[test]
    fn domains() {
        let long = format!("{}.org", "a".repeat(64));
        let longer = ["abcdefg"; 40].join(".");
        for (name, good) in [
            ("a", true),
            ("example.org", true),
            ("_sip.a-b.org", true),
            ("", false),
            (".", false),
            ("a..b", false),
            ("a.", false),
            ("-a", false),
            ("a-", false),
            ("a b", false),
            ("a\nb", false),
            ("ä", false),
            (&long, false),
            (&longer, false),
        ] {
            assert_eq!(is_domain(name), good, "{name:?}");
        }
    }

    #[test]
    fn it_is_replaced_in_one_step_and_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("slipform-resolv-{}", std::process::id()));
        let path = folder.join("deep/resolv.conf");
        for content in ["one", "two"] {
            write(&path, content).expect("write");
            assert_eq!(fs::read_to_string(&path).expect("read"), content);
        }
        assert_eq!(
            fs::read_dir(folder.join("deep")).expect("folder").count(),
            1
        );
        fs::remove_dir_all(&folder).expect("clean up");
        let error = write(Path::new("/proc/nowhere/x"), "").expect_err("no place for files");
        assert!(
            error.to_string().starts_with("write /proc/nowhere/x: "),
            "{error}"
        );
    }
}
