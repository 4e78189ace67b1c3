//! What the kernel and the journal tell of machine, services, memory and mounts. Every
//! file is read to a limit; what is not there is left out.

use std::path::Path;
use std::time::Duration;

use slipform_init::contract::event::{Phase, ServiceState};
use slipform_init::contract::inside::{MachineSeen, MemorySeen, MountSeen, ServiceSeen, StateSeen};
use slipform_init::contract::machine::StatePath;

use crate::metrics::kernel::{Places, kibibytes, read};
use crate::ship::record::Identity;
use crate::ship::ring::Journal;
use crate::ship::tally::Tally;
use crate::sys::host::{self, Space};

/// More mounts are not told.
const MOUNTS_MAX: usize = 128;
/// Bytes of a path or an option list that are told.
const TEXT_MAX: usize = 1024;

/// The machine as a whole; who knows whether it is a debug image adds that.
pub(super) fn machine(
    places: &Places,
    identity: &Identity,
    journal: &Journal,
    since_boot: Duration,
) -> MachineSeen {
    let load = read(&places.proc.join("loadavg")).unwrap_or_default();
    let mut begun = Phase::ALL.into_iter().zip(journal.tally.phases);
    let last = begun.rfind(|(_, at)| at.is_some());
    MachineSeen {
        image: identity.image.clone(),
        version: identity.version.clone(),
        machine: identity.digest.clone(),
        host: identity.host.clone(),
        debug: false,
        phase: last.map_or(Phase::Start, |(phase, _)| phase),
        uptime_ms: millis(since_boot),
        load: load.split(' ').next().and_then(|word| word.parse().ok()),
    }
}

/// A service: what its events said, and what its cgroup counts.
pub(super) fn service(
    places: &Places,
    name: &str,
    tally: &Tally,
    since_boot: Duration,
) -> ServiceSeen {
    let told = tally.services.iter().find(|service| service.name == name);
    let process = told.and_then(|told| told.process);
    // The builder gives no such name; a folder beside the cgroups is none.
    let folder = (!name.contains(['/', '.'])).then(|| places.sys.join("fs/cgroup").join(name));
    let file = |file: &str| read(&folder.as_ref()?.join(file));
    let number = |name: &str| file(name)?.trim().parse().ok();
    let cpu = file("cpu.stat").and_then(|stat| {
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        line?.trim().parse::<u64>().ok()
    });
    ServiceSeen {
        name: name.to_owned(),
        state: told.map_or(ServiceState::Waiting, |told| told.state),
        pid: process.map(|(pid, _)| pid),
        uptime_ms: process.map(|(_, since)| millis(since_boot.saturating_sub(since))),
        restarts: told.map_or(0, |told| told.starts.saturating_sub(1)),
        memory: number("memory.current"),
        memory_limit: number("memory.max"),
        cpu_ms: cpu.map(|micros| micros / 1000),
        processes: number("pids.current"),
        status: told.map(|told| told.status.clone()).unwrap_or_default(),
        detail: told.map(|told| told.detail.clone()).unwrap_or_default(),
    }
}

/// A path that is kept: ext4 tells the space of a folder with a quota by the quota, and of any
/// other by the file system. A state that was made without quotas has none that hold.
pub(super) fn kept(path: &StatePath) -> StateSeen {
    counted(path, host::space(Path::new(&path.path)).ok())
}

fn counted(path: &StatePath, space: Option<Space>) -> StateSeen {
    // The file system's size is in whole blocks, and the quota may be more than all of it.
    let holds = |space: &&Space| path.quota.is_some_and(|quota| space.size <= quota);
    let used = space.as_ref().filter(holds);
    StateSeen {
        path: path.path.clone(),
        quota: path.quota,
        used: used.map(|space| space.size.saturating_sub(space.available)),
        available: space.map(|space| space.available),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// /proc/meminfo, and init's own.
pub(super) fn memory(places: &Places) -> MemorySeen {
    let info = read(&places.proc.join("meminfo")).unwrap_or_default();
    let status = read(&places.proc.join("self/status")).unwrap_or_default();
    let bytes = |text: &str, name: &str| kibibytes(text, name).map_or(0, |bytes| bytes as u64);
    MemorySeen {
        total: bytes(&info, "MemTotal"),
        available: bytes(&info, "MemAvailable"),
        cached: bytes(&info, "Cached"),
        shared: bytes(&info, "Shmem"),
        slab: bytes(&info, "Slab"),
        init: bytes(&status, "VmRSS"),
    }
}

/// File systems whose size the kernel tells from memory. What a program or another machine
/// serves (FUSE, NFS) could keep init waiting.
const SIZED: [&str; 8] = [
    "tmpfs", "devtmpfs", "ext4", "xfs", "btrfs", "vfat", "overlay", "erofs",
];
/// The kernel's own, which have no size.
const UNSIZED: [&str; 14] = [
    "proc",
    "sysfs",
    "devpts",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "pstore",
    "efivarfs",
    "bpf",
    "mqueue",
    "hugetlbfs",
    "configfs",
    "rootfs",
];

/// /proc/self/mountinfo.
pub(super) fn mounts(places: &Places) -> impl Iterator<Item = MountSeen> + use<> {
    let table = read(&places.proc.join("self/mountinfo")).unwrap_or_default();
    let mut seen: Vec<MountSeen> = table.lines().filter_map(mount).take(MOUNTS_MAX).collect();
    // Nothing is looked up below a mount that may keep whoever looks waiting.
    let slow = |mount: &&MountSeen| {
        let kind = mount.filesystem.as_str();
        !SIZED.contains(&kind) && !UNSIZED.contains(&kind)
    };
    let slow: Vec<String> = seen.iter().filter(slow).map(|m| m.target.clone()).collect();
    for mount in &mut seen {
        let below = slow
            .iter()
            .any(|at| Path::new(&mount.target).starts_with(at));
        if below || !SIZED.contains(&mount.filesystem.as_str()) {
            continue;
        }
        let space = host::space(Path::new(&mount.target)).ok();
        let space = space.filter(|space| space.size > 0);
        mount.size = space.as_ref().map(|space| space.size);
        mount.available = space.map(|space| space.available);
    }
    seen.into_iter()
}

/// A line of mountinfo (proc(5)):
/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn mount(line: &str) -> Option<MountSeen> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(4);
    let (target, options) = (fields.next()?, fields.next()?);
    let mut fields = file_system.split(' ');
    let (kind, source) = (fields.next()?, fields.next()?);
    Some(MountSeen {
        target: unescape(target),
        source: unescape(source),
        filesystem: kind.chars().take(32).collect(),
        options: options.chars().take(TEXT_MAX).collect(),
        size: None,
        available: None,
    })
}

/// Turns `\040` and its like into what they stand for.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = octal.filter(|_| *first == b'\\');
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes)
        .chars()
        .take(TEXT_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn a_mount_is_read_with_its_odd_names() {
        let seen =
            mount(r"36 35 98:0 / /srv/a\040b\134 rw,nosuid shared:1 - ext4 /dev/vda3 rw").unwrap();
        assert_eq!(seen.target, r"/srv/a b\");
        assert_eq!(
            (seen.filesystem.as_str(), seen.source.as_str()),
            ("ext4", "/dev/vda3")
        );
        assert_eq!(seen.options, "rw,nosuid");
        for bad in ["", "36 35", "36 35 98:0 / /srv rw", " - ext4 a b"] {
            assert_eq!(mount(bad), None, "{bad}");
        }
        fuzz(
            &[br"1 2 3:4 / /srv/a\040b\134 rw - ext4 /dev/vda3 rw"],
            |bytes, _| {
                mount(&String::from_utf8_lossy(bytes));
            },
        );
    }

    #[test]
    fn a_quota_that_does_not_hold_counts_nothing() {
        let path = |quota| StatePath {
            path: "/var/lib/app".to_owned(),
            owner: None,
            mode: None,
            quota,
        };
        let space = |size| Space {
            size,
            available: 1000,
            free_files: 9,
        };
        for (quota, size, used) in [
            (Some(4096), 4096, Some(3096)),
            // The state was made without quotas: that is the file system's size.
            (Some(4096), 1 << 20, None),
            (None, 1 << 20, None),
        ] {
            let seen = counted(&path(quota), Some(space(size)));
            assert_eq!((seen.used, seen.available), (used, Some(1000)), "{quota:?}");
        }
        assert_eq!(counted(&path(Some(1)), None).available, None);
    }

    #[test]
    fn sizes_are_told_of_what_cannot_keep_init_waiting() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("self")).unwrap();
        let here = dir.path().display();
        let table = format!(
            "1 0 0:1 / /proc rw - proc proc rw\n2 0 0:2 / {here} rw - tmpfs tmp rw\n\
             3 0 0:3 / {here}/self rw - fuse.sshfs far rw\n4 3 0:4 / {here}/self/in rw - tmpfs tmp rw\n"
        );
        std::fs::write(dir.path().join("self/mountinfo"), table).unwrap();
        let places = Places {
            proc: dir.path().to_owned(),
            sys: dir.path().to_owned(),
        };
        let sizes: Vec<bool> = mounts(&places).map(|mount| mount.size.is_some()).collect();
        assert_eq!(sizes, [false, true, false, false]);
    }

    #[test]
    fn a_service_is_what_its_events_and_its_cgroup_say() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("fs/cgroup/web");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in [
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("pids.current", "3\n"),
            ("cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let places = Places {
            proc: dir.path().to_owned(),
            sys: dir.path().to_owned(),
        };
        let mut tally = Tally::default();
        for pid in [7, 8] {
            let started = slipform_init::contract::event::Event::Service {
                name: "web".to_owned(),
                state: ServiceState::Started,
                pid,
                detail: String::new(),
            };
            tally.event(&started, Duration::from_secs(10));
        }
        let seen = service(&places, "web", &tally, Duration::from_secs(12));
        assert_eq!(
            (seen.pid, seen.uptime_ms, seen.restarts),
            (Some(8), Some(2000), 1)
        );
        assert_eq!((seen.memory, seen.memory_limit), (Some(4096), None));
        assert_eq!((seen.cpu_ms, seen.processes), (Some(2500), Some(3)));
        let waiting = service(&places, "../web", &tally, Duration::ZERO);
        assert_eq!(
            (waiting.state, waiting.memory),
            (ServiceState::Waiting, None)
        );
    }
}
