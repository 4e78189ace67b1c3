//! Signs of life of a service that is ready: its health probe, and its own
//! `WATCHDOG=1` (sd_notify(3)). On a clock that comes from outside.

use std::os::fd::RawFd;
use std::time::Duration;

use slipform_init::contract::service::Health;

use super::ready::{Probe, ReadyError};

/// What the signs say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is well again.
    Well,
    /// Something has to be done.
    Sick(String),
}

#[derive(Debug)]
struct Watch {
    probe: Probe,
    interval: Duration,
    failures: u32,
    /// When the next attempt begins; none while one is on its way.
    next: Option<Duration>,
    failed: u32,
}

/// The signs of one service.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    watch: Option<Watch>,
    /// Of the specification, and as the service itself changed it for this run.
    limits: [Option<Duration>; 2],
    active: bool,
    /// The service said `STOPPING=1`: it owes no sign any more.
    resting: bool,
    sign_due: Option<Duration>,
    /// The last word was that it is sick.
    sick: bool,
}

impl Vitals {
    /// None of both may be asked for.
    ///
    /// # Errors
    /// [`ReadyError`] for a probe without a numeric address.
    pub(crate) fn new(
        health: Option<&Health>,
        watchdog: Option<Duration>,
    ) -> Result<Vitals, ReadyError> {
        let watch = health.map(|health| {
            let probe =
                Probe::new(&health.probe)?.with_limit(Duration::from_millis(health.timeout_ms));
            Ok(Watch {
                probe,
                interval: Duration::from_millis(health.interval_ms.max(100)),
                failures: health.failures.max(1),
                next: None,
                failed: 0,
            })
        });
        Ok(Vitals {
            watch: watch.transpose()?,
            limits: [watchdog, None],
            ..Vitals::default()
        })
    }

    /// A new process, which has said nothing yet.
    pub(crate) fn reset(&mut self) {
        self.pause();
        self.resting = false;
        self.limits[1] = None;
    }

    /// It is ready: from now on it is watched. Does nothing if it is already.
    pub(crate) fn begin(&mut self, now: Duration) {
        if self.active || self.resting {
            return;
        }
        self.active = true;
        if let Some(watch) = &mut self.watch {
            watch.failed = 0;
            watch.next = Some(now.saturating_add(watch.interval));
        }
        self.sign(now);
    }

    /// It is not ready, or being stopped.
    pub(crate) fn pause(&mut self) {
        self.active = false;
        self.sign_due = None;
        if let Some(watch) = &mut self.watch {
            watch.probe.end();
            watch.next = None;
        }
    }

    /// It said `STOPPING=1`.
    pub(crate) fn rest(&mut self) {
        self.pause();
        self.resting = true;
    }

    /// It said `WATCHDOG=1`.
    pub(crate) fn sign(&mut self, now: Duration) {
        let limit = self.limits[1].or(self.limits[0]);
        self.sign_due = limit
            .filter(|_| self.active)
            .map(|limit| now.saturating_add(limit));
    }

    /// It said `WATCHDOG_USEC=…`.
    pub(crate) fn set_limit(&mut self, now: Duration, limit: Duration) {
        if !limit.is_zero() {
            self.limits[1] = Some(limit);
            self.sign(now);
        }
    }

    /// What to poll.
    pub(crate) fn fd(&self) -> Option<(RawFd, i16)> {
        self.watch.as_ref()?.probe.fd()
    }

    /// When [`Vitals::advance`] is due at the latest.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let watch = self.watch.as_ref();
        let probe = watch.and_then(|watch| watch.next.or_else(|| watch.probe.deadline()));
        probe.into_iter().chain(self.sign_due).min()
    }

    /// Goes on, after a descriptor was ready or the deadline has passed.
    pub(crate) fn advance(&mut self, now: Duration) -> Option<Verdict> {
        if !self.active {
            return None;
        }
        if self.sign_due.is_some_and(|due| due <= now) {
            let limit = self.limits[1].or(self.limits[0]).unwrap_or_default();
            return Some(self.fall_sick(format!("no WATCHDOG=1 within {} s", limit.as_secs_f64())));
        }
        let watch = self.watch.as_mut()?;
        if watch.next.is_some_and(|next| next <= now) {
            watch.next = None;
            watch.probe.begin(now);
        }
        if watch.next.is_some() {
            return None;
        }
        if watch.probe.advance(now) {
            watch.probe.end();
            watch.failed = 0;
            watch.next = Some(now.saturating_add(watch.interval));
            return std::mem::take(&mut self.sick).then_some(Verdict::Well);
        }
        if watch.probe.failures() == 0 {
            return None;
        }
        watch.probe.end();
        watch.failed += 1;
        watch.next = Some(now.saturating_add(watch.interval));
        if watch.failed < watch.failures {
            return None;
        }
        let why = format!(
            "{} probes in a row failed, last: {}",
            watch.failed,
            watch.probe.seen()
        );
        Some(self.fall_sick(why))
    }

    fn fall_sick(&mut self, why: String) -> Verdict {
        self.pause();
        self.sick = true;
        Verdict::Sick(why)
    }

    /// It said `WATCHDOG=trigger`.
    pub(crate) fn trigger(&mut self) -> Option<Verdict> {
        self.active
            .then(|| self.fall_sick("it said WATCHDOG=trigger".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use slipform_init::contract::machine::Ready;
    use slipform_init::contract::service::Then;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_service_that_keeps_still_is_sick_and_one_that_rests_is_not() {
        let mut vitals = Vitals::new(None, Some(at(10))).expect("no probe");
        assert_eq!((vitals.deadline(), vitals.advance(at(99))), (None, None));
        vitals.begin(at(100));
        assert_eq!(vitals.deadline(), Some(at(110)));
        vitals.sign(at(105));
        assert_eq!(
            (vitals.deadline(), vitals.advance(at(114))),
            (Some(at(115)), None)
        );
        let sick = Verdict::Sick("no WATCHDOG=1 within 10 s".to_owned());
        assert_eq!(vitals.advance(at(115)), Some(sick));
        assert_eq!((vitals.deadline(), vitals.advance(at(999))), (None, None));
        vitals.reset();
        vitals.begin(at(200));
        vitals.set_limit(at(200), at(2));
        assert_eq!(vitals.deadline(), Some(at(202)));
        vitals.rest();
        vitals.begin(at(201));
        assert_eq!((vitals.deadline(), vitals.advance(at(300))), (None, None));
        vitals.reset();
        vitals.begin(at(400));
        assert_eq!(
            vitals.deadline(),
            Some(at(410)),
            "what it changed was for one run"
        );
        assert!(matches!(vitals.trigger(), Some(Verdict::Sick(_))));
        assert_eq!(vitals.trigger(), None);
    }

    #[test]
    fn probes_that_fail_in_a_row_are_told_and_one_good_one_counts_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let health = Health {
            probe: Ready::Tcp(address.clone()),
            interval_ms: 10_000,
            timeout_ms: 5000,
            failures: 3,
            restarts: 3,
            within_ms: 1000,
            then: Then::GiveUp,
        };
        let mut vitals = Vitals::new(Some(&health), None).expect("address");
        vitals.begin(at(0));
        let mut listener = Some(listener);
        let mut verdicts = Vec::new();
        let mut now = at(0);
        for round in 0..12 {
            if round == 2 {
                listener = None;
            } else if round == 4 {
                listener = Some(TcpListener::bind(&address).expect("bind again"));
            } else if round == 5 {
                listener = None;
            }
            let Some(due) = vitals.deadline() else { break };
            assert_eq!(due, now + at(10), "round {round}");
            now = due;
            let mut verdict = vitals.advance(now);
            while vitals.fd().is_some() {
                verdict = vitals.advance(now);
            }
            verdicts.extend(verdict.map(|verdict| (round, verdict)));
        }
        drop(listener);
        let [(7, Verdict::Sick(why))] = verdicts.as_slice() else {
            panic!("{verdicts:?}");
        };
        assert!(
            why.starts_with("3 probes in a row failed, last: connect"),
            "{why}"
        );
        let _listener = TcpListener::bind(&address).expect("bind again");
        vitals.reset();
        vitals.begin(at(1000));
        let mut verdict = vitals.advance(at(1010));
        while vitals.fd().is_some() {
            verdict = vitals.advance(at(1010));
        }
        assert_eq!(verdict, Some(Verdict::Well));
    }
}
