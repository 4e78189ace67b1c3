//! What the kernel tells of the machine: /proc and /sys. What is not there is left out;
//! every file is read to a limit.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::model::{Family, Kind};
use crate::sys::host;

/// Longest file.
const FILE_MAX: u64 = 64 * 1024;
/// Interfaces, disks, mounts: more are not told.
const ITEMS_MAX: usize = 64;
/// USER_HZ, which Linux has fixed for user space.
const TICKS: f64 = 100.0;

/// Where the kernel tells.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// proc(5).
    pub(crate) proc: PathBuf,
    /// sysfs(5).
    pub(crate) sys: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }
}

/// Of the machine as a whole.
pub(super) fn families(places: &Places) -> Vec<Family> {
    let mut families = machine(places);
    families.extend(network(places));
    families.extend(disks(places));
    families.extend(mounts(places));
    families
}

/// A file as text, to a limit; none if it cannot be read.
pub(crate) fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(FILE_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn number(path: &Path) -> Option<f64> {
    read(path)?.trim().parse().ok()
}

pub(super) fn gauge(name: &'static str, help: &'static str, value: f64) -> Family {
    Family::single(name, help, Kind::Gauge, value)
}

/// The value of a line `Name:   123 kB`, in bytes.
pub(crate) fn kibibytes(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let digits = line.trim_start_matches(':').trim().strip_suffix(" kB")?;
    digits.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

fn machine(places: &Places) -> Vec<Family> {
    let mut families = Vec::new();
    let memory = read(&places.proc.join("meminfo")).unwrap_or_default();
    let status = read(&places.proc.join("self/status")).unwrap_or_default();
    for (text, line, name, help) in [
        (
            &memory,
            "MemTotal",
            "slipform_memory_bytes",
            "Memory of the machine.",
        ),
        (
            &memory,
            "MemAvailable",
            "slipform_memory_available_bytes",
            "Memory that programs could get without swapping.",
        ),
        (
            &status,
            "VmRSS",
            "slipform_init_resident_bytes",
            "Resident memory of init.",
        ),
    ] {
        families.extend(kibibytes(text, line).map(|bytes| gauge(name, help, bytes)));
    }
    let load = read(&places.proc.join("loadavg")).unwrap_or_default();
    let load = load.split(' ').next().and_then(|word| word.parse().ok());
    families.extend(load.map(|load| gauge("slipform_load1", "Load over a minute.", load)));
    families.push(processor(places));
    families
}

fn processor(places: &Places) -> Family {
    let mut family = Family::new(
        "slipform_cpu_seconds_total",
        "Processor time of the machine by what it was spent on.",
        Kind::Counter,
    );
    let stat = read(&places.proc.join("stat")).unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let numbers = line.unwrap_or_default().split_ascii_whitespace();
    let modes = [
        "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal",
    ];
    for (mode, ticks) in modes.iter().zip(numbers) {
        if let Ok(ticks) = ticks.parse::<f64>() {
            family.add(vec![("mode", (*mode).to_owned())], ticks / TICKS);
        }
    }
    family
}

/// Columns of /proc/net/dev, 8 of receiving and 8 of sending, and what they count.
const NETWORK: [(usize, &str, &str); 8] = [
    (0, "slipform_network_receive_bytes_total", "Bytes received."),
    (
        1,
        "slipform_network_receive_packets_total",
        "Packets received.",
    ),
    (
        2,
        "slipform_network_receive_errors_total",
        "Packets received broken.",
    ),
    (
        3,
        "slipform_network_receive_drops_total",
        "Packets received and not taken.",
    ),
    (8, "slipform_network_transmit_bytes_total", "Bytes sent."),
    (
        9,
        "slipform_network_transmit_packets_total",
        "Packets sent.",
    ),
    (
        10,
        "slipform_network_transmit_errors_total",
        "Packets not sent for an error.",
    ),
    (
        11,
        "slipform_network_transmit_drops_total",
        "Packets not sent for want of room.",
    ),
];

fn network(places: &Places) -> Vec<Family> {
    // net is a link to self/net.
    let text = read(&places.proc.join("net/dev")).unwrap_or_default();
    let lines = text.lines().skip(2).take(ITEMS_MAX);
    let interfaces: Vec<(&str, Vec<f64>)> = lines
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let numbers = numbers.split_ascii_whitespace();
            let numbers = numbers.filter_map(|word| word.parse().ok()).collect();
            Some((name.trim(), numbers))
        })
        .collect();
    let families = NETWORK.iter().map(|&(column, name, help)| {
        let mut family = Family::new(name, help, Kind::Counter);
        for (name, numbers) in &interfaces {
            if let Some(&value) = numbers.get(column) {
                family.add(vec![("interface", (*name).to_owned())], value);
            }
        }
        family
    });
    families.collect()
}

fn disks(places: &Places) -> Vec<Family> {
    let counter = |name, help| Family::new(name, help, Kind::Counter);
    let mut read_bytes = counter("slipform_disk_read_bytes_total", "Bytes read from a disk.");
    let mut written = counter(
        "slipform_disk_written_bytes_total",
        "Bytes written to a disk.",
    );
    let mut busy = counter(
        "slipform_disk_io_seconds_total",
        "Time that a disk was busy.",
    );
    let mut names: Vec<String> = fs::read_dir(places.sys.join("block"))
        .into_iter()
        .flatten()
        .take(4 * ITEMS_MAX)
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            !["dm-", "loop", "ram", "zram", "md"]
                .iter()
                .any(|kind| name.starts_with(kind))
        })
        .collect();
    names.sort_unstable();
    for name in names.into_iter().take(ITEMS_MAX) {
        let stat = read(&places.sys.join("block").join(&name).join("stat")).unwrap_or_default();
        let numbers: Vec<f64> = stat
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        // Documentation/block/stat.rst: sectors of 512 bytes, milliseconds.
        for (column, factor, family) in [
            (2, 512.0, &mut read_bytes),
            (6, 512.0, &mut written),
            (9, 0.001, &mut busy),
        ] {
            if let Some(value) = numbers.get(column) {
                family.add(vec![("device", name.clone())], value * factor);
            }
        }
    }
    vec![read_bytes, written, busy]
}

/// File systems that can be written, and so can run full.
fn mounts(places: &Places) -> Vec<Family> {
    let gauge = |name, help| Family::new(name, help, Kind::Gauge);
    let mut size = gauge(
        "slipform_filesystem_size_bytes",
        "Size of a writable file system.",
    );
    let mut available = gauge(
        "slipform_filesystem_available_bytes",
        "Room that is left for programs.",
    );
    let mut files = gauge("slipform_filesystem_files_free", "Inodes that are left.");
    let table = read(&places.proc.join("self/mountinfo")).unwrap_or_default();
    let mut seen: Vec<&str> = Vec::new();
    for line in table.lines() {
        let Some((point, kind)) = writable(line) else {
            continue;
        };
        // The last mount on a point is the one that is seen; bind mounts tell the same.
        if seen.len() >= ITEMS_MAX || seen.contains(&point) {
            continue;
        }
        seen.push(point);
        let Ok(space) = host::space(Path::new(point)) else {
            continue;
        };
        if space.size == 0 {
            continue;
        }
        let label = || vec![("mount", point.to_owned()), ("type", kind.to_owned())];
        size.add(label(), space.size as f64);
        available.add(label(), space.available as f64);
        files.add(label(), space.free_files as f64);
    }
    vec![size, available, files]
}

/// Mount point and type of a line of mountinfo (proc(5)), if it is a tmpfs or on a
/// disk, and writable.
fn writable(line: &str) -> Option<(&str, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(4);
    let (point, options) = (fields.next()?, fields.next()?);
    let kind = file_system.split(' ').next()?;
    let fits = ["tmpfs", "ext4", "xfs", "btrfs", "vfat"].contains(&kind)
        && options.split(',').any(|option| option == "rw")
        && !point.contains('\\');
    fits.then_some((point, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn no_line_can_break_the_reader() {
        let seed = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - tmpfs /dev/root rw";
        fuzz(&[seed], |bytes, _| {
            let _ = writable(&String::from_utf8_lossy(bytes));
            let _ = kibibytes(&String::from_utf8_lossy(bytes), "36");
        });
    }
}
