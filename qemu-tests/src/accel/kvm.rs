//! The KVM probe: a guest of a few bytes that must count and then write to its
//! serial port. It is its own firmware, so it depends on nothing but QEMU.

use std::fs::OpenOptions;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machine::process::{Process, Start};
use crate::machine::qmp::Monitor;
use crate::machine::sockets::{Channel, Sockets};
use crate::plan::Emulator;

/// What the guest writes.
const WORD: &[u8] = b"slipform\n";
/// Smallest image that `-bios` takes.
const ROM_SIZE: usize = 64 << 10;
/// Where the code lies; the processor starts at 0xfff0 (Intel SDM vol. 3, 10.1.4).
const CODE_AT: usize = 0xff00;

/// 16-bit code, its end the zero-terminated [`WORD`].
const CODE: &[u8] = &[
    0xfa, // cli
    0x31, 0xc0, // xor ax, ax
    0x66, 0xb9, 0x40, 0x42, 0x0f, 0x00, // mov ecx, 1000000
    0x40, // count: inc ax
    0x66, 0x49, // dec ecx
    0x75, 0xfb, // jnz count
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xbe, 0x20, 0xff, // mov si, 0xff20
    0x2e, 0xac, // next: cs lodsb
    0x08, 0xc0, // or al, al
    0x74, 0x03, // jz done
    0xee, // out dx, al
    0xeb, 0xf7, // jmp next
    0xf4, // done: hlt
    0xeb, 0xfd, // jmp done
];
/// Where the code looks for the word.
const WORD_AT: usize = 0xff20;
/// `jmp 0xff00` at the reset vector.
const RESET: &[u8] = &[0xe9, 0x0d, 0xff];

/// The whole ROM.
pub(crate) fn rom() -> Vec<u8> {
    let mut rom = vec![0; ROM_SIZE];
    for (at, bytes) in [(CODE_AT, CODE), (WORD_AT, WORD), (0xfff0, RESET)] {
        rom[at..at + bytes.len()].copy_from_slice(bytes);
    }
    rom
}

/// Whether KVM runs a guest here within the limit.
///
/// # Errors
/// What was seen instead, for people.
pub(crate) fn probe(device: &Path, emulator: &Emulator, limit: Duration) -> Result<(), String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map_err(|error| {
            format!(
                "{} cannot be opened for reading and writing: {error}",
                device.display()
            )
        })?;
    run(emulator, "kvm", "host", limit)
}

/// Starts the guest with an accelerator and waits for its word.
fn run(emulator: &Emulator, accel: &str, cpu: &str, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let sockets = Sockets::create().map_err(|error| text(&error))?;
    let dir = sockets.dir.path();
    let bios = dir.join("probe.rom");
    std::fs::write(&bios, rom()).map_err(|error| text(&error))?;
    let mut argv = emulator.command.clone();
    for word in "-nodefaults -no-user-config -display none -machine q35 -m 64M".split(' ') {
        argv.push(word.into());
    }
    for (option, value) in [("-accel", accel), ("-cpu", cpu)] {
        argv.push(option.into());
        argv.push(value.into());
    }
    argv.push("-bios".into());
    argv.push(bios.into());
    for channel in [Channel::Console, Channel::Monitor] {
        let path = channel.path(dir);
        argv.push("-chardev".into());
        argv.push(format!("socket,id={},path={}", channel.name(), path.display()).into());
    }
    for word in "-serial chardev:console -mon chardev=qmp,mode=control".split(' ') {
        argv.push(word.into());
    }
    let stderr = dir.join("stderr");
    let environment: Vec<_> = emulator
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut process = Process::spawn(&Start {
        argv: &argv,
        environment: &environment,
        stderr: &stderr,
        remove: &[dir],
    })
    .map_err(|error| text(&error))?;
    let seen = watch(&sockets, &mut process, deadline);
    process.kill();
    seen.map_err(|how| {
        let words = std::fs::read(&stderr).unwrap_or_default();
        let words = String::from_utf8_lossy(&words[..words.len().min(300)])
            .trim()
            .replace('\n', "; ");
        let words = if words.is_empty() {
            words
        } else {
            format!(" ({words})")
        };
        format!("the probe's guest did not run: {how}{words}")
    })
}

/// The guest's word on the serial port, then the monitor's word that it still runs.
fn watch(sockets: &Sockets, process: &mut Process, deadline: Instant) -> Result<(), String> {
    let mut console = sockets.accept(Channel::Console, deadline, &mut || process.exited())?;
    let monitor = sockets.accept(Channel::Monitor, deadline, &mut || process.exited())?;
    let mut heard = Vec::new();
    let mut chunk = [0; 64];
    while !heard.windows(WORD.len()).any(|window| window == WORD) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || heard.len() > 4096 {
            return Err("it hung: nothing on its serial port in time".to_owned());
        }
        console
            .set_read_timeout(Some(left))
            .map_err(|error| error.to_string())?;
        match console.read(&mut chunk) {
            Ok(0) => {
                std::thread::sleep(Duration::from_millis(50));
                let how = process
                    .exited()
                    .unwrap_or_else(|| "a closed console".to_owned());
                return Err(format!("QEMU ended with {how}"));
            }
            Ok(read) => heard.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err("it hung: nothing on its serial port in time".to_owned()),
        }
    }
    let (sender, _events) = sync_channel(16);
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(100));
    let mut monitor = Monitor::start(monitor, sender, left).map_err(|error| error.to_string())?;
    let status = monitor
        .execute("query-status", None)
        .map_err(|error| error.to_string())?;
    match status.get("running").and_then(Value::as_bool) {
        Some(true) => Ok(()),
        _ => Err(format!("its state is {}", status["status"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_word_and_reset_vector_do_not_overlap() {
        assert!(CODE_AT + CODE.len() <= WORD_AT);
        assert!(WORD_AT + WORD.len() < 0xfff0);
        let rom = rom();
        assert_eq!(rom.len(), ROM_SIZE);
        // The jump is relative to the instruction behind it, modulo 64 KiB.
        let jump = u16::from_le_bytes([rom[0xfff1], rom[0xfff2]]);
        assert_eq!(usize::from(0xfff3_u16.wrapping_add(jump)), CODE_AT);
        // The word is zero-terminated, and the code loads its offset.
        assert_eq!(rom[WORD_AT + WORD.len()], 0);
        let load = CODE.windows(3).find(|window| window[0] == 0xbe);
        assert_eq!(load, Some(&[0xbe, 0x20, 0xff][..]));
    }
}
