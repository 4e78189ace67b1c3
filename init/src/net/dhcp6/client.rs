//! The client's state machine (RFC 8415 section 18.2) on a clock from outside. It begins
//! where a router's advertisement says that there is a server.
//!
//! ```text
//! Off --O--> Informing --reply--> Informed --refresh--> Informing
//!  '---M--> Soliciting --advertise--> Requesting --reply--> Bound --T1--> Renewing --T2--> Rebinding
//!               ^------------------------ expiry ------------------------------------------'
//! Bound --somebody has it--> Declined --a pause--> Soliciting
//! ```

use std::net::Ipv6Addr;
use std::time::Duration;

use super::packet::{Granted, Kind, Question, Reply};

/// First pause between questions; it doubles.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_CAP: Duration = Duration::from_secs(120);
/// Requests without an answer before another server is looked for.
const REQUEST_TRIES: u32 = 10;
/// Names are asked for again after a day, or as the server says, but not all the time.
const REFRESH: u32 = 86_400;
const REFRESH_MIN: u32 = 600;
/// Shortest time between renewals.
const RENEW_MIN: u32 = 10;
const INFINITE: u32 = u32::MAX;
/// From an address that somebody has to the next question, so that a server that gives no
/// other does not keep the link busy.
const DECLINE_PAUSE: Duration = Duration::from_secs(10);

/// What a router says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// There is no server.
    Nothing,
    /// It knows names (flag O).
    Names,
    /// It gives addresses, too (flag M).
    Addresses,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this to all servers on the link.
    Send(Vec<u8>),
    /// Put these addresses on, or renew them.
    Bind(Vec<Granted>),
    /// Take these off.
    Unbind(Vec<Granted>),
    /// Take these off: somebody else has them.
    Taken(Vec<Granted>),
    /// The names have changed.
    Names,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    Informing,
    Informed,
    Soliciting,
    Requesting,
    Bound,
    Renewing,
    Rebinding,
    Declined,
}

/// A client on one interface.
#[derive(Debug)]
pub(crate) struct Client {
    duid: Vec<u8>,
    iaid: u32,
    random: u64,
    wanted: Wanted,
    state: State,
    xid: u32,
    asked: Duration,
    tries: u32,
    next: Option<Duration>,
    server: Vec<u8>,
    held: Vec<Granted>,
    rebind: Option<Duration>,
    expiry: Option<Duration>,
    dns: Vec<Ipv6Addr>,
    search: Vec<String>,
}

impl Client {
    /// For the interface with this hardware address; waits for [`Client::want`].
    pub(crate) fn new(mac: [u8; 6], iaid: u32, seed: u64) -> Client {
        // DUID-LL: type 3, hardware type 1 (RFC 8415 section 11.4).
        let duid = [&[0, 3, 0, 1], &mac[..]].concat();
        Client {
            duid,
            iaid,
            random: seed ^ u64::from(iaid),
            wanted: Wanted::Nothing,
            state: State::Off,
            xid: 0,
            asked: Duration::ZERO,
            tries: 0,
            next: None,
            server: Vec::new(),
            held: Vec::new(),
            rebind: None,
            expiry: None,
            dns: Vec::new(),
            search: Vec::new(),
        }
    }

    /// A router says what servers are good for. More than before begins anew; less is
    /// believed when the link comes back.
    pub(crate) fn want(&mut self, now: Duration, wanted: Wanted, out: &mut Vec<Action>) {
        if wanted <= self.wanted {
            return;
        }
        self.wanted = wanted;
        self.begin(now, out);
    }

    /// The link has gone: whatever router is there when it comes back will say.
    pub(crate) fn link_down(&mut self) {
        (self.wanted, self.state, self.next) = (Wanted::Nothing, State::Off, None);
    }

    /// It waits for an answer.
    pub(crate) fn listens(&self) -> bool {
        !matches!(
            self.state,
            State::Off | State::Informed | State::Bound | State::Declined
        )
    }

    /// When it wants a tick.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        [self.next, self.expiry].into_iter().flatten().min()
    }

    /// Name servers.
    pub(crate) fn dns(&self) -> &[Ipv6Addr] {
        &self.dns
    }

    /// Search domains.
    pub(crate) fn search(&self) -> &[String] {
        &self.search
    }

    /// Addresses in use.
    #[cfg(test)]
    pub(crate) fn held(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        self.held.iter().map(|granted| granted.address)
    }

    /// The kernel has found that somebody else has these (RFC 4862 section 5.4): the server
    /// learns it (RFC 8415 section 18.2.8), and is asked for others later. It is told once;
    /// one that misses it gives the address again, and is told again.
    pub(crate) fn taken(&mut self, now: Duration, addresses: &[Ipv6Addr], out: &mut Vec<Action>) {
        let is_taken = |granted: &Granted| addresses.contains(&granted.address);
        let (taken, left): (Vec<_>, Vec<_>) = self.held.drain(..).partition(is_taken);
        self.held = left;
        if taken.is_empty() {
            return;
        }
        self.xid = self.roll() as u32 & 0x00ff_ffff;
        let question = Question {
            kind: Kind::Decline,
            xid: self.xid,
            duid: &self.duid,
            server: Some(&self.server),
            iaid: Some(self.iaid),
            addresses: &taken,
            elapsed: 0,
        };
        out.push(Action::Send(question.build()));
        out.push(Action::Taken(taken));
        if self.held.is_empty() {
            self.expiry = None;
        }
        if self.state != State::Off {
            self.state = State::Declined;
            self.next = Some(now.saturating_add(DECLINE_PAUSE));
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.expiry.is_some_and(|expiry| expiry <= now) {
            self.expiry = None;
            out.push(Action::Unbind(std::mem::take(&mut self.held)));
            if self.state != State::Off {
                return self.begin(now, out);
            }
        }
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        match self.state {
            State::Off => self.next = None,
            State::Informed | State::Declined => self.begin(now, out),
            State::Bound => self.question(now, State::Renewing, out),
            State::Renewing if self.rebind.is_some_and(|rebind| rebind <= now) => {
                self.question(now, State::Rebinding, out);
            }
            State::Requesting if self.tries >= REQUEST_TRIES => self.begin(now, out),
            _ => self.ask(now, out),
        }
    }

    /// A datagram of a server.
    pub(crate) fn packet(&mut self, now: Duration, bytes: &[u8], out: &mut Vec<Action>) {
        if !self.listens() {
            return;
        }
        let Some(reply) = Reply::parse(bytes, &self.duid, self.iaid) else {
            return;
        };
        if reply.xid != self.xid {
            return;
        }
        match self.state {
            State::Informing if !reply.advertises => {
                let refresh = reply.refresh.unwrap_or(REFRESH).max(REFRESH_MIN);
                self.names(&reply, out);
                self.state = State::Informed;
                self.next = later(now, refresh);
            }
            State::Soliciting if reply.advertises && !reply.addresses.is_empty() => {
                self.server.clone_from(&reply.server);
                self.question(now, State::Requesting, out);
            }
            State::Soliciting if !reply.advertises && reply.rapid => self.bind(reply, now, out),
            // A server that advertises an address and then grants none: the question is
            // repeated, ever less often. To begin anew at once would be a storm.
            State::Requesting if !reply.addresses.iter().any(|granted| granted.valid > 0) => {}
            // What a reply does not mention stays as it is (RFC 8415 section 18.2.10.1).
            State::Renewing | State::Rebinding if reply.addresses.is_empty() => {}
            State::Requesting | State::Renewing
                if !reply.advertises && reply.server == self.server =>
            {
                self.bind(reply, now, out);
            }
            State::Rebinding if !reply.advertises => self.bind(reply, now, out),
            _ => {}
        }
    }

    fn begin(&mut self, now: Duration, out: &mut Vec<Action>) {
        match self.wanted {
            Wanted::Nothing => (self.state, self.next) = (State::Off, None),
            Wanted::Names => self.question(now, State::Informing, out),
            Wanted::Addresses => self.question(now, State::Soliciting, out),
        }
    }

    fn bind(&mut self, mut reply: Reply, now: Duration, out: &mut Vec<Action>) {
        reply.addresses.retain(|granted| granted.valid > 0);
        let gone = |old: &Granted| !reply.addresses.iter().any(|new| new.address == old.address);
        let (gone, _): (Vec<_>, Vec<_>) = self.held.drain(..).partition(gone);
        if !gone.is_empty() {
            out.push(Action::Unbind(gone));
        }
        self.names(&reply, out);
        let Some(shortest) = reply.addresses.iter().map(|granted| granted.valid).min() else {
            self.expiry = None;
            return self.begin(now, out);
        };
        let (renew, rebind) = match reply.timers {
            (renew, rebind) if 0 < renew && renew <= rebind && rebind <= shortest => {
                (renew, rebind)
            }
            _ => (shortest / 2, shortest - shortest / 5),
        };
        self.server = reply.server;
        self.state = State::Bound;
        self.next = later(now, renew.max(RENEW_MIN));
        self.rebind = later(now, rebind);
        self.expiry = later(now, shortest);
        self.held.clone_from(&reply.addresses);
        out.push(Action::Bind(reply.addresses));
    }

    fn names(&mut self, reply: &Reply, out: &mut Vec<Action>) {
        if self.dns != reply.dns || self.search != reply.search {
            self.dns.clone_from(&reply.dns);
            self.search.clone_from(&reply.search);
            out.push(Action::Names);
        }
    }

    /// A question of its own: another transaction, the clock at zero.
    fn question(&mut self, now: Duration, state: State, out: &mut Vec<Action>) {
        self.state = state;
        self.xid = self.roll() as u32 & 0x00ff_ffff;
        (self.asked, self.tries) = (now, 0);
        self.ask(now, out);
    }

    fn ask(&mut self, now: Duration, out: &mut Vec<Action>) {
        let kind = match self.state {
            State::Informing => Kind::Inform,
            State::Soliciting => Kind::Solicit,
            State::Requesting => Kind::Request,
            State::Renewing => Kind::Renew,
            State::Rebinding => Kind::Rebind,
            State::Off | State::Informed | State::Bound | State::Declined => return,
        };
        let elapsed = now.saturating_sub(self.asked).as_millis() / 10;
        let question = Question {
            kind,
            xid: self.xid,
            duid: &self.duid,
            server: matches!(kind, Kind::Request | Kind::Renew).then_some(&self.server),
            iaid: (kind != Kind::Inform).then_some(self.iaid),
            addresses: &self.held,
            elapsed: u16::try_from(elapsed).unwrap_or(u16::MAX),
        };
        out.push(Action::Send(question.build()));
        let pause = PAUSE_FIRST
            .saturating_mul(1 << self.tries.min(8))
            .min(PAUSE_CAP);
        // By up to a tenth more or less (section 15).
        let pause = pause * (900 + (self.roll() % 201) as u32) / 1000;
        self.tries = self.tries.saturating_add(1);
        let next = now.saturating_add(pause);
        self.next = Some(match (self.state, self.rebind) {
            (State::Renewing, Some(rebind)) => next.min(rebind.max(now + Duration::from_millis(1))),
            _ => next,
        });
    }

    /// splitmix64.
    fn roll(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn later(now: Duration, seconds: u32) -> Option<Duration> {
    (seconds != INFINITE).then(|| now.saturating_add(Duration::from_secs(seconds.into())))
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::reply;
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn sent(out: &mut Vec<Action>) -> Option<(u8, u32)> {
        let place = out
            .iter()
            .position(|action| matches!(action, Action::Send(_)))?;
        let Action::Send(bytes) = out.remove(place) else {
            return None;
        };
        Some((
            bytes[0],
            u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]),
        ))
    }

    fn bound(valid: u32) -> (Client, Vec<Action>) {
        let (mut client, mut out) = (Client::new(MAC, 2, 1), Vec::new());
        client.want(seconds(0), Wanted::Addresses, &mut out);
        let (kind, xid) = sent(&mut out).expect("a question");
        assert_eq!(kind, Kind::Solicit as u8);
        client.packet(
            seconds(1),
            &reply(Kind::Advertise, xid, &DUID, 2, valid),
            &mut out,
        );
        let (kind, xid) = sent(&mut out).expect("a request");
        assert_eq!(kind, Kind::Request as u8);
        client.packet(
            seconds(2),
            &reply(Kind::Reply, xid, &DUID, 2, valid),
            &mut out,
        );
        (client, out)
    }

    #[test]
    fn an_address_is_taken_renewed_rebound_and_lost() {
        let (mut client, mut out) = bound(2000);
        assert!(
            matches!(&out[..], [Action::Names, Action::Bind(held)] if held[0].valid == 2000),
            "{out:?}"
        );
        assert_eq!(client.dns().len(), 1);
        out.clear();
        assert_eq!(client.deadline(), Some(seconds(1002)));
        client.tick(seconds(1002), &mut out);
        let (kind, xid) = sent(&mut out).expect("a renewal");
        assert_eq!(kind, Kind::Renew as u8);
        client.packet(
            seconds(1003),
            &reply(Kind::Reply, xid, &DUID, 2, 2000),
            &mut out,
        );
        assert!(matches!(&out[..], [Action::Bind(_)]), "{out:?}");
        out.clear();
        let mut kinds = Vec::new();
        while let Some(at) = client.deadline().filter(|at| *at <= seconds(3003)) {
            client.tick(at, &mut out);
            kinds.extend(sent(&mut out).map(|(kind, _)| kind));
        }
        assert!(kinds.starts_with(&[Kind::Renew as u8]));
        assert!(kinds.contains(&(Kind::Rebind as u8)));
        assert_eq!(
            kinds.last(),
            Some(&(Kind::Solicit as u8)),
            "after the end it asks anew"
        );
        assert!(out.iter().any(|action| matches!(action, Action::Unbind(_))));
        assert!(kinds.len() < 50, "{}", kinds.len());
    }

    #[test]
    fn an_address_that_somebody_has_is_declined_and_another_asked_for_later() {
        let (mut client, mut out) = bound(2000);
        out.clear();
        let ours: Vec<_> = client.held().collect();
        client.taken(seconds(3), &["fd00::99".parse().expect("one")], &mut out);
        assert!(out.is_empty() && client.held().count() == 1);
        client.taken(seconds(3), &ours, &mut out);
        let [Action::Send(message), Action::Taken(taken)] = &out[..] else {
            panic!("{out:?}")
        };
        assert_eq!((message[0], taken[0].address), (9, ours[0]));
        let has = |part: &[u8]| message.windows(part.len()).any(|window| window == part);
        assert!(has(&ours[0].octets()) && has(b"server") && has(&DUID));
        assert!(!client.listens() && client.held().count() == 0);
        out.clear();
        assert_eq!(client.deadline(), Some(seconds(13)));
        client.tick(seconds(13), &mut out);
        let kind = sent(&mut out).map(|(kind, _)| kind);
        assert_eq!(kind, Some(Kind::Solicit as u8));
    }

    #[test]
    fn a_server_that_grants_nothing_starts_no_storm() {
        let (mut client, mut out) = (Client::new(MAC, 2, 1), Vec::new());
        client.want(seconds(0), Wanted::Addresses, &mut out);
        let mut questions = 0;
        let mut now = seconds(0);
        while now < seconds(600) {
            // Every question is answered at once: an address is advertised, none granted.
            while let Some((kind, xid)) = sent(&mut out) {
                questions += 1;
                assert!(questions < 1000, "a storm");
                let (answer, valid) = match kind {
                    1 => (Kind::Advertise, 100),
                    _ => (Kind::Reply, 0),
                };
                let bytes = reply(answer, xid, &DUID, 2, valid);
                client.packet(now, &bytes, &mut out);
            }
            assert!(!out.iter().any(|action| matches!(action, Action::Bind(_))));
            out.clear();
            now = client.deadline().expect("it goes on");
            client.tick(now, &mut out);
        }
        assert!((10..400).contains(&questions), "{questions}");
    }

    #[test]
    fn names_alone_are_asked_for_and_refreshed() {
        let (mut client, mut out) = (Client::new(MAC, 2, 1), Vec::new());
        client.want(seconds(0), Wanted::Names, &mut out);
        let (kind, xid) = sent(&mut out).expect("a question");
        assert_eq!(kind, Kind::Inform as u8);
        client.packet(
            seconds(1),
            &reply(Kind::Reply, xid ^ 1, &DUID, 2, 9),
            &mut out,
        );
        client.packet(
            seconds(1),
            &reply(Kind::Reply, xid, b"other", 2, 9),
            &mut out,
        );
        assert!(out.is_empty() && client.listens());
        client.packet(seconds(1), &reply(Kind::Reply, xid, &DUID, 2, 9), &mut out);
        assert_eq!(out, [Action::Names]);
        assert_eq!(
            (client.search(), client.deadline()),
            (&["example.org".to_owned()][..], Some(seconds(86_401)))
        );
        client.link_down();
        assert_eq!(client.deadline(), None);
        client.want(seconds(9), Wanted::Addresses, &mut out);
        assert_eq!(
            sent(&mut out).map(|(kind, _)| kind),
            Some(Kind::Solicit as u8)
        );
    }

    #[test]
    fn a_silent_link_is_asked_ever_less() {
        let (mut client, mut out) = (Client::new(MAC, 2, 1), Vec::new());
        client.want(seconds(0), Wanted::Addresses, &mut out);
        while let Some(at) = client.deadline().filter(|at| *at < seconds(86_400)) {
            client.tick(at, &mut out);
        }
        assert!((600..900).contains(&out.len()), "{}", out.len());
    }

    /// Mutated exchanges: a server's messages one after the other, and nothing for time to
    /// pass. What is held stays bounded, and answers make no storm.
    #[test]
    fn no_exchange_breaks_it() {
        let message = |kind| reply(kind, 0, &DUID, 2, 2000);
        let [advertise, answer] = [Kind::Advertise, Kind::Reply].map(message);
        let (advertise, answer, tick) = (&advertise[..], &answer[..], &b""[..]);
        let exchanges: [&[&[u8]]; 3] = [
            &[advertise, answer, tick, answer],
            &[tick, advertise, tick, answer, tick, tick, tick, tick],
            &[answer],
        ];
        let (mut held, mut informed) = (0, 0);
        slipform_fuzz::fuzz(&exchanges.map(slipform_fuzz::framed), |bytes, random| {
            let (mut client, mut out) = (Client::new(MAC, 2, 1), Vec::new());
            let wanted = [Wanted::Addresses, Wanted::Names][random.below(2)];
            let mut now = seconds(1);
            client.want(now, wanted, &mut out);
            let (mut xid, mut messages, mut rounds) = (0, 0, 0);
            for piece in slipform_fuzz::frames(bytes).take(64) {
                while let Some((_, asked)) = sent(&mut out) {
                    (xid, messages) = (asked, messages + 1);
                }
                out.clear();
                rounds += 1;
                let mut datagram = piece.to_vec();
                if let Some(place) = datagram.get_mut(1..4) {
                    place.copy_from_slice(&xid.to_be_bytes()[1..]);
                }
                if piece.is_empty() {
                    now = client.deadline().unwrap_or(now).max(now);
                    client.tick(now, &mut out);
                } else {
                    client.packet(now, &datagram, &mut out);
                }
                held = held.max(client.held().count());
                informed = informed.max(client.search().len());
                assert!(client.deadline().is_none_or(|at| at > seconds(0)));
            }
            // A declined or released address is told, too.
            assert!(
                messages <= 2 * (rounds + 1),
                "{messages} in {rounds} rounds"
            );
        });
        assert!(
            (1..=16).contains(&held) && (1..=16).contains(&informed),
            "{held} {informed}"
        );
    }
}
