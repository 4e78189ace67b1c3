//! /run/slipform/resolv.conf. Names and addresses come from the network, so nothing
//! that could start a second line gets into it.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where /etc/resolv.conf points.
pub(crate) const PATH: &str = "/run/slipform/resolv.conf";
/// Longest domain name (RFC 1035 section 2.3.4).
pub(crate) const DOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

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

/// The file's text.
pub(crate) fn text(servers: &[Ipv4Addr], search: &[String]) -> String {
    let mut text = String::from("# Written by slipform-init from the DHCP lease.\n");
    let names: Vec<&str> = search
        .iter()
        .map(String::as_str)
        .filter(|name| is_domain(name))
        .collect();
    if !names.is_empty() {
        text.push_str(&format!("search {}\n", names.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
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
        let servers = [Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(8, 8, 8, 8)];
        let search = [
            "example.org".to_owned(),
            "evil\nnameserver 6.6.6.6".to_owned(),
            "b.c".to_owned(),
        ];
        let expected = "# Written by slipform-init from the DHCP lease.\n\
                        search example.org b.c\nnameserver 10.0.2.3\nnameserver 8.8.8.8\n";
        assert_eq!(text(&servers, &search), expected);
        assert_eq!(text(&[], &[]).lines().count(), 1);
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
