//! Reads machine.json, and refuses what the rest of init could not rely on.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};

use sha2::{Digest, Sha256};
use slipform_init::contract::machine::{
    Layer, MACHINE_SCHEMA, Machine, Scratch, State, StateDisk, StatePath, StatePolicy,
};
use slipform_init::contract::telemetry::Telemetry;

/// 60 layers and some dozens of services are a tenth of this.
const MAX_BYTES: u64 = 1 << 20;
const MAX_LAYERS: usize = 60;
const MAX_PATHS: usize = 64;

/// machine.json breaks a rule.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// Too long.
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not the JSON that it must be.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// From another time.
    #[error(
        "its schema is {0}, this init reads {MACHINE_SCHEMA}: build the image with the builder that this init came with"
    )]
    Schema(u32),
    /// A value out of its bounds.
    #[error("{key} is {value:?}, it must be {rule}")]
    Value {
        /// Where.
        key: String,
        /// What is there.
        value: String,
        /// What must be.
        rule: &'static str,
    },
}

/// Reads the file, at most [`MAX_BYTES`] of it.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// SHA-256 in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Parses and checks.
pub(crate) fn parse(bytes: &[u8]) -> Result<Machine, MachineError> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(MachineError::TooLong);
    }
    let machine: Machine = serde_json::from_slice(bytes)?;
    if machine.schema != MACHINE_SCHEMA {
        return Err(MachineError::Schema(machine.schema));
    }
    check(&machine)?;
    Ok(machine)
}

fn rule(
    fits: bool,
    key: impl Into<String>,
    value: &dyn Display,
    rule: &'static str,
) -> Result<(), MachineError> {
    if fits {
        Ok(())
    } else {
        Err(MachineError::Value {
            key: key.into(),
            value: value.to_string(),
            rule,
        })
    }
}

fn check(machine: &Machine) -> Result<(), MachineError> {
    let name = (1..=64).contains(&machine.name.len()) && machine.name.bytes().all(in_host_name);
    rule(
        name,
        "name",
        &machine.name,
        "1 to 64 letters, digits, '-', '.' or '_'",
    )?;
    let layers = machine.layers.len();
    rule(
        (1..=MAX_LAYERS).contains(&layers),
        "the number of layers",
        &layers,
        "1 to 60",
    )?;
    for (index, layer) in machine.layers.iter().enumerate() {
        check_layer(index, layer)?;
    }
    for name in machine.sysctl.keys() {
        rule(
            is_setting(name),
            "a key of sysctl",
            name,
            "a dotted name below /proc/sys",
        )?;
    }
    let terminal = machine.services.iter().find(|service| service.console);
    if let Some(service) = terminal.filter(|_| !machine.debug) {
        let key = format!("console of service {}", service.name);
        return rule(false, key, &true, "false without a debug layer");
    }
    machine.scratch.iter().try_for_each(check_scratch)?;
    machine.state.iter().try_for_each(check_state)?;
    if let Some((key, value, rule)) = machine.telemetry.as_ref().and_then(Telemetry::problem) {
        return Err(MachineError::Value {
            key: format!("telemetry: {key}"),
            value,
            rule,
        });
    }
    rule(
        machine.clock_floor >= 0,
        "clock_floor",
        &machine.clock_floor,
        "0 or above",
    )
}

fn check_layer(index: usize, layer: &Layer) -> Result<(), MachineError> {
    let key = |name| format!("layers[{index}].{name}");
    rule(
        is_name(&layer.name),
        key("name"),
        &layer.name,
        "1 to 64 printable ASCII characters",
    )?;
    let kind = &layer.filesystem;
    let fits =
        (1..=16).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
    rule(fits, key("filesystem"), kind, "1 to 16 letters or digits")?;
    let hash = &layer.root_hash;
    rule(
        hash.len() == 64 && is_hex(hash),
        key("root_hash"),
        hash,
        "64 lower-case hexadecimal digits",
    )?;
    let salt = &layer.salt;
    let fits = salt.len() <= 512 && salt.len().is_multiple_of(2) && is_hex(salt);
    rule(
        fits,
        key("salt"),
        salt,
        "an even number of lower-case hexadecimal digits, at most 512",
    )?;
    let blocks = layer.data_blocks;
    rule(
        (1..1 << 40).contains(&blocks),
        key("data_blocks"),
        &blocks,
        "1 to 2^40 - 1",
    )?;
    let offset = layer.hash_offset;
    let fits = offset.is_multiple_of(4096) && (blocks * 4096..1 << 53).contains(&offset);
    rule(
        fits,
        key("hash_offset"),
        &offset,
        "a multiple of 4096 behind the data, below 2^53",
    )
}

fn check_folder(key: &str, text: &str) -> Result<(), MachineError> {
    let path = Path::new(text);
    let up = path.components().any(|part| part == Component::ParentDir);
    let fits = path.is_absolute() && path.parent().is_some() && !up && !text.contains('\0');
    rule(fits, key, &text, "an absolute path below / without '..'")
}

fn check_mode(key: &str, mode: u32) -> Result<(), MachineError> {
    let text = format!("{mode:o}");
    rule(mode <= 0o7777, key, &text, "at most 7777 (octal)")
}

fn check_state(state: &State) -> Result<(), MachineError> {
    let size = state.size;
    rule(size < 1 << 50, "state.size", &size, "below 2^50")?;
    check_state_disk(state)?;
    let count = state.paths.len();
    rule(
        (1..=MAX_PATHS).contains(&count),
        "the number of state.paths",
        &count,
        "1 to 64",
    )?;
    for path in &state.paths {
        check_folder("state.paths", &path.path)?;
        check_mode("state.paths.mode", path.mode.unwrap_or(0))?;
        let quota = path.quota.unwrap_or(1);
        let fits = (1..1 << 50).contains(&quota);
        rule(fits, "state.paths.quota", &quota, "1 to 2^50 - 1")?;
        let within = |other: &&StatePath| {
            other.path != path.path && Path::new(&other.path).starts_with(&path.path)
        };
        if let Some(other) = state.paths.iter().find(within) {
            let bad = "a path that lies in no other";
            return rule(false, "state.paths", &other.path, bad);
        }
    }
    Ok(())
}

fn check_state_disk(state: &State) -> Result<(), MachineError> {
    let printable = "1 to 64 printable ASCII characters";
    match &state.disk {
        Some(StateDisk::Serial(serial)) => {
            rule(is_name(serial), "state.disk.serial", serial, printable)?;
        }
        Some(StateDisk::Label(label)) => {
            rule(is_name(label), "state.disk.label", label, printable)?;
            let fails = state.policy == StatePolicy::Fail;
            rule(fails, "state.policy", &"recreate", "fail, with a label")?;
        }
        None => {}
    }
    Ok(())
}

fn check_scratch(scratch: &Scratch) -> Result<(), MachineError> {
    check_folder("scratch.path", &scratch.path)?;
    rule(scratch.size > 0, "scratch.size", &scratch.size, "above 0")?;
    check_mode("scratch.mode", scratch.mode)
}

fn in_host_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(&byte)
}

/// Neither with dots nor with slashes may a name lead out of /proc/sys.
fn is_setting(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/*:@".contains(&byte);
    !name.is_empty()
        && name.bytes().all(plain)
        && !name.starts_with(['.', '/'])
        && !["..", "//"].iter().any(|bad| name.contains(bad))
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    const GOOD: &str = r#"{"schema":1,"name":"hello","version":"0.1.0","board":"qemu-x86_64",
        "layers":[{"name":"base","filesystem":"ext4","root_hash":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "salt":"00ff","data_blocks":16,"hash_offset":69632}],"sysctl":{"net.core.somaxconn":"1"},
        "state":{"size":67108864,"policy":"fail","version":1,"paths":[{"path":"/var/lib/a","owner":[1,2],"mode":488},{"path":"/var/lib/b"}]},
        "scratch":[{"path":"/var/cache","size":4096,"mode":493,"uid":0,"gid":0}],"clock_floor":1,"panic_seconds":5}"#;

    #[test]
    fn a_good_one_is_read() {
        let machine = parse(GOOD.as_bytes()).unwrap();
        assert_eq!(machine.layers[0].data_blocks, 16);
        assert_eq!(machine.scratch[0].mode, 0o755);
        assert_eq!(machine.state.unwrap().paths[0].owner, Some((1, 2)));
    }

    #[test]
    fn where_logs_go_is_checked_too() {
        let with = |telemetry: &str| {
            let text = GOOD.trim_end_matches('}').to_owned() + ",\"telemetry\":" + telemetry + "}";
            parse(text.as_bytes())
        };
        let sink = |host: &str, more: &str| {
            format!(
                r#"{{"sinks":[{{"name":"a","kind":"json-tcp","level":6,"peer":{{"host":"{host}","port":1{more}}}}}]}}"#
            )
        };
        let good = with(&sink("10.0.2.2", "")).unwrap();
        assert_eq!(good.telemetry.unwrap().sinks.len(), 1);
        for (text, expected) in [
            (sink("a\\r\\nb", ""), "telemetry: a: host is \"a\\r\\nb\""),
            (sink("a", r#","path":"x""#), "telemetry: a: path"),
            (
                sink("a", r#","headers":{"x":"\n"}"#),
                "telemetry: a: headers",
            ),
            (
                r#"{"spool_bytes":99999999999}"#.to_owned(),
                "telemetry: spool_bytes",
            ),
            (
                r#"{"metrics":{"address":"x","port":1}}"#.to_owned(),
                "telemetry: metrics.address",
            ),
            (r#"{"what":1}"#.to_owned(), "unknown field `what`"),
        ] {
            let error = with(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn digests_are_sha256() {
        assert_eq!(
            digest(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn bad_ones_name_key_value_and_rule() {
        let cases = [
            (r#""schema":1"#, r#""schema":2"#, "schema is 2"),
            (
                r#""schema":1"#,
                r#""schema":1,"what":1"#,
                "unknown field `what`",
            ),
            (
                r#""name":"hello""#,
                r#""name":"../x y""#,
                "name is \"../x y\"",
            ),
            (r#""name":"base""#, r#""name":"a\nb""#, "layers[0].name"),
            ("ext4", "ext4,x", "layers[0].filesystem"),
            (
                "0123456789abcdef\"",
                "0123456789abcdeF\"",
                "layers[0].root_hash",
            ),
            ("00ff", "00f", "layers[0].salt"),
            (
                "\"data_blocks\":16",
                "\"data_blocks\":0",
                "layers[0].data_blocks",
            ),
            ("69632", "69633", "layers[0].hash_offset"),
            ("69632", "4096", "layers[0].hash_offset"),
            ("net.core", "net..core", "sysctl"),
            ("net.core", "/net.core", "sysctl"),
            ("net.core", "net.//.core", "sysctl"),
            ("/var/cache", "/var/../etc", "scratch.path"),
            ("/var/lib/a", "/var/lib/../a", "state.paths"),
            ("/var/lib/a", "/", "state.paths"),
            (
                "/var/lib/a",
                "/var/lib/b/c",
                "state.paths is \"/var/lib/b/c\"",
            ),
            ("488", "4096", "state.paths.mode is \"10000\""),
            ("67108864", "1125899906842624", "state.size"),
            ("\"fail\"", "\"format\"", "unknown variant `format`"),
            ("/var/cache", "/", "scratch.path"),
            (
                "\"clock_floor\":1",
                "\"clock_floor\":-1",
                "clock_floor is \"-1\"",
            ),
        ];
        for (from, to, expected) in cases {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
        assert!(matches!(
            parse(&vec![b' '; MAX_BYTES as usize + 1]),
            Err(MachineError::TooLong)
        ));
        assert!(matches!(
            parse(&[b'['; 100_000]),
            Err(MachineError::Json(_))
        ));
    }

    #[test]
    fn no_text_can_break_the_reader() {
        fuzz(&[GOOD.as_bytes()], |bytes, _| {
            let _ = parse(bytes);
        });
    }
}
