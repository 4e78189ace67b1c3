//! The client's state machine (RFC 2131 section 4.4) on a clock from outside.
//!
//! ```text
//! Idle --link--> Selecting --offer--> Requesting --ack--> Bound --T1--> Renewing --T2--> Rebinding
//!                    ^                    | nak             ^_____________ack____________|   | expiry, nak
//!                    +------- Pause <-----+---------------------------------------------------+
//! ```
//!
//! A lease in hand stays in hand while the link is away and while a new one is asked
//! for; it goes when its time is up or a server says no.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::lease::Lease;
use super::packet::{Kind, Question, Reply};

/// Longest pause between two questions.
const PAUSE_CAP_SECONDS: u32 = 64;
/// Requests without an answer before it begins anew.
const REQUEST_TRIES: u32 = 4;
/// Shortest pause between two attempts to renew (RFC 2131 section 4.4.5).
const RENEW_PAUSE: Duration = Duration::from_secs(60);

const NOBODY_TO_ALL: Destination = Destination::Broadcast {
    from: Ipv4Addr::UNSPECIFIED,
};

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The interface's address.
    pub(crate) mac: [u8; 6],
    /// Sent along, if it is a host name.
    pub(crate) hostname: String,
    /// From which transaction ids and jitter come.
    pub(crate) seed: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    /// The link is there (again).
    LinkUp,
    /// The link is away.
    LinkDown,
    /// A datagram for port 68.
    Packet(&'a [u8]),
    /// Time has passed.
    Tick,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To everybody on the link.
    Broadcast {
        /// Ours, or 0.0.0.0 when none is in use or a new one is asked for.
        from: Ipv4Addr,
    },
    /// From the lease's address to the server.
    Unicast {
        /// Ours.
        from: Ipv4Addr,
        /// The server's.
        to: Ipv4Addr,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this payload.
    Send {
        /// A DHCP message.
        message: Vec<u8>,
        /// To whom.
        to: Destination,
    },
    /// Use this lease, instead of `previous` if there is one.
    Bind {
        /// The lease.
        lease: Lease,
        /// What was in use until now.
        previous: Option<Lease>,
    },
    /// Use this lease no longer.
    Unbind {
        /// The lease.
        lease: Lease,
        /// For people.
        why: &'static str,
    },
    /// Worth a line in the report.
    Note(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Idle,
    /// After a refusal.
    Pause,
    Selecting,
    Requesting {
        offer: Lease,
    },
    Bound,
    Renewing,
    Rebinding,
}

#[derive(Debug, Clone)]
struct Held {
    lease: Lease,
    since: Duration,
}

impl Held {
    fn at(&self, seconds: u32) -> Option<Duration> {
        self.lease.seconds.map(|_| {
            self.since
                .saturating_add(Duration::from_secs(seconds.into()))
        })
    }

    fn expiry(&self) -> Option<Duration> {
        self.at(self.lease.seconds.unwrap_or(0))
    }
}

/// A client on one interface.
#[derive(Debug)]
pub(crate) struct Client {
    config: Config,
    state: State,
    random: u64,
    xid: u32,
    /// When the current question was first asked.
    asked: Duration,
    tries: u32,
    next: Option<Duration>,
    held: Option<Held>,
    /// Refusals in a row.
    naks: u32,
    /// A useless answer to this question was reported: one line is enough.
    noted: bool,
}

impl Client {
    /// Waits for the link.
    pub(crate) fn new(config: Config) -> Client {
        let random = config.seed
            ^ config
                .mac
                .iter()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        Client {
            config,
            state: State::Idle,
            random,
            xid: 0,
            asked: Duration::ZERO,
            tries: 0,
            next: None,
            held: None,
            naks: 0,
            noted: false,
        }
    }

    /// Takes one input at time `now`; what is to be done goes to `out`.
    pub(crate) fn step(&mut self, now: Duration, input: Input<'_>, out: &mut Vec<Action>) {
        match input {
            Input::LinkUp => {
                if self.state == State::Idle {
                    self.discover(now, out);
                }
            }
            Input::LinkDown => {
                self.state = State::Idle;
                self.next = None;
            }
            Input::Packet(bytes) => {
                if let Ok(reply) = Reply::parse(bytes) {
                    self.reply(now, &reply, out);
                }
            }
            Input::Tick => self.tick(now, out),
        }
    }

    /// When it wants a tick.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let expiry = self.held.as_ref().and_then(Held::expiry);
        [self.next, expiry].into_iter().flatten().min()
    }

    /// It waits for an answer.
    pub(crate) fn listens(&self) -> bool {
        !matches!(self.state, State::Idle | State::Pause | State::Bound)
    }

    /// The lease in use.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.held.as_ref().map(|held| &held.lease)
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self
            .held
            .as_ref()
            .and_then(Held::expiry)
            .is_some_and(|expiry| expiry <= now)
        {
            self.lose("the lease has expired", out);
            if matches!(
                self.state,
                State::Bound | State::Renewing | State::Rebinding
            ) {
                return self.discover(now, out);
            }
        }
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        match &self.state {
            State::Idle => self.next = None,
            State::Pause => self.discover(now, out),
            State::Selecting => {
                self.tries = self.tries.saturating_add(1);
                self.ask_discover(now, out);
            }
            State::Requesting { .. } if self.tries >= REQUEST_TRIES => self.discover(now, out),
            State::Requesting { offer } => {
                let offer = offer.clone();
                self.tries += 1;
                self.ask_request(now, &offer, out);
            }
            State::Bound => {
                self.new_question(now);
                self.state = State::Renewing;
                self.ask_renewal(now, out);
            }
            State::Renewing | State::Rebinding => self.ask_renewal(now, out),
        }
    }

    /// A new question: another transaction id, the clock of `secs` at zero.
    fn new_question(&mut self, now: Duration) {
        self.xid = self.roll() as u32;
        self.asked = now;
        self.tries = 0;
        self.noted = false;
    }

    fn discover(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.new_question(now);
        self.state = State::Selecting;
        self.ask_discover(now, out);
    }

    fn ask_discover(&mut self, now: Duration, out: &mut Vec<Action>) {
        let message = Question {
            requested: self.lease().map(|lease| lease.address),
            ..self.question(Kind::Discover, now)
        };
        out.push(Action::Send {
            message: message.build(),
            to: NOBODY_TO_ALL,
        });
        self.next = Some(now.saturating_add(self.pause(self.tries)));
    }

    fn ask_request(&mut self, now: Duration, offer: &Lease, out: &mut Vec<Action>) {
        let message = Question {
            requested: Some(offer.address),
            server: Some(offer.server),
            ..self.question(Kind::Request, now)
        };
        out.push(Action::Send {
            message: message.build(),
            to: NOBODY_TO_ALL,
        });
        self.next = Some(now.saturating_add(self.pause(self.tries)));
    }

    /// Renewing until T2, then rebinding until the end.
    fn ask_renewal(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Some(held) = &self.held else { return };
        let (Some(rebind), Some(expiry)) = (held.at(held.lease.rebind), held.expiry()) else {
            self.next = None;
            return;
        };
        let (from, server) = (held.lease.address, held.lease.server);
        let (to, until) = if now < rebind {
            (Destination::Unicast { from, to: server }, rebind)
        } else {
            self.state = State::Rebinding;
            (Destination::Broadcast { from }, expiry)
        };
        let message = Question {
            client: Some(from),
            ..self.question(Kind::Request, now)
        };
        out.push(Action::Send {
            message: message.build(),
            to,
        });
        let half = until.saturating_sub(now) / 2;
        self.next = Some(now.saturating_add(half.max(RENEW_PAUSE)).min(until));
    }

    fn question(&self, kind: Kind, now: Duration) -> Question<'_> {
        let secs = now.saturating_sub(self.asked).as_secs();
        Question {
            kind,
            xid: self.xid,
            secs: u16::try_from(secs).unwrap_or(u16::MAX),
            mac: self.config.mac,
            client: None,
            requested: None,
            server: None,
            hostname: &self.config.hostname,
        }
    }

    fn reply(&mut self, now: Duration, reply: &Reply, out: &mut Vec<Action>) {
        if !self.listens() || reply.xid != self.xid || reply.mac != self.config.mac {
            return;
        }
        match reply.kind {
            Kind::Offer if self.state == State::Selecting => {
                if let Some(offer) = self.checked(reply, out) {
                    self.asked = now;
                    self.tries = 0;
                    self.ask_request(now, &offer, out);
                    self.state = State::Requesting { offer };
                }
            }
            Kind::Ack => self.acknowledged(reply, out),
            Kind::Nak => self.refused(now, reply, out),
            _ => {}
        }
    }

    fn acknowledged(&mut self, reply: &Reply, out: &mut Vec<Action>) {
        let expected = match &self.state {
            State::Requesting { offer } => Some(offer.server),
            State::Renewing => self.lease().map(|lease| lease.server),
            State::Rebinding => None,
            _ => return,
        };
        let Some(lease) = self.checked(reply, out) else {
            return;
        };
        if expected.is_some_and(|server| server != lease.server) {
            return;
        }
        // Its time runs from the first question, which the server may have answered at once.
        let held = Held {
            lease: lease.clone(),
            since: self.asked,
        };
        self.next = held.at(lease.renew);
        let previous = self.held.replace(held).map(|held| held.lease);
        self.state = State::Bound;
        self.naks = 0;
        out.push(Action::Bind { lease, previous });
    }

    fn refused(&mut self, now: Duration, reply: &Reply, out: &mut Vec<Action>) {
        let from = reply.options.address(super::packet::option::SERVER);
        let expected = match &self.state {
            State::Requesting { offer } => Some(offer.server),
            State::Renewing => self.lease().map(|lease| lease.server),
            State::Rebinding => from,
            _ => return,
        };
        if from != expected {
            return;
        }
        self.lose("the server has refused it", out);
        out.push(Action::Note(
            "a server has refused the request; asking anew".into(),
        ));
        // A server that refuses for ever must not keep the machine busy.
        self.next = Some(now.saturating_add(self.pause(self.naks)));
        self.naks = self.naks.saturating_add(1);
        self.state = State::Pause;
    }

    fn checked(&mut self, reply: &Reply, out: &mut Vec<Action>) -> Option<Lease> {
        match Lease::from_reply(reply) {
            Ok(lease) => Some(lease),
            Err(error) => {
                if !std::mem::replace(&mut self.noted, true) {
                    out.push(Action::Note(format!("answer ignored: {error}")));
                }
                None
            }
        }
    }

    fn lose(&mut self, why: &'static str, out: &mut Vec<Action>) {
        if let Some(held) = self.held.take() {
            out.push(Action::Unbind {
                lease: held.lease,
                why,
            });
        }
    }

    /// 1, 2, 4 … 64 seconds, each by up to an eighth more or less.
    fn pause(&mut self, tries: u32) -> Duration {
        let seconds = 1_u32
            .checked_shl(tries)
            .map_or(PAUSE_CAP_SECONDS, |seconds| seconds.min(PAUSE_CAP_SECONDS));
        let milliseconds = u64::from(seconds) * (875 + self.roll() % 251);
        Duration::from_millis(milliseconds)
    }

    /// splitmix64: transaction ids need to differ between machines and questions, not to be secret.
    fn roll(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
