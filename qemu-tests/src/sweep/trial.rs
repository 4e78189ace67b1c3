//! One boot of a sweep: as a boot test, with another machine, and ended as soon as
//! its question is answered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slipform_init::contract::event::Event;

use super::SweepError;
use super::reads::Reads;
use crate::accel::Accel;
use crate::evidence::Evidence;
use crate::limits::Limits;
use crate::machine::hardware::{Hardware, Trace};
use crate::machine::overlay::{self, Kept};
use crate::machine::{Machine, Mode};
use crate::plan::{Emulator, Plan};
use crate::probes::patterns::Patterns;
use crate::report::{Failure, Outcome, Verdict};
use crate::run::{Judgement, Parts, Run, Whole, check_plan, cuts_power, probed_ports, today};
use crate::watch::{BuiltIn, Watch};

/// Bytes of a layer a second that the slowest host should read.
const READ_RATE: u64 = 1 << 20;
const TICK: Duration = Duration::from_millis(50);

/// How far a boot goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Checks, and then the power button.
    PowerOff,
    /// Checks; then QEMU is killed.
    Checks,
    /// Checks, and reading every layer of so many bytes together; then QEMU is killed.
    LayersRead(u64),
    /// QEMU is killed so long after power-on, whatever the machine does.
    Cut(Duration),
}

/// A boot to be made.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) emulator: &'a Emulator,
    pub(crate) accel: Accel,
    pub(crate) hardware: Hardware,
    /// Disk and variables that outlive it.
    pub(crate) kept: Option<Arc<Kept>>,
    pub(crate) until: Until,
}

/// What a boot showed.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Of all checks.
    pub(crate) verdicts: Vec<Verdict>,
    /// None if all passed that were asked for.
    pub(crate) failure: Option<Failure>,
    pub(crate) ready_seconds: Option<f64>,
    pub(crate) seconds: f64,
    /// dm-verity's words.
    pub(crate) verity: Option<String>,
    pub(crate) layers_read: Option<Result<(), String>>,
    pub(crate) reads: Option<Reads>,
    /// Where the machine was at the end.
    pub(crate) stage: String,
    pub(crate) evidence: PathBuf,
}

impl Shown {
    /// Whether a built-in check passed.
    pub(crate) fn passed(&self, check: BuiltIn) -> bool {
        self.verdicts.iter().any(|verdict| {
            verdict.check == check.name() && matches!(verdict.outcome, Outcome::Passed(_))
        })
    }
}

/// Makes it.
pub(crate) fn run(trial: &Trial<'_>) -> Result<Shown, SweepError> {
    let plan = trial.plan;
    check_plan(plan)?;
    let patterns = Patterns::new(&plan.checks)?;
    let start = Instant::now();
    let limits = Limits::new(plan, &trial.accel);
    let evidence = Evidence::create(&plan.evidence)?;
    let folder = evidence.dir().to_owned();
    let kept = match &trial.kept {
        None if cuts_power(plan) => {
            let size = overlay::virtual_size(plan)?;
            Some(Arc::new(Kept::create(&folder, size, None)?))
        }
        kept => kept.clone(),
    };
    let mode = Mode {
        forwards: probed_ports(plan),
        isolated: true,
        reboot_ends: true,
        kept,
        bios: false,
        metadata: None,
        start_limit: limits.start,
        hardware: trial.hardware.clone(),
    };
    let machine = Machine::start(plan, trial.emulator, &trial.accel, &mode, &evidence)?;
    let watch = Watch::new(plan, &machine.nonce, patterns);
    let quiet = |_: &str| {};
    let mut run = Run::new(Parts {
        plan,
        emulator: trial.emulator,
        accel: &trial.accel,
        limits,
        mode,
        machine,
        watch,
        evidence,
        progress: &quiet,
    });
    // What the boot itself reads: reading all layers comes after it.
    let traced = || match &trial.hardware.trace {
        Some(Trace(file)) => Reads::load(file, u64::from(plan.sector_size)).map(Some),
        None => Ok(None),
    };
    let (mut layers_read, mut reads) = (None, None);
    match trial.until {
        Until::PowerOff => run.all()?,
        Until::Cut(moment) => {
            cut(&mut run, moment)?;
            run.pull_the_plug()?;
        }
        Until::Checks | Until::LayersRead(_) => {
            run.boot()?;
            if run.is_up() {
                run.checks()?;
            }
            if let Until::LayersRead(bytes) = trial.until
                && run.is_up()
            {
                reads = traced()?;
                let slow = trial.accel.slowdown.max(1.0);
                let limit = Duration::from_secs(30 + bytes / READ_RATE).mul_f64(slow.min(20.0));
                layers_read = Some(read_layers(&mut run, limit)?);
            }
            run.last_words()?;
            run.pull_the_plug()?;
            run.absences();
        }
    }
    if reads.is_none() {
        reads = traced()?;
    }
    let boots = run.seen();
    let ready_seconds = boots.first().and_then(|seen| seen.ready_seconds);
    let verity = boots
        .iter()
        .flat_map(|seen| &seen.watch.problems)
        .find(|problem| problem.line.contains("verity") && problem.line.contains("corrupted"))
        .map(|problem| problem.line.clone());
    let judgement = Judgement::of(&Whole {
        boots,
        outcomes: run.outcomes(),
        unchanged: true,
        today: &today(),
    });
    let asked = |verdict: &Verdict| {
        trial.until == Until::PowerOff || verdict.check != BuiltIn::PowerOff.name()
    };
    let green = judgement
        .verdicts
        .iter()
        .filter(|verdict| asked(verdict))
        .all(|verdict| matches!(verdict.outcome, Outcome::Passed(_)));
    Ok(Shown {
        verity,
        failure: judgement.failures.into_iter().next().filter(|_| !green),
        verdicts: judgement.verdicts,
        ready_seconds,
        seconds: start.elapsed().as_secs_f64(),
        layers_read,
        reads,
        stage: run.watch.stage.name(),
        evidence: folder,
    })
}

fn cut(run: &mut Run<'_>, moment: Duration) -> Result<(), SweepError> {
    run.machine.power_on()?;
    let until = Instant::now() + moment;
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        run.pump(TICK.min(left))?;
    }
    Ok(())
}

/// Has init read every layer to its end.
fn read_layers(run: &mut Run<'_>, limit: Duration) -> Result<Result<(), String>, SweepError> {
    let wanted = run.watch.layers_seen.len();
    if let Err(error) = run.machine.send_report("{\"command\":\"read-layers\"}") {
        return Ok(Err(format!("the report channel does not take it: {error}")));
    }
    let until = Instant::now() + limit;
    loop {
        let told: Vec<(String, String)> = run
            .watch
            .records
            .iter()
            .filter_map(|record| match &record.event {
                Event::LayerRead { name, error, .. } => Some((name.clone(), error.clone())),
                _ => None,
            })
            .collect();
        if let Some((name, error)) = told.iter().find(|(_, error)| !error.is_empty()) {
            // dm-verity's own line may be a moment behind.
            run.pump(TICK)?;
            return Ok(Err(format!("layer {name}: {error}")));
        }
        if told.len() >= wanted && wanted > 0 {
            return Ok(Ok(()));
        }
        if run.watch.is_dead() {
            return Ok(Err("the machine died".to_owned()));
        }
        if Instant::now() >= until {
            let limit = limit.as_secs();
            return Ok(Err(format!("no answer within {limit} s")));
        }
        run.pump(TICK)?;
    }
}
