//! The evidence folder: what a run leaves, green or red.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::HarnessError;
use crate::junit::junit;
use crate::report::BootReport;
use crate::run::timeline;

/// Longest console.log and events.jsonl.
const MAX_LOG: u64 = 64 << 20;
const REMEDY: &str = "check that the evidence folder can be written and the disk is not full";

/// A log with an end.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    left: u64,
}

impl Log {
    fn create(path: PathBuf) -> Result<Self, HarnessError> {
        let file = File::create(&path).map_err(HarnessError::io("create", &path, REMEDY))?;
        Ok(Self {
            path,
            file,
            left: MAX_LOG,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HarnessError> {
        if self.left == 0 {
            return Ok(());
        }
        let fits = bytes
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= fits as u64;
        let write = self.file.write_all(&bytes[..fits]).and_then(|()| {
            if self.left == 0 {
                self.file.write_all(b"\n[cut off here: the log is full]\n")
            } else {
                Ok(())
            }
        });
        write.map_err(HarnessError::io("write", &self.path, REMEDY))
    }
}

/// An open evidence folder.
#[derive(Debug)]
pub(crate) struct Evidence {
    dir: PathBuf,
    console: Log,
    events: Log,
}

impl Evidence {
    /// Makes the folder and takes away what an earlier run left in it.
    pub(crate) fn create(dir: &Path) -> Result<Self, HarnessError> {
        fs::create_dir_all(dir).map_err(HarnessError::io("make folder", dir, REMEDY))?;
        let dir = fs::canonicalize(dir).map_err(HarnessError::io("resolve", dir, REMEDY))?;
        for name in ["report.json", "junit.xml", "timeline.txt", "screen.png"] {
            match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(HarnessError::io("remove", &dir.join(name), REMEDY)(error));
                }
                _ => {}
            }
        }
        Ok(Self {
            console: Log::create(dir.join("console.log"))?,
            events: Log::create(dir.join("events.jsonl"))?,
            dir,
        })
    }

    /// The folder, absolute.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Console bytes as they came.
    pub(crate) fn console(&mut self, bytes: &[u8]) -> Result<(), HarnessError> {
        self.console.write(bytes)
    }

    /// One record's line.
    pub(crate) fn event(&mut self, line: &str) -> Result<(), HarnessError> {
        self.events.write(line.as_bytes())?;
        self.events.write(b"\n")
    }

    /// The command line, as a shell takes it.
    pub(crate) fn command_line(
        &self,
        environment: &[(OsString, OsString)],
        argv: &[OsString],
    ) -> Result<(), HarnessError> {
        let mut text = String::new();
        for (name, value) in environment {
            text.push_str(&format!(
                "{}={} \\\n",
                name.to_string_lossy(),
                quoted(value)
            ));
        }
        for (n, word) in argv.iter().enumerate() {
            let option = word.to_string_lossy().starts_with('-');
            text.push_str(match (n, option) {
                (0, _) => "",
                (_, true) => " \\\n  ",
                (_, false) => " ",
            });
            text.push_str(&quoted(word));
        }
        text.push('\n');
        self.file("qemu.cmdline", text.as_bytes())
    }

    /// The last lines of QEMU's standard error, in one line of text.
    pub(crate) fn stderr(&self) -> String {
        let bytes = fs::read(self.dir.join("qemu.stderr")).unwrap_or_default();
        let from = bytes.len().saturating_sub(2000);
        let text = String::from_utf8_lossy(&bytes[from..]);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        match lines.len() {
            0 => "nothing on its standard error".to_owned(),
            n => lines[n.saturating_sub(3)..].join("; "),
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Result<(), HarnessError> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(HarnessError::io("write", &path, REMEDY))
    }
}

/// Writes `report.json`, `junit.xml` and `timeline.txt` into `dir`.
///
/// # Errors
/// The folder cannot be written to.
pub fn write_report(report: &BootReport, dir: &Path) -> Result<(), HarnessError> {
    let path = dir.join("report.json");
    let mut json = serde_json::to_vec_pretty(report)
        .map_err(|error| HarnessError::io("write", &path, REMEDY)(error.into()))?;
    json.push(b'\n');
    let files = [
        ("report.json", json),
        ("junit.xml", junit([report]).into_bytes()),
        (
            "timeline.txt",
            timeline::text(&report.timeline).into_bytes(),
        ),
    ];
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::write(&path, bytes).map_err(HarnessError::io("write", &path, REMEDY))?;
    }
    Ok(())
}

/// A word as a POSIX shell takes it.
pub(crate) fn quoted(word: &std::ffi::OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        let table = [
            ("-machine", "-machine"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME;`x`", "'$HOME;`x`'"),
            ("socket,id=qmp,path=/tmp/x", "socket,id=qmp,path=/tmp/x"),
        ];
        for (word, want) in table {
            assert_eq!(quoted(OsStr::new(word)), want);
        }
    }

    #[test]
    fn logs_end() -> Result<(), HarnessError> {
        let dir = tempfile::tempdir().map_err(HarnessError::io("make", Path::new("tmp"), ""))?;
        let mut log = Log::create(dir.path().join("log"))?;
        log.left = 5;
        log.write(b"abc")?;
        log.write(b"defgh")?;
        log.write(b"more")?;
        let text = fs::read_to_string(&log.path).unwrap_or_default();
        assert_eq!(text, "abcde\n[cut off here: the log is full]\n");
        Ok(())
    }
}
