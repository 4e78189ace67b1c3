//! Reads every layer from its first block to its last, once, when the harness asks.
//!
//! dm-verity checks a block when it is read, and a boot reads few of them. A harness
//! that wants to know whether *all* are guarded has them read: here, through the very
//! devices that the root stands on. A thread does it, at the lowest priority and past
//! the page cache, so that neither PID 1 nor a service waits for it; what it finds
//! comes back through a pipe that the event loop watches.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use slipform_init::contract::event::Event;

use crate::sys::poll;
use crate::turn::{Report, Turn, Watched};

/// Bytes of one read: small, so that others get their turn.
const CHUNK: usize = 128 * 1024;
/// What a read past the page cache must be aligned to.
const ALIGNMENT: usize = 4096;
/// Of the thread: whatever else runs comes first.
const NICE: i32 = 19;
const SYS_BLOCK: &str = "/sys/class/block";

/// The reader of layers; idle until it is asked.
#[derive(Debug)]
pub(crate) struct LayerReader {
    names: Vec<String>,
    results: Option<PipeReader>,
    waiting: Vec<u8>,
}

impl LayerReader {
    /// For layers of these names, in the order in which they were mapped.
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            results: None,
            waiting: Vec::new(),
        }
    }

    /// Begins, unless it is on its way already.
    pub(crate) fn start(&mut self, report: &mut dyn Report) {
        if self.results.is_some() {
            return;
        }
        let count = self.names.len();
        let started = io::pipe().and_then(|(results, told)| {
            thread::Builder::new()
                .name("read-layers".to_owned())
                .spawn(move || work(count, told))?;
            Ok(results)
        });
        match started {
            Ok(results) => self.results = Some(results),
            Err(error) => {
                for name in &self.names {
                    report.event(Event::LayerRead {
                        name: name.clone(),
                        bytes: 0,
                        error: format!("cannot start reading: {error}"),
                    });
                }
            }
        }
    }

    /// Tells the lines that are complete: `index bytes error…`.
    fn tell(&mut self, report: &mut dyn Report) {
        while let Some(end) = self.waiting.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.waiting.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let mut words = line.trim_end().splitn(3, ' ');
            let index = words.next().and_then(|word| word.parse::<usize>().ok());
            let bytes = words.next().and_then(|word| word.parse().ok());
            if let (Some(name), Some(bytes)) = (index.and_then(|n| self.names.get(n)), bytes) {
                report.event(Event::LayerRead {
                    name: name.clone(),
                    bytes,
                    error: words.next().unwrap_or_default().to_owned(),
                });
            }
        }
    }
}

impl Watched for LayerReader {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        out.extend(
            self.results
                .iter()
                .map(|results| poll::entry(results.as_raw_fd(), libc::POLLIN)),
        );
    }

    fn ready(&mut self, _fd: RawFd, turn: &mut Turn<'_>) {
        let mut buffer = [0; 1024];
        // A pipe that is ready gives what it has, and never waits for more.
        match self
            .results
            .as_mut()
            .map(|results| results.read(&mut buffer))
        {
            Some(Ok(0) | Err(_)) => self.results = None,
            Some(Ok(length)) => self.waiting.extend_from_slice(&buffer[..length]),
            None => {}
        }
        self.tell(turn.report);
    }

    fn deadline(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {}
}

/// The thread: one line for each layer.
fn work(count: usize, mut told: PipeWriter) {
    crate::sys::host::yield_to_others(NICE);
    for index in 0..count {
        let mut read = 0;
        let result = device(index).and_then(|path| read_all(&path, &mut read));
        let error = result.err().map_or(String::new(), |error| {
            format!("at byte {read}: {error}").replace('\n', " ")
        });
        // Nobody listens any more: nothing is left to do.
        if writeln!(told, "{index} {read} {error}").is_err() {
            return;
        }
    }
}

/// The device of the layer of this place; its name was given by [`crate::early`].
fn device(index: usize) -> io::Result<PathBuf> {
    let wanted = format!("slipform-{index}");
    for entry in fs::read_dir(SYS_BLOCK)? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("dm/name")).unwrap_or_default();
        if name.trim() == wanted {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("there is no device {wanted}"),
    ))
}

/// Reads to the end; `read` counts what came.
fn read_all(path: &Path, read: &mut u64) -> io::Result<()> {
    let mut file = open(path)?;
    let mut memory = vec![0; CHUNK + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let buffer = &mut memory[start..start + CHUNK];
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => *read += length as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match options.custom_flags(libc::O_DIRECT).open(path) {
        // Not every file system has it (tests read ordinary files).
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            options.custom_flags(0).open(path)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::Events;

    #[test]
    fn a_file_is_read_to_its_end_and_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = 3 * CHUNK as u64 + 4096;
        file.as_file().set_len(size).unwrap();
        let mut read = 0;
        read_all(file.path(), &mut read).unwrap();
        assert_eq!(read, size);
        assert!(read_all(Path::new("/nonexistent"), &mut read).is_err());
    }

    #[test]
    fn results_come_in_any_pieces_and_garbage_is_nobodys() {
        let mut reader = LayerReader::new(vec!["base".to_owned(), "app".to_owned()]);
        let mut told = Events::default();
        for piece in [
            "0 40",
            "96 \n1 8",
            "192 at byte 8192: Input/output error\n",
            "7 1 \nx\n\n",
        ] {
            reader.waiting.extend_from_slice(piece.as_bytes());
            reader.tell(&mut told);
        }
        let event = |name: &str, bytes, error: &str| Event::LayerRead {
            name: name.to_owned(),
            bytes,
            error: error.to_owned(),
        };
        assert_eq!(
            told.0,
            [
                event("base", 4096, ""),
                event("app", 8192, "at byte 8192: Input/output error")
            ]
        );
    }

    #[test]
    fn every_layer_gets_an_answer_even_without_its_device() {
        let mut reader = LayerReader::new(vec!["base".to_owned(), "app".to_owned()]);
        let mut told = Events::default();
        reader.start(&mut told);
        while reader.results.is_some() {
            let fd = reader.results.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            reader.ready(
                fd,
                &mut Turn {
                    now: Duration::ZERO,
                    report: &mut told,
                },
            );
        }
        assert_eq!(told.0.len(), 2);
        assert!(told.0.iter().all(
            |event| matches!(event, Event::LayerRead { error, .. } if error.contains("slipform-"))
        ));
    }
}
