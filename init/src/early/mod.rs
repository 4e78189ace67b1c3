//! From the kernel's hand-over to the new root, one phase after the other:
//!
//! ```text
//! start -> modules -> disk -> verity -> stack -> switch
//! ```
//!
//! Everything here happens once, in order, and may fail; a failure is a
//! [`BootError`] and ends the boot.

pub(crate) mod disk;
mod gpt;
mod kernel;
pub(crate) mod machine;
mod modules;
mod mounts;
mod run_files;
mod stack;
mod switch;
mod verity;

use std::path::Path;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::{MACHINE_PATH, Machine};

use crate::error::BootError;
use crate::power;
use crate::report::Reporter;
use crate::report::kmsg::Kmsg;
use crate::turn::Report;

/// Takes the machine to its own root and says what it is.
pub(crate) fn boot(kmsg: &mut Kmsg, report: &mut Reporter) -> Result<Machine, BootError> {
    let machine = start(kmsg, report)?;
    report.phase(Phase::Modules);
    modules::load(report)?;
    report.find_channel();
    kernel::seed(&report.machine_digest);
    kernel::settings(&machine.sysctl, report);

    report.phase(Phase::Disk);
    let partitions = disk::find(&machine.layers, report)?;
    report.phase(Phase::Verity);
    let devices = verity::map(&machine.layers, &partitions)?;
    report.phase(Phase::Stack);
    let root = stack::mount(&machine.layers, &devices, report)?;
    report.phase(Phase::Switch);
    switch::root(&root)?;
    mounts::scratch(&machine.scratch, report);
    run_files::write(&machine.name, report);
    switch::try_to_write(report);
    Ok(machine)
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
    });
    kernel::panic_policy(report);
    kernel::clock_floor(machine.clock_floor, report);
    Ok(machine)
}
