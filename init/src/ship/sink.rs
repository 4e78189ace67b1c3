//! One receiver of records: what it has, what is on the way, what it lost.
//!
//! Nothing counts as delivered before the other side has confirmed it: over TCP the
//! peer's kernel (its acknowledgements), over HTTP the peer's answer. What was on the way
//! when a connection broke is sent again, so a receiver may get a record twice. A datagram
//! counts when the kernel takes it.

use std::os::fd::RawFd;
use std::time::Duration;

use slipform_init::contract::telemetry::{self, SinkKind};

use super::dns::Servers;
use super::exchange::{Exchange, Outcome};
use super::flow::Flow;
use super::format::{lines, otlp, syslog};
use super::link::{Link, Step};
use super::random::Random;
use super::record::{Context, Record, Severity};
use super::ring::Ring;
use super::tally::SinkTally;
use super::wire::{Transport, Wire, is_later};

/// Records and bytes of text of one OTLP request.
const BATCH_RECORDS: usize = 256;
const BATCH_BYTES: usize = 64 * 1024;
/// How long a few records wait for more before they become a request.
const LINGER: Duration = Duration::from_millis(500);
/// When a datagram is tried again that the kernel had no room for.
const LATER: Duration = Duration::from_millis(100);
/// Datagrams of one turn.
const DATAGRAMS_PER_TURN: usize = 64;
/// Longest syslog message over TCP: what rsyslog takes unless told otherwise.
const STREAM_MESSAGE_MAX: usize = 8 * 1024;
/// Reasons of one outage that are told.
const REASONS_MAX: usize = 8;
/// Losses that go on are told this often.
const LOSS_PAUSE: Duration = Duration::from_secs(60);

/// What a sink has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// It takes records, or does not; why.
    Up(bool, String),
    /// So many were lost since the last such news; so many in all.
    Lost(u64, u64),
}

/// Records that are on the way as one request.
#[derive(Debug)]
struct Batch {
    exchange: Exchange,
    /// The number behind its last record, and how many it has.
    end: u64,
    count: u64,
}

#[derive(Debug)]
enum Body {
    Stream(Flow),
    Datagram,
    Post(Option<Batch>),
}

/// The receiver.
#[derive(Debug)]
pub(crate) struct Sink<W> {
    name: String,
    kind: SinkKind,
    peer: telemetry::Peer,
    level: Severity,
    link: Link<W>,
    body: Body,
    /// The next record to be formatted.
    cursor: u64,
    /// All before it have arrived.
    confirmed: u64,
    /// Lost and not yet told to the receiver; told, but not confirmed.
    gap: u64,
    gap_sent: u64,
    /// Lost and not yet told as news, and when that may be.
    untold: u64,
    tell_again: Duration,
    /// Since when records wait to become a request.
    lingering: Option<Duration>,
    /// When it goes on with what it left to another turn.
    again: Option<Duration>,
    /// The last news about it, and the reasons that were told since it was up.
    up: Option<bool>,
    reasons: Vec<String>,
    tally: SinkTally,
    flushing: bool,
}

/// What a sink needs in its turn.
pub(crate) struct Around<'a> {
    pub(crate) now: Duration,
    pub(crate) ring: &'a Ring,
    pub(crate) context: Context<'a>,
    pub(crate) servers: &'a dyn Fn() -> Servers,
}

impl<W: Wire> Sink<W> {
    /// A receiver that has nothing yet.
    pub(crate) fn new(spec: &telemetry::Sink, wire: W, random: Random) -> Self {
        let (transport, body) = match spec.kind {
            SinkKind::SyslogTcp | SinkKind::JsonTcp => {
                (Transport::Stream, Body::Stream(Flow::default()))
            }
            SinkKind::SyslogUdp => (Transport::Datagram, Body::Datagram),
            SinkKind::OtlpHttp => (Transport::Stream, Body::Post(None)),
        };
        let peer = &spec.peer;
        Self {
            name: spec.name.clone(),
            kind: spec.kind,
            peer: peer.clone(),
            level: Severity::of(spec.level),
            link: Link::new(&peer.host, peer.port, transport, wire, random),
            body,
            cursor: 0,
            confirmed: 0,
            gap: 0,
            gap_sent: 0,
            untold: 0,
            tell_again: Duration::ZERO,
            lingering: None,
            again: None,
            up: None,
            reasons: Vec::new(),
            tally: SinkTally {
                name: spec.name.clone(),
                ..SinkTally::default()
            },
            flushing: false,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// All before it have arrived, or were told to be lost: what a later boot need not tell.
    pub(crate) fn arrived(&self) -> u64 {
        // While a gap is untold, what is lost lies right before the next record.
        self.confirmed.saturating_sub(self.gap)
    }

    /// All records before this number need not be kept for it.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// What stands before this number it has had in an earlier boot.
    pub(crate) fn begin_at(&mut self, number: u64) {
        (self.cursor, self.confirmed) = (number, number);
    }

    /// Its counts.
    pub(crate) fn tally(&self) -> &SinkTally {
        &self.tally
    }

    /// The machine goes down: nothing lingers, and a pause ends.
    pub(crate) fn flush(&mut self, now: Duration) {
        self.flushing = true;
        self.link.hurry(now);
    }

    /// Something about the network has changed.
    pub(crate) fn hurry(&mut self, now: Duration) {
        self.link.hurry(now);
    }

    /// Whether everything has arrived, or nothing more can be hoped for before a pause ends.
    pub(crate) fn is_drained(&self, ring: &Ring) -> bool {
        let waits = ring.next(self.confirmed, self.level).is_some();
        !waits || self.link.is_pausing()
    }

    /// To poll.
    pub(crate) fn fd(&self) -> Option<(RawFd, i16)> {
        let write = match &self.body {
            Body::Stream(flow) => flow.sends(),
            Body::Datagram => false,
            Body::Post(batch) => batch.as_ref().is_some_and(|batch| batch.exchange.sends()),
        };
        self.link.fd(write)
    }

    /// When it wants its turn.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let own = match &self.body {
            Body::Stream(flow) => flow.deadline(),
            Body::Datagram => None,
            Body::Post(batch) => {
                let until = batch.as_ref().map(|batch| batch.exchange.until());
                // Without a connection it is the connection that is waited for.
                let linger = self.lingering.filter(|_| self.link.is_open());
                let linger = linger.map(|since| since + LINGER);
                until.into_iter().chain(linger).min()
            }
        };
        let loss = (self.untold > 0).then_some(self.tell_again);
        own.into_iter()
            .chain(loss)
            .chain(self.again)
            .chain(self.link.deadline())
            .min()
    }

    /// Goes as far as it can.
    pub(crate) fn advance(&mut self, around: &Around<'_>, news: &mut Vec<News>) {
        self.again = None;
        self.notice_loss(around.ring);
        if self.wants(around) {
            match self.link.advance(around.now, around.servers) {
                Step::Waits => {}
                Step::Failed(why) => self.down(&why, news),
                Step::Open => {
                    if let Err(Trouble { why, pause }) = self.exchange(around, news) {
                        self.fail(around.now, pause);
                        self.down(&why, news);
                    }
                }
            }
        } else {
            self.link.rest(around.now);
        }
        if self.untold > 0 && around.now >= self.tell_again {
            self.tell_again = around.now + LOSS_PAUSE;
            news.push(News::Lost(
                std::mem::take(&mut self.untold),
                self.tally.lost,
            ));
        }
    }

    /// What fell out of the ring before it was sent.
    fn notice_loss(&mut self, ring: &Ring) {
        let first = ring.first();
        if self.cursor < first {
            self.lose(first - self.cursor);
            self.cursor = first;
        }
        self.confirmed = self.confirmed.max(first.min(self.cursor));
    }

    fn lose(&mut self, count: u64) {
        self.gap = self.gap.saturating_add(count);
        self.untold = self.untold.saturating_add(count);
        self.tally.lost = self.tally.lost.saturating_add(count);
    }

    /// Whether there is a reason for a connection, or for looking at the one that is there.
    fn wants(&mut self, around: &Around<'_>) -> bool {
        let more = self.gap > 0 || around.ring.next(self.cursor, self.level).is_some();
        if !more {
            // Passed over for good.
            self.cursor = around.ring.end();
        }
        let on_the_way = match &self.body {
            Body::Stream(flow) => !flow.is_empty(),
            Body::Datagram => false,
            Body::Post(batch) => batch.is_some(),
        };
        if !on_the_way && !more {
            self.confirmed = self.cursor;
        }
        more || on_the_way || self.link.is_active()
    }

    fn exchange(&mut self, around: &Around<'_>, news: &mut Vec<News>) -> Result<(), Trouble> {
        let arrived = match self.kind {
            SinkKind::SyslogTcp | SinkKind::JsonTcp => self.stream(around),
            SinkKind::SyslogUdp => self.datagrams(around),
            SinkKind::OtlpHttp => self.post(around),
        }?;
        if arrived > 0 {
            // There may be room for more now, and nothing else may happen that would fill it.
            self.again = self.again.or(Some(around.now));
            self.tally.sent = self.tally.sent.saturating_add(arrived);
            self.link.confirm();
            if self.up != Some(true) {
                self.up = Some(true);
                self.tally.up = true;
                self.reasons.clear();
                let to = format!("{}:{}", self.peer.host, self.peer.port);
                news.push(News::Up(true, to));
            }
        }
        Ok(())
    }

    fn down(&mut self, why: &str, news: &mut Vec<News>) {
        self.tally.failures = self.tally.failures.saturating_add(1);
        self.tally.up = false;
        // Another reason is news, too: first nobody listens, then the certificate is wrong.
        let is_new = self.reasons.len() < REASONS_MAX && !self.reasons.iter().any(|r| r == why);
        if self.up != Some(false) || is_new {
            self.up = Some(false);
            self.reasons.push(why.to_owned());
            news.push(News::Up(false, why.to_owned()));
        }
    }

    /// The connection is gone, and what was on the way with it.
    fn fail(&mut self, now: Duration, pause: Option<Duration>) {
        self.link.fail(now, pause);
        self.forget();
    }

    fn forget(&mut self) {
        match &mut self.body {
            Body::Stream(flow) => *flow = Flow::default(),
            Body::Datagram => {}
            Body::Post(batch) => *batch = None,
        }
        self.cursor = self.confirmed;
        self.gap += std::mem::take(&mut self.gap_sent);
    }

    /// The next record, and the number behind it. A gap is one, too.
    fn next(&mut self, around: &Around<'_>) -> Option<(u64, Record)> {
        if self.gap > 0 {
            let text = format!("{} records are lost: the spool was full", self.gap);
            self.gap_sent += std::mem::take(&mut self.gap);
            let record = Record::own(around.now, Severity::Warning, &text);
            return Some((self.cursor, record));
        }
        let (number, record) = around.ring.next(self.cursor, self.level)?;
        Some((number + 1, record.clone()))
    }

    fn stream(&mut self, around: &Around<'_>) -> Result<u64, Trouble> {
        // A receiver of logs has nothing to say; what matters is whether it is there.
        let mut buffer = [0; 1024];
        for _ in 0..16 {
            match self.link.wire().receive(&mut buffer) {
                Ok(0) => {
                    self.link.close();
                    let unsure = self.cursor > self.confirmed;
                    self.forget();
                    return if unsure {
                        Err(Trouble::of("the connection was closed"))
                    } else {
                        Ok(0)
                    };
                }
                Ok(_) => {}
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(Trouble::of(&error.to_string())),
            }
        }
        self.fill(around);
        self.move_on(around.now)
    }

    fn fill(&mut self, around: &Around<'_>) {
        while matches!(&self.body, Body::Stream(flow) if flow.has_room())
            && let Some((after, record)) = self.next(around)
        {
            let text = match self.kind {
                SinkKind::JsonTcp => lines::line(&record, &around.context),
                _ => syslog::frame(&syslog::message(
                    &record,
                    &around.context,
                    STREAM_MESSAGE_MAX,
                )),
            };
            self.cursor = after;
            if let Body::Stream(flow) = &mut self.body {
                flow.push(&text, after);
            }
        }
    }

    /// What the peer's kernel has acknowledged has arrived.
    fn move_on(&mut self, now: Duration) -> Result<u64, Trouble> {
        let Body::Stream(flow) = &mut self.body else {
            return Ok(0);
        };
        let moved = flow.advance(now, self.link.wire());
        let moved = moved.map_err(|why| Trouble::of(&why))?;
        if flow.is_empty() {
            self.gap_sent = 0;
        }
        self.confirmed = self.confirmed.max(moved.confirmed);
        Ok(moved.count)
    }

    fn datagrams(&mut self, around: &Around<'_>) -> Result<u64, Trouble> {
        // An error that an earlier datagram came back with (ICMP).
        let mut buffer = [0; 16];
        match self.link.wire().receive(&mut buffer) {
            Err(error) if !is_later(&error) => return Err(Trouble::of(&error.to_string())),
            _ => {}
        }
        let mut count = 0;
        while count < DATAGRAMS_PER_TURN as u64 {
            let Some((after, record)) = self.next(around) else {
                break;
            };
            let text = syslog::message(&record, &around.context, syslog::DATAGRAM_MAX);
            match self.link.wire().send(text.as_bytes()) {
                Ok(_) => {}
                Err(error) => {
                    self.gap += std::mem::take(&mut self.gap_sent);
                    if is_later(&error) {
                        self.again = Some(around.now + LATER);
                        break;
                    }
                    return Err(Trouble::of(&error.to_string()));
                }
            }
            self.gap_sent = 0;
            (self.cursor, self.confirmed) = (after, after);
            count += 1;
        }
        Ok(count)
    }

    fn post(&mut self, around: &Around<'_>) -> Result<u64, Trouble> {
        self.begin(around);
        let Body::Post(slot) = &mut self.body else {
            return Ok(0);
        };
        let Some(batch) = slot else {
            return self.idle();
        };
        let outcome = batch.exchange.advance(around.now, self.link.wire());
        let (end, count) = (batch.end, batch.count);
        if !matches!(outcome, Outcome::Waits) {
            *slot = None;
        }
        match outcome {
            Outcome::Waits => Ok(0),
            Outcome::Taken { rejected, keeps } => {
                if !keeps {
                    self.link.close();
                }
                // The next request, even if this one arrived in vain.
                self.again = Some(around.now);
                self.gap_sent = 0;
                self.confirmed = end;
                let rejected = rejected.min(count);
                self.refused(rejected);
                Ok(count - rejected)
            }
            // What it does not want now it will not want later either.
            Outcome::Refused { why } => {
                self.confirmed = end;
                self.refused(count);
                Err(Trouble::of(&why))
            }
            Outcome::Failed { why, pause } => Err(Trouble { why, pause }),
        }
    }

    /// Lost, but nothing that the spool could have kept: the receiver knows.
    fn refused(&mut self, count: u64) {
        self.untold = self.untold.saturating_add(count);
        self.tally.lost = self.tally.lost.saturating_add(count);
    }

    /// An idle connection that the peer ends is closed; the next request opens one.
    fn idle(&mut self) -> Result<u64, Trouble> {
        let mut buffer = [0; 64];
        match self.link.wire().receive(&mut buffer) {
            Err(error) if is_later(&error) => {}
            // Bytes that nobody asked for: it is no longer clear where an answer begins.
            _ => self.link.close(),
        }
        Ok(0)
    }

    /// Whether the next record fits those that begin with `first`: what is said of the
    /// machine is said once in a request.
    fn is_of_one_boot(&self, first: Option<&Record>, around: &Around<'_>) -> bool {
        let next = around.ring.next(self.cursor, self.level);
        match (first, next) {
            (Some(first), Some((_, next))) if self.gap == 0 => first.past == next.past,
            (Some(first), _) => first.past.is_none(),
            (None, _) => true,
        }
    }

    /// Makes the next request, once there are enough records or they waited long enough.
    fn begin(&mut self, around: &Around<'_>) {
        if !matches!(self.body, Body::Post(None)) {
            return;
        }
        let more = self.gap > 0 || around.ring.next(self.cursor, self.level).is_some();
        if !more {
            self.lingering = None;
            return;
        }
        let since = *self.lingering.get_or_insert(around.now);
        let waiting = around.ring.end().saturating_sub(self.cursor);
        if !self.flushing && waiting < BATCH_RECORDS as u64 && around.now < since + LINGER {
            return;
        }
        self.lingering = None;
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        while records.len() < BATCH_RECORDS
            && bytes < BATCH_BYTES
            && self.is_of_one_boot(records.first(), around)
            && let Some((after, record)) = self.next(around)
        {
            bytes += record.cost();
            self.cursor = after;
            records.push(record);
        }
        let records: Vec<&Record> = records.iter().collect();
        let body = otlp::logs(&records, &around.context);
        self.body = Body::Post(Some(Batch {
            exchange: Exchange::new(&self.peer, &body, around.now),
            end: self.cursor,
            count: records.len() as u64,
        }));
    }
}

/// Why a connection is given up.
#[derive(Debug)]
struct Trouble {
    why: String,
    /// How long the peer wants to be left alone.
    pause: Option<Duration>,
}

impl Trouble {
    fn of(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            pause: None,
        }
    }
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
