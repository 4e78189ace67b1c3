//! A cgroup per service, where the kernel has cgroup2: no child escapes it, so the
//! end of a service is the end of all that it started (Linux, admin-guide/cgroup-v2).

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// A folder below the cgroup2 mount.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// Open for writing "0": who writes, joins.
    procs: File,
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
