//! Logs leave the machine: every line as a record, from a bounded ring, to any number
//! of sinks. Nothing here waits, and no service ever waits for it.
//!
//! ```text
//! record.rs   a line and what is known of it    ring.rs     records that wait (bounded)
//! tally.rs    counts for the metrics            format/     records to bytes (pure)
//! sink.rs     one receiver (pure)               flow.rs     a stream and what of it arrived (pure)
//! link.rs     a connection that comes back      exchange.rs one OTLP/HTTP request (pure)
//! dns/        names to addresses                http.rs     answers (pure)
//! wire.rs     sockets                       secure.rs   a wire inside TLS
//! ```
//!
//! The [`crate::report`] puts records into the [`Spool`]; [`Shipper`] is the part of the
//! event loop that takes them to the sinks.

pub(crate) mod dns;
pub(crate) mod exchange;
mod flow;
pub(crate) mod format;
mod http;
pub(crate) mod link;
pub(crate) mod random;
pub(crate) mod record;
pub(crate) mod ring;
pub(crate) mod secure;
mod sink;
pub(crate) mod tally;
pub(crate) mod wire;

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use slipform_init::contract::event::Event;
use slipform_init::contract::telemetry::Telemetry;

use dns::Servers;
use random::Random;
use record::{Context, Identity};
pub(crate) use ring::Spool;
use secure::Line;
use sink::{Around, News, Sink};

use crate::sys::{clock, host, poll};
use crate::turn::{Turn, Watched};

/// How long the last records may take when the machine goes down.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// Where the resolver's configuration is.
pub(crate) const RESOLV_CONF: &str = "/run/slipform/resolv.conf";

/// All sinks.
#[derive(Debug)]
pub(crate) struct Shipper {
    spool: Spool,
    identity: Identity,
    sinks: Vec<Sink<Line>>,
    /// End of the ring, and changes of the network, when the sinks last had their turn.
    seen: (u64, u64),
    /// When waiting for the last records ends.
    flush_until: Option<Duration>,
}

impl Shipper {
    /// `None` if there are no sinks.
    pub(crate) fn new(telemetry: &Telemetry, spool: Spool, identity: Identity) -> Option<Self> {
        let seed = seed();
        let sinks = telemetry.sinks.iter().zip(1_u64..).map(|(spec, number)| {
            let random = Random::new(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
            Sink::new(spec, Line::new(&spec.peer.host, spec.peer.tls), random)
        });
        let sinks: Vec<_> = sinks.collect();
        (!sinks.is_empty()).then_some(Self {
            spool,
            identity,
            sinks,
            seen: (0, 0),
            flush_until: None,
        })
    }

    /// The machine goes down: what waits is sent, for a short time.
    pub(crate) fn flush(&mut self, now: Duration) {
        if self.flush_until.is_none() {
            self.flush_until = Some(now + FLUSH_LIMIT);
            for sink in &mut self.sinks {
                sink.flush(now);
            }
        }
    }

    /// Whether [`Shipper::flush`] has done what it can.
    pub(crate) fn is_flushed(&self, now: Duration) -> bool {
        let late = self.flush_until.is_some_and(|until| now >= until);
        let drained = self
            .spool
            .with(|journal| self.sinks.iter().all(|sink| sink.is_drained(&journal.ring)));
        late || drained.unwrap_or(true)
    }

    fn advance(&mut self, turn: &mut Turn<'_>, only: Option<RawFd>) {
        let now = turn.now;
        let network = self.spool.with(|journal| journal.tally.network_changes);
        if let Some(network) = network.filter(|&network| network != self.seen.1) {
            self.seen.1 = network;
            self.identity.host = host_name().unwrap_or_default();
            self.sinks.iter_mut().for_each(|sink| sink.hurry(now));
        }
        let mut news = Vec::new();
        let Self {
            spool,
            identity,
            sinks,
            seen,
            ..
        } = self;
        let context = Context {
            identity,
            offset: clock::wall().saturating_sub(clock::monotonic()),
        };
        spool.with(|journal| {
            let servers = || Servers::read(Path::new(RESOLV_CONF));
            let around = Around {
                now,
                ring: &journal.ring,
                context,
                servers: &servers,
            };
            for sink in sinks.iter_mut() {
                if only.is_some() && sink.fd().map(|(fd, _)| fd) != only {
                    continue;
                }
                let mut own = Vec::new();
                sink.advance(&around, &mut own);
                news.extend(own.into_iter().map(|news| (sink.name().to_owned(), news)));
            }
            if only.is_none() {
                seen.0 = journal.ring.end();
            }
            let all_have = sinks.iter().map(Sink::confirmed).min();
            journal.ring.trim(all_have.unwrap_or(u64::MAX));
            journal.tally.sinks.clear();
            journal
                .tally
                .sinks
                .extend(sinks.iter().map(|sink| sink.tally().clone()));
        });
        for (sink, news) in news {
            turn.report.event(event(sink, news));
        }
    }
}

fn event(sink: String, news: News) -> Event {
    match news {
        News::Up(up, detail) => Event::Sink { sink, up, detail },
        News::Lost(lost, total) => Event::LogLoss { sink, lost, total },
    }
}

impl Watched for Shipper {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        let fds = self.sinks.iter().filter_map(Sink::fd);
        out.extend(fds.map(|(fd, events)| poll::entry(fd, events)));
    }

    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>) {
        self.advance(turn, Some(fd));
    }

    fn deadline(&self) -> Option<Duration> {
        let news = self
            .spool
            .with(|journal| (journal.ring.end(), journal.tally.network_changes) != self.seen);
        let news = news.unwrap_or(false).then_some(Duration::ZERO);
        let sinks = self.sinks.iter().filter_map(Sink::deadline);
        sinks.chain(news).chain(self.flush_until).min()
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.advance(turn, None);
    }
}

/// Machines that start at once must not do everything at once.
pub(crate) fn seed() -> u64 {
    let mut seed = [0; 8];
    let random = host::random(&mut seed).map_or(0, |()| u64::from_le_bytes(seed));
    random ^ u64::from(clock::since_boot().subsec_nanos())
}

/// A short file of the kernel's or of ours, its line end cut off.
fn short_file(path: &str) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(256).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

/// The kernel's host name.
pub(crate) fn host_name() -> Option<String> {
    short_file("/proc/sys/kernel/hostname")
}

/// The kernel's id of this boot.
pub(crate) fn boot_id() -> Option<String> {
    short_file("/proc/sys/kernel/random/boot_id")
}

/// machine-id(5), once it is written.
pub(crate) fn machine_id() -> Option<String> {
    short_file("/run/slipform/machine-id")
}
