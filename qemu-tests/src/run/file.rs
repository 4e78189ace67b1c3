//! Files on the state partition: init is asked over the report channel, again and again
//! until what it finds fits or time is up.

use std::time::{Duration, Instant};

use slipform_init::contract::event::{Command, Event};

use crate::error::HarnessError;
use crate::report::Outcome;

use super::stages::{Run, TICK};

/// Between an answer that does not fit and the next question.
const PAUSE: Duration = Duration::from_millis(300);

/// What must be found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) path: &'a str,
    pub(super) exists: bool,
    pub(super) contains: Option<&'a str>,
}

impl Wanted<'_> {
    /// Whether an answer fits, and what it says; nothing if it answers something else.
    fn judge(&self, answer: &Event) -> Option<(bool, String)> {
        let Event::StateFile {
            path,
            bytes,
            contains,
            error,
        } = answer
        else {
            return None;
        };
        if path != self.path {
            return None;
        }
        Some(match (bytes, self.exists) {
            _ if !error.is_empty() => (false, format!("{path} cannot be looked at: {error}")),
            (None, true) => (false, format!("there is no {path}")),
            (None, false) => (true, format!("there is no {path}")),
            (Some(bytes), false) => (false, format!("{path} is there, {bytes} bytes")),
            (Some(bytes), true) => match self.contains {
                Some(text) if !contains => (
                    false,
                    format!("{path}, {bytes} bytes, does not contain {text:?}"),
                ),
                Some(text) => (true, format!("{path}, {bytes} bytes, contains {text:?}")),
                None => (true, format!("{path} is there, {bytes} bytes")),
            },
        })
    }
}

impl Run<'_> {
    /// Asks until it fits; none if the machine died meanwhile.
    pub(super) fn file(
        &mut self,
        wanted: &Wanted<'_>,
        limit: Duration,
    ) -> Result<Option<Outcome>, HarnessError> {
        let command = Command::StateFile {
            path: wanted.path.to_owned(),
            contains: wanted.contains.unwrap_or_default().to_owned(),
        };
        // Of texts only: cannot fail.
        let line = serde_json::to_string(&command).unwrap_or_default();
        let since = Instant::now();
        let mut saw = "init did not answer".to_owned();
        loop {
            self.watch.state_file = None;
            if let Err(error) = self.machine.send_report(&line) {
                saw = format!("init cannot be asked: {error}");
            }
            let asked = Instant::now();
            // Until there is an answer and a pause behind it.
            let mut answered = None;
            while self.is_up() && since.elapsed() < limit {
                let answer = self.watch.state_file.take();
                if let Some((fits, text)) = answer.and_then(|answer| wanted.judge(&answer)) {
                    if fits {
                        return Ok(Some(Outcome::Passed(text)));
                    }
                    saw = text;
                    answered = Some(Instant::now());
                }
                let paused = answered.is_some_and(|since| since.elapsed() >= PAUSE);
                if paused || asked.elapsed() > limit / 3 {
                    break;
                }
                self.pump(TICK)?;
            }
            if !self.is_up() {
                return Ok(None);
            }
            if since.elapsed() >= limit {
                let seconds = since.elapsed().as_secs_f64();
                return Ok(Some(Outcome::Failed(format!(
                    "{saw}, after {seconds:.1} s"
                ))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: Option<u64>, contains: bool, error: &str) -> Event {
        Event::StateFile {
            path: "/var/lib/app/file".to_owned(),
            bytes,
            contains,
            error: error.to_owned(),
        }
    }

    #[test]
    fn answers_are_judged_by_what_was_asked() {
        let wanted = |exists, contains| Wanted {
            path: "/var/lib/app/file",
            exists,
            contains,
        };
        let table = [
            (wanted(true, None), answer(Some(5), true, ""), true),
            (wanted(true, None), answer(None, false, ""), false),
            (wanted(true, None), answer(Some(5), true, "refused"), false),
            (wanted(false, None), answer(None, false, ""), true),
            (wanted(false, None), answer(Some(5), true, ""), false),
            (wanted(false, None), answer(None, false, "refused"), false),
            (wanted(true, Some("x")), answer(Some(5), true, ""), true),
            (wanted(true, Some("x")), answer(Some(5), false, ""), false),
        ];
        for (wanted, answer, fits) in table {
            let judged = wanted.judge(&answer).map(|(fits, _)| fits);
            assert_eq!(judged, Some(fits), "{wanted:?} {answer:?}");
        }
        let other = Wanted {
            path: "/other",
            ..wanted(true, None)
        };
        assert_eq!(other.judge(&answer(Some(5), true, "")), None);
    }
}
