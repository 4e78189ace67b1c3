//! ARP for IPv4 over Ethernet (RFC 826), as far as finding out needs it whether somebody
//! else has an address (RFC 5227).
//!
//! ```text
//! 0 hardware  2 protocol  4 sizes 6, 4  6 operation  8 sender MAC  14 sender IP  18 target MAC  24 target IP
//! ```

use std::net::Ipv4Addr;

/// Size of a packet; Ethernet pads it.
const SIZE: usize = 28;
/// Ethernet, IPv4, their sizes.
const HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];

fn packet(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let parts: [&[u8]; 6] = [
        &HEAD,
        &REQUEST,
        &mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    ];
    parts.concat()
}

/// "Who has it?" of one who has no address yet, so that nobody's table changes.
pub(super) fn probe(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    packet(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// "It is mine": tables that still name its last owner are set right.
pub(super) fn announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    packet(mac, address, address)
}

/// The hardware address of another who has `address`, or probes for it at the same time
/// (RFC 5227 section 2.1.1). Our own packets may come back over a bridge.
pub(super) fn owner(packet: &[u8], mac: [u8; 6], address: Ipv4Addr) -> Option<[u8; 6]> {
    let packet = packet.get(..SIZE).filter(|packet| packet[..6] == HEAD)?;
    let other: [u8; 6] = packet[8..14].try_into().ok()?;
    let (sender, target) = (&packet[14..18], &packet[24..28]);
    let wanted = address.octets();
    let probes = packet[6..8] == REQUEST && sender == [0; 4] && target == wanted;
    (other != mac && (sender == wanted || probes)).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const THEY: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);

    #[test]
    fn packets_byte_for_byte() {
        let want = [
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 9, 0, 5,
        ];
        assert_eq!(probe(US, ADDRESS), want);
        let mut announced = want;
        announced[14..18].copy_from_slice(&[10, 9, 0, 5]);
        assert_eq!(announcement(US, ADDRESS), announced);
    }

    #[test]
    fn who_has_it_is_told_from_who_asks() {
        let padded = |mut packet: Vec<u8>| {
            packet.resize(46, 0);
            packet
        };
        // Somebody has it, or announces it, or wants it at the same time.
        for packet in [probe(THEY, ADDRESS), announcement(THEY, ADDRESS)] {
            assert_eq!(owner(&padded(packet), US, ADDRESS), Some(THEY));
        }
        let mut reply = announcement(THEY, ADDRESS);
        reply[7] = 2;
        assert_eq!(owner(&reply, US, ADDRESS), Some(THEY));
        // A neighbour that looks for whoever has it is no owner; nor are we ourselves.
        let asks = packet(THEY, Ipv4Addr::new(10, 9, 0, 1), ADDRESS);
        assert_eq!(owner(&asks, US, ADDRESS), None);
        assert_eq!(owner(&probe(US, ADDRESS), US, ADDRESS), None);
        assert_eq!(
            owner(&probe(THEY, Ipv4Addr::new(10, 9, 0, 6)), US, ADDRESS),
            None
        );
        slipform_fuzz::fuzz(&[&reply], |bytes, _| {
            if let Some(other) = owner(bytes, US, ADDRESS) {
                assert_ne!(other, US);
            }
        });
    }
}
