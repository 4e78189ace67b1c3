//! What can end a boot.

use std::io;

use slipform_init::contract::event::Phase;

use crate::early::disk::DiskError;
use crate::early::machine::MachineError;
use crate::state::StateError;

/// A boot step that failed: where, what was tried on what, and what came back.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}: {source}", phase.name())]
pub(crate) struct BootError {
    /// Where the boot stood.
    pub(crate) phase: Phase,
    /// Operation and object.
    pub(crate) what: String,
    /// What came back.
    pub(crate) source: Cause,
}

impl BootError {
    /// For `map_err`: a failed operation of this phase.
    pub(crate) fn new(phase: Phase, what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self {
            phase,
            what: what.into(),
            source: source.into(),
        }
    }
}

/// What came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// From the kernel.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// machine.json breaks a rule.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// No disk holds the layers.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no state.
    #[error(transparent)]
    State(#[from] StateError),
}
