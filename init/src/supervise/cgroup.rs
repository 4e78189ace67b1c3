//! A cgroup per service, where the kernel has cgroup2: no child escapes it, so the
//! end of a service is the end of all that it started (Linux, admin-guide/cgroup-v2).

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use slipform_init::contract::service::Resources;

use super::meter::Meter;

/// Controllers that services may be limited by.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// Microseconds over which `cpu.max` counts.
const CPU_PERIOD: u64 = 100_000;
/// Where the kernel says how many threads it can have.
const THREADS_MAX: &str = "/proc/sys/kernel/threads-max";
/// Processes that a service may have in any case, unless it says otherwise.
const LEAST_PIDS: u64 = 128;

/// A folder below the cgroup2 mount.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// Open for writing "0": who writes, joins.
    procs: File,
}

/// Lets the cgroups below `root` have limits. A controller that the kernel lacks is
/// missed where a service asks for it.
pub(crate) fn enable(root: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(
            root.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// Processes that a service may have unless it says otherwise: a quarter of what the
/// kernel can have at all, so that no fork bomb takes the machine.
fn default_pids() -> u64 {
    let text = fs::read_to_string(THREADS_MAX).unwrap_or_default();
    let most: u64 = text.trim().parse().unwrap_or(0);
    (most / 4).max(LEAST_PIDS)
}

/// What to write into which file of a cgroup; `needed` says that the service asked for it.
struct Setting {
    file: &'static str,
    value: String,
    needed: bool,
}

fn settings(resources: &Resources, default_pids: u64, disks: &[String]) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut set = |file, value: String, needed| {
        all.push(Setting {
            file,
            value,
            needed,
        });
    };
    // Half a service is of no use: all its processes go together.
    set("memory.oom.group", "1".to_owned(), false);
    if resources.memory > 0 {
        set("memory.max", resources.memory.to_string(), true);
        set("memory.swap.max", "0".to_owned(), false);
    }
    let pids = match resources.pids {
        0 => default_pids,
        pids => pids,
    };
    set("pids.max", pids.to_string(), resources.pids > 0);
    if resources.cpu_milli > 0 {
        let quota = resources.cpu_milli.saturating_mul(CPU_PERIOD / 1000);
        set("cpu.max", format!("{} {CPU_PERIOD}", quota.max(1000)), true);
    }
    let limits = [
        ("rbps", resources.read_bytes),
        ("wbps", resources.write_bytes),
        ("riops", resources.read_ops),
        ("wiops", resources.write_ops),
    ];
    let limits: Vec<String> = limits
        .iter()
        .filter(|(_, limit)| *limit > 0)
        .map(|(key, limit)| format!("{key}={limit}"))
        .collect();
    if !limits.is_empty() {
        for disk in disks {
            set("io.max", format!("{disk} {}", limits.join(" ")), true);
        }
    }
    all
}

/// `major:minor` of the disks: what is mapped onto them (dm, loop) counts there.
fn disks() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let disks = entries.filter(|entry| entry.path().join("device").exists());
    disks
        .filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok())
        .map(|number| number.trim().to_owned())
        .collect()
}

impl Cgroup {
    /// Makes the service's cgroup below `root`; `None` where there is no cgroup2 or the
    /// name is no folder's: the process group does the work then.
    pub(crate) fn create(root: &Path, name: &str) -> Option<Cgroup> {
        if name.is_empty()
            || name.contains(['/', '.', '\n'])
            || !root.join("cgroup.controllers").exists()
        {
            return None;
        }
        let path = root.join(name);
        // It may be there already; whether it is one, opening its cgroup.procs tells.
        let _ = fs::create_dir(&path);
        let procs = OpenOptions::new()
            .write(true)
            .open(path.join("cgroup.procs"))
            .ok()?;
        Some(Cgroup { path, procs })
    }

    /// Sets what the service asked for, and what every service gets.
    ///
    /// # Errors
    /// The file and why, as text; what nobody asked for may fail in silence.
    pub(crate) fn limit(&self, resources: &Resources) -> Result<(), String> {
        for setting in settings(resources, default_pids(), &disks()) {
            if let Err(error) = fs::write(self.path.join(setting.file), &setting.value)
                && setting.needed
            {
                let Setting { file, value, .. } = setting;
                return Err(format!("set {file} of its cgroup to {value:?}: {error}"));
            }
        }
        Ok(())
    }

    /// Its counters.
    pub(crate) fn meter(&self) -> Meter {
        Meter::open(&self.path)
    }

    /// `cgroup.procs`.
    pub(crate) fn procs(&self) -> &File {
        &self.procs
    }

    /// SIGKILL to every process in it; false if the kernel would not.
    pub(crate) fn kill(&self) -> bool {
        fs::write(self.path.join("cgroup.kill"), "1").is_ok()
    }

    /// Whether the process is in it, or below.
    pub(crate) fn contains(&self, pid: i32) -> bool {
        let Some(name) = self.path.file_name().and_then(|name| name.to_str()) else {
            return false;
        };
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
            return false;
        };
        text.lines().any(|line| within(line, name))
    }

    /// Takes the folder away; fails quietly while a process is in it.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Whether a line of /proc/PID/cgroup (`0::/name/…`) lies in the cgroup `name`.
fn within(line: &str, name: &str) -> bool {
    let path = line.strip_prefix("0::/").unwrap_or_default();
    path.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_written_as_the_kernel_wants_it() {
        let text = |resources: &Resources| {
            let disks = ["254:0".to_owned(), "8:0".to_owned()];
            let all = settings(resources, 900, &disks).into_iter();
            all.map(|s| format!("{}={}{}", s.file, s.value, if s.needed { "!" } else { "" }))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            text(&Resources::default()),
            ["memory.oom.group=1", "pids.max=900"]
        );
        let all = Resources {
            memory: 1 << 20,
            cpu_milli: 1500,
            pids: 7,
            read_bytes: 4096,
            write_bytes: 0,
            read_ops: 0,
            write_ops: 9,
        };
        let expected = [
            "memory.oom.group=1",
            "memory.max=1048576!",
            "memory.swap.max=0",
            "pids.max=7!",
            "cpu.max=150000 100000!",
            "io.max=254:0 rbps=4096 wiops=9!",
            "io.max=8:0 rbps=4096 wiops=9!",
        ];
        assert_eq!(text(&all), expected);
        let little = Resources {
            cpu_milli: 1,
            ..Resources::default()
        };
        // The kernel refuses less than a millisecond.
        assert!(text(&little).contains(&"cpu.max=1000 100000!".to_owned()));
    }

    #[test]
    fn only_the_own_cgroup_counts() {
        let cases = [
            ("0::/web", true),
            ("0::/web/worker", true),
            ("0::/website", false),
            ("0::/", false),
            ("0::/other/web", false),
            ("1:cpu:/web", false),
            ("", false),
        ];
        for (line, expected) in cases {
            assert_eq!(within(line, "web"), expected, "{line:?}");
        }
    }

    #[test]
    fn without_cgroup2_or_with_a_strange_name_there_is_none() {
        let nowhere = Path::new("/nonexistent");
        assert!(Cgroup::create(nowhere, "web").is_none());
        for name in ["", "..", "a/b", "cgroup.procs"] {
            assert!(
                Cgroup::create(Path::new("/sys/fs/cgroup"), name).is_none(),
                "{name:?}"
            );
        }
    }
}
