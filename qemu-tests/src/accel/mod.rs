//! Which accelerator runs the guest, and how slow that will be.
//!
//! A `/dev/kvm` that is there proves nothing: behind some hypervisors guests hang
//! in it or QEMU asserts. So a probe decides (`kvm`), in a process of its own and
//! under a time limit; anything but a clear success means TCG, with the reason said.

mod kvm;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::HarnessError;
use crate::plan::Emulator;

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelKind {
    /// Translated, in software.
    Tcg,
    /// By the processor.
    Kvm,
}

impl AccelKind {
    /// As QEMU and the report name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// An accelerator that was chosen, with the speed to expect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accel {
    /// Which.
    pub kind: AccelKind,
    /// Factor on every time limit: 1 is an ordinary machine of today with KVM.
    pub slowdown: f64,
}

/// TCG against the processor itself: a boot of the full stack takes six to eight
/// times as long (measured with QEMU 10, x86_64 on x86_64).
const TCG_FACTOR: f64 = 8.0;
/// What [`speed_loop`] takes on an idle 3 GHz core of 2022 (six cycles a round).
const REFERENCE: Duration = Duration::from_millis(4);
/// A host that seems slower than this is taken for this slow: limits must end.
const SLOWEST: f64 = 4.0;
/// How long the probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Chooses the accelerator.
///
/// `request` is `auto`, `tcg` or `kvm` (from `SLIPFORM_ACCEL` or a flag); `say`
/// gets one line with the choice and its reason.
///
/// # Errors
/// An unknown request, or `kvm` where the probe fails.
pub fn choose(
    request: &str,
    emulator: &Emulator,
    say: &dyn Fn(&str),
) -> Result<Accel, HarnessError> {
    let host = Host {
        device: Path::new("/dev/kvm"),
        virtualises: virtualises(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        limit: PROBE_LIMIT,
        slowness: slowness(),
    };
    choose_with(request, &host, emulator, say)
}

/// Whether the processor can run guests: it has Intel's `vmx` or AMD's `svm`
/// (`/proc/cpuinfo`, `flags`). Without them a `/dev/kvm` is a leftover or a trap
/// (a virtual machine whose host does not pass them on), and touching it can do harm.
fn virtualises(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| {
        line.split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    })
}

/// [`choose`] with another device in the place of `/dev/kvm`: for tests that must
/// not depend on the host's.
///
/// # Errors
/// As [`choose`].
pub fn choose_on(
    device: &Path,
    request: &str,
    emulator: &Emulator,
    say: &dyn Fn(&str),
) -> Result<Accel, HarnessError> {
    let host = Host {
        device,
        virtualises: true,
        limit: PROBE_LIMIT,
        slowness: slowness(),
    };
    choose_with(request, &host, emulator, say)
}

/// What the choice depends on, apart from the emulator.
#[derive(Debug)]
struct Host<'a> {
    device: &'a Path,
    virtualises: bool,
    limit: Duration,
    slowness: f64,
}

fn choose_with(
    request: &str,
    host: &Host<'_>,
    emulator: &Emulator,
    say: &dyn Fn(&str),
) -> Result<Accel, HarnessError> {
    let tcg = Accel {
        kind: AccelKind::Tcg,
        slowdown: TCG_FACTOR * host.slowness,
    };
    let kvm = Accel {
        kind: AccelKind::Kvm,
        slowdown: host.slowness,
    };
    let probe = || {
        // The probe's guest is a PC's, and so are the hosts.
        if let Some(guest) = emulator.guest().filter(|guest| *guest != "x86_64") {
            return Err(format!("the guest is {guest}, and the host is not"));
        }
        if !host.virtualises {
            return Err("the processor shows neither vmx nor svm, so it is not tried".to_owned());
        }
        kvm::probe(host.device, emulator, host.limit)
    };
    let works = || "a probe ran a guest in it".to_owned();
    let (accel, reason) = match request {
        "tcg" => (tcg, "asked for".to_owned()),
        "kvm" => {
            probe().map_err(|reason| HarnessError::KvmUnusable { reason })?;
            (kvm, works())
        }
        "auto" => match probe() {
            Ok(()) => (kvm, works()),
            Err(reason) => (tcg, format!("kvm cannot be used: {reason}")),
        },
        _ => {
            return Err(HarnessError::Plan {
                what: "accelerator".into(),
                value: format!("`{request}`"),
                rule: "it must be `auto`, `tcg` or `kvm`".into(),
                remedy: "set SLIPFORM_ACCEL to one of them, or unset it".into(),
            });
        }
    };
    say(&format!(
        "accelerator {} ({reason}); time limits x {:.1}",
        accel.kind.name(),
        accel.slowdown
    ));
    Ok(accel)
}

/// How much slower than the reference this host runs one thread now, 1 at least.
fn slowness() -> f64 {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            black_box(speed_loop(black_box(1)));
            start.elapsed()
        })
        .collect();
    times.sort();
    let median = times.get(2).copied().unwrap_or(REFERENCE);
    (median.as_secs_f64() / REFERENCE.as_secs_f64()).clamp(1.0, SLOWEST)
}

/// Two million dependent multiplications: the same code at every optimisation but none.
fn speed_loop(seed: u64) -> u64 {
    let mut x = seed;
    for _ in 0..2_000_000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        x ^= x >> 29;
    }
    x
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A script in QEMU's place: KVM itself must never be started by a test.
    fn fake(dir: &Path, script: &str) -> Emulator {
        let path = dir.join("fake-qemu");
        let text = format!("#!/bin/sh\n{script}\n");
        if let Err(error) = std::fs::write(&path, text)
            .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
        {
            panic!("{error}");
        }
        Emulator {
            command: vec!["/bin/sh".into(), path.into()],
            env: BTreeMap::new(),
            firmware_code: PathBuf::new(),
            firmware_vars: PathBuf::new(),
            ipxe: None,
            relay: Vec::new(),
            version: "fake".into(),
        }
    }

    fn tried(request: &str, device: bool, script: &str) -> (Result<Accel, HarnessError>, String) {
        let dir = match tempfile::tempdir() {
            Ok(dir) => dir,
            Err(error) => panic!("{error}"),
        };
        let path = dir.path().join("kvm");
        if device {
            drop(std::fs::write(&path, b""));
        }
        let said = RefCell::new(String::new());
        let host = Host {
            virtualises: true,
            device: &path,
            limit: Duration::from_millis(600),
            slowness: 1.5,
        };
        let result = choose_with(request, &host, &fake(dir.path(), script), &|line| {
            said.borrow_mut().push_str(line);
        });
        (result, said.into_inner())
    }

    #[test]
    fn without_the_device_nothing_is_started() {
        let (accel, said) = tried("auto", false, "exit 7");
        assert!(
            matches!(accel, Ok(Accel { kind: AccelKind::Tcg, slowdown, .. }) if slowdown == 12.0)
        );
        assert!(
            said.starts_with("accelerator tcg (kvm cannot be used: ")
                && said.contains("cannot be opened"),
            "{said}"
        );
    }

    #[test]
    fn a_qemu_that_asserts_refuses_or_hangs_means_tcg() {
        let table = [
            (
                "echo 'kvm_init: Assertion failed' >&2; kill -ABRT $$",
                "signal 6",
                "Assertion",
            ),
            (
                "echo 'failed to initialize kvm: Permission denied' >&2; exit 1",
                "exit status 1",
                "Permission denied",
            ),
            ("exit 0", "exit status 0", ""),
            ("exec sleep 60", "in time", ""),
        ];
        for (script, how, words) in table {
            let (accel, said) = tried("auto", true, script);
            assert!(
                matches!(
                    accel,
                    Ok(Accel {
                        kind: AccelKind::Tcg,
                        ..
                    })
                ),
                "{script}"
            );
            assert!(
                said.contains(how) && said.contains(words),
                "{script}: {said}"
            );
            let (accel, _) = tried("kvm", true, script);
            assert!(
                matches!(accel, Err(HarnessError::KvmUnusable { .. })),
                "{script}"
            );
        }
    }

    #[test]
    fn a_processor_without_the_extension_is_never_probed() {
        assert!(virtualises("processor: 0\nflags\t\t: fpu svm sse\n"));
        assert!(!virtualises("flags : fpu hypervisor\nvmx flags : vnmi\n"));
        assert!(!virtualises(""));
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("started");
        let emulator = fake(dir.path(), &format!("touch {}", mark.display()));
        let host = Host {
            device: Path::new("/dev/null"),
            virtualises: false,
            limit: Duration::from_secs(1),
            slowness: 1.0,
        };
        let accel = choose_with("auto", &host, &emulator, &|_| {}).unwrap();
        assert_eq!(accel.kind, AccelKind::Tcg);
        assert!(choose_with("kvm", &host, &emulator, &|_| {}).is_err());
        assert!(!mark.exists());
    }

    #[test]
    fn requests_are_checked() {
        let (accel, said) = tried("tcg", true, "exit 1");
        assert!(matches!(
            accel,
            Ok(Accel {
                kind: AccelKind::Tcg,
                ..
            })
        ));
        assert!(
            said.contains("asked for") && said.contains("x 12.0"),
            "{said}"
        );
        let (accel, _) = tried("hvf", true, "exit 1");
        let text = accel
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            text.contains("`hvf`") && text.contains("SLIPFORM_ACCEL"),
            "{text}"
        );
    }

    #[test]
    fn slowness_is_within_its_bounds() {
        let slowness = slowness();
        assert!((1.0..=SLOWEST).contains(&slowness), "{slowness}");
    }
}
