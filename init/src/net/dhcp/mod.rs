//! DHCPv4 on the first wired interface: sockets, addresses and the file of name
//! servers around the pure [`client::Client`].
//!
//! The packet socket is open only while an answer is awaited; in between PID 1 sleeps.
//! Link changes come from rtnetlink as wake-ups; what changed is then read from /sys.

mod client;
mod ip;
mod lease;
mod packet;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use slipform_init::contract::event::{Event, Phase};

use super::kernel::{Kernel, KernelError};
use super::link::{self, Link};
use super::resolv;
use super::rtnl::{Address, Request, Route};
use crate::sys::net;
use crate::turn::{Turn, Watched};
use client::{Action, Client, Config, Destination, Input};
use lease::Lease;

/// How often an interface is looked for while there is none, and the carrier is read
/// where rtnetlink does not tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many looks without an interface are worth a line.
const LOOKS_QUIET: u32 = 5;
/// Packets that one turn takes.
const PER_TURN: usize = 16;

/// The DHCP client of the machine.
#[derive(Debug)]
pub(crate) struct Dhcp {
    hostname: String,
    seed: u64,
    sysfs: PathBuf,
    resolv: PathBuf,
    kernel: Option<Kernel>,
    monitor: Option<OwnedFd>,
    active: Option<Active>,
    look_at: Option<Duration>,
    looks: u32,
}

/// The interface in use.
#[derive(Debug)]
struct Active {
    link: Link,
    carrier: bool,
    client: Client,
    packet: Option<OwnedFd>,
    /// Sends renewals; what comes in on it is read through `packet`, but while it is
    /// open the kernel does not answer the server with "port unreachable".
    unicast: Option<UdpSocket>,
}

impl Dhcp {
    /// `hostname` goes to the server; transaction ids and jitter come from `seed`.
    pub(crate) fn new(hostname: &str, seed: u64) -> Dhcp {
        Dhcp {
            hostname: hostname.to_owned(),
            seed,
            sysfs: link::SYSFS.into(),
            resolv: resolv::PATH.into(),
            kernel: None,
            monitor: None,
            active: None,
            look_at: None,
            looks: 0,
        }
    }

    /// Begins; also writes an empty resolv.conf, so that the link to it leads somewhere.
    pub(crate) fn start(&mut self, turn: &mut Turn<'_>) {
        self.write_resolv(&[], &[], turn);
        match Kernel::open() {
            Ok(kernel) => self.kernel = Some(kernel),
            Err(error) => return tell_kernel(&error, turn),
        }
        match net::netlink(net::GROUP_LINK) {
            Ok(monitor) => self.monitor = Some(monitor),
            Err(error) => tell_kernel(&KernelError::of("listen for link changes", &error), turn),
        }
        self.look(turn);
    }

    /// An address is in use.
    pub(crate) fn bound(&self) -> bool {
        self.active
            .as_ref()
            .is_some_and(|active| active.client.lease().is_some())
    }

    /// Looks for an interface, or at the one in use.
    fn look(&mut self, turn: &mut Turn<'_>) {
        if self
            .active
            .as_ref()
            .is_some_and(|active| !active.link.exists())
        {
            self.forget(turn);
        }
        if self.active.is_none() {
            self.find(turn);
        }
        let polls = self.active.is_none() || self.monitor.is_none();
        self.look_at = polls.then(|| turn.now.saturating_add(LOOK_EVERY));
        if let Some(active) = &mut self.active {
            let carrier = active.link.has_carrier();
            if carrier != active.carrier {
                active.carrier = carrier;
                if !carrier {
                    tell_network(
                        &active.link,
                        active.client.lease(),
                        "link is down".into(),
                        turn,
                    );
                }
                self.step(
                    if carrier {
                        Input::LinkUp
                    } else {
                        Input::LinkDown
                    },
                    turn,
                );
            }
        }
    }

    fn find(&mut self, turn: &mut Turn<'_>) {
        let Some(link) = Link::first_wired(&self.sysfs) else {
            self.looks = self.looks.saturating_add(1);
            if self.looks == LOOKS_QUIET {
                let detail =
                    "no wired interface yet; is its driver among the board's modules?".to_owned();
                let (interface, address) = (String::new(), String::new());
                turn.report.event(Event::Network {
                    interface,
                    address,
                    detail,
                });
            }
            return;
        };
        if let Some(kernel) = &mut self.kernel {
            let result = kernel.run(
                &format!("switch on {}", link.name),
                Request::link_up(link.index),
                &[],
            );
            if let Err(error) = result {
                return tell_kernel(&error, turn);
            }
        }
        let config = Config {
            mac: link.mac,
            hostname: self.hostname.clone(),
            seed: self.seed,
        };
        let client = Client::new(config);
        self.active = Some(Active {
            link,
            carrier: false,
            client,
            packet: None,
            unicast: None,
        });
    }

    /// The interface has gone, and its addresses and routes with it.
    fn forget(&mut self, turn: &mut Turn<'_>) {
        let Some(active) = self.active.take() else {
            return;
        };
        if active.client.lease().is_some() {
            self.write_resolv(&[], &[], turn);
        }
        tell_network(&active.link, None, "the interface has gone".into(), turn);
    }

    fn step(&mut self, input: Input<'_>, turn: &mut Turn<'_>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let mut actions = Vec::new();
        active.client.step(turn.now, input, &mut actions);
        if active.client.listens() && active.packet.is_none() {
            match net::packet(active.link.index, ip::CLIENT_PORT) {
                Ok(socket) => active.packet = Some(socket),
                Err(error) => tell_kernel(
                    &KernelError::of("open a packet socket for DHCP", &error),
                    turn,
                ),
            }
        }
        for action in actions {
            self.carry_out(action, turn);
        }
        if let Some(active) = &mut self.active
            && !active.client.listens()
        {
            (active.packet, active.unicast) = (None, None);
        }
    }

    fn carry_out(&mut self, action: Action, turn: &mut Turn<'_>) {
        match action {
            Action::Send { message, to } => {
                if let Some(active) = &mut self.active {
                    // What cannot be sent is lost like any datagram: it is asked again. A link
                    // that has just gone is no news either.
                    let _ = active.send(&message, to);
                }
            }
            Action::Bind { lease, previous } => self.bind(&lease, previous.as_ref(), turn),
            Action::Unbind { lease, why } => {
                self.remove(&lease, turn);
                self.write_resolv(&[], &[], turn);
                if let Some(active) = &self.active {
                    tell_network(
                        &active.link,
                        None,
                        format!("lost {}: {why}", lease.text()),
                        turn,
                    );
                }
            }
            Action::Note(text) => {
                if let Some(active) = &self.active {
                    tell_network(&active.link, active.client.lease(), text, turn);
                }
            }
        }
    }

    fn bind(&mut self, lease: &Lease, previous: Option<&Lease>, turn: &mut Turn<'_>) {
        let Some(link) = self.active.as_ref().map(|active| active.link.clone()) else {
            return;
        };
        let renewed = previous.is_some_and(|previous| previous.text() == lease.text());
        if let Some(previous) = previous {
            if renewed {
                for route in routes(&link, previous)
                    .iter()
                    .filter(|route| !routes(&link, lease).contains(route))
                {
                    self.run(
                        &link,
                        "remove a route of",
                        Request::delete_route(route),
                        &[libc::ESRCH],
                        turn,
                    );
                }
            } else {
                self.remove(previous, turn);
            }
        }
        if let Some(mtu) = lease.mtu {
            self.run(
                &link,
                &format!("set MTU {mtu} of"),
                Request::link_mtu(link.index, mtu),
                &[],
                turn,
            );
        }
        let what = format!("add {} to", lease.text());
        self.run(
            &link,
            &what,
            Request::set_address(&address(&link, lease)),
            &[],
            turn,
        );
        for route in routes(&link, lease) {
            let via = route
                .gateway
                .map_or_else(|| "the link".to_owned(), |gateway| gateway.to_string());
            let what = format!(
                "add route {}/{} via {via} on",
                route.destination, route.prefix
            );
            self.run(&link, &what, Request::set_route(&route), &[], turn);
        }
        self.write_resolv(&lease.dns, &lease.search, turn);
        tell_network(&link, Some(lease), describe(lease, renewed), turn);
    }

    fn remove(&mut self, lease: &Lease, turn: &mut Turn<'_>) {
        let Some(link) = self.active.as_ref().map(|active| active.link.clone()) else {
            return;
        };
        // The kernel takes routes away with their address, and an address at its end of life: both may be gone.
        for route in routes(&link, lease) {
            let gone = [libc::ESRCH, libc::ENETUNREACH];
            self.run(
                &link,
                "remove a route of",
                Request::delete_route(&route),
                &gone,
                turn,
            );
        }
        let what = format!("remove {} from", lease.text());
        let request = Request::delete_address(&address(&link, lease));
        self.run(
            &link,
            &what,
            request,
            &[libc::EADDRNOTAVAIL, libc::ENODEV],
            turn,
        );
    }

    fn run(
        &mut self,
        link: &Link,
        what: &str,
        request: Request,
        fine: &[i32],
        turn: &mut Turn<'_>,
    ) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        if let Err(error) = kernel.run(&format!("{what} {}", link.name), request, fine) {
            tell_kernel(&error, turn);
        }
    }

    fn write_resolv(&self, servers: &[Ipv4Addr], search: &[String], turn: &mut Turn<'_>) {
        if let Err(error) = resolv::write(&self.resolv, &resolv::text(servers, search)) {
            let what = format!("write {}", self.resolv.display());
            turn.report.event(Event::Error {
                phase: Phase::Network,
                what,
                why: error.to_string(),
            });
        }
    }

    fn read_packets(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..PER_TURN {
            let mut buffer = [0; packet::DATAGRAM_MAX];
            let socket = self
                .active
                .as_ref()
                .and_then(|active| active.packet.as_ref());
            let Some(Ok(count)) = socket.map(|socket| net::receive(socket, &mut buffer)) else {
                return;
            };
            if let Some(message) = ip::unwrap(&buffer[..count]) {
                self.step(Input::Packet(message), turn);
            }
        }
    }
}

impl Active {
    fn send(&mut self, message: &[u8], to: Destination) -> std::io::Result<()> {
        match (to, &self.packet) {
            (Destination::Broadcast { from }, Some(socket)) => {
                net::broadcast(socket, self.link.index, &ip::wrap(from, message))
            }
            (Destination::Broadcast { .. }, None) => Ok(()),
            (Destination::Unicast { from, to }, _) => {
                if self.unicast.is_none() {
                    self.unicast = Some(net::udp(&self.link.name, from, ip::CLIENT_PORT)?);
                }
                let Some(socket) = &self.unicast else {
                    return Ok(());
                };
                socket.send_to(message, (to, ip::SERVER_PORT)).map(|_| ())
            }
        }
    }
}

impl Watched for Dhcp {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        let packet = self
            .active
            .as_ref()
            .and_then(|active| active.packet.as_ref());
        for fd in [self.monitor.as_ref(), packet].into_iter().flatten() {
            out.push(libc::pollfd {
                fd: fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            });
        }
    }

    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>) {
        let is = |socket: Option<&OwnedFd>| socket.is_some_and(|socket| socket.as_raw_fd() == fd);
        if is(self.monitor.as_ref()) {
            // What it says does not matter (and may be cut): it says when to look.
            let mut buffer = [0; 4096];
            let monitor = self.monitor.as_ref();
            for _ in 0..PER_TURN {
                if monitor.is_none_or(|monitor| net::receive(monitor, &mut buffer).is_err()) {
                    break;
                }
            }
            self.look(turn);
        } else if is(self
            .active
            .as_ref()
            .and_then(|active| active.packet.as_ref()))
        {
            self.read_packets(turn);
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let client = self
            .active
            .as_ref()
            .and_then(|active| active.client.deadline());
        [client, self.look_at].into_iter().flatten().min()
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        if self.look_at.is_some_and(|at| at <= turn.now) {
            self.look(turn);
        }
        let client = self
            .active
            .as_ref()
            .and_then(|active| active.client.deadline());
        if client.is_some_and(|at| at <= turn.now) {
            self.step(Input::Tick, turn);
        }
    }
}

fn address(link: &Link, lease: &Lease) -> Address {
    Address {
        index: link.index,
        address: lease.address.into(),
        prefix: lease.prefix,
        broadcast: lease.broadcast(),
        lifetime: lease.seconds,
    }
}

/// The lease's routes in an order that the kernel takes: those on the link first, and
/// one to each gateway outside the network (clouds with /32 leases have such).
fn routes(link: &Link, lease: &Lease) -> Vec<Route> {
    let route = |destination, prefix, gateway| Route {
        index: link.index,
        destination,
        prefix,
        gateway,
        source: lease.address,
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

fn tell_network(link: &Link, lease: Option<&Lease>, detail: String, turn: &mut Turn<'_>) {
    let address = lease.map(Lease::text).unwrap_or_default();
    turn.report.event(Event::Network {
        interface: link.name.clone(),
        address,
        detail,
    });
}

fn tell_kernel(error: &KernelError, turn: &mut Turn<'_>) {
    turn.report.event(Event::Error {
        phase: Phase::Network,
        what: error.what.clone(),
        why: error.why(),
    });
}
