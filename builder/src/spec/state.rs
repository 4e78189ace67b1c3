//! `[state]`: raw to checked.

use std::path::Path;

use slipform_init::contract::machine::{STATE_NAME, StateDisk, StatePolicy, project_of};

use crate::base::bytes;

use super::check::Source;
use super::image::{ScratchSpec, StatePathSpec, StateSpec};
use super::raw::{RawState, RawStateDisk, RawStatePath, RawStatePolicy};
use super::{SpecError, values};

/// What a file system with a journal needs, and room to be of use.
const LEAST: u64 = 16 << 20;
const MOST: u64 = 1 << 50;
/// A quota of less is a mistake.
const LEAST_QUOTA: u64 = 1 << 20;
const MOST_PATHS: usize = 64;
/// What virtio and NVMe have room for.
const LONGEST_SERIAL: usize = 20;
/// What ext4 has room for.
const LONGEST_LABEL: usize = 16;
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
        let project = |path: &StatePathSpec| path.quota.map(|_| project_of(&path.path));
        let twin = |other: &&StatePathSpec| project(other) == project(&path);
        if let Some(other) = paths.iter().find(twin).filter(|_| path.quota.is_some()) {
            return Err(fail(format!(
                "paths: '{}' and '{}' would be counted as one, by chance; call one of them otherwise",
                path.path, other.path
            )));
        }
        paths.push(path);
    }
    let policy = match raw.policy {
        None | Some(RawStatePolicy::Fail) => StatePolicy::Fail,
        Some(RawStatePolicy::Recreate) => StatePolicy::Recreate,
    };
    let disk = raw.disk.map(|raw| disk(raw, policy)).transpose();
    let disk = disk.map_err(|m| fail(format!("disk: {m}")))?;
    Ok(StateSpec {
        size: size.next_multiple_of(1 << 20),
        policy,
        version,
        paths,
        disk,
    })
}

fn disk(raw: RawStateDisk, policy: StatePolicy) -> Result<StateDisk, String> {
    let plain = |name: &str, most| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=most).contains(&name.len()) && name.bytes().all(letter)
    };
    let no = |name: &str, kind, most| {
        format!("'{name}' is no {kind}; write 1 to {most} letters, digits, '-' or '_'")
    };
    match (raw.serial, raw.label) {
        (Some(serial), None) if plain(&serial, LONGEST_SERIAL) => Ok(StateDisk::Serial(serial)),
        (Some(serial), None) => Err(no(&serial, "serial number", LONGEST_SERIAL)),
        // The label of every state that init made: another machine's, as likely as not.
        (None, Some(label)) if label == STATE_NAME => {
            Err(format!("'{label}' is what every boot disk's own state is called; choose another label"))
        }
        (None, Some(label)) if !plain(&label, LONGEST_LABEL) => {
            Err(no(&label, "label", LONGEST_LABEL))
        }
        (None, Some(_)) if policy == StatePolicy::Recreate => Err(
            "what bears a label was made by somebody and is never formatted over; leave policy = \"recreate\" out, or name the disk by serial"
                .to_owned(),
        ),
        (None, Some(label)) => Ok(StateDisk::Label(label)),
        _ => Err("name it by either serial or label".to_owned()),
    }
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
        quota: raw.quota.as_deref().map(quota).transpose()?,
        path,
    })
}

fn quota(text: &str) -> Result<u64, String> {
    let bytes = bytes::size(text).map_err(|m| format!("quota: {m}"))?;
    if !(LEAST_QUOTA..=MOST).contains(&bytes) {
        return Err(format!(
            "quota: {bytes} bytes are too few or too many; write \"1MiB\" to \"1024TiB\""
        ));
    }
    Ok(bytes)
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
