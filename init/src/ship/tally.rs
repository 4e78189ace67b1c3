//! What is counted on the way: events become numbers for the metrics.

use std::time::Duration;

use slipform_init::contract::event::{Event, Phase, ServiceState};

/// Services that are counted; more than an image can have.
const SERVICES_MAX: usize = 256;

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceTally {
    /// Name.
    pub(crate) name: String,
    /// Last state.
    pub(crate) state: ServiceState,
    /// How often its process was started.
    pub(crate) starts: u64,
    /// Lines that it said.
    pub(crate) lines: u64,
    /// Lines lost because it wrote too fast.
    pub(crate) dropped: u64,
    /// Its process, and when (CLOCK_BOOTTIME) that was started.
    pub(crate) process: Option<(i32, Duration)>,
    /// Why it is in its state.
    pub(crate) detail: String,
    /// Its last `STATUS=` of sd_notify.
    pub(crate) status: String,
}

/// What sd_notify's status looks like among a service's lines.
const STATUS: &str = "STATUS=";
/// Bytes of a reason or a status that are kept.
const TEXT_MAX: usize = 512;

/// One sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SinkTally {
    /// Name.
    pub(crate) name: String,
    /// It took what was sent last.
    pub(crate) up: bool,
    /// Records that it has.
    pub(crate) sent: u64,
    /// Records that it never got.
    pub(crate) lost: u64,
    /// Connections that failed.
    pub(crate) failures: u64,
}

/// All counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// CLOCK_BOOTTIME at which each phase began.
    pub(crate) phases: [Option<Duration>; Phase::ALL.len()],
    /// In the order of their first news.
    pub(crate) services: Vec<ServiceTally>,
    /// Corrupted blocks and other complaints of dm-verity.
    pub(crate) verity_errors: u64,
    /// Other errors of init's.
    pub(crate) errors: u64,
    /// Sinks, as the shipper sees them.
    pub(crate) sinks: Vec<SinkTally>,
    /// How often an address came or went.
    pub(crate) network_changes: u64,
}

impl Tally {
    /// Counts an event that happens at `since_boot`.
    pub(crate) fn event(&mut self, event: &Event, since_boot: Duration) {
        match event {
            Event::Phase { phase } => {
                if let Some(time) = self.phases.get_mut(*phase as usize) {
                    time.get_or_insert(since_boot);
                }
            }
            Event::Service {
                name,
                state,
                pid,
                detail,
            } => {
                if let Some(service) = self.service(name) {
                    service.enter(*state, *pid, since_boot);
                    detail.as_str().clone_into(&mut service.detail);
                    cut(&mut service.detail);
                }
            }
            Event::Log {
                service,
                stream,
                line,
            } => {
                if let Some(service) = self.service(service) {
                    service.lines += 1;
                    if let Some(status) = line.strip_prefix(STATUS).filter(|_| stream == "notify") {
                        status.clone_into(&mut service.status);
                        cut(&mut service.status);
                    }
                }
            }
            Event::Error {
                phase: Phase::Verity,
                ..
            } => self.verity_errors += 1,
            Event::Error { .. } => self.errors += 1,
            Event::Network { .. } => self.network_changes += 1,
            _ => {}
        }
    }

    /// Lines of a service were lost.
    pub(crate) fn dropped(&mut self, name: &str, lines: u64) {
        if let Some(service) = self.service(name) {
            service.dropped = service.dropped.saturating_add(lines);
        }
    }

    fn service(&mut self, name: &str) -> Option<&mut ServiceTally> {
        let known = self
            .services
            .iter()
            .position(|service| service.name == name);
        let index = match known {
            Some(index) => index,
            None if self.services.len() < SERVICES_MAX => {
                self.services.push(ServiceTally {
                    name: name.to_owned(),
                    state: ServiceState::Waiting,
                    starts: 0,
                    lines: 0,
                    dropped: 0,
                    process: None,
                    detail: String::new(),
                    status: String::new(),
                });
                self.services.len() - 1
            }
            None => return None,
        };
        self.services.get_mut(index)
    }
}

impl ServiceTally {
    /// It is in another state from now on.
    fn enter(&mut self, state: ServiceState, pid: i32, since_boot: Duration) {
        self.state = state;
        match state {
            ServiceState::Started => {
                self.starts += 1;
                self.process = (pid > 0).then_some((pid, since_boot));
                self.status.clear();
            }
            ServiceState::Ready => {}
            _ => self.process = None,
        }
    }
}

fn cut(text: &mut String) {
    let end = (0..=TEXT_MAX.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted() {
        let mut tally = Tally::default();
        let at = Duration::from_millis(1500);
        tally.event(&Event::Phase { phase: Phase::Disk }, at);
        tally.event(&Event::Phase { phase: Phase::Disk }, at * 2);
        assert_eq!(tally.phases[Phase::Disk as usize], Some(at));
        for state in [
            ServiceState::Started,
            ServiceState::Exited,
            ServiceState::Started,
            ServiceState::Ready,
        ] {
            let event = Event::Service {
                name: "web".to_owned(),
                state,
                pid: 1,
                detail: String::new(),
            };
            tally.event(&event, at);
        }
        tally.dropped("web", 7);
        assert_eq!(
            tally.services,
            [ServiceTally {
                name: "web".to_owned(),
                state: ServiceState::Ready,
                starts: 2,
                lines: 0,
                dropped: 7,
                process: Some((1, at)),
                detail: String::new(),
                status: String::new(),
            }]
        );
    }

    #[test]
    fn a_process_and_what_it_says_of_itself_are_known_while_it_runs() {
        let mut tally = Tally::default();
        let at = Duration::from_secs(3);
        let service = |state, pid, detail: &str| Event::Service {
            name: "web".to_owned(),
            state,
            pid,
            detail: detail.to_owned(),
        };
        let said = |stream: &str, line: &str| Event::Log {
            service: "web".to_owned(),
            stream: stream.to_owned(),
            line: line.to_owned(),
        };
        tally.event(&service(ServiceState::Started, 77, ""), at);
        tally.event(&said("notify", "STATUS=serving"), at);
        tally.event(&said("out", "STATUS=forged"), at);
        tally.event(&service(ServiceState::Ready, 77, ""), at * 2);
        assert_eq!(tally.services[0].process, Some((77, at)));
        assert_eq!(tally.services[0].status, "serving");
        tally.event(&said("notify", &format!("STATUS={}", "ü".repeat(4000))), at);
        assert_eq!(tally.services[0].status.len(), TEXT_MAX);
        tally.event(&service(ServiceState::Backoff, 0, "exit status 1"), at * 3);
        assert_eq!(tally.services[0].process, None);
        assert_eq!(tally.services[0].detail, "exit status 1");
        tally.event(&service(ServiceState::Started, 78, ""), at * 4);
        assert_eq!(
            tally.services[0].status, "",
            "another process has said nothing yet"
        );
    }

    #[test]
    fn names_are_bounded() {
        let mut tally = Tally::default();
        for number in 0..1000 {
            tally.dropped(&number.to_string(), 1);
        }
        assert_eq!(tally.services.len(), SERVICES_MAX);
    }
}
