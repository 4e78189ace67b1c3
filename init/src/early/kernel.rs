//! The kernel's own settings: panic, clock, randomness, /proc/sys.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};

use slipform_init::contract::event::{Event, Phase};

use crate::power;
use crate::report::Reporter;
use crate::sys::clock;
use crate::turn::Report;

/// Writes a setting. Dots separate, unless the name is written with slashes
/// (sysctl(8)), as one of an interface with a dot in its name has to be.
fn set(name: &str, value: &str) -> io::Result<()> {
    let path = proc_path(name);
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn proc_path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => {
            // In the dotted form a slash stands for a dot.
            let swap = |letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            format!("/proc/sys/{}", name.chars().map(swap).collect::<String>())
        }
        _ => format!("/proc/sys/{name}"),
    }
}

/// A panic, and an oops, ends in a reboot: Debian's kernels would hang.
pub(crate) fn panic_policy(report: &mut Reporter) {
    let seconds = power::panic_seconds().to_string();
    for (name, value) in [
        ("kernel.panic", seconds.as_str()),
        ("kernel.panic_on_oops", "1"),
    ] {
        try_set(name, value, Phase::Start, report);
    }
}

/// The image's own settings.
pub(crate) fn settings(settings: &BTreeMap<String, String>, report: &mut Reporter) {
    for (name, value) in settings {
        try_set(name, value, Phase::Modules, report);
    }
}

fn try_set(name: &str, value: &str, phase: Phase, report: &mut Reporter) {
    if let Err(error) = set(name, value) {
        report.event(Event::Error {
            phase,
            what: format!("set sysctl {name} to {value:?}"),
            why: error.to_string(),
        });
    }
}

/// A clock that stands before the image was made is wrong: certificates would not be valid yet.
pub(crate) fn clock_floor(floor: i64, report: &mut Reporter) {
    let now = clock::wall_seconds();
    if now >= floor {
        return;
    }
    match clock::set_wall_seconds(floor) {
        Ok(()) => report.note(&format!(
            "clock: was {} seconds behind the image, set forward",
            floor - now
        )),
        Err(error) => report.event(Event::Error {
            phase: Phase::Start,
            what: format!("set the clock to {floor} seconds since 1970"),
            why: error.to_string(),
        }),
    }
}

/// Mixes what tells this machine and this boot from others into the kernel's pool,
/// without claiming that it is random. Nothing here waits.
pub(crate) fn seed(machine_digest: &str) {
    let serial = fs::read("/sys/class/dmi/id/product_serial").unwrap_or_default();
    let uuid = fs::read("/sys/class/dmi/id/product_uuid").unwrap_or_default();
    let times = [clock::since_boot(), clock::monotonic()]
        .map(|time| time.as_nanos().to_ne_bytes())
        .concat();
    let wall = clock::wall_seconds().to_ne_bytes();
    let mixed = [machine_digest.as_bytes(), &serial, &uuid, &times, &wall].concat();
    // It only ever adds to the pool; that it could not is no loss.
    let _ = OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .and_then(|mut pool| pool.write_all(&mixed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_as_in_sysctl() {
        for (name, path) in [
            ("kernel.panic", "/proc/sys/kernel/panic"),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
            ),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
            ),
            ("plain", "/proc/sys/plain"),
        ] {
            assert_eq!(proc_path(name), path);
        }
    }
}
