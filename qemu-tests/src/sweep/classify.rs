//! From what a boot with one changed byte showed to the class of that byte. Pure.
//!
//! The strict direction is the safe one: nothing is harmless without a reason that
//! was seen in that very boot, a boot image's byte that nobody refused is
//! unprotected even if the machine died of it, and whatever dm-verity should have
//! noticed and did not is missed.

use serde::{Deserialize, Serialize};

use super::region::Guard;
use crate::report::Failure;

/// What became of a changed byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Another copy was used, or written over it.
    Repaired,
    /// Somebody noticed before it was used, and did not boot.
    Refused,
    /// dm-verity noticed when it was read.
    DetectedAtRead,
    /// Nothing depends on it, for the reason that is told.
    Harmless,
    /// Only a signature on the boot image would have noticed.
    Unprotected,
    /// Its guard did not notice.
    Missed,
}

impl Class {
    /// All, in the order of the summary.
    pub const ALL: [Self; 6] = [
        Self::Repaired,
        Self::Refused,
        Self::DetectedAtRead,
        Self::Harmless,
        Self::Unprotected,
        Self::Missed,
    ];

    /// As the matrix shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repaired => "repaired",
            Self::Refused => "refused",
            Self::DetectedAtRead => "detected at read",
            Self::Harmless => "harmless",
            Self::Unprotected => "unprotected",
            Self::Missed => "MISSED",
        }
    }
}

/// What is asked of a boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Init said that all is ready.
    pub(crate) ready: bool,
    /// Why it is red; none if every check passed.
    pub(crate) failure: Option<Failure>,
    /// dm-verity's own words.
    pub(crate) verity: Option<String>,
    /// All layers were reported as verified against their root hashes.
    pub(crate) layers_verified: bool,
    /// The byte's sector was read; none if nobody looked.
    pub(crate) read: Option<bool>,
    /// The byte on the disk is what it was before it was changed.
    pub(crate) rewritten: bool,
    /// What came of reading every layer to its end; none if nobody asked.
    pub(crate) layers_read: Option<Result<(), String>>,
}

/// The class, and the reason for people.
pub(crate) fn classify(guard: Guard, facts: &Facts) -> (Class, String) {
    match guard {
        Guard::Verity => verity(facts),
        Guard::Parameters => parameters(facts),
        Guard::Copy { reserve } => copy(facts, reserve),
        Guard::Nothing => nothing(facts),
        Guard::Signature => signature(facts),
    }
}

fn line(facts: &Facts) -> String {
    facts.failure.as_ref().map_or_else(
        || "nothing failed".to_owned(),
        |failure| format!("{}: {}", failure.phase, failure.line),
    )
}

fn verity(facts: &Facts) -> (Class, String) {
    if let Some(line) = &facts.verity {
        return (Class::DetectedAtRead, line.clone());
    }
    match &facts.layers_read {
        Some(Err(error)) if error.contains("Input/output error") => (
            Class::DetectedAtRead,
            format!("reading the layer failed: {error}"),
        ),
        Some(Err(error)) => (
            Class::Missed,
            format!("the layers could not all be read, and dm-verity said nothing: {error}"),
        ),
        Some(Ok(())) => (
            Class::Missed,
            "every layer was read to its end, and dm-verity said nothing".to_owned(),
        ),
        None => (
            Class::Missed,
            format!("dm-verity said nothing; {}", line(facts)),
        ),
    }
}

fn parameters(facts: &Facts) -> (Class, String) {
    if let Some(line) = &facts.verity {
        return (Class::DetectedAtRead, line.clone());
    }
    match (&facts.failure, facts.layers_verified) {
        (None, true) => (
            Class::Harmless,
            match facts.read {
                Some(false) => {
                    "nobody read it: the parameters came from machine.json, the layer was verified against its root hash"
                }
                _ => {
                    "it was read and not used: the layer was verified against machine.json's root hash"
                }
            }
            .to_owned(),
        ),
        (None, false) => (
            Class::Missed,
            "not all layers were verified against their root hashes".to_owned(),
        ),
        (Some(_), _) => (
            Class::Missed,
            format!("the boot depended on it: {}", line(facts)),
        ),
    }
}

fn copy(facts: &Facts, reserve: bool) -> (Class, String) {
    let text = |text: &str| text.to_owned();
    match &facts.failure {
        Some(_) if facts.ready => (Class::Missed, line(facts)),
        Some(_) => (Class::Refused, line(facts)),
        None if facts.rewritten => (
            Class::Repaired,
            text("the firmware wrote it anew from the other copy"),
        ),
        None if facts.read == Some(false) => {
            (Class::Harmless, text("nobody read it; every check passed"))
        }
        None if reserve => (
            Class::Harmless,
            text("a reserve whose checksum is wrong now: the first copy is whole and was used"),
        ),
        None => (
            Class::Repaired,
            text("its checksum is wrong: the other copy was used"),
        ),
    }
}

fn nothing(facts: &Facts) -> (Class, String) {
    let text = |text: &str| text.to_owned();
    match &facts.failure {
        Some(_) if facts.ready => (Class::Missed, line(facts)),
        Some(_) => (Class::Refused, line(facts)),
        None if facts.rewritten => (Class::Repaired, text("it was written anew")),
        None if facts.read == Some(false) => {
            (Class::Harmless, text("nobody read it; every check passed"))
        }
        None if facts.layers_verified => (
            Class::Harmless,
            text(
                "read with its sector and not used: the same layers were verified, every check passed",
            ),
        ),
        None => (
            Class::Missed,
            text("not all layers were verified against their root hashes"),
        ),
    }
}

fn signature(facts: &Facts) -> (Class, String) {
    match &facts.failure {
        None if facts.rewritten => (
            Class::Repaired,
            "the firmware wrote it anew from another copy".to_owned(),
        ),
        None if facts.read == Some(false) => (
            Class::Harmless,
            "nobody read it; every check passed".to_owned(),
        ),
        None => (
            Class::Unprotected,
            "it was read, and the machine booted with it".to_owned(),
        ),
        Some(_) if facts.ready => (
            Class::Unprotected,
            format!(
                "the machine ran with it; noticed from outside only: {}",
                line(facts)
            ),
        ),
        Some(failure) if is_refusal(failure) => (Class::Refused, line(facts)),
        Some(_) => (
            Class::Unprotected,
            format!("nobody refused it, the machine died of it: {}", line(facts)),
        ),
    }
}

/// Whether a red boot's reason is that somebody looked and said no. A machine that
/// runs into the changed byte and falls over has refused nothing.
fn is_refusal(failure: &Failure) -> bool {
    let line = failure.line.as_str();
    let says = |words: &[&str]| words.iter().any(|word| line.contains(word));
    if says(&[
        "Exception Type",
        "ASSERT",
        "not ready after",
        "fell silent",
        "Kernel panic",
        "guest rebooted",
        "powered itself off",
        "while the guest ran",
    ]) {
        return false;
    }
    match failure.phase.as_str() {
        // They give up with a message when they cannot load what they read.
        "firmware" | "boot stub" => true,
        "kernel" => says(&["Initramfs unpacking failed", "corrupt", "crc error", "CRC"]),
        // Init's own errors: a machine.json that is none, a module that does not load,
        // a root hash that does not fit.
        phase => {
            phase.starts_with("init: ")
                && !says(&[
                    "Oops",
                    "BUG",
                    "segfault",
                    "general protection",
                    "Unable to handle",
                    "WARNING: ",
                    "Out of memory",
                    "blocked for more than",
                ])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn green() -> Facts {
        Facts {
            ready: true,
            layers_verified: true,
            read: Some(true),
            layers_read: Some(Ok(())),
            ..Facts::default()
        }
    }

    fn red(phase: &str, line: &str) -> Facts {
        Facts {
            failure: Some(Failure {
                check: "reached ready".into(),
                cause: String::new(),
                phase: phase.into(),
                line: line.into(),
                console: Vec::new(),
                next: String::new(),
            }),
            read: Some(true),
            ..Facts::default()
        }
    }

    fn class(guard: Guard, facts: &Facts) -> Class {
        classify(guard, facts).0
    }

    /// The classifier's reason to be: a green boot with a changed byte in a layer.
    #[test]
    fn a_layer_that_nobody_guards_is_missed() {
        let facts = green();
        assert_eq!(class(Guard::Verity, &facts), Class::Missed);
        let unread = Facts {
            read: Some(false),
            ..green()
        };
        assert_eq!(
            class(Guard::Verity, &unread),
            Class::Missed,
            "never harmless"
        );
        let unasked = Facts {
            layers_read: None,
            ..green()
        };
        assert_eq!(class(Guard::Verity, &unasked), Class::Missed);
        let silent = Facts {
            layers_read: Some(Err("no answer within 60 s".into())),
            ..green()
        };
        assert_eq!(class(Guard::Verity, &silent), Class::Missed);
        // The machine died of something, and dm-verity said nothing.
        let died = red("init: stack", "mount layer app: Invalid argument");
        assert_eq!(class(Guard::Verity, &died), Class::Missed);
    }

    #[test]
    fn what_verity_notices_is_detected_at_boot_or_when_all_is_read() {
        let boot = Facts {
            verity: Some("device-mapper: verity: 254:2: data block 5 is corrupted".into()),
            ..red("init: stack", "verity")
        };
        assert_eq!(class(Guard::Verity, &boot), Class::DetectedAtRead);
        let later = Facts {
            layers_read: Some(Err(
                "layer app: at byte 8192: Input/output error (os error 5)".into(),
            )),
            ..green()
        };
        assert_eq!(class(Guard::Verity, &later), Class::DetectedAtRead);
    }

    #[test]
    fn a_byte_that_only_a_signature_guards_is_never_harmless_once_it_was_read() {
        for (facts, expected) in [
            (green(), Class::Unprotected),
            (
                Facts {
                    read: None,
                    ..green()
                },
                Class::Unprotected,
            ),
            (
                Facts {
                    read: Some(false),
                    ..green()
                },
                Class::Harmless,
            ),
            (
                Facts {
                    rewritten: true,
                    ..green()
                },
                Class::Repaired,
            ),
            (
                Facts {
                    ready: true,
                    ..red("probe", "check \"page\": wrong")
                },
                Class::Unprotected,
            ),
            (
                red("firmware", "BdsDxe: failed to load Boot0001: Not Found"),
                Class::Refused,
            ),
            (
                red("boot stub", "EFI stub: ERROR: Failed to decompress kernel"),
                Class::Refused,
            ),
            (
                red("firmware", "!!!! X64 Exception Type - 06(#UD) !!!!"),
                Class::Unprotected,
            ),
            (
                red("boot stub", "not ready after 60 s; the last line is: x"),
                Class::Unprotected,
            ),
            (
                red(
                    "kernel",
                    "[    0.7] Initramfs unpacking failed: invalid magic",
                ),
                Class::Refused,
            ),
            (
                red(
                    "kernel",
                    "[    1.8] Kernel panic - not syncing: VFS: Unable to mount root fs",
                ),
                Class::Unprotected,
            ),
            (
                red(
                    "init: start",
                    "read /machine.json of the initrd: expected value",
                ),
                Class::Refused,
            ),
            (
                red(
                    "init: services",
                    "[    3.1] BUG: unable to handle page fault",
                ),
                Class::Unprotected,
            ),
            (
                red("init: modules", "[    2.1] WARNING: CPU: 0 PID: 1 at x.c:1"),
                Class::Unprotected,
            ),
        ] {
            assert_eq!(class(Guard::Signature, &facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn copies_repair_one_another() {
        let (first, reserve) = (
            Guard::Copy { reserve: false },
            Guard::Copy { reserve: true },
        );
        let rewritten = Facts {
            rewritten: true,
            ..green()
        };
        let unread = Facts {
            read: Some(false),
            ..green()
        };
        assert_eq!(class(first, &rewritten), Class::Repaired);
        assert_eq!(class(reserve, &rewritten), Class::Repaired);
        assert_eq!(class(first, &green()), Class::Repaired);
        assert_eq!(class(reserve, &green()), Class::Harmless);
        assert_eq!(class(reserve, &unread), Class::Harmless);
        let refused = red(
            "firmware",
            "BdsDxe: No bootable option or device was found.",
        );
        assert_eq!(class(first, &refused), Class::Refused);
        let ran = Facts {
            ready: true,
            ..refused
        };
        assert_eq!(class(first, &ran), Class::Missed);
    }

    #[test]
    fn harmless_needs_verified_layers() {
        let unverified = Facts {
            layers_verified: false,
            ..green()
        };
        for guard in [Guard::Nothing, Guard::Parameters] {
            assert_eq!(class(guard, &green()), Class::Harmless);
            assert_eq!(class(guard, &unverified), Class::Missed);
        }
        let died = red("init: stack", "x");
        assert_eq!(class(Guard::Parameters, &died), Class::Missed);
        assert_eq!(class(Guard::Nothing, &died), Class::Refused);
    }
}
