//! The services: started in order, watched, restarted by policy, stopped in reverse.
//!
//! ```text
//! state.rs  one service's life (pure)        order.rs  who waits for whom (pure)
//! fleet.rs  all lives and the graph (pure)   unit.rs   one service's process, pipes, sockets
//! logs.rs   output to lines                  ready.rs  tcp and http probes
//! notify.rs sd_notify                        cgroup.rs cgroup2 folders, meter.rs counters
//! vitals.rs health and watchdog              escalate.rs when restarts do not help (pure)
//! voice.rs  what a service says              env_file.rs, sockets.rs what it is given
//! ```
//!
//! [`Supervisor`] carries inputs from the units to the fleet and actions back, and is
//! one part of the event loop. No failure of a service gets further than its events.

#[cfg(test)]
mod care_tests;
mod cgroup;
mod env_file;
mod escalate;
mod fleet;
mod logs;
mod meter;
mod notify;
mod order;
mod ready;
#[cfg(test)]
mod simulation;
mod sockets;
mod state;
#[cfg(test)]
mod tests;
mod unit;
mod vitals;
mod voice;

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use slipform_init::contract::event::{Event, ServiceState};
use slipform_init::contract::machine::Service;

use crate::turn::{Turn, Watched};
use escalate::Patience;
use fleet::{Fleet, Ordered};
pub(crate) use logs::Allowance;
use state::{Action, Input, Life, Policy};
use unit::{Places, Unit};

/// What a service finds in its environment beyond machine.json, or why it never starts.
pub(crate) type Answer<'a> = dyn Fn(&Service) -> Result<Vec<(String, String)>, String> + 'a;

/// All services of the machine.
#[derive(Debug)]
pub(crate) struct Supervisor {
    units: Vec<Unit>,
    fleet: Fleet,
    /// The machine shall start again.
    reboot: bool,
}

impl Supervisor {
    /// Takes the services of machine.json; nothing is started yet. /run must be there
    /// (notify sockets), and /sys/fs/cgroup, if services are to have cgroups.
    pub(crate) fn new(services: Vec<Service>) -> Supervisor {
        Supervisor::at(services, &Places::default())
    }

    /// Like [`Supervisor::new`], with other folders.
    pub(crate) fn at(services: Vec<Service>, places: &Places) -> Supervisor {
        let names: Vec<(&str, &[String])> = services
            .iter()
            .map(|service| (service.name.as_str(), service.after.as_slice()))
            .collect();
        let mut order = order::resolve(&names);
        let policies = services.iter().map(policy).collect();
        let asks =
            |service: &Service| !service.credentials.is_empty() || !service.identity_env.is_empty();
        let held: Vec<bool> = services.iter().map(asks).collect();
        cgroup::enable(&places.cgroup);
        let mut units = Vec::with_capacity(services.len());
        for (number, service) in services.into_iter().enumerate() {
            let (unit, possible) = Unit::new(service, places);
            if let Err(why) = possible {
                order.broken.entry(number).or_insert(why);
            }
            units.push(unit);
        }
        let mut fleet = Fleet::new(policies, order);
        for number in held
            .iter()
            .enumerate()
            .filter_map(|(n, held)| held.then_some(n))
        {
            fleet.hold(number);
        }
        Supervisor {
            units,
            fleet,
            reboot: false,
        }
    }

    /// The machine knows who it is: services that asked for that may start, each with the
    /// environment that `answer` has for it, or never for the reason that it gives.
    pub(crate) fn identified(&mut self, answer: &Answer<'_>, turn: &mut Turn<'_>) {
        let mut actions = Vec::new();
        for (number, unit) in self.units.iter_mut().enumerate() {
            if !self.fleet.is_held(number) {
                continue;
            }
            let result = answer(unit.service()).map(|env| unit.add_environment(env));
            self.fleet
                .release(turn.now, number, result.err(), &mut actions);
        }
        self.carry_out(actions, turn);
    }

    /// Some service asks for credentials.
    pub(crate) fn wants_credentials(&self) -> bool {
        let mut services = self.units.iter().map(Unit::service);
        services.any(|service| !service.credentials.is_empty())
    }

    /// Starts those that wait for nobody; the others follow as readiness comes in.
    pub(crate) fn start(&mut self, turn: &mut Turn<'_>) {
        for (number, unit) in self.units.iter().enumerate() {
            let after = &self.fleet.order().after[number];
            if !after.is_empty() {
                let names: Vec<&str> = after
                    .iter()
                    .map(|&other| self.units[other].name())
                    .collect();
                let detail = format!("for {}", names.join(", "));
                report(unit, ServiceState::Waiting, 0, detail, turn);
            }
        }
        let mut actions = Vec::new();
        self.fleet.start(turn.now, &mut actions);
        self.carry_out(actions, turn);
    }

    /// A child of PID 1 was reaped with this wait status; false if it is no service's.
    pub(crate) fn child_ended(&mut self, pid: i32, status: i32, turn: &mut Turn<'_>) -> bool {
        let Some(number) = self.units.iter().position(|unit| unit.is(pid)) else {
            return false;
        };
        let mut inputs = Vec::new();
        self.units[number].ended(status, turn, &mut inputs);
        self.feed(number, inputs, turn);
        true
    }

    /// Every service is ready, or has done its work and ended well.
    pub(crate) fn all_ready(&self) -> bool {
        self.fleet.all_ready()
    }

    /// Whether a service's policy said since the last call that the machine shall start again.
    pub(crate) fn take_reboot(&mut self) -> bool {
        std::mem::take(&mut self.reboot)
    }

    /// Stops all services, those first that others do not wait for.
    pub(crate) fn stop(&mut self, turn: &mut Turn<'_>) {
        let mut actions = Vec::new();
        self.fleet.stop(turn.now, &mut actions);
        self.carry_out(actions, turn);
    }

    /// [`Supervisor::stop`] was called and no service runs any more.
    pub(crate) fn stopped(&self) -> bool {
        self.fleet.all_over()
    }

    fn feed(&mut self, number: usize, inputs: Vec<Input>, turn: &mut Turn<'_>) {
        let mut actions = Vec::new();
        for input in inputs {
            self.fleet.step(turn.now, number, input, &mut actions);
        }
        if !self.fleet.life(number).is_some_and(Life::wants_probe) {
            self.units[number].end_probe();
        }
        if self.fleet.life(number).is_some_and(Life::wants_health) {
            self.units[number].watch(turn.now);
        } else {
            self.units[number].unwatch();
        }
        self.carry_out(actions, turn);
    }

    fn carry_out(&mut self, actions: Vec<Ordered>, turn: &mut Turn<'_>) {
        let mut queue = VecDeque::from(actions);
        while let Some((number, action)) = queue.pop_front() {
            let unit = &mut self.units[number];
            match action {
                Action::Spawn => {
                    let mut more = Vec::new();
                    let input = unit.spawn();
                    self.fleet.step(turn.now, number, input, &mut more);
                    queue.extend(more);
                }
                Action::Terminate => {
                    unit.end_probe();
                    unit.unwatch();
                    unit.terminate();
                }
                Action::Kill => unit.kill(),
                Action::Reboot(why) => {
                    self.reboot = true;
                    turn.report.event(Event::Health {
                        service: unit.name().to_owned(),
                        healthy: false,
                        detail: format!("{why}; the machine starts again"),
                    });
                }
                Action::Report { state, pid, detail } => {
                    if state == ServiceState::Stopped {
                        unit.close();
                    }
                    report(unit, state, pid, detail, turn);
                }
            }
        }
    }
}

impl Watched for Supervisor {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        for unit in &self.units {
            unit.fds(out);
        }
    }

    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>) {
        for number in 0..self.units.len() {
            let mut inputs = Vec::new();
            if self.units[number].ready(fd, turn, &mut inputs) {
                return self.feed(number, inputs, turn);
            }
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let units = self.units.iter().filter_map(Unit::deadline);
        let lives = (0..self.units.len()).filter_map(|number| self.fleet.life(number)?.deadline());
        units.chain(lives).min()
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        for number in 0..self.units.len() {
            let mut inputs = Vec::new();
            self.units[number].due(turn, &mut inputs);
            self.feed(number, inputs, turn);
        }
    }
}

fn policy(service: &Service) -> Policy {
    Policy {
        restart: service.restart,
        ready_timeout: Duration::from_millis(service.ready_timeout_ms),
        stop_timeout: Duration::from_millis(service.stop_timeout_ms),
        kind: service.kind,
        start_limit: service.start_limit,
        patience: service.health.as_ref().map(Patience::from),
    }
}

fn report(unit: &Unit, state: ServiceState, pid: i32, detail: String, turn: &mut Turn<'_>) {
    turn.report.event(Event::Service {
        name: unit.name().to_owned(),
        state,
        pid,
        detail,
    });
}
