//! DHCP messages (RFC 2131 section 2, options RFC 2132; long options RFC 3396).
//!
//! ```text
//! 0 op  1 htype  2 hlen  3 hops  4 xid  8 secs  10 flags  12 ciaddr  16 yiaddr
//! 20 siaddr  24 giaddr  28 chaddr  44 sname(64)  108 file(128)  236 cookie  240 options
//! ```
//!
//! A reply is a stranger's: it is bounded by its datagram, nothing in it is followed
//! or repeated, and what an option means is checked where it is used.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use thiserror::Error;

/// Longest datagram that is read or announced: an Ethernet frame's.
pub(crate) const DATAGRAM_MAX: usize = 1500;
/// Where options begin.
const HEADER: usize = 240;
/// Shortest message that every relay passes on (RFC 1542 section 2.1).
const MESSAGE_MIN: usize = 300;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// Option numbers (IANA, RFC 2132 unless said otherwise).
pub(crate) mod option {
    pub(crate) const PAD: u8 = 0;
    pub(crate) const MASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const DNS: u8 = 6;
    pub(crate) const HOSTNAME: u8 = 12;
    pub(crate) const DOMAIN: u8 = 15;
    pub(crate) const MTU: u8 = 26;
    pub(crate) const NTP: u8 = 42;
    pub(crate) const REQUESTED: u8 = 50;
    pub(crate) const LEASE: u8 = 51;
    pub(crate) const OVERLOAD: u8 = 52;
    pub(crate) const KIND: u8 = 53;
    pub(crate) const SERVER: u8 = 54;
    pub(crate) const WANTED: u8 = 55;
    pub(crate) const MAX_SIZE: u8 = 57;
    pub(crate) const RENEWAL: u8 = 58;
    pub(crate) const REBINDING: u8 = 59;
    /// RFC 3397.
    pub(crate) const SEARCH: u8 = 119;
    /// RFC 3442.
    pub(crate) const ROUTES: u8 = 121;
    pub(crate) const END: u8 = 255;
}

/// What is asked for; classless routes before the router, as RFC 3442 wants.
const WANTED: [u8; 12] = [
    option::MASK,
    option::ROUTES,
    option::ROUTER,
    option::DNS,
    option::DOMAIN,
    option::SEARCH,
    option::MTU,
    option::NTP,
    option::HOSTNAME,
    option::LEASE,
    option::RENEWAL,
    option::REBINDING,
];

/// Why a datagram is no reply.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum PacketError {
    /// Too short, or not for Ethernet, or no DHCP at all.
    #[error("no DHCP reply: {0}")]
    Header(&'static str),
    /// An option says that it is longer than what is left.
    #[error("option {code} runs past the end of its field")]
    Option {
        /// Its number.
        code: u8,
    },
}

/// Message type (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Who has an address?
    Discover = 1,
    /// A server has.
    Offer = 2,
    /// I take it, or keep it.
    Request = 3,
    /// Somebody else has it.
    Decline = 4,
    /// It is yours.
    Ack = 5,
    /// It is not.
    Nak = 6,
}

/// Options by number; parts of one option are joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// The bytes of an option.
    pub(crate) fn bytes(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    /// A number of four bytes.
    pub(crate) fn number(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(code)?.try_into().ok()?))
    }

    /// A number of two bytes.
    pub(crate) fn short(&self, code: u8) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(code)?.try_into().ok()?))
    }

    /// The first addresses of a list, at most `limit`.
    pub(crate) fn addresses(&self, code: u8, limit: usize) -> Vec<Ipv4Addr> {
        let bytes = self.bytes(code).unwrap_or_default();
        bytes
            .chunks_exact(4)
            .take(limit)
            .map(|part| Ipv4Addr::new(part[0], part[1], part[2], part[3]))
            .collect()
    }

    /// One address.
    pub(crate) fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.number(code).map(Ipv4Addr::from)
    }

    fn read(&mut self, field: &[u8]) -> Result<(), PacketError> {
        let mut rest = field;
        while let [code, after @ ..] = rest {
            match *code {
                option::PAD => rest = after,
                option::END => break,
                code => {
                    let Some((&length, after)) = after.split_first() else {
                        return Err(PacketError::Option { code });
                    };
                    let Some((value, after)) = after.split_at_checked(usize::from(length)) else {
                        return Err(PacketError::Option { code });
                    };
                    self.0.entry(code).or_default().extend_from_slice(value);
                    rest = after;
                }
            }
        }
        Ok(())
    }
}

/// A message of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// What it says.
    pub(crate) kind: Kind,
    /// To which question.
    pub(crate) xid: u32,
    /// To whom.
    pub(crate) mac: [u8; 6],
    /// `yiaddr`: the client's address.
    pub(crate) your: Ipv4Addr,
    /// All options.
    pub(crate) options: Options,
}

impl Reply {
    /// Reads the payload of a datagram.
    ///
    /// # Errors
    /// [`PacketError`] for anything that is not a whole reply of a DHCP server over Ethernet.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Reply, PacketError> {
        if bytes.len() < HEADER || bytes.len() > DATAGRAM_MAX {
            return Err(PacketError::Header("its size"));
        }
        if bytes[..3] != [2, 1, 6] {
            return Err(PacketError::Header("op, htype and hlen must be 2, 1 and 6"));
        }
        if bytes[236..HEADER] != COOKIE {
            return Err(PacketError::Header("its magic cookie"));
        }
        let mut options = Options::default();
        options.read(&bytes[HEADER..])?;
        // Overload: the two old fields hold options, too, file first (RFC 2131 section 4.1).
        let overload = options
            .bytes(option::OVERLOAD)
            .and_then(|value| value.first().copied())
            .unwrap_or(0);
        if overload & 1 != 0 {
            options.read(&bytes[FILE])?;
        }
        if overload & 2 != 0 {
            options.read(&bytes[SNAME])?;
        }
        let kind = match options.bytes(option::KIND) {
            Some([2]) => Kind::Offer,
            Some([5]) => Kind::Ack,
            Some([6]) => Kind::Nak,
            _ => return Err(PacketError::Header("option 53 must say offer, ack or nak")),
        };
        let mut mac = [0; 6];
        mac.copy_from_slice(&bytes[28..34]);
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Ok(Reply {
            kind,
            xid: word(4),
            mac,
            your: Ipv4Addr::from(word(16)),
            options,
        })
    }
}

/// A message of ours.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    /// Discover, request or decline.
    pub(crate) kind: Kind,
    /// Which the answer must repeat.
    pub(crate) xid: u32,
    /// Seconds since the client began to ask.
    pub(crate) secs: u16,
    /// Who asks.
    pub(crate) mac: [u8; 6],
    /// `ciaddr`: the address in use, when it is to be kept.
    pub(crate) client: Option<Ipv4Addr>,
    /// Option 50.
    pub(crate) requested: Option<Ipv4Addr>,
    /// Option 54.
    pub(crate) server: Option<Ipv4Addr>,
    /// Option 12; nothing if it is no host name.
    pub(crate) hostname: &'a str,
}

impl Question<'_> {
    /// The payload of the datagram.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.secs.to_be_bytes());
        if let Some(client) = self.client {
            bytes[12..16].copy_from_slice(&client.octets());
        }
        bytes[28..34].copy_from_slice(&self.mac);
        bytes[236..HEADER].copy_from_slice(&COOKIE);
        let mut add = |code: u8, value: &[u8]| {
            bytes.push(code);
            bytes.push(value.len() as u8);
            bytes.extend_from_slice(value);
        };
        add(option::KIND, &[self.kind as u8]);
        if let Some(requested) = self.requested {
            add(option::REQUESTED, &requested.octets());
        }
        if let Some(server) = self.server {
            add(option::SERVER, &server.octets());
        }
        // Of a decline nobody waits for an answer (RFC 2131 section 4.4.1, table 5).
        if self.kind != Kind::Decline {
            add(option::MAX_SIZE, &(DATAGRAM_MAX as u16).to_be_bytes());
            if crate::net::resolv::is_domain(self.hostname) {
                add(option::HOSTNAME, self.hostname.as_bytes());
            }
            add(option::WANTED, &WANTED);
        }
        bytes.push(option::END);
        bytes.resize(bytes.len().max(MESSAGE_MIN), 0);
        bytes
    }
}

/// Replies for the tests of this folder.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    /// A reply with these options.
    pub(crate) fn reply(kind: Kind, xid: u32, your: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&xid.to_be_bytes());
        bytes[16..20].copy_from_slice(&your);
        bytes[28..34].copy_from_slice(&MAC);
        bytes[236..HEADER].copy_from_slice(&COOKIE);
        bytes.extend_from_slice(&[option::KIND, 1, kind as u8]);
        for (code, value) in options {
            bytes.extend_from_slice(&[*code, value.len() as u8]);
            bytes.extend_from_slice(value);
        }
        bytes.push(option::END);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{MAC, reply};
    use super::*;

    #[test]
    fn a_discover_byte_for_byte() {
        let question = Question {
            kind: Kind::Discover,
            xid: 0x0102_0304,
            secs: 5,
            mac: MAC,
            client: None,
            requested: None,
            server: None,
            hostname: "hello",
        };
        let bytes = question.build();
        let mut expected = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 5, 0, 0];
        expected.resize(28, 0);
        expected.extend_from_slice(&MAC);
        expected.resize(236, 0);
        expected.extend_from_slice(&COOKIE);
        expected.extend_from_slice(&[53, 1, 1, 57, 2, 0x05, 0xdc, 12, 5]);
        expected.extend_from_slice(b"hello");
        expected.extend_from_slice(&[55, 12, 1, 121, 3, 6, 15, 119, 26, 42, 12, 51, 58, 59, 255]);
        expected.resize(300, 0);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_request_names_address_and_server_but_no_hostile_hostname() {
        let long = "x".repeat(300);
        for hostname in ["", "a b", "-x", "a\nb", &long] {
            let question = Question {
                kind: Kind::Request,
                xid: 1,
                secs: 0,
                mac: MAC,
                client: Some(Ipv4Addr::new(10, 0, 2, 15)),
                requested: Some(Ipv4Addr::new(10, 0, 2, 16)),
                server: Some(Ipv4Addr::new(10, 0, 2, 2)),
                hostname,
            };
            let bytes = question.build();
            assert_eq!(bytes[12..16], [10, 0, 2, 15]);
            assert_eq!(
                bytes[240..255],
                [53, 1, 3, 50, 4, 10, 0, 2, 16, 54, 4, 10, 0, 2, 2]
            );
            assert_eq!(bytes[255..260], [57, 2, 0x05, 0xdc, 55], "{hostname:?}");
        }
    }

    #[test]
    fn a_reply_is_read() {
        let bytes = reply(
            Kind::Ack,
            7,
            [10, 0, 2, 15],
            &[(option::DNS, &[10, 0, 2, 3, 10, 0, 2, 4, 9])],
        );
        let got = Reply::parse(&bytes).expect("a reply");
        assert_eq!(
            (got.kind, got.xid, got.mac, got.your),
            (Kind::Ack, 7, MAC, Ipv4Addr::new(10, 0, 2, 15))
        );
        assert_eq!(
            got.options.addresses(option::DNS, 3),
            [Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(10, 0, 2, 4)]
        );
        assert_eq!(got.options.addresses(option::DNS, 1).len(), 1);
        assert_eq!(got.options.number(option::DNS), None);
    }

    #[test]
    fn parts_of_an_option_are_joined_also_from_overloaded_fields() {
        let mut bytes = reply(
            Kind::Offer,
            7,
            [10, 0, 2, 15],
            &[(option::OVERLOAD, &[3]), (option::DOMAIN, b"a.")],
        );
        bytes[108..114].copy_from_slice(&[option::DOMAIN, 2, b'b', b'.', option::PAD, option::END]);
        bytes[44..48].copy_from_slice(&[option::DOMAIN, 1, b'c', option::END]);
        let got = Reply::parse(&bytes).expect("a reply");
        assert_eq!(got.options.bytes(option::DOMAIN), Some(&b"a.b.c"[..]));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let good = reply(Kind::Offer, 7, [10, 0, 2, 15], &[]);
        let patched = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Reply::parse(&bytes)
        };
        assert!(patched(0, 1).is_err(), "a question");
        assert!(patched(1, 6).is_err(), "not Ethernet");
        assert!(patched(2, 16).is_err(), "a longer address");
        assert!(patched(236, 0).is_err(), "plain BOOTP");
        assert!(patched(242, 1).is_err(), "a discover");
        assert_eq!(
            patched(241, 200),
            Err(PacketError::Option { code: option::KIND })
        );
        assert!(Reply::parse(&good[..HEADER]).is_err(), "no message type");
        assert!(Reply::parse(&good[..239]).is_err());
        assert!(Reply::parse(&[]).is_err());
        let mut long = good.clone();
        long.resize(DATAGRAM_MAX + 1, 0);
        assert!(Reply::parse(&long).is_err());
        let mut without_end = good[..good.len() - 1].to_vec();
        assert!(
            Reply::parse(&without_end).is_ok(),
            "some servers forget the end"
        );
        without_end.push(option::DNS);
        assert_eq!(
            Reply::parse(&without_end),
            Err(PacketError::Option { code: option::DNS })
        );
    }
}
