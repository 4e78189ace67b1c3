//! One OTLP/HTTP request and its answer: what the protocol's rules make of it.

use std::time::Duration;

use slipform_init::contract::telemetry::Peer;

use super::http::{self, Answer, Reader};
use super::wire::{Wire, is_later};

/// How long request and answer may take together.
const LIMIT: Duration = Duration::from_secs(30);
/// Pieces of an answer in one turn.
const READS_PER_TURN: usize = 32;

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is on the way.
    Waits,
    /// It was taken, but for so many of its parts.
    Taken {
        /// `partialSuccess`.
        rejected: u64,
        /// The connection may be used again.
        keeps: bool,
    },
    /// It will never be taken.
    Refused {
        /// The answer.
        why: String,
    },
    /// It may be taken later.
    Failed {
        /// What happened.
        why: String,
        /// How long the receiver wants to be left alone.
        pause: Option<Duration>,
    },
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Exchange {
    request: Vec<u8>,
    sent: usize,
    reader: Reader,
    until: Duration,
}

impl Exchange {
    /// A POST of `body`.
    pub(crate) fn new(peer: &Peer, body: &str, now: Duration) -> Self {
        Self {
            request: http::post(&peer.host, peer.port, &peer.path, &peer.headers, body),
            sent: 0,
            reader: Reader::default(),
            until: now + LIMIT,
        }
    }

    /// Whether bytes wait to go.
    pub(crate) fn sends(&self) -> bool {
        self.sent < self.request.len()
    }

    /// When it has taken too long.
    pub(crate) fn until(&self) -> Duration {
        self.until
    }

    /// Goes as far as it can.
    pub(crate) fn advance<W: Wire>(&mut self, now: Duration, wire: &mut W) -> Outcome {
        while let Some(rest) = self
            .request
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match wire.send(rest) {
                Ok(count) => self.sent += count,
                Err(error) if is_later(&error) => break,
                // An answer may be there all the same: a refusal of what is too large.
                Err(_) => {
                    self.sent = self.request.len();
                    break;
                }
            }
        }
        let mut buffer = [0; 4096];
        for _ in 0..READS_PER_TURN {
            let whole = match wire.receive(&mut buffer) {
                Ok(0) => self.reader.end().map(Some),
                Ok(count) => self.reader.take(buffer.get(..count).unwrap_or_default()),
                Err(error) if is_later(&error) => break,
                Err(error) => return failed(error.to_string()),
            };
            match whole {
                Ok(None) => {}
                Ok(Some(answer)) => return judge(&answer),
                Err(error) => return failed(error.to_string()),
            }
        }
        if now >= self.until {
            return failed(format!("no answer within {} s", LIMIT.as_secs()));
        }
        Outcome::Waits
    }
}

fn failed(why: String) -> Outcome {
    Outcome::Failed { why, pause: None }
}

/// By the protocol's section on OTLP/HTTP responses: 2xx is success, 429, 502, 503
/// and 504 may be tried again, all else may not.
fn judge(answer: &Answer) -> Outcome {
    let why = || format!("HTTP status {}", answer.status);
    match answer.status {
        200..=299 => Outcome::Taken {
            rejected: rejected(&answer.body),
            keeps: answer.keeps,
        },
        429 | 502..=504 => Outcome::Failed {
            why: why(),
            pause: answer.retry_after,
        },
        _ => Outcome::Refused { why: why() },
    }
}

/// `partialSuccess.rejectedLogRecords` (or `…DataPoints`): a 64-bit number, which JSON
/// of protobuf may write as text.
fn rejected(body: &[u8]) -> u64 {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
        return 0;
    };
    let partial = value.get("partialSuccess");
    let count = ["rejectedLogRecords", "rejectedDataPoints"]
        .iter()
        .find_map(|key| partial?.get(key));
    count
        .and_then(|count| count.as_u64().or_else(|| count.as_str()?.parse().ok()))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            retry_after: Some(Duration::from_secs(9)),
            keeps: true,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn answers_are_judged_by_the_protocol() {
        let taken = |rejected| Outcome::Taken {
            rejected,
            keeps: true,
        };
        for (status, body, outcome) in [
            (200, "", taken(0)),
            (200, "{}", taken(0)),
            (200, "[", taken(0)),
            (
                200,
                r#"{"partialSuccess":{"rejectedLogRecords":"3"}}"#,
                taken(3),
            ),
            (
                202,
                r#"{"partialSuccess":{"rejectedDataPoints":4}}"#,
                taken(4),
            ),
            (
                200,
                r#"{"partialSuccess":{"rejectedLogRecords":-1}}"#,
                taken(0),
            ),
        ] {
            assert_eq!(judge(&answer(status, body)), outcome, "{body}");
        }
        for status in [429, 502, 503, 504] {
            let outcome = judge(&answer(status, ""));
            assert!(
                matches!(outcome, Outcome::Failed { pause: Some(_), .. }),
                "{status}"
            );
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            let outcome = judge(&answer(status, ""));
            assert!(matches!(outcome, Outcome::Refused { .. }), "{status}");
        }
        let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
        assert_eq!(rejected(deep.as_bytes()), 0);
    }
}
