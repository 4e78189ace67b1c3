//! The other end of a machine's network cable: whole Ethernet frames over QEMU's
//! `dgram` back end, so that a test can be any server, good or hostile, without root.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// Ours.
pub(crate) const MAC: Mac = [0x02, 0, 0, 0, 0, 1];
const BROADCAST: Mac = [0xff; 6];
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

/// The cable.
#[derive(Debug)]
pub(crate) struct Cable {
    socket: UdpSocket,
    ports: (u16, u16),
}

/// What came, as far as a test looks into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Who has this address?
    Arp {
        mac: Mac,
        from: Ipv4Addr,
        wanted: Ipv4Addr,
    },
    /// UDP over IPv4.
    Udp4 {
        mac: Mac,
        from: (Ipv4Addr, u16),
        to: (Ipv4Addr, u16),
        payload: Vec<u8>,
    },
    /// UDP over IPv6.
    Udp6 {
        mac: Mac,
        from: (Ipv6Addr, u16),
        to: (Ipv6Addr, u16),
        payload: Vec<u8>,
    },
    /// ICMPv6 of this type; its target is of neighbour discovery.
    Icmp6 {
        from: Ipv6Addr,
        kind: u8,
        target: Option<Ipv6Addr>,
    },
}

impl Cable {
    /// A cable whose other end is for QEMU.
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a socket");
        let free = UdpSocket::bind(("127.0.0.1", 0)).expect("a port");
        let port = |socket: &UdpSocket| socket.local_addr().expect("an address").port();
        let ports = (port(&free), port(&socket));
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a limit");
        Self { socket, ports }
    }

    /// What QEMU is told, for `-netdev`.
    pub(crate) fn netdev(&self) -> String {
        let (theirs, ours) = self.ports;
        format!(
            "dgram,id=net,local.type=inet,local.host=127.0.0.1,local.port={theirs},remote.type=inet,remote.host=127.0.0.1,remote.port={ours}"
        )
    }

    /// The next frame that a test may want, or none for a moment.
    pub(crate) fn next(&self) -> Option<Frame> {
        let mut buffer = [0; 65_536];
        let length = self.socket.recv(&mut buffer).ok()?;
        parse(&buffer[..length])
    }

    /// Sends a frame; before QEMU has its end, nobody is there to take it.
    pub(crate) fn send(&self, frame: &[u8]) {
        drop(self.socket.send_to(frame, ("127.0.0.1", self.ports.0)));
    }
}

fn parse(frame: &[u8]) -> Option<Frame> {
    let mac: Mac = frame.get(6..12)?.try_into().ok()?;
    let body = frame.get(14..)?;
    let four = |at: usize, bytes: &[u8]| -> Option<Ipv4Addr> {
        Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?.into())
    };
    let six = |at: usize, bytes: &[u8]| -> Option<Ipv6Addr> {
        Some(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?.into())
    };
    match u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?) {
        ARP => Some(Frame::Arp {
            mac,
            from: four(14, body)?,
            wanted: four(24, body)?,
        }),
        IPV4 => {
            let head = usize::from(body.first()? & 15) * 4;
            let udp = body.get(head..).filter(|_| body.get(9) == Some(&UDP))?;
            let (from, to, payload) = ports(udp)?;
            Some(Frame::Udp4 {
                mac,
                from: (four(12, body)?, from),
                to: (four(16, body)?, to),
                payload,
            })
        }
        IPV6 => {
            let (from, to, rest) = (six(8, body)?, six(24, body)?, body.get(40..)?);
            // Reports of groups come behind an option, and nobody wants them here.
            match *body.get(6)? {
                UDP => {
                    let (source, target, payload) = ports(rest)?;
                    Some(Frame::Udp6 {
                        mac,
                        from: (from, source),
                        to: (to, target),
                        payload,
                    })
                }
                ICMP6 => Some(Frame::Icmp6 {
                    from,
                    kind: *rest.first()?,
                    target: six(8, rest),
                }),
                _ => None,
            }
        }
        _ => None,
    }
}

fn ports(udp: &[u8]) -> Option<(u16, u16, Vec<u8>)> {
    let port = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
    let length = usize::from(port(4)?);
    Some((port(0)?, port(2)?, udp.get(8..length)?.to_vec()))
}

fn ethernet(to: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &MAC, &kind.to_be_bytes(), body].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The Internet checksum (RFC 1071).
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2);
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// "That address is ours."
pub(crate) fn arp_answer(to: Mac, address: Ipv4Addr, asker: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    let body = [&head[..], &MAC, &address.octets(), &to, &asker.octets()].concat();
    ethernet(to, ARP, &body)
}

/// A datagram over IPv4, to everybody on the link unless `to` says whom.
pub(crate) fn udp4(
    to: Option<Mac>,
    from: (Ipv4Addr, u16),
    target: (Ipv4Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let number = |length: usize| u16::try_from(length).expect("it fits").to_be_bytes();
    let udp = [
        &from.1.to_be_bytes()[..],
        &target.1.to_be_bytes(),
        &number(8 + payload.len()),
        &[0, 0],
        payload,
    ]
    .concat();
    let mut head = [
        &[0x45, 0][..],
        &number(20 + udp.len()),
        &[0, 0, 0, 0, 64, UDP, 0, 0],
        &from.0.octets(),
        &target.0.octets(),
    ]
    .concat();
    let sum = checksum(&[&head]).to_be_bytes();
    head[10..12].copy_from_slice(&sum);
    ethernet(to.unwrap_or(BROADCAST), IPV4, &[head, udp].concat())
}

fn ipv6(to: Mac, from: Ipv6Addr, target: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("it fits").to_be_bytes();
    let head = [
        &[0x60, 0, 0, 0][..],
        &length,
        &[next, 255],
        &from.octets(),
        &target.octets(),
    ];
    ethernet(to, IPV6, &[&head.concat()[..], body].concat())
}

/// The checksum of what is above IPv6, its own field being zero (RFC 8200 section 8.1).
fn checksum6(from: Ipv6Addr, to: Ipv6Addr, next: u8, body: &[u8]) -> [u8; 2] {
    let length = u32::try_from(body.len()).expect("it fits").to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, next]].concat();
    checksum(&[&pseudo, body]).to_be_bytes()
}

/// A datagram over IPv6.
pub(crate) fn udp6(
    to: Mac,
    from: (Ipv6Addr, u16),
    target: (Ipv6Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("it fits");
    let mut udp = [
        &from.1.to_be_bytes()[..],
        &target.1.to_be_bytes(),
        &length.to_be_bytes(),
        &[0, 0],
        payload,
    ]
    .concat();
    let sum = checksum6(from.0, target.0, UDP, &udp);
    udp[6..8].copy_from_slice(&sum);
    ipv6(to, from.0, target.0, UDP, &udp)
}

/// "That address is ours", to all nodes (RFC 4861 section 4.4).
pub(crate) fn neighbour(address: Ipv6Addr) -> Vec<u8> {
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let head = [136, 0, 0, 0, 0x20, 0, 0, 0];
    let mut body = [&head[..], &address.octets(), &[2, 1], &MAC].concat();
    let sum = checksum6(address, all, ICMP6, &body);
    body[2..4].copy_from_slice(&sum);
    ipv6([0x33, 0x33, 0, 0, 0, 1], address, all, ICMP6, &body)
}

/// A router advertisement (RFC 4861 section 4.2) to all nodes. `managed`: addresses come
/// by DHCPv6. `options` as they go on the wire.
pub(crate) fn advertisement(from: Ipv6Addr, managed: bool, options: &[u8]) -> Vec<u8> {
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let flags = if managed { 0x80 } else { 0 };
    let head = [134, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut body = [&head[..], options].concat();
    let sum = checksum6(from, all, ICMP6, &body);
    body[2..4].copy_from_slice(&sum);
    ipv6([0x33, 0x33, 0, 0, 0, 1], from, all, ICMP6, &body)
}
