//! What is on a disk of this host, and whether it may be overwritten: asked of
//! sysfs and procfs, as any user may.
//!
//! Source: Linux, Documentation/ABI/{testing,stable}/sysfs-block, proc(5).

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::OutputError;
use crate::base::bytes::human;
use crate::base::fs::At;

/// Where the kernel tells about its disks; elsewhere in tests.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            sys: PathBuf::from("/sys"),
            proc: PathBuf::from("/proc"),
        }
    }
}

/// What is to be overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The device, or a file.
    pub path: PathBuf,
    /// Vendor and model; empty for a file.
    pub model: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a sector; 0 for a file, which has none.
    pub sector_size: u32,
    /// Whether it is a medium that is taken out.
    pub removable: bool,
    /// What is on it.
    pub partitions: Vec<Part>,
    /// Why it must be left alone; nothing if it may be overwritten.
    pub in_use: Vec<String>,
}

/// A partition of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its device's name, such as `sda1`.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

impl Target {
    /// Looks at `path`: a whole disk, or with `file` a regular file.
    ///
    /// # Errors
    /// [`OutputError::Target`] for anything else; [`OutputError::Fs`].
    pub fn look(kernel: &Kernel, path: &Path, file: bool) -> Result<Self, OutputError> {
        let path = path.canonicalize().at("find", path)?;
        let found = fs::metadata(&path).at("look at", &path)?;
        if found.file_type().is_block_device() {
            let device = found.rdev();
            let number = (rustix::fs::major(device), rustix::fs::minor(device));
            return Self::block(kernel, &path, number);
        }
        if !found.is_file() {
            return refuse(&path, "it is neither a disk nor a file");
        }
        if !file {
            return refuse(
                &path,
                "it is a regular file; say --file if it is really meant, or use slipform export",
            );
        }
        Ok(Self {
            path,
            model: String::new(),
            size: found.len(),
            sector_size: 0,
            removable: false,
            partitions: Vec::new(),
            in_use: Vec::new(),
        })
    }

    /// Looks at the block device of this number.
    fn block(kernel: &Kernel, path: &Path, number: (u32, u32)) -> Result<Self, OutputError> {
        let link = kernel
            .sys
            .join(format!("dev/block/{}:{}", number.0, number.1));
        let folder = link.canonicalize().at("find", &link)?;
        if folder.join("partition").exists() {
            let disk = folder.parent().map(name_of).unwrap_or_default();
            let why = format!("it is a partition; name the whole disk, /dev/{disk}");
            return refuse(path, &why);
        }
        if text(&folder, "ro") == "1" {
            return refuse(path, "it is read-only; take off its write protection");
        }
        let model = format!(
            "{} {}",
            text(&folder, "device/vendor"),
            text(&folder, "device/model")
        );
        let parts = partitions(&folder);
        let mut in_use = Vec::new();
        for part in std::iter::once(&folder).chain(&parts) {
            used(kernel, part, &mut in_use, 0);
        }
        Ok(Self {
            path: path.to_owned(),
            model: model.trim().to_owned(),
            size: size(&folder),
            sector_size: number_in(&folder, "queue/logical_block_size") as u32,
            removable: text(&folder, "removable") == "1",
            partitions: parts
                .iter()
                .map(|part| Part {
                    name: name_of(part),
                    size: size(part),
                })
                .collect(),
            in_use,
        })
    }

    /// Whether a disk of `size` bytes in sectors of `sector_size` may be written there.
    ///
    /// # Errors
    /// [`OutputError::Target`] with what stands against it.
    pub fn check(&self, size: u64, sector_size: u32) -> Result<(), OutputError> {
        if !self.in_use.is_empty() {
            let why = format!(
                "it is in use: {}; free it, or name another disk",
                self.in_use.join(", ")
            );
            return refuse(&self.path, &why);
        }
        if self.size < size {
            let why = format!(
                "it has {} ({} bytes), and the image needs {} ({size} bytes); take a larger disk",
                human(self.size),
                self.size,
                human(size)
            );
            return refuse(&self.path, &why);
        }
        if !matches!(self.sector_size, 0) && self.sector_size != sector_size {
            let why = format!(
                "it has sectors of {} bytes, and the image is for {sector_size}; cast it for a board with sector-size = {0}",
                self.sector_size
            );
            return refuse(&self.path, &why);
        }
        Ok(())
    }
}

fn refuse<T>(path: &Path, why: &str) -> Result<T, OutputError> {
    Err(OutputError::Target {
        path: path.to_owned(),
        why: why.to_owned(),
    })
}

/// A file of a device's folder, without blanks around it; empty if there is none.
fn text(folder: &Path, name: &str) -> String {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
    text.trim().to_owned()
}

fn number_in(folder: &Path, name: &str) -> u64 {
    text(folder, name).parse().unwrap_or(0)
}

/// Bytes of a device: sysfs counts 512, whatever its sectors are.
fn size(folder: &Path) -> u64 {
    number_in(folder, "size").saturating_mul(512)
}

fn name_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn partitions(folder: &Path) -> Vec<PathBuf> {
    let mut found = entries(folder);
    found.retain(|path| path.join("partition").exists());
    // By number, not by name: sda10 is behind sda9.
    found.sort_by_key(|path| number_in(path, "partition"));
    found
}

/// How many devices may be stacked on one another.
const DEPTH: usize = 16;

/// Says how a disk or partition is in use, and what is built on it.
fn used(kernel: &Kernel, folder: &Path, uses: &mut Vec<String>, depth: usize) {
    let (name, number) = (name_of(folder), text(folder, "dev"));
    let mounts = fs::read_to_string(kernel.proc.join("self/mountinfo")).unwrap_or_default();
    for line in mounts.lines() {
        let Some((mount, rest)) = line.split_once(" - ") else {
            continue;
        };
        let fields: Vec<&str> = mount.split(' ').collect();
        // Some file systems have a number of their own: their source names the device.
        let source = rest.split(' ').nth(1).unwrap_or_default();
        let (Some(at), Some(place)) = (fields.get(2), fields.get(4)) else {
            continue;
        };
        if *at == number || is_device(source, &name) {
            let system = if *place == "/" {
                ", this system's root"
            } else {
                ""
            };
            uses.push(format!("{name} is mounted on {place}{system}"));
        }
    }
    let swaps = fs::read_to_string(kernel.proc.join("swaps")).unwrap_or_default();
    for line in swaps.lines().skip(1) {
        let source = line.split_whitespace().next().unwrap_or_default();
        if is_device(source, &name) {
            uses.push(format!("{name} is swap"));
        }
    }
    for holder in entries(&folder.join("holders")) {
        let called = text(&holder, "dm/name");
        let kind = if called.is_empty() {
            "array or cache"
        } else {
            "device mapper, LVM or encryption"
        };
        let called = if called.is_empty() {
            name_of(&holder)
        } else {
            called
        };
        uses.push(format!("{name} is part of {called} ({kind})"));
        if depth < DEPTH {
            used(kernel, &holder, uses, depth + 1);
        }
    }
}

/// Whether a path names the device: by its name, or by a link to it.
fn is_device(source: &str, name: &str) -> bool {
    let Some(short) = source.strip_prefix("/dev/") else {
        return false;
    };
    let real = fs::canonicalize(source).map(|path| name_of(&path));
    short == name || real.is_ok_and(|real| real == name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A host with a system disk `sda` (root on LVM, swap) and a stick `sdb`.
    fn host() -> (tempfile::TempDir, Kernel) {
        let folder = tempfile::tempdir().unwrap();
        let kernel = Kernel {
            sys: folder.path().join("sys"),
            proc: folder.path().join("proc"),
        };
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let device = |path: &str, number: &str, sectors: &str| {
            put(&format!("sys/devices/{path}/dev"), &format!("{number}\n"));
            put(&format!("sys/devices/{path}/size"), &format!("{sectors}\n"));
            fs::create_dir_all(kernel.sys.join("dev/block")).unwrap();
            let target = kernel.sys.join("devices").join(path);
            symlink(target, kernel.sys.join("dev/block").join(number)).unwrap();
        };
        for (disk, number, sectors) in [("sda", "8:0", "4194304"), ("sdb", "8:16", "2097152")] {
            device(disk, number, sectors);
            put(
                &format!("sys/devices/{disk}/queue/logical_block_size"),
                "512\n",
            );
            put(&format!("sys/devices/{disk}/device/vendor"), "ACME    \n");
            put(&format!("sys/devices/{disk}/device/model"), "Stick 3\n");
            put(
                &format!("sys/devices/{disk}/removable"),
                if disk == "sdb" { "1\n" } else { "0\n" },
            );
            put(&format!("sys/devices/{disk}/ro"), "0\n");
        }
        for (part, number) in [
            ("sda/sda1", "8:1"),
            ("sda/sda2", "8:2"),
            ("sdb/sdb10", "8:26"),
            ("sdb/sdb9", "8:25"),
        ] {
            device(part, number, "2048");
            let digits = part.rsplit(char::is_alphabetic).next().unwrap();
            put(&format!("sys/devices/{part}/partition"), digits);
        }
        device("dm-0", "253:0", "1024");
        put("sys/devices/dm-0/dm/name", "vg-root\n");
        let holders = kernel.sys.join("devices/sda/sda1/holders");
        fs::create_dir_all(&holders).unwrap();
        symlink(kernel.sys.join("devices/dm-0"), holders.join("dm-0")).unwrap();
        put(
            "proc/self/mountinfo",
            "21 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n22 21 0:5 / /proc rw - proc proc rw\n",
        );
        put(
            "proc/swaps",
            "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n",
        );
        (folder, kernel)
    }

    #[test]
    fn a_free_disk_is_told_with_all_that_is_on_it() {
        let (_folder, kernel) = host();
        let target = Target::block(&kernel, Path::new("/dev/sdb"), (8, 16)).unwrap();
        assert_eq!(target.model, "ACME Stick 3");
        assert_eq!(
            (target.size, target.sector_size, target.removable),
            (1 << 30, 512, true)
        );
        let names: Vec<&str> = target
            .partitions
            .iter()
            .map(|part| part.name.as_str())
            .collect();
        assert_eq!(names, ["sdb9", "sdb10"]);
        assert_eq!(target.in_use, Vec::<String>::new());
        target.check(1 << 30, 512).unwrap();
        let error = |size, sector| target.check(size, sector).unwrap_err().to_string();
        assert!(error((1 << 30) + 512, 512).contains("take a larger disk"));
        assert!(error(512, 4096).contains("sector-size = 512"));
    }

    #[test]
    fn a_disk_in_use_is_refused_whatever_uses_it() {
        let (folder, kernel) = host();
        let target = Target::block(&kernel, Path::new("/dev/sda"), (8, 0)).unwrap();
        assert_eq!(
            target.in_use,
            [
                "sda1 is part of vg-root (device mapper, LVM or encryption)",
                "dm-0 is mounted on /, this system's root",
                "sda2 is swap",
            ]
        );
        assert!(
            target
                .check(1, 512)
                .unwrap_err()
                .to_string()
                .contains("in use")
        );
        // btrfs: its mounts have numbers of no device.
        let mount = "30 21 0:40 / /mnt rw - btrfs /dev/sdb9 rw\n";
        fs::write(folder.path().join("proc/self/mountinfo"), mount).unwrap();
        let target = Target::block(&kernel, Path::new("/dev/sdb"), (8, 16)).unwrap();
        assert_eq!(target.in_use, ["sdb9 is mounted on /mnt"]);
        // A raid's member has a holder without a device mapper's name.
        let holders = kernel.sys.join("devices/sdb/holders");
        fs::create_dir_all(holders.join("md0")).unwrap();
        let target = Target::block(&kernel, Path::new("/dev/sdb"), (8, 16)).unwrap();
        assert_eq!(target.in_use[0], "sdb is part of md0 (array or cache)");
    }

    #[test]
    fn partitions_and_read_only_disks_and_files_are_refused() {
        let (folder, kernel) = host();
        let error = |result: Result<Target, OutputError>| result.unwrap_err().to_string();
        let partition = Target::block(&kernel, Path::new("/dev/sdb9"), (8, 25));
        assert!(error(partition).contains("name the whole disk, /dev/sdb"));
        fs::write(kernel.sys.join("devices/sdb/ro"), "1\n").unwrap();
        let protected = Target::block(&kernel, Path::new("/dev/sdb"), (8, 16));
        assert!(error(protected).contains("read-only"));
        let file = folder.path().join("file");
        fs::write(&file, [0; 1000]).unwrap();
        assert!(error(Target::look(&kernel, &file, false)).contains("--file"));
        assert_eq!(Target::look(&kernel, &file, true).unwrap().size, 1000);
        assert!(error(Target::look(&kernel, folder.path(), true)).contains("neither"));
    }
}
