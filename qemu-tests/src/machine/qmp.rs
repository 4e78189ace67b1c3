//! Client of the QEMU Machine Protocol (docs/interop/qmp-spec.rst): greeting,
//! capabilities, commands with ids, events. One thread reads; lines are bounded.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Observation;
use crate::error::HarnessError;

/// Longest line taken: `info usernet` of a hundred ports is a few KiB.
const MAX_LINE: u64 = 1 << 20;
/// How long an answer may take once QEMU runs; the main loop of a loaded TCG can be slow.
const ANSWER: Duration = Duration::from_secs(30);

/// What QEMU tells by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MonitorEvent {
    /// `SHUTDOWN`, `GUEST_PANICKED`, `RESET`, …
    pub(crate) name: String,
    /// `data.reason` or `data.action`, or empty.
    pub(crate) reason: String,
}

/// A connection to the monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: UnixStream,
    answers: Receiver<Value>,
    id: u64,
    /// From the greeting: `10.0.13`.
    pub(crate) version: String,
}

impl Monitor {
    /// Takes the greeting, negotiates, and sends events to `events` from then on.
    pub(crate) fn start(
        stream: UnixStream,
        events: SyncSender<Observation>,
        limit: Duration,
    ) -> Result<Self, HarnessError> {
        let failed = |error: std::io::Error| HarnessError::Io {
            operation: "set up the socket of",
            path: Path::new("the monitor").to_owned(),
            source: error,
            remedy: "raise the limit of open files",
        };
        let reader = stream.try_clone().map_err(failed)?;
        stream.set_write_timeout(Some(ANSWER)).map_err(failed)?;
        let (sender, answers) = sync_channel(16);
        std::thread::spawn(move || {
            read_lines(reader, &sender, &events);
            drop(events.send(Observation::Closed));
        });
        let mut monitor = Self {
            stream,
            answers,
            id: 0,
            version: String::new(),
        };
        let greeting =
            monitor.answer("the greeting", limit, &|value| value.get("QMP").is_some())?;
        let number = |name: &str| {
            greeting["QMP"]["version"]["qemu"][name]
                .as_u64()
                .unwrap_or(0)
        };
        monitor.version = format!(
            "{}.{}.{}",
            number("major"),
            number("minor"),
            number("micro")
        );
        monitor.execute("qmp_capabilities", None)?;
        Ok(monitor)
    }

    /// One command; its `return`.
    pub(crate) fn execute(
        &mut self,
        command: &str,
        arguments: Option<Value>,
    ) -> Result<Value, HarnessError> {
        self.id += 1;
        let id = self.id;
        let mut message = json!({ "execute": command, "id": id });
        if let Some(arguments) = arguments {
            message["arguments"] = arguments;
        }
        let refused = |why: String| HarnessError::Monitor {
            command: command.to_owned(),
            why,
        };
        self.stream
            .write_all(format!("{message}\r\n").as_bytes())
            .map_err(|error| refused(error.to_string()))?;
        let answer = self.answer(command, ANSWER, &|value| value["id"].as_u64() == Some(id))?;
        if let Some(error) = answer.get("error") {
            return Err(refused(
                error["desc"]
                    .as_str()
                    .unwrap_or("an error without text")
                    .to_owned(),
            ));
        }
        Ok(answer["return"].clone())
    }

    /// A command of the human monitor; its text.
    pub(crate) fn human(&mut self, command: &str) -> Result<String, HarnessError> {
        let answer = self.execute(
            "human-monitor-command",
            Some(json!({ "command-line": command })),
        )?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Waits for the line that fits; lines that do not (late answers) are dropped.
    fn answer(
        &mut self,
        what: &str,
        limit: Duration,
        fits: &dyn Fn(&Value) -> bool,
    ) -> Result<Value, HarnessError> {
        let deadline = Instant::now() + limit;
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(wait) {
                Ok(value) if fits(&value) => return Ok(value),
                Ok(_) => {}
                Err(error) => {
                    return Err(HarnessError::Monitor {
                        command: what.to_owned(),
                        why: match error {
                            RecvTimeoutError::Timeout => {
                                format!("no answer in {} s", limit.as_secs())
                            }
                            RecvTimeoutError::Disconnected => {
                                "the monitor closed the connection".to_owned()
                            }
                        },
                    });
                }
            }
        }
    }
}

/// Sorts lines into events and answers until the stream ends or breaks the rules.
fn read_lines(stream: UnixStream, answers: &SyncSender<Value>, events: &SyncSender<Observation>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.last() != Some(&b'\n') => return,
            Ok(_) => {}
        }
        let Ok(value) = serde_json::from_slice::<Value>(&line) else {
            return;
        };
        let told = match event(&value) {
            Some(event) => events.send(Observation::Monitor(event)).is_ok(),
            // Nobody waits for late answers: a full queue drops them.
            None => !matches!(
                answers.try_send(value),
                Err(std::sync::mpsc::TrySendError::Disconnected(_))
            ),
        };
        if !told {
            return;
        }
    }
}

/// The event in a line, if it is one.
fn event(value: &Value) -> Option<MonitorEvent> {
    let name = value.get("event")?.as_str()?;
    let data = &value["data"];
    let reason = data["reason"].as_str().or_else(|| data["action"].as_str());
    Some(MonitorEvent {
        name: name.to_owned(),
        reason: reason.unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => panic!("socketpair: {error}"),
        }
    }

    /// Plays lines and reads nothing.
    fn played(lines: &'static str) -> (Result<Monitor, HarnessError>, Receiver<Observation>) {
        let (ours, mut theirs) = pair();
        let player = std::thread::spawn(move || {
            drop(theirs.write_all(lines.as_bytes()));
            theirs
        });
        let (sender, events) = sync_channel(16);
        let monitor = Monitor::start(ours, sender, Duration::from_secs(5));
        drop(player.join());
        (monitor, events)
    }

    #[test]
    fn greeting_events_and_late_answers_are_sorted() {
        let (monitor, events) = played(
            "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 13, \"minor\": 0, \"major\": 10}}, \"capabilities\": [\"oob\"]}}\r\n\
{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}}\r\n\
{\"return\": {}, \"id\": 77}\r\n{\"return\": {}, \"id\": 1}\r\n",
        );
        assert_eq!(
            monitor.map(|monitor| monitor.version).ok(),
            Some("10.0.13".to_owned())
        );
        match events.try_recv() {
            Ok(Observation::Monitor(event)) => {
                assert_eq!(
                    (event.name.as_str(), event.reason.as_str()),
                    ("SHUTDOWN", "guest-shutdown")
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refusals_and_garbage_are_errors() {
        let (monitor, _) = played(
            "{\"QMP\": {}}\r\n{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\r\n",
        );
        assert!(matches!(monitor, Err(HarnessError::Monitor { why, .. }) if why == "not now"));
        let (monitor, _) = played("garbage\r\n");
        assert!(
            matches!(monitor, Err(HarnessError::Monitor { why, .. }) if why.contains("closed"))
        );
    }

    #[test]
    fn an_endless_line_is_cut_off() {
        let (ours, mut theirs) = pair();
        let player = std::thread::spawn(move || {
            let block = [b'x'; 65536];
            while theirs.write_all(&block).is_ok() {}
        });
        let (sender, _events) = sync_channel(16);
        assert!(Monitor::start(ours, sender, Duration::from_secs(20)).is_err());
        drop(player.join());
    }
}
