//! What a server grants, checked: a lease that gets here can be put on an interface.

use std::net::Ipv4Addr;

use thiserror::Error;

use super::packet::{Reply, option};
use crate::net::resolv;

/// Shorter leases are refused: renewing them would be all that the machine does.
pub(crate) const LEASE_MIN: u32 = 10;
/// "For ever" (RFC 2131 section 3.3).
const INFINITE: u32 = u32::MAX;
/// Widest network that is believed: the widest that QEMU's user network can be, in which
/// the boot harness puts the far ends of a cloud.
const PREFIX_MIN: u8 = 4;
/// Smallest MTU that every IPv4 host must take (RFC 791), and the largest in use.
const MTU: std::ops::RangeInclusive<u16> = 576..=9216;
/// Most routes, name servers and search domains that are taken.
const ROUTES_MAX: usize = 16;
const DNS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;
const NTP_MAX: usize = 3;
/// Longest host name that the kernel takes.
const HOSTNAME_MAX: usize = 64;

/// Why an offer or an acknowledgement is of no use.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum LeaseError {
    /// yiaddr.
    #[error("address {0} is not one for a host")]
    Address(Ipv4Addr),
    /// Option 1.
    #[error("subnet mask {0} is not contiguous or wider than /{PREFIX_MIN}")]
    Mask(Ipv4Addr),
    /// Option 54.
    #[error("server identifier is missing or not an address for a host")]
    Server,
    /// Option 51.
    #[error("lease time {0} s is shorter than {LEASE_MIN} s")]
    Time(u32),
}

/// A route of option 121.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Network.
    pub(crate) destination: Ipv4Addr,
    /// Its length; 0 is the default route.
    pub(crate) prefix: u8,
    /// `None`: on the link itself.
    pub(crate) gateway: Option<Ipv4Addr>,
}

/// A checked lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Ours.
    pub(crate) address: Ipv4Addr,
    /// Length of the network's prefix.
    pub(crate) prefix: u8,
    /// Who granted it.
    pub(crate) server: Ipv4Addr,
    /// Seconds; `None` is for ever.
    pub(crate) seconds: Option<u32>,
    /// T1: seconds until it is to be renewed.
    pub(crate) renew: u32,
    /// T2: seconds until any server is asked.
    pub(crate) rebind: u32,
    /// Routes, the default route among them.
    pub(crate) routes: Vec<Route>,
    /// Name servers.
    pub(crate) dns: Vec<Ipv4Addr>,
    /// Search domains.
    pub(crate) search: Vec<String>,
    /// MTU of the link.
    pub(crate) mtu: Option<u16>,
    /// Time servers.
    pub(crate) ntp: Vec<Ipv4Addr>,
    /// The machine's name.
    pub(crate) hostname: Option<String>,
}

impl Lease {
    /// Checks an offer or an acknowledgement.
    ///
    /// # Errors
    /// [`LeaseError`] when the machine could not work with it; what is only odd
    /// (a router that is none, a garbled name) is left out.
    pub(crate) fn from_reply(reply: &Reply) -> Result<Lease, LeaseError> {
        let options = &reply.options;
        let address = reply.your;
        if !is_host(address) {
            return Err(LeaseError::Address(address));
        }
        let server = options
            .address(option::SERVER)
            .filter(|server| is_host(*server))
            .ok_or(LeaseError::Server)?;
        let prefix = match options.address(option::MASK) {
            Some(mask) => prefix_of(mask).ok_or(LeaseError::Mask(mask))?,
            None => class_prefix(address),
        };
        if is_edge(address, prefix) {
            return Err(LeaseError::Address(address));
        }
        let seconds = options.number(option::LEASE).unwrap_or(0);
        if seconds < LEASE_MIN {
            return Err(LeaseError::Time(seconds));
        }
        let (renew, rebind) = timers(
            seconds,
            options.number(option::RENEWAL),
            options.number(option::REBINDING),
        );
        let mut routes = classless(options.bytes(option::ROUTES).unwrap_or_default());
        if routes.is_empty() {
            let router = options.addresses(option::ROUTER, 1).first().copied();
            let router = router.filter(|router| is_host(*router) && *router != address);
            routes.extend(router.map(|router| Route {
                destination: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                gateway: Some(router),
            }));
        }
        let mut dns = options.addresses(option::DNS, DNS_MAX);
        dns.retain(|server| is_host(*server));
        let mut ntp = options.addresses(option::NTP, NTP_MAX);
        ntp.retain(|server| is_host(*server));
        let hostname = options.bytes(option::HOSTNAME).unwrap_or_default();
        let hostname = std::str::from_utf8(hostname).unwrap_or_default();
        let hostname = hostname.trim_end_matches(['\0', '.']);
        let named = resolv::is_domain(hostname) && hostname.len() <= HOSTNAME_MAX;
        Ok(Lease {
            address,
            prefix,
            server,
            seconds: (seconds != INFINITE).then_some(seconds),
            renew,
            rebind,
            routes,
            dns,
            search: search(options.bytes(option::SEARCH), options.bytes(option::DOMAIN)),
            mtu: options.short(option::MTU).filter(|mtu| MTU.contains(mtu)),
            ntp,
            hostname: named.then(|| hostname.to_owned()),
        })
    }

    /// `10.0.2.15/24`.
    pub(crate) fn text(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }

    /// Whether `other` lies in the lease's network.
    pub(crate) fn reaches(&self, other: Ipv4Addr) -> bool {
        let mask = mask_of(self.prefix);
        u32::from(self.address) & mask == u32::from(other) & mask
    }

    /// The network's broadcast address; none for point-to-point networks.
    pub(crate) fn broadcast(&self) -> Option<Ipv4Addr> {
        (self.prefix <= 30).then(|| Ipv4Addr::from(u32::from(self.address) | !mask_of(self.prefix)))
    }
}

/// An address that one host can have: not 0/8, loopback, multicast, reserved or broadcast.
fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    (1..=223).contains(&first) && first != 127
}

fn mask_of(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let mask = u32::from(mask);
    let prefix = mask.leading_ones() as u8;
    (mask_of(prefix) == mask && prefix >= PREFIX_MIN).then_some(prefix)
}

/// Without a mask the old classes hold (RFC 2131 section 3.5 leaves it to the host).
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

/// The first and the last address of a network belong to no host.
fn is_edge(address: Ipv4Addr, prefix: u8) -> bool {
    let host = !mask_of(prefix);
    let own = u32::from(address) & host;
    prefix <= 30 && (own == 0 || own == host)
}

/// T1 and T2: the server's if they make sense, else a half and seven eighths (RFC 2131 section 4.4.5).
fn timers(lease: u32, renew: Option<u32>, rebind: Option<u32>) -> (u32, u32) {
    match (renew, rebind) {
        (Some(renew), Some(rebind)) if 0 < renew && renew < rebind && rebind < lease => {
            (renew, rebind)
        }
        _ => (lease / 2, lease - lease / 8),
    }
}

/// Option 121 (RFC 3442): prefix length, the significant octets, router. A garbled list is no list.
fn classless(mut bytes: &[u8]) -> Vec<Route> {
    let mut routes = Vec::new();
    while let [prefix, rest @ ..] = bytes {
        let significant = usize::from(prefix.div_ceil(8));
        if *prefix > 32 || rest.len() < significant + 4 || routes.len() == ROUTES_MAX {
            return Vec::new();
        }
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(&rest[..significant]);
        let gateway = &rest[significant..significant + 4];
        let gateway = Ipv4Addr::new(gateway[0], gateway[1], gateway[2], gateway[3]);
        let destination = Ipv4Addr::from(u32::from_be_bytes(octets) & mask_of(*prefix));
        let on_link = gateway.is_unspecified();
        if (*prefix == 0 || is_host(destination)) && (on_link || is_host(gateway)) {
            routes.push(Route {
                destination,
                prefix: *prefix,
                gateway: (!on_link).then_some(gateway),
            });
        }
        bytes = &rest[significant + 4..];
    }
    routes
}

fn search(list: Option<&[u8]>, domain: Option<&[u8]>) -> Vec<String> {
    let mut names = list.map(domains).unwrap_or_default();
    if names.is_empty() {
        let text = domain
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default();
        names.push(text.trim_end_matches(['\0', '.']).to_owned());
    }
    names.retain(|name| resolv::is_domain(name));
    names.truncate(SEARCH_MAX);
    names
}

/// Option 119 (RFC 3397): names as in DNS, with pointers back (RFC 1035 section 4.1.4).
/// A pointer must go to an earlier place than the one before, so no list can run in circles.
fn domains(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut next = 0;
    while next < bytes.len() && names.len() < SEARCH_MAX {
        let mut name = String::new();
        let (mut at, mut floor, mut jumped) = (next, next, false);
        loop {
            match bytes.get(at) {
                Some(0) => {
                    if !jumped {
                        next = at + 1;
                    }
                    break;
                }
                Some(&length) if length < 64 => {
                    let Some(label) = bytes.get(at + 1..at + 1 + usize::from(length)) else {
                        return names;
                    };
                    if !name.is_empty() {
                        name.push('.');
                    }
                    name.push_str(&String::from_utf8_lossy(label));
                    at += 1 + usize::from(length);
                }
                Some(&high) if high >= 0xc0 => {
                    let Some(&low) = bytes.get(at + 1) else {
                        return names;
                    };
                    if !jumped {
                        next = at + 2;
                        jumped = true;
                    }
                    at = usize::from(high & 0x3f) << 8 | usize::from(low);
                    if at >= floor {
                        return names;
                    }
                    floor = at;
                }
                _ => return names,
            }
            if name.len() > resolv::DOMAIN_MAX {
                return names;
            }
        }
        names.push(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::packet::Kind;
    use super::super::packet::testing::reply;
    use super::*;

    const SERVER: (u8, &[u8]) = (option::SERVER, &[10, 0, 2, 2]);
    const HOUR: (u8, &[u8]) = (option::LEASE, &[0, 0, 0x0e, 0x10]);
    const MASK: (u8, &[u8]) = (option::MASK, &[255, 255, 255, 0]);

    fn lease(your: [u8; 4], options: &[(u8, &[u8])]) -> Result<Lease, LeaseError> {
        Lease::from_reply(&Reply::parse(&reply(Kind::Ack, 1, your, options)).expect("a reply"))
    }

    #[test]
    fn an_ordinary_lease() {
        let options = [
            SERVER,
            HOUR,
            MASK,
            (option::ROUTER, &[10, 0, 2, 2]),
            (
                option::DNS,
                &[10, 0, 2, 3, 0, 0, 0, 0, 127, 0, 0, 1, 8, 8, 8, 8],
            ),
            (option::DOMAIN, b"example.org\0"),
            (option::MTU, &[0x05, 0xb4]),
            (option::NTP, &[10, 0, 2, 9, 0, 0, 0, 0]),
            (option::HOSTNAME, b"web-1\0"),
        ];
        let got = lease([10, 0, 2, 15], &options).expect("a lease");
        let expected = Lease {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            server: Ipv4Addr::new(10, 0, 2, 2),
            seconds: Some(3600),
            renew: 1800,
            rebind: 3150,
            routes: vec![Route {
                destination: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            }],
            dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
            search: vec!["example.org".into()],
            mtu: Some(1460),
            ntp: vec![Ipv4Addr::new(10, 0, 2, 9)],
            hostname: Some("web-1".into()),
        };
        assert_eq!(got, expected);
        assert_eq!(got.text(), "10.0.2.15/24");
        assert_eq!(got.broadcast(), Some(Ipv4Addr::new(10, 0, 2, 255)));
        assert!(
            got.reaches(Ipv4Addr::new(10, 0, 2, 200)) && !got.reaches(Ipv4Addr::new(10, 0, 3, 2))
        );
    }

    #[test]
    fn useless_leases_are_refused() {
        for your in [
            [0, 0, 0, 0],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [255; 4],
            [240, 0, 0, 1],
            [10, 0, 2, 0],
            [10, 0, 2, 255],
        ] {
            assert_eq!(
                lease(your, &[SERVER, HOUR, MASK]),
                Err(LeaseError::Address(your.into()))
            );
        }
        for mask in [
            [0, 0, 0, 0],
            [255, 0, 255, 0],
            [224, 0, 0, 0],
            [0, 255, 255, 255],
        ] {
            let got = lease([10, 0, 2, 15], &[SERVER, HOUR, (option::MASK, &mask)]);
            assert_eq!(got, Err(LeaseError::Mask(mask.into())));
        }
        for seconds in [0_u32, 1, 9] {
            let time = seconds.to_be_bytes();
            assert_eq!(
                lease([10, 0, 2, 15], &[SERVER, MASK, (option::LEASE, &time)]),
                Err(LeaseError::Time(seconds))
            );
        }
        assert_eq!(
            lease([10, 0, 2, 15], &[SERVER, MASK]),
            Err(LeaseError::Time(0))
        );
        assert_eq!(
            lease([10, 0, 2, 15], &[HOUR, MASK]),
            Err(LeaseError::Server)
        );
        assert_eq!(
            lease([10, 0, 2, 15], &[HOUR, MASK, (option::SERVER, &[0; 4])]),
            Err(LeaseError::Server)
        );
    }

    #[test]
    fn masks_and_classes() {
        let prefix = |your, mask: Option<[u8; 4]>| {
            let mask = mask.unwrap_or_default();
            let options = [SERVER, HOUR, (option::MASK, &mask[..])];
            let count = if mask == [0; 4] { 2 } else { 3 };
            lease(your, &options[..count]).map(|lease| lease.prefix)
        };
        assert_eq!(prefix([10, 1, 2, 3], None), Ok(8));
        assert_eq!(prefix([172, 16, 2, 3], None), Ok(16));
        assert_eq!(prefix([192, 168, 2, 3], None), Ok(24));
        assert_eq!(
            prefix([10, 1, 2, 3], Some([255; 4])),
            Ok(32),
            "as Google's cloud does"
        );
        assert_eq!(prefix([10, 1, 2, 2], Some([255, 255, 255, 254])), Ok(31));
    }

    #[test]
    fn timers_that_make_no_sense_are_replaced() {
        for (renew, rebind, expected) in [
            (Some(100), Some(200), (100, 200)),
            (Some(200), Some(100), (500, 875)),
            (Some(0), Some(100), (500, 875)),
            (Some(100), Some(1000), (500, 875)),
            (Some(100), None, (500, 875)),
            (None, None, (500, 875)),
        ] {
            assert_eq!(timers(1000, renew, rebind), expected);
        }
        assert_eq!(
            lease([10, 0, 2, 15], &[SERVER, MASK, (option::LEASE, &[255; 4])])
                .expect("for ever")
                .seconds,
            None
        );
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let list = [
            32, 10, 128, 0, 1, 0, 0, 0, 0, 0, 10, 128, 0, 1, 9, 172, 255, 10, 128, 0, 9,
        ];
        let options = [
            SERVER,
            HOUR,
            (option::MASK, &[255; 4][..]),
            (option::ROUTES, &list),
            (option::ROUTER, &[9; 4]),
        ];
        let got = lease([10, 128, 0, 7], &options).expect("a lease");
        let gateway = Some(Ipv4Addr::new(10, 128, 0, 1));
        let expected = [
            Route {
                destination: Ipv4Addr::new(10, 128, 0, 1),
                prefix: 32,
                gateway: None,
            },
            Route {
                destination: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                gateway,
            },
            Route {
                destination: Ipv4Addr::new(172, 128, 0, 0),
                prefix: 9,
                gateway: Some(Ipv4Addr::new(10, 128, 0, 9)),
            },
        ];
        assert_eq!(got.routes, expected);
        for hostile in [
            &[33, 1, 2, 3, 4, 5, 6, 7, 8][..],
            &[24, 1, 2],
            &[0],
            &[8, 127, 10, 0, 2, 2],
            &[4, 224, 10, 0, 2, 2],
        ] {
            assert_eq!(classless(hostile), [], "{hostile:?}");
        }
        assert_eq!(classless(&[0, 10, 0, 2, 2].repeat(ROUTES_MAX + 1)), []);
    }

    #[test]
    fn search_lists() {
        // The example of RFC 3397.
        let mut list = b"\x03eng\x05apple\x03com\x00\x09marketing".to_vec();
        list.extend_from_slice(&[0xc0, 0x04]);
        assert_eq!(
            search(Some(&list), Some(b"other.org")),
            ["eng.apple.com", "marketing.apple.com"]
        );
        assert_eq!(search(None, Some(b"a.b.")), ["a.b"]);
        for hostile in [
            &b"\xc0\x00"[..],
            b"\x01a\xc0\x00",
            b"\x3fabc",
            b"\xff\xff",
            b"\x40",
            b"\x01\n\x00",
            b"\xc0",
        ] {
            assert_eq!(
                search(Some(hostile), Some(b"ev il\n")),
                [""; 0],
                "{hostile:?}"
            );
        }
    }
}
