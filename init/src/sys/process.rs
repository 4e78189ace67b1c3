//! Processes of services: what a program needs is made ready before the fork
//! ([`Program`]), the child goes its way ([`super::child`]), and PID 1 sends signals to
//! what it started.
//!
//! What fails in the child travels as [`Failure`] through a close-on-exec pipe, so that
//! the end of that pipe without a byte says that the exec went well.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use slipform_init::contract::machine::Service;
use thiserror::Error;

pub(crate) use super::child::Failure;
use super::child::{Plan, descend};

/// Where a service's standard input comes from.
const DEV_NULL: &str = "/dev/null";
/// Highest capability number that a 64 bit set can hold.
pub(super) const CAPABILITIES: u8 = 63;

/// Why a service could not be started.
#[derive(Debug, Error)]
pub(crate) enum SpawnError {
    /// machine.json asks for something that cannot be.
    #[error("{what}: {rule}; correct the service in slipform.toml")]
    Invalid {
        /// The setting and its value.
        what: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A system call of PID 1 failed before there was a child.
    #[error("{step}: {}", error_text(*errno))]
    System {
        /// The call and its object.
        step: &'static str,
        /// What came back.
        errno: i32,
    },
}

/// Text of an errno without Rust's "(os error n)".
pub(crate) fn error_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn system(step: &'static str) -> impl FnOnce(io::Error) -> SpawnError {
    move |error| SpawnError::System {
        step,
        errno: error.raw_os_error().unwrap_or(0),
    }
}

/// User, groups and capabilities of a service.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// One bit per capability.
    pub(super) capabilities: u64,
}

impl Identity {
    /// Root that asks for no capability in particular is root in full; whoever names
    /// capabilities, or is another user, has those and no other.
    pub(super) fn trims(&self) -> bool {
        self.uid != 0 || self.capabilities != 0
    }
}

/// A service's program, ready for any number of forks.
#[derive(Debug)]
pub(crate) struct Program {
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) workdir: CString,
    pub(super) limits: Vec<(u32, u64)>,
    pub(super) identity: Option<Identity>,
}

impl Program {
    /// More environment; what is there goes before.
    ///
    /// # Errors
    /// [`SpawnError::Invalid`] for a NUL byte.
    pub(crate) fn add_environment(&mut self, env: Vec<(String, String)>) -> Result<(), SpawnError> {
        for (name, value) in env {
            let begin = format!("{name}=");
            let has = |own: &CString| own.as_bytes().starts_with(begin.as_bytes());
            if self.env.iter().any(has) {
                continue;
            }
            let entry = CString::new(begin + &value).map_err(|_| SpawnError::Invalid {
                what: format!("environment {name:?}"),
                rule: "must not contain a NUL byte",
            })?;
            self.env.push(entry);
        }
        Ok(())
    }

    /// Checks and converts what `service` asks for; `env` comes on top of its environment.
    ///
    /// # Errors
    /// [`SpawnError::Invalid`] for a NUL byte, a program that is not absolute, or a
    /// capability number above 63.
    pub(crate) fn new(service: &Service, env: &[(&str, &str)]) -> Result<Program, SpawnError> {
        let invalid = |what: String, rule| SpawnError::Invalid { what, rule };
        match service.exec.first() {
            Some(program) if program.starts_with('/') => {}
            Some(program) => {
                return Err(invalid(
                    format!("exec = {program:?}"),
                    "the program must be an absolute path",
                ));
            }
            None => return Err(invalid("exec = []".into(), "must name a program")),
        }
        let text = |what: &str, text: &str| {
            CString::new(text)
                .map_err(|_| invalid(format!("{what} {text:?}"), "must not contain a NUL byte"))
        };
        let mut capabilities = 0_u64;
        for &number in &service.capabilities {
            if number > CAPABILITIES {
                return Err(invalid(
                    format!("capability {number}"),
                    "numbers go from 0 to 63",
                ));
            }
            capabilities |= 1 << number;
        }
        let own = service
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let own = own.filter(|(name, _)| !env.iter().any(|(over, _)| over == name));
        let env: Result<Vec<_>, _> = own
            .chain(env.iter().copied())
            .map(|(name, value)| text("environment", &format!("{name}={value}")))
            .collect();
        let argv: Result<Vec<_>, _> = service
            .exec
            .iter()
            .map(|argument| text("argument", argument))
            .collect();
        Ok(Program {
            argv: argv?,
            env: env?,
            workdir: text("workdir", &service.workdir)?,
            limits: service
                .limits
                .iter()
                .map(|(&resource, &value)| (resource, value))
                .collect(),
            identity: Some(Identity {
                uid: service.uid,
                gid: service.gid,
                groups: service.groups.clone(),
                capabilities,
            }),
        })
    }

    /// For tests on a host where the caller is nobody in particular: runs as the caller.
    #[cfg(test)]
    pub(crate) fn keep_identity(&mut self) {
        self.identity = None;
    }
}

/// A process that was just forked, seen from PID 1. All descriptors are non-blocking.
#[derive(Debug)]
pub(crate) struct Child {
    /// Process, session and process group id.
    pub(crate) pid: i32,
    /// Read end of its standard output.
    pub(crate) stdout: File,
    /// Read end of its standard error.
    pub(crate) stderr: File,
    /// [`Failure::decode`] reads it: end of file without a byte is success.
    pub(crate) outcome: File,
}

/// Starts `program` in a session of its own; `cgroup` is an open `cgroup.procs`.
///
/// Returns as soon as the child is there; whether the exec goes well, [`Child::outcome`] tells.
///
/// # Errors
/// [`SpawnError::System`] when PID 1 itself runs out of something.
pub(crate) fn spawn(
    program: &Program,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Child, SpawnError> {
    let stdin = above_stdio(
        File::open(DEV_NULL)
            .map_err(system("open /dev/null"))?
            .into(),
    )?;
    let (stdout, child_stdout) = pipe(program.identity.as_ref())?;
    let (stderr, child_stderr) = pipe(program.identity.as_ref())?;
    let (outcome, child_outcome) = pipe(None)?;

    let mut argv: Vec<_> = program.argv.iter().map(|text| text.as_ptr()).collect();
    argv.push(ptr::null());
    let mut env: Vec<_> = program.env.iter().map(|text| text.as_ptr()).collect();
    env.push(ptr::null());
    let plan = Plan {
        program,
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        stdio: [
            stdin.as_raw_fd(),
            child_stdout.as_raw_fd(),
            child_stderr.as_raw_fd(),
        ],
        cgroup: cgroup.map(|fd| fd.as_raw_fd()),
    };

    // No handler of PID 1 may run in the child: signals wait until it has reset them.
    let mask = block_signals();
    // SAFETY: the child only makes system calls on memory prepared above and ends in exec or _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let failure = descend(&plan);
        let record = failure.encode();
        // SAFETY: the record is a live buffer of that length; _exit runs no handlers of the parent.
        unsafe {
            libc::write(
                child_outcome.as_raw_fd(),
                record.as_ptr().cast(),
                record.len(),
            );
            libc::_exit(127);
        }
    }
    let error = io::Error::last_os_error();
    restore_signals(&mask);
    if pid < 0 {
        return Err(system("fork")(error));
    }
    Ok(Child {
        pid,
        stdout,
        stderr,
        outcome,
    })
}

/// A pipe: non-blocking read end, and a write end that `owner` owns, so that
/// it may open /dev/stdout again.
fn pipe(owner: Option<&Identity>) -> Result<(File, OwnedFd), SpawnError> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(system("pipe2")(io::Error::last_os_error()));
    }
    // SAFETY: pipe2 has just made them, nobody else owns them.
    let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    let (read, write) = (above_stdio(read)?, above_stdio(write)?);
    // SAFETY: plain call on an owned descriptor; the write end has status flags of its own and stays blocking.
    if unsafe { libc::fcntl(read.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
        return Err(system("fcntl O_NONBLOCK")(io::Error::last_os_error()));
    }
    if let Some(owner) = owner {
        // SAFETY: plain call on an owned descriptor.
        if unsafe { libc::fchown(write.as_raw_fd(), owner.uid, owner.gid) } != 0 {
            return Err(system("fchown of an output pipe")(
                io::Error::last_os_error(),
            ));
        }
    }
    Ok((read.into(), write))
}

/// Moves a descriptor out of 0..=2, which the child's dup2 would overwrite.
fn above_stdio(fd: OwnedFd) -> Result<OwnedFd, SpawnError> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: plain call on an owned descriptor.
    let moved = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if moved < 0 {
        return Err(system("fcntl F_DUPFD_CLOEXEC")(io::Error::last_os_error()));
    }
    // SAFETY: fcntl has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are plain memory that the calls fill in.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut saved = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut saved);
        saved
    }
}

fn restore_signals(saved: &libc::sigset_t) {
    // SAFETY: `saved` is a set that the kernel filled in.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, saved, ptr::null_mut()) };
}

/// Sends `signal` to the process group that `pid` leads; to `pid` alone if it has none yet.
///
/// # Errors
/// What kill(2) says; ESRCH when nobody is left.
pub(crate) fn signal_group(pid: i32, signal: libc::c_int) -> io::Result<()> {
    // kill(-1) and kill(0) mean "everybody": never from here.
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: plain calls on a pid above 1.
    let result = unsafe {
        match libc::kill(-pid, signal) {
            0 => 0,
            _ => libc::kill(pid, signal),
        }
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Kills what is left of the process group of a leader that was just reaped.
pub(crate) fn kill_rest_of_group(pid: i32) {
    if pid > 1 {
        // SAFETY: plain call on a group id above 1; ESRCH (nobody left) is the usual answer.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

/// Session id of a process; `None` if there is no such process.
pub(crate) fn session_of(pid: i32) -> Option<i32> {
    // SAFETY: plain call.
    let session = unsafe { libc::getsid(pid) };
    (session > 0).then_some(session)
}

/// Effective user id of this process.
#[cfg(test)]
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: plain call, cannot fail.
    unsafe { libc::geteuid() }
}

/// For tests, which have no loop around them.
#[cfg(test)]
pub(crate) mod testing {
    use std::time::Duration;

    /// waitpid(2) without waiting: the status if `pid` has ended.
    pub(crate) fn ended(pid: i32) -> Option<i32> {
        let mut status = 0;
        // SAFETY: the status is written into a live integer.
        (unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == pid).then_some(status)
    }

    /// poll(2).
    pub(crate) fn poll(fds: &mut [libc::pollfd], limit: Duration) {
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: pointer and length of one live slice.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_never_signalled() {
        for pid in [1, 0, -1, i32::MIN] {
            assert!(signal_group(pid, libc::SIGTERM).is_err());
        }
    }
}
