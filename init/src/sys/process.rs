//! Processes of services: what a program needs is made ready before the fork
//! ([`Program`]), the child goes its way ([`super::child`]), and PID 1 sends signals to
//! what it started.
//!
//! What fails in the child travels as [`Failure`] through a close-on-exec pipe, so that
//! the end of that pipe without a byte says that the exec went well.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;

use slipform_init::contract::machine::Service;
use slipform_init::contract::service::MAX_SOCKETS;
use thiserror::Error;

pub(crate) use super::child::Failure;
use super::child::{Plan, descend};
use super::seccomp::{self, Architecture};

/// Where a service's standard input comes from.
const DEV_NULL: &str = "/dev/null";
/// The standard streams of a service that has the console.
const DEV_CONSOLE: &str = "/dev/console";
/// Longest process id in decimal digits.
pub(super) const DIGITS: usize = 10;
/// First descriptor that no passed socket comes to lie on.
const ABOVE_SOCKETS: RawFd = 3 + MAX_SOCKETS as RawFd;
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
    pub(super) place: Place,
    /// Empty: there is no filter.
    pub(super) filter: Vec<libc::sock_filter>,
    /// The console is its terminal.
    pub(super) console: bool,
    /// Variables that take the process's own id.
    own_ids: Vec<&'static str>,
}

/// The service's view of the file system.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) private_tmp: bool,
    pub(super) read_only: bool,
    pub(super) writable: Vec<CString>,
}

impl Place {
    /// Whether it differs from everybody's.
    pub(super) fn is_own(&self) -> bool {
        self.private_tmp || self.read_only
    }
}

/// What a program gets beyond what its service says.
#[derive(Debug, Default)]
pub(crate) struct Extra<'a> {
    /// Program and arguments instead of the service's.
    pub(crate) argv: Option<&'a [String]>,
    /// Weaker than the service's own environment.
    pub(crate) defaults: Vec<(String, String)>,
    /// Stronger than it.
    pub(crate) env: Vec<(String, String)>,
    /// Variables that take the process's own id, such as `LISTEN_PID`.
    pub(crate) own_ids: Vec<&'static str>,
}

impl Program {
    /// Checks and converts what `service` asks for, with what comes on top of it.
    ///
    /// # Errors
    /// [`SpawnError::Invalid`] for a NUL byte, a program that is not absolute, or a
    /// capability number above 63.
    pub(crate) fn new(service: &Service, extra: &Extra<'_>) -> Result<Program, SpawnError> {
        let invalid = |what: String, rule| SpawnError::Invalid { what, rule };
        let argv = extra.argv.unwrap_or(&service.exec);
        match argv.first() {
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
        let capabilities = capability_set(&service.capabilities)?;
        let mut env: BTreeMap<&String, &String> = BTreeMap::new();
        env.extend(extra.defaults.iter().map(borrowed));
        env.extend(service.env.iter());
        env.extend(extra.env.iter().map(borrowed));
        let env: Result<Vec<_>, _> = env
            .into_iter()
            .map(|(name, value)| text("environment", &format!("{name}={value}")))
            .collect();
        let argv: Result<Vec<_>, _> = argv
            .iter()
            .map(|argument| text("argument", argument))
            .collect();
        let sandbox = &service.sandbox;
        let writable: Result<Vec<_>, _> = sandbox
            .writable
            .iter()
            .map(|path| text("writable", path))
            .collect();
        let filter = Architecture::native()
            .filter(|_| !sandbox.unfiltered)
            .map(|architecture| seccomp::filter(architecture, capabilities));
        Ok(Program {
            argv: argv?,
            env: env?,
            place: Place {
                private_tmp: sandbox.private_tmp,
                read_only: sandbox.read_only,
                writable: writable?,
            },
            filter: filter.unwrap_or_default(),
            console: service.console,
            own_ids: extra.own_ids.clone(),
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

fn borrowed((name, value): &(String, String)) -> (&String, &String) {
    (name, value)
}

fn capability_set(numbers: &[u8]) -> Result<u64, SpawnError> {
    numbers.iter().try_fold(0_u64, |set, &number| {
        if number > CAPABILITIES {
            return Err(SpawnError::Invalid {
                what: format!("capability {number}"),
                rule: "numbers go from 0 to 63",
            });
        }
        Ok(set | 1 << number)
    })
}

/// What a process gets from PID 1 beside its program.
#[derive(Debug, Default)]
pub(crate) struct Handed<'a> {
    /// An open `cgroup.procs`.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Become descriptors 3, 4, …; at most [`slipform_init::contract::service::MAX_SOCKETS`].
    pub(crate) sockets: Vec<BorrowedFd<'a>>,
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

/// Starts `program` in a session of its own.
///
/// Returns as soon as the child is there; whether the exec goes well, [`Child::outcome`] tells.
///
/// # Errors
/// [`SpawnError::System`] when PID 1 itself runs out of something.
pub(crate) fn spawn(program: &Program, handed: &Handed<'_>) -> Result<Child, SpawnError> {
    let stdin = above_stdio(
        File::open(DEV_NULL)
            .map_err(system("open /dev/null"))?
            .into(),
    )?;
    // With a console nothing comes through the pipes: they end when these are dropped.
    let (stdout, child_stdout) = pipe(program.identity.as_ref())?;
    let (stderr, child_stderr) = pipe(program.identity.as_ref())?;
    let terminal = program.console.then(console).transpose()?;
    let (outcome, child_outcome) = pipe(None)?;
    // The sockets come to lie on 3 and above: nothing that is still needed may be there.
    let owned: Vec<OwnedFd> = handed
        .sockets
        .iter()
        .map(|socket| duplicate(socket.as_raw_fd(), ABOVE_SOCKETS))
        .collect::<Result<_, _>>()?;
    let child_outcome = duplicate(child_outcome.as_raw_fd(), ABOVE_SOCKETS)?;
    let sockets: Vec<RawFd> = owned.iter().map(AsRawFd::as_raw_fd).collect();

    let mut argv: Vec<_> = program.argv.iter().map(|text| text.as_ptr()).collect();
    argv.push(ptr::null());
    let mut env: Vec<_> = program.env.iter().map(|text| text.as_ptr()).collect();
    let mut own_ids: Vec<OwnId> = program
        .own_ids
        .iter()
        .map(|name| OwnId::new(name))
        .collect();
    env.extend(own_ids.iter().map(OwnId::text));
    env.push(ptr::null());
    let own_ids: Vec<_> = own_ids.iter_mut().map(OwnId::digits).collect();
    let plan = Plan {
        program,
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        stdio: match &terminal {
            Some(terminal) => [terminal.as_raw_fd(); 3],
            None => [&stdin, &child_stdout, &child_stderr].map(AsRawFd::as_raw_fd),
        },
        cgroup: handed.cgroup.map(|fd| fd.as_raw_fd()),
        sockets: &sockets,
        own_ids: &own_ids,
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

/// The console, for reading and writing; it becomes nobody's terminal by being opened.
fn console() -> Result<OwnedFd, SpawnError> {
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(DEV_CONSOLE);
    above_stdio(opened.map_err(system("open /dev/console"))?.into())
}

/// `NAME=` and room for a number that only the child knows.
struct OwnId {
    text: Vec<u8>,
    start: usize,
}

impl OwnId {
    fn new(name: &str) -> OwnId {
        let mut text = format!("{name}=").into_bytes();
        let start = text.len();
        text.resize(start + DIGITS + 1, 0);
        OwnId { text, start }
    }

    fn text(&self) -> *const libc::c_char {
        self.text.as_ptr().cast()
    }

    fn digits(&mut self) -> *mut u8 {
        self.text[self.start..].as_mut_ptr()
    }
}

fn duplicate(fd: RawFd, least: RawFd) -> Result<OwnedFd, SpawnError> {
    // SAFETY: plain call on a descriptor that the caller holds.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) };
    if copy < 0 {
        return Err(system("fcntl F_DUPFD_CLOEXEC")(io::Error::last_os_error()));
    }
    // SAFETY: fcntl has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
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
    duplicate(fd.as_raw_fd(), 3)
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

/// A process that was started here, whatever becomes of its number (pidfd_open(2)).
#[derive(Debug)]
pub(crate) struct Handle(OwnedFd);

impl Handle {
    /// Of a child that was not reaped yet.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        // SAFETY: plain call; the descriptor is close-on-exec.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: pidfd_open has just made it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// SIGKILL; nothing if it has ended.
    pub(crate) fn kill(&self) {
        let (fd, info) = (self.0.as_raw_fd(), ptr::null::<libc::siginfo_t>());
        // SAFETY: plain call on an owned descriptor; no siginfo is given.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, info, 0) };
    }
}

/// A descriptor that the parent handed over. Each may be taken once.
#[cfg(feature = "tls")]
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: plain call; a number without a descriptor is an error.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return None;
    }
    // SAFETY: it is open, and nothing in this process owns it: exec brought it along.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whoever has the same user id can look into a process that may dump core; not into this one.
#[cfg(feature = "tls")]
pub(crate) fn shun_debuggers() {
    // SAFETY: plain call.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// From now on a polite SIGTERM is passed over: who asks everybody to end gives this process
/// time for its last words, and ends it by SIGKILL if it takes too long.
#[cfg(feature = "tls")]
pub(crate) fn pass_over_term() {
    // SAFETY: no handler is set, the signal is ignored.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
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
