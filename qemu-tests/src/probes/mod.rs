//! The user's probes, each with a verdict that says what was last seen. Network
//! probes are made from outside, in a thread, one after the other (a later one may
//! need what an earlier one stored); patterns watch from power-on ([`patterns`]).

pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod patterns;
pub(crate) mod tcp;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::plan::Probe;
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

/// How long and how often a probe is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Without an answer.
    pub(crate) limit: Duration,
    /// With a wrong answer: a service may still be filling a cache.
    pub(crate) settle: Duration,
    /// Tries after the first.
    pub(crate) retries: Option<u32>,
}

/// A network probe on its way.
#[derive(Debug)]
pub(crate) struct Attempt {
    stop: Arc<AtomicBool>,
    /// What came of it.
    pub(crate) outcome: Receiver<Outcome>,
}

impl Attempt {
    /// Starts it; `ports` are guest ports and the host's.
    pub(crate) fn start(probe: Probe, ports: BTreeMap<u16, u16>, patience: Patience) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, outcome) = channel();
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let outcome = repeat(&patience, &stopped, &mut |left| once(&probe, &ports, left));
            // The run may be over.
            drop(sender.send(outcome));
        });
        Self { stop, outcome }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The port that a probe needs, if it needs one.
pub(crate) fn guest_port(probe: &Probe) -> Option<u16> {
    match probe {
        Probe::Http(http) => Some(http.port),
        Probe::Tcp { port, .. } => Some(*port),
        _ => None,
    }
}

fn once(probe: &Probe, ports: &BTreeMap<u16, u16>, left: Duration) -> Seen {
    let host = guest_port(probe).and_then(|guest| ports.get(&guest));
    let Some(&host) = host else {
        return Seen::Nothing("its port was not forwarded".to_owned());
    };
    match probe {
        Probe::Http(request) => http::ask(host, request, left),
        Probe::Tcp { steps, .. } => tcp::converse(host, steps, left),
        _ => Seen::Nothing("no network check".to_owned()),
    }
}

/// Tries until it fits or time is up. The first requests through user networking
/// may time out, and a service may answer before it is warm: both are tried again,
/// the latter for a shorter time.
fn repeat(
    patience: &Patience,
    stop: &AtomicBool,
    attempt: &mut dyn FnMut(Duration) -> Seen,
) -> Outcome {
    let start = Instant::now();
    let mut first_wrong = None;
    let mut tries = 0_u32;
    loop {
        tries += 1;
        let left = patience.limit.saturating_sub(start.elapsed());
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
        let settled = first_wrong.is_some_and(|since| since.elapsed() >= patience.settle);
        let spent = patience.retries.is_some_and(|retries| tries > retries);
        if settled || spent || start.elapsed() + PAUSE >= patience.limit {
            let seconds = start.elapsed().as_secs_f64();
            let tries = match tries {
                1 => "1 try".to_owned(),
                _ => format!("{tries} tries"),
            };
            return Outcome::Failed(format!("{last}, in {tries} over {seconds:.1} s"));
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(limit: u64, settle: u64) -> Patience {
        Patience {
            limit: Duration::from_millis(limit),
            settle: Duration::from_millis(settle),
            retries: None,
        }
    }

    #[test]
    fn tries_until_it_fits() {
        let mut n = 0;
        let outcome = repeat(
            &patience(60_000, 60_000),
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
        let outcome = repeat(
            &patience(3_600_000, 0),
            &AtomicBool::new(false),
            &mut |_| Seen::Wrong("status 500".into()),
        );
        assert!(
            matches!(outcome, Outcome::Failed(text) if text.starts_with("status 500, in 1 try"))
        );
        let outcome = repeat(
            &patience(0, 3_600_000),
            &AtomicBool::new(false),
            &mut |_| Seen::Nothing("no connection".into()),
        );
        assert!(matches!(outcome, Outcome::Failed(text) if text.starts_with("no connection")));
    }

    #[test]
    fn a_stopped_check_is_skipped() {
        let outcome = repeat(
            &patience(60_000, 60_000),
            &AtomicBool::new(true),
            &mut |_| Seen::Nothing("x".into()),
        );
        assert!(matches!(outcome, Outcome::Skipped(_)));
    }

    #[test]
    fn retries_are_counted() {
        let mut patience = patience(3_600_000, 3_600_000);
        for (retries, tries) in [(0, 1), (2, 3)] {
            patience.retries = Some(retries);
            let mut n = 0;
            let outcome = repeat(&patience, &AtomicBool::new(false), &mut |_| {
                n += 1;
                Seen::Wrong("status 503".into())
            });
            assert!(matches!(outcome, Outcome::Failed(_)) && n == tries, "{n}");
        }
    }
}
