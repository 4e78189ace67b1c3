//! Who am I: what the cloud, the hypervisor or a seed disk tells this machine.
//!
//! ```text
//! local (a thread: files of /sys, seed disks)      over the network (the event loop)
//!   fw_cfg.rs  dmi.rs  nocloud.rs + seed/            ec2.rs  gce.rs  azure.rs  openstack.rs  nocloud.rs
//!            \________________ found.rs (checked) __________/   source.rs the seam, http.rs what carries it
//!                                   |
//!                              files.rs: /run/slipform, /run/credentials
//! ```
//!
//! The board's order counts: what an earlier source knows, a later one does not change,
//! and once an instance is known no further server is asked. A source over the network is
//! asked only where the firmware's strings say that the machine runs there. Everything
//! together has one time limit; only services that ask for credentials or for a field of
//! the identity wait for it.
//!
//! The kernel's command line is no source: whoever may change it (a boot loader's prompt,
//! a network boot) is not who may hand over secrets, and the firmware's strings, which the
//! same hypervisor sets, do all that it could.

mod azure;
mod base64;
mod dmi;
mod ec2;
mod files;
mod found;
mod fw_cfg;
mod gce;
mod http;
mod nocloud;
mod openstack;
mod seed;
mod source;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use slipform_init::contract::event::Event;
use slipform_init::contract::machine::MetadataSource;

pub(crate) use files::{Files, hand_over};
pub(crate) use found::Found;

use crate::sys::poll;
use crate::turn::{Turn, Watched};
use dmi::Dmi;
use http::{Exchange, Progress};
use source::{Question, Source, Step};

/// Longest wait for one answer, at the speed of real hardware.
const ATTEMPT: Duration = Duration::from_secs(5);
/// First pause before a question is asked again; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_CAP: Duration = Duration::from_secs(1);
/// Questions that one source may ask: none needs ten.
const QUESTIONS_MAX: u32 = 20;
/// Longest text for people.
const DETAIL_MAX: usize = 1000;

/// Where local sources lie.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    dmi: PathBuf,
    table: PathBuf,
    fw_cfg: PathBuf,
    block: PathBuf,
    dev: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            dmi: "/sys/class/dmi/id".into(),
            table: "/sys/firmware/dmi/tables/DMI".into(),
            fw_cfg: fw_cfg::FOLDER.into(),
            block: "/sys/class/block".into(),
            dev: "/dev".into(),
        }
    }
}

/// What all sources together said; kept for as long as the machine runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// What is known.
    pub(crate) found: Found,
    /// Who knew something, in the board's order.
    pub(crate) sources: Vec<MetadataSource>,
}

/// What the thread brings.
#[derive(Debug)]
struct Gathered {
    dmi: Dmi,
    parts: Vec<Part>,
}

/// What one source said, by its place in the order.
#[derive(Debug)]
struct Part {
    place: usize,
    said: Result<Found, String>,
}

/// A source over the network on its way.
#[derive(Debug)]
struct Active {
    place: usize,
    source: Box<dyn Source>,
    question: Question,
    questions: u32,
    exchange: Option<Exchange>,
    /// When the question is asked again.
    again: Duration,
    tries: u32,
    why: String,
}

#[derive(Debug)]
enum State {
    Idle,
    Local(PipeReader, Receiver<Gathered>),
    Network(Box<Active>),
    Over,
}

/// The search for the machine's identity.
#[derive(Debug)]
pub(crate) struct Metadata {
    order: Vec<MetadataSource>,
    places: Places,
    limit: Duration,
    attempt: Duration,
    begun: Duration,
    waiting: VecDeque<(usize, Box<dyn Source>)>,
    parts: Vec<Part>,
    state: State,
    outcome: Option<Outcome>,
    /// Who plays the servers.
    #[cfg(test)]
    stand_in: Option<std::net::SocketAddr>,
}

impl Metadata {
    /// Asks the sources in this order, all together for at most `limit`; `attempt` is for
    /// one answer ([`Metadata::ATTEMPT`], stretched).
    pub(crate) fn new(order: Vec<MetadataSource>, limit: Duration, attempt: Duration) -> Metadata {
        Metadata::at(order, limit, attempt, Places::default())
    }

    /// [`ATTEMPT`].
    pub(crate) const ATTEMPT: Duration = ATTEMPT;

    fn at(
        order: Vec<MetadataSource>,
        limit: Duration,
        attempt: Duration,
        places: Places,
    ) -> Metadata {
        Metadata {
            order,
            places,
            limit,
            attempt,
            begun: Duration::ZERO,
            waiting: VecDeque::new(),
            parts: Vec::new(),
            state: State::Idle,
            outcome: None,
            #[cfg(test)]
            stand_in: None,
        }
    }

    /// Begins. Without sources it is over at once.
    pub(crate) fn start(&mut self, turn: &mut Turn<'_>) {
        self.begun = turn.now;
        if self.order.is_empty() {
            self.state = State::Over;
            self.outcome = Some(Outcome::default());
            return;
        }
        match gather(self.order.clone(), self.places.clone()) {
            Ok((end, results)) => self.state = State::Local(end, results),
            Err(error) => {
                self.parts.push(Part {
                    place: 0,
                    said: Err(format!("cannot start looking: {error}")),
                });
                self.finish(turn);
            }
        }
    }

    /// What came of it, once.
    pub(crate) fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Nothing more will be found.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over) && self.outcome.is_none()
    }

    fn end(&self) -> Duration {
        self.begun.saturating_add(self.limit)
    }

    /// The thread is through.
    fn gathered(&mut self, gathered: Gathered, turn: &mut Turn<'_>) {
        let known = gathered
            .parts
            .iter()
            .filter(|part| matches!(&part.said, Ok(found) if found.instance_id.is_some()))
            .map(|part| part.place)
            .min()
            .unwrap_or(usize::MAX);
        self.parts = gathered.parts;
        let sources = self
            .order
            .iter()
            .enumerate()
            .take_while(|(place, _)| *place < known);
        self.waiting = sources
            .filter_map(|(place, kind)| Some((place, over_network(*kind, &gathered.dmi)?)))
            .filter(|(_, source)| source.fits(&gathered.dmi))
            .collect();
        self.next_source(turn);
    }

    fn next_source(&mut self, turn: &mut Turn<'_>) {
        while let Some((place, mut source)) = self.waiting.pop_front() {
            match source.begin() {
                Step::Ask(question) => {
                    let active = Active {
                        place,
                        source,
                        question,
                        questions: 1,
                        exchange: None,
                        again: turn.now,
                        tries: 0,
                        why: String::new(),
                    };
                    self.state = State::Network(Box::new(active));
                    return self.go_on(turn);
                }
                Step::Done(found) => {
                    self.parts.push(Part {
                        place,
                        said: Ok(found),
                    });
                    return self.finish(turn);
                }
                Step::Absent(why) => self.parts.push(Part {
                    place,
                    said: Err(why),
                }),
            }
        }
        self.finish(turn);
    }

    /// Takes the question that is on as far as it goes.
    fn go_on(&mut self, turn: &mut Turn<'_>) {
        let (end, attempt) = (self.end(), self.attempt);
        while let State::Network(active) = &mut self.state {
            #[cfg(test)]
            if let Some(to) = self.stand_in {
                active.question.to = to;
            }
            match active.go_on(turn.now, end, attempt) {
                None => return,
                Some(Step::Ask(question)) => active.ask(question, turn.now),
                Some(Step::Done(found)) => {
                    let place = active.place;
                    self.parts.push(Part {
                        place,
                        said: Ok(found),
                    });
                    return self.finish(turn);
                }
                Some(Step::Absent(why)) => {
                    let place = active.place;
                    self.parts.push(Part {
                        place,
                        said: Err(why),
                    });
                    self.state = State::Idle;
                    return self.next_source(turn);
                }
            }
        }
    }

    fn finish(&mut self, turn: &mut Turn<'_>) {
        self.state = State::Over;
        self.waiting.clear();
        let mut parts = std::mem::take(&mut self.parts);
        parts.sort_by_key(|part| part.place);
        let mut outcome = Outcome::default();
        let mut detail = Vec::new();
        for Part { place, said } in parts {
            let kind = self.order.get(place).copied();
            match (said, kind) {
                (Ok(found), Some(kind)) => {
                    if !found.is_empty() {
                        outcome.sources.push(kind);
                    }
                    outcome.found.add(found);
                }
                (Err(why), kind) => {
                    detail.push(format!("{}: {why}", kind.map_or("", MetadataSource::name)));
                }
                (Ok(_), None) => {}
            }
        }
        detail.append(&mut outcome.found.odd);
        let mut detail = detail.join("; ");
        if detail.len() > DETAIL_MAX {
            let cut = (0..=DETAIL_MAX)
                .rev()
                .find(|&at| detail.is_char_boundary(at));
            detail.truncate(cut.unwrap_or(0));
        }
        let found = &outcome.found;
        let length = found.user_data.as_ref().map_or(0, Vec::len);
        turn.report.event(Event::Metadata {
            sources: outcome.sources.clone(),
            instance_id: found.instance_id.clone().unwrap_or_default(),
            hostname: found.hostname.clone().unwrap_or_default(),
            user_data: length as u64,
            credentials: found.credentials.keys().cloned().collect(),
            milliseconds: turn.now.saturating_sub(self.begun).as_millis() as u64,
            detail,
        });
        self.outcome = Some(outcome);
    }
}

impl Active {
    fn ask(&mut self, question: Question, now: Duration) {
        self.questions += 1;
        self.question = question;
        (self.exchange, self.again, self.tries) = (None, now, 0);
        self.why.clear();
    }

    /// What comes next; `None` while it waits.
    fn go_on(&mut self, now: Duration, end: Duration, attempt: Duration) -> Option<Step> {
        if self.questions > QUESTIONS_MAX {
            return Some(Step::Absent("it goes in circles".into()));
        }
        if now >= end {
            let why = match self.why.as_str() {
                "" => "no answer in time".to_owned(),
                why => format!("no answer in time; last: {why}"),
            };
            return Some(match self.source.silence(why) {
                // Time is up: there is nothing more to ask.
                Step::Ask(_) => Step::Absent("no answer in time".into()),
                step => step,
            });
        }
        let Some(exchange) = &mut self.exchange else {
            if now >= self.again {
                let until = now.saturating_add(attempt).min(end);
                let (to, request) = (self.question.to, &self.question.request);
                match Exchange::start(to, request, self.question.limit, until) {
                    Ok(exchange) => self.exchange = Some(exchange),
                    Err(error) => {
                        let errno = error.raw_os_error().unwrap_or(0);
                        self.failed(now, crate::sys::process::error_text(errno));
                    }
                }
            }
            return None;
        };
        match exchange.advance(now) {
            Progress::Pending => None,
            Progress::Over(Ok(answer)) if matches!(answer.status, 408 | 429 | 500..) => {
                self.failed(now, format!("status {}", answer.status));
                None
            }
            Progress::Over(Ok(answer)) => Some(self.source.answer(&answer)),
            Progress::Over(Err(why)) => {
                self.failed(now, why);
                None
            }
        }
    }

    fn failed(&mut self, now: Duration, why: String) {
        let pause = PAUSE_FIRST
            .saturating_mul(1 << self.tries.min(8))
            .min(PAUSE_CAP);
        self.tries = self.tries.saturating_add(1);
        self.exchange = None;
        self.again = now.saturating_add(pause);
        self.why = why;
    }
}

impl Watched for Metadata {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        match &self.state {
            State::Local(end, _) => out.push(poll::entry(end.as_raw_fd(), libc::POLLIN)),
            State::Network(active) => {
                if let Some(exchange) = &active.exchange {
                    let (fd, events) = exchange.fd();
                    out.push(poll::entry(fd, events));
                }
            }
            _ => {}
        }
    }

    fn ready(&mut self, _fd: RawFd, turn: &mut Turn<'_>) {
        self.tick(turn);
    }

    fn deadline(&self) -> Option<Duration> {
        match &self.state {
            State::Idle | State::Over => None,
            State::Local(..) => Some(self.end()),
            State::Network(active) => Some(match &active.exchange {
                Some(exchange) => exchange.deadline(),
                None => active.again.min(self.end()),
            }),
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        match &self.state {
            State::Local(_, results) => match results.try_recv() {
                Ok(gathered) => self.gathered(gathered, turn),
                Err(error) => {
                    let lost = error == std::sync::mpsc::TryRecvError::Disconnected;
                    if lost || turn.now >= self.end() {
                        self.parts.push(Part {
                            place: 0,
                            said: Err("a disk or the firmware does not answer".into()),
                        });
                        self.finish(turn);
                    }
                }
            },
            State::Network(_) => self.go_on(turn),
            State::Idle | State::Over => {}
        }
    }
}

/// The conversation with a source, where it has one.
fn over_network(kind: MetadataSource, dmi: &Dmi) -> Option<Box<dyn Source>> {
    Some(match kind {
        MetadataSource::Ec2 => Box::new(ec2::Ec2::new()),
        MetadataSource::Gce => Box::new(gce::Gce),
        MetadataSource::Azure => Box::new(azure::Azure::new()),
        MetadataSource::Openstack => Box::new(openstack::OpenStack::default()),
        MetadataSource::Nocloud => Box::new(nocloud::NoCloudNet::of(dmi)?),
        MetadataSource::Smbios | MetadataSource::FwCfg => return None,
    })
}

/// Starts the thread that looks at everything local: a disk may take its time, and PID 1
/// does not wait. The pipe ends with it.
fn gather(
    order: Vec<MetadataSource>,
    places: Places,
) -> io::Result<(PipeReader, Receiver<Gathered>)> {
    let (end, held) = io::pipe()?;
    let (sender, results) = channel();
    std::thread::Builder::new()
        .name("metadata".to_owned())
        .spawn(move || {
            // Nobody may listen any more.
            let _ = sender.send(look(&order, &places));
            drop(held);
        })?;
    Ok((end, results))
}

/// All local sources.
fn look(order: &[MetadataSource], places: &Places) -> Gathered {
    let dmi = Dmi::read(&places.dmi);
    let numbered = order.iter().enumerate();
    let parts = numbered.filter_map(|(place, kind)| {
        let said = match kind {
            MetadataSource::FwCfg => Ok(fw_cfg::credentials(&places.fw_cfg)),
            MetadataSource::Smbios => dmi::credentials(&places.table),
            MetadataSource::Nocloud => {
                let (_, files) = seed::find(&places.block, &places.dev)?;
                Ok(nocloud::of_files(files))
            }
            _ => return None,
        };
        Some(Part { place, said })
    });
    Gathered {
        parts: parts.collect(),
        dmi,
    }
}

/// A file of at most `limit` bytes; a longer one is an error, never a part.
fn read_some(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("above {limit} bytes"),
        ));
    }
    Ok(bytes)
}
