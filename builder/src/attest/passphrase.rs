//! Passphrases: from a file descriptor, the environment, or the terminal.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::AttestError;

/// The environment's name for it.
pub const PASSPHRASE: &str = "SLIPFORM_PASSPHRASE";
/// Longest that is read, in bytes.
const LONGEST: usize = 4096;

/// What a key file is encrypted by. Overwritten when dropped, and never printed.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// A passphrase of these bytes.
    ///
    /// # Errors
    /// [`AttestError::Passphrase`] for an empty one and for one longer than 4 KiB.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, AttestError> {
        let bytes = Zeroizing::new(bytes.into());
        if bytes.is_empty() {
            return Err(failed("it is empty; write one, or say --no-passphrase"));
        }
        if bytes.len() > LONGEST {
            return Err(failed("it is longer than 4096 bytes; write a shorter one"));
        }
        Ok(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Where a passphrase comes from.
#[derive(Debug, Clone)]
pub enum PassphraseSource {
    /// This open file descriptor, up to its end or first line break.
    Descriptor(u32),
    /// Given already (the environment).
    Given(Passphrase),
    /// The terminal.
    Prompt,
}

impl PassphraseSource {
    /// The descriptor if one is named, else the variable, else the terminal.
    ///
    /// # Errors
    /// [`AttestError::Passphrase`] for a variable that cannot be one.
    pub fn choose(descriptor: Option<u32>, variable: Option<&str>) -> Result<Self, AttestError> {
        Ok(match (descriptor, variable) {
            (Some(descriptor), _) => Self::Descriptor(descriptor),
            (None, Some(text)) => Self::Given(Passphrase::new(text)?),
            (None, None) => Self::Prompt,
        })
    }

    /// Gets it. `what` names the key in the prompt; with `twice`, a person types it twice.
    ///
    /// # Errors
    /// [`AttestError::Passphrase`].
    pub fn get(&self, what: &str, twice: bool) -> Result<Passphrase, AttestError> {
        match self {
            Self::Given(passphrase) => Ok(passphrase.clone()),
            Self::Descriptor(number) => {
                let path = format!("/dev/fd/{number}");
                let file = File::open(&path)
                    .map_err(|e| failed(&format!("file descriptor {number}: {e}")))?;
                line(file)
            }
            Self::Prompt => {
                let first = prompt(&format!("passphrase of {what}: "))?;
                if twice && *prompt("the same again: ")?.0 != *first.0 {
                    return Err(failed("the two are not the same; try again"));
                }
                Ok(first)
            }
        }
    }
}

/// The first line, without its end.
fn line(reader: impl Read) -> Result<Passphrase, AttestError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 2));
    BufReader::new(reader)
        .take(LONGEST as u64 + 2)
        .read_until(b'\n', &mut bytes)
        .map_err(|e| failed(&e.to_string()))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    Passphrase::new(std::mem::take(&mut *bytes))
}

/// Asks at the terminal, without echo.
fn prompt(text: &str) -> Result<Passphrase, AttestError> {
    let terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|_| {
            failed(&format!(
                "there is no terminal to ask at; set {PASSPHRASE}, or give --passphrase-fd N"
            ))
        })?;
    let silent = Silent::new(&terminal)?;
    (&terminal)
        .write_all(text.as_bytes())
        .map_err(|e| failed(&e.to_string()))?;
    let answer = line(&terminal);
    drop(silent);
    let _ = (&terminal).write_all(b"\n");
    answer
}

/// A terminal that shows nothing of what is typed, for as long as this lives.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> Result<Self, AttestError> {
        let cannot = |e: rustix::io::Errno| failed(&format!("the terminal: {e}"));
        let before = tcgetattr(terminal).map_err(cannot)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ICANON);
        tcsetattr(terminal, OptionalActions::Flush, &silent).map_err(cannot)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn failed(why: &str) -> AttestError {
    AttestError::Passphrase(why.to_owned())
}
