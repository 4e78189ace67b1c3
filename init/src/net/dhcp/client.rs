//! The client's state machine (RFC 2131 section 4.4) on a clock from outside.
//!
//! ```text
//! Idle --link--> Selecting --offer--> Requesting --ack--> Probing --> Bound --T1--> Renewing --T2--> Rebinding
//!                    ^                    | nak         taken |         ^____________ack___________|   | expiry, nak
//!                    +------- Pause <-----+-----<--decline----+----------------------------------------+
//! ```
//!
//! Before an address is used the link is asked whether somebody has it (RFC 5227); then the
//! server is told (RFC 2131 section 4.4.4) and asked for another. RFC 5227 takes up to seven
//! seconds for that, which radio links may need; a wire answers in a few milliseconds, and
//! every boot would pay.
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

/// How often an address is probed for, how long each time; nobody answers in that time:
/// it is free.
const PROBES: u32 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// From an address that is taken to the next question, at least (RFC 2131 section 3.1.5).
const DECLINE_PAUSE: Duration = Duration::from_secs(10);
/// A second announcement, for whoever missed the first (RFC 5227 section 2.3).
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(2);

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
    /// Somebody with this hardware address has the address that is probed for.
    Taken([u8; 6]),
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
    /// Ask the link who has this address.
    Probe(Ipv4Addr),
    /// Tell the link that it is ours.
    Announce(Ipv4Addr),
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
    Probing {
        lease: Lease,
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
    /// Addresses in a row that somebody has.
    taken: u32,
    /// When the address in use is announced again.
    announce: Option<Duration>,
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
            taken: 0,
            announce: None,
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
                (self.next, self.announce) = (None, None);
            }
            Input::Packet(bytes) => {
                if let Ok(reply) = Reply::parse(bytes) {
                    self.reply(now, &reply, out);
                }
            }
            Input::Taken(by) => self.decline(now, by, out),
            Input::Tick => self.tick(now, out),
        }
    }

    /// When it wants a tick.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let expiry = self.held.as_ref().and_then(Held::expiry);
        let all = [self.next, self.announce, expiry];
        all.into_iter().flatten().min()
    }

    /// It waits for an answer.
    pub(crate) fn listens(&self) -> bool {
        !matches!(
            self.state,
            State::Idle | State::Pause | State::Probing { .. } | State::Bound
        )
    }

    /// The address that it probes for: whoever has it is to be heard.
    pub(crate) fn probes(&self) -> Option<Ipv4Addr> {
        match &self.state {
            State::Probing { lease } => Some(lease.address),
            _ => None,
        }
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
        if self.announce.is_some_and(|at| at <= now) {
            self.announce = None;
            out.extend(self.lease().map(|lease| Action::Announce(lease.address)));
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
            State::Probing { lease } => {
                let lease = lease.clone();
                self.probe(now, lease, out);
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
            Kind::Ack => self.acknowledged(now, reply, out),
            Kind::Nak => self.refused(now, reply, out),
            _ => {}
        }
    }

    fn acknowledged(&mut self, now: Duration, reply: &Reply, out: &mut Vec<Action>) {
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
        let in_use = self.lease().map(|held| held.address) == Some(lease.address);
        let renews = in_use && !matches!(self.state, State::Requesting { .. });
        // A network for one host has nobody who could have the address.
        if renews || lease.prefix == 32 {
            return self.bind(lease, out);
        }
        self.tries = 0;
        self.probe(now, lease, out);
    }

    /// Asks the link once more who has the address, or takes it.
    fn probe(&mut self, now: Duration, lease: Lease, out: &mut Vec<Action>) {
        if self.tries >= PROBES {
            let address = lease.address;
            self.bind(lease, out);
            out.push(Action::Announce(address));
            self.announce = Some(now.saturating_add(ANNOUNCE_AGAIN));
            return;
        }
        self.tries += 1;
        out.push(Action::Probe(lease.address));
        self.next = Some(now.saturating_add(PROBE_PAUSE));
        self.state = State::Probing { lease };
    }

    fn bind(&mut self, lease: Lease, out: &mut Vec<Action>) {
        // Its time runs from the first question, which the server may have answered at once.
        let held = Held {
            lease: lease.clone(),
            since: self.asked,
        };
        self.next = held.at(lease.renew);
        let previous = self.held.replace(held).map(|held| held.lease);
        self.state = State::Bound;
        (self.naks, self.taken) = (0, 0);
        out.push(Action::Bind { lease, previous });
    }

    /// The server learns that the address is of no use, and is asked for another later.
    fn decline(&mut self, now: Duration, by: [u8; 6], out: &mut Vec<Action>) {
        let State::Probing { lease } = &self.state else {
            return;
        };
        let (address, server) = (lease.address, lease.server);
        self.new_question(now);
        let message = Question {
            requested: Some(address),
            server: Some(server),
            ..self.question(Kind::Decline, now)
        };
        out.push(Action::Send {
            message: message.build(),
            to: NOBODY_TO_ALL,
        });
        let [a, b, c, d, e, f] = by;
        let text = format!(
            "{address} is in use by {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}; declined, asking for another"
        );
        if self.lease().is_some_and(|held| held.address == address) {
            self.lose("somebody else has it", out);
        }
        out.push(Action::Note(text));
        // Neither a server that gives nothing else nor a neighbour that claims everything
        // may keep the link busy.
        let pause = DECLINE_PAUSE.max(self.pause(self.taken));
        self.next = Some(now.saturating_add(pause));
        self.taken = self.taken.saturating_add(1);
        self.state = State::Pause;
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
            self.announce = None;
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
