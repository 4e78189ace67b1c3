//! Loads the board's modules, in the order of the builder's lists.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::{MODULES_DIR, MODULES_LATE, MODULES_LIST};

use super::loader::Loader;
use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::module;
use crate::turn::{Report, Turn, Watched};

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
    Ok(Late::new(entries(&late).map(open).collect(), tally))
}

/// Modules that no service waits for: loaded beside the main loop, once it runs.
#[derive(Debug)]
pub(crate) struct Late {
    waiting: Vec<Result<Held, (String, io::Error)>>,
    loader: Option<Loader>,
    /// How long the machine is not called ready because of them.
    until: Option<Duration>,
    /// Of the early ones, too: a late one may stand on one that found no device.
    tally: Tally,
    over: bool,
    finished: bool,
}

impl Late {
    fn new(waiting: Vec<Result<Held, (String, io::Error)>>, tally: Tally) -> Self {
        Self {
            over: waiting.is_empty(),
            waiting,
            loader: None,
            until: None,
            tally,
            finished: false,
        }
    }

    /// Begins to load them; the machine waits `limit` for that before it calls itself ready.
    pub(crate) fn begin(&mut self, now: Duration, limit: Duration, report: &mut dyn Report) {
        if self.over {
            return;
        }
        self.until = Some(now.saturating_add(limit));
        self.loader = self.tally.begin(self.waiting.drain(..), report);
        if self.loader.is_none() {
            self.finish();
        }
    }

    /// Whether the machine waits for none any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Once all have been loaded: what became of them.
    pub(crate) fn take_finished(&mut self) -> Option<String> {
        std::mem::take(&mut self.finished)
            .then(|| format!("modules, late ones too: {}", self.tally.tell()))
    }

    fn finish(&mut self) {
        (self.loader, self.until) = (None, None);
        (self.over, self.finished) = (true, true);
    }
}

impl Watched for Late {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        out.extend(self.loader.as_ref().map(Loader::entry));
    }

    fn ready(&mut self, _fd: RawFd, turn: &mut Turn<'_>) {
        if self.tally.take(&mut self.loader, turn.report) {
            self.finish();
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.until
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        if self.until.take_if(|until| *until <= turn.now).is_some() {
            self.over = true;
            turn.report.event(Event::Error {
                phase: Phase::Modules,
                what: "load the late kernel modules".to_owned(),
                why: "one of them takes too long; the machine goes on without waiting for it"
                    .to_owned(),
            });
        }
    }
}

/// What became of a module: its name, or name and reason.
pub(super) type Loaded = Result<String, (String, io::Error)>;

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

    /// Hands it to the kernel, which calls its driver: whoever calls this may wait long.
    pub(super) fn load(self) -> Loaded {
        match module::load(&self.file, !self.name.ends_with(PLAIN), &self.parameters) {
            Ok(()) => Ok(self.name),
            Err(error) => Err((self.name, error)),
        }
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
        self.heed(found.and_then(Held::load), report);
    }

    /// Begins to load them beside the main loop, and reports those that have no file.
    /// `None` if that cannot be: then they are loaded.
    pub(super) fn begin(
        &mut self,
        found: impl Iterator<Item = Result<Held, (String, io::Error)>>,
        report: &mut dyn Report,
    ) -> Option<Loader> {
        let mut modules = Vec::new();
        for found in found {
            match found {
                Ok(held) => modules.push(held),
                Err(error) => self.heed(Err(error), report),
            }
        }
        match Loader::begin(modules.into_iter()) {
            Ok(loader) => Some(loader),
            Err(modules) => {
                modules.for_each(|held| self.load(Ok(held), report));
                None
            }
        }
    }

    /// Takes what has become of modules that a loader has; true if those were its last.
    pub(super) fn take(&mut self, loader: &mut Option<Loader>, report: &mut dyn Report) -> bool {
        let Some((loaded, over)) = loader.as_mut().map(Loader::take) else {
            return false;
        };
        for result in loaded {
            self.heed(result, report);
        }
        over
    }

    /// Counts it, and reports what went wrong.
    fn heed(&mut self, result: Loaded, report: &mut dyn Report) {
        if let Some((file, error)) = self.count(result) {
            report.event(Event::Error {
                phase: Phase::Modules,
                what: format!("load kernel module {file}"),
                why: error.to_string(),
            });
        }
    }

    /// Gives back what is to be reported.
    fn count(&mut self, result: Loaded) -> Option<(String, io::Error)> {
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

    /// How many are in the kernel.
    pub(super) fn loaded(&self) -> usize {
        self.loaded
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
    use crate::sys::poll;
    use crate::turn::Events;

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

    #[test]
    fn a_machine_does_not_wait_for_ever_for_a_late_module() {
        let load = |()| {
            std::thread::sleep(Duration::from_millis(300));
            Ok("slow.ko".to_owned())
        };
        let mut late = Late {
            loader: Loader::begin_with([()].into_iter(), load).ok(),
            until: Some(Duration::from_secs(30)),
            over: false,
            ..Late::new(Vec::new(), Tally::default())
        };
        let mut report = Events::default();
        let mut tick = |late: &mut Late, seconds| {
            late.tick(&mut Turn {
                now: Duration::from_secs(seconds),
                report: &mut report,
            });
        };
        tick(&mut late, 29);
        assert!(!late.is_over() && late.take_finished().is_none());
        tick(&mut late, 30);
        assert!(late.is_over() && late.take_finished().is_none() && late.deadline().is_none());
        tick(&mut late, 31);
        assert!(matches!(&report.0[..], [Event::Error { why, .. }] if why.contains("too long")));
        // When it is there at last, its device is taken all the same.
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        let finished = loop {
            let mut fds = Vec::new();
            late.fds(&mut fds);
            poll::wait(&mut fds, Some(Duration::from_secs(1))).unwrap();
            for entry in fds.iter().filter(|entry| entry.revents != 0) {
                let now = Duration::from_secs(40);
                let report = &mut report;
                late.ready(entry.fd, &mut Turn { now, report });
            }
            if let Some(finished) = late.take_finished() {
                break finished;
            }
            assert!(std::time::Instant::now() < limit);
        };
        assert_eq!(finished, "modules, late ones too: 1 loaded");
    }
}
