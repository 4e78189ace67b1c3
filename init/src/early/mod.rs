//! From the kernel's hand-over to the new root, one phase after the other:
//!
//! ```text
//! start -> modules -> disk -> verity -> stack -> switch -> state
//! ```
//!
//! Everything here happens once, in order, and may fail; a failure is a
//! [`BootError`] and ends the boot.

mod carried;
pub(crate) mod coldplug;
pub(crate) mod disk;
pub(crate) mod gpt;
mod kernel;
mod loader;
pub(crate) mod machine;
pub(crate) mod modules;
mod mounts;
mod run_files;
mod stack;
mod switch;
mod verity;

use std::path::Path;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::{MACHINE_PATH, Machine};

use crate::early::coldplug::Coldplug;
use crate::early::modules::Late;
use crate::error::BootError;
use crate::power;
use crate::power::mark::{self, Past};
use crate::power::watchdog::Watchdog;
use crate::report::Reporter;
use crate::report::kmsg::Kmsg;
use crate::state;
use crate::turn::Report;

/// A machine whose root is up.
pub(crate) struct Booted {
    /// What it is.
    pub(crate) machine: Machine,
    /// Armed, if there is one.
    pub(crate) watchdog: Watchdog,
    /// How its last life ended.
    pub(crate) past: Past,
    /// Modules that are still to be loaded.
    pub(crate) late: Late,
    /// Finds drivers for devices that come, on a board that has it.
    pub(crate) coldplug: Option<Coldplug>,
}

/// Takes the machine to its own root and says what it is.
pub(crate) fn boot(kmsg: &mut Kmsg, report: &mut Reporter) -> Result<Booted, BootError> {
    let machine = start(kmsg, report)?;
    report.phase(Phase::Modules);
    let late = modules::load(report)?;
    let mut coldplug = Coldplug::begin(report);
    report.find_channel();
    let health = machine.health;
    let mut watchdog = Watchdog::arm(health.watchdog_seconds, report.slowdown(), report);
    let past = mark::begin(watchdog.has_reset(), health.boots, report);
    kernel::seed(&report.machine_digest);
    kernel::settings(&machine.sysctl, report);

    report.phase(Phase::Disk);
    let disk = match carried::find(&machine.layers, report)? {
        Some(memory) => memory,
        None => disk::find(&machine.layers, &mut coldplug, report)?,
    };
    report.phase(Phase::Verity);
    watchdog.feed();
    let devices = verity::map(&machine.layers, &disk.partitions)?;
    report.phase(Phase::Stack);
    let root = stack::mount(&machine.layers, &devices, report)?;
    report.phase(Phase::Switch);
    watchdog.feed();
    switch::root(&root)?;
    watchdog.feed();
    state::bring_up(&machine, &disk.name, &mut coldplug, report)?;
    mounts::scratch(&machine.scratch, report);
    run_files::write(&machine.name, report);
    run_files::write_past(&past);
    switch::try_to_write(report);
    watchdog.feed();
    Ok(Booted {
        machine,
        watchdog,
        past,
        late,
        coldplug,
    })
}

fn start(kmsg: &mut Kmsg, report: &mut Reporter) -> Result<Machine, BootError> {
    mounts::kernel_file_systems()?;
    report.open_console();
    kmsg.open();
    report.phase(Phase::Start);
    let what = || format!("read {MACHINE_PATH} of the initrd");
    let bytes = machine::read(Path::new(MACHINE_PATH))
        .map_err(|error| BootError::new(Phase::Start, what(), error))?;
    let machine =
        machine::parse(&bytes).map_err(|error| BootError::new(Phase::Start, what(), error))?;
    power::set_panic_seconds(machine.panic_seconds);
    report.machine_digest = machine::digest(&bytes);
    if report.identify(&machine) {
        kmsg.ship(report.spool(), report);
    }
    report.event(Event::Boot {
        name: machine.name.clone(),
        version: machine.version.clone(),
        machine: report.machine_digest.clone(),
        debug: machine.debug,
    });
    kernel::panic_policy(report);
    kernel::clock_floor(machine.clock_floor, report);
    Ok(machine)
}
