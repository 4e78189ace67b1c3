//! Loads the board's modules, in the order of the builder's list.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::{MODULES_DIR, MODULES_LIST};

use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::module;
use crate::turn::Report;

/// Thousands of modules.
const MAX_LIST_BYTES: u64 = 64 * 1024;

/// A line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    file: &'a str,
    parameters: &'a str,
}

/// Loads them all. A module that is missing or that the kernel refuses is reported by
/// name and left out: a machine that needed it will say so in a later step, and one
/// that has no such device goes on. Only a list that cannot be read ends the boot.
pub(crate) fn load(report: &mut Reporter) -> Result<(), BootError> {
    let failed = |error| {
        BootError::new(
            Phase::Modules,
            format!("read {MODULES_LIST} of the initrd"),
            error,
        )
    };
    let list = match read_list(Path::new(MODULES_LIST)) {
        Ok(list) => list,
        // A kernel with everything built in.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let (mut loaded, mut absent) = (0, Vec::new());
    for entry in entries(&list) {
        match entry.and_then(|entry| load_one(&entry).map_err(|error| (entry.file, error))) {
            Ok(()) => loaded += 1,
            Err((_, error)) if error.raw_os_error() == Some(libc::EEXIST) => loaded += 1,
            // The driver looked and found nothing of its kind, or not this kind of processor.
            Err((file, error)) if error.raw_os_error() == Some(libc::ENODEV) => absent.push(file),
            // It misses a symbol of one that was left out: it drives devices on a bus that is
            // not here (a cloud's, in the boot test).
            Err((file, error)) if stands_on_absent(file, &error, &absent) => absent.push(file),
            Err((file, error)) => report.event(Event::Error {
                phase: Phase::Modules,
                what: format!("load kernel module {file}"),
                why: error.to_string(),
            }),
        }
    }
    let without = if absent.is_empty() {
        String::new()
    } else {
        format!(", no device for {}", absent.join(", "))
    };
    report.note(&format!("modules: {loaded} loaded{without}"));
    Ok(())
}

/// init_module(2): ENOENT is an unknown symbol, if the file itself is there.
fn stands_on_absent(file: &str, error: &io::Error, absent: &[&str]) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
        && !absent.is_empty()
        && Path::new(MODULES_DIR).join(file).exists()
}

fn read_list(path: &Path) -> io::Result<String> {
    let mut list = String::new();
    File::open(path)?
        .take(MAX_LIST_BYTES + 1)
        .read_to_string(&mut list)?;
    if list.len() as u64 > MAX_LIST_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {MAX_LIST_BYTES} bytes"),
        ));
    }
    Ok(list)
}

fn load_one(entry: &Entry<'_>) -> io::Result<()> {
    let file = File::open(Path::new(MODULES_DIR).join(entry.file))?;
    module::load(&file, entry.parameters)
}

/// The list's lines; a name that is no plain file name comes back as an error.
fn entries(list: &str) -> impl Iterator<Item = Result<Entry<'_>, (&str, io::Error)>> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (file, parameters) = line.split_once(' ').unwrap_or((line, ""));
            if file.contains('/') || file.starts_with('.') || file.contains('\0') {
                let why = "not a plain file name";
                return Err((file, io::Error::new(io::ErrorKind::InvalidInput, why)));
            }
            Ok(Entry {
                file,
                parameters: parameters.trim(),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_files_and_parameters() {
        let list = "virtio_blk.ko\n\n  dm-mod.ko  a=1 b=\"x y\" \nlast.ko";
        let all: Vec<_> = entries(list).map(Result::unwrap).collect();
        let entry = |file, parameters| Entry { file, parameters };
        assert_eq!(
            all,
            [
                entry("virtio_blk.ko", ""),
                entry("dm-mod.ko", "a=1 b=\"x y\""),
                entry("last.ko", "")
            ]
        );
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["../init", "/etc/x.ko", "a/b.ko", ".", "a\0.ko"] {
            let (file, _) = entries(name).next().unwrap().unwrap_err();
            assert_eq!(file, name);
        }
    }
}
