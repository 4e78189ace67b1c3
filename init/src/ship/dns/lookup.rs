//! One name's way to its addresses: names, servers, tries; every wait has an end.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::message::{self, Answer, DnsError, Kind, MESSAGE_MAX};
use super::servers::Servers;
use crate::ship::random::Random;
use crate::ship::wire::{Transport, Wire, is_later};

/// How long one server may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long the second address family may take once the first is there.
const SECOND_LIMIT: Duration = Duration::from_millis(300);
/// Times that every server is asked.
const ROUNDS: usize = 2;
/// Datagrams that are looked at in one turn.
const DATAGRAMS_PER_TURN: usize = 16;
/// How long addresses may be used, whatever the server says.
const TTL_LEAST: u32 = 5;
const TTL_MOST: u32 = 3600;

const KINDS: [Kind; 2] = [Kind::A, Kind::Aaaa];

/// The addresses, and until when they hold.
pub(crate) type Found = (Vec<IpAddr>, Duration);

/// A search that is under way.
#[derive(Debug)]
pub(crate) struct Lookup<W> {
    wire: W,
    servers: Vec<SocketAddr>,
    names: Vec<String>,
    /// Which name, and which try for it.
    name: usize,
    attempt: usize,
    ids: [u16; 2],
    answers: [Option<Result<Answer, DnsError>>; 2],
    asked: bool,
    until: Duration,
    seen: String,
}

impl<W: Wire> Lookup<W> {
    /// Looks for `host`.
    pub(crate) fn new(host: &str, servers: &Servers, wire: W) -> Self {
        Self {
            wire,
            servers: servers.addresses.clone(),
            names: servers.candidates(host),
            name: 0,
            attempt: 0,
            ids: [0; 2],
            answers: [None, None],
            asked: false,
            until: Duration::ZERO,
            seen: "no name server is known".to_owned(),
        }
    }

    /// To poll.
    pub(crate) fn fd(&self) -> Option<std::os::fd::RawFd> {
        self.wire.fd()
    }

    /// When it wants to go on.
    pub(crate) fn deadline(&self) -> Duration {
        if self.asked {
            self.until
        } else {
            Duration::ZERO
        }
    }

    /// Goes as far as it can; `None`: it waits.
    pub(crate) fn advance(
        &mut self,
        now: Duration,
        random: &mut Random,
    ) -> Option<Result<Found, String>> {
        // Each round asks one server once; their number is bounded, and so is this.
        loop {
            if !self.asked {
                let name = self.names.get(self.name)?.clone();
                if self.servers.is_empty() || self.attempt >= self.servers.len() * ROUNDS {
                    return Some(Err(format!("{name} is not resolved: {}", self.seen)));
                }
                self.ask(&name, now, random);
            }
            self.listen();
            if let Some(found) = self.settled(now) {
                return Some(Ok(found));
            }
            if self.asked {
                return None;
            }
            if self.name >= self.names.len() {
                let name = self.names.last().map_or("", String::as_str);
                return Some(Err(format!("{name} is not resolved: {}", self.seen)));
            }
        }
    }

    fn ask(&mut self, name: &str, now: Duration, random: &mut Random) {
        self.asked = true;
        self.answers = [None, None];
        self.until = now + ANSWER_LIMIT;
        let Some(&server) = self.servers.get(self.attempt % self.servers.len()) else {
            return;
        };
        let mut sent = self.wire.connect(server, Transport::Datagram);
        for (id, kind) in self.ids.iter_mut().zip(KINDS) {
            *id = (random.next() >> 24) as u16;
            if let (Ok(()), Some(bytes)) = (&sent, message::query(*id, name, kind)) {
                sent = self.wire.send(&bytes).map(|_| ());
            }
        }
        if let Err(error) = sent {
            // Without a route, say: the next server, or later.
            self.seen = format!("{server}: {error}");
            self.until = now;
        } else {
            self.seen = format!("{server} does not answer");
        }
    }

    fn listen(&mut self) {
        let Some(name) = self.names.get(self.name) else {
            return;
        };
        let mut buffer = [0; MESSAGE_MAX];
        for _ in 0..DATAGRAMS_PER_TURN {
            let length = match self.wire.receive(&mut buffer) {
                Ok(length) => length,
                Err(error) if is_later(&error) => return,
                Err(error) => {
                    // Nobody listens there: why wait?
                    self.seen = error.to_string();
                    self.until = Duration::ZERO;
                    return;
                }
            };
            let bytes = buffer.get(..length).unwrap_or_default();
            for ((slot, id), kind) in self.answers.iter_mut().zip(self.ids).zip(KINDS) {
                match message::answer(bytes, id, name, kind) {
                    Err(DnsError::Foreign) => {}
                    answer => {
                        slot.get_or_insert(answer);
                    }
                }
            }
        }
    }

    /// What both answers together mean: addresses, the next name, the next server, or waiting.
    fn settled(&mut self, now: Duration) -> Option<Found> {
        let both = self.answers.iter().all(Option::is_some);
        let one = self.answers.iter().flatten().any(|answer| {
            answer
                .as_ref()
                .is_ok_and(|answer| !answer.addresses.is_empty())
        });
        if one && !both {
            self.until = self.until.min(now + SECOND_LIMIT);
        }
        if !both && now < self.until {
            return None;
        }
        self.asked = false;
        self.wire.close();
        let mut addresses = Vec::new();
        let mut ttl = TTL_MOST;
        let mut answered = false;
        for answer in self.answers.iter().flatten() {
            match answer {
                Ok(answer) => {
                    answered = true;
                    addresses.extend(&answer.addresses);
                    if !answer.addresses.is_empty() {
                        ttl = ttl.min(answer.ttl);
                    }
                }
                Err(DnsError::NoName) => {
                    answered = true;
                    self.seen = DnsError::NoName.to_string();
                }
                Err(error) => self.seen = error.to_string(),
            }
        }
        if !addresses.is_empty() {
            let ttl = Duration::from_secs(u64::from(ttl.max(TTL_LEAST)));
            return Some((addresses, now + ttl));
        }
        if answered {
            if !matches!(self.answers, [Some(Err(_)), _]) {
                self.seen = "the name has no address".to_owned();
            }
            self.name += 1;
            self.attempt = 0;
        } else {
            self.attempt += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::testing::reply;
    use super::*;
    use crate::ship::wire::testing::Fake;

    const FIRST: &str = "10.0.2.3:53";
    const SECOND: &str = "10.0.2.4:53";

    struct Net {
        wire: Fake,
        lookup: Lookup<Fake>,
        random: Random,
        now: Duration,
    }

    impl Net {
        fn new(host: &str, search: &[&str]) -> Self {
            let wire = Fake::new();
            let servers = Servers {
                addresses: vec![FIRST.parse().unwrap(), SECOND.parse().unwrap()],
                search: search.iter().map(|&name| name.to_owned()).collect(),
            };
            Self {
                lookup: Lookup::new(host, &servers, wire.sibling()),
                wire,
                random: Random::new(7),
                now: Duration::from_secs(100),
            }
        }

        fn turn(&mut self) -> Option<Result<Found, String>> {
            self.lookup.advance(self.now, &mut self.random)
        }

        /// The queries that waited at `server`, which are taken.
        fn queries(&self, server: &str) -> Vec<Vec<u8>> {
            let to = server.parse().unwrap();
            let mut world = self.wire.world.borrow_mut();
            let (here, rest) = std::mem::take(&mut world.sent)
                .into_iter()
                .partition(|(address, _)| *address == to);
            world.sent = rest;
            let here: Vec<(SocketAddr, Vec<u8>)> = here;
            here.into_iter()
                .map(|(_, bytes)| bytes)
                .filter(|bytes| !bytes.is_empty())
                .collect()
        }

        fn answer(&self, server: &str, bytes: Vec<u8>) {
            let from = server.parse().unwrap();
            self.wire
                .world
                .borrow_mut()
                .answers
                .push_back((from, bytes));
        }
    }

    #[test]
    fn both_families_are_asked_and_come_in_order() {
        let mut net = Net::new("logs.example.org", &[]);
        assert!(net.turn().is_none());
        let queries = net.queries(FIRST);
        assert_eq!(queries.len(), 2);
        let v6 = "fd00::1".parse::<std::net::Ipv6Addr>().unwrap();
        net.answer(
            FIRST,
            reply(&queries[1], 0, &[(b"", 28, 9000, &v6.octets())]),
        );
        net.answer(FIRST, reply(&queries[0], 0, &[(b"", 1, 60, &[1, 2, 3, 4])]));
        let (addresses, until) = net.turn().unwrap().unwrap();
        assert_eq!(addresses, ["1.2.3.4".parse::<IpAddr>().unwrap(), v6.into()]);
        assert_eq!(until, net.now + Duration::from_secs(60));
    }

    #[test]
    fn one_family_is_enough_after_a_moment() {
        let mut net = Net::new("logs.example.org", &[]);
        assert!(net.turn().is_none());
        let queries = net.queries(FIRST);
        net.answer(FIRST, reply(&queries[0], 0, &[(b"", 1, 0, &[1, 2, 3, 4])]));
        assert!(net.turn().is_none());
        net.now += SECOND_LIMIT;
        let (addresses, until) = net.turn().unwrap().unwrap();
        assert_eq!(addresses.len(), 1);
        assert_eq!(until, net.now + Duration::from_secs(5));
    }

    #[test]
    fn a_silent_or_broken_server_is_followed_by_the_next_and_then_it_ends() {
        let mut net = Net::new("logs.example.org", &[]);
        assert!(net.turn().is_none());
        for query in net.queries(FIRST) {
            net.answer(FIRST, reply(&query, 2, &[]));
        }
        assert!(net.turn().is_none());
        assert_eq!(net.queries(SECOND).len(), 2, "the next server at once");
        let end = net.now + Duration::from_secs(60);
        let error = loop {
            net.now = net.lookup.deadline().max(net.now);
            assert!(net.now < end);
            if let Some(result) = net.turn() {
                break result.unwrap_err();
            }
        };
        assert_eq!(
            error,
            "logs.example.org is not resolved: 10.0.2.4:53 does not answer"
        );
    }

    #[test]
    fn short_names_are_searched() {
        let mut net = Net::new("logs", &["a.b"]);
        assert!(net.turn().is_none());
        for query in net.queries(FIRST) {
            assert!(query.windows(5).any(|part| part == b"logs\x01"));
            net.answer(FIRST, reply(&query, 3, &[]));
        }
        assert!(net.turn().is_none());
        let queries = net.queries(FIRST);
        assert_eq!(queries.len(), 2);
        for query in queries {
            assert!(!query.windows(5).any(|part| part == b"logs\x01"));
            net.answer(FIRST, reply(&query, 3, &[]));
        }
        let error = net.turn().unwrap().unwrap_err();
        assert_eq!(error, "logs is not resolved: there is no such name");
    }

    #[test]
    fn a_real_server_is_asked_and_a_closed_port_is_noticed() {
        use std::net::UdpSocket;
        use std::time::Instant;

        use crate::ship::wire::Socket;

        let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = Servers {
            addresses: vec![closed.local_addr().unwrap(), server.local_addr().unwrap()],
            search: Vec::new(),
        };
        drop(closed);
        let answers = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for _ in 0..2 {
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                let query = &buffer[..length];
                let records: &[(&[u8], u16, u32, &[u8])] = &[(b"", 1, 30, &[10, 1, 2, 3])];
                let is_a = query[length - 3] == 1;
                let answer = reply(query, 0, if is_a { records } else { &[] });
                // Somebody else's answer comes first.
                server.send_to(&[0; 40], from).unwrap();
                server.send_to(&answer, from).unwrap();
            }
        });
        let mut lookup = Lookup::new("logs.example.org", &servers, Socket::default());
        let (mut random, start) = (Random::new(3), Instant::now());
        let found = loop {
            if let Some(found) = lookup.advance(start.elapsed(), &mut random) {
                break found;
            }
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        };
        answers.join().unwrap();
        assert_eq!(found.unwrap().0, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
        assert!(
            start.elapsed() < ANSWER_LIMIT,
            "nobody waited for the closed port"
        );
    }

    #[test]
    fn without_servers_it_says_so() {
        let mut lookup = Lookup::new("logs", &Servers::default(), Fake::new());
        let error = lookup
            .advance(Duration::ZERO, &mut Random::new(1))
            .unwrap()
            .unwrap_err();
        assert_eq!(error, "logs is not resolved: no name server is known");
    }
}
