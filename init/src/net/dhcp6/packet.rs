//! DHCPv6 messages (RFC 8415 sections 8 and 21; name servers RFC 3646), as far as a host
//! with one address wants them.
//!
//! ```text
//! message  type u8, transaction 24 bits, options      option  code u16, length u16, value
//! IA_NA    IAID u32, T1 u32, T2 u32, options           IAADDR  address, preferred u32, valid u32, options
//! ```

use std::net::Ipv6Addr;

/// Longest datagram that is read.
pub(crate) const DATAGRAM_MAX: usize = 1500;
/// Addresses, servers and domains that are taken.
const PARTS_MAX: usize = 4;
/// Longest identifier of a server.
const DUID_MAX: usize = 130;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const WANTED: u16 = 6;
const ELAPSED: u16 = 8;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS: u16 = 23;
const SEARCH: u16 = 24;
const REFRESH: u16 = 32;

/// Message types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Who has an address?
    Solicit = 1,
    /// A server has.
    Advertise = 2,
    /// I take it.
    Request = 3,
    /// Is it still mine, server?
    Renew = 5,
    /// Is it still mine, anybody?
    Rebind = 6,
    /// It is.
    Reply = 7,
    /// Somebody else has it.
    Decline = 9,
    /// Tell me names alone.
    Inform = 11,
}

/// An address that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    /// The address.
    pub(crate) address: Ipv6Addr,
    /// Seconds that it may be used.
    pub(crate) valid: u32,
}

/// A server's message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// It is an advertisement, nothing is granted yet.
    pub(crate) advertises: bool,
    pub(crate) xid: u32,
    pub(crate) server: Vec<u8>,
    pub(crate) rapid: bool,
    /// T1 and T2 of our identity association.
    pub(crate) timers: (u32, u32),
    pub(crate) addresses: Vec<Granted>,
    pub(crate) dns: Vec<Ipv6Addr>,
    pub(crate) search: Vec<String>,
    /// Seconds after which names are to be asked for again.
    pub(crate) refresh: Option<u32>,
}

impl Reply {
    /// Reads a message for the client `duid` and its association `iaid`; `None` for
    /// anybody else's, and for what is garbled or says that it failed.
    pub(crate) fn parse(bytes: &[u8], duid: &[u8], iaid: u32) -> Option<Reply> {
        let [kind, x, y, z, options @ ..] = bytes else {
            return None;
        };
        let mut reply = Reply {
            advertises: *kind == Kind::Advertise as u8,
            xid: u32::from_be_bytes([0, *x, *y, *z]),
            ..Reply::default()
        };
        if !reply.advertises && *kind != Kind::Reply as u8 {
            return None;
        }
        let mut ours = false;
        for option in Options(options) {
            let (code, value) = option?;
            match code {
                CLIENT_ID => ours = value == duid,
                SERVER_ID if (1..=DUID_MAX).contains(&value.len()) => reply.server = value.to_vec(),
                STATUS if !succeeded(value) => return None,
                RAPID_COMMIT => reply.rapid = true,
                IA_NA if number(value, 0) == Some(iaid) => reply.association(value)?,
                DNS => reply.dns = addresses(value),
                SEARCH => reply.search = crate::net::ra::domains(value).take(PARTS_MAX).collect(),
                REFRESH => reply.refresh = number(value, 0),
                _ => {}
            }
        }
        (ours && !reply.server.is_empty()).then_some(reply)
    }

    fn association(&mut self, value: &[u8]) -> Option<()> {
        self.timers = (number(value, 4)?, number(value, 8)?);
        for option in Options(value.get(12..)?) {
            match option? {
                (STATUS, value) if !succeeded(value) => self.addresses.clear(),
                (IA_ADDRESS, value) => {
                    let octets: [u8; 16] = value.get(..16)?.try_into().ok()?;
                    let address = Ipv6Addr::from(octets);
                    let (preferred, valid) = (number(value, 16)?, number(value, 20)?);
                    // RFC 8415 section 21.6: such an address is passed over.
                    let fits = preferred <= valid && is_host(address);
                    if fits && self.addresses.len() < PARTS_MAX {
                        self.addresses.push(Granted { address, valid });
                    }
                }
                _ => {}
            }
        }
        Some(())
    }
}

fn is_host(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

fn addresses(value: &[u8]) -> Vec<Ipv6Addr> {
    let parts = value
        .chunks_exact(16)
        .filter_map(|part| part.try_into().ok());
    let all = parts.map(|octets: [u8; 16]| Ipv6Addr::from(octets));
    all.filter(|address| is_host(*address))
        .take(PARTS_MAX)
        .collect()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn succeeded(status: &[u8]) -> bool {
    status.get(..2) == Some(&[0, 0])
}

/// Options one by one; an item is `None`, and the last, where one runs past the end.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.0);
        if rest.is_empty() {
            return None;
        }
        let [a, b, c, d, rest @ ..] = rest else {
            return Some(None);
        };
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Some(None);
        };
        self.0 = rest;
        Some(Some((u16::from_be_bytes([*a, *b]), value)))
    }
}

/// A client's message.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    pub(crate) kind: Kind,
    pub(crate) xid: u32,
    pub(crate) duid: &'a [u8],
    pub(crate) server: Option<&'a [u8]>,
    /// Of the association; none where only names are asked for.
    pub(crate) iaid: Option<u32>,
    pub(crate) addresses: &'a [Granted],
    /// Hundredths of a second since the first.
    pub(crate) elapsed: u16,
}

impl Question<'_> {
    /// The payload of the datagram.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut bytes = self.xid.to_be_bytes().to_vec();
        bytes[0] = self.kind as u8;
        let mut add = |code: u16, value: &[u8]| {
            bytes.extend(code.to_be_bytes());
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(value);
        };
        add(CLIENT_ID, self.duid);
        if let Some(server) = self.server {
            add(SERVER_ID, server);
        }
        add(ELAPSED, &self.elapsed.to_be_bytes());
        let wanted = [DNS, SEARCH, REFRESH].map(u16::to_be_bytes).concat();
        add(WANTED, &wanted);
        if self.kind == Kind::Solicit {
            add(RAPID_COMMIT, &[]);
        }
        if let Some(iaid) = self.iaid {
            let mut association = iaid.to_be_bytes().to_vec();
            association.extend([0; 8]);
            for granted in self.addresses {
                association.extend(IA_ADDRESS.to_be_bytes());
                association.extend(24_u16.to_be_bytes());
                association.extend(granted.address.octets());
                association.extend([0; 8]);
            }
            add(IA_NA, &association);
        }
        bytes
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A server's message with one address.
    pub(crate) fn reply(kind: Kind, xid: u32, duid: &[u8], iaid: u32, valid: u32) -> Vec<u8> {
        let mut bytes = xid.to_be_bytes().to_vec();
        bytes[0] = kind as u8;
        let mut add = |code: u16, value: &[u8]| {
            bytes.extend(code.to_be_bytes());
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(value);
        };
        add(CLIENT_ID, duid);
        add(SERVER_ID, b"server");
        let mut association = [iaid, 1000, 1600].map(u32::to_be_bytes).concat();
        association.extend([0, 5, 0, 24]);
        association.extend("fd00::15".parse::<Ipv6Addr>().expect("one").octets());
        association.extend([valid, valid].map(u32::to_be_bytes).concat());
        add(IA_NA, &association);
        add(DNS, &"fd00::53".parse::<Ipv6Addr>().expect("one").octets());
        add(SEARCH, b"\x07example\x03org\0");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::reply;
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn a_reply_is_read_and_only_by_its_client() {
        let bytes = reply(Kind::Reply, 0x0012_3456, b"me", 7, 2000);
        let got = Reply::parse(&bytes, b"me", 7).expect("a reply");
        assert_eq!(
            (got.xid, got.advertises, got.timers),
            (0x0012_3456, false, (1000, 1600))
        );
        assert_eq!(got.addresses.len(), 1);
        assert_eq!(got.dns, ["fd00::53".parse::<Ipv6Addr>().expect("one")]);
        assert_eq!(got.search, ["example.org"]);
        assert_eq!(Reply::parse(&bytes, b"you", 7), None);
        assert!(Reply::parse(&bytes, b"me", 8).is_some_and(|other| other.addresses.is_empty()));
        let failed = [bytes.as_slice(), &[0, 13, 0, 2, 0, 2]].concat();
        assert_eq!(Reply::parse(&failed, b"me", 7), None);
        for cut in 0..bytes.len() {
            Reply::parse(&bytes[..cut], b"me", 7);
        }
        let advertised = reply(Kind::Advertise, 1, b"me", 7, u32::MAX);
        fuzz(&[bytes, failed, advertised], |bytes, _| {
            if let Some(reply) = Reply::parse(bytes, b"me", 7) {
                assert!(reply.addresses.len() <= PARTS_MAX && reply.search.len() <= PARTS_MAX);
            }
        });
    }

    #[test]
    fn a_question_byte_for_byte() {
        let question = Question {
            kind: Kind::Solicit,
            xid: 0x00ab_cdef,
            duid: &[0, 3, 0, 1],
            server: None,
            iaid: Some(2),
            addresses: &[],
            elapsed: 100,
        };
        let expected = [
            1, 0xab, 0xcd, 0xef, 0, 1, 0, 4, 0, 3, 0, 1, 0, 8, 0, 2, 0, 100, 0, 6, 0, 6, 0, 23, 0,
            24, 0, 32, 0, 14, 0, 0, 0, 3, 0, 12, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(question.build(), expected);
    }
}
