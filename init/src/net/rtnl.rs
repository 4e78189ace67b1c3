//! rtnetlink requests as bytes, and the kernel's answer (rtnetlink(7), linux/rtnetlink.h).
//!
//! ```text
//! length u32, type u16, flags u16, sequence u32, port u32   message header, host byte order
//! fixed part of the type                                    ifinfomsg, ifaddrmsg, rtmsg
//! length u16, type u16, value, padding to 4 bytes           attributes
//! ```

use std::net::{IpAddr, Ipv4Addr};

/// Size of a message header.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const EXCLUSIVE: u16 = 0x200;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_DHCP: u8 = 16;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request(Vec<u8>);

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Interface.
    pub(crate) index: u32,
    /// Address.
    pub(crate) address: IpAddr,
    /// Length of the network's prefix.
    pub(crate) prefix: u8,
    /// IPv4 broadcast address.
    pub(crate) broadcast: Option<Ipv4Addr>,
    /// Seconds after which the kernel itself takes it away.
    pub(crate) lifetime: Option<u32>,
}

/// A route through an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Interface.
    pub(crate) index: u32,
    /// Network.
    pub(crate) destination: IpAddr,
    /// Length of its prefix; 0 is the default route.
    pub(crate) prefix: u8,
    /// `None`: on the link itself.
    pub(crate) gateway: Option<IpAddr>,
    /// Address that packets on this route carry; `None`: the kernel chooses.
    pub(crate) source: Option<IpAddr>,
    /// Of routes to the same network the lowest counts.
    pub(crate) metric: u32,
}

impl Request {
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Request(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.extend(attribute(kind, value));
        self
    }

    fn maybe(self, kind: u16, value: Option<&[u8]>) -> Request {
        match value {
            Some(value) => self.attribute(kind, value),
            None => self,
        }
    }

    /// The bytes to send, with the number that the answer repeats.
    pub(crate) fn numbered(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }

    /// Switches an interface on.
    pub(crate) fn link_up(index: u32) -> Request {
        Request::new(RTM_NEWLINK, 0, &ifinfo(index, IFF_UP, IFF_UP))
    }

    /// Switches an interface off.
    pub(crate) fn link_down(index: u32) -> Request {
        Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, IFF_UP))
    }

    /// Makes the interface `name` for VLAN `id` on the interface `link`.
    pub(crate) fn add_vlan(name: &str, link: u32, id: u16) -> Request {
        let data = attribute(IFLA_VLAN_ID, &id.to_ne_bytes());
        Request::named(name)
            .attribute(IFLA_LINK, &link.to_ne_bytes())
            .info(b"vlan", &data)
    }

    /// Makes the bond `name` of a mode (linux/if_bonding.h) that looks at its members'
    /// carriers every `miimon` milliseconds.
    pub(crate) fn add_bond(name: &str, mode: u8, miimon: u32) -> Request {
        Request::named(name).info(b"bond", &bond(mode, miimon))
    }

    /// The same for a bond that is there, down and without members.
    pub(crate) fn set_bond(index: u32, mode: u8, miimon: u32) -> Request {
        Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).info(b"bond", &bond(mode, miimon))
    }

    /// Makes an interface, which is down, a member of the bond `master`.
    pub(crate) fn link_master(index: u32, master: u32) -> Request {
        Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0))
            .attribute(IFLA_MASTER, &master.to_ne_bytes())
    }

    fn named(name: &str) -> Request {
        Request::new(RTM_NEWLINK, CREATE | EXCLUSIVE, &ifinfo(0, 0, 0))
            .attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())
    }

    fn info(self, kind: &[u8], data: &[u8]) -> Request {
        let info = [
            attribute(IFLA_INFO_KIND, kind),
            attribute(IFLA_INFO_DATA, data),
        ];
        self.attribute(IFLA_LINKINFO, &info.concat())
    }

    /// Sets an interface's MTU.
    pub(crate) fn link_mtu(index: u32, mtu: u16) -> Request {
        Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0))
            .attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes())
    }

    /// Adds an address, or renews its lifetime.
    pub(crate) fn set_address(address: &Address) -> Request {
        // ifa_cacheinfo: preferred and valid lifetime, two stamps
        let lifetime = address.lifetime.map(|seconds| {
            let mut info = [0; 16];
            info[..4].copy_from_slice(&seconds.to_ne_bytes());
            info[4..8].copy_from_slice(&seconds.to_ne_bytes());
            info
        });
        address
            .request(RTM_NEWADDR, CREATE | REPLACE)
            .maybe(IFA_CACHEINFO, lifetime.as_ref().map(|info| &info[..]))
    }

    /// Takes an address away.
    pub(crate) fn delete_address(address: &Address) -> Request {
        address.request(RTM_DELADDR, 0)
    }

    /// Adds or replaces a route.
    pub(crate) fn set_route(route: &Route) -> Request {
        route.request(RTM_NEWROUTE, CREATE | REPLACE)
    }

    /// Takes a route away.
    pub(crate) fn delete_route(route: &Route) -> Request {
        route.request(RTM_DELROUTE, 0)
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = (length as u16).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn bond(mode: u8, miimon: u32) -> Vec<u8> {
    let miimon = attribute(IFLA_BOND_MIIMON, &miimon.to_ne_bytes());
    [attribute(IFLA_BOND_MODE, &[mode]), miimon].concat()
}

/// ifinfomsg: family u8, pad u8, type u16, index i32, flags u32, change mask u32.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

impl Address {
    fn request(&self, kind: u16, flags: u16) -> Request {
        let family = if self.address.is_ipv4() {
            AF_INET
        } else {
            AF_INET6
        };
        let octets = octets(self.address);
        let scope = if self.address.is_loopback() {
            SCOPE_HOST
        } else {
            SCOPE_UNIVERSE
        };
        // ifaddrmsg: family, prefix length, flags, scope, index u32
        let mut fixed = [family, self.prefix, 0, scope, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&self.index.to_ne_bytes());
        let broadcast = self.broadcast.map(|address| address.octets());
        Request::new(kind, flags, &fixed)
            .attribute(IFA_LOCAL, &octets)
            .attribute(IFA_ADDRESS, &octets)
            .maybe(IFA_BROADCAST, broadcast.as_ref().map(|octets| &octets[..]))
    }
}

impl Route {
    fn request(&self, kind: u16, flags: u16) -> Request {
        let scope = if self.gateway.is_some() {
            SCOPE_UNIVERSE
        } else {
            SCOPE_LINK
        };
        // rtmsg: family, both prefix lengths, tos, table, protocol, scope, type, flags u32
        let fixed = [
            if self.destination.is_ipv4() {
                AF_INET
            } else {
                AF_INET6
            },
            self.prefix,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_DHCP,
            scope,
            RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let gateway = self.gateway.map(octets);
        let source = self.source.map(octets);
        let destination = octets(self.destination);
        let metric = (self.metric > 0).then(|| self.metric.to_ne_bytes());
        Request::new(kind, flags, &fixed)
            .maybe(RTA_DST, (self.prefix > 0).then_some(&destination[..]))
            .maybe(RTA_GATEWAY, gateway.as_ref().map(|octets| &octets[..]))
            .maybe(RTA_PREFSRC, source.as_ref().map(|octets| &octets[..]))
            .attribute(RTA_OIF, &self.index.to_ne_bytes())
            .maybe(RTA_PRIORITY, metric.as_ref().map(|metric| &metric[..]))
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The kernel's answer to request `sequence`, if it is in this datagram: an errno, 0 for done.
pub(crate) fn answer(datagram: &[u8], sequence: u32) -> Option<i32> {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let word =
            |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let length = word(0) as usize;
        if length < HEADER || length > rest.len() {
            return None;
        }
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        if kind == NLMSG_ERROR && word(8) == sequence && length >= HEADER + 4 {
            return Some((word(HEADER) as i32).saturating_neg());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    /// As `ip link set dev … up`, seen by strace.
    #[test]
    fn link_up_byte_for_byte() {
        let expected = [
            32, 0, 0, 0, 16, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, // header
            0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(Request::link_up(2).numbered(7), expected);
    }

    #[test]
    fn mtu_byte_for_byte() {
        let bytes = Request::link_mtu(2, 1460).numbered(1);
        assert_eq!(
            bytes[16..],
            [
                0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 4, 0, 0xb4, 5, 0, 0
            ]
        );
    }

    /// As `ip link add link eth0 name v.10 type vlan id 10` has it.
    #[test]
    fn vlans_byte_for_byte() {
        let bytes = Request::add_vlan("v.10", 2, 10).numbered(1);
        assert_eq!(bytes[4..8], [16, 0, 5, 6]);
        let attributes = [
            9, 0, 3, 0, b'v', b'.', b'1', b'0', 0, 0, 0, 0, // IFLA_IFNAME
            8, 0, 5, 0, 2, 0, 0, 0, // IFLA_LINK
            24, 0, 18, 0, 8, 0, 1, 0, b'v', b'l', b'a', b'n', // IFLA_LINKINFO, IFLA_INFO_KIND
            12, 0, 2, 0, 6, 0, 1, 0, 10, 0, 0, 0, // IFLA_INFO_DATA, IFLA_VLAN_ID
        ];
        assert_eq!(bytes[32..], attributes);
    }

    /// As `ip link add b0 type bond mode 802.3ad miimon 100` and `ip link set eth1 master b0`
    /// have it.
    #[test]
    fn bonds_byte_for_byte() {
        let bytes = Request::add_bond("b0", 4, 100).numbered(1);
        assert_eq!(bytes[4..8], [16, 0, 5, 6]);
        let info = [
            32, 0, 18, 0, 8, 0, 1, 0, b'b', b'o', b'n', b'd', // IFLA_LINKINFO, IFLA_INFO_KIND
            20, 0, 2, 0, 5, 0, 1, 0, 4, 0, 0, 0, // IFLA_INFO_DATA, IFLA_BOND_MODE
            8, 0, 3, 0, 100, 0, 0, 0, // IFLA_BOND_MIIMON
        ];
        assert_eq!(bytes[32..40], [7, 0, 3, 0, b'b', b'0', 0, 0]);
        assert_eq!(bytes[40..], info);
        let bytes = Request::set_bond(5, 4, 100).numbered(1);
        assert_eq!((&bytes[4..8], bytes[20]), (&[16, 0, 5, 0][..], 5));
        assert_eq!(bytes[32..], info);
        let bytes = Request::link_master(3, 5).numbered(1);
        assert_eq!(bytes[20], 3);
        assert_eq!(bytes[32..], [8, 0, 10, 0, 5, 0, 0, 0]);
        let bytes = Request::link_down(3).numbered(1);
        assert_eq!(bytes[20..], [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn addresses_byte_for_byte() {
        let mut address = Address {
            index: 3,
            address: Ipv4Addr::new(10, 0, 2, 15).into(),
            prefix: 24,
            broadcast: Some(Ipv4Addr::new(10, 0, 2, 255)),
            lifetime: Some(3600),
        };
        let expected = [
            68, 0, 0, 0, 20, 0, 5, 5, 1, 0, 0, 0, 0, 0, 0,
            0, // RTM_NEWADDR, request ack create replace
            2, 24, 0, 0, 3, 0, 0, 0, // ifaddrmsg
            8, 0, 2, 0, 10, 0, 2, 15, // IFA_LOCAL
            8, 0, 1, 0, 10, 0, 2, 15, // IFA_ADDRESS
            8, 0, 4, 0, 10, 0, 2, 255, // IFA_BROADCAST
            20, 0, 6, 0, 16, 14, 0, 0, 16, 14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // IFA_CACHEINFO
        ];
        assert_eq!(Request::set_address(&address).numbered(1), expected);
        address.address = std::net::Ipv6Addr::LOCALHOST.into();
        (address.prefix, address.broadcast, address.lifetime) = (128, None, None);
        let bytes = Request::delete_address(&address).numbered(1);
        assert_eq!(bytes.len(), 64);
        assert_eq!(bytes[4..8], [21, 0, 5, 0]);
        assert_eq!(bytes[16..24], [10, 128, 0, 254, 3, 0, 0, 0]);
        assert_eq!(bytes[24..28], [20, 0, 2, 0]);
    }

    #[test]
    fn routes_byte_for_byte() {
        let mut route = Route {
            index: 3,
            destination: Ipv4Addr::UNSPECIFIED.into(),
            prefix: 0,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2).into()),
            source: Some(Ipv4Addr::new(10, 0, 2, 15).into()),
            metric: 0,
        };
        let expected = [
            52, 0, 0, 0, 24, 0, 5, 5, 1, 0, 0, 0, 0, 0, 0, 0, // RTM_NEWROUTE
            2, 0, 0, 0, 254, 16, 0, 1, 0, 0, 0, 0, // rtmsg
            8, 0, 5, 0, 10, 0, 2, 2, // RTA_GATEWAY
            8, 0, 7, 0, 10, 0, 2, 15, // RTA_PREFSRC
            8, 0, 4, 0, 3, 0, 0, 0, // RTA_OIF
        ];
        assert_eq!(Request::set_route(&route).numbered(1), expected);
        route.destination = Ipv4Addr::new(10, 9, 0, 1).into();
        (route.prefix, route.gateway) = (32, None);
        let bytes = Request::delete_route(&route).numbered(1);
        assert_eq!(bytes[16..28], [2, 32, 0, 0, 254, 16, 253, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[28..36], [8, 0, 1, 0, 10, 9, 0, 1]);
        route.metric = 1003;
        let bytes = Request::set_route(&route).numbered(1);
        assert_eq!(bytes[52..], [8, 0, 6, 0, 0xeb, 3, 0, 0]);
        route.destination = std::net::Ipv6Addr::LOCALHOST.into();
        let bytes = Request::set_route(&route).numbered(1);
        assert_eq!(bytes[16..18], [10, 32]);
        assert_eq!(bytes[28..32], [20, 0, 1, 0]);
    }

    #[test]
    fn answers() {
        let ack = |sequence: u32, errno: i32| {
            let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0];
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&(-errno).to_ne_bytes());
            bytes.extend_from_slice(&[0; 16]);
            bytes
        };
        assert_eq!(answer(&ack(7, 0), 7), Some(0));
        assert_eq!(answer(&ack(7, 17), 7), Some(17));
        assert_eq!(answer(&ack(6, 0), 7), None);
        assert_eq!(answer(&[ack(6, 1), ack(7, 2)].concat(), 7), Some(2));
        let good = ack(7, 0);
        for length in 0..good.len() {
            assert_eq!(answer(&good[..length], 7), None, "cut to {length}");
        }
        for hostile in [0_u32, 1, 15, 19, u32::MAX] {
            let mut bytes = ack(7, 0);
            bytes[..4].copy_from_slice(&hostile.to_ne_bytes());
            assert_eq!(answer(&bytes, 7), None, "length {hostile}");
        }
    }
}
