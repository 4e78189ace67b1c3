//! The user's checks, made from outside the machine, each with a verdict that says
//! what was last seen. Network checks run one after the other in a thread (a later
//! one may need what an earlier one stored); console checks watch from power-on.

pub(crate) mod console;
pub(crate) mod http;
pub(crate) mod tcp;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::limits::Limits;
use crate::plan::{Check, Probe};
use crate::report::Outcome;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// What one try saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It fits.
    Good(String),
    /// An answer, but not the right one.
    Wrong(String),
    /// No answer.
    Nothing(String),
}

/// The network checks on their way.
#[derive(Debug)]
pub(crate) struct Runner {
    stop: Arc<AtomicBool>,
    /// Index of the check and what came of it.
    pub(crate) outcomes: Receiver<(usize, Outcome)>,
}

impl Runner {
    /// Starts the network checks of the plan; console checks are not among them.
    pub(crate) fn start(checks: &[Check], ports: &BTreeMap<u16, u16>, limits: Limits) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, outcomes) = channel();
        let jobs: Vec<(usize, Probe)> = checks
            .iter()
            .enumerate()
            .filter(|(_, check)| guest_port(&check.probe).is_some())
            .map(|(index, check)| (index, check.probe.clone()))
            .collect();
        let (ports, stopped) = (ports.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            for (index, probe) in jobs {
                let outcome = repeat(&limits, &stopped, &mut |left| once(&probe, &ports, left));
                if sender.send((index, outcome)).is_err() {
                    return;
                }
            }
        });
        Self { stop, outcomes }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The port that a probe needs, if it needs one.
pub(crate) fn guest_port(probe: &Probe) -> Option<u16> {
    match probe {
        Probe::Http { port, .. } | Probe::Tcp { port, .. } => Some(*port),
        Probe::Console { .. } => None,
    }
}

fn once(probe: &Probe, ports: &BTreeMap<u16, u16>, left: Duration) -> Seen {
    let host = guest_port(probe).and_then(|guest| ports.get(&guest));
    let Some(&host) = host else {
        return Seen::Nothing("its port was not forwarded".to_owned());
    };
    match probe {
        Probe::Http {
            path,
            status,
            contains,
            ..
        } => http::get(
            &http::Request {
                port: host,
                path,
                status: *status,
                contains: contains.as_deref(),
            },
            left,
        ),
        Probe::Tcp { steps, .. } => tcp::converse(host, steps, left),
        Probe::Console { .. } => Seen::Nothing("no network check".to_owned()),
    }
}

/// Tries until it fits or time is up. The first requests through user networking
/// may time out, and a service may answer before it is warm: both are tried again,
/// the latter for a shorter time.
fn repeat(
    limits: &Limits,
    stop: &AtomicBool,
    attempt: &mut dyn FnMut(Duration) -> Seen,
) -> Outcome {
    let start = Instant::now();
    let mut first_wrong = None;
    let mut tries = 0_u32;
    loop {
        tries += 1;
        let left = limits.check.saturating_sub(start.elapsed());
        let last = match attempt(left) {
            Seen::Good(detail) => return Outcome::Passed(detail),
            Seen::Wrong(detail) => {
                first_wrong.get_or_insert_with(Instant::now);
                detail
            }
            Seen::Nothing(detail) => detail,
        };
        if stop.load(Ordering::Relaxed) {
            return Outcome::Skipped("the run ended before".to_owned());
        }
        let settled = first_wrong.is_some_and(|since| since.elapsed() >= limits.settle);
        if settled || start.elapsed() + PAUSE >= limits.check {
            let seconds = start.elapsed().as_secs_f64();
            return Outcome::Failed(format!("{last}, in {tries} tries over {seconds:.1} s"));
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(check: u64, settle: u64) -> Limits {
        let ms = Duration::from_millis;
        Limits {
            start: ms(0),
            ready: ms(0),
            check: ms(check),
            settle: ms(settle),
            silence: ms(0),
            power_off: ms(0),
            last_words: ms(0),
        }
    }

    #[test]
    fn tries_until_it_fits() {
        let mut n = 0;
        let outcome = repeat(
            &limits(60_000, 60_000),
            &AtomicBool::new(false),
            &mut |_| {
                n += 1;
                match n {
                    1 => Seen::Nothing("refused".into()),
                    2 => Seen::Wrong("503".into()),
                    _ => Seen::Good("200".into()),
                }
            },
        );
        assert_eq!((outcome, n), (Outcome::Passed("200".into()), 3));
    }

    #[test]
    fn a_wrong_answer_gets_less_patience_than_none() {
        let outcome = repeat(&limits(3_600_000, 0), &AtomicBool::new(false), &mut |_| {
            Seen::Wrong("status 500".into())
        });
        assert!(
            matches!(outcome, Outcome::Failed(text) if text.starts_with("status 500, in 1 tries"))
        );
        let outcome = repeat(&limits(0, 3_600_000), &AtomicBool::new(false), &mut |_| {
            Seen::Nothing("no connection".into())
        });
        assert!(matches!(outcome, Outcome::Failed(text) if text.starts_with("no connection")));
    }

    #[test]
    fn a_stopped_check_is_skipped() {
        let outcome = repeat(&limits(60_000, 60_000), &AtomicBool::new(true), &mut |_| {
            Seen::Nothing("x".into())
        });
        assert!(matches!(outcome, Outcome::Skipped(_)));
    }
}
