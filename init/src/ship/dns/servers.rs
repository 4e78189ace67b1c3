//! resolv.conf(5): `nameserver` and `search`; all else is passed over.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// resolv.conf(5): MAXNS.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;
const BYTES_MAX: u64 = 8 * 1024;
const PORT: u16 = 53;

/// Whom to ask, and what to hang behind short names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// In their order.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Domains.
    pub(crate) search: Vec<String>,
}

impl Servers {
    /// Reads the file; without one there is nobody to ask.
    pub(crate) fn read(path: &Path) -> Self {
        let mut text = Vec::new();
        if let Ok(file) = File::open(path) {
            let _ = file.take(BYTES_MAX).read_to_end(&mut text);
        }
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Self {
        let mut servers = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    if let Some(address) = address
                        && servers.addresses.len() < SERVERS_MAX
                    {
                        servers.addresses.push((address, PORT).into());
                    }
                }
                // The last line counts.
                Some("search") => {
                    servers.search = words.take(SEARCH_MAX).map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        servers
    }

    /// The names to ask for, in their order. A name that ends in a dot is whole.
    pub(crate) fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(whole) = host.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let searched = self
            .search
            .iter()
            .map(|domain| format!("{host}.{}", domain.trim_matches('.')));
        let own = std::iter::once(host.to_owned());
        if host.contains('.') {
            own.chain(searched).collect()
        } else {
            searched.chain(own).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let servers = Servers::parse(
            "# comment\nsearch a.b c\nnameserver 10.0.2.3\nnameserver x\nnameserver fec0::3\noptions ndots:5\n\
             nameserver 1.1.1.1\nnameserver 8.8.8.8\n",
        );
        let addresses: Vec<String> = servers.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.2.3:53", "[fec0::3]:53", "1.1.1.1:53"]);
        assert_eq!(servers.candidates("logs"), ["logs.a.b", "logs.c", "logs"]);
        assert_eq!(
            servers.candidates("logs.d"),
            ["logs.d", "logs.d.a.b", "logs.d.c"]
        );
        assert_eq!(servers.candidates("logs."), ["logs"]);
        assert_eq!(Servers::read(Path::new("/nowhere")), Servers::default());
    }

    #[test]
    fn no_file_can_break_the_reader() {
        let seed = b"# c\nsearch a.b c. .\nnameserver 10.0.2.3\nnameserver fec0::3%2\n";
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            let servers = Servers::parse(&String::from_utf8_lossy(bytes));
            assert!(servers.addresses.len() <= SERVERS_MAX && servers.search.len() <= SEARCH_MAX);
            assert!(servers.candidates("logs.d").len() <= 1 + SEARCH_MAX);
        });
    }
}
