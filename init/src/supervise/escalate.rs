//! How far patience goes: restarts that did not help, counted over a window of time.
//! Pure, and never larger than the number of restarts that are allowed.

use std::collections::VecDeque;
use std::time::Duration;

use slipform_init::contract::service::{Health, Then};

/// No policy counts more restarts than this.
const MOST: u32 = 100;

/// What the health policy says about restarts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Restarts within the window that are borne.
    pub(crate) restarts: u32,
    /// The window.
    pub(crate) within: Duration,
    /// What comes then.
    pub(crate) then: Then,
}

impl From<&Health> for Patience {
    fn from(health: &Health) -> Patience {
        Patience {
            restarts: health.restarts.min(MOST),
            within: Duration::from_millis(health.within_ms),
            then: health.then,
        }
    }
}

/// When the service was restarted for its health.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restarts(VecDeque<Duration>);

impl Restarts {
    /// One more is due at `now`; false if that is one too many.
    pub(crate) fn allow(&mut self, now: Duration, patience: &Patience) -> bool {
        while self
            .0
            .front()
            .is_some_and(|&then| now.saturating_sub(then) >= patience.within)
        {
            self.0.pop_front();
        }
        if self.0.len() >= patience.restarts as usize {
            return false;
        }
        self.0.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_count_within_their_window_only() {
        let patience = Patience {
            restarts: 2,
            within: Duration::from_secs(60),
            then: Then::Reboot,
        };
        let mut restarts = Restarts::default();
        let at = Duration::from_secs;
        assert!(restarts.allow(at(0), &patience) && restarts.allow(at(30), &patience));
        assert!(!restarts.allow(at(59), &patience));
        assert!(restarts.allow(at(60), &patience));
        assert!(!restarts.allow(at(61), &patience));
        // A day of trouble once a minute does not add up.
        let mut restarts = Restarts::default();
        assert!((0..1440).all(|minute| restarts.allow(at(60 * minute), &patience)));
        assert!(restarts.0.len() <= 2);
        let none = Patience {
            restarts: 0,
            ..patience
        };
        assert!(!Restarts::default().allow(at(0), &none));
    }
}
