//! All that is known of the guest, from the bytes of its console and report and
//! from the monitor's events. Pure: observations go in, problems come out; time,
//! sockets and processes are [`crate::run`]'s.

mod findings;
mod problem;
mod service;

#[cfg(test)]
mod tests;

use slipform_init::contract::event::{Event, Phase, Record};

use crate::console::{LineBuffer, fatal};
use crate::events::{EventReader, Garbage, Item, console_record};
use crate::machine::qmp::MonitorEvent;
use crate::phase::Stage;
use crate::plan::Plan;
use crate::probes::patterns::{Patterns, Source};
pub(crate) use problem::{BuiltIn, Cause, Problem};
pub use problem::{allowable_checks, built_in_checks};
pub(crate) use service::Services;

/// More events than this (log lines not counted) are a flood.
const MAX_RECORDS: usize = 10_000;
/// More problems than this are not kept: the first ones decide.
const MAX_PROBLEMS: usize = 200;

/// The guest, as far as it has been seen.
#[derive(Debug)]
pub(crate) struct Watch {
    nonce: String,
    /// Expected: name and root hash.
    layers: Vec<(String, String)>,
    pub(crate) stage: Stage,
    pub(crate) lines: LineBuffer,
    pub(crate) patterns: Patterns,
    port: EventReader,
    console: EventReader,
    /// Records came on the port: those on the console are nobody's any more.
    port_spoke: bool,
    /// Records without log lines.
    pub(crate) records: Vec<Record>,
    /// Lines of all records, for the evidence; taken by the driver.
    pub(crate) record_lines: Vec<String>,
    /// What happened, for the timeline; taken by the driver.
    pub(crate) news: Vec<String>,
    pub(crate) problems: Vec<Problem>,
    /// Warnings that fail nothing by themselves.
    pub(crate) notes: Vec<String>,
    pub(crate) layers_seen: Vec<(String, String)>,
    pub(crate) root_write: Option<(bool, String)>,
    pub(crate) services: Services,
    /// Init told all that it was asked for.
    pub(crate) answered: bool,
    /// Init said that the image has a debug layer.
    pub(crate) debug: bool,
    /// Init's resident memory at ready, KiB.
    pub(crate) ready: Option<u64>,
    suspect: bool,
    /// A line came on the console after the firmware's.
    pub(crate) console_spoke: bool,
    /// What init told of the kernel's log, and where the machine was then.
    kernel_told: Vec<(String, Stage)>,
    /// The power button was pressed: an end is expected.
    asked_to_end: bool,
    unplugged: bool,
    pub(crate) shutdown: Option<String>,
    /// Init's last word: whether all was left clean.
    pub(crate) end: Option<bool>,
    /// What init last said of a file on the state partition.
    pub(crate) state_file: Option<Event>,
    /// QEMU's reason.
    pub(crate) machine_end: Option<String>,
    /// The process's status.
    pub(crate) exited: Option<String>,
}

impl Watch {
    pub(crate) fn new(plan: &Plan, nonce: &str, patterns: Patterns) -> Self {
        let direct = matches!(plan.boot, crate::plan::BootPath::Direct { .. });
        Self {
            nonce: nonce.to_owned(),
            layers: plan.layers.clone(),
            stage: if direct {
                Stage::Kernel
            } else {
                Stage::Firmware
            },
            lines: LineBuffer::new(),
            patterns,
            port: EventReader::default(),
            console: EventReader::default(),
            port_spoke: false,
            records: Vec::new(),
            record_lines: Vec::new(),
            news: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
            layers_seen: Vec::new(),
            root_write: None,
            services: Services::default(),
            answered: false,
            debug: false,
            ready: None,
            suspect: false,
            console_spoke: false,
            kernel_told: Vec::new(),
            asked_to_end: false,
            unplugged: false,
            shutdown: None,
            end: None,
            state_file: None,
            machine_end: None,
            exited: None,
        }
    }

    /// Bytes of the serial console.
    pub(crate) fn console_bytes(&mut self, bytes: &[u8]) {
        let mut lines = Vec::new();
        self.lines
            .feed(bytes, &mut |line| lines.push(line.to_owned()));
        for line in lines {
            self.console_line(&line);
        }
    }

    fn console_line(&mut self, line: &str) {
        if let Some(text) = console_record(line, &self.nonce) {
            if !self.port_spoke {
                let text = text.to_owned();
                let mut items = Vec::new();
                self.console.line(&text, &mut |item| items.push(item));
                self.take(items);
            }
            return;
        }
        self.console_spoke |= self.stage >= Stage::Kernel;
        self.patterns.line(Source::Console, line);
        let finding = fatal::judge(line, self.stage);
        if let Some(stage) = Stage::of_line(line) {
            self.raise(stage);
        }
        if let Some(finding) = finding {
            self.found(finding.kind, &finding.line);
        }
    }

    /// Bytes of the report channel.
    pub(crate) fn report_bytes(&mut self, bytes: &[u8]) {
        let mut items = Vec::new();
        self.port.feed(bytes, &mut |item| items.push(item));
        self.port_spoke |= items.iter().any(|item| matches!(item, Item::Record(..)));
        self.take(items);
    }

    fn take(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Garbage => self.garbage_line(),
                Item::Record(..) if self.records.len() >= MAX_RECORDS => {
                    self.flood(format!(
                        "init's report is endless: more than {MAX_RECORDS} events"
                    ));
                }
                Item::Record(record, line) => {
                    self.record_lines.push(line);
                    self.record(&record.event);
                    if !matches!(record.event, Event::Log { .. }) {
                        self.records.push(record);
                    }
                }
            }
        }
        let flood = [&self.port, &self.console]
            .into_iter()
            .find(|reader| reader.is_flooded())
            .map(EventReader::flood);
        if let Some(text) = flood {
            self.flood(text);
        }
    }

    fn record(&mut self, event: &Event) {
        self.suspect = false;
        match event {
            Event::Boot { debug, .. } => {
                self.debug |= debug;
                self.reached(Phase::Start);
            }
            Event::Phase { phase } => self.reached(*phase),
            Event::Layer { name, root_hash } => self.layer(name, root_hash),
            Event::RootWrite { refused, detail } => {
                self.root_write = Some((*refused, detail.clone()));
                if !refused {
                    self.problem(
                        BuiltIn::ReadOnly,
                        Cause::Writable,
                        format!("a write to / was not refused: {detail}"),
                    );
                }
            }
            Event::Service {
                name,
                state,
                detail,
                ..
            } => {
                let ends = self.asked_to_end || self.shutdown.is_some();
                let failed = self.services.change(name, *state, detail) && !ends;
                self.news
                    .push(format!("service {name}: {}", service::state_name(*state)));
                if failed {
                    let line = format!("service {name} failed: {detail}");
                    let check = if detail.starts_with("crash loop") {
                        BuiltIn::CrashLoop
                    } else {
                        BuiltIn::Services
                    };
                    self.problem(check, Cause::Service(name.clone()), line);
                }
            }
            Event::Ready { rss_kib } => {
                self.ready = Some(*rss_kib);
                self.reached(Phase::Running);
            }
            Event::Error { phase, what, why } => self.init_error(*phase, what, why),
            Event::Shutdown { kind, reason } => {
                let text = format!("init shuts down: {kind}, asked for by {reason}");
                if !self.asked_to_end {
                    self.ended(Cause::Ended, text.clone());
                }
                self.shutdown = Some(text);
            }
            Event::End { clean } => self.end = Some(*clean),
            Event::Log { service, line, .. } => self.patterns.line(Source::Service(service), line),
            // Only told when a sweep asks for it, and judged there.
            Event::Network { .. }
            | Event::Metadata { .. }
            | Event::Clock { .. }
            | Event::LayerRead { .. }
            | Event::Sink { .. }
            | Event::Spool { .. }
            | Event::LogLoss { .. } => {}
            Event::Health {
                service,
                healthy,
                detail,
            } => {
                let state = if *healthy { "healthy" } else { "unhealthy" };
                self.news.push(format!("service {service}: {state}"));
                if !healthy && !self.asked_to_end && self.shutdown.is_none() {
                    let line = format!("service {service} is unhealthy: {detail}");
                    self.problem(BuiltIn::Services, Cause::Service(service.clone()), line);
                }
            }
            Event::Inside { item, .. } => {
                self.answered |= matches!(**item, slipform_init::contract::inside::Item::End(_));
            }
            // A service that was killed or refused ends, and that is judged.
            Event::Limit { .. } | Event::LastBoot { .. } | Event::Watchdog { .. } => {}
            Event::State { news, detail, .. } => {
                self.news
                    .push(format!("state {news:?}: {detail}").to_lowercase());
            }
            Event::StateFile { .. } => self.state_file = Some(event.clone()),
        }
    }

    /// An event of QEMU's monitor.
    pub(crate) fn monitor(&mut self, event: &MonitorEvent) {
        match event.name.as_str() {
            "GUEST_PANICKED" => {
                let line = format!("QEMU: the guest panicked ({})", event.reason);
                self.add(BuiltIn::Panic, Cause::Pvpanic, line, true);
            }
            "SHUTDOWN" => {
                self.machine_end = Some(event.reason.clone());
                if !self.asked_to_end {
                    let what = match event.reason.as_str() {
                        "guest-reset" => "the guest rebooted",
                        "guest-shutdown" => "the guest powered itself off",
                        "guest-panic" => "the guest panicked",
                        _ => "the emulator was ended from outside",
                    };
                    self.ended(Cause::Ended, format!("{what} (QEMU: {})", event.reason));
                }
            }
            _ => {}
        }
    }

    /// The harness pulls the plug: the process's end is its own doing from now on.
    pub(crate) fn unplug(&mut self) {
        self.unplugged = true;
    }

    /// The emulator's process ended.
    pub(crate) fn process_end(&mut self, status: &str) {
        if !self.asked_to_end && !self.unplugged && self.machine_end.is_none() {
            self.ended(
                Cause::Emulator,
                format!("QEMU ended with {status} while the guest ran"),
            );
        }
        self.exited = Some(status.to_owned());
    }

    /// From now on an end is expected.
    pub(crate) fn expect_end(&mut self) {
        self.asked_to_end = true;
        self.stage = self.stage.max(Stage::PowerOff);
    }

    /// It was told to reboot, and did not.
    pub(crate) fn did_not_reboot(&mut self, limit: &str) {
        if !self.is_dead() {
            let line = format!("the machine did not reboot within {limit}");
            self.add(BuiltIn::PowerOff, Cause::PowerOff, line, true);
        }
    }

    /// The guest will do nothing useful any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.problems.iter().any(|problem| problem.deadly)
    }

    /// Ready cannot come any more.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.is_dead() || (self.ready.is_none() && self.services.failed().is_some())
    }

    /// What was no record, of both ways.
    pub(crate) fn garbage(&self) -> Garbage {
        let (port, console) = (self.port.garbage(), self.console.garbage());
        let mut sum = if port.lines > 0 {
            port.clone()
        } else {
            console.clone()
        };
        sum.lines = port.lines + console.lines;
        sum
    }

    /// The guest has said its last words. Console, report and monitor are ways of
    /// their own: what init reported before it died may have come after the line
    /// that told of the death, and tells the phase better.
    pub(crate) fn settle(&mut self) {
        let was_ready = self.ready.is_some();
        let death = self.problems.iter_mut().find(|problem| problem.deadly);
        if let Some(problem) = death
            && matches!(
                problem.cause,
                Cause::Console(_) | Cause::Pvpanic | Cause::Ended | Cause::Emulator
            )
        {
            // Init's report has kernel lines and phases in one order; what came later is later.
            let told = self
                .kernel_told
                .iter()
                .find(|(line, _)| problem.line.contains(line));
            problem.phase = told.map_or(self.stage, |(_, stage)| *stage).name();
            if was_ready && problem.check == BuiltIn::Ready {
                problem.check = BuiltIn::PowerOff;
            }
        }
    }

    /// The time until ready is over.
    pub(crate) fn too_late(&mut self, limit: &str) {
        let last = self.lines.last();
        let (cause, phase, line) = match (self.services.unready(), self.stage) {
            (Some((name, state)), Stage::Init(_)) => (
                Cause::ServiceSlow(name.clone()),
                format!("service {name}"),
                format!("not ready after {limit}; service {name} is {state}"),
            ),
            (_, stage) if last.is_empty() && self.records.is_empty() => (
                Cause::Silent,
                stage.name(),
                format!(
                    "not ready after {limit}; nothing came on the console or the report channel"
                ),
            ),
            (_, stage) => {
                let last = last.last().map_or("nothing", String::as_str);
                let line =
                    format!("not ready after {limit}; the last line of the console is: {last}");
                (Cause::Late, stage.name(), line)
            }
        };
        self.push(Problem {
            check: BuiltIn::Ready,
            cause,
            phase,
            line,
            deadly: true,
            minor: false,
        });
    }

    /// The stage only goes up.
    fn raise(&mut self, stage: Stage) {
        if stage > self.stage {
            self.stage = stage;
            self.news.push(stage.name());
        }
    }

    fn reached(&mut self, phase: Phase) {
        if phase == Phase::Shutdown {
            // Asked for, it is [`Stage::PowerOff`] already; else it is what a death
            // looks like, and where the machine was before is what counts.
            return;
        }
        self.raise(Stage::Init(phase));
    }

    fn layer(&mut self, name: &str, root_hash: &str) {
        let n = self.layers_seen.len();
        self.layers_seen
            .push((name.to_owned(), root_hash.to_owned()));
        let text = match self.layers.get(n) {
            Some((want, hash)) if want == name && hash.eq_ignore_ascii_case(root_hash) => return,
            Some((want, hash)) if want == name => {
                format!("layer {name} is verified against root hash {root_hash}, not {hash}")
            }
            Some((want, _)) => format!("layer {} of the stack is {name}, not {want}", n + 1),
            // A plan without layers leaves them unchecked; the verdict says so.
            None if self.layers.is_empty() || n > self.layers.len() => return,
            None => format!(
                "layer {name} is one more than the {} of the image",
                self.layers.len()
            ),
        };
        self.problem(BuiltIn::Layers, Cause::Layer, text);
    }
}
