//! QEMU's process: a process group of its own, killed when dropped, and killed by
//! a guard when the harness itself is killed.
//!
//! The guard is a shell that waits on a pipe. If the harness ends in any way, the
//! pipe closes and the guard kills the group and removes the run's folders; in the
//! normal course it is told first that nothing is left to do. (PR_SET_PDEATHSIG
//! would need code between fork and exec, which Rust calls unsafe.)

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::HarnessError;

/// `$1` is the process group, the rest are folders to remove. (dash's `kill` takes no `--`.)
const GUARD: &str = r#"IFS= read -r done_ && exit 0
kill -KILL "-$1" 2>/dev/null
shift
rm -rf -- "$@"
"#;

/// What to start.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// Program and arguments.
    pub(crate) argv: &'a [OsString],
    /// Added to the harness's own environment.
    pub(crate) environment: &'a [(OsString, OsString)],
    /// Takes standard output and error.
    pub(crate) stderr: &'a Path,
    /// Removed by the guard if the harness is killed.
    pub(crate) remove: &'a [&'a Path],
}

/// A running, or ended, QEMU.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    status: Option<ExitStatus>,
    guard: Option<Child>,
}

impl Process {
    /// Starts it.
    pub(crate) fn spawn(start: &Start<'_>) -> Result<Self, HarnessError> {
        let remedy = "check that the evidence folder can be written and the disk is not full";
        let stderr =
            File::create(start.stderr).map_err(HarnessError::io("create", start.stderr, remedy))?;
        let stdout = stderr
            .try_clone()
            .map_err(HarnessError::io("open", start.stderr, remedy))?;
        let (program, arguments) = start.argv.split_first().ok_or_else(|| HarnessError::Plan {
            what: "emulator.command".into(),
            value: "empty".into(),
            rule: "it must name a program".into(),
            remedy: "use the locked emulator or `--qemu host`".into(),
        })?;
        let child = Command::new(program)
            .args(arguments)
            .envs(start.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .map_err(|source| HarnessError::Spawn {
                program: program.to_string_lossy().into_owned(),
                source,
            })?;
        let guard = guard(child.id(), start.remove);
        Ok(Self {
            child,
            status: None,
            guard,
        })
    }

    /// Its status for people, if it has ended.
    pub(crate) fn exited(&mut self) -> Option<String> {
        if self.status.is_none() {
            // An error means that it was reaped by somebody else: it is gone.
            self.status = self
                .child
                .try_wait()
                .unwrap_or_else(|_| Some(ExitStatus::from_raw(0)));
        }
        self.status
            .map(|status| match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "an unknown status".to_owned(),
            })
    }

    /// Kills the group and reaps. Does nothing the second time.
    pub(crate) fn kill(&mut self) {
        if self.status.is_none()
            && let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It may have ended by itself in this moment.
            let _ = kill_process_group(group, Signal::KILL);
            self.status = self
                .child
                .wait()
                .ok()
                .or_else(|| Some(ExitStatus::from_raw(0)));
        }
        if let Some(mut guard) = self.guard.take() {
            if let Some(mut pipe) = guard.stdin.take() {
                drop(pipe.write_all(b"done\n"));
            }
            drop(guard.wait());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the guard; a host without a shell goes without.
fn guard(group: u32, remove: &[&Path]) -> Option<Child> {
    Command::new("/bin/sh")
        .arg("-c")
        .arg(GUARD)
        .arg("slipform-guard")
        .arg(group.to_string())
        .args(remove)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()
}
