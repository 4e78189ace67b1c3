//! Interfaces, addresses, routes and name servers.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use slipform_init::contract::inside::{DnsSeen, InterfaceSeen, Item, RouteSeen};

use crate::metrics::kernel::{Places, read};
use crate::ship::RESOLV_CONF;
use crate::sys::addresses;

/// Interfaces, addresses of one, routes: more are not told.
const ITEMS_MAX: usize = 64;
/// Bytes of a name that are told.
const TEXT_MAX: usize = 256;
/// linux/route.h: nothing goes there.
const RTF_REJECT: u32 = 0x0200;
/// linux/ipv6_route.h: the machine's own address.
const RTF_LOCAL: u32 = 0x8000_0000;

/// All of it.
pub(super) fn items(places: &Places) -> Vec<Item> {
    let mut items: Vec<Item> = interfaces(places).map(Item::Interface).collect();
    let table = |name: &str| read(&places.proc.join("net").join(name)).unwrap_or_default();
    let (four, six) = (table("route"), table("ipv6_route"));
    let routes = four.lines().skip(1).filter_map(route);
    let routes = routes.chain(six.lines().filter_map(route6));
    items.extend(routes.take(ITEMS_MAX).map(Item::Route));
    let dns = read(Path::new(RESOLV_CONF)).unwrap_or_default();
    items.push(Item::Dns(resolver(&dns)));
    items
}

fn interfaces(places: &Places) -> impl Iterator<Item = InterfaceSeen> {
    let folder = places.sys.join("class/net");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.take(ITEMS_MAX).collect();
    names.sort_unstable();
    let addresses = addresses::all().unwrap_or_default();
    names.into_iter().map(move |name| {
        let file = |file: &str| read(&folder.join(&name).join(file)).unwrap_or_default();
        let number = |path: &str| file(path).trim().parse().unwrap_or(0);
        let own = addresses.iter().filter(|address| address.interface == name);
        InterfaceSeen {
            state: file("operstate").trim().to_owned(),
            mac: file("address").trim().to_owned(),
            mtu: file("mtu").trim().parse().unwrap_or(0),
            addresses: own
                .take(ITEMS_MAX)
                .map(|address| format!("{}/{}", address.address, address.prefix))
                .collect(),
            received: number("statistics/rx_bytes"),
            sent: number("statistics/tx_bytes"),
            name,
        }
    })
}

fn network(address: IpAddr, prefix: u32) -> String {
    if prefix == 0 && address.is_unspecified() {
        return "default".to_owned();
    }
    format!("{address}/{prefix}")
}

/// A line of /proc/net/route: interface, destination, gateway, flags, …, metric, mask;
/// addresses are the bytes as they lie in memory, read as a number.
fn route(line: &str) -> Option<RouteSeen> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(8).collect();
    let hex = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let address = |index| Some(Ipv4Addr::from(hex(index)?.to_ne_bytes()));
    if hex(3)? & RTF_REJECT != 0 {
        return None;
    }
    let via = address(2)?;
    Some(RouteSeen {
        to: network(address(1)?.into(), hex(7)?.count_ones()),
        via: (!via.is_unspecified()).then(|| via.to_string()),
        interface: fields.first()?.chars().take(TEXT_MAX).collect(),
        metric: fields.get(6)?.parse().ok()?,
    })
}

/// A line of /proc/net/ipv6_route: destination, its length, source, its length, next hop,
/// metric, references, use, flags, interface; all hexadecimal. What the kernel makes for
/// its own addresses and for multicast is left out.
fn route6(line: &str) -> Option<RouteSeen> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let hex = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let address = |index: usize| {
        let text = fields.get(index).filter(|text| text.len() == 32)?;
        Some(Ipv6Addr::from(u128::from_str_radix(text, 16).ok()?))
    };
    let (to, via, flags) = (address(0)?, address(4)?, hex(8)?);
    let interface = *fields.get(9)?;
    if flags & (RTF_REJECT | RTF_LOCAL) != 0 || to.is_multicast() || interface == "lo" {
        return None;
    }
    Some(RouteSeen {
        to: network(to.into(), hex(1)?),
        via: (!via.is_unspecified()).then(|| via.to_string()),
        interface: interface.chars().take(TEXT_MAX).collect(),
        metric: hex(5)?,
    })
}

/// resolv.conf(5).
fn resolver(text: &str) -> DnsSeen {
    let mut dns = DnsSeen::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let key = words.next();
        let words = words.map(|word| word.chars().take(TEXT_MAX).collect());
        match key {
            Some("nameserver") => dns.servers.extend(words.take(1)),
            Some("search") => dns.search = words.take(ITEMS_MAX).collect(),
            _ => {}
        }
    }
    dns.servers.truncate(ITEMS_MAX);
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn routes_are_read_as_ip_shows_them() {
        let table = [
            (
                "eth0\t00000000\t0202000A\t0003\t0\t0\t1024\t00000000\t0\t0\t0",
                Some(("default", Some("10.0.2.2"), 1024)),
            ),
            (
                "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
                Some(("10.0.2.0/24", None, 0)),
            ),
            (
                "eth0\t0002000A\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0",
                None,
            ),
            ("Iface Destination", None),
            ("", None),
        ];
        for (line, wanted) in table {
            let seen = route(line);
            let seen = seen
                .as_ref()
                .map(|r| (r.to.as_str(), r.via.as_deref(), r.metric));
            assert_eq!(seen, wanted, "{line}");
        }
        let zero = "0".repeat(32);
        let six = |to: &str, length: &str, via: &str, flags: &str, dev: &str| {
            route6(&format!(
                "{to} {length} {zero} 00 {via} 00000400 00000001 00000000 {flags} {dev}"
            ))
        };
        let site = "fec00000000000000000000000000000";
        let gateway = "fe800000000000000000000000000002";
        let seen = six(&zero, "00", gateway, "00450003", "eth0").unwrap();
        assert_eq!(
            (seen.to.as_str(), seen.via.as_deref()),
            ("default", Some("fe80::2"))
        );
        assert_eq!(
            six(site, "40", &zero, "00000001", "eth0").unwrap().to,
            "fec0::/64"
        );
        assert_eq!(six(site, "80", &zero, "80200001", "eth0"), None);
        assert_eq!(six(&zero, "00", &zero, "00200200", "lo"), None);
        fuzz(
            &[b"eth0\t00000000\t0202000A\t0003\t0\t0\t1024\t00000000\t0"],
            |bytes, _| {
                let text = String::from_utf8_lossy(bytes);
                route(&text);
                route6(&text);
                resolver(&text);
            },
        );
    }

    #[test]
    fn the_resolvers_file_is_read_in_bounds() {
        let dns =
            resolver("# x\nnameserver 10.0.2.3\nnameserver fec0::3 extra\nsearch a.example b\n");
        assert_eq!(dns.servers, ["10.0.2.3", "fec0::3"]);
        assert_eq!(dns.search, ["a.example", "b"]);
        let many = resolver(&"nameserver 1.2.3.4\n".repeat(1000));
        assert_eq!(many.servers.len(), ITEMS_MAX);
    }

    #[test]
    fn the_loopback_interface_has_its_address() {
        let seen: Vec<InterfaceSeen> = interfaces(&Places::default()).collect();
        let lo = seen.iter().find(|seen| seen.name == "lo").unwrap();
        assert!(
            lo.addresses.iter().any(|address| address == "127.0.0.1/8"),
            "{lo:?}"
        );
    }
}
