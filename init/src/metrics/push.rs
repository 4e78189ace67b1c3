//! Metrics that are pushed: the same connection as a sink's, the newest numbers only.

use std::os::fd::RawFd;
use std::time::Duration;

use slipform_init::contract::telemetry::Peer;

use crate::ship::dns::Servers;
use crate::ship::exchange::{Exchange, Outcome};
use crate::ship::link::{Link, Step};
use crate::ship::random::Random;
use crate::ship::wire::{Transport, Wire};

/// The name in events.
pub(crate) const NAME: &str = "metrics";

/// One receiver of metrics.
#[derive(Debug)]
pub(crate) struct Push<W> {
    peer: Peer,
    interval: Duration,
    link: Link<W>,
    next: Duration,
    exchange: Option<Exchange>,
    up: Option<bool>,
}

impl<W: Wire> Push<W> {
    /// The first push comes as soon as there is a way.
    pub(crate) fn new(peer: &Peer, interval: Duration, wire: W, random: Random) -> Self {
        Self {
            link: Link::new(&peer.host, peer.port, Transport::Stream, wire, random),
            peer: peer.clone(),
            interval,
            next: Duration::ZERO,
            exchange: None,
            up: None,
        }
    }

    /// To poll.
    pub(crate) fn fd(&self) -> Option<(RawFd, i16)> {
        let sends = self.exchange.as_ref().is_some_and(Exchange::sends);
        // Between two pushes the connection is closed: there is nothing to poll.
        self.link.fd(sends)
    }

    /// When it wants its turn.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let until = match &self.exchange {
            Some(exchange) => exchange.until(),
            None => self.next,
        };
        match self.link.deadline() {
            // On the way to a connection, or pausing: nothing is due before.
            Some(link) => Some(link),
            None => Some(until),
        }
    }

    /// Goes as far as it can; gives the news that people want: up, or down and why.
    pub(crate) fn advance(
        &mut self,
        now: Duration,
        servers: &dyn Fn() -> Servers,
        body: &mut dyn FnMut() -> String,
    ) -> Option<(bool, String)> {
        if self.exchange.is_none() && now < self.next {
            return None;
        }
        match self.link.advance(now, servers) {
            Step::Waits => return None,
            Step::Failed(why) => return self.told(false, why),
            Step::Open => {}
        }
        if self.exchange.is_none() {
            self.exchange = Some(Exchange::new(&self.peer, &body(), now));
        }
        let exchange = self.exchange.as_mut()?;
        let outcome = exchange.advance(now, self.link.wire());
        match outcome {
            Outcome::Waits => None,
            Outcome::Taken { rejected, .. } => {
                self.exchange = None;
                self.link.confirm();
                self.link.close();
                self.next = now + self.interval;
                if rejected > 0 {
                    return self.told(false, format!("{rejected} data points are rejected"));
                }
                let to = format!("{}:{}", self.peer.host, self.peer.port);
                self.told(true, to)
            }
            Outcome::Refused { why } => {
                self.exchange = None;
                self.link.close();
                self.next = now + self.interval;
                self.told(false, why)
            }
            Outcome::Failed { why, pause } => {
                self.exchange = None;
                self.link.fail(now, pause);
                self.told(false, why)
            }
        }
    }

    fn told(&mut self, up: bool, detail: String) -> Option<(bool, String)> {
        (self.up.replace(up) != Some(up)).then_some((up, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::wire::testing::Fake;

    #[test]
    fn numbers_go_at_each_interval_and_the_newest_only() {
        let wire = Fake::new();
        let peer = Peer {
            host: "10.0.2.2".to_owned(),
            port: 4318,
            tls: false,
            path: "/v1/metrics".to_owned(),
            headers: Default::default(),
        };
        let minute = Duration::from_secs(60);
        let mut push = Push::new(&peer, minute, wire.sibling(), Random::new(1));
        let to = "10.0.2.2:4318".parse().unwrap();
        let mut news = Vec::new();
        let mut made = 0;
        let mut now = Duration::from_secs(3);
        let end = now + minute * 10;
        while now < end {
            let body = &mut || {
                made += 1;
                format!("{{\"n\":{made}}}")
            };
            news.extend(push.advance(now, &Servers::default, body));
            if now > minute * 5 && wire.world.borrow().listening.is_empty() {
                wire.world.borrow_mut().listening.push(to);
            }
            if wire.world.borrow().answers.is_empty() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
                wire.world.borrow_mut().answers.push_back((to, answer));
            }
            now = push
                .deadline()
                .unwrap()
                .max(now + Duration::from_millis(50));
        }
        assert_eq!(news.len(), 2, "{news:?}");
        assert_eq!((news[0].0, news[1].0), (false, true));
        let text = String::from_utf8(wire.got(to)).unwrap();
        assert_eq!(text.matches("POST /v1/metrics ").count(), 5);
        assert!(text.ends_with("{\"n\":5}"), "{text}");
    }
}
