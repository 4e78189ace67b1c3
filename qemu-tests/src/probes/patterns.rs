//! Regular expressions over what the guest says by itself: the console's lines and
//! the services' output, from power-on to the end of the run, over every boot.
//! regex-lite matches in linear time, whatever the guest prints.

use regex_lite::Regex;

use crate::error::HarnessError;
use crate::plan::{Check, Probe};

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source<'a> {
    /// The serial console.
    Console,
    /// The output of this service.
    Service(&'a str),
}

/// The patterns of a plan and what they have found.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    patterns: Vec<Pattern>,
    boot: u32,
}

#[derive(Debug)]
struct Pattern {
    /// Check and step.
    at: (usize, usize),
    regex: Regex,
    /// None is the console.
    service: Option<String>,
    /// The first match, and the first of this boot.
    first: Option<String>,
    now: Option<String>,
}

impl Patterns {
    /// Compiles the patterns of the checks.
    ///
    /// # Errors
    /// A pattern that is none.
    pub(crate) fn new(checks: &[Check]) -> Result<Self, HarnessError> {
        let mut patterns = Vec::new();
        for (number, check) in checks.iter().enumerate() {
            for (step, probe) in check.probes() {
                let (matches, service) = match probe {
                    Probe::Console { matches } | Probe::ConsoleAbsent { matches } => {
                        (matches, None)
                    }
                    Probe::Log { service, matches } => (matches, Some(service.clone())),
                    _ => continue,
                };
                let regex = Regex::new(matches).map_err(|error| HarnessError::Plan {
                    what: format!("the pattern of check {:?}", check.name),
                    value: format!("{matches:?}"),
                    rule: format!("it is no regular expression: {error}"),
                    remedy: "mend it; the syntax is that of the regex-lite crate".into(),
                })?;
                patterns.push(Pattern {
                    at: (number, step),
                    regex,
                    service,
                    first: None,
                    now: None,
                });
            }
        }
        Ok(Self { patterns, boot: 1 })
    }

    /// Looks at one line.
    pub(crate) fn line(&mut self, source: Source<'_>, line: &str) {
        for pattern in &mut self.patterns {
            let from = match &pattern.service {
                None => Source::Console,
                Some(service) => Source::Service(service),
            };
            if from != source || pattern.now.is_some() || !pattern.regex.is_match(line) {
                continue;
            }
            pattern.now = Some(line.to_owned());
            if pattern.first.is_none() {
                let boot = match self.boot {
                    1 => String::new(),
                    boot => format!(" (boot {boot})"),
                };
                pattern.first = Some(format!("{line}{boot}"));
            }
        }
    }

    /// The machine starts again.
    pub(crate) fn next_boot(&mut self) {
        self.boot += 1;
        for pattern in &mut self.patterns {
            pattern.now = None;
        }
    }

    /// The first line of all boots that matched this step's pattern.
    pub(crate) fn ever(&self, check: usize, step: usize) -> Option<&str> {
        self.find(check, step)?.first.as_deref()
    }

    /// The first line of this boot that matched this step's pattern.
    pub(crate) fn now(&self, check: usize, step: usize) -> Option<&str> {
        self.find(check, step)?.now.as_deref()
    }

    fn find(&self, check: usize, step: usize) -> Option<&Pattern> {
        self.patterns
            .iter()
            .find(|pattern| pattern.at == (check, step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_matched_by_source_and_boot() {
        let checks = [
            Check::new(
                "a",
                Probe::Console {
                    matches: "^up$".into(),
                },
            ),
            Check::new(
                "b",
                Probe::Log {
                    service: "web".into(),
                    matches: "up".into(),
                },
            ),
        ];
        let mut patterns = match Patterns::new(&checks) {
            Ok(patterns) => patterns,
            Err(error) => panic!("{error}"),
        };
        patterns.line(Source::Service("db"), "up");
        patterns.line(Source::Console, "not up");
        assert_eq!((patterns.ever(0, 0), patterns.ever(1, 0)), (None, None));
        patterns.line(Source::Service("web"), "is up");
        patterns.next_boot();
        patterns.line(Source::Console, "up");
        assert_eq!(
            (patterns.now(1, 0), patterns.ever(1, 0)),
            (None, Some("is up"))
        );
        assert_eq!(patterns.now(0, 0), Some("up"));
        assert_eq!(patterns.ever(0, 0), Some("up (boot 2)"));
        patterns.next_boot();
        assert_eq!(
            (patterns.now(0, 0), patterns.ever(0, 0)),
            (None, Some("up (boot 2)"))
        );
        let bad = [Check::new(
            "c",
            Probe::ConsoleAbsent {
                matches: "(".into(),
            },
        )];
        assert!(Patterns::new(&bad).is_err());
    }
}
