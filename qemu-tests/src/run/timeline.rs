//! What happened when, in seconds from the first power-on, as the harness saw it.

use std::time::Instant;

use crate::report::Moment;

/// More moments than this are not kept: a guest may restart a service for ever.
const MAX_MOMENTS: usize = 500;
/// Longest text of a moment.
const MAX_TEXT: usize = 200;

/// Moments, in order.
#[derive(Debug)]
pub(crate) struct Timeline {
    origin: Instant,
    moments: Vec<Moment>,
}

impl Timeline {
    /// Begins now.
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            moments: Vec::new(),
        }
    }

    /// The first power-on.
    pub(crate) fn power_on(&mut self) {
        if self.moments.is_empty() {
            self.origin = Instant::now();
        }
        self.note("power-on");
    }

    /// Something happened now.
    pub(crate) fn note(&mut self, what: &str) {
        let text: String = what.chars().take(MAX_TEXT).collect();
        let what = match self.moments.len() {
            n if n < MAX_MOMENTS => text,
            MAX_MOMENTS => "more than is shown here".to_owned(),
            _ => return,
        };
        let seconds = self.origin.elapsed().as_secs_f64();
        // Milliseconds are more than can be told.
        let seconds = (seconds * 1000.0).round() / 1000.0;
        self.moments.push(Moment { seconds, what });
    }

    /// All of it.
    pub(crate) fn take(&mut self) -> Vec<Moment> {
        std::mem::take(&mut self.moments)
    }
}

/// For people: one line a moment.
pub(crate) fn text(moments: &[Moment]) -> String {
    let lines = moments
        .iter()
        .map(|moment| format!("{:9.3} s  {}\n", moment.seconds, moment.what));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_in_order() {
        let mut timeline = Timeline::new();
        timeline.power_on();
        for _ in 0..2 * MAX_MOMENTS {
            timeline.note(&"x".repeat(1000));
        }
        let moments = timeline.take();
        assert_eq!(moments.len(), MAX_MOMENTS + 1);
        assert_eq!(moments[1].what.len(), MAX_TEXT);
        assert!(moments.is_sorted_by(|a, b| a.seconds <= b.seconds));
        let shown = text(&[Moment {
            seconds: 12.5,
            what: "kernel".into(),
        }]);
        assert_eq!(shown, "   12.500 s  kernel\n");
    }
}
