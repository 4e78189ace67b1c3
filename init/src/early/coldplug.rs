//! Finds the drivers of the devices that there are, and of those that come later.
//!
//! The kernel says what a device is (its modalias), and asks a program that init does not
//! have to load the driver. So init asks instead: it walks the buses once, and hears of
//! what appears from then on (a controller's disks, a stick on USB) by the kernel's uevents.
//! While the root disk is looked for that is done in the search's own pauses, later
//! beside the main loop.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::modalias::{self, ALIASES, COLDPLUG_DIR, NEEDS};

use super::loader::Loader;
use super::modules::{Held, Tally};
use crate::report::Reporter;
use crate::sys::{net, poll};
use crate::turn::{Report, Turn, Watched};

const BUSES: &str = "/sys/bus";
/// Longest table, in bytes: all aliases of a kernel have less.
const MAX_TABLE: u64 = 4 * 1024 * 1024;
/// Longest modalias of a device; sysfs gives a page at most.
const MAX_MODALIAS: u64 = 4096;
/// Devices that one walk looks at: thousands on the largest machines.
const MAX_DEVICES: usize = 1 << 16;
/// What the kernel says at once: 2 KiB of variables, and the path.
const MAX_UEVENT: usize = 8192;
/// Uevents that are read in one turn; those that are left wait for the next.
const TURN: usize = 1024;

/// What finds drivers, on a board that has it.
#[derive(Debug)]
pub(crate) struct Coldplug {
    /// [`COLDPLUG_DIR`], which has no path any more once the root is switched.
    folder: File,
    aliases: Vec<u8>,
    needs: Vec<u8>,
    uevents: OwnedFd,
    /// Files that were loaded or wait for it: each has one try.
    known: BTreeSet<String>,
    waiting: VecDeque<String>,
    loader: Option<Loader>,
    /// What the loader was given, and how many had been loaded before.
    batch: (Vec<String>, usize),
    /// What came of the last ones, until it is told.
    news: Option<String>,
    tally: Tally,
}

impl Coldplug {
    /// Loads what the devices of now need. `None` on a board that names its modules alone; a
    /// machine whose tables do not read goes on with those, and says so.
    pub(crate) fn begin(report: &mut Reporter) -> Option<Self> {
        let folder = File::open(COLDPLUG_DIR).ok()?;
        match Self::open(folder) {
            Ok(mut coldplug) => {
                coldplug.look();
                coldplug.load(report);
                let found = coldplug.tally.tell();
                report.note(&format!("modules, for the devices there are: {found}"));
                Some(coldplug)
            }
            Err(error) => {
                report.event(Event::Error {
                    phase: Phase::Modules,
                    what: "find drivers by the devices".to_owned(),
                    why: error.to_string(),
                });
                None
            }
        }
    }

    fn open(folder: File) -> io::Result<Self> {
        let table = |name: &str| read(&Path::new(COLDPLUG_DIR).join(name), MAX_TABLE);
        Ok(Self {
            aliases: table(ALIASES)?,
            needs: table(NEEDS)?,
            // Before the walk: what comes in between is heard.
            uevents: net::uevents()?,
            folder,
            known: BTreeSet::new(),
            waiting: VecDeque::new(),
            loader: None,
            batch: Default::default(),
            news: None,
            tally: Tally::default(),
        })
    }

    /// Heeds what has come, and loads all that it needs.
    pub(crate) fn advance(&mut self, report: &mut Reporter) {
        self.hear();
        self.load(report);
    }

    fn load(&mut self, report: &mut dyn Report) {
        for held in self.take_waiting() {
            self.tally.load(held, report);
        }
    }

    /// What has become of the modules of a device that came while the machine runs.
    pub(crate) fn take_news(&mut self) -> Option<String> {
        self.news.take()
    }

    fn finish(&mut self) {
        let (files, before) = std::mem::take(&mut self.batch);
        let names = files.iter().map(|file| match file.split_once(".ko") {
            Some((name, _)) => name,
            None => file,
        });
        let names: Vec<&str> = names.collect();
        self.news = Some(format!(
            "modules, for what was plugged in: {} of {} loaded ({})",
            self.tally.loaded() - before,
            files.len(),
            names.join(", ")
        ));
    }

    /// Opens what waits: its folder has no path any more once the root is switched.
    fn take_waiting(&mut self) -> Vec<Result<Held, (String, io::Error)>> {
        let folder = PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()));
        let open = |file: String| Held::in_folder(&folder, &file);
        self.waiting.drain(..).map(open).collect()
    }

    /// Walks the buses.
    fn look(&mut self) {
        let links = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        let devices = links(BUSES.into()).flat_map(|bus| links(bus.path().join("devices")));
        for device in devices.take(MAX_DEVICES) {
            if let Ok(modalias) = read(&device.path().join("modalias"), MAX_MODALIAS) {
                self.heed(modalias.trim_ascii_end());
            }
        }
    }

    /// Reads uevents.
    fn hear(&mut self) {
        let mut buffer = [0; MAX_UEVENT];
        for _ in 0..TURN {
            match net::receive_netlink(&self.uevents, &mut buffer) {
                // Whoever else could send there is no kernel.
                Ok((_, port)) if port != 0 => {}
                Ok((count, _)) => {
                    if let Some(modalias) = modalias_of(&buffer[..count]) {
                        self.heed(modalias);
                    }
                }
                // More came than the socket holds: what was lost is found by a walk.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.look(),
                Err(_) => return,
            }
        }
    }

    /// Puts the files of a device's modules behind those that wait.
    fn heed(&mut self, modalias: &[u8]) {
        let modules = modalias::modules(&self.aliases, modalias);
        for file in modules.flat_map(|module| modalias::files(&self.needs, module)) {
            let Ok(file) = std::str::from_utf8(file) else {
                continue;
            };
            if !self.known.contains(file) {
                self.known.insert(file.to_owned());
                self.waiting.push_back(file.to_owned());
            }
        }
    }
}

/// The modalias of a device that a uevent brings: `add@/devices/…\0ACTION=add\0…`.
fn modalias_of(uevent: &[u8]) -> Option<&[u8]> {
    let mut words = uevent.split(|byte| *byte == 0);
    if words.next()?.starts_with(b"remove@") {
        return None;
    }
    words.find_map(|word| word.strip_prefix(b"MODALIAS="))
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Watched for Coldplug {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        out.push(poll::entry(self.uevents.as_raw_fd(), libc::POLLIN));
        out.extend(self.loader.as_ref().map(Loader::entry));
    }

    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>) {
        if fd == self.uevents.as_raw_fd() {
            self.hear();
        } else if self.tally.take(&mut self.loader, turn.report) {
            self.loader = None;
            self.finish();
        }
    }

    /// What comes while others are loaded waits for their end, as they stand on each other.
    fn deadline(&self) -> Option<Duration> {
        (self.loader.is_none() && !self.waiting.is_empty()).then_some(Duration::ZERO)
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.batch = (self.waiting.iter().cloned().collect(), self.tally.loaded());
        let waiting = self.take_waiting();
        self.loader = self.tally.begin(waiting.into_iter(), turn.report);
        if self.loader.is_none() {
            self.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::turn::Events;

    fn coldplug() -> Coldplug {
        Coldplug {
            folder: File::open("/").unwrap(),
            aliases: b"pci:v*bc01sc06* ahci\npci:v*bc01sc08* nvme\n".to_vec(),
            needs: b"ahci libata.ko ahci.ko\nnvme nvme.ko\nxhci_pci xhci.ko\n".to_vec(),
            uevents: net::netlink(0).unwrap(),
            known: BTreeSet::new(),
            waiting: VecDeque::new(),
            loader: None,
            batch: Default::default(),
            news: None,
            tally: Tally::default(),
        }
    }

    #[test]
    fn a_uevent_brings_its_modalias_and_a_farewell_brings_none() {
        let uevent = b"add@/devices/a\0ACTION=add\0DEVPATH=/devices/a\0MODALIAS=pci:v1\0SEQNUM=1\0";
        assert_eq!(modalias_of(uevent), Some(&b"pci:v1"[..]));
        assert_eq!(modalias_of(b"remove@/a\0MODALIAS=pci:v1\0"), None);
        assert_eq!(modalias_of(b"add@/a\0XMODALIAS=x\0"), None);
        assert_eq!(modalias_of(b""), None);
    }

    #[test]
    fn each_file_waits_once_behind_what_it_needs() {
        let mut coldplug = coldplug();
        for device in ["pci:v1bc01sc06", "pci:v2bc01sc06", "pci:v3bc01sc08", "usb:"] {
            coldplug.heed(device.as_bytes());
        }
        assert_eq!(coldplug.waiting, ["libata.ko", "ahci.ko", "nvme.ko"]);
        assert_eq!(coldplug.deadline(), Some(Duration::ZERO));
    }

    #[test]
    fn what_comes_is_loaded_beside_the_loop_and_what_comes_meanwhile_behind_it() {
        let mut coldplug = coldplug();
        let mut report = Events::default();
        let load = |()| {
            thread::sleep(Duration::from_millis(300));
            Ok("slow.ko".to_owned())
        };
        coldplug.loader = Loader::begin_with([()].into_iter(), load).ok();
        coldplug.batch = (vec!["slow.ko".to_owned()], 0);
        coldplug.heed(b"pci:v3bc01sc08");
        // Until then there is nothing that the loop would be woken for.
        assert_eq!((coldplug.deadline(), coldplug.take_news()), (None, None));
        let bell = coldplug.loader.as_ref().unwrap().entry().fd;
        let limit = Instant::now() + Duration::from_secs(60);
        while coldplug.loader.is_some() {
            assert!(Instant::now() < limit);
            let mut fds = [poll::entry(bell, libc::POLLIN)];
            poll::wait(&mut fds, Some(Duration::from_secs(1))).unwrap();
            let (now, report) = (Duration::ZERO, &mut report);
            coldplug.ready(bell, &mut Turn { now, report });
        }
        let told = "modules, for what was plugged in: 1 of 1 loaded (slow)";
        assert_eq!(coldplug.take_news().as_deref(), Some(told));
        assert_eq!(coldplug.deadline(), Some(Duration::ZERO));
        // The folder of this test has no such file: that is said, and the loop goes on.
        let (now, report) = (Duration::ZERO, &mut report);
        coldplug.tick(&mut Turn { now, report });
        assert!(coldplug.waiting.is_empty());
        assert!(matches!(&report.0[..], [Event::Error { what, .. }] if what.contains("nvme.ko")));
    }
}
