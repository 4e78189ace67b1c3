//! The seam: a source over the network is a pure state machine that asks questions and
//! gets answers. What carries them ([`super::Metadata`]) has the sockets, the times and
//! the retries, so that no source can wait, loop or take too much.

use std::net::{Ipv4Addr, SocketAddr};

use super::dmi::Dmi;
use super::found::Found;
use super::http::{Answer, Request};

/// Where all clouds answer (RFC 3927 link-local).
pub(super) const LINK_LOCAL: SocketAddr = addr(Ipv4Addr::new(169, 254, 169, 254));

/// Port 80 of an address.
pub(super) const fn addr(ip: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(ip), 80)
}

/// A question to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// Whom.
    pub(super) to: SocketAddr,
    /// What.
    pub(super) request: Request,
    /// Bytes that the answer's body may have.
    pub(super) limit: usize,
}

/// What a source wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// An answer to this.
    Ask(Question),
    /// It is done.
    Done(Found),
    /// It is not there, or of no use.
    Absent(String),
}

/// A source over the network.
pub(super) trait Source: std::fmt::Debug {
    /// Whether the firmware says that this machine runs there. A machine elsewhere asks
    /// nobody: an address that happens to answer is no cloud.
    fn fits(&self, dmi: &Dmi) -> bool;
    /// The first question.
    fn begin(&mut self) -> Step;
    /// The answer to the last question: any status but 408, 429 and 5xx, which are asked again.
    fn answer(&mut self, answer: &Answer) -> Step;
    /// No answer came to the last question, however often it was asked.
    fn silence(&mut self, why: String) -> Step {
        Step::Absent(why)
    }
}

/// For messages: a status that was not expected.
pub(super) fn unexpected(what: &str, answer: &Answer) -> String {
    format!("{what}: status {}", answer.status)
}
