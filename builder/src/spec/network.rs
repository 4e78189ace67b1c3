//! Raw to checked: interfaces and time servers. What is checked here becomes
//! machine.json as it is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use slipform_init::contract::machine::{Bond, BondMode, FixedRoute, Interface, Network, Vlan};

use super::raw::{RawBond, RawInterface, RawRoute, RawTime, RawVlan};

/// Interfaces of a machine.
const MOST: usize = 32;
/// Members of a bond.
const BOND_MOST: usize = 8;
/// The kernel's `IFNAMSIZ` without its NUL.
const NAME_MAX: usize = 15;

/// All `[[interface]]`.
pub(super) fn interfaces(raw: Vec<RawInterface>) -> Result<Vec<Interface>, String> {
    if raw.len() > MOST {
        return Err(format!("at most {MOST} [[interface]] can be named"));
    }
    let mut names = BTreeSet::new();
    let checked: Vec<Interface> = raw
        .into_iter()
        .map(|raw| {
            let name = raw.name.clone();
            if !names.insert(name.clone()) {
                return Err(format!(
                    "two [[interface]] are named '{name}'; make them one"
                ));
            }
            interface(raw).map_err(|m| format!("interface '{name}': {m}"))
        })
        .collect::<Result<_, _>>()?;
    let bonds = checked.iter().filter_map(|one| one.bond.as_ref());
    for link in bonds.flat_map(|bond| &bond.links) {
        if !names.insert(link.clone()) {
            return Err(format!(
                "'{link}' is a member of a bond, and used elsewhere too; a member carries nothing else"
            ));
        }
    }
    Ok(checked)
}

fn interface(raw: RawInterface) -> Result<Interface, String> {
    named(&raw.name)?;
    let addresses: Vec<Network> = raw
        .addresses
        .iter()
        .map(|text| network(text, "addresses"))
        .collect::<Result<_, _>>()?;
    if let Some(own) = addresses.iter().find(|own| !is_host(own.address)) {
        return Err(format!(
            "addresses: {} is no address of a host",
            own.address
        ));
    }
    if raw.mtu.is_some_and(|mtu| !(576..=9216).contains(&mtu)) {
        return Err("mtu must be 576 to 9216".to_owned());
    }
    if let Some(bad) = raw.search.iter().find(|name| !is_domain(name)) {
        return Err(format!(
            "search: '{bad}' is no domain; write it as \"example.org\""
        ));
    }
    if raw.vlan.is_some() && raw.bond.is_some() {
        return Err(
            "it is a vlan or a bond; put the vlan on the bond, as one more [[interface]]"
                .to_owned(),
        );
    }
    Ok(Interface {
        name: raw.name,
        dhcp: raw.dhcp.unwrap_or(addresses.is_empty()),
        routes: raw.routes.iter().map(route).collect::<Result<_, _>>()?,
        dns: raw
            .dns
            .iter()
            .map(|text| server(text, "dns"))
            .collect::<Result<_, _>>()?,
        addresses,
        search: raw.search,
        mtu: raw.mtu,
        vlan: raw.vlan.map(vlan).transpose()?,
        bond: raw.bond.map(bond).transpose()?,
    })
}

fn bond(raw: RawBond) -> Result<Bond, String> {
    if !(1..=BOND_MOST).contains(&raw.links.len()) {
        return Err(format!("bond: links must name 1 to {BOND_MOST} interfaces"));
    }
    for link in &raw.links {
        named(link).map_err(|m| format!("bond: link '{link}': {m}"))?;
    }
    let mode = match raw.mode.as_deref().unwrap_or("active-backup") {
        "active-backup" => BondMode::ActiveBackup,
        "802.3ad" => BondMode::Lacp,
        "balance-rr" => BondMode::BalanceRr,
        "balance-xor" => BondMode::BalanceXor,
        "broadcast" => BondMode::Broadcast,
        "balance-tlb" => BondMode::BalanceTlb,
        "balance-alb" => BondMode::BalanceAlb,
        other => {
            return Err(format!(
                "bond: there is no mode '{other}'; the modes are active-backup, 802.3ad, balance-rr, balance-xor, broadcast, balance-tlb and balance-alb"
            ));
        }
    };
    Ok(Bond {
        links: raw.links,
        mode,
    })
}

fn vlan(raw: RawVlan) -> Result<Vlan, String> {
    if !(1..=4094).contains(&raw.id) {
        return Err(format!("vlan: id {} must be 1 to 4094", raw.id));
    }
    named(&raw.link).map_err(|m| format!("vlan: link '{}': {m}", raw.link))?;
    Ok(Vlan {
        link: raw.link,
        id: raw.id,
    })
}

/// The kernel's name of an interface.
fn named(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    if (1..=NAME_MAX).contains(&name.len())
        && ![".", ".."].contains(&name)
        && name.bytes().all(plain)
    {
        return Ok(());
    }
    Err(format!(
        "it must be the kernel's name of an interface, such as \"eth0\": 1 to {NAME_MAX} letters, digits, '.', '_', '-' or '@'"
    ))
}

fn route(raw: &RawRoute) -> Result<FixedRoute, String> {
    let to = network(
        if raw.to == "default" {
            "0.0.0.0/0"
        } else {
            &raw.to
        },
        "routes",
    )?;
    let via = raw
        .via
        .as_deref()
        .map(|text| server(text, "routes: via"))
        .transpose()?;
    if let Some(via) = via
        && via.is_ipv4() != to.address.is_ipv4()
    {
        return Err(format!(
            "routes: {} goes through {via}, which is of the other kind of addresses; write `::/0` for IPv6's default",
            raw.to
        ));
    }
    if host_bits(to) {
        return Err(format!(
            "routes: '{}' has bits behind its prefix; write the network's own address",
            raw.to
        ));
    }
    Ok(FixedRoute { to, via })
}

fn network(text: &str, what: &str) -> Result<Network, String> {
    let wrong = || {
        format!(
            "{what}: '{text}' is none; write an address and its prefix, such as \"192.0.2.10/24\""
        )
    };
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if prefix > most {
        return Err(wrong());
    }
    Ok(Network { address, prefix })
}

fn host_bits(network: Network) -> bool {
    let (bits, width) = match network.address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let host = width - u32::from(network.prefix);
    bits & 1_u128.checked_shl(host).map_or(u128::MAX, |one| one - 1) != 0
}

fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

/// A numeric address: before there is a name server, nobody can look one up.
fn server(text: &str, what: &str) -> Result<IpAddr, String> {
    let address = text.parse().ok().filter(|address| is_host(*address));
    address.ok_or_else(|| {
        format!(
            "{what}: '{text}' is no address of a server; write a numeric one, such as \"192.0.2.1\""
        )
    })
}

fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// `[time]`.
pub(super) fn time_servers(raw: &RawTime) -> Result<Vec<IpAddr>, String> {
    if raw.servers.len() > 8 {
        return Err("time.servers: at most 8".to_owned());
    }
    let servers = raw.servers.iter();
    servers.map(|text| server(text, "time.servers")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(name: &str) -> RawInterface {
        RawInterface {
            name: name.to_owned(),
            ..RawInterface::default()
        }
    }

    #[test]
    fn an_interface_asks_for_a_lease_unless_it_has_addresses() {
        let mut own = raw("eth1");
        own.addresses = vec!["192.0.2.10/24".to_owned(), "fd00::1/64".to_owned()];
        own.routes = vec![RawRoute {
            to: "default".to_owned(),
            via: Some("192.0.2.1".to_owned()),
        }];
        let checked = interfaces(vec![raw("eth0"), own]).unwrap();
        assert!(checked[0].dhcp && !checked[1].dhcp);
        assert_eq!(checked[1].routes[0].to.prefix, 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |change: fn(&mut RawInterface)| {
            let mut raw = raw("eth0");
            change(&mut raw);
            interfaces(vec![raw]).unwrap_err()
        };
        let route = |to: &str, via: &str| RawRoute {
            to: to.to_owned(),
            via: Some(via.to_owned()),
        };
        assert!(error(|raw| raw.name = "a/b".into()).contains("kernel's name"));
        assert!(error(|raw| raw.addresses = vec!["192.0.2.1".into()]).contains("192.0.2.10/24"));
        assert!(error(|raw| raw.addresses = vec!["192.0.2.1/33".into()]).contains("/33"));
        assert!(error(|raw| raw.addresses = vec!["127.0.0.1/8".into()]).contains("no address"));
        assert!(error(|raw| raw.dns = vec!["dns.example".into()]).contains("numeric"));
        assert!(error(|raw| raw.search = vec!["a b".into()]).contains("'a b'"));
        assert!(error(|raw| raw.mtu = Some(100)).contains("576"));
        let tagged = |link: &str, id| {
            let mut raw = raw("v");
            raw.vlan = Some(RawVlan {
                link: link.to_owned(),
                id,
            });
            interfaces(vec![raw])
        };
        assert!(tagged("eth0", 10).is_ok());
        assert!(tagged("eth0", 4095).unwrap_err().contains("4094"));
        assert!(tagged("", 1).unwrap_err().contains("kernel's name"));
        let bonds = |list: &[(&str, &[&str])], mode: Option<&str>| {
            let one = |(name, links): &(&str, &[&str])| {
                let mut raw = raw(name);
                raw.bond = Some(RawBond {
                    links: links.iter().map(|link| (*link).to_owned()).collect(),
                    mode: mode.map(str::to_owned),
                });
                raw
            };
            interfaces(list.iter().map(one).collect())
        };
        let fine = bonds(&[("bond0", &["eth0", "eth1"])], None).unwrap();
        assert_eq!(
            fine[0].bond.as_ref().map(|bond| bond.mode),
            Some(BondMode::ActiveBackup)
        );
        assert!(bonds(&[("b", &["eth0"])], Some("802.3ad")).is_ok());
        let error = |list: &[(&str, &[&str])], mode| bonds(list, mode).unwrap_err();
        assert!(error(&[("b", &["eth0"])], Some("lacp")).contains("802.3ad"));
        assert!(error(&[("b", &[])], None).contains("1 to 8"));
        assert!(error(&[("b", &["b"])], None).contains("member of a bond"));
        assert!(error(&[("b", &["eth0", "eth0"])], None).contains("member of a bond"));
        assert!(error(&[("b", &["eth0"]), ("c", &["eth0"])], None).contains("member of a bond"));
        let mut both = raw("b");
        both.vlan = Some(RawVlan {
            link: "eth0".to_owned(),
            id: 1,
        });
        both.bond = Some(RawBond::default());
        assert!(interfaces(vec![both]).unwrap_err().contains("one more"));
        let mut bits = raw("eth0");
        bits.routes = vec![route("10.0.0.1/8", "10.0.0.1")];
        assert!(interfaces(vec![bits]).unwrap_err().contains("bits behind"));
        let mut kinds = raw("eth0");
        kinds.routes = vec![route("default", "fd00::1")];
        assert!(interfaces(vec![kinds]).unwrap_err().contains("other kind"));
        let twice = interfaces(vec![raw("eth0"), raw("eth0")]);
        assert!(twice.unwrap_err().contains("make them one"));
        let names = RawTime {
            servers: vec!["pool.ntp.org".to_owned()],
        };
        assert!(time_servers(&names).unwrap_err().contains("numeric"));
    }
}
