//! A connection that comes back: name, addresses one after the other, and pauses
//! that grow. Pure but for its [`Wire`].
//!
//! ```text
//! Idle -> Resolving -> Connecting -> Open -> Idle
//!   ^         |            |          |
//!   +--- Pause <-----------+----------+
//! ```

use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Duration;

use super::dns::{Lookup, Servers};
use super::random::Random;
use super::wire::{Transport, Wire};

/// First pause after a failure; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause of our own.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Longest that a peer may ask for (Retry-After).
const PAUSE_ASKED_MAX: Duration = Duration::from_secs(300);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum State<W> {
    Idle,
    Resolving(Lookup<W>),
    Connecting { until: Duration },
    Open,
    Pause { until: Duration },
}

/// Where the connection is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// On the way, or pausing.
    Waits,
    /// Bytes can go.
    Open,
    /// It has just failed, and pauses.
    Failed(String),
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Link<W> {
    host: String,
    port: u16,
    transport: Transport,
    wire: W,
    state: State<W>,
    /// Of the last lookup.
    addresses: Vec<IpAddr>,
    /// Until when they hold.
    fresh: Duration,
    /// Which address is the next.
    turn: usize,
    failures: u32,
    random: Random,
}

impl<W: Wire> Link<W> {
    /// A connection that nobody has asked for yet.
    pub(crate) fn new(
        host: &str,
        port: u16,
        transport: Transport,
        wire: W,
        random: Random,
    ) -> Self {
        let numeric = match host {
            // RFC 6761 section 6.3: a resolver that asks for it would be wrong.
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            _ => host.parse().ok(),
        };
        Self {
            host: host.to_owned(),
            port,
            transport,
            wire,
            state: State::Idle,
            addresses: numeric.into_iter().collect(),
            fresh: if numeric.is_some() {
                Duration::MAX
            } else {
                Duration::ZERO
            },
            turn: 0,
            failures: 0,
            random,
        }
    }

    /// The socket.
    pub(crate) fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// Whether there is a connection, or one is on its way.
    pub(crate) fn is_active(&self) -> bool {
        !matches!(self.state, State::Idle | State::Pause { .. })
    }

    /// Whether bytes can go.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Nobody wants a connection: a pause that is over leaves nothing to wait for.
    pub(crate) fn rest(&mut self, now: Duration) {
        if matches!(self.state, State::Pause { until } if now >= until) {
            self.state = State::Idle;
        }
    }

    /// Whether it pauses after a failure.
    pub(crate) fn is_pausing(&self) -> bool {
        matches!(self.state, State::Pause { .. })
    }

    /// Wants a connection, and goes as far as it can towards one.
    pub(crate) fn advance(&mut self, now: Duration, servers: &dyn Fn() -> Servers) -> Step {
        loop {
            match &mut self.state {
                State::Open => return Step::Open,
                State::Pause { until } if now < *until => return Step::Waits,
                State::Pause { .. } => self.state = State::Idle,
                State::Idle if now < self.fresh && !self.addresses.is_empty() => {
                    if let Some(step) = self.connect(now) {
                        return step;
                    }
                }
                State::Idle => {
                    let lookup = Lookup::new(&self.host, &servers(), self.wire.sibling());
                    self.state = State::Resolving(lookup);
                }
                State::Resolving(lookup) => match lookup.advance(now, &mut self.random) {
                    None => return Step::Waits,
                    Some(Ok((addresses, until))) => {
                        (self.addresses, self.fresh, self.turn) = (addresses, until, 0);
                        self.state = State::Idle;
                    }
                    Some(Err(why)) => return self.failed(now, why),
                },
                State::Connecting { until } => {
                    let until = *until;
                    return match self.wire.connected() {
                        Ok(true) => {
                            self.state = State::Open;
                            Step::Open
                        }
                        Ok(false) if now < until => Step::Waits,
                        Ok(false) => self.failed(now, format!("{}: no answer", self.peer())),
                        Err(error) => self.failed(now, format!("{}: {error}", self.peer())),
                    };
                }
            }
        }
    }

    fn peer(&self) -> String {
        let address = self.addresses.get(self.turn % self.addresses.len().max(1));
        match address {
            Some(&address) => SocketAddr::from((address, self.port)).to_string(),
            None => format!("{}:{}", self.host, self.port),
        }
    }

    fn connect(&mut self, now: Duration) -> Option<Step> {
        let &address = self
            .addresses
            .get(self.turn % self.addresses.len().max(1))?;
        match self
            .wire
            .connect((address, self.port).into(), self.transport)
        {
            Ok(()) => {
                self.state = State::Connecting {
                    until: now + CONNECT_LIMIT,
                };
                None
            }
            Err(error) => Some(self.failed(now, format!("{}: {error}", self.peer()))),
        }
    }

    fn failed(&mut self, now: Duration, why: String) -> Step {
        self.fail(now, None);
        Step::Failed(why)
    }

    /// The connection is no good: it is closed, and the next comes after a pause, of
    /// `asked` at least.
    pub(crate) fn fail(&mut self, now: Duration, asked: Option<Duration>) {
        self.wire.close();
        self.turn = self.turn.wrapping_add(1);
        let whole = PAUSE_FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        // Half of it is drawn: machines that lost their peer at once do not come back at once.
        let half = whole / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        let pause = half + Duration::from_nanos(self.random.next() % nanos);
        let asked = asked.unwrap_or_default().min(PAUSE_ASKED_MAX);
        self.state = State::Pause {
            until: now + pause.max(asked),
        };
    }

    /// The peer took what it got: the next pause is short again.
    pub(crate) fn confirm(&mut self) {
        self.failures = 0;
    }

    /// Nothing is to be sent for now, or the peer has said goodbye.
    pub(crate) fn close(&mut self) {
        self.wire.close();
        self.state = State::Idle;
    }

    /// Something may have changed for the better: a pause ends now.
    pub(crate) fn hurry(&mut self, now: Duration) {
        if let State::Pause { until } = &mut self.state {
            *until = now;
            self.failures = 0;
        }
    }

    /// When it wants to go on by itself.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match &self.state {
            State::Idle | State::Open => None,
            State::Resolving(lookup) => Some(lookup.deadline()),
            State::Connecting { until } | State::Pause { until } => Some(*until),
        }
    }

    /// What to poll, `write` if bytes wait to go.
    pub(crate) fn fd(&self, write: bool) -> Option<(RawFd, i16)> {
        match &self.state {
            State::Idle | State::Pause { .. } => None,
            State::Resolving(lookup) => Some((lookup.fd()?, libc::POLLIN)),
            State::Connecting { .. } => self.wire.connecting(),
            State::Open if write => Some((self.wire.fd()?, libc::POLLIN | libc::POLLOUT)),
            State::Open => Some((self.wire.fd()?, libc::POLLIN)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::wire::testing::Fake;

    const PEER: &str = "10.0.2.2:601";

    fn none() -> Servers {
        Servers::default()
    }

    #[test]
    fn pauses_grow_are_spread_and_have_an_end() {
        let pauses = |seed| -> Vec<Duration> {
            let mut link = Link::new(
                "10.0.2.2",
                601,
                Transport::Stream,
                Fake::new(),
                Random::new(seed),
            );
            let mut now = Duration::from_secs(1);
            let mut pauses = Vec::new();
            for _ in 0..12 {
                assert!(
                    matches!(link.advance(now, &none), Step::Failed(why) if why.starts_with(PEER))
                );
                let until = link.deadline().unwrap();
                assert_eq!(
                    link.advance(until - Duration::from_nanos(1), &none),
                    Step::Waits
                );
                pauses.push(until - now);
                now = until;
            }
            pauses
        };
        let one = pauses(1);
        assert_eq!(one, pauses(1), "a seed gives the same pauses");
        assert_ne!(one, pauses(2));
        for (number, pause) in one.iter().enumerate() {
            let whole = (PAUSE_FIRST * (1 << number)).min(PAUSE_MAX);
            assert!(
                *pause >= whole / 2 && *pause <= whole,
                "{number}: {pause:?}"
            );
        }
    }

    #[test]
    fn it_opens_fails_and_opens_again() {
        let wire = Fake::new();
        let mut link = Link::new(
            "10.0.2.2",
            601,
            Transport::Stream,
            wire.sibling(),
            Random::new(1),
        );
        let mut now = Duration::from_secs(1);
        wire.world.borrow_mut().silent.push(PEER.parse().unwrap());
        assert_eq!(link.advance(now, &none), Step::Waits);
        now += CONNECT_LIMIT;
        assert_eq!(
            link.advance(now, &none),
            Step::Failed(format!("{PEER}: no answer"))
        );
        wire.world.borrow_mut().silent.clear();
        wire.world
            .borrow_mut()
            .listening
            .push(PEER.parse().unwrap());
        link.hurry(now);
        assert_eq!(link.advance(now, &none), Step::Open);
        link.fail(now, Some(Duration::from_secs(100)));
        assert_eq!(link.deadline(), Some(now + Duration::from_secs(100)));
        link.fail(now, Some(Duration::MAX));
        assert_eq!(link.deadline(), Some(now + PAUSE_ASKED_MAX));
    }

    #[test]
    fn a_name_without_servers_fails_and_is_asked_for_again() {
        let mut link = Link::new(
            "logs.a",
            601,
            Transport::Stream,
            Fake::new(),
            Random::new(1),
        );
        let now = Duration::from_secs(1);
        let Step::Failed(why) = link.advance(now, &none) else {
            panic!("no failure");
        };
        assert_eq!(why, "logs.a is not resolved: no name server is known");
        assert!(link.is_pausing());
    }
}
