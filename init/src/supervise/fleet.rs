//! All services together, still pure: who may start, and who may be stopped.

use std::time::Duration;

use super::order::Order;
use super::state::{Action, Input, Life, Policy};

/// The state machines and the graph between them.
#[derive(Debug)]
pub(crate) struct Fleet {
    lives: Vec<Life>,
    order: Order,
    /// For each service: those that name it in `after`.
    before: Vec<Vec<usize>>,
    /// Those that wait for something else than each other.
    held: Vec<bool>,
    begun: bool,
    stopping: bool,
}

/// An action of one service.
pub(crate) type Ordered = (usize, Action);

impl Fleet {
    /// One policy per service, in the order of `order`.
    pub(crate) fn new(policies: Vec<Policy>, order: Order) -> Fleet {
        let mut before = vec![Vec::new(); policies.len()];
        for (number, after) in order.after.iter().enumerate() {
            for &other in after {
                before[other].push(number);
            }
        }
        let lives: Vec<Life> = policies.into_iter().map(Life::new).collect();
        Fleet {
            held: vec![false; lives.len()],
            lives,
            order,
            before,
            begun: false,
            stopping: false,
        }
    }

    /// Starts those that wait for nobody.
    pub(crate) fn start(&mut self, now: Duration, out: &mut Vec<Ordered>) {
        self.begun = true;
        for (number, why) in std::mem::take(&mut self.order.broken) {
            self.input(now, number, Input::Refused(why), out);
        }
        self.settle(now, out);
    }

    /// Service `number` waits until [`Fleet::release`].
    pub(crate) fn hold(&mut self, number: usize) {
        if let Some(held) = self.held.get_mut(number) {
            *held = true;
        }
    }

    /// Whether it waits for that.
    pub(crate) fn is_held(&self, number: usize) -> bool {
        self.held.get(number).is_some_and(|held| *held)
    }

    /// Lets a held service go its way; it never starts if `refused` says why.
    pub(crate) fn release(
        &mut self,
        now: Duration,
        number: usize,
        refused: Option<String>,
        out: &mut Vec<Ordered>,
    ) {
        if !self.held.get_mut(number).is_some_and(std::mem::take) {
            return;
        }
        if let Some(why) = refused {
            self.input(now, number, Input::Refused(why), out);
        }
        self.settle(now, out);
    }

    /// Takes what happened to service `number`.
    pub(crate) fn step(
        &mut self,
        now: Duration,
        number: usize,
        input: Input,
        out: &mut Vec<Ordered>,
    ) {
        self.input(now, number, input, out);
        self.settle(now, out);
    }

    /// Stops all, those first that nobody waits for.
    pub(crate) fn stop(&mut self, now: Duration, out: &mut Vec<Ordered>) {
        self.stopping = true;
        for number in 0..self.lives.len() {
            self.input(now, number, Input::NoRestart, out);
        }
        self.settle(now, out);
    }

    /// One service.
    pub(crate) fn life(&self, number: usize) -> Option<&Life> {
        self.lives.get(number)
    }

    /// Every service is ready or done; never once the way down has begun.
    pub(crate) fn all_ready(&self) -> bool {
        self.begun && !self.stopping && self.lives.iter().all(Life::is_ready)
    }

    /// [`Fleet::stop`] was called and nothing runs any more.
    pub(crate) fn all_over(&self) -> bool {
        self.stopping && self.lives.iter().all(Life::is_over)
    }

    /// The graph.
    pub(crate) fn order(&self) -> &Order {
        &self.order
    }

    fn input(&mut self, now: Duration, number: usize, input: Input, out: &mut Vec<Ordered>) {
        let Some(life) = self.lives.get_mut(number) else {
            return;
        };
        let mut actions = Vec::new();
        life.step(now, input, &mut actions);
        out.extend(actions.into_iter().map(|action| (number, action)));
    }

    /// Hands on what the last input means for the others, until nothing changes.
    fn settle(&mut self, now: Duration, out: &mut Vec<Ordered>) {
        if !self.begun && !self.stopping {
            return;
        }
        loop {
            let before = out.len();
            for number in 0..self.lives.len() {
                if let Some(input) = self.next_for(number) {
                    self.input(now, number, input, out);
                }
            }
            // Every input below ends a wait and so adds an action; none added means settled.
            if out.len() == before {
                return;
            }
        }
    }

    fn next_for(&self, number: usize) -> Option<Input> {
        let life = &self.lives[number];
        if self.stopping {
            // Who has no process yet holds up nobody, not even in a cycle.
            let free = life.pid().is_none()
                || self.before[number]
                    .iter()
                    .all(|&other| self.lives[other].is_over());
            return (free && !life.is_over()).then_some(Input::Stop);
        }
        if !life.is_waiting() {
            return None;
        }
        if self.held[number] {
            return None;
        }
        let after = &self.order.after[number];
        if let Some(&lost) = after.iter().find(|&&other| self.lives[other].is_lost()) {
            let name = self.order.names.get(lost).map_or("", String::as_str);
            return Some(Input::Refused(format!(
                "after `{name}`, which failed for good"
            )));
        }
        after
            .iter()
            .all(|&other| self.lives[other].is_ready())
            .then_some(Input::DepsReady)
    }
}
