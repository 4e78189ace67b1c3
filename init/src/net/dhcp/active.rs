//! One interface in use: the client's wishes carried out by sockets and the kernel.

use std::net::{Ipv4Addr, UdpSocket};

use super::apply::{Interface, tell_kernel};
use super::client::{Action, Client, Destination, Input};
use super::{PER_TURN, arp, ip, packet};
use crate::net::dhcp6::Dhcp6;
use crate::net::kernel::KernelError;
use crate::net::made::Members;
use crate::sys::net;
use crate::sys::packet::Packets;
use crate::turn::Turn;

/// An interface in use.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) interface: Interface,
    /// Of a bond.
    pub(super) members: Option<Members>,
    pub(super) carrier: bool,
    /// It asks for a lease.
    pub(super) asks: bool,
    pub(super) client: Client,
    pub(super) six: Dhcp6,
    pub(super) packet: Option<Packets>,
    /// Open while an address is probed for.
    pub(super) arp: Option<Packets>,
    /// Sends renewals; what comes in on it is read through `packet`, but while it is
    /// open the kernel does not answer the server with "port unreachable".
    pub(super) unicast: Option<UdpSocket>,
}

impl Active {
    /// Reads the carrier, and what has become of new addresses.
    pub(super) fn look(&mut self, turn: &mut Turn<'_>) {
        let changes = self.six.look(turn.now);
        self.interface.apply(changes, turn);
        self.interface.check_own(turn);
        let link = &self.interface.link;
        let told = self.members.as_mut().and_then(|all| all.look(link));
        if let Some((text, bad)) = told {
            self.interface.say(self.client.lease(), text, bad, turn);
        }
        let carrier = self.interface.link.has_carrier();
        if carrier == std::mem::replace(&mut self.carrier, carrier) {
            return;
        }
        if carrier {
            if self.asks {
                self.step(Input::LinkUp, turn);
            }
        } else {
            self.interface
                .say(self.client.lease(), "link is down".into(), true, turn);
            self.step(Input::LinkDown, turn);
            self.six.link_down();
        }
    }

    pub(super) fn step(&mut self, input: Input<'_>, turn: &mut Turn<'_>) {
        let mut actions = Vec::new();
        self.client.step(turn.now, input, &mut actions);
        if self.client.listens() && self.packet.is_none() {
            match Packets::udp(self.interface.link.index, ip::CLIENT_PORT) {
                Ok(socket) => self.packet = Some(socket),
                Err(error) => tell_kernel(
                    &KernelError::of("open a packet socket for DHCP", &error),
                    turn,
                ),
            }
        }
        self.hear_of(self.client.probes());
        for action in actions {
            match action {
                Action::Probe(address) => self.tell_link(address, arp::probe),
                Action::Announce(address) => self.tell_link(address, arp::announcement),
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

    /// Listens to whoever has this address, and to nobody else.
    fn hear_of(&mut self, address: Option<Ipv4Addr>) {
        match (address, &self.arp) {
            (None, _) => self.arp = None,
            // Without a socket nobody is heard: the address is used unprobed, as if the link
            // were silent.
            (Some(address), None) => {
                self.arp = Packets::arp(self.interface.link.index, address).ok();
            }
            (Some(_), Some(_)) => {}
        }
    }

    fn tell_link(&mut self, address: Ipv4Addr, packet: fn([u8; 6], Ipv4Addr) -> Vec<u8>) {
        let link = &self.interface.link;
        let packet = packet(link.mac, address);
        match &self.arp {
            Some(socket) => drop(socket.broadcast(&packet)),
            None => drop(Packets::arp(link.index, address).map(|s| s.broadcast(&packet))),
        }
    }

    pub(super) fn read_arp(&mut self, turn: &mut Turn<'_>) {
        let mut buffer = [0; 64];
        for _ in 0..PER_TURN {
            let (Some(socket), Some(address)) = (&self.arp, self.client.probes()) else {
                return;
            };
            let Ok(count) = net::receive(socket.fd(), &mut buffer) else {
                return;
            };
            if let Some(by) = arp::owner(&buffer[..count], self.interface.link.mac, address) {
                self.step(Input::Taken(by), turn);
            }
        }
    }

    pub(super) fn read_packets(&mut self, turn: &mut Turn<'_>) {
        let mut buffer = [0; packet::DATAGRAM_MAX];
        for _ in 0..PER_TURN {
            let Some(Ok(count)) = self
                .packet
                .as_ref()
                .map(|socket| net::receive(socket.fd(), &mut buffer))
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
                socket.broadcast(&ip::wrap(from, message))
            }
            // A decline waits for no answer, and is sent while nobody listens.
            (Destination::Broadcast { from }, None) => {
                Packets::udp(self.interface.link.index, ip::CLIENT_PORT)?
                    .broadcast(&ip::wrap(from, message))
            }
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
