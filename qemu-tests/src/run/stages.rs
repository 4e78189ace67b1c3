//! The stages of a run: boot, checks, power-off, end; and between them what checks
//! ask for, reboots and power cuts.

use std::time::{Duration, Instant};

use slipform_init::contract::event::{Command, Phase};
use slipform_init::contract::inside::{Query, Section};

use crate::accel::Accel;
use crate::error::HarnessError;
use crate::evidence::Evidence;
use crate::limits::Limits;
use crate::machine::{Machine, Mode, Observation};
use crate::metadata::Metadata;
use crate::phase::Stage;
use crate::plan::{Check, Emulator, Plan};
use crate::report::Outcome;
use crate::watch::Watch;

use super::timeline::Timeline;

/// How long one wait for the machine lasts.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// A dead guest that is silent for so long has said its last words.
const SILENCE: Duration = Duration::from_millis(300);
/// How long init may take to tell what a red machine looks like inside, on real hardware;
/// what comes later still comes into the evidence.
const INSIDE: Duration = Duration::from_millis(300);
/// How long channels may take to their end once the process is gone.
const DRAIN: Duration = Duration::from_secs(5);

/// A run on its way.
pub(crate) struct Run<'a> {
    pub(super) plan: &'a Plan,
    emulator: &'a Emulator,
    accel: &'a Accel,
    pub(super) limits: Limits,
    pub(crate) machine: Machine,
    /// Of the boot that is on.
    pub(crate) watch: Watch,
    pub(crate) evidence: Evidence,
    progress: &'a dyn Fn(&str),
    power_on: Instant,
    ready_seconds: Option<f64>,
    ending: Option<PowerOff>,
    /// The boot that is on is one by a BIOS.
    bios: bool,
    past: Vec<Boot>,
    pub(super) outcomes: Vec<Option<Outcome>>,
    pub(crate) timeline: Timeline,
    pub(crate) screen: Option<String>,
    // Last: what it keeps is removed when QEMU is gone.
    mode: Mode,
}

/// What a run is made of.
pub(crate) struct Parts<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) emulator: &'a Emulator,
    pub(crate) accel: &'a Accel,
    pub(crate) limits: Limits,
    pub(crate) mode: Mode,
    pub(crate) machine: Machine,
    pub(crate) watch: Watch,
    pub(crate) evidence: Evidence,
    pub(crate) progress: &'a dyn Fn(&str),
}

/// A boot that is over.
struct Boot {
    watch: Watch,
    ready_seconds: Option<f64>,
    ending: Option<PowerOff>,
    cut: bool,
    bios: bool,
}

/// How the power-off, or the way down to a reboot, went.
#[derive(Debug, Clone, Default)]
pub(crate) struct PowerOff {
    /// Until QEMU ended or stood still, or the limit.
    pub(crate) seconds: f64,
    /// The request was refused: why.
    pub(crate) refused: Option<String>,
    /// The button was ignored; the report channel was tried.
    pub(crate) asked_by_report: bool,
    /// A reboot was asked for, by the report channel.
    pub(crate) reboot: bool,
}

/// A boot as the judge looks at it.
pub(crate) struct Seen<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) limits: &'a Limits,
    pub(crate) watch: &'a Watch,
    pub(crate) ready_seconds: Option<f64>,
    pub(crate) power_off: Option<&'a PowerOff>,
    /// The power was cut: there was no way down.
    pub(crate) cut: bool,
    /// It started by a BIOS, though the plan's way in is UEFI.
    pub(crate) bios: bool,
    pub(crate) evidence: &'a Evidence,
}

impl<'a> Run<'a> {
    pub(crate) fn new(parts: Parts<'a>) -> Self {
        Self {
            plan: parts.plan,
            emulator: parts.emulator,
            accel: parts.accel,
            limits: parts.limits,
            machine: parts.machine,
            watch: parts.watch,
            evidence: parts.evidence,
            progress: parts.progress,
            power_on: Instant::now(),
            ready_seconds: None,
            ending: None,
            bios: parts.mode.bios,
            past: Vec::new(),
            outcomes: vec![None; parts.plan.checks.len()],
            timeline: Timeline::new(),
            screen: None,
            mode: parts.mode,
        }
    }

    /// What was seen of every boot, for the judge.
    pub(crate) fn seen(&self) -> Vec<Seen<'_>> {
        let past = self.past.iter().map(|boot| {
            let ending = boot.ending.as_ref();
            (&boot.watch, boot.ready_seconds, ending, boot.cut, boot.bios)
        });
        let ending = self.ending.as_ref();
        let last = (&self.watch, self.ready_seconds, ending, false, self.bios);
        past.chain([last])
            .map(|(watch, ready_seconds, power_off, cut, bios)| Seen {
                plan: self.plan,
                limits: &self.limits,
                watch,
                ready_seconds,
                power_off,
                cut,
                bios,
                evidence: &self.evidence,
            })
            .collect()
    }

    /// What came of the user's checks, in their order; none of one that was not made.
    pub(crate) fn outcomes(&self) -> &[Option<Outcome>] {
        &self.outcomes
    }

    /// All stages. Afterwards QEMU is gone.
    pub(crate) fn all(&mut self) -> Result<(), HarnessError> {
        self.boot()?;
        let mut worlds = super::worlds(self.plan).into_iter();
        // The machine was started in the first.
        worlds.next();
        loop {
            if self.is_up() {
                self.checks()?;
            }
            match worlds.next() {
                Some(world) if self.is_up() => self.enter(world)?,
                _ => break,
            }
        }
        if self.plan.also_bios && self.is_first_part() && self.is_up() {
            self.start_by_bios()?;
        }
        self.picture();
        self.look_inside()?;
        // Init that reported a failed service still takes orders; one that is late may not.
        if !self.watch.is_dead() {
            self.power_off()?;
        }
        self.last_words()?;
        self.picture();
        self.pull_the_plug()?;
        self.absences();
        Ok(())
    }

    /// Ready, and nothing has ended it.
    pub(crate) fn is_up(&self) -> bool {
        self.watch.ready.is_some() && !self.watch.is_dead()
    }

    /// For people who watch, and for the timeline.
    pub(super) fn tell(&mut self, text: &str) {
        (self.progress)(text);
        self.timeline.note(text);
    }

    /// Lets the machine run, and waits until it is ready or never will be.
    pub(crate) fn boot(&mut self) -> Result<(), HarnessError> {
        self.machine.power_on()?;
        self.come_up()
    }

    /// From power-on to ready.
    fn come_up(&mut self) -> Result<(), HarnessError> {
        self.power_on = Instant::now();
        self.timeline.power_on();
        self.timeline.note(&self.watch.stage.name());
        let until = self.power_on + self.limits.ready;
        let mut suspect: Option<Instant> = None;
        while self.watch.ready.is_none() && !self.watch.is_hopeless() {
            suspect = self
                .watch
                .is_suspect()
                .then(|| suspect.unwrap_or_else(Instant::now));
            if suspect.is_some_and(|since| since.elapsed() > self.limits.silence) {
                self.watch.condemn();
                return Ok(());
            }
            if Instant::now() >= until {
                let limit = self.limits.ready.as_secs_f64();
                self.watch.too_late(&format!("{limit:.0} s"));
                return Ok(());
            }
            self.pump(TICK)?;
        }
        Ok(())
    }

    fn power_off(&mut self) -> Result<(), HarnessError> {
        self.tell("powering off");
        self.watch.expect_end();
        let start = Instant::now();
        let mut result = PowerOff {
            refused: self
                .machine
                .press_power()
                .err()
                .map(|error| error.to_string()),
            ..PowerOff::default()
        };
        while !self.machine.is_over()
            && !self.watch.is_dead()
            && start.elapsed() < self.limits.power_off
        {
            let ignored =
                self.watch.shutdown.is_none() && start.elapsed() > self.limits.power_off / 2;
            if ignored && !result.asked_by_report {
                // Only to learn whether init lives at all: the verdict is red by now.
                result.asked_by_report = true;
                drop(self.machine.send_report("{\"command\":\"power-off\"}"));
            }
            self.pump(TICK)?;
        }
        result.seconds = start.elapsed().as_secs_f64();
        self.ending = Some(result);
        Ok(())
    }

    /// Init goes down and the machine comes up again, in the same QEMU. It stands
    /// still between the two, so that no byte of one boot is taken for the other's.
    pub(super) fn reboot(&mut self) -> Result<(), HarnessError> {
        self.tell("rebooting");
        if let Err(error) = self.machine.hold_at_end() {
            return self.unless_it_died(error);
        }
        self.watch.expect_end();
        let start = Instant::now();
        let refused = self.machine.send_report("{\"command\":\"reboot\"}").err();
        let mut result = PowerOff {
            refused: refused.map(|error| error.to_string()),
            reboot: true,
            ..PowerOff::default()
        };
        while self.watch.machine_end.is_none()
            && !self.machine.is_over()
            && !self.watch.is_dead()
            && start.elapsed() < self.limits.power_off
        {
            self.pump(TICK)?;
        }
        while self.pump(TICK)? {}
        result.seconds = start.elapsed().as_secs_f64();
        self.ending = Some(result);
        if self.watch.machine_end.as_deref() != Some("guest-reset") {
            let limit = self.limits.power_off.as_secs_f64();
            self.watch.did_not_reboot(&format!("{limit:.0} s"));
            return Ok(());
        }
        let nonce = self.machine.nonce.clone();
        self.next_boot(&nonce, false);
        match self.machine.start_again() {
            Ok(()) => self.come_up(),
            Err(error) => self.unless_it_died(error),
        }
    }

    /// QEMU is killed and started anew on the overlay as it is then.
    pub(super) fn power_cut(&mut self) -> Result<(), HarnessError> {
        self.tell("cutting the power");
        self.pull_the_plug()?;
        self.machine = Machine::start(
            self.plan,
            self.emulator,
            self.accel,
            &self.mode,
            &self.evidence,
        )?;
        let nonce = self.machine.nonce.clone();
        self.next_boot(&nonce, true);
        self.boot()
    }

    /// The machine is switched off, and wakes up in another cloud.
    fn enter(&mut self, world: Option<Metadata>) -> Result<(), HarnessError> {
        let name = world
            .as_ref()
            .map_or("no cloud", |world| world.source.name());
        let place = format!("in {name}");
        self.mode.metadata = world;
        self.switch_off_and_on(&place)
    }

    /// What is started by a BIOS once need not be in each part of a run.
    fn is_first_part(&self) -> bool {
        self.plan.run.shard.is_none_or(|(part, _)| part == 1)
    }

    /// The machine is switched off, and starts by GRUB's code on the same disk.
    fn start_by_bios(&mut self) -> Result<(), HarnessError> {
        self.mode.bios = true;
        self.switch_off_and_on("by its BIOS")
    }

    fn switch_off_and_on(&mut self, how: &str) -> Result<(), HarnessError> {
        self.power_off()?;
        self.last_words()?;
        self.pull_the_plug()?;
        self.tell(&format!("starting again {how}"));
        self.machine = Machine::start(
            self.plan,
            self.emulator,
            self.accel,
            &self.mode,
            &self.evidence,
        )?;
        let nonce = self.machine.nonce.clone();
        self.next_boot(&nonce, false);
        self.boot()
    }

    /// Whether a check is for the cloud that the machine is in.
    pub(super) fn is_here(&self, check: &Check) -> bool {
        check.metadata == self.mode.metadata
    }

    /// Whether the cloud that the machine is in wants to hear that it is ready.
    pub(super) fn awaits_report(&self) -> bool {
        let world = self.mode.metadata.as_ref();
        world.is_some_and(Metadata::awaits_report) && !self.mode.hardware.no_network
    }

    fn next_boot(&mut self, nonce: &str, cut: bool) {
        self.watch.settle();
        let mut patterns = std::mem::take(&mut self.watch.patterns);
        patterns.next_boot();
        let fresh = Watch::new(self.plan, nonce, patterns);
        self.past.push(Boot {
            watch: std::mem::replace(&mut self.watch, fresh),
            ready_seconds: self.ready_seconds.take(),
            ending: self.ending.take(),
            cut,
            bios: std::mem::replace(&mut self.bios, self.mode.bios),
        });
    }

    /// The monitor failed: because QEMU is gone, which the watch tells, or else.
    fn unless_it_died(&mut self, error: HarnessError) -> Result<(), HarnessError> {
        while self.pump(SILENCE)? {}
        if self.watch.exited.is_some() && self.watch.is_dead() {
            return Ok(());
        }
        Err(error)
    }

    /// Kills QEMU, and takes what its channels still hold.
    pub(crate) fn pull_the_plug(&mut self) -> Result<(), HarnessError> {
        self.watch.unplug();
        self.machine.kill();
        let until = Instant::now() + DRAIN;
        while !self.machine.is_over() && Instant::now() < until {
            self.pump(TICK)?;
        }
        Ok(())
    }

    fn is_red(&self) -> bool {
        let failed = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Failed(_)));
        !self.watch.problems.is_empty() || self.outcomes.iter().any(failed)
    }

    /// Has init tell what a machine looks like that is red by now: services, memory, mounts
    /// and network come among the events of the evidence.
    fn look_inside(&mut self) -> Result<(), HarnessError> {
        let gone = self.watch.exited.is_some() || self.watch.is_dead();
        if !self.is_red() || gone || self.watch.stage < Stage::Init(Phase::Services) {
            return Ok(());
        }
        let mut sections = Section::ALL.to_vec();
        sections.retain(|section| *section != Section::Log);
        let query = Command::Show(Query {
            id: 1,
            sections,
            ..Query::default()
        });
        let line = serde_json::to_string(&query).unwrap_or_default();
        // Without a port nobody can be asked.
        if self.machine.send_report(&line).is_err() {
            return Ok(());
        }
        let until = Instant::now() + INSIDE.mul_f64(self.accel.slowdown.max(1.0));
        while !self.watch.answered && !self.machine.is_over() && Instant::now() < until {
            self.pump(TICK)?;
        }
        Ok(())
    }

    /// What the screen of a machine shows that is red by now.
    fn picture(&mut self) {
        if !self.is_red() || self.screen.is_some() || self.watch.exited.is_some() {
            return;
        }
        let path = self.evidence.dir().join("screen.png");
        self.screen = Some(match self.machine.screen(&path) {
            Ok(()) if path.is_file() => "screen.png".to_owned(),
            Ok(()) => "skipped: QEMU wrote no picture".to_owned(),
            Err(error) => format!("skipped: {error}"),
        });
    }

    /// A dead guest may still print why: until it is silent, or too long.
    pub(crate) fn last_words(&mut self) -> Result<(), HarnessError> {
        let start = Instant::now();
        while self.watch.is_dead()
            && !self.machine.is_over()
            && start.elapsed() < self.limits.last_words
        {
            if !self.pump(SILENCE)? {
                break;
            }
        }
        self.watch.settle();
        Ok(())
    }

    /// Takes one observation; false if none came in time.
    pub(crate) fn pump(&mut self, wait: Duration) -> Result<bool, HarnessError> {
        let Some(observation) = self.machine.next(wait) else {
            return Ok(false);
        };
        let before = self.watch.stage;
        match observation {
            Observation::Console(bytes) => {
                self.evidence.console(&bytes)?;
                self.watch.console_bytes(&bytes);
            }
            Observation::Report(bytes) => self.watch.report_bytes(&bytes),
            Observation::Monitor(event) => self.watch.monitor(&event),
            Observation::Exited(status) => self.watch.process_end(&status),
            Observation::Closed => {}
        }
        for line in std::mem::take(&mut self.watch.record_lines) {
            self.evidence.event(&line)?;
        }
        let stage = self.watch.stage;
        for news in std::mem::take(&mut self.watch.news) {
            self.timeline.note(&news);
        }
        if self.watch.ready.is_some() && self.ready_seconds.is_none() {
            let seconds = self.power_on.elapsed().as_secs_f64();
            self.ready_seconds = Some(seconds);
            self.tell(&format!("ready after {seconds:.1} s"));
        } else if stage > before && stage < Stage::PowerOff {
            (self.progress)(&stage.name());
        }
        Ok(true)
    }
}
