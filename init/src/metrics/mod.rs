//! What the machine counts, for whoever asks and whoever is to be told.
//!
//! ```text
//! gather.rs  counts, cgroups                  kernel.rs  /proc and /sys
//! model.rs   families, and their formats (pure)
//! server.rs  the page on a port               request.rs what a client wants (pure)
//! push.rs    OTLP/HTTP
//! ```

mod gather;
pub(crate) mod kernel;
mod model;
mod push;
mod request;
mod server;

use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::telemetry;

use gather::Facts;
use kernel::Places;
use model::Family;
use push::Push;
use server::Server;

use crate::ship::dns::Servers;
use crate::ship::random::Random;
use crate::ship::record::Identity;
use crate::ship::secure::Line;
use crate::ship::{self, Spool};
use crate::sys::{clock, poll};
use crate::turn::{Report, Turn, Watched};

/// Port and push.
#[derive(Debug)]
pub(crate) struct Metrics {
    server: Option<Server>,
    push: Option<Push<Line>>,
    source: Source,
}

/// What the numbers are made of.
#[derive(Debug)]
struct Source {
    spool: Spool,
    identity: Identity,
    places: Places,
}

impl Source {
    fn families(&self) -> Vec<Family> {
        let families = self.spool.with(|journal| {
            let ring = &journal.ring;
            let facts = Facts {
                identity: &self.identity,
                tally: &journal.tally,
                spooled: (ring.end() - ring.first(), ring.bytes()),
                since_boot: clock::since_boot(),
            };
            gather::gather(&self.places, &facts)
        });
        families.unwrap_or_default()
    }

    fn request(&self) -> String {
        let now = clock::wall();
        let start = now.saturating_sub(clock::since_boot());
        let host = ship::host_name().unwrap_or_default();
        let identity = Identity {
            host,
            ..self.identity.clone()
        };
        model::otlp(&self.families(), &identity, start, now)
    }
}

impl Metrics {
    /// Opens the port; a machine whose port cannot be opened runs all the same, and says so.
    pub(crate) fn new(
        spec: &telemetry::Metrics,
        spool: Spool,
        identity: Identity,
        report: &mut dyn Report,
    ) -> Self {
        let server = (spec.port != 0).then(|| Server::listen(&spec.address, spec.port));
        let server = match server.transpose() {
            Ok(server) => server,
            Err(error) => {
                report.event(Event::Error {
                    phase: Phase::Network,
                    what: format!("listen on port {} for metrics", spec.port),
                    why: error.to_string(),
                });
                None
            }
        };
        let push = spec.push.as_ref().map(|peer| {
            let interval = Duration::from_millis(spec.interval_ms);
            let line = Line::new(&peer.host, peer.tls);
            Push::new(peer, interval, line, Random::new(ship::seed()))
        });
        Self {
            server,
            push,
            source: Source {
                spool,
                identity,
                places: Places::default(),
            },
        }
    }

    fn advance_push(&mut self, turn: &mut Turn<'_>) {
        let Some(push) = &mut self.push else { return };
        let source = &self.source;
        let servers = || Servers::read(Path::new(ship::RESOLV_CONF));
        if let Some((up, detail)) = push.advance(turn.now, &servers, &mut || source.request()) {
            turn.report.event(Event::Sink {
                sink: push::NAME.to_owned(),
                up,
                detail,
            });
        }
    }
}

impl Watched for Metrics {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        if let Some(server) = &self.server {
            server.fds(out);
        }
        let push = self.push.as_ref().and_then(Push::fd);
        out.extend(push.map(|(fd, events)| poll::entry(fd, events)));
    }

    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>) {
        let source = &self.source;
        let page = &mut || model::text(&source.families());
        let served = self
            .server
            .as_mut()
            .is_some_and(|server| server.ready(fd, turn.now, page));
        if !served {
            self.advance_push(turn);
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let server = self.server.as_ref().and_then(Server::deadline);
        let push = self.push.as_ref().and_then(Push::deadline);
        server.into_iter().chain(push).min()
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        if let Some(server) = &mut self.server {
            server.tick(turn.now);
        }
        self.advance_push(turn);
    }
}
