//! Events as log records: kept for the sinks, counted for the metrics, and shown by a
//! console that wants JSON.

use slipform_init::contract::event::Event;
use slipform_init::contract::machine::Machine;
use slipform_init::contract::telemetry::SPOOL_BYTES;

use super::outlet::Weight;
use super::{PREFIX, Reporter};
use crate::ship::format::lines;
use crate::ship::record::{self, Context, Identity, Record};
use crate::ship::{self, Spool};
use crate::sys::clock;

impl Reporter {
    /// Where records wait, and counts are.
    pub(crate) fn spool(&self) -> Spool {
        self.spool.clone()
    }

    /// What is the same in all records.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            machine: ship::machine_id().unwrap_or_default(),
            host: ship::host_name().unwrap_or_default(),
            ..self.identity.clone()
        }
    }

    /// machine.json is read: who the machine is, and where its logs go. True if there
    /// are sinks; otherwise nothing is kept any more.
    pub(crate) fn identify(&mut self, machine: &Machine) -> bool {
        self.identity = Identity {
            host: machine.name.replace('_', "-"),
            image: machine.name.clone(),
            version: machine.version.clone(),
            digest: self.machine_digest.clone(),
            boot: ship::boot_id().unwrap_or_default(),
            machine: String::new(),
        };
        let telemetry = machine.telemetry.as_ref();
        self.json = telemetry.is_some_and(|telemetry| telemetry.console_json);
        let ships = telemetry.is_some_and(|telemetry| !telemetry.sinks.is_empty());
        let bytes = telemetry.and_then(|telemetry| telemetry.spool_bytes);
        let limit = if ships {
            usize::try_from(bytes.unwrap_or(SPOOL_BYTES)).unwrap_or(usize::MAX)
        } else {
            0
        };
        self.spool.with(|journal| journal.ring.set_limit(limit));
        ships
    }

    /// Whether somebody may ask for the latest records is known: without a port nobody can.
    pub(super) fn keep_recent(&mut self, asked: bool) {
        self.spool.with(|journal| {
            if !asked {
                journal.recent.set_limit(0);
            }
            self.keeps = journal.ring.keeps() || journal.recent.keeps();
        });
    }

    /// Counts the event, and keeps it for the sinks and for a console that wants records.
    pub(super) fn observe(&mut self, event: &Event, human: Option<&str>) -> Option<Record> {
        self.spool
            .with(|journal| journal.tally.event(event, clock::since_boot()));
        if !self.keeps && !self.json {
            return None;
        }
        let at = clock::monotonic();
        let record = match event {
            Event::Log {
                service,
                stream,
                line,
            } => Record::line(at, service, stream, line),
            Event::Phase { phase } => Record::own(
                at,
                record::severity(event),
                &format!("phase {}", phase.name()),
            ),
            _ => {
                let text = human?;
                let text = text.strip_prefix(PREFIX).unwrap_or(text);
                Record::own(at, record::severity(event), text)
            }
        };
        // Each sink tells its own losses where they are; told as records of everybody's,
        // they would take the room of what is still here.
        if self.keeps && !matches!(event, Event::LogLoss { .. }) {
            self.keep(record.clone());
        }
        Some(record)
    }

    pub(super) fn keep(&self, record: Record) {
        self.spool.with(|journal| journal.keep(record));
    }

    /// What the console shows of a record: JSON where that is wanted.
    pub(super) fn console_record(&mut self, record: &Record, weight: Weight) {
        let context = Context {
            identity: &self.identity,
            offset: clock::wall().saturating_sub(clock::monotonic()),
        };
        let line = lines::line(record, &context);
        self.console
            .line("", line.trim_end_matches('\n').as_bytes(), weight);
        self.flush_console();
    }
}

#[cfg(test)]
mod tests {
    use slipform_init::contract::event::Phase;

    use super::*;
    use crate::ship::record::Severity;
    use crate::turn::Report;

    fn machine(telemetry: &str) -> Machine {
        let text = format!(
            r#"{{"schema":1,"name":"shop","version":"1","board":"b","layers":[],"clock_floor":0,
            "panic_seconds":1,"telemetry":{telemetry}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn log(line: &str) -> Event {
        Event::Log {
            service: "web".to_owned(),
            stream: "out".to_owned(),
            line: line.to_owned(),
        }
    }

    #[test]
    fn a_console_that_wants_json_gets_nothing_else() {
        let mut reporter = Reporter::new();
        let file = tempfile::NamedTempFile::new().unwrap();
        reporter.console.sink_mut().0 = Some(file.reopen().unwrap());
        assert!(!reporter.identify(&machine(r#"{"console_json":true}"#)));
        reporter.event(log("<3>a\u{1b}b"));
        reporter.phase(Phase::Running);
        reporter.event(Event::Ready { rss_kib: 1 });
        reporter.note("a note");
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let told: Vec<(&str, &str, &str)> = lines
            .iter()
            .map(|line| {
                let text = |key: &str| line[key].as_str().unwrap();
                (text("service"), text("severity"), text("message"))
            })
            .collect();
        assert_eq!(
            told,
            [
                ("web", "err", "a\u{1b}b"),
                ("slipform", "debug", "phase running"),
                ("slipform", "info", "ready (init takes 1 KiB)"),
                ("slipform", "info", "a note"),
            ]
        );
        assert!(!text.contains('\u{1b}'));
        let kept = reporter.spool().with(|journal| journal.ring.bytes());
        assert_eq!(kept, Some(0), "nobody would fetch them");
    }

    #[test]
    fn what_was_said_before_the_sinks_were_known_is_kept_for_them() {
        let mut reporter = Reporter::new();
        reporter.phase(Phase::Start);
        let sink = r#"{"name":"a","kind":"json-tcp","level":7,"peer":{"host":"a","port":1}}"#;
        assert!(reporter.identify(&machine(&format!(r#"{{"sinks":[{sink}]}}"#))));
        reporter.event(log("x"));
        reporter.event(Event::LogLoss {
            sink: "a".to_owned(),
            lost: 1,
            total: 1,
        });
        reporter.dropped("web", 5);
        reporter.spool().with(|journal| {
            assert_eq!(journal.ring.end(), 2, "a loss does not make more of itself");
            let (_, first) = journal.ring.next(0, Severity::Debug).unwrap();
            assert_eq!(&*first.text, "phase start");
            assert_eq!(journal.tally.services[0].dropped, 5);
            assert_eq!(journal.tally.services[0].lines, 1);
        });
        let mut quiet = Reporter::new();
        quiet.phase(Phase::Start);
        let nothing = serde_json::from_value(serde_json::json!({
            "schema": 1, "name": "n", "version": "1", "board": "b", "layers": [],
            "clock_floor": 0, "panic_seconds": 1,
        }));
        assert!(!quiet.identify(&nothing.unwrap()));
        quiet.event(log("x"));
        assert_eq!(quiet.spool().with(|journal| journal.ring.bytes()), Some(0));
    }
}
