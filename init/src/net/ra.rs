//! Router advertisements (RFC 4861 section 4.2): the kernel makes addresses and routes of
//! them, the name servers (RFC 8106: RDNSS, DNSSL) are for us.
//!
//! ```text
//! 0 type 134  1 code 0  2 checksum  4 hop limit  5 flags  6 lifetime  8, 12 timers  16 options
//! option       0 type  1 length in 8 bytes  2 reserved  4 lifetime u32  8 addresses or names
//! ```

use std::net::Ipv6Addr;
use std::time::Duration;

use super::dhcp6::Wanted;
use super::resolv::is_domain;

const ADVERTISEMENT: u8 = 134;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;
/// Whoever is not on the link cannot send with this hop limit.
const HOPS: u8 = 255;
/// "For ever".
const INFINITE: u32 = u32::MAX;
/// Servers and domains that are kept of all routers together.
const KEPT_MAX: usize = 16;
/// Of one advertisement.
const PARTS_MAX: usize = 8;

/// What an advertisement says of names, with lifetimes in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advertisement {
    /// What DHCPv6 servers of the link are good for.
    pub(crate) wanted: Wanted,
    servers: Vec<(Ipv6Addr, u32)>,
    search: Vec<(String, u32)>,
}

/// Reads one that came from `source` with `hops` left; `None` if it is none, or a stranger's.
pub(crate) fn parse(bytes: &[u8], source: Ipv6Addr, hops: u8) -> Option<Advertisement> {
    if hops != HOPS || !is_link_local(source) || bytes.get(..2)? != [ADVERTISEMENT, 0] {
        return None;
    }
    let mut rest = bytes.get(16..)?;
    let wanted = match bytes.get(5)? {
        flags if flags & MANAGED != 0 => Wanted::Addresses,
        flags if flags & OTHER != 0 => Wanted::Names,
        _ => Wanted::Nothing,
    };
    let mut found = Advertisement {
        wanted,
        servers: Vec::new(),
        search: Vec::new(),
    };
    while let [kind, length, ..] = *rest {
        // A length of nothing makes the whole packet invalid.
        let length = usize::from(length) * 8;
        let option = rest.get(..length).filter(|option| !option.is_empty())?;
        rest = &rest[length..];
        let Some(lifetime) = option.get(4..8).and_then(|four| four.try_into().ok()) else {
            continue;
        };
        let lifetime = u32::from_be_bytes(lifetime);
        let body = option.get(8..).unwrap_or_default();
        match kind {
            RDNSS => {
                let addresses = body
                    .chunks_exact(16)
                    .filter_map(|part| part.try_into().ok());
                let addresses = addresses.map(|octets: [u8; 16]| Ipv6Addr::from(octets));
                let usable = addresses
                    .filter(|a| !a.is_unspecified() && !a.is_multicast() && !a.is_loopback());
                found
                    .servers
                    .extend(usable.map(|address| (address, lifetime)));
            }
            DNSSL => found
                .search
                .extend(domains(body).map(|name| (name, lifetime))),
            _ => {}
        }
    }
    found.servers.truncate(PARTS_MAX);
    found.search.truncate(PARTS_MAX);
    Some(found)
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// Names as labels with lengths, without pointers (RFC 8106 section 5.2), zeros behind.
pub(crate) fn domains(body: &[u8]) -> impl Iterator<Item = String> {
    let mut rest = body;
    let mut names = Vec::new();
    let mut name = String::new();
    while let Some((&length, after)) = rest.split_first() {
        if length == 0 {
            if name.is_empty() {
                break;
            }
            names.push(std::mem::take(&mut name));
            rest = after;
            continue;
        }
        let Some((label, after)) = after.split_at_checked(usize::from(length)) else {
            break;
        };
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(label));
        rest = after;
    }
    names.into_iter().filter(|name| is_domain(name))
}

/// Names of all links, until their lifetimes are over.
#[derive(Debug, Default)]
pub(crate) struct Names {
    servers: Vec<Kept<Ipv6Addr>>,
    search: Vec<Kept<String>>,
}

#[derive(Debug)]
struct Kept<T> {
    index: u32,
    what: T,
    until: Option<Duration>,
}

fn keep<T: PartialEq>(all: &mut Vec<Kept<T>>, index: u32, what: T, lifetime: u32, now: Duration) {
    all.retain(|kept| kept.index != index || kept.what != what);
    if lifetime == 0 || all.len() >= KEPT_MAX {
        return;
    }
    let until = now.saturating_add(Duration::from_secs(lifetime.into()));
    all.push(Kept {
        index,
        what,
        until: (lifetime != INFINITE).then_some(until),
    });
    // The order is that of the first advertisement, whatever is renewed.
    all.sort_by_key(|kept| kept.index);
}

impl Names {
    /// Takes over what was advertised on a link.
    pub(crate) fn add(&mut self, index: u32, advertised: Advertisement, now: Duration) {
        for (server, lifetime) in advertised.servers {
            keep(&mut self.servers, index, server, lifetime, now);
        }
        for (name, lifetime) in advertised.search {
            keep(&mut self.search, index, name, lifetime, now);
        }
    }

    /// Forgets what is over, and what came over links that are not `alive`.
    pub(crate) fn expire(&mut self, now: Duration, alive: impl Fn(u32) -> bool) {
        let stays = |index: u32, until: Option<Duration>| {
            alive(index) && until.is_none_or(|until| until > now)
        };
        self.servers.retain(|kept| stays(kept.index, kept.until));
        self.search.retain(|kept| stays(kept.index, kept.until));
    }

    /// When the next is over.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let servers = self.servers.iter().filter_map(|kept| kept.until);
        servers
            .chain(self.search.iter().filter_map(|kept| kept.until))
            .min()
    }

    /// Servers, each with the index of its link.
    pub(crate) fn servers(&self) -> impl Iterator<Item = (u32, Ipv6Addr)> {
        self.servers.iter().map(|kept| (kept.index, kept.what))
    }

    /// Search domains.
    pub(crate) fn search(&self) -> impl Iterator<Item = &str> {
        self.search.iter().map(|kept| kept.what.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const DNS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x53);

    fn packet(lifetime: u32) -> Vec<u8> {
        let mut bytes = vec![134, 0, 0, 0, 64, 0x40, 7, 8];
        bytes.extend([0; 8]);
        // Source link-layer address.
        bytes.extend([1, 1, 2, 0, 0, 0, 0, 1]);
        bytes.extend([25, 3, 0, 0]);
        bytes.extend(lifetime.to_be_bytes());
        bytes.extend(DNS.octets());
        bytes.extend([31, 4, 0, 0]);
        bytes.extend(lifetime.to_be_bytes());
        bytes.extend(b"\x07example\x03org\0\x01b\x02cd\0\0\0\0\0\0\0");
        bytes
    }

    #[test]
    fn name_servers_and_domains_are_read() {
        let found = parse(&packet(600), ROUTER, 255).unwrap();
        assert_eq!(found.servers, [(DNS, 600)]);
        assert_eq!(found.wanted, Wanted::Names);
        let mut managed = packet(600);
        managed[5] = 0xc0;
        let managed = parse(&managed, ROUTER, 255).unwrap();
        assert_eq!(managed.wanted, Wanted::Addresses);
        assert_eq!(
            found.search,
            [("example.org".to_owned(), 600), ("b.cd".to_owned(), 600)]
        );
    }

    #[test]
    fn strangers_and_garbled_ones_are_not() {
        assert_eq!(parse(&packet(600), ROUTER, 254), None);
        assert_eq!(parse(&packet(600), DNS, 255), None);
        let mut other = packet(600);
        other[0] = 136;
        assert_eq!(parse(&other, ROUTER, 255), None);
        let mut empty = packet(600);
        empty[17] = 0;
        assert_eq!(parse(&empty, ROUTER, 255), None);
        for cut in 0..packet(1).len() {
            parse(&packet(1)[..cut], ROUTER, 255);
        }
        fuzz(&[&packet(600)], |bytes, _| {
            if let Some(found) = parse(bytes, ROUTER, 255) {
                assert!(found.servers.len() <= PARTS_MAX && found.search.len() <= PARTS_MAX);
                assert!(found.search.iter().all(|(name, _)| is_domain(name)));
            }
        });
    }

    #[test]
    fn names_live_as_long_as_they_are_advertised() {
        let second = Duration::from_secs;
        let mut names = Names::default();
        names.add(2, parse(&packet(600), ROUTER, 255).unwrap(), second(0));
        names.add(2, parse(&packet(900), ROUTER, 255).unwrap(), second(100));
        assert_eq!(names.servers().collect::<Vec<_>>(), [(2, DNS)]);
        assert_eq!(names.deadline(), Some(second(1000)));
        names.expire(second(999), |_| true);
        assert_eq!(names.search().count(), 2);
        names.expire(second(1000), |_| true);
        assert_eq!((names.search().count(), names.deadline()), (0, None));
        names.add(3, parse(&packet(u32::MAX), ROUTER, 255).unwrap(), second(0));
        assert_eq!((names.servers().count(), names.deadline()), (1, None));
        names.add(3, parse(&packet(0), ROUTER, 255).unwrap(), second(0));
        assert_eq!(names.servers().count(), 0);
        for index in 0..100 {
            names.add(index, parse(&packet(9), ROUTER, 255).unwrap(), second(0));
        }
        assert_eq!(names.servers().count(), KEPT_MAX);
        names.expire(second(1), |index| index == 5);
        assert_eq!(names.servers().count(), 1);
    }
}
