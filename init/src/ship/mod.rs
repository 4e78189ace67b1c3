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
//! disk/       the ring on the state partition
//! ```
//!
//! The [`crate::report`] puts records into the [`Spool`]; [`Shipper`] is the part of the
//! event loop that takes them to the sinks.

mod disk;
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

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::telemetry::{SPOOL_BYTES, Telemetry};

use disk::Disk;
use dns::Servers;
use random::Random;
use record::{Context, Identity};
pub(crate) use ring::Spool;
use secure::Line;
use sink::{Around, News, Sink};

use crate::sys::{clock, host, poll};
use crate::turn::{Report, Turn, Watched};

/// How long the last records may take when the machine goes down.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// How long sinks wait for what earlier boots left.
const DISK_LIMIT: Duration = Duration::from_secs(10);
/// How long the disk may take for the last records when the machine goes down.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
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
    disk: Option<Disk>,
    disk_is: DiskIs,
}

/// What can be said of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskIs {
    /// Read, until then at most.
    Read(Duration),
    /// Written.
    Written,
    /// Of no use in this boot; what it holds is left to the next.
    Useless,
}

impl Shipper {
    /// `None` if there are no sinks. `disk` is where the spool is kept over a reboot.
    pub(crate) fn new(
        telemetry: &Telemetry,
        spool: Spool,
        identity: Identity,
        disk: Option<&Path>,
        report: &mut dyn Report,
    ) -> Option<Self> {
        let seed = seed();
        let sinks = telemetry.sinks.iter().zip(1_u64..).map(|(spec, number)| {
            let random = Random::new(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
            Sink::new(spec, Line::new(&spec.peer.host, spec.peer.tls), random)
        });
        let sinks: Vec<_> = sinks.collect();
        let disk = disk.filter(|_| telemetry.spool_on_state && !sinks.is_empty());
        let disk = disk.and_then(|root| {
            let limit = telemetry.spool_bytes.unwrap_or(SPOOL_BYTES);
            let names = sinks.iter().map(|sink| sink.name().to_owned()).collect();
            let disk = Disk::start(root.to_owned(), limit, names);
            disk.map_err(|error| report.event(trouble(error.to_string())))
                .ok()
        });
        (!sinks.is_empty()).then_some(Self {
            spool,
            identity,
            sinks,
            seen: (0, 0),
            flush_until: None,
            disk,
            disk_is: DiskIs::Read(clock::monotonic() + DISK_LIMIT),
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

    /// Whether [`Shipper::flush`] has done what it can. What no sink took by then is what
    /// the disk keeps.
    pub(crate) fn is_flushed(&self, now: Duration) -> bool {
        let late = self.flush_until.is_some_and(|until| now >= until);
        let drained = self
            .spool
            .with(|journal| self.sinks.iter().all(|sink| sink.is_drained(&journal.ring)));
        let over = late || drained.unwrap_or(true);
        let Some(disk) = self.disk.as_ref().filter(|_| over) else {
            return over;
        };
        disk.close();
        disk.is_closed() || self.close_until().is_some_and(|until| now >= until)
    }

    fn close_until(&self) -> Option<Duration> {
        self.flush_until.map(|until| until + CLOSE_LIMIT)
    }

    /// Of the two limits of the way down the one that is still to come: one that is over
    /// would have the loop run without a pause while it waits for the disk.
    fn end(&self, now: Duration) -> Option<Duration> {
        let ends = [self.flush_until, self.close_until()];
        ends.into_iter().flatten().find(|end| now < *end)
    }

    fn heed_disk(&mut self, turn: &mut Turn<'_>) {
        let news = self.disk.as_mut().map(Disk::take);
        for news in news.into_iter().flatten() {
            match news {
                disk::News::Left(left) if matches!(self.disk_is, DiskIs::Read(_)) => {
                    self.disk_is = DiskIs::Written;
                    self.begin_with(left, turn);
                }
                disk::News::Left(_) => {}
                disk::News::Trouble(why) => {
                    if matches!(self.disk_is, DiskIs::Read(_)) {
                        self.disk_is = DiskIs::Useless;
                    }
                    turn.report.event(trouble(why));
                }
            }
        }
    }

    /// What earlier boots left goes first; from now on the disk has what the ring has.
    fn begin_with(&mut self, left: disk::Left, turn: &mut Turn<'_>) {
        for sink in &mut self.sinks {
            let had = left.had.iter().find(|(name, _)| name == sink.name());
            sink.begin_at(had.map_or(0, |(_, had)| *had));
        }
        let (found, lost, damaged) = (left.records.len(), left.lost, left.damaged);
        let writer = self.disk.as_ref().map(Disk::writer);
        self.spool.with(|journal| {
            let mut number = journal.ring.prepend(left.records);
            while let Some(writer) = &writer
                && let Some((at, record)) = journal.ring.find(number, |_| true)
            {
                writer.push(at, record);
                number = at + 1;
            }
            journal.disk = writer;
        });
        if found > 0 {
            turn.report.event(Event::Spool {
                records: found as u64,
                lost,
            });
        }
        let broken = left.broken.len();
        if lost > 0 || damaged > 0 || broken > 0 {
            let mut text = format!(
                "of earlier boots {lost} records are lost, {damaged} bytes are torn or damaged"
            );
            if broken > 0 {
                text += &format!("; the disk does not give back {broken} segments of them");
            }
            turn.report.event(trouble(text));
        }
        if let Some(what) = left.stays {
            turn.report.event(trouble(format!("remove {what}")));
        }
        if let Some(path) = left.aside {
            let text = format!("what was there is no spool of this version; it is at {path} now");
            turn.report.event(trouble(text));
        }
    }

    fn advance(&mut self, turn: &mut Turn<'_>, only: Option<RawFd>) {
        let now = turn.now;
        match (&self.disk, self.disk_is) {
            (Some(_), DiskIs::Read(until)) if now < until => return,
            (Some(_), DiskIs::Read(_)) => {
                self.disk_is = DiskIs::Useless;
                let text = "the disk takes too long; logs do not outlast a reboot".to_owned();
                turn.report.event(trouble(text));
            }
            _ => {}
        }
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
            disk,
            disk_is,
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
            if let Some(disk) = disk.as_ref().filter(|_| *disk_is == DiskIs::Written) {
                disk.advance(&context, sinks.iter().map(Sink::arrived).collect());
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

fn trouble(why: String) -> Event {
    Event::Error {
        phase: Phase::State,
        what: "keep logs on the state partition".to_owned(),
        why,
    }
}

impl Watched for Shipper {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        let disk = self.disk.as_ref().and_then(Disk::fd);
        out.extend(disk.map(|fd| poll::entry(fd, libc::POLLIN)));
        let fds = self.sinks.iter().filter_map(Sink::fd);
        out.extend(fds.map(|(fd, events)| poll::entry(fd, events)));
    }

    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>) {
        if self.disk.as_ref().and_then(Disk::fd) == Some(fd) {
            self.heed_disk(turn);
        } else {
            self.advance(turn, Some(fd));
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let end = self.end(clock::monotonic());
        if let (Some(_), DiskIs::Read(until)) = (&self.disk, self.disk_is) {
            return end.into_iter().chain([until]).min();
        }
        let news = self
            .spool
            .with(|journal| (journal.ring.end(), journal.tally.network_changes) != self.seen);
        let news = news.unwrap_or(false).then_some(Duration::ZERO);
        let sinks = self.sinks.iter().filter_map(Sink::deadline);
        sinks.chain(news).chain(end).min()
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
