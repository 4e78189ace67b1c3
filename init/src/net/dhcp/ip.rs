//! IPv4 and UDP headers around a DHCP message (RFC 791, RFC 768): before there is an
//! address, the kernel's own stack can send and receive neither.

use std::net::Ipv4Addr;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
/// Port of servers.
pub(crate) const SERVER_PORT: u16 = 67;
/// Port of clients.
pub(crate) const CLIENT_PORT: u16 = 68;

/// A packet from nobody (0.0.0.0, or `from`) to everybody.
pub(crate) fn wrap(from: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let udp_length = (UDP_HEADER + message.len()) as u16;
    let total = IP_HEADER as u16 + udp_length;
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend_from_slice(&[0x45, 0x10]); // low delay, as every DHCP client does
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, UDP, 0, 0]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&Ipv4Addr::BROADCAST.octets());
    let sum = checksum(&packet, 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&CLIENT_PORT.to_be_bytes());
    packet.extend_from_slice(&SERVER_PORT.to_be_bytes());
    packet.extend_from_slice(&udp_length.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(message);
    // The pseudo header: both addresses, protocol, length.
    let pseudo = sum_words(&packet[12..20], u32::from(UDP) + u32::from(udp_length));
    let sum = match checksum(&packet[IP_HEADER..], pseudo) {
        0 => 0xffff, // 0 means "none"
        sum => sum,
    };
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The payload of an unfragmented UDP packet from a server to a client.
///
/// The UDP checksum is not looked at: virtual network cards hand over packets of the
/// same host with it unfinished, and many a client has gone deaf by that.
pub(crate) fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet[0] >> 4 != 4 || header < IP_HEADER || packet.len() < header + UDP_HEADER {
        return None;
    }
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let total = usize::from(word(2));
    if total > packet.len()
        || packet[9] != UDP
        || word(6) & 0x3fff != 0
        || checksum(&packet[..header], 0) != 0
    {
        return None;
    }
    if word(header) != SERVER_PORT || word(header + 2) != CLIENT_PORT {
        return None;
    }
    let length = usize::from(word(header + 4));
    if length < UDP_HEADER {
        return None;
    }
    packet[..total].get(header + UDP_HEADER..header + length)
}

fn sum_words(bytes: &[u8], start: u32) -> u32 {
    let mut chunks = bytes.chunks_exact(2);
    let sum: u32 = chunks
        .by_ref()
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let odd = chunks
        .remainder()
        .first()
        .map_or(0, |&byte| u32::from(byte) << 8);
    start + sum + odd
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = sum_words(bytes, start);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a server would send it.
    fn answer(message: &[u8]) -> Vec<u8> {
        let mut packet = wrap(Ipv4Addr::new(10, 0, 2, 2), message);
        packet[20..22].copy_from_slice(&SERVER_PORT.to_be_bytes());
        packet[22..24].copy_from_slice(&CLIENT_PORT.to_be_bytes());
        packet
    }

    #[test]
    fn a_packet_byte_for_byte() {
        let packet = wrap(Ipv4Addr::UNSPECIFIED, b"abc");
        let expected = [
            0x45, 0x10, 0, 31, 0, 0, 0, 0, 64, 17, 0x7a, 0xbf, 0, 0, 0, 0, 255, 255, 255,
            255, // IP
            0, 68, 0, 67, 0, 11, 0x3a, 0xef, b'a', b'b', b'c',
        ];
        assert_eq!(packet, expected);
    }

    #[test]
    fn an_answer_is_unwrapped_whatever_follows_it() {
        let mut packet = answer(b"abcd");
        assert_eq!(unwrap(&packet), Some(&b"abcd"[..]));
        packet.extend_from_slice(&[0; 20]);
        assert_eq!(
            unwrap(&packet),
            Some(&b"abcd"[..]),
            "Ethernet pads short frames"
        );
    }

    #[test]
    fn what_is_none_is_none() {
        let good = answer(b"abcd");
        for length in 0..good.len() {
            assert_eq!(unwrap(&good[..length]), None, "cut to {length}");
        }
        // Version, header length, total length, fragment, protocol, checksum, ports, UDP length.
        for (at, byte) in [
            (0, 0x65),
            (0, 0x41),
            (0, 0x4f),
            (3, 200),
            (6, 0x20),
            (9, 6),
            (10, 1),
            (21, 68),
            (23, 67),
            (25, 7),
            (25, 200),
        ] {
            let mut packet = good.clone();
            packet[at] = byte;
            assert_eq!(unwrap(&packet), None, "byte {at} = {byte}");
        }
    }
}
