//! Looks at a file on the state partition when the harness asks: is it there, does it
//! contain a text. A thread does it, so that PID 1 waits for no disk; memory is bounded
//! whatever the file's size.

use std::fs::OpenOptions;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use slipform_init::contract::event::Event;

use crate::sys::poll;
use crate::turn::{Report, Turn, Watched};

/// Bytes of one read.
const CHUNK: usize = 64 * 1024;
/// Of the thread: whatever else runs comes first.
const NICE: i32 = 10;

/// Where the thread leaves what it found.
type Answer = Arc<Mutex<Option<Event>>>;

/// The looker; idle until it is asked.
#[derive(Debug)]
pub(crate) struct Looker {
    paths: Vec<String>,
    /// Hangs up when the answer is there.
    running: Option<(PipeReader, Answer)>,
}

impl Looker {
    /// For an image that keeps these paths.
    pub(crate) fn new(paths: Vec<String>) -> Self {
        Self {
            paths,
            running: None,
        }
    }

    /// Begins; the answer is an event.
    pub(crate) fn start(&mut self, path: String, contains: String, report: &mut dyn Report) {
        if let Err(error) = self.begin(&path, contains) {
            report.event(Event::StateFile {
                path,
                bytes: None,
                contains: false,
                error: error.to_string(),
            });
        }
    }

    fn begin(&mut self, path: &str, contains: String) -> io::Result<()> {
        if self.running.is_some() {
            return Err(io::Error::other("another look is on its way"));
        }
        if !is_below(path, &self.paths) {
            let text = format!(
                "it is not below a path that is kept ({})",
                self.paths.join(", ")
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (hangup, held) = io::pipe()?;
        let answer = Answer::default();
        let (found, path) = (Arc::clone(&answer), path.to_owned());
        thread::Builder::new()
            .name("state-file".to_owned())
            .spawn(move || {
                crate::sys::host::yield_to_others(NICE);
                let event = look(path, contains.as_bytes());
                if let Ok(mut found) = found.lock() {
                    *found = Some(event);
                }
                drop(held);
            })?;
        self.running = Some((hangup, answer));
        Ok(())
    }
}

impl Watched for Looker {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        let running = self.running.iter();
        out.extend(running.map(|(hangup, _)| poll::entry(hangup.as_raw_fd(), libc::POLLIN)));
    }

    fn ready(&mut self, _fd: RawFd, turn: &mut Turn<'_>) {
        let answer = self.running.take().map(|(_, answer)| answer);
        let event = answer.and_then(|answer| answer.lock().ok()?.take());
        if let Some(event) = event {
            turn.report.event(event);
        }
    }

    fn deadline(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {}
}

fn is_below(path: &str, kept: &[String]) -> bool {
    let path = Path::new(path);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    plain && kept.iter().any(|kept| path.starts_with(kept))
}

fn look(path: String, text: &[u8]) -> Event {
    let (bytes, contains, error) = match find(Path::new(&path), text) {
        Ok((bytes, contains)) => (Some(bytes), contains, String::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, false, String::new()),
        Err(error) => (None, false, error.to_string()),
    };
    Event::StateFile {
        path,
        bytes,
        contains,
        error,
    }
}

/// Length of a file, and whether the text is in it. A folder has no text.
fn find(path: &Path, text: &[u8]) -> io::Result<(u64, bool)> {
    // A pipe must not make the thread wait for ever.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let mut file = options.read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Ok((metadata.len(), false));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"));
    }
    if text.is_empty() {
        return Ok((metadata.len(), true));
    }
    // Of a file that grows meanwhile, what it had.
    let mut left = metadata.len();
    let mut window = Vec::with_capacity(CHUNK + text.len());
    while left > 0 {
        let part = left.min(CHUNK as u64);
        let got = (&mut file).take(part).read_to_end(&mut window)?;
        if window.windows(text.len()).any(|found| found == text) {
            return Ok((metadata.len(), true));
        }
        if got == 0 {
            break;
        }
        left -= part.min(got as u64);
        // What could be the beginning of the text.
        let keep = (text.len() - 1).min(window.len());
        window.drain(..window.len() - keep);
    }
    Ok((metadata.len(), false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::Events;

    fn ask(looker: &mut Looker, path: &str, text: &str) -> Event {
        let mut told = Events::default();
        looker.start(path.to_owned(), text.to_owned(), &mut told);
        while let Some((hangup, _)) = &mut looker.running {
            // As poll would: until it hangs up.
            assert_eq!(hangup.read(&mut [0]).unwrap(), 0);
            let mut turn = Turn {
                now: Duration::ZERO,
                report: &mut told,
            };
            looker.ready(0, &mut turn);
        }
        told.0.pop().expect("an answer")
    }

    #[test]
    fn files_are_found_and_searched_over_the_edges_of_reads() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap().to_owned();
        let file = format!("{root}/file");
        let mut text = vec![b'.'; 3 * CHUNK];
        text[CHUNK - 3..CHUNK + 3].copy_from_slice(b"needle");
        std::fs::write(&file, &text).unwrap();
        let mut looker = Looker::new(vec![root.clone()]);
        let answer = |path: &str, bytes, contains, error: &str| Event::StateFile {
            path: path.to_owned(),
            bytes,
            contains,
            error: error.to_owned(),
        };
        let length = Some(3 * CHUNK as u64);
        assert_eq!(
            ask(&mut looker, &file, "needle"),
            answer(&file, length, true, "")
        );
        assert_eq!(
            ask(&mut looker, &file, "needles"),
            answer(&file, length, false, "")
        );
        assert_eq!(ask(&mut looker, &file, ""), answer(&file, length, true, ""));
        let missing = format!("{root}/missing");
        assert_eq!(
            ask(&mut looker, &missing, "x"),
            answer(&missing, None, false, "")
        );
        let up = format!("{root}/../etc/passwd");
        for outside in ["/etc/passwd", up.as_str(), "file"] {
            let Event::StateFile { error, .. } = ask(&mut looker, outside, "") else {
                panic!("another event");
            };
            assert!(error.contains("not below"), "{error}");
        }
        let link = format!("{root}/link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(
            matches!(ask(&mut looker, &link, ""), Event::StateFile { bytes: None, error, .. } if !error.is_empty())
        );
    }
}
