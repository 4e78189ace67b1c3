//! The system call filter of services: a BPF program (seccomp(2)) that refuses what no
//! service of such a machine has to do with. Pure: no call is made here.
//!
//! It is a list of what is denied, as container runtimes have one: modules, mounts,
//! namespaces, keys, kexec, swap, clocks, io_uring, calls of another architecture. A
//! capability that the service names lifts what it stands for. Refused calls fail with
//! EPERM; `clone3`, whose flags a filter cannot see, and foreign calls with ENOSYS, so
//! that C libraries fall back to `clone`.

use libc::sock_filter;

/// What the program reads: `struct seccomp_data` of linux/seccomp.h.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
/// The low half of the first argument, on a little-endian machine.
const DATA_ARGUMENT: u32 = 16;

/// Instructions (linux/bpf_common.h): load a word, jump if equal, if at least, if a bit is set, return.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
/// Calls of the x32 ABI have this bit.
const X32: u32 = 0x4000_0000;
/// All `CLONE_NEW…` flags of clone(2) but `CLONE_NEWTIME`, which clone does not take.
const NAMESPACES: u32 = 0x7e02_0000;

/// A call that the architecture does not have.
const NONE: u32 = u32::MAX;

/// Bits of capabilities (linux/capability.h).
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_MODULE: u64 = 1 << 16;
const SYS_RAWIO: u64 = 1 << 17;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_PACCT: u64 = 1 << 20;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_BOOT: u64 = 1 << 22;
const SYS_TIME: u64 = 1 << 25;
const SYS_TTY_CONFIG: u64 = 1 << 26;
const SYSLOG: u64 = 1 << 34;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// An architecture whose calls are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))] // a build needs its own only
pub(crate) enum Architecture {
    /// 64 bit x86.
    X86_64,
    /// 64 bit ARM.
    Aarch64,
}

impl Architecture {
    /// The one that this program was built for; none: there is no filter.
    pub(crate) const fn native() -> Option<Architecture> {
        if cfg!(target_arch = "x86_64") {
            Some(Architecture::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Architecture::Aarch64)
        } else {
            None
        }
    }

    /// `AUDIT_ARCH_…` of linux/audit.h.
    const fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 => 0xc000_003e,
            Architecture::Aarch64 => 0xc000_00b7,
        }
    }

    const fn number(self, rule: &Rule) -> u32 {
        match self {
            Architecture::X86_64 => rule.x86_64,
            Architecture::Aarch64 => rule.aarch64,
        }
    }
}

struct Rule {
    x86_64: u32,
    aarch64: u32,
    /// Any of these lifts it.
    lifted: u64,
}

const fn rule(x86_64: u32, aarch64: u32, lifted: u64) -> Rule {
    Rule {
        x86_64,
        aarch64,
        lifted,
    }
}

/// Numbers of asm/unistd_64.h and asm-generic/unistd.h.
#[rustfmt::skip]
const DENIED: [Rule; 48] = [
    rule(163, 89, SYS_PACCT), // acct
    rule(248, 217, 0), // add_key
    rule(249, 218, 0), // request_key
    rule(250, 219, 0), // keyctl
    rule(321, 280, BPF | SYS_ADMIN), // bpf
    rule(227, 112, SYS_TIME), // clock_settime
    rule(164, 170, SYS_TIME), // settimeofday
    rule(176, 106, SYS_MODULE), // delete_module
    rule(175, 105, SYS_MODULE), // init_module
    rule(313, 273, SYS_MODULE), // finit_module
    rule(300, 262, SYS_ADMIN), // fanotify_init
    rule(431, 431, SYS_ADMIN), // fsconfig
    rule(432, 432, SYS_ADMIN), // fsmount
    rule(430, 430, SYS_ADMIN), // fsopen
    rule(433, 433, SYS_ADMIN), // fspick
    rule(429, 429, SYS_ADMIN), // move_mount
    rule(428, 428, SYS_ADMIN), // open_tree
    rule(442, 442, SYS_ADMIN), // mount_setattr
    rule(425, 425, 0), // io_uring_setup
    rule(426, 426, 0), // io_uring_enter
    rule(427, 427, 0), // io_uring_register
    rule(173, NONE, SYS_RAWIO), // ioperm
    rule(172, NONE, SYS_RAWIO), // iopl
    rule(246, 104, SYS_BOOT), // kexec_load
    rule(320, 294, SYS_BOOT), // kexec_file_load
    rule(212, 18, SYS_ADMIN), // lookup_dcookie
    rule(165, 40, SYS_ADMIN), // mount
    rule(166, 39, SYS_ADMIN), // umount2
    rule(180, 42, 0), // nfsservctl
    rule(304, 265, DAC_READ_SEARCH), // open_by_handle_at
    rule(298, 241, PERFMON | SYS_ADMIN), // perf_event_open
    rule(155, 41, SYS_ADMIN), // pivot_root
    rule(179, 60, SYS_ADMIN), // quotactl
    rule(443, 443, SYS_ADMIN), // quotactl_fd
    rule(169, 142, SYS_BOOT), // reboot
    rule(171, 162, SYS_ADMIN), // setdomainname
    rule(170, 161, SYS_ADMIN), // sethostname
    rule(308, 268, SYS_ADMIN), // setns
    rule(168, 225, SYS_ADMIN), // swapoff
    rule(167, 224, SYS_ADMIN), // swapon
    rule(139, NONE, 0), // sysfs
    rule(156, NONE, 0), // _sysctl
    rule(103, 116, SYSLOG), // syslog
    rule(272, 97, SYS_ADMIN), // unshare
    rule(134, NONE, 0), // uselib
    rule(323, 282, SYS_PTRACE), // userfaultfd
    rule(136, NONE, 0), // ustat
    rule(153, 58, SYS_TTY_CONFIG), // vhangup
];
const CLONE: Rule = rule(56, 220, SYS_ADMIN);
const CLONE3: Rule = rule(435, 435, SYS_ADMIN);

const fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Where a jump goes, until the places are known.
#[derive(Clone, Copy)]
enum Exit {
    Next,
    Refuse,
    Unknown,
    Allow,
}

/// The filter for a service that has these capabilities (one bit each).
pub(crate) fn filter(architecture: Architecture, capabilities: u64) -> Vec<sock_filter> {
    let mut lines: Vec<(sock_filter, Exit, Exit)> = Vec::with_capacity(DENIED.len() + 16);
    let mut line = |code, k, yes, no| lines.push((instruction(code, k), yes, no));
    line(LOAD, DATA_ARCH, Exit::Next, Exit::Next);
    line(JUMP_EQUAL, architecture.audit(), Exit::Next, Exit::Unknown);
    line(LOAD, DATA_NR, Exit::Next, Exit::Next);
    if architecture == Architecture::X86_64 {
        line(JUMP_AT_LEAST, X32, Exit::Unknown, Exit::Next);
    }
    let applies = |rule: &Rule| rule.lifted & capabilities == 0;
    for rule in DENIED.iter().filter(|rule| applies(rule)) {
        let number = architecture.number(rule);
        if number != NONE {
            line(JUMP_EQUAL, number, Exit::Refuse, Exit::Next);
        }
    }
    if applies(&CLONE) {
        line(
            JUMP_EQUAL,
            architecture.number(&CLONE3),
            Exit::Unknown,
            Exit::Next,
        );
        line(
            JUMP_EQUAL,
            architecture.number(&CLONE),
            Exit::Next,
            Exit::Allow,
        );
        line(LOAD, DATA_ARGUMENT, Exit::Next, Exit::Next);
        line(JUMP_SET, NAMESPACES, Exit::Refuse, Exit::Allow);
    }
    let end = lines.len();
    let distance = |from: usize, exit: Exit| {
        let to = match exit {
            Exit::Next => return 0,
            Exit::Allow => end,
            Exit::Refuse => end + 1,
            Exit::Unknown => end + 2,
        };
        // Fewer than 100 lines: it fits, and the tests see to it.
        u8::try_from(to - from - 1).unwrap_or(u8::MAX)
    };
    let mut program: Vec<sock_filter> = lines
        .iter()
        .enumerate()
        .map(|(at, (line, yes, no))| sock_filter {
            jt: distance(at, *yes),
            jf: distance(at, *no),
            ..*line
        })
        .collect();
    program.push(instruction(RETURN, ALLOW));
    program.push(instruction(RETURN, ERRNO | libc::EPERM as u32));
    program.push(instruction(RETURN, ERRNO | libc::ENOSYS as u32));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does, on one call; `None` for what no kernel accepts.
    fn run(program: &[sock_filter], arch: u32, number: u32, argument: u32) -> Option<u32> {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let line = program.get(at)?;
            at += 1;
            let jump = |yes: bool| usize::from(if yes { line.jt } else { line.jf });
            match line.code {
                LOAD => {
                    accumulator = match line.k {
                        DATA_NR => number,
                        DATA_ARCH => arch,
                        DATA_ARGUMENT => argument,
                        _ => return None,
                    }
                }
                JUMP_EQUAL => at += jump(accumulator == line.k),
                JUMP_AT_LEAST => at += jump(accumulator >= line.k),
                JUMP_SET => at += jump(accumulator & line.k != 0),
                RETURN => return Some(line.k),
                _ => return None,
            }
        }
    }

    const EPERM: Option<u32> = Some(ERRNO | 1);
    const ENOSYS: Option<u32> = Some(ERRNO | 38);
    const BOTH: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];

    #[test]
    fn what_is_denied_is_refused_and_all_else_passes() {
        for architecture in BOTH {
            let program = filter(architecture, 0);
            assert!(program.len() < 100);
            let ask = |number| run(&program, architecture.audit(), number, 0);
            let denied: Vec<u32> = DENIED
                .iter()
                .map(|rule| architecture.number(rule))
                .collect();
            for number in 0..1000 {
                let expected = if denied.contains(&number) {
                    EPERM
                } else if number == architecture.number(&CLONE3) {
                    ENOSYS
                } else {
                    Some(ALLOW)
                };
                assert_eq!(ask(number), expected, "{architecture:?} {number}");
            }
        }
    }

    #[test]
    fn numbers_are_those_of_the_c_library() {
        let Some(native) = Architecture::native() else {
            return;
        };
        let program = filter(native, 0);
        let ask = |number: libc::c_long| run(&program, native.audit(), number as u32, 0);
        for number in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_reboot,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_swapon,
            libc::SYS_io_uring_setup,
            libc::SYS_open_by_handle_at,
            libc::SYS_sethostname,
            libc::SYS_settimeofday,
        ] {
            assert_eq!(ask(number), EPERM, "{number}");
        }
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_clone,
            libc::SYS_ptrace,
            libc::SYS_chroot,
            libc::SYS_seccomp,
            libc::SYS_prctl,
        ] {
            assert_eq!(ask(number), Some(ALLOW), "{number}");
        }
    }

    #[test]
    fn threads_may_be_made_and_namespaces_not() {
        for architecture in BOTH {
            let clone = architecture.number(&CLONE);
            let program = filter(architecture, 0);
            let ask = |flags| run(&program, architecture.audit(), clone, flags);
            assert_eq!(ask(libc::SIGCHLD as u32), Some(ALLOW));
            assert_eq!(
                ask((libc::CLONE_VM | libc::CLONE_THREAD) as u32),
                Some(ALLOW)
            );
            for flag in [
                libc::CLONE_NEWUSER,
                libc::CLONE_NEWNS,
                libc::CLONE_NEWPID,
                libc::CLONE_NEWNET,
                libc::CLONE_NEWIPC,
                libc::CLONE_NEWUTS,
                libc::CLONE_NEWCGROUP,
            ] {
                assert_eq!(ask(flag as u32), EPERM, "{flag:x}");
            }
        }
    }

    #[test]
    fn a_capability_lifts_what_it_stands_for() {
        let ask = |capabilities, number| {
            let program = filter(Architecture::X86_64, capabilities);
            run(
                &program,
                Architecture::X86_64.audit(),
                number,
                libc::CLONE_NEWNS as u32,
            )
        };
        let (mount, clone, clone3, settimeofday, keyctl) = (165, 56, 435, 164, 250);
        assert_eq!(ask(SYS_ADMIN, mount), Some(ALLOW));
        assert_eq!(ask(SYS_ADMIN, clone), Some(ALLOW));
        assert_eq!(ask(SYS_ADMIN, clone3), Some(ALLOW));
        assert_eq!(ask(SYS_ADMIN, settimeofday), EPERM);
        assert_eq!(ask(SYS_TIME, settimeofday), Some(ALLOW));
        assert_eq!(ask(SYS_TIME, mount), EPERM);
        assert_eq!(ask(u64::MAX, keyctl), EPERM);
    }

    #[test]
    fn other_architectures_do_not_exist() {
        let program = filter(Architecture::X86_64, u64::MAX);
        assert_eq!(run(&program, 0x4000_0003, 1, 0), ENOSYS);
        assert_eq!(run(&program, 0xc000_003e, X32, 0), ENOSYS);
        assert_eq!(run(&program, 0xc000_003e, u32::MAX, 0), ENOSYS);
    }
}
