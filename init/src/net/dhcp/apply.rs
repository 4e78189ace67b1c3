//! A lease on an interface: address, routes, MTU and the file of name servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine;

use super::lease::Lease;
use crate::net::dhcp6::{Change, dad};
use crate::net::kernel::{Kernel, KernelError};
use crate::net::link::Link;
use crate::net::resolv;
use crate::net::rtnl::{Address, Request, Route};
use crate::turn::Turn;

/// An interface that leases are put on.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) link: Link,
    kernel: Kernel,
    /// Of its routes: 0 for the first interface.
    metric: u32,
    /// The image's own IPv6 addresses that somebody on the link may have, and how long.
    unsure: Vec<(Ipv6Addr, u8)>,
}

impl Interface {
    /// Switches `link` on; of two routes to one network that of the lower `metric` counts.
    ///
    /// # Errors
    /// [`KernelError`] when there is no rtnetlink or the interface stays off.
    pub(super) fn up(link: Link, metric: u32) -> Result<Interface, KernelError> {
        let mut kernel = Kernel::open()?;
        let what = format!("switch on {}", link.name);
        kernel.run(&what, Request::link_up(link.index), &[])?;
        Ok(Interface {
            link,
            kernel,
            metric,
            unsure: Vec::new(),
        })
    }

    /// Puts on what the image itself says of the interface.
    pub(super) fn fix(&mut self, fixed: &machine::Interface, turn: &mut Turn<'_>) {
        let index = self.link.index;
        if let Some(mtu) = fixed.mtu {
            self.run(
                &format!("set MTU {mtu} of"),
                Request::link_mtu(index, mtu),
                &[],
                turn,
            );
        }
        for own in &fixed.addresses {
            let address = Address {
                index,
                address: own.address,
                prefix: own.prefix,
                broadcast: None,
                lifetime: None,
            };
            let what = format!("add {}/{} to", own.address, own.prefix);
            let added = self.run(&what, Request::set_address(&address), &[], turn);
            if let (true, IpAddr::V6(address)) = (added, own.address) {
                self.unsure.push((address, own.prefix));
            }
        }
        for own in &fixed.routes {
            let route = Route {
                index,
                destination: own.to.address,
                prefix: own.to.prefix,
                gateway: own.via,
                source: None,
                metric: self.metric,
            };
            let what = format!("add route {}/{} on", own.to.address, own.to.prefix);
            self.run(&what, Request::set_route(&route), &[], turn);
        }
        let addresses = fixed
            .addresses
            .iter()
            .map(|own| format!("{}/{}", own.address, own.prefix));
        turn.report.event(Event::Network {
            interface: self.link.name.clone(),
            address: addresses.collect::<Vec<_>>().join(", "),
            detail: "as the image says".to_owned(),
            bad: false,
        });
    }

    /// Looks what the kernel has found out about the image's own addresses. One that is taken
    /// stays as the kernel marked it, unused: another there is not.
    pub(super) fn check_own(&mut self, turn: &mut Turn<'_>) {
        if !self.unsure.is_empty() {
            let list = std::fs::read_to_string(dad::FILE).unwrap_or_default();
            self.check_own_in(&list, turn);
        }
    }

    fn check_own_in(&mut self, list: &str, turn: &mut Turn<'_>) {
        for (address, prefix) in std::mem::take(&mut self.unsure) {
            match dad::state(list, self.link.index, address) {
                dad::State::Tentative => self.unsure.push((address, prefix)),
                dad::State::Unique => {}
                dad::State::Taken => {
                    let text = format!("{address}/{prefix} is not used: somebody else has it");
                    self.say(None, text, true, turn);
                }
            }
        }
    }

    /// Puts addresses of DHCPv6 on, and takes them off.
    pub(super) fn apply(&mut self, changes: Vec<Change>, turn: &mut Turn<'_>) {
        for change in changes {
            let (lost, addresses) = match change {
                Change::Bind(addresses) => (None, addresses),
                Change::Unbind(addresses) => (Some("its time is up"), addresses),
                Change::Taken(addresses) => (
                    Some("somebody else has it; declined, asking for another"),
                    addresses,
                ),
            };
            for granted in addresses {
                let address = Address {
                    index: self.link.index,
                    address: granted.address.into(),
                    // The network itself is the router's to tell.
                    prefix: 128,
                    broadcast: None,
                    lifetime: (granted.valid != u32::MAX).then_some(granted.valid),
                };
                let text = format!("{}/128", granted.address);
                if lost.is_none() {
                    self.run(
                        &format!("add {text} to"),
                        Request::set_address(&address),
                        &[],
                        turn,
                    );
                } else {
                    let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
                    let request = Request::delete_address(&address);
                    self.run(&format!("remove {text} from"), request, &gone, turn);
                }
                let (address, detail) = match lost {
                    None => (text, format!("by DHCPv6 for {} s", granted.valid)),
                    Some(why) => (String::new(), format!("lost {text}: {why}")),
                };
                turn.report.event(Event::Network {
                    interface: self.link.name.clone(),
                    address,
                    detail,
                    bad: lost.is_some(),
                });
            }
        }
    }

    /// Puts `lease` in the place of `previous`.
    pub(super) fn bind(&mut self, lease: &Lease, previous: Option<&Lease>, turn: &mut Turn<'_>) {
        let renewed = previous.is_some_and(|previous| previous.text() == lease.text());
        let (index, new) = (self.link.index, self.routes(lease));
        match previous {
            Some(previous) if renewed => {
                for route in self
                    .routes(previous)
                    .iter()
                    .filter(|route| !new.contains(route))
                {
                    self.run(
                        "remove a route of",
                        Request::delete_route(route),
                        &[libc::ESRCH],
                        turn,
                    );
                }
            }
            Some(previous) => self.remove(previous, turn),
            None => {}
        }
        if let Some(mtu) = lease.mtu {
            self.run(
                &format!("set MTU {mtu} of"),
                Request::link_mtu(index, mtu),
                &[],
                turn,
            );
        }
        let what = format!("add {} to", lease.text());
        self.run(&what, Request::set_address(&self.address(lease)), &[], turn);
        for route in &new {
            let via = route
                .gateway
                .map_or_else(|| "the link".to_owned(), |gateway| gateway.to_string());
            let what = format!(
                "add route {}/{} via {via} on",
                route.destination, route.prefix
            );
            self.run(&what, Request::set_route(route), &[], turn);
        }
        self.tell(Some(lease), describe(lease, renewed), turn);
    }

    /// Takes `lease` off the interface, and its name servers out of the file.
    pub(super) fn unbind(&mut self, lease: &Lease, why: &str, turn: &mut Turn<'_>) {
        self.remove(lease, turn);
        self.tell(None, format!("lost {}: {why}", lease.text()), turn);
    }

    /// Reports news of the interface.
    pub(super) fn tell(&self, lease: Option<&Lease>, detail: String, turn: &mut Turn<'_>) {
        self.say(lease, detail, false, turn);
    }

    /// The same; `bad` makes it a warning.
    pub(super) fn say(
        &self,
        lease: Option<&Lease>,
        detail: String,
        bad: bool,
        turn: &mut Turn<'_>,
    ) {
        let (interface, address) = (
            self.link.name.clone(),
            lease.map(Lease::text).unwrap_or_default(),
        );
        turn.report.event(Event::Network {
            interface,
            address,
            detail,
            bad,
        });
    }

    fn remove(&mut self, lease: &Lease, turn: &mut Turn<'_>) {
        // The kernel takes routes away with their address, and an address at its end of life: both may be gone.
        for route in self.routes(lease) {
            let gone = [libc::ESRCH, libc::ENETUNREACH];
            self.run(
                "remove a route of",
                Request::delete_route(&route),
                &gone,
                turn,
            );
        }
        let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
        let request = Request::delete_address(&self.address(lease));
        self.run(
            &format!("remove {} from", lease.text()),
            request,
            &gone,
            turn,
        );
    }

    /// True if the kernel did it.
    fn run(&mut self, what: &str, request: Request, fine: &[i32], turn: &mut Turn<'_>) -> bool {
        let what = format!("{what} {}", self.link.name);
        let done = self.kernel.run(&what, request, fine);
        if let Err(error) = &done {
            tell_kernel(error, turn);
        }
        done.is_ok()
    }

    fn address(&self, lease: &Lease) -> Address {
        Address {
            index: self.link.index,
            address: lease.address.into(),
            prefix: lease.prefix,
            broadcast: lease.broadcast(),
            lifetime: lease.seconds,
        }
    }

    fn routes(&self, lease: &Lease) -> Vec<Route> {
        routes(self.link.index, self.metric, lease)
    }
}

/// The lease's routes in an order that the kernel takes: those on the link first, and
/// one to each gateway outside the network (clouds with /32 leases have such).
fn routes(index: u32, metric: u32, lease: &Lease) -> Vec<Route> {
    let route = |destination: Ipv4Addr, prefix, gateway: Option<Ipv4Addr>| Route {
        index,
        destination: destination.into(),
        prefix,
        gateway: gateway.map(Into::into),
        source: Some(lease.address.into()),
        metric,
    };
    let (on_link, via): (Vec<_>, Vec<_>) = lease
        .routes
        .iter()
        .partition(|route| route.gateway.is_none());
    let mut routes: Vec<Route> = on_link
        .iter()
        .map(|given| route(given.destination, given.prefix, None))
        .collect();
    for gateway in via
        .iter()
        .filter_map(|given| given.gateway)
        .filter(|gateway| !lease.reaches(*gateway))
    {
        let host = route(gateway, 32, None);
        if !routes.contains(&host) {
            routes.push(host);
        }
    }
    routes.extend(
        via.iter()
            .map(|given| route(given.destination, given.prefix, given.gateway)),
    );
    routes
}

fn describe(lease: &Lease, renewed: bool) -> String {
    let verb = if renewed { "renewed" } else { "bound" };
    let time = lease.seconds.map_or_else(
        || "for ever".to_owned(),
        |seconds| format!("for {seconds} s"),
    );
    let mut text = format!("{verb} {time} by {}", lease.server);
    let default = lease
        .routes
        .iter()
        .find(|route| route.prefix == 0)
        .and_then(|route| route.gateway);
    if let Some(router) = default {
        text.push_str(&format!(", router {router}"));
    }
    for server in &lease.dns {
        text.push_str(&format!(", dns {server}"));
    }
    text
}

/// Writes the file of name servers; a failure is reported, names then do not resolve.
pub(super) fn write_resolv(path: &std::path::Path, text: &str, turn: &mut Turn<'_>) {
    if let Err(error) = resolv::write(path, text) {
        let (what, why) = (format!("write {}", path.display()), error.to_string());
        turn.report.event(Event::Error {
            phase: Phase::Network,
            what,
            why,
        });
    }
}

/// Reports what the kernel refused.
pub(super) fn tell_kernel(error: &KernelError, turn: &mut Turn<'_>) {
    let (what, why) = (error.what.clone(), error.why());
    turn.report.event(Event::Error {
        phase: Phase::Network,
        what,
        why,
    });
}

#[cfg(test)]
mod tests {
    use super::super::lease;
    use super::*;
    use crate::turn::Report;

    #[derive(Default)]
    struct Told(Vec<String>);

    impl Report for Told {
        fn event(&mut self, event: Event) {
            if let Event::Network {
                detail, bad: true, ..
            } = event
            {
                self.0.push(detail);
            }
        }
    }

    #[test]
    fn an_address_of_the_image_that_somebody_has_is_a_warning_once() {
        let sysfs = tempfile::tempdir().expect("folder");
        let folder = sysfs.path().join("eth0");
        std::fs::create_dir(&folder).expect("folder");
        for (file, text) in [("type", "1"), ("ifindex", "2"), ("address", "2:0:0:0:0:1")] {
            std::fs::write(folder.join(file), text).expect("file");
        }
        let address = |last| Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, last);
        let mut interface = Interface {
            link: Link::named(sysfs.path(), "eth0").expect("a link"),
            kernel: Kernel::open().expect("rtnetlink"),
            metric: 0,
            unsure: vec![(address(1), 64), (address(2), 64)],
        };
        let mut told = Told::default();
        let mut look = |flags: [&str; 2]| {
            let line = |last: u16, flags| {
                format!("fd00000900000000000000000000000{last} 02 40 00 {flags} eth0\n")
            };
            let list = line(1, flags[0]) + &line(2, flags[1]);
            let mut turn = Turn {
                now: std::time::Duration::ZERO,
                report: &mut told,
            };
            interface.check_own_in(&list, &mut turn);
            told.0.clone()
        };
        assert!(look(["40", "40"]).is_empty(), "the kernel is still asking");
        let taken = ["fd00:9::2/64 is not used: somebody else has it"];
        assert_eq!(look(["80", "c8"]), taken);
        assert_eq!(look(["80", "c8"]), taken, "once");
    }

    #[test]
    fn gateways_outside_the_network_get_a_route_of_their_own() {
        let gateway = Ipv4Addr::new(10, 128, 0, 1);
        let default = lease::Route {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(gateway),
        };
        let mut lease = Lease {
            address: Ipv4Addr::new(10, 128, 0, 7),
            prefix: 32,
            server: gateway,
            seconds: Some(3600),
            renew: 1800,
            rebind: 3150,
            routes: vec![default.clone()],
            dns: vec![Ipv4Addr::new(10, 128, 0, 2)],
            search: Vec::new(),
            mtu: None,
            ntp: Vec::new(),
            hostname: None,
        };
        let steps = |lease: &Lease| -> Vec<(IpAddr, u8, Option<IpAddr>)> {
            routes(3, 0, lease)
                .iter()
                .map(|route| (route.destination, route.prefix, route.gateway))
                .collect()
        };
        let through = (Ipv4Addr::UNSPECIFIED.into(), 0, Some(gateway.into()));
        assert_eq!(steps(&lease), [(gateway.into(), 32, None), through]);
        // The server says so itself, after the route that needs it: still once, and first.
        lease.routes.push(lease::Route {
            destination: gateway,
            prefix: 32,
            gateway: None,
        });
        assert_eq!(steps(&lease), [(gateway.into(), 32, None), through]);
        (lease.prefix, lease.routes) = (24, vec![default]);
        assert_eq!(steps(&lease), [through]);
        assert_eq!(
            describe(&lease, false),
            "bound for 3600 s by 10.128.0.1, router 10.128.0.1, dns 10.128.0.2"
        );
    }
}
