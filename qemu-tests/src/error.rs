//! The room's error: what kept the harness itself from giving a verdict. A
//! guest that misbehaves is no error, it is a red [`crate::BootReport`].

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why no verdict could be given.
#[derive(Debug, Error)]
pub enum HarnessError {
    /// The plan contradicts itself or names what is not there.
    #[error("boot plan: {what} is {value}, but {rule}; {remedy}")]
    Plan {
        /// The field.
        what: String,
        /// Its value.
        value: String,
        /// What must hold.
        rule: String,
        /// What to do.
        remedy: String,
    },
    /// A file, folder or socket of the harness could not be used.
    #[error("cannot {operation} {path}: {source}; {remedy}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A run did not say what it was asked.
    #[error("the machine of {run} did not answer: {why}; look at its console")]
    Unanswered {
        /// Which.
        run: String,
        /// What came instead.
        why: String,
    },
    /// The emulator's program could not be started at all.
    #[error(
        "cannot start the emulator {program}: {source}; check that it exists and is executable, or use `--qemu host`"
    )]
    Spawn {
        /// First word of its command.
        program: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The emulator ended, or stayed silent, before the machine was set up.
    #[error(
        "the emulator {program} did not set up the machine ({how}): {stderr}; its command line is {evidence}/qemu.cmdline"
    )]
    EmulatorStart {
        /// Version text or program.
        program: String,
        /// Exit status, or which connection did not come.
        how: String,
        /// Last lines of its standard error.
        stderr: String,
        /// Where evidence lies.
        evidence: PathBuf,
    },
    /// The monitor refused a command or did not answer.
    #[error("QEMU's monitor: `{command}` failed: {why}; see qemu.stderr in the evidence folder")]
    Monitor {
        /// Command.
        command: String,
        /// What came back.
        why: String,
    },
    /// KVM was demanded and does not work here.
    #[error(
        "accelerator `kvm` was asked for but cannot be used: {reason}; use SLIPFORM_ACCEL=auto or tcg"
    )]
    KvmUnusable {
        /// What the probe saw.
        reason: String,
    },
    /// The terminal could not be switched.
    #[error(
        "cannot {operation} the terminal: {source}; run with standard input redirected (`< /dev/null`) to only watch the console"
    )]
    Terminal {
        /// What was tried.
        operation: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

impl HarnessError {
    /// An [`HarnessError::Io`] builder for `map_err`.
    pub(crate) fn io<'a>(
        operation: &'static str,
        path: &'a Path,
        remedy: &'static str,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            operation,
            path: path.to_owned(),
            source,
            remedy,
        }
    }
}
