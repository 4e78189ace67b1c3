//! The machine's interfaces: DHCPv4 on each that wants it, and what the image itself says;
//! sockets and addresses around the pure [`client::Client`]. Names of all sources (leases,
//! the image, router advertisements) become one file.
//!
//! A packet socket is open only while an answer is awaited; in between PID 1 sleeps.
//! Changes of links and of IPv6 addresses come from rtnetlink as wake-ups; what changed is
//! then read from /sys and /proc.

mod active;
mod apply;
mod arp;
mod client;
mod ip;
mod lease;
mod packet;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use slipform_init::contract::event::Event;
use slipform_init::contract::machine;

use super::dhcp6::Dhcp6;
use super::kernel::KernelError;
use super::link::{self, Link};
use super::made::{self, Members};
use super::ra::{self, Names};
use super::resolv::{self, Server};
use crate::sys::net;
use crate::sys::packet::Packets;
use crate::turn::{Turn, Watched};
use active::Active;
use apply::{Interface, tell_kernel, write_resolv};
use client::{Client, Config, Input};

/// How often an interface is looked for while there is none, and the carrier is read
/// where rtnetlink does not tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many looks without an interface are worth a line.
const LOOKS_QUIET: u32 = 5;
/// Packets that one turn takes.
const PER_TURN: usize = 16;
/// Of routes over interfaces behind the first: above all that the kernel itself makes.
const METRIC: u32 = 2000;

/// The interfaces of the machine.
#[derive(Debug)]
pub(crate) struct Dhcp {
    hostname: String,
    seed: u64,
    sysfs: PathBuf,
    resolv: PathBuf,
    /// What the image says; empty: all wired interfaces, with DHCP.
    fixed: Vec<machine::Interface>,
    monitor: Option<OwnedFd>,
    advertisements: Option<OwnedFd>,
    names: Names,
    active: Vec<Active>,
    /// The file of name servers as it stands.
    written: Option<String>,
    look_at: Option<Duration>,
    looks: u32,
    /// What the kernel refused when interfaces were made, the last time.
    refused: Vec<String>,
}

impl Dhcp {
    /// `hostname` goes to the servers; transaction ids and jitter come from `seed`.
    pub(crate) fn new(hostname: &str, seed: u64, fixed: Vec<machine::Interface>) -> Dhcp {
        Dhcp {
            hostname: hostname.to_owned(),
            seed,
            sysfs: link::SYSFS.into(),
            resolv: resolv::PATH.into(),
            fixed,
            monitor: None,
            advertisements: None,
            names: Names::default(),
            active: Vec::new(),
            written: None,
            look_at: None,
            looks: 0,
            refused: Vec::new(),
        }
    }

    /// Begins; also writes an empty resolv.conf, so that the link to it leads somewhere.
    pub(crate) fn start(&mut self, turn: &mut Turn<'_>) {
        match net::netlink(net::GROUP_LINK | net::GROUP_ADDRESSES6) {
            Ok(monitor) => self.monitor = Some(monitor),
            Err(error) => tell_kernel(&KernelError::of("listen for link changes", &error), turn),
        }
        // Before the links are up, for the first advertisement comes at once. A kernel
        // without IPv6 has none.
        self.advertisements = net::advertisements().ok();
        self.look(turn);
        self.publish(turn);
    }

    /// Time servers that leases name.
    pub(crate) fn time_servers(&self) -> Vec<Ipv4Addr> {
        let leases = self
            .active
            .iter()
            .filter_map(|active| active.client.lease());
        leases.flat_map(|lease| lease.ntp.iter().copied()).collect()
    }

    /// The name that a lease gives the machine.
    pub(crate) fn leased_name(&self) -> Option<&str> {
        let mut leases = self
            .active
            .iter()
            .filter_map(|active| active.client.lease());
        leases.find_map(|lease| lease.hostname.as_deref())
    }

    /// Looks for interfaces, and at those in use.
    fn look(&mut self, turn: &mut Turn<'_>) {
        let gone = |active: &Active| !active.interface.link.exists();
        while let Some(place) = self.active.iter().position(gone) {
            let active = self.active.remove(place);
            let why = "the interface has gone".to_owned();
            active.interface.tell(None, why, turn);
        }
        self.find(turn);
        let missing = match self.fixed.len() {
            0 => self.active.is_empty(),
            wanted => self.active.len() < wanted,
        };
        let polls = missing || self.monitor.is_none();
        self.look_at = polls.then(|| turn.now.saturating_add(LOOK_EVERY));
        for active in &mut self.active {
            active.look(turn);
        }
    }

    fn find(&mut self, turn: &mut Turn<'_>) {
        self.looks = self.looks.saturating_add(1);
        self.make(turn);
        for (link, fixed) in self.wanted() {
            let known = |active: &Active| active.interface.link.index == link.index;
            if !self.active.iter().any(known) {
                self.use_link(link, fixed.as_ref(), turn);
            }
        }
        let missing = self.fixed.iter().map(|fixed| fixed.name.as_str());
        let missing =
            missing.filter(|name| !self.active.iter().any(|a| a.interface.link.name == *name));
        let missing: Vec<&str> = missing.collect();
        if self.looks != LOOKS_QUIET || self.active.len() >= self.fixed.len().max(1) {
            return;
        }
        let detail = match missing.as_slice() {
            [] => "no wired interface yet; is its driver among the board's modules?".to_owned(),
            names => format!("no interface {} yet", names.join(", ")),
        };
        let (interface, address) = (String::new(), String::new());
        turn.report.event(Event::Network {
            interface,
            address,
            detail,
            bad: true,
        });
    }

    /// The interfaces that are there and used, with what the image says of them.
    fn wanted(&self) -> Vec<(Link, Option<machine::Interface>)> {
        if self.fixed.is_empty() {
            let links = Link::all_wired(&self.sysfs).into_iter();
            return links.map(|link| (link, None)).collect();
        }
        let fixed = self.fixed.iter();
        let there = fixed.filter_map(|fixed| {
            let link = Link::named(&self.sysfs, &fixed.name)?;
            made::is_whole(&link, fixed).then(|| (link, Some(fixed.clone())))
        });
        there.collect()
    }

    /// Bonds and VLANs whose parts are there by now; the next step finds them as interfaces.
    /// What is refused is tried again with each look; once said is enough.
    fn make(&mut self, turn: &mut Turn<'_>) {
        let refused = made::make(&self.sysfs, &self.fixed);
        for error in &refused {
            if !self.refused.contains(&error.to_string()) {
                tell_kernel(error, turn);
            }
        }
        self.refused = refused.iter().map(ToString::to_string).collect();
    }

    fn use_link(&mut self, link: Link, fixed: Option<&machine::Interface>, turn: &mut Turn<'_>) {
        let metric = match self.active.is_empty() {
            true => 0,
            false => METRIC.saturating_add(link.index),
        };
        let config = Config {
            mac: link.mac,
            hostname: self.hostname.clone(),
            seed: self.seed,
        };
        let six = Dhcp6::new(&link, self.seed);
        match Interface::up(link, metric) {
            Ok(mut interface) => {
                if let Some(fixed) = fixed {
                    interface.fix(fixed, turn);
                }
                self.active.push(Active {
                    members: fixed.and_then(|fixed| Some(Members::of(fixed.bond.as_ref()?))),
                    interface,
                    carrier: false,
                    asks: fixed.is_none_or(|fixed| fixed.dhcp),
                    client: Client::new(config),
                    six,
                    packet: None,
                    arp: None,
                    unicast: None,
                });
            }
            // It is tried again with each look; once said is enough.
            Err(error) if self.looks == 1 => tell_kernel(&error, turn),
            Err(_) => {}
        }
    }

    /// Writes the file of name servers, if anything in it has changed.
    fn publish(&mut self, turn: &mut Turn<'_>) {
        let link = |index: u32| {
            let mut links = self.active.iter().map(|active| &active.interface.link);
            links.find(|link| link.index == index)
        };
        self.names.expire(turn.now, |index| link(index).is_some());
        let fixed = || self.fixed.iter();
        let leases = || {
            self.active.iter().filter_map(|active| {
                Some((active.interface.link.name.as_str(), active.client.lease()?))
            })
        };
        let own = fixed().flat_map(|fixed| {
            fixed.dns.iter().map(|address| Server {
                address: *address,
                link: &fixed.name,
            })
        });
        let leased = leases().flat_map(|(link, lease)| {
            lease.dns.iter().map(move |address| Server {
                address: (*address).into(),
                link,
            })
        });
        let six = self.active.iter().flat_map(|active| {
            let link = active.interface.link.name.as_str();
            active.six.dns().iter().map(move |address| Server {
                address: (*address).into(),
                link,
            })
        });
        let advertised = self.names.servers().filter_map(|(index, address)| {
            Some(Server {
                address: address.into(),
                link: &link(index)?.name,
            })
        });
        let search = fixed().flat_map(|fixed| fixed.search.iter());
        let search = search.chain(leases().flat_map(|(_, lease)| lease.search.iter()));
        let search = search.chain(self.active.iter().flat_map(|active| active.six.search()));
        let search = search.map(String::as_str).chain(self.names.search());
        let text = resolv::text(own.chain(leased).chain(six).chain(advertised), search);
        if self.written.as_ref() != Some(&text) {
            write_resolv(&self.resolv, &text, turn);
            self.written = Some(text);
        }
    }

    fn read_advertisements(&mut self, turn: &mut Turn<'_>) {
        let mut buffer = [0; packet::DATAGRAM_MAX];
        for _ in 0..PER_TURN {
            let Some(Ok((count, source, index, hops))) = self
                .advertisements
                .as_ref()
                .map(|socket| net::receive_advertisement(socket, &mut buffer))
            else {
                break;
            };
            let mut active = self.active.iter_mut();
            let Some(active) = active.find(|active| active.interface.link.index == index) else {
                continue;
            };
            if let Some(advertised) = ra::parse(&buffer[..count], source, hops) {
                let changes = active.six.want(turn.now, advertised.wanted);
                active.interface.apply(changes, turn);
                self.names.add(index, advertised, turn.now);
            }
        }
    }
}

impl Watched for Dhcp {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        let packets = self
            .active
            .iter()
            .flat_map(|active| [&active.packet, &active.arp])
            .filter_map(|packets| Some(packets.as_ref()?.fd()));
        let own = [self.monitor.as_ref(), self.advertisements.as_ref()];
        let six = self.active.iter().filter_map(|active| active.six.fd());
        let fds = own
            .into_iter()
            .flatten()
            .chain(packets)
            .map(AsRawFd::as_raw_fd);
        for fd in fds.chain(six) {
            out.push(libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
        }
    }

    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>) {
        let is = |socket: &OwnedFd| socket.as_raw_fd() == fd;
        if self.monitor.as_ref().is_some_and(is) {
            // What it says does not matter (and may be cut): it says when to look.
            let mut buffer = [0; 4096];
            let monitor = self.monitor.as_ref();
            for _ in 0..PER_TURN {
                if monitor.is_none_or(|monitor| net::receive(monitor, &mut buffer).is_err()) {
                    break;
                }
            }
            self.look(turn);
        } else if self.advertisements.as_ref().is_some_and(is) {
            self.read_advertisements(turn);
        } else {
            for active in &mut self.active {
                let of = |packets: &Option<Packets>| packets.as_ref().is_some_and(|p| is(p.fd()));
                if of(&active.packet) {
                    active.read_packets(turn);
                } else if of(&active.arp) {
                    active.read_arp(turn);
                } else if active.six.fd() == Some(fd) {
                    let changes = active.six.read(turn.now);
                    active.interface.apply(changes, turn);
                }
            }
        }
        self.publish(turn);
    }

    fn deadline(&self) -> Option<Duration> {
        let clients = self
            .active
            .iter()
            .filter_map(|active| active.client.deadline());
        let own = [self.look_at, self.names.deadline()];
        let clients = clients.chain(
            self.active
                .iter()
                .filter_map(|active| active.six.deadline()),
        );
        clients.chain(own.into_iter().flatten()).min()
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        if self.look_at.is_some_and(|at| at <= turn.now) {
            self.look(turn);
        }
        for active in &mut self.active {
            if active.client.deadline().is_some_and(|at| at <= turn.now) {
                active.step(Input::Tick, turn);
            }
            if active.six.deadline().is_some_and(|at| at <= turn.now) {
                let changes = active.six.tick(turn.now);
                active.interface.apply(changes, turn);
            }
        }
        self.publish(turn);
    }
}
