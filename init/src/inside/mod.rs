//! Answers what the harness asks about the machine ([`contract`](slipform_init::contract::inside)):
//! `slipform ps` and `slipform logs` on a machine that has no shell.
//!
//! ```text
//! port -> Reporter (bounded queue) -> Inside: look.rs reads /proc, /sys and the journal,
//!                                             network.rs addresses, routes, DNS
//! port <- Reporter::answer <------- one item at a time, while there is room
//! ```
//! Nothing here writes to anything but the port, and nothing waits: an answer that finds
//! the port's queue half full goes on in a later turn. What an answer holds is bounded, and
//! so is the number of answers. Whoever does not read loses the answer, and init nothing.

mod look;
mod network;

use std::collections::VecDeque;
use std::time::Duration;

use slipform_init::contract::inside::{Item, LogSeen, MAX_QUERIES, Query, Section};
use slipform_init::contract::machine::StatePath;

use crate::metrics::kernel::Places;
use crate::report::Reporter;
use crate::ship::record::Record;
use crate::ship::ring::Journal;
use crate::sys::clock;

/// Items of one turn: others want theirs, too.
const MAX_ITEMS: usize = 256;

/// What is being answered.
#[derive(Debug)]
pub(crate) struct Inside {
    places: Places,
    debug: bool,
    /// The services of machine.json, in its order.
    services: Vec<String>,
    /// Its paths that are kept.
    kept: Vec<StatePath>,
    answers: VecDeque<Answer>,
}

impl Inside {
    /// For the machine's services, and the paths that it keeps.
    pub(crate) fn new(services: Vec<String>, kept: Vec<StatePath>, debug: bool) -> Self {
        Self {
            places: Places::default(),
            debug,
            services,
            kept,
            answers: VecDeque::new(),
        }
    }

    /// Takes new questions and goes on with the answers.
    pub(crate) fn advance(&mut self, report: &mut Reporter) {
        if !report.is_heard() {
            // Whoever comes next has not asked.
            self.answers.clear();
        }
        while let Some(query) = report.take_query() {
            self.take(query, report);
        }
        let mut left = MAX_ITEMS;
        let spool = report.spool();
        for answer in &mut self.answers {
            while left > 0 && report.has_room() {
                let item = spool
                    .with(|journal| answer.next(journal, offset()))
                    .flatten();
                let Some(item) = item else { break };
                left -= 1;
                report.answer(answer.query.id, item);
            }
        }
        self.answers.retain(|answer| !answer.is_over());
        // Who was served first this time is last the next.
        if self.answers.len() > 1 {
            self.answers.rotate_left(1);
        }
    }

    /// When [`Inside::advance`] has something to do that no descriptor tells.
    pub(crate) fn deadline(&self, report: &Reporter) -> Option<Duration> {
        let spool = report.spool();
        let end = spool.with(|journal| journal.recent.end()).unwrap_or(0);
        let waits = |answer: &Answer| !answer.ended || answer.cursor.is_some_and(|at| at < end);
        (self.answers.iter().any(waits) && report.has_room()).then(clock::monotonic)
    }

    fn take(&mut self, query: Query, report: &mut Reporter) {
        self.answers.retain(|answer| answer.query.id != query.id);
        if query.sections.is_empty() {
            return report.answer(query.id, Item::End(String::new()));
        }
        if self.answers.len() >= MAX_QUERIES {
            let why = "too many questions at once".to_owned();
            return report.answer(query.id, Item::End(why));
        }
        let items = self.look(&query, report);
        let spool = report.spool();
        let answer = spool.with(|journal| Answer::new(query, items, journal));
        self.answers.extend(answer);
    }

    /// All that is asked for but the log.
    fn look(&self, query: &Query, report: &Reporter) -> VecDeque<Item> {
        let identity = report.identity();
        let since_boot = clock::since_boot();
        let spool = report.spool();
        let seen =
            spool.with(|journal| look::machine(&self.places, &identity, journal, since_boot));
        let mut items = VecDeque::new();
        items.extend(seen.map(|mut seen| {
            seen.debug = self.debug;
            Item::Machine(seen)
        }));
        for section in Section::ALL {
            if !query.sections.contains(&section) {
                continue;
            }
            match section {
                Section::Services => {
                    let wanted = |name: &&String| query.service.as_ref().is_none_or(|s| s == *name);
                    let names = self.services.iter().filter(wanted);
                    let seen = spool.with(|journal| {
                        let seen = |name: &String| {
                            look::service(&self.places, name, &journal.tally, since_boot)
                        };
                        names.map(seen).collect::<Vec<_>>()
                    });
                    items.extend(seen.into_iter().flatten().map(Item::Service));
                    if query.service.is_none() {
                        items.extend(self.kept.iter().map(look::kept).map(Item::State));
                    }
                }
                Section::Memory => items.push_back(Item::Memory(look::memory(&self.places))),
                Section::Mounts => items.extend(look::mounts(&self.places).map(Item::Mount)),
                Section::Network => items.extend(network::items(&self.places)),
                Section::Log => {}
            }
        }
        items
    }
}

/// From CLOCK_MONOTONIC to the time since 1970.
fn offset() -> Duration {
    clock::wall().saturating_sub(clock::monotonic())
}

/// One question, and how far its answer is.
#[derive(Debug)]
struct Answer {
    query: Query,
    items: VecDeque<Item>,
    /// The next record of the log, if that is asked for.
    cursor: Option<u64>,
    /// The record that is not part of the answer any more.
    until: u64,
    /// The end was told.
    ended: bool,
}

impl Answer {
    fn new(query: Query, items: VecDeque<Item>, journal: &mut Journal) -> Self {
        let lines = match query.lines {
            0 => usize::MAX,
            lines => usize::try_from(lines).unwrap_or(usize::MAX),
        };
        let log = query.sections.contains(&Section::Log);
        let cursor = log.then(|| journal.recent.last(lines, |record| fits(&query, record)));
        Self {
            query,
            items,
            cursor,
            until: journal.recent.end(),
            ended: false,
        }
    }

    /// The next piece, if there is one now.
    fn next(&mut self, journal: &Journal, offset: Duration) -> Option<Item> {
        if let Some(item) = self.items.pop_front() {
            return Some(item);
        }
        self.line(journal, offset).or_else(|| {
            let first = !std::mem::replace(&mut self.ended, true);
            first.then(|| Item::End(String::new()))
        })
    }

    fn line(&mut self, journal: &Journal, offset: Duration) -> Option<Item> {
        let cursor = self.cursor.as_mut()?;
        // What comes later belongs to who follows, behind the end.
        if !self.ended && *cursor >= self.until {
            return None;
        }
        let lost = journal.recent.first().saturating_sub(*cursor);
        if lost > 0 {
            *cursor = journal.recent.first();
            return Some(Item::Lost(lost));
        }
        let found = journal
            .recent
            .find(*cursor, |record| fits(&self.query, record));
        let Some((number, record)) = found else {
            *cursor = journal.recent.end();
            return None;
        };
        if !self.ended && number >= self.until {
            *cursor = self.until;
            return None;
        }
        *cursor = number + 1;
        let time = record.at.saturating_add(offset).as_micros();
        Some(Item::Log(LogSeen {
            time: u64::try_from(time).unwrap_or(u64::MAX),
            service: record.service.to_string(),
            stream: record.stream.name().to_owned(),
            severity: record.severity.name().to_owned(),
            line: record.text.to_string(),
        }))
    }

    fn is_over(&self) -> bool {
        self.ended && !(self.query.follow && self.cursor.is_some())
    }
}

fn fits(query: &Query, record: &Record) -> bool {
    query
        .service
        .as_deref()
        .is_none_or(|service| service == &*record.service)
}

#[cfg(test)]
mod tests;
