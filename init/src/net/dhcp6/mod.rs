//! DHCPv6 on an interface: the socket around the pure [`client::Client`].

mod client;
pub(super) mod dad;
mod packet;

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

pub(crate) use client::Wanted;
use client::{Action, Client};
pub(crate) use packet::Granted;

use super::link::Link;
use crate::sys::net;

const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
/// All servers and relays on the link.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Packets that one turn takes.
const PER_TURN: usize = 16;

/// What is to be done on the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Put these addresses on, or renew them.
    Bind(Vec<Granted>),
    /// Take these off.
    Unbind(Vec<Granted>),
    /// Take these off: somebody else has them.
    Taken(Vec<Granted>),
}

/// The client of one interface.
#[derive(Debug)]
pub(crate) struct Dhcp6 {
    client: Client,
    name: String,
    index: u32,
    /// Open while an answer is awaited.
    socket: Option<UdpSocket>,
    /// Addresses on the interface, and whether the kernel has found them to be ours alone.
    on: Vec<(Ipv6Addr, bool)>,
}

impl Dhcp6 {
    /// Waits for a router that speaks of a server.
    pub(crate) fn new(link: &Link, seed: u64) -> Dhcp6 {
        Dhcp6 {
            client: Client::new(link.mac, link.index, seed),
            name: link.name.clone(),
            index: link.index,
            socket: None,
            on: Vec::new(),
        }
    }

    /// A router says what servers are good for.
    pub(crate) fn want(&mut self, now: Duration, wanted: Wanted) -> Vec<Change> {
        let mut actions = Vec::new();
        self.client.want(now, wanted, &mut actions);
        self.act(actions)
    }

    /// The link has gone.
    pub(crate) fn link_down(&mut self) {
        self.client.link_down();
        self.socket = None;
    }

    /// The kernel may have found out whose the addresses are.
    pub(crate) fn look(&mut self, now: Duration) -> Vec<Change> {
        if self.on.iter().all(|(_, proven)| *proven) {
            return Vec::new();
        }
        let Ok(list) = std::fs::read_to_string(dad::FILE) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        for (address, proven) in self.on.iter_mut().filter(|(_, proven)| !proven) {
            match dad::state(&list, self.index, *address) {
                dad::State::Unique => *proven = true,
                dad::State::Taken => taken.push(*address),
                dad::State::Tentative => {}
            }
        }
        let mut actions = Vec::new();
        self.client.taken(now, &taken, &mut actions);
        self.act(actions)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Change> {
        let mut actions = Vec::new();
        self.client.tick(now, &mut actions);
        self.act(actions)
    }

    /// Its socket has something.
    pub(crate) fn read(&mut self, now: Duration) -> Vec<Change> {
        let mut buffer = [0; packet::DATAGRAM_MAX];
        let mut actions = Vec::new();
        for _ in 0..PER_TURN {
            let Some(Ok((count, from))) = self.socket.as_ref().map(|s| s.recv_from(&mut buffer))
            else {
                break;
            };
            if from.port() == SERVER_PORT {
                self.client.packet(now, &buffer[..count], &mut actions);
            }
        }
        self.act(actions)
    }

    /// What to poll.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// When it wants a tick.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.client.deadline()
    }

    /// Name servers.
    pub(crate) fn dns(&self) -> &[Ipv6Addr] {
        self.client.dns()
    }

    /// Search domains.
    pub(crate) fn search(&self) -> &[String] {
        self.client.search()
    }

    fn act(&mut self, actions: Vec<Action>) -> Vec<Change> {
        let mut changes = Vec::new();
        for action in actions {
            match action {
                // What cannot be sent is lost like any datagram: it is asked again.
                Action::Send(message) => drop(self.send(&message)),
                Action::Bind(addresses) => {
                    for granted in &addresses {
                        if !self.on.iter().any(|(on, _)| *on == granted.address) {
                            self.on.push((granted.address, false));
                        }
                    }
                    changes.push(Change::Bind(addresses));
                }
                Action::Unbind(addresses) => {
                    self.forget(&addresses);
                    changes.push(Change::Unbind(addresses));
                }
                Action::Taken(addresses) => {
                    self.forget(&addresses);
                    changes.push(Change::Taken(addresses));
                }
                Action::Names => {}
            }
        }
        if !self.client.listens() {
            self.socket = None;
        }
        changes
    }

    fn forget(&mut self, addresses: &[Granted]) {
        let gone = |on: &Ipv6Addr| addresses.iter().any(|granted| granted.address == *on);
        self.on.retain(|(on, _)| !gone(on));
    }

    fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        if self.socket.is_none() {
            self.socket = Some(net::udp6(&self.name, CLIENT_PORT)?);
        }
        let to = SocketAddrV6::new(SERVERS, SERVER_PORT, 0, self.index);
        match &self.socket {
            Some(socket) => socket.send_to(message, to).map(|_| ()),
            None => Ok(()),
        }
    }
}
