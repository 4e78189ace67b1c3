//! The kernel's file systems, and scratch space.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::Scratch;

use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::mount::{Mount, NO_DEV, NO_EXEC, NO_SUID};
use crate::turn::Report;

/// Mount points, in order. What is to move into the new root is [`super::switch::MOVED`].
///
/// The limits of the tmpfs mounts together stay below the memory that there is, so
/// that a service that fills all of them does not bring the machine down.
const KERNEL: [Mount<'static>; 8] = [
    of("proc", "/proc", NO_SUID | NO_DEV | NO_EXEC, ""),
    of("sysfs", "/sys", NO_SUID | NO_DEV | NO_EXEC, ""),
    of("devtmpfs", "/dev", NO_SUID, "mode=0755,size=4m"),
    of(
        "devpts",
        "/dev/pts",
        NO_SUID | NO_EXEC,
        "mode=0620,gid=5,ptmxmode=0666",
    ),
    of("tmpfs", "/dev/shm", NO_SUID | NO_DEV, "mode=1777,size=25%"),
    of("tmpfs", "/run", NO_SUID | NO_DEV, "mode=0755,size=10%"),
    of("tmpfs", "/tmp", NO_SUID | NO_DEV, "mode=1777,size=25%"),
    of(
        "cgroup2",
        "/sys/fs/cgroup",
        NO_SUID | NO_DEV | NO_EXEC,
        "nsdelegate",
    ),
];

const fn of(
    kind: &'static str,
    target: &'static str,
    flags: u64,
    options: &'static str,
) -> Mount<'static> {
    Mount {
        source: kind,
        target,
        kind,
        flags,
        options,
    }
}

/// Links that programs expect in /dev.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts what every program expects from the kernel.
pub(crate) fn kernel_file_systems() -> Result<(), BootError> {
    for mount in &KERNEL {
        let failed = |error| {
            BootError::new(
                Phase::Start,
                format!("mount {} on {}", mount.kind, mount.target),
                error,
            )
        };
        make_folder(mount.target, 0o755).map_err(failed)?;
        mount.mount().map_err(failed)?;
    }
    for (target, link) in LINKS {
        let failed =
            |error| BootError::new(Phase::Start, format!("link {link} to {target}"), error);
        symlink(target, link).map_err(failed)?;
    }
    Ok(())
}

/// Mounts the image's scratch space. One that fails is reported: its service will
/// say what it misses, and the others can do without.
pub(crate) fn scratch(all: &[Scratch], report: &mut Reporter) {
    for scratch in all {
        if let Err(error) = mount_scratch(scratch) {
            report.event(Event::Error {
                phase: Phase::Switch,
                what: format!(
                    "mount {} bytes of scratch space on {}",
                    scratch.size, scratch.path
                ),
                why: format!("{error}; the folder must be in a layer, or below /run or /tmp"),
            });
        }
    }
}

fn mount_scratch(scratch: &Scratch) -> std::io::Result<()> {
    if !Path::new(&scratch.path).is_dir() {
        make_folder(&scratch.path, 0o755)?;
    }
    let options = format!(
        "size={},mode={:o},uid={},gid={}",
        scratch.size, scratch.mode, scratch.uid, scratch.gid
    );
    Mount {
        source: "scratch",
        target: &scratch.path,
        kind: "tmpfs",
        flags: NO_SUID | NO_DEV,
        options: &options,
    }
    .mount()
}

fn make_folder(path: &str, mode: u32) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}
