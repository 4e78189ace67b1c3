//! Processes of services: fork, the way from PID 1's rights down to those of the
//! service, exec, and signals to what it started.
//!
//! The child allocates nothing and calls nothing but system calls: everything it
//! needs lies ready in [`Program`] before the fork. Its steps stand in an order
//! that matters (see [`descend`]); the first one that fails travels as [`Failure`]
//! through a close-on-exec pipe, so that the end of that pipe without a byte says
//! that the exec went well.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use slipform_init::contract::machine::Service;
use thiserror::Error;

/// Where a service's standard input comes from.
const DEV_NULL: &str = "/dev/null";
/// Signal numbers that Linux has: 1..=64.
const SIGNALS: libc::c_int = 64;
/// Highest capability number that a 64 bit set can hold.
const CAPABILITIES: u8 = 63;
/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Bytes of an encoded [`Failure`]; below PIPE_BUF, so one write is one read.
const FAILURE_SIZE: usize = 8;

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
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// One bit per capability.
    capabilities: u64,
}

impl Identity {
    /// Root that asks for no capability in particular is root in full; whoever names
    /// capabilities, or is another user, has those and no other.
    fn trims(&self) -> bool {
        self.uid != 0 || self.capabilities != 0
    }
}

/// A service's program, ready for any number of forks.
#[derive(Debug)]
pub(crate) struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
    workdir: CString,
    limits: Vec<(u32, u64)>,
    identity: Option<Identity>,
}

impl Program {
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

/// A step on the way from fork to exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Setsid,
    Cgroup,
    Stdio,
    Descriptors,
    Limit,
    KeepCapabilities,
    Bounding,
    Groups,
    Gid,
    Uid,
    Capset,
    Ambient,
    NoNewPrivileges,
    Workdir,
    Exec,
}

const STEPS: [Step; 15] = [
    Step::Setsid,
    Step::Cgroup,
    Step::Stdio,
    Step::Descriptors,
    Step::Limit,
    Step::KeepCapabilities,
    Step::Bounding,
    Step::Groups,
    Step::Gid,
    Step::Uid,
    Step::Capset,
    Step::Ambient,
    Step::NoNewPrivileges,
    Step::Workdir,
    Step::Exec,
];

/// The step between fork and exec that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    step: Step,
    /// Resource or capability number, where the step is about one.
    object: u8,
    errno: i32,
}

impl Failure {
    fn encode(self) -> [u8; FAILURE_SIZE] {
        let [a, b, c, d] = self.errno.to_le_bytes();
        [self.step as u8, self.object, 0, 0, a, b, c, d]
    }

    /// Reads what came through [`Child::outcome`]; `None` if it is not a whole record.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Failure> {
        let &[step, object, _, _, a, b, c, d] = bytes else {
            return None;
        };
        let step = *STEPS.get(usize::from(step))?;
        Some(Failure {
            step,
            object,
            errno: i32::from_le_bytes([a, b, c, d]),
        })
    }

    /// The reason in words: `exec /usr/bin/x: No such file or directory`.
    pub(crate) fn describe(self, program: &Program) -> String {
        let path = program
            .argv
            .first()
            .map(|path| path.to_string_lossy())
            .unwrap_or_default();
        let why = error_text(self.errno);
        let identity = program.identity.as_ref();
        match self.step {
            Step::Setsid => format!("setsid: {why}"),
            Step::Cgroup => format!("join the service's cgroup: {why}"),
            Step::Stdio => format!("dup2 of the standard streams: {why}"),
            Step::Descriptors => format!("close_range: {why}"),
            Step::Limit => format!("setrlimit of resource {}: {why}", self.object),
            Step::KeepCapabilities => format!("prctl PR_SET_KEEPCAPS: {why}"),
            Step::Bounding => format!(
                "drop capability {} from the bounding set: {why}",
                self.object
            ),
            Step::Groups => format!(
                "setgroups {:?}: {why}",
                identity.map_or(&[][..], |i| &i.groups)
            ),
            Step::Gid => format!("setresgid {}: {why}", identity.map_or(0, |i| i.gid)),
            Step::Uid => format!("setresuid {}: {why}", identity.map_or(0, |i| i.uid)),
            Step::Capset => format!("capset: {why}"),
            Step::Ambient => format!("raise ambient capability {}: {why}", self.object),
            Step::NoNewPrivileges => format!("prctl PR_SET_NO_NEW_PRIVS: {why}"),
            Step::Workdir => format!("chdir {}: {why}", program.workdir.to_string_lossy()),
            // The kernel says "no such file" for a missing loader, too, which sends people looking in the wrong place.
            Step::Exec if self.errno == libc::ENOENT && std::path::Path::new(&*path).exists() => {
                format!(
                    "exec {path}: {why} (the file is there; its loader or the interpreter after #! is not)"
                )
            }
            Step::Exec => format!("exec {path}: {why}"),
        }
    }
}

/// What the child reads; made before the fork.
struct Plan<'a> {
    program: &'a Program,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    stdio: [RawFd; 3],
    cgroup: Option<RawFd>,
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

/// Runs in the child: all steps, then exec. Comes back only with what failed.
fn descend(plan: &Plan<'_>) -> Failure {
    match prepare(plan) {
        Err(failure) => failure,
        Ok(()) => {
            let path = plan.program.argv[0].as_ptr();
            // SAFETY: NUL-terminated strings and NULL-terminated arrays that `spawn` keeps alive.
            unsafe { libc::execve(path, plan.argv, plan.env) };
            failed(Step::Exec, 0)
        }
    }
}

fn failed(step: Step, object: u8) -> Failure {
    // SAFETY: errno of this thread.
    let errno = unsafe { *libc::__errno_location() };
    Failure {
        step,
        object,
        errno,
    }
}

/// Turns the result of a system call into a step's.
fn check(result: libc::c_long, step: Step) -> Result<(), Failure> {
    if result < 0 {
        Err(failed(step, 0))
    } else {
        Ok(())
    }
}

/// From PID 1's context to the service's. Order: what needs rights comes first,
/// no_new_privs after the last change of rights, the working folder with the
/// service's own eyes, the signal mask last.
fn prepare(plan: &Plan<'_>) -> Result<(), Failure> {
    // SAFETY (whole function): system calls on integers and on memory of `plan`, which outlives the child's exec.
    // glibc's wrappers for ids are avoided: they talk to other threads, of which the child has none.
    check(unsafe { libc::setsid() }.into(), Step::Setsid)?;
    if let Some(procs) = plan.cgroup {
        // SAFETY: a one byte literal; "0" means the writer itself.
        check(
            unsafe { libc::write(procs, c"0".as_ptr().cast(), 1) } as libc::c_long,
            Step::Cgroup,
        )?;
    }
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        // SAFETY: all zeros is the kernel's sigaction for SIG_DFL, 8 the size of its signal set. The refusal for
        // KILL and STOP is of no interest; glibc's wrapper would refuse 32 and 33, too.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u64>(),
                8,
            )
        };
    }
    for (target, fd) in (0..).zip(plan.stdio) {
        // SAFETY: plain call; the sources lie above 2.
        check(unsafe { libc::dup2(fd, target) }.into(), Step::Stdio)?;
    }
    let (first, last, flags) = (3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: plain call; marks, so that the outcome pipe lives until exec.
    check(
        unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) },
        Step::Descriptors,
    )?;
    // SAFETY: plain call, cannot fail.
    unsafe { libc::umask(0o022) };
    forget_oom_score();
    for &(resource, value) in &plan.program.limits {
        let limit = [value, value];
        let none = ptr::null_mut::<u64>();
        // SAFETY: `limit` is a struct rlimit64 (two u64); no old value is asked for.
        let result =
            unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), none) };
        check(result, Step::Limit).map_err(|f| Failure {
            object: resource as u8,
            ..f
        })?;
    }
    if let Some(identity) = &plan.program.identity {
        become_user(identity)?;
    }
    // SAFETY: plain call.
    check(
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into(),
        Step::NoNewPrivileges,
    )?;
    // SAFETY: a NUL-terminated string.
    check(
        unsafe { libc::chdir(plan.program.workdir.as_ptr()) }.into(),
        Step::Workdir,
    )?;
    // SAFETY: an empty set on the stack.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
    Ok(())
}

/// PID 1 may have protected itself from the OOM killer; a service must not inherit that.
/// Without /proc there is nothing to undo, so a failure does not count.
fn forget_oom_score() {
    // SAFETY: literal path and one byte; the descriptor is closed here.
    unsafe {
        let fd = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if fd >= 0 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

/// Bounding set, groups, gid, uid, and the capabilities that stay (capabilities(7)).
fn become_user(identity: &Identity) -> Result<(), Failure> {
    if identity.trims() {
        // SAFETY: plain call; keeps the permitted set across setresuid, exec clears the flag.
        check(
            unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }.into(),
            Step::KeepCapabilities,
        )?;
        drop_bounding(identity.capabilities)?;
    }
    // SAFETY: the list's length and pointer belong together.
    let result = unsafe {
        libc::syscall(
            libc::SYS_setgroups,
            identity.groups.len(),
            identity.groups.as_ptr(),
        )
    };
    check(result, Step::Groups)?;
    let (uid, gid) = (identity.uid, identity.gid);
    // SAFETY: plain call.
    check(
        unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) },
        Step::Gid,
    )?;
    // SAFETY: plain call.
    check(
        unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) },
        Step::Uid,
    )?;
    if identity.trims() {
        set_capabilities(identity.capabilities)?;
    }
    Ok(())
}

fn drop_bounding(keep: u64) -> Result<(), Failure> {
    for number in 0..=CAPABILITIES {
        if keep & (1 << number) != 0 {
            continue;
        }
        let number = libc::c_ulong::from(number);
        // SAFETY: plain call.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            let failure = failed(Step::Bounding, number as u8);
            // EINVAL: the kernel's last capability was the one before.
            return if failure.errno == libc::EINVAL {
                Ok(())
            } else {
                Err(failure)
            };
        }
    }
    Ok(())
}

/// Permitted, effective, inheritable and ambient sets become exactly `set`.
fn set_capabilities(set: u64) -> Result<(), Failure> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let (low, high) = (set as u32, (set >> 32) as u32);
    // effective, permitted, inheritable of the low, then of the high half
    let data = [low, low, low, high, high, high];
    // SAFETY: layouts of cap_user_header_t and two cap_user_data_t, alive during the call.
    check(
        unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) },
        Step::Capset,
    )?;
    for number in 0..=CAPABILITIES {
        if set & (1 << number) == 0 {
            continue;
        }
        let (action, object) = (libc::PR_CAP_AMBIENT_RAISE, libc::c_ulong::from(number));
        // SAFETY: plain call.
        if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, action, object, 0, 0) } != 0 {
            return Err(failed(Step::Ambient, number));
        }
    }
    Ok(())
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
    fn every_step_survives_the_pipe() {
        for step in STEPS {
            assert_eq!(STEPS[step as usize], step);
            let failure = Failure {
                step,
                object: 7,
                errno: libc::EPERM,
            };
            assert_eq!(Failure::decode(&failure.encode()), Some(failure));
        }
        assert_eq!(Failure::decode(&[]), None);
        assert_eq!(Failure::decode(&[200, 0, 0, 0, 1, 0, 0, 0]), None);
    }

    #[test]
    fn everybody_is_never_signalled() {
        for pid in [1, 0, -1, i32::MIN] {
            assert!(signal_group(pid, libc::SIGTERM).is_err());
        }
    }
}
