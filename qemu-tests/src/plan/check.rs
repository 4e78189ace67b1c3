//! The user's checks: sentences with steps.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use slipform_init::contract::event::ServiceState;

use crate::metadata::Metadata;

/// How long an answer from the network may take at the speed of real hardware, unless
/// its check says otherwise.
pub const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// A named check: steps, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// The sentence that the verdict shows.
    pub name: String,
    /// What is done, at least one; the first that does not fit ends the check.
    pub steps: Vec<Step>,
    /// How long each probe is tried, at the speed of real hardware. Without one,
    /// [`CHECK_LIMIT`] for an answer from the network, less for what the guest says
    /// by itself: by then it has said it.
    pub limit: Option<Duration>,
    /// How often a probe is tried again; without a number as often as fits into the limit.
    pub retries: Option<u32>,
    /// The cloud that the machine wakes up in for this check; checks of one cloud share
    /// their machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

impl Check {
    /// A check of one probe, with the limits of most.
    pub fn new(name: impl Into<String>, probe: Probe) -> Self {
        Self::of_steps(name, vec![Step::Probe(probe)])
    }

    /// A check of several steps, with the limits of most.
    pub fn of_steps(name: impl Into<String>, steps: Vec<Step>) -> Self {
        Self {
            name: name.into(),
            steps,
            limit: None,
            retries: None,
            metadata: None,
        }
    }

    /// Its only step, if that is a probe.
    pub(crate) fn single(&self) -> Option<&Probe> {
        match self.steps.as_slice() {
            [Step::Probe(probe)] => Some(probe),
            _ => None,
        }
    }

    /// Its probes, with their steps' indexes.
    pub(crate) fn probes(&self) -> impl Iterator<Item = (usize, &Probe)> {
        let numbered = self.steps.iter().enumerate();
        numbered.filter_map(|(step, what)| match what {
            Step::Probe(probe) => Some((step, probe)),
            _ => None,
        })
    }
}

/// A step of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Something is looked at.
    Probe(Probe),
    /// Init is told to reboot; the machine must get ready again.
    Reboot,
    /// The plug is pulled and put back: the same disk, as it was then.
    PowerCut,
    /// So long nothing is done, at the speed of real hardware.
    Wait(Duration),
}

/// One look at the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A request, repeated until its answer fits or time is up.
    Http(HttpProbe),
    /// Sends and expects over TCP, in order.
    Tcp {
        /// Port in the guest.
        port: u16,
        /// Steps: bytes to send, then text that must come back before the next step.
        steps: Vec<TcpStep>,
    },
    /// A regular expression over the console's lines: one must match.
    Console {
        /// Pattern.
        matches: String,
    },
    /// A regular expression over the console's lines: none may match.
    ConsoleAbsent {
        /// Pattern.
        matches: String,
    },
    /// A service's state, as init reports it.
    Service {
        /// The service.
        name: String,
        /// The state it must be in.
        state: ServiceState,
    },
    /// A file or folder on the state partition, as init finds it.
    File {
        /// Absolute path, below one that is kept.
        path: String,
        /// Whether it must be there.
        exists: bool,
        /// Text that must be in it.
        contains: Option<String>,
    },
    /// A regular expression over the lines of a service's output: one must match.
    Log {
        /// The service.
        service: String,
        /// Pattern.
        matches: String,
    },
}

/// An HTTP request and what its answer must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HttpProbe {
    /// Port in the guest.
    pub port: u16,
    /// Method.
    pub method: String,
    /// Path, with its query.
    pub path: String,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// Sent behind the head.
    pub body: Option<String>,
    /// Expected status.
    pub status: u16,
    /// Text that the answer's body must contain.
    pub contains: Option<String>,
    /// Paths into the answer's JSON (`users[0].name`), and the values that must stand there.
    pub json: BTreeMap<String, Value>,
}

impl Default for HttpProbe {
    /// `GET /` on port 80, answered with 200.
    fn default() -> Self {
        Self {
            port: 80,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: BTreeMap::new(),
            body: None,
            status: 200,
            contains: None,
            json: BTreeMap::new(),
        }
    }
}

/// One step of a TCP conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpStep {
    /// Sent first, as is.
    pub send: String,
    /// What the answer must contain.
    pub expect: String,
}

/// Checks a pattern of a console or log probe.
///
/// # Errors
/// What is wrong with it, for people.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    regex_lite::Regex::new(pattern)
        .map(drop)
        .map_err(|error| format!("'{pattern}' is no regular expression: {error}"))
}

/// A part of a path into JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonKey<'a> {
    /// Of an object.
    Name(&'a str),
    /// Of an array.
    Index(usize),
}

/// Reads a path into JSON: names with dots between, `[N]` for array elements, such
/// as `users[0].name`; the empty path is the whole answer.
pub(crate) fn json_path(path: &str) -> Result<Vec<JsonKey<'_>>, String> {
    let wrong = || {
        format!(
            "'{path}' is no path into JSON; write names with dots between and [N] for array elements, such as \"users[0].name\""
        )
    };
    let mut keys = Vec::new();
    if path.is_empty() {
        return Ok(keys);
    }
    for (n, part) in path.split('.').enumerate() {
        let (name, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
        if !name.is_empty() {
            keys.push(JsonKey::Name(name));
        } else if n > 0 || rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let inner = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let (index, behind) = inner.ok_or_else(wrong)?;
            keys.push(JsonKey::Index(index.parse().map_err(|_| wrong())?));
            rest = behind;
        }
    }
    Ok(keys)
}

/// Checks a path of [`HttpProbe::json`].
///
/// # Errors
/// What is wrong with it, for people.
pub fn check_json_path(path: &str) -> Result<(), String> {
    json_path(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_paths_are_names_and_indexes() {
        use JsonKey::{Index, Name};
        assert_eq!(
            json_path("users[0][12].name.x"),
            Ok(vec![
                Name("users"),
                Index(0),
                Index(12),
                Name("name"),
                Name("x")
            ])
        );
        assert_eq!(json_path("[3].a"), Ok(vec![Index(3), Name("a")]));
        assert_eq!(json_path(""), Ok(vec![]));
        for bad in [
            ".", "a.", ".a", "a..b", "a[", "a[]", "a[x]", "a[0]b", "a[-1]", "a.[0]",
        ] {
            assert!(json_path(bad).is_err(), "{bad}");
        }
    }
}
