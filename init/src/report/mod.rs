//! Everything that init says, to people and to the harness. Nothing here waits, and
//! nothing fails: what cannot be said in time is dropped and counted.
//!
//! ```text
//! event ─┬─> human line ─────────────────> console
//!        ├─> log record ───────────────> spool of the sinks; console, if it wants JSON
//!        └─> JSON record ─┬─> virtio port org.slipform.report
//!                         └─> console, behind a nonce, if there is no port but a nonce
//! ```
//! Until the channel is found, records wait in the queue of the port. Without port and
//! nonce nobody reads records, and none are kept.

mod channel;
mod command;
mod human;
mod journal;
pub(crate) mod kmsg;
pub(crate) mod last_words;
mod outlet;
mod record;

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::Duration;

use slipform_init::contract::event::{Command, Event, Phase};
use slipform_init::contract::inside::{Item, MAX_QUERIES, Query};

use self::channel::Stream;
use self::command::CommandReader;
use self::outlet::{Outlet, Weight};
use self::record::encode;
use crate::ship::Spool;
use crate::ship::record::{Identity, Record as LogRecord, Severity};
use crate::sys::{clock, host, poll};
use crate::turn::Report;

/// While the other side of the port is closed, polling it would return at once, for ever.
const CLOSED_PAUSE: Duration = Duration::from_millis(250);
/// A console that broke is opened again after so long.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// What stands before init's own lines on the console.
const PREFIX: &str = "slipform: ";

/// Where records go.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Searching,
    Port,
    Console { prefix: String },
    Nowhere,
}

/// The voice of init.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// SHA-256 of machine.json, once it was read.
    pub(crate) machine_digest: String,
    console: Outlet<Stream>,
    console_again: Option<Duration>,
    port: Outlet<Stream>,
    port_again: Option<Duration>,
    way: Way,
    reader: CommandReader,
    command: Option<Command>,
    /// Queries that nobody has taken yet.
    queries: VecDeque<Query>,
    spool: Spool,
    /// Whether records are kept for sinks.
    keeps: bool,
    /// Whether the console gets JSON.
    json: bool,
    identity: Identity,
}

impl Reporter {
    /// One that keeps everything until there is a console and a channel.
    pub(crate) fn new() -> Self {
        Self {
            machine_digest: String::new(),
            console: Outlet::new(Stream::default()),
            console_again: None,
            port: Outlet::new(Stream::default()),
            port_again: None,
            way: Way::Searching,
            reader: CommandReader::default(),
            command: None,
            queries: VecDeque::new(),
            spool: Spool::new(),
            keeps: true,
            json: false,
            identity: Identity::default(),
        }
    }

    /// One whose port is this file.
    #[cfg(test)]
    pub(crate) fn with_port(file: std::fs::File) -> Self {
        let mut reporter = Self::new();
        reporter.port.sink_mut().0 = Some(file);
        reporter.way = Way::Port;
        reporter
    }

    /// What came over the port.
    #[cfg(test)]
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.commands(bytes);
    }

    /// Opens the console of /dev: for init's own lines without blocking, and as the
    /// process's standard output and error. A machine may have none.
    pub(crate) fn open_console(&mut self) {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let console = console_options().open("/dev/console");
        let output = if console.is_ok() { &console } else { &null };
        for (file, number) in [(&null, 0), (output, 1), (output, 2)] {
            if let Ok(file) = file {
                let _ = host::install_descriptor(file, number);
            }
        }
        self.reopen_console();
    }

    /// Whether there is one.
    pub(crate) fn has_console(&self) -> bool {
        self.console.sink().fd().is_some()
    }

    fn reopen_console(&mut self) {
        let console = console_options()
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open("/dev/console")
            .ok();
        last_words::set_console(console.as_ref().map_or(-1, AsRawFd::as_raw_fd));
        self.console_again = None;
        self.console.sink_mut().0 = console;
        self.flush_console();
    }

    /// Begins a phase.
    pub(crate) fn phase(&mut self, phase: Phase) {
        last_words::set_phase(phase);
        self.event(Event::Phase { phase });
    }

    /// A line for people only.
    pub(crate) fn note(&mut self, text: &str) {
        if self.keeps || self.json {
            let record = LogRecord::own(clock::monotonic(), Severity::Info, text);
            if self.json {
                self.console_record(&record, Weight::Event);
            }
            if self.keeps {
                self.keep(record);
            }
        }
        if self.json {
            return;
        }
        self.console
            .line(PREFIX, human::printable(text).as_bytes(), Weight::Event);
        self.flush_console();
    }

    /// Looks for the port, unless the way is known.
    pub(crate) fn find_channel(&mut self) {
        if self.way != Way::Searching {
            return;
        }
        if let Some(port) = channel::open_port() {
            last_words::set_port(port.as_raw_fd());
            self.port.sink_mut().0 = Some(port);
            self.way = Way::Port;
            self.flush_port();
        }
    }

    /// Decides where records go, after a short time for a port that is just coming.
    /// True if that is the port, from which questions may come.
    pub(crate) fn settle_channel(&mut self) -> bool {
        self.choose_way();
        let asked = self.way == Way::Port;
        self.keep_recent(asked);
        asked
    }

    fn choose_way(&mut self) {
        let begin = clock::monotonic();
        loop {
            self.find_channel();
            if self.way != Way::Searching || clock::monotonic() >= begin + channel::port_limit() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        if self.way != Way::Searching {
            return;
        }
        let waiting = self.port.take_queue();
        let Some(nonce) = channel::nonce() else {
            self.way = Way::Nowhere;
            return;
        };
        let prefix = format!("@slipform-{nonce} ");
        for line in waiting
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            self.console.line(&prefix, line, Weight::Event);
        }
        self.way = Way::Console { prefix };
    }

    /// Whether a harness listens: then nobody waits for a reboot.
    pub(crate) fn has_harness(&self) -> bool {
        match self.way {
            Way::Port | Way::Console { .. } => true,
            Way::Searching => channel::nonce().is_some(),
            Way::Nowhere => false,
        }
    }

    /// By how much slower than real hardware the harness says that this machine is.
    pub(crate) fn slowdown(&self) -> f64 {
        channel::slowdown()
    }

    /// The first command of the harness that nobody has taken yet.
    pub(crate) fn take_command(&mut self) -> Option<Command> {
        self.command.take()
    }

    /// The next question of the harness.
    pub(crate) fn take_query(&mut self) -> Option<Query> {
        self.queries.pop_front()
    }

    /// Whether somebody is at the other side of the port.
    pub(crate) fn is_heard(&self) -> bool {
        self.way == Way::Port && self.port_again.is_none()
    }

    /// Whether an answer may go on: half of the queue stays free for events.
    pub(crate) fn has_room(&self) -> bool {
        self.is_heard() && self.port.waiting() < outlet::LIMIT / 2
    }

    /// A piece of an answer: to the port alone, neither shown nor kept.
    pub(crate) fn answer(&mut self, query: u32, item: Item) {
        let line = encode(Event::Inside {
            query,
            item: Box::new(item),
        });
        self.port.line("", &line, Weight::Log);
        self.flush_port();
    }

    /// Writes what waits, for at most `limit`.
    pub(crate) fn drain(&mut self, limit: Duration) {
        let end = clock::monotonic() + limit;
        loop {
            self.flush_console();
            self.flush_port();
            let waits = !self.console.is_empty()
                || (self.way == Way::Port && !self.port.is_empty())
                || self.backlog();
            if !waits || clock::monotonic() >= end {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the console's driver still has bytes to send.
    fn backlog(&self) -> bool {
        self.console
            .sink()
            .0
            .as_ref()
            .is_some_and(|file| host::terminal_backlog(file.as_fd()).is_ok_and(|left| left > 0))
    }

    fn flush_console(&mut self) {
        if self.console.flush().is_err() && self.console_again.is_none() {
            self.console_again = Some(clock::monotonic() + REOPEN_PAUSE);
        }
        if let Some(dropped) = self.console.take_dropped() {
            self.console.line(
                "slipform: ",
                format!("{dropped} lines dropped").as_bytes(),
                Weight::Event,
            );
        }
    }

    fn flush_port(&mut self) {
        if self.port.flush().is_err() {
            // Unplugged: nobody is there to read.
            last_words::set_port(-1);
            self.port.sink_mut().0 = None;
            self.port.take_queue();
            self.way = Way::Nowhere;
        }
        if let Some(count) = self.port.take_dropped() {
            let line = format!("{count} lines dropped: the reader was too slow");
            let event = Event::Log {
                service: "slipform".to_owned(),
                stream: "err".to_owned(),
                line,
            };
            self.port.line("", &encode(event), Weight::Event);
        }
    }

    fn read_commands(&mut self) {
        let mut buffer = [0; 256];
        // Bounded: who writes without end must not keep init from its other work.
        for _ in 0..16 {
            match self.port.sink_mut().read(&mut buffer) {
                Ok(0) => {
                    self.port_again = Some(clock::monotonic() + CLOSED_PAUSE);
                    return;
                }
                Ok(length) => self.commands(&buffer[..length]),
                Err(_) => return,
            }
        }
    }

    fn commands(&mut self, bytes: &[u8]) {
        for result in self.reader.take(bytes) {
            match result {
                // Questions must not stand in the way of a command, nor pile up.
                Ok(Command::Show(query)) if self.queries.len() < MAX_QUERIES => {
                    self.queries.push_back(query);
                }
                Ok(Command::Show(query)) => {
                    self.answer(query.id, Item::End("too many questions at once".to_owned()));
                }
                Ok(command) => {
                    self.command.get_or_insert(command);
                }
                Err(why) => self.note(&format!("report channel: not a command: {why}")),
            }
        }
    }

    /// As [`crate::turn::Watched::fds`].
    pub(crate) fn fds(&self, out: &mut Vec<libc::pollfd>) {
        if let Some(fd) = self.port.sink().fd().filter(|_| self.port_again.is_none()) {
            let write = if self.port.is_empty() {
                0
            } else {
                libc::POLLOUT
            };
            out.push(poll::entry(fd, libc::POLLIN | write));
        }
        if let Some(fd) = self
            .console
            .sink()
            .fd()
            .filter(|_| self.console_again.is_none() && !self.console.is_empty())
        {
            out.push(poll::entry(fd, libc::POLLOUT));
        }
    }

    /// As [`crate::turn::Watched::ready`].
    pub(crate) fn ready(&mut self, fd: RawFd) {
        if Some(fd) == self.port.sink().fd() {
            self.read_commands();
            self.flush_port();
        } else {
            self.flush_console();
        }
    }

    /// As [`crate::turn::Watched::deadline`].
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.port_again.into_iter().chain(self.console_again).min()
    }

    /// As [`crate::turn::Watched::tick`].
    pub(crate) fn tick(&mut self, now: Duration) {
        if self.port_again.is_some_and(|again| now >= again) {
            self.port_again = None;
            self.flush_port();
        }
        if self.console_again.is_some_and(|again| now >= again) {
            self.reopen_console();
        }
    }
}

impl Report for Reporter {
    fn dropped(&mut self, service: &str, lines: u64) {
        self.spool
            .with(|journal| journal.tally.dropped(service, lines));
    }

    fn event(&mut self, event: Event) {
        let weight = if matches!(event, Event::Log { .. }) {
            Weight::Log
        } else {
            Weight::Event
        };
        let line = human::line(&event);
        let record = self.observe(&event, line.as_deref());
        match (record, line) {
            (Some(record), _) if self.json => self.console_record(&record, weight),
            (_, Some(line)) => {
                self.console.line("", line.as_bytes(), weight);
                self.flush_console();
            }
            (_, None) => {}
        }
        match &self.way {
            Way::Nowhere => {}
            Way::Console { prefix } => {
                self.console.line(prefix, &encode(event), weight);
                self.flush_console();
            }
            Way::Port | Way::Searching => {
                self.port.line("", &encode(event), weight);
                self.flush_port();
            }
        }
    }
}

fn console_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOCTTY);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_init::contract::event::Record;

    #[test]
    fn records_wait_until_the_channel_is_found() {
        let mut reporter = Reporter::new();
        reporter.phase(Phase::Disk);
        reporter.event(Event::Ready { rss_kib: 1 });
        let file = tempfile::NamedTempFile::new().unwrap();
        reporter.port.sink_mut().0 = Some(file.reopen().unwrap());
        reporter.way = Way::Port;
        reporter.event(Event::End { clean: true });
        let text = std::fs::read_to_string(file.path()).unwrap();
        let records: Vec<Record> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(records.len(), 3);
        assert_eq!(records[0].event, Event::Phase { phase: Phase::Disk });
        assert_eq!(records[2].event, Event::End { clean: true });
    }

    #[test]
    fn the_first_command_is_kept_until_it_is_taken() {
        let mut reporter = Reporter::new();
        reporter.commands(b"{\"command\":\"reboot\"}\nnoise\n{\"command\":\"power-off\"}\n");
        assert_eq!(reporter.take_command(), Some(Command::Reboot));
        assert_eq!(reporter.take_command(), None);
    }

    #[test]
    fn questions_neither_pile_up_nor_hide_a_command() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut reporter = Reporter::with_port(file.reopen().unwrap());
        for id in 0..1000 {
            let line = format!("{{\"command\":\"show\",\"id\":{id}}}\n");
            reporter.commands(line.as_bytes());
        }
        reporter.commands(b"{\"command\":\"power-off\"}\n");
        assert_eq!(reporter.take_command(), Some(Command::PowerOff));
        let ids: Vec<u32> =
            std::iter::from_fn(|| reporter.take_query().map(|query| query.id)).collect();
        assert_eq!(ids, [0, 1, 2, 3]);
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.matches("too many questions").count(), 996);
    }
}
