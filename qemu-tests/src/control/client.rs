//! The other side: who runs, and what is asked of it.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipform_init::contract::event::MAX_LINE;
use slipform_init::contract::inside::{Item, Query};

use super::{CONTROL, ENDING, Hello, folder};
use crate::error::HarnessError;

/// How long a run may take to say who it is: its loop turns many times a second.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// More sockets are not looked at.
const MOST: usize = 1024;

/// A run that can be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// Process id of its `slipform run`.
    pub id: u32,
    /// Image name.
    pub name: String,
    /// Digest of the image's manifest.
    pub image: String,
    /// Seconds since 1970.
    pub started: u64,
    path: PathBuf,
}

/// The runs of this user whose sockets lie in `dir`, by id; sockets that nobody listens on
/// are removed.
///
/// # Errors
/// [`HarnessError::Io`] when the folder cannot be used.
pub fn running(dir: &Path) -> Result<Vec<Running>, HarnessError> {
    folder(dir)?;
    let entries = fs::read_dir(dir).map_err(HarnessError::io(
        "read",
        dir,
        "set XDG_RUNTIME_DIR to a folder of yours",
    ))?;
    let mut found = Vec::new();
    for entry in entries.flatten().take(MOST) {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != ENDING) {
            continue;
        }
        match connect(&path) {
            Ok((_, run)) => found.push(run),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                drop(fs::remove_file(&path));
            }
            // It is just going, or another version's: not to be asked.
            Err(_) => {}
        }
    }
    found.sort_by_key(|run| run.id);
    Ok(found)
}

fn connect(path: &Path) -> std::io::Result<(BufReader<UnixStream>, Running)> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(HELLO_LIMIT))?;
    let mut reader = BufReader::new(stream);
    let line = line(&mut reader)?.unwrap_or_default();
    let hello: Hello = serde_json::from_str(&line)?;
    if hello.control != CONTROL {
        return Err(std::io::Error::other("another version's"));
    }
    let run = Running {
        id: hello.id,
        name: hello.name,
        image: hello.image,
        started: hello.started,
        path: path.to_owned(),
    };
    Ok((reader, run))
}

/// A line without its end; none at the end of all.
fn line(reader: &mut BufReader<UnixStream>) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut bounded = reader.take(2 * MAX_LINE as u64);
    if bounded.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(std::io::Error::other("a line was cut off"));
    }
    let text = String::from_utf8(line).map_err(std::io::Error::other)?;
    Ok(Some(text))
}

impl Running {
    /// Asks; `limit` is how long each piece of the answer may take. Lines that are followed
    /// may take for ever.
    ///
    /// # Errors
    /// [`HarnessError::Unanswered`] when the run is gone.
    pub fn ask(&self, query: &Query, limit: Duration) -> Result<Answer, HarnessError> {
        let failed = |error: std::io::Error| self.unanswered(&error);
        let (reader, _) = connect(&self.path).map_err(failed)?;
        reader
            .get_ref()
            .set_read_timeout(Some(limit))
            .map_err(failed)?;
        let mut text = serde_json::to_string(query).map_err(|error| failed(error.into()))?;
        text.push('\n');
        reader
            .get_ref()
            .write_all(text.as_bytes())
            .map_err(failed)?;
        Ok(Answer {
            run: self.clone(),
            reader,
            follow: query.follow,
            ended: false,
        })
    }

    fn unanswered(&self, error: &std::io::Error) -> HarnessError {
        let why = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                "no answer in time: it has not booted yet, or hangs".to_owned()
            }
            _ => error.to_string(),
        };
        HarnessError::Unanswered {
            run: format!("{} ({})", self.name, self.id),
            why,
        }
    }
}

/// What comes back, piece by piece, without the end.
#[derive(Debug)]
pub struct Answer {
    run: Running,
    reader: BufReader<UnixStream>,
    follow: bool,
    ended: bool,
}

impl Answer {
    fn piece(&mut self) -> Result<Option<Item>, HarnessError> {
        loop {
            let line = line(&mut self.reader).map_err(|error| self.run.unanswered(&error))?;
            let Some(line) = line else {
                // A follower's machine may go; nobody else's answer may just stop.
                let gone = std::io::Error::other("the run ended");
                return match self.ended {
                    true => Ok(None),
                    false => Err(self.run.unanswered(&gone)),
                };
            };
            let item = serde_json::from_str(&line).map_err(std::io::Error::from);
            match item.map_err(|error| self.run.unanswered(&error))? {
                Item::End(why) if !why.is_empty() => {
                    return Err(self.run.unanswered(&std::io::Error::other(why)));
                }
                Item::End(_) if !self.follow => {
                    self.ended = true;
                    return Ok(None);
                }
                Item::End(_) => {
                    self.ended = true;
                    let endless = self.reader.get_ref().set_read_timeout(None);
                    endless.map_err(|error| self.run.unanswered(&error))?;
                }
                item => return Ok(Some(item)),
            }
        }
    }
}

impl Iterator for Answer {
    type Item = Result<Item, HarnessError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended && !self.follow {
            return None;
        }
        let piece = self.piece();
        if !matches!(piece, Ok(Some(_))) {
            (self.ended, self.follow) = (true, false);
        }
        piece.transpose()
    }
}
