//! What the image's links into /run point at.
//!
//! | file | content |
//! |---|---|
//! | `/run/slipform/hostname` | the image's name |
//! | `/run/slipform/machine-id` | 32 hexadecimal digits: of the firmware's UUID, else random for this boot |
//! | `/run/slipform/resolv.conf` | empty, until a lease names servers |
//! | `/run/slipform/last-boot` | how the last boot ended, and how many in a row were not healthy |
//! | `/run/lock` | a folder for all, as Debian's /var/lock expects |

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

use slipform_init::contract::event::{Event, Phase};

use crate::power::mark::Past;
use crate::report::Reporter;
use crate::sys::host;
use crate::turn::Report;

const FOLDER: &str = "/run/slipform";

/// Writes them; what fails is reported.
pub(crate) fn write(name: &str, report: &mut Reporter) {
    let hostname = name.replace('_', "-");
    let steps: [(&str, io::Result<()>); 6] = [
        (
            "make /run/slipform",
            DirBuilder::new().recursive(true).mode(0o755).create(FOLDER),
        ),
        (
            "write /run/slipform/hostname",
            fs::write("/run/slipform/hostname", format!("{hostname}\n")),
        ),
        ("set the host name", host::set_hostname(&hostname)),
        (
            "write /run/slipform/machine-id",
            machine_id().and_then(|id| fs::write("/run/slipform/machine-id", id + "\n")),
        ),
        (
            "write /run/slipform/resolv.conf",
            fs::write("/run/slipform/resolv.conf", ""),
        ),
        ("make /run/lock", lock_folder()),
    ];
    for (what, result) in steps {
        if let Err(error) = result {
            report.event(Event::Error {
                phase: Phase::Switch,
                what: what.to_owned(),
                why: error.to_string(),
            });
        }
    }
}

/// How the last boot ended, for services that want to know; nothing depends on it.
pub(crate) fn write_past(past: &Past) {
    let text = format!("{} {}\n", past.reason.name(), past.unhealthy);
    let _ = fs::write("/run/slipform/last-boot", text);
}

fn lock_folder() -> io::Result<()> {
    fs::create_dir("/run/lock")?;
    fs::set_permissions("/run/lock", Permissions::from_mode(0o1777))
}

fn machine_id() -> io::Result<String> {
    let firmware = fs::read_to_string("/sys/class/dmi/id/product_uuid").ok();
    if let Some(id) = firmware.as_deref().and_then(id_of_uuid) {
        return Ok(id);
    }
    let mut bytes = [0; 16];
    host::random(&mut bytes)?;
    // A random UUID's version and variant, as machine-id(5) has it.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A UUID's digits, unless the firmware only filled the field (all digits the same).
fn id_of_uuid(uuid: &str) -> Option<String> {
    let digits: String = uuid
        .trim()
        .chars()
        .filter(|&letter| letter != '-')
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    let first = digits.chars().next()?;
    let filled = digits.chars().all(|digit| digit == first);
    (digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) && !filled)
        .then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_real_uuid_becomes_the_machine_id() {
        let id = id_of_uuid("4C4C4544-0042-3510-8051-B4C04F4E4D31\n");
        assert_eq!(id.as_deref(), Some("4c4c4544004235108051b4c04f4e4d31"));
        for bad in [
            "",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "Not Settable",
            "1234",
        ] {
            assert_eq!(id_of_uuid(bad), None, "{bad}");
        }
    }
}
