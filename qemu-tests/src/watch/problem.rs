//! What can be wrong with a machine, and which check it fails.

use slipform_init::contract::event::Phase;

use crate::console::Kind;

/// The checks that every image gets, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BuiltIn {
    Ready,
    Panic,
    Oops,
    Bug,
    Warning,
    OutOfMemory,
    Segfault,
    HungTask,
    Verity,
    Io,
    ReadOnly,
    Layers,
    CrashLoop,
    Services,
    Init,
    Report,
    PowerOff,
    Artifact,
}

impl BuiltIn {
    /// All, in order.
    pub(crate) const ALL: [Self; 18] = [
        Self::Ready,
        Self::Panic,
        Self::Oops,
        Self::Bug,
        Self::Warning,
        Self::OutOfMemory,
        Self::Segfault,
        Self::HungTask,
        Self::Verity,
        Self::Io,
        Self::ReadOnly,
        Self::Layers,
        Self::CrashLoop,
        Self::Services,
        Self::Init,
        Self::Report,
        Self::PowerOff,
        Self::Artifact,
    ];

    /// Those that an image may be allowed to fail for a time: the machine goes on,
    /// and what it runs is what was cast.
    pub(crate) const ALLOWABLE: [Self; 6] = [
        Self::Warning,
        Self::OutOfMemory,
        Self::Segfault,
        Self::HungTask,
        Self::CrashLoop,
        Self::PowerOff,
    ];

    /// The sentence that the verdict shows.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ready => "reached ready",
            Self::Panic => "no kernel panic",
            Self::Oops => "no oops",
            Self::Bug => "no kernel BUG",
            Self::Warning => "no kernel WARNING",
            Self::OutOfMemory => "no out of memory",
            Self::Segfault => "no segfault",
            Self::HungTask => "no hung task",
            Self::Verity => "no verity error",
            Self::Io => "no I/O error",
            Self::ReadOnly => "root is read-only",
            Self::Layers => "every layer is verified",
            Self::CrashLoop => "no service crash loop",
            Self::Services => "services are healthy",
            Self::Init => "init reports no error",
            Self::Report => "init's report is readable",
            Self::PowerOff => "clean power-off",
            Self::Artifact => "artifact is unchanged",
        }
    }

    /// By what the kernel says of itself: silence would hide it.
    pub(crate) fn is_of_kernel(self) -> bool {
        (Self::Panic..=Self::Io).contains(&self)
    }
}

/// Names of the checks that every image gets, in the order of the report.
pub fn built_in_checks() -> impl Iterator<Item = &'static str> {
    BuiltIn::ALL.into_iter().map(BuiltIn::name)
}

/// Names of those that an image may be allowed to fail for a time.
pub fn allowable_checks() -> impl Iterator<Item = &'static str> {
    BuiltIn::ALLOWABLE.into_iter().map(BuiltIn::name)
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
    /// An allowance that is over.
    Expired,
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
