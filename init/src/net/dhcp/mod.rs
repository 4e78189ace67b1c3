//! DHCPv4 on the first wired interface: sockets, addresses and the file of name
//! servers around the pure [`client::Client`].
//!
//! The packet socket is open only while an answer is awaited; in between PID 1 sleeps.
//! Link changes come from rtnetlink as wake-ups; what changed is then read from /sys.

mod apply;
mod client;
mod ip;
mod lease;
mod packet;
#[cfg(test)]
mod tests;

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use slipform_init::contract::event::Event;

use super::kernel::KernelError;
use super::link::{self, Link};
use super::resolv;
use crate::sys::net;
use crate::turn::{Turn, Watched};
use apply::{Interface, tell_kernel, write_resolv};
use client::{Action, Client, Config, Destination, Input};

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
    monitor: Option<OwnedFd>,
    active: Option<Active>,
    look_at: Option<Duration>,
    looks: u32,
}

/// The interface in use.
#[derive(Debug)]
struct Active {
    interface: Interface,
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
            monitor: None,
            active: None,
            look_at: None,
            looks: 0,
        }
    }

    /// Begins; also writes an empty resolv.conf, so that the link to it leads somewhere.
    pub(crate) fn start(&mut self, turn: &mut Turn<'_>) {
        write_resolv(&self.resolv, &[], &[], turn);
        match net::netlink(net::GROUP_LINK) {
            Ok(monitor) => self.monitor = Some(monitor),
            Err(error) => tell_kernel(&KernelError::of("listen for link changes", &error), turn),
        }
        self.look(turn);
    }

    /// Looks for an interface, or at the one in use.
    fn look(&mut self, turn: &mut Turn<'_>) {
        if self
            .active
            .as_ref()
            .is_some_and(|active| !active.interface.link.exists())
        {
            self.forget(turn);
        }
        if self.active.is_none() {
            self.find(turn);
        }
        let polls = self.active.is_none() || self.monitor.is_none();
        self.look_at = polls.then(|| turn.now.saturating_add(LOOK_EVERY));
        if let Some(active) = &mut self.active {
            active.look(turn);
        }
    }

    fn find(&mut self, turn: &mut Turn<'_>) {
        self.looks = self.looks.saturating_add(1);
        let Some(link) = Link::first_wired(&self.sysfs) else {
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
        let config = Config {
            mac: link.mac,
            hostname: self.hostname.clone(),
            seed: self.seed,
        };
        match Interface::up(link, self.resolv.clone()) {
            Ok(interface) => {
                let client = Client::new(config);
                self.active = Some(Active {
                    interface,
                    carrier: false,
                    client,
                    packet: None,
                    unicast: None,
                });
                self.looks = 0;
            }
            // It is tried again with each look; once said is enough.
            Err(error) if self.looks == 1 => tell_kernel(&error, turn),
            Err(_) => {}
        }
    }

    /// The interface has gone, and its addresses and routes with it.
    fn forget(&mut self, turn: &mut Turn<'_>) {
        let Some(active) = self.active.take() else {
            return;
        };
        if active.client.lease().is_some() {
            write_resolv(&self.resolv, &[], &[], turn);
        }
        active
            .interface
            .tell(None, "the interface has gone".into(), turn);
    }
}

impl Active {
    /// Reads the carrier.
    fn look(&mut self, turn: &mut Turn<'_>) {
        let carrier = self.interface.link.has_carrier();
        if carrier == std::mem::replace(&mut self.carrier, carrier) {
            return;
        }
        if carrier {
            self.step(Input::LinkUp, turn);
        } else {
            self.interface
                .tell(self.client.lease(), "link is down".into(), turn);
            self.step(Input::LinkDown, turn);
        }
    }

    fn step(&mut self, input: Input<'_>, turn: &mut Turn<'_>) {
        let mut actions = Vec::new();
        self.client.step(turn.now, input, &mut actions);
        if self.client.listens() && self.packet.is_none() {
            match net::packet(self.interface.link.index, ip::CLIENT_PORT) {
                Ok(socket) => self.packet = Some(socket),
                Err(error) => tell_kernel(
                    &KernelError::of("open a packet socket for DHCP", &error),
                    turn,
                ),
            }
        }
        for action in actions {
            match action {
                // What cannot be sent is lost like any datagram: it is asked again. A link
                // that has just gone is no news either.
                Action::Send { message, to } => drop(self.send(&message, to)),
                Action::Bind { lease, previous } => {
                    self.interface.bind(&lease, previous.as_ref(), turn);
                }
                Action::Unbind { lease, why } => self.interface.unbind(&lease, why, turn),
                Action::Note(text) => self.interface.tell(self.client.lease(), text, turn),
            }
        }
        if !self.client.listens() {
            (self.packet, self.unicast) = (None, None);
        }
    }

    fn read_packets(&mut self, turn: &mut Turn<'_>) {
        let mut buffer = [0; packet::DATAGRAM_MAX];
        for _ in 0..PER_TURN {
            let Some(Ok(count)) = self
                .packet
                .as_ref()
                .map(|socket| net::receive(socket, &mut buffer))
            else {
                return;
            };
            if let Some(message) = ip::unwrap(&buffer[..count]) {
                self.step(Input::Packet(message), turn);
            }
        }
    }

    fn send(&mut self, message: &[u8], to: Destination) -> std::io::Result<()> {
        match (to, &self.packet) {
            (Destination::Broadcast { from }, Some(socket)) => {
                net::broadcast(socket, self.interface.link.index, &ip::wrap(from, message))
            }
            (Destination::Broadcast { .. }, None) => Ok(()),
            (Destination::Unicast { from, to }, _) => {
                if self.unicast.is_none() {
                    self.unicast =
                        Some(net::udp(&self.interface.link.name, from, ip::CLIENT_PORT)?);
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
        } else if let Some(active) = &mut self.active
            && active.packet.as_ref().is_some_and(is)
        {
            active.read_packets(turn);
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
        if let Some(active) = &mut self.active
            && active.client.deadline().is_some_and(|at| at <= turn.now)
        {
            active.step(Input::Tick, turn);
        }
    }
}
