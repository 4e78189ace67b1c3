//! What can be wrong with a machine, and which check it fails.

use slipform_init::contract::event::Phase;

use crate::console::Kind;

/// The checks that every image gets, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BuiltIn {
    Ready,
    Kernel,
    Storage,
    ReadOnly,
    Layers,
    Services,
    Init,
    Report,
    PowerOff,
    Artifact,
}

impl BuiltIn {
    /// All, in order.
    pub(crate) const ALL: [Self; 10] = [
        Self::Ready,
        Self::Kernel,
        Self::Storage,
        Self::ReadOnly,
        Self::Layers,
        Self::Services,
        Self::Init,
        Self::Report,
        Self::PowerOff,
        Self::Artifact,
    ];

    /// The sentence that the verdict shows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ready => "reached ready",
            Self::Kernel => "no kernel panic, oops or BUG",
            Self::Storage => "no verity or I/O error",
            Self::ReadOnly => "root is read-only",
            Self::Layers => "every layer is verified",
            Self::Services => "services are healthy",
            Self::Init => "init reports no error",
            Self::Report => "init's report is readable",
            Self::PowerOff => "clean power-off",
            Self::Artifact => "artifact is unchanged",
        }
    }
}

/// What a problem comes from; decides the advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A line of the console.
    Console(Kind),
    /// QEMU's GUEST_PANICKED.
    Pvpanic,
    /// Init's own error.
    Init(Phase),
    /// A service failed.
    Service(String),
    /// A service was not ready in time.
    ServiceSlow(String),
    /// A layer has another root hash, or stands elsewhere in the stack.
    Layer,
    /// A write to the root went through.
    Writable,
    /// The guest ended by itself.
    Ended,
    /// The emulator ended by itself.
    Emulator,
    /// The report is endless or garbage.
    Report,
    /// Time ran out; where, says the phase.
    Late,
    /// Silence from the beginning.
    Silent,
    /// A user's check.
    Check,
    /// The power-off.
    PowerOff,
    /// The artifact.
    Artifact,
    /// Something that had to be checked was not.
    Unchecked,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The check that fails by it.
    pub(crate) check: BuiltIn,
    /// Where it comes from.
    pub(crate) cause: Cause,
    /// As the report names it.
    pub(crate) phase: String,
    /// Line, event or answer.
    pub(crate) line: String,
    /// The machine will do nothing useful any more.
    pub(crate) deadly: bool,
    /// Only named as the failure's reason if there is nothing weightier.
    pub(crate) minor: bool,
}
