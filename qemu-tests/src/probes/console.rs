//! Regular expressions over the console's lines, from power-on to the end of the
//! checks. regex-lite matches in linear time, whatever the guest prints.

use regex_lite::Regex;

use crate::error::HarnessError;
use crate::limits::Limits;
use crate::plan::{Check, Probe};
use crate::report::Outcome;

/// Console checks and what they have found.
#[derive(Debug)]
pub(crate) struct ConsoleChecks(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    index: usize,
    regex: Regex,
    found: Option<String>,
}

impl ConsoleChecks {
    /// Compiles the patterns of the plan.
    ///
    /// # Errors
    /// A pattern that is none.
    pub(crate) fn new(checks: &[Check]) -> Result<Self, HarnessError> {
        let mut patterns = Vec::new();
        for (index, check) in checks.iter().enumerate() {
            if let Probe::Console { matches } = &check.probe {
                let regex = Regex::new(matches).map_err(|error| HarnessError::Plan {
                    what: format!("the pattern of check {:?}", check.name),
                    value: format!("{matches:?}"),
                    rule: format!("it is no regular expression: {error}"),
                    remedy: "mend it; the syntax is that of the regex-lite crate".into(),
                })?;
                patterns.push(Pattern {
                    index,
                    regex,
                    found: None,
                });
            }
        }
        Ok(Self(patterns))
    }

    /// Looks at one line.
    pub(crate) fn line(&mut self, line: &str) {
        for pattern in &mut self.0 {
            if pattern.found.is_none() && pattern.regex.is_match(line) {
                pattern.found = Some(line.to_owned());
            }
        }
    }

    /// Every pattern has been found.
    pub(crate) fn is_done(&self) -> bool {
        self.0.iter().all(|pattern| pattern.found.is_some())
    }

    /// Index of the check and what came of it.
    pub(crate) fn outcomes<'a>(
        &'a self,
        limits: &'a Limits,
    ) -> impl Iterator<Item = (usize, Outcome)> + 'a {
        self.0.iter().map(|pattern| {
            let outcome = match &pattern.found {
                Some(line) => Outcome::Passed(format!("console: {line}")),
                None => Outcome::Failed(format!(
                    "no console line matches `{}`, up to {:.0} s after ready",
                    pattern.regex.as_str(),
                    limits.check.as_secs_f64()
                )),
            };
            (pattern.index, outcome)
        })
    }
}
