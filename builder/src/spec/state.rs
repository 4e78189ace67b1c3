//! `[state]`: raw to checked.

use std::path::Path;

use slipform_init::contract::machine::StatePolicy;

use crate::base::bytes;

use super::check::Source;
use super::image::{ScratchSpec, StatePathSpec, StateSpec};
use super::raw::{RawState, RawStatePath, RawStatePolicy};
use super::{SpecError, values};

/// What a file system with a journal needs, and room to be of use.
const LEAST: u64 = 16 << 20;
const MOST: u64 = 1 << 50;
const MOST_PATHS: usize = 64;
/// What virtio and NVMe have room for.
const LONGEST_SERIAL: usize = 20;
/// Nothing at or below these is kept: the kernel's, and what is new at every boot.
const VOLATILE: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];
/// Nothing may lie over these; a folder below them may be kept.
const WHOLE: [&str; 7] = ["/", "/usr", "/etc", "/var", "/bin", "/sbin", "/lib"];

/// `scratch` is the image's other writable space.
pub(super) fn check(
    raw: RawState,
    scratch: &[ScratchSpec],
    source: &Source<'_>,
) -> Result<StateSpec, SpecError> {
    let fail = |m: String| source.near("[state]", format!("state: {m}"));
    let size = bytes::size(raw.size.as_deref().unwrap_or("64MiB"))
        .map_err(|m| fail(format!("size: {m}")))?;
    if !(LEAST..=MOST).contains(&size) {
        return Err(fail(format!(
            "size: {size} bytes are too few or too many; write \"16MiB\" to \"1024TiB\""
        )));
    }
    let version = raw.version.unwrap_or(1);
    if version == 0 {
        return Err(fail("version: 0 is none; count from 1".to_owned()));
    }
    if raw.paths.is_empty() || raw.paths.len() > MOST_PATHS {
        return Err(fail(format!(
            "paths: name 1 to {MOST_PATHS} folders that are kept, such as [\"/var/lib/app\"]; without any, leave [state] out"
        )));
    }
    let mut paths: Vec<StatePathSpec> = Vec::new();
    for raw in &raw.paths {
        let path = path(raw).map_err(|m| fail(format!("paths: {m}")))?;
        apart(&path.path, &paths, scratch).map_err(|m| fail(format!("paths: {m}")))?;
        paths.push(path);
    }
    let serial = raw.disk.map(|disk| disk.serial);
    let plain = |serial: &String| {
        (1..=LONGEST_SERIAL).contains(&serial.len())
            && serial
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if let Some(serial) = serial.as_ref().filter(|serial| !plain(serial)) {
        return Err(fail(format!(
            "disk: '{serial}' is no serial number; write 1 to {LONGEST_SERIAL} letters, digits, '-' or '_'"
        )));
    }
    Ok(StateSpec {
        size: size.next_multiple_of(1 << 20),
        policy: match raw.policy {
            None | Some(RawStatePolicy::Fail) => StatePolicy::Fail,
            Some(RawStatePolicy::Recreate) => StatePolicy::Recreate,
        },
        version,
        paths,
        serial,
    })
}

fn path(raw: &RawStatePath) -> Result<StatePathSpec, String> {
    let path = values::guest_path(&raw.path)?;
    let volatile = VOLATILE
        .iter()
        .any(|folder| Path::new(&path).starts_with(folder));
    if volatile || WHOLE.contains(&path.as_str()) {
        return Err(format!(
            "'{path}' cannot be kept; name the folder of one program, such as \"/var/lib/app\""
        ));
    }
    Ok(StatePathSpec {
        owner: raw.owner.as_deref().map(values::owner).transpose()?,
        mode: raw.mode.as_deref().map(values::mode).transpose()?,
        path,
    })
}

/// One folder is kept once, and nothing covers it.
fn apart(path: &str, others: &[StatePathSpec], scratch: &[ScratchSpec]) -> Result<(), String> {
    let within = |a: &str, b: &str| Path::new(a).starts_with(b);
    let nested = |other: &&StatePathSpec| within(path, &other.path) || within(&other.path, path);
    if let Some(other) = others.iter().find(nested) {
        return Err(format!(
            "'{path}' and '{}' are one folder, or one lies in the other; keep the outer one alone",
            other.path
        ));
    }
    match scratch.iter().find(|scratch| within(path, &scratch.path)) {
        Some(scratch) => Err(format!(
            "'{path}' would lie under the [[scratch]] '{}'; remove one of the two",
            scratch.path
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
