//! What comes after a process: the next start, at once or after a pause, or the end.

use std::time::Duration;

use slipform_init::contract::event::ServiceState;
use slipform_init::contract::machine::Restart;
use slipform_init::contract::service::{Kind, StartLimit, Then};

use super::{
    Action, BACKOFF_CAP, BACKOFF_FIRST, CRASH_LOOP, End, HEALTHY_AFTER, Life, State, report,
};

impl Life {
    pub(super) fn spawn_failed(&mut self, now: Duration, why: String, out: &mut Vec<Action>) {
        let alive = matches!(
            self.state,
            State::Spawning | State::Starting { .. } | State::Stopping { .. }
        );
        if !alive {
            return;
        }
        if self.stop || self.last {
            return self.end(true, ServiceState::Stopped, why, out);
        }
        if let Kind::Every(period) = self.policy.kind {
            return self.sleep(now, period, ServiceState::Failed, &why, out);
        }
        if self.policy.restart == Restart::Never {
            return self.end(false, ServiceState::Failed, why, out);
        }
        report(out, ServiceState::Failed, 0, why.clone());
        self.back_off(now, false, &why, out);
    }

    pub(super) fn exited(&mut self, now: Duration, end: End, out: &mut Vec<Action>) {
        let (pid, ready_since) = match self.state {
            State::Starting { pid, .. } => (pid, None),
            State::Running {
                pid, ready_since, ..
            }
            | State::Stopping {
                pid, ready_since, ..
            } => (pid, ready_since),
            _ => return,
        };
        let was_ready = ready_since.is_some() || self.policy.kind == Kind::Oneshot;
        report(out, ServiceState::Exited, pid, end.to_string());
        if self.stop || self.last {
            return self.end(true, ServiceState::Stopped, end.to_string(), out);
        }
        let good = end.good() && !self.timed_out && !self.sick;
        if let Some(why) = self.given_up.take() {
            return self.end(false, ServiceState::Failed, why, out);
        }
        if let Kind::Every(period) = self.policy.kind {
            let state = if good {
                ServiceState::Waiting
            } else {
                ServiceState::Failed
            };
            return self.sleep(now, period, state, &end.to_string(), out);
        }
        let again = match self.policy.restart {
            Restart::Always => self.policy.kind == Kind::Daemon || !good,
            Restart::OnFailure => !good,
            Restart::Never => false,
        };
        if again {
            let healthy =
                ready_since.is_some_and(|since| now.saturating_sub(since) >= HEALTHY_AFTER);
            self.back_off(now, healthy, &end.to_string(), out);
        } else if self.timed_out {
            // Said when the time was up; `restart` keeps it down.
            self.state = State::Ended { well: false };
        } else if good && was_ready {
            self.end(true, ServiceState::Stopped, "done".into(), out);
        } else if good {
            self.end(
                false,
                ServiceState::Failed,
                format!("ended before it was ready ({end})"),
                out,
            );
        } else {
            self.end(
                false,
                ServiceState::Failed,
                format!("{end}; restart = \"never\""),
                out,
            );
        }
    }

    pub(super) fn end(
        &mut self,
        well: bool,
        state: ServiceState,
        detail: String,
        out: &mut Vec<Action>,
    ) {
        self.state = State::Ended { well };
        report(out, state, 0, detail);
    }

    fn back_off(&mut self, now: Duration, healthy: bool, last: &str, out: &mut Vec<Action>) {
        self.unhealthy = if healthy {
            0
        } else {
            self.unhealthy.saturating_add(1)
        };
        if let Some(limit) = self.policy.start_limit
            && self.unhealthy >= limit.starts
        {
            return self.limit_reached(limit, last, out);
        }
        let pause = pause(self.unhealthy);
        self.state = State::Backoff {
            until: now.saturating_add(pause),
        };
        let milliseconds = pause.as_millis();
        if self.unhealthy == CRASH_LOOP {
            let detail = format!(
                "crash loop: ended {CRASH_LOOP} times in a row without {} s of health, last: {last}; \
                 it is tried again every {} s",
                HEALTHY_AFTER.as_secs(),
                BACKOFF_CAP.as_secs()
            );
            report(out, ServiceState::Failed, 0, detail);
        } else {
            report(
                out,
                ServiceState::Backoff,
                0,
                format!("starts again in {milliseconds} ms"),
            );
        }
    }

    fn limit_reached(&mut self, limit: StartLimit, last: &str, out: &mut Vec<Action>) {
        let what = match limit.then {
            Then::GiveUp => "it is given up",
            Then::Reboot => "the machine reboots",
        };
        let why = format!(
            "start limit: ended {} times in a row without {} s of health, last: {last}; {what}",
            limit.starts,
            HEALTHY_AFTER.as_secs()
        );
        self.end(false, ServiceState::Failed, why.clone(), out);
        if limit.then == Then::Reboot {
            out.push(Action::Reboot(why));
        }
    }

    /// A timer's run is over, in whatever way: the next one comes when it is its time.
    fn sleep(
        &mut self,
        now: Duration,
        period_ms: u64,
        state: ServiceState,
        last: &str,
        out: &mut Vec<Action>,
    ) {
        // Not at once, however long the last run took.
        let until = self
            .started
            .saturating_add(Duration::from_millis(period_ms))
            .max(now.saturating_add(BACKOFF_FIRST));
        self.state = State::Sleeping { until };
        let seconds = until.saturating_sub(now).as_secs();
        report(
            out,
            state,
            0,
            format!("{last}; the next run comes in {seconds} s"),
        );
    }
}

/// Pause after so many unhealthy ends in a row.
pub(crate) fn pause(unhealthy: u32) -> Duration {
    if unhealthy >= CRASH_LOOP {
        return BACKOFF_CAP;
    }
    (BACKOFF_FIRST * 2_u32.pow(unhealthy.saturating_sub(1))).min(BACKOFF_CAP)
}
