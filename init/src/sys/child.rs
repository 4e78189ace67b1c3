//! What a forked child does until it is a service: the way from PID 1's rights down to
//! the service's, then exec.
//!
//! It allocates nothing and calls nothing but system calls: everything it needs lies
//! ready in [`Plan`]. glibc's wrappers for ids are avoided, too: they talk to other
//! threads, of which the child has none. The first step that fails comes back as [`Failure`].

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::ptr;

use super::process::{CAPABILITIES, DIGITS, Identity, Place, Program, error_text};

/// Signal numbers that Linux has: 1..=64.
const SIGNALS: libc::c_int = 64;
/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Bytes of an encoded [`Failure`]; below PIPE_BUF, so one write is one read.
pub(super) const FAILURE_SIZE: usize = 8;
/// prctl(2) takes all its arguments as unsigned long.
const NO: libc::c_ulong = 0;
const YES: libc::c_ulong = 1;

/// A step on the way from fork to exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Setsid,
    Cgroup,
    Stdio,
    Terminal,
    Descriptors,
    Namespace,
    Bind,
    ReadOnly,
    Writable,
    Temporary,
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
    Filter,
    Exec,
}

const STEPS: [Step; 22] = [
    Step::Setsid,
    Step::Cgroup,
    Step::Stdio,
    Step::Terminal,
    Step::Descriptors,
    Step::Namespace,
    Step::Bind,
    Step::ReadOnly,
    Step::Writable,
    Step::Temporary,
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
    Step::Filter,
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
    pub(super) fn encode(self) -> [u8; FAILURE_SIZE] {
        let [a, b, c, d] = self.errno.to_le_bytes();
        [self.step as u8, self.object, 0, 0, a, b, c, d]
    }

    /// Reads what came through [`super::process::Child::outcome`]; `None` if it is not a whole record.
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
            Step::Terminal => format!("take the console as the controlling terminal: {why}"),
            Step::Descriptors => format!("close_range: {why}"),
            Step::Namespace => format!("unshare the mounts: {why}"),
            Step::Bind => format!("keep {} writable: {why}", program.writable(self.object)),
            Step::ReadOnly => format!("make everything read-only: {why}"),
            Step::Writable => {
                format!(
                    "make {} writable again: {why}",
                    program.writable(self.object)
                )
            }
            Step::Temporary => format!("mount a private /tmp: {why}"),
            Step::Filter => format!("set the system call filter: {why}"),
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
pub(super) struct Plan<'a> {
    pub(super) program: &'a Program,
    /// NULL-terminated.
    pub(super) argv: *const *const libc::c_char,
    /// NULL-terminated.
    pub(super) env: *const *const libc::c_char,
    /// All above 2.
    pub(super) stdio: [RawFd; 3],
    /// An open `cgroup.procs`.
    pub(super) cgroup: Option<RawFd>,
    /// Become 3, 4, …; all lie above the last of these.
    pub(super) sockets: &'a [RawFd],
    /// Each has room for [`DIGITS`] and a NUL.
    pub(super) own_ids: &'a [*mut u8],
}

impl Program {
    fn writable(&self, number: u8) -> String {
        let path = self.place.writable.get(usize::from(number));
        path.map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// Runs in the child: all steps, then exec. Comes back only with what failed.
pub(super) fn descend(plan: &Plan<'_>) -> Failure {
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
/// service's own eyes, then the filter, which allows what is left; the signal mask last.
fn prepare(plan: &Plan<'_>) -> Result<(), Failure> {
    own_place(plan)?;
    reset_signals();
    own_descriptors(plan)?;
    own_terminal(plan)?;
    own_view(&plan.program.place)?;
    write_own_id(plan);
    // SAFETY: plain call, cannot fail.
    unsafe { libc::umask(0o022) };
    forget_oom_score();
    limit(&plan.program.limits)?;
    if let Some(identity) = &plan.program.identity {
        become_user(identity)?;
    }
    // SAFETY: plain call.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, YES, NO, NO, NO) };
    check(result.into(), Step::NoNewPrivileges)?;
    // SAFETY: a NUL-terminated string.
    let result = unsafe { libc::chdir(plan.program.workdir.as_ptr()) };
    check(result.into(), Step::Workdir)?;
    filter_calls(&plan.program.filter)?;
    // SAFETY: an empty set on the stack.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
    Ok(())
}

/// A session, and the service's cgroup.
fn own_place(plan: &Plan<'_>) -> Result<(), Failure> {
    // SAFETY: plain call.
    let session = unsafe { libc::setsid() };
    check(session.into(), Step::Setsid)?;
    if let Some(procs) = plan.cgroup {
        // SAFETY: a one byte literal; "0" means the writer itself.
        let written = unsafe { libc::write(procs, c"0".as_ptr().cast(), 1) };
        check(written as libc::c_long, Step::Cgroup)?;
    }
    Ok(())
}

/// No handler and no ignored signal of PID 1 may reach the service.
fn reset_signals() {
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        let (new, old) = (default.as_ptr(), ptr::null::<u64>());
        // SAFETY: all zeros is the kernel's sigaction for SIG_DFL, 8 the size of its signal set. The refusal for
        // KILL and STOP is of no interest; glibc's wrapper would refuse 32 and 33, too.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, 8_usize) };
    }
}

/// Standard streams; all others end with the exec, the outcome pipe among them.
fn own_descriptors(plan: &Plan<'_>) -> Result<(), Failure> {
    for (target, fd) in (0..).zip(plan.stdio) {
        // SAFETY: plain call; the sources lie above 2.
        let result = unsafe { libc::dup2(fd, target) };
        check(result.into(), Step::Stdio)?;
    }
    let mut first = 3;
    for &socket in plan.sockets {
        // SAFETY: plain call; the copy is not close-on-exec, and lies below all that is still needed.
        let result = unsafe { libc::dup2(socket, first) };
        check(result.into(), Step::Stdio)?;
        first += 1;
    }
    let (last, flags) = (u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: plain call; it marks and does not close, so that the outcome pipe lives until exec.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    check(result, Step::Descriptors)
}

/// The console becomes the session's controlling terminal, so that Ctrl-C, job control
/// and its hang-up work; whoever still holds it from an earlier start loses it.
fn own_terminal(plan: &Plan<'_>) -> Result<(), Failure> {
    if !plan.program.console {
        return Ok(());
    }
    // SAFETY: plain call on the standard input; 1 is "take it from others".
    let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 1) };
    check(result.into(), Step::Terminal)
}

/// A view of the mounts of its own: all read-only but what stays writable, a /tmp of its own.
fn own_view(place: &Place) -> Result<(), Failure> {
    if !place.is_own() {
        return Ok(());
    }
    // SAFETY: plain call.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    check(result.into(), Step::Namespace)?;
    // Nothing that is mounted here may show elsewhere.
    mount(
        None,
        c"/",
        None,
        libc::MS_REC | libc::MS_PRIVATE,
        None,
        Step::Namespace,
        0,
    )?;
    if place.read_only {
        for (number, path) in (0..).zip(&place.writable) {
            let flags = libc::MS_BIND | libc::MS_REC;
            mount(Some(path), path, None, flags, None, Step::Bind, number)?;
        }
        set_read_only(c"/", true, Step::ReadOnly, 0)?;
        for path in [c"/dev", c"/proc"] {
            set_read_only(path, false, Step::ReadOnly, 0)?;
        }
        for (number, path) in (0..).zip(&place.writable) {
            set_read_only(path, false, Step::Writable, number)?;
        }
    }
    if place.private_tmp {
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        let options = Some(c"mode=1777,size=25%");
        mount(
            Some(c"tmp"),
            c"/tmp",
            Some(c"tmpfs"),
            flags,
            options,
            Step::Temporary,
            0,
        )?;
    }
    Ok(())
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
    step: Step,
    object: u8,
) -> Result<(), Failure> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    let (source, kind, options) = (pointer(source), pointer(kind), pointer(options).cast());
    // SAFETY: each is NULL or a C string that outlives the call.
    let result = unsafe { libc::mount(source, target.as_ptr(), kind, flags, options) };
    if result < 0 {
        return Err(failed(step, object));
    }
    Ok(())
}

/// mount_setattr(2) on the mount at `path` and all below it.
fn set_read_only(path: &CStr, yes: bool, step: Step, object: u8) -> Result<(), Failure> {
    let read_only = libc::MOUNT_ATTR_RDONLY;
    let (set, clear) = if yes { (read_only, 0) } else { (0, read_only) };
    // struct mount_attr: what to set, what to clear, propagation, user namespace.
    let attributes = [set, clear, 0, 0];
    let (path, flags) = (path.as_ptr(), libc::AT_RECURSIVE);
    let size = size_of_val(&attributes);
    // SAFETY: a C string and a live structure of the given size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path,
            flags,
            attributes.as_ptr(),
            size,
        )
    };
    if result < 0 {
        return Err(failed(step, object));
    }
    Ok(())
}

/// Puts this process's id into the variables that ask for it.
fn write_own_id(plan: &Plan<'_>) {
    // SAFETY: plain call, cannot fail.
    let mut rest = unsafe { libc::getpid() }.unsigned_abs();
    let mut digits = [0_u8; DIGITS];
    let mut start = DIGITS;
    while start > 0 && (rest > 0 || start == DIGITS) {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    for &slot in plan.own_ids {
        // SAFETY: each slot has room for DIGITS bytes and ends in a NUL that stays.
        unsafe { ptr::copy_nonoverlapping(digits[start..].as_ptr(), slot, DIGITS - start) };
    }
}

/// seccomp(2): from here on, calls of the deny list fail.
fn filter_calls(filter: &[libc::sock_filter]) -> Result<(), Failure> {
    if filter.is_empty() {
        return Ok(());
    }
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, 0);
    // SAFETY: the program is alive; the kernel copies and does not change it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    check(result, Step::Filter)
}

fn limit(limits: &[(u32, u64)]) -> Result<(), Failure> {
    for &(resource, value) in limits {
        let limit = [value, value];
        let (new, old) = (limit.as_ptr(), ptr::null_mut::<u64>());
        // SAFETY: `limit` is a struct rlimit64 (two u64); no old value is asked for.
        let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, old) };
        check(result, Step::Limit).map_err(|f| Failure {
            object: resource as u8,
            ..f
        })?;
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
        let result = unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, YES, NO, NO, NO) };
        check(result.into(), Step::KeepCapabilities)?;
        drop_bounding(identity.capabilities)?;
    }
    let (count, list) = (identity.groups.len(), identity.groups.as_ptr());
    // SAFETY: the list's length and pointer belong together.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, count, list) };
    check(result, Step::Groups)?;
    let (uid, gid) = (identity.uid, identity.gid);
    // SAFETY: plain call.
    let result = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    check(result, Step::Gid)?;
    // SAFETY: plain call.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    check(result, Step::Uid)?;
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
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, NO, NO, NO) } != 0 {
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
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(result, Step::Capset)?;
    for number in 0..=CAPABILITIES {
        if set & (1 << number) == 0 {
            continue;
        }
        let action = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
        let object = libc::c_ulong::from(number);
        // SAFETY: plain call.
        if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, action, object, NO, NO) } != 0 {
            return Err(failed(Step::Ambient, number));
        }
    }
    Ok(())
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
}
