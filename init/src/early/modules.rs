//! Loads the board's modules, in the order of the builder's lists.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::{MODULES_DIR, MODULES_LATE, MODULES_LIST};

use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::module;
use crate::turn::Report;

/// Thousands of modules.
const MAX_LIST_BYTES: u64 = 64 * 1024;
/// How the name of a module ends that is not compressed.
const PLAIN: &str = ".ko";

/// A line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    file: &'a str,
    parameters: &'a str,
}

/// Loads those that the boot stands on, and opens the late ones: their files go with the
/// initrd. A module that is missing or that the kernel refuses is reported by name and left
/// out: a machine that needed it will say so in a later step, and one that has no such
/// device goes on. Only a list that cannot be read ends the boot.
pub(crate) fn load(report: &mut Reporter) -> Result<Late, BootError> {
    let mut tally = Tally::default();
    let open = |entry| Held::open(Path::new(MODULES_DIR), entry);
    let (early, late) = (list(MODULES_LIST)?, list(MODULES_LATE)?);
    for found in entries(&early).map(open) {
        tally.load(found, report);
    }
    report.note(&format!("modules: {}", tally.tell()));
    let waiting = entries(&late).map(open).collect();
    Ok(Late { waiting, tally })
}

/// Modules that no service waits for: the main loop loads them, one a turn.
#[derive(Debug)]
pub(crate) struct Late {
    waiting: VecDeque<Result<Held, (String, io::Error)>>,
    /// Of the early ones, too: a late one may stand on one that found no device.
    tally: Tally,
}

impl Late {
    /// Whether there is none left.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Loads the next one; true if it was the last.
    pub(crate) fn load_next(&mut self, report: &mut Reporter) -> bool {
        let Some(found) = self.waiting.pop_front() else {
            return false;
        };
        self.tally.load(found, report);
        if self.waiting.is_empty() {
            report.note(&format!("modules, late ones too: {}", self.tally.tell()));
        }
        self.waiting.is_empty()
    }
}

/// A module's open file.
#[derive(Debug)]
pub(super) struct Held {
    name: String,
    parameters: String,
    file: File,
}

impl Held {
    /// The file of a line of a list.
    pub(super) fn in_folder(folder: &Path, line: &str) -> Result<Self, (String, io::Error)> {
        Self::open(folder, entry(line))
    }

    fn open(
        folder: &Path,
        entry: Result<Entry<'_>, (&str, io::Error)>,
    ) -> Result<Self, (String, io::Error)> {
        let entry = entry.map_err(|(name, error)| (name.to_owned(), error))?;
        let file = File::open(folder.join(entry.file))
            // Without its number: for a module, ENOENT is an unknown symbol (init_module(2)).
            .map_err(|error| (entry.file.to_owned(), io::Error::other(error.to_string())))?;
        Ok(Self {
            name: entry.file.to_owned(),
            parameters: entry.parameters.to_owned(),
            file,
        })
    }
}

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    loaded: usize,
    absent: Vec<String>,
}

impl Tally {
    /// Loads it, and reports what went wrong.
    pub(super) fn load(
        &mut self,
        found: Result<Held, (String, io::Error)>,
        report: &mut dyn Report,
    ) {
        let result = found.and_then(|held| {
            module::load(&held.file, !held.name.ends_with(PLAIN), &held.parameters)
                .map_err(|error| (held.name.clone(), error))?;
            Ok(held.name)
        });
        if let Some((file, error)) = self.count(result) {
            report.event(Event::Error {
                phase: Phase::Modules,
                what: format!("load kernel module {file}"),
                why: error.to_string(),
            });
        }
    }

    /// Gives back what is to be reported.
    fn count(
        &mut self,
        result: Result<String, (String, io::Error)>,
    ) -> Option<(String, io::Error)> {
        let number = result.as_ref().err().and_then(|(_, e)| e.raw_os_error());
        match (result, number) {
            (Ok(_), _) | (Err(_), Some(libc::EEXIST)) => self.loaded += 1,
            // The driver looked and found nothing of its kind, or not this kind of processor.
            (Err((file, _)), Some(libc::ENODEV)) => self.absent.push(file),
            // It misses a symbol of one that was left out: it drives devices on a bus that is
            // not here (a cloud's, in the boot test).
            (Err((file, _)), Some(libc::ENOENT)) if !self.absent.is_empty() => {
                self.absent.push(file);
            }
            (Err(failed), _) => return Some(failed),
        }
        None
    }

    pub(super) fn tell(&self) -> String {
        let without = match self.absent.is_empty() {
            true => String::new(),
            false => format!(", no device for {}", self.absent.join(", ")),
        };
        format!("{} loaded{without}", self.loaded)
    }
}

/// A list of the initrd; without it there are none (a kernel with everything built in).
fn list(path: &str) -> Result<String, BootError> {
    match read_list(Path::new(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| {
            let what = format!("read {path} of the initrd");
            BootError::new(Phase::Modules, what, error)
        }),
    }
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

/// The list's lines; a name that is no plain file name comes back as an error.
fn entries(list: &str) -> impl Iterator<Item = Result<Entry<'_>, (&str, io::Error)>> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(entry)
}

fn entry(line: &str) -> Result<Entry<'_>, (&str, io::Error)> {
    let (file, parameters) = line.split_once(' ').unwrap_or((line, ""));
    if file.contains('/') || file.starts_with('.') || file.contains('\0') {
        let why = "not a plain file name";
        return Err((file, io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    Ok(Entry {
        file,
        parameters: parameters.trim(),
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

    #[test]
    fn what_has_no_device_is_no_error_and_what_is_missing_is() {
        let mut tally = Tally::default();
        let os = |name: &str, code| Err((name.to_owned(), io::Error::from_raw_os_error(code)));
        let refused = |result: Option<(String, io::Error)>| result.map(|(name, _)| name);
        // Nothing was left out so far that could have the symbol.
        assert_eq!(
            refused(tally.count(os("a.ko", libc::ENOENT))),
            Some("a.ko".to_owned())
        );
        for result in [
            Ok("b.ko".to_owned()),
            os("c.ko", libc::EEXIST),
            os("bus.ko", libc::ENODEV),
            os("driver.ko", libc::ENOENT),
        ] {
            assert_eq!(refused(tally.count(result)), None);
        }
        assert_eq!(
            refused(tally.count(os("d.ko", libc::ENOEXEC))),
            Some("d.ko".to_owned())
        );
        assert_eq!(tally.tell(), "2 loaded, no device for bus.ko, driver.ko");
        // A file that is not there is told from a symbol that is not there.
        let gone = Held::in_folder(Path::new(MODULES_DIR), "gone.ko");
        let (name, error) = gone.unwrap_err();
        assert_eq!((name.as_str(), error.raw_os_error()), ("gone.ko", None));
    }
}
