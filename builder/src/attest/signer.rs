//! Who signs: a key file, or a command in front of a KMS or an HSM.

use std::fmt;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::key::from_base64;
use super::{AttestError, PublicKey};

/// Largest answer of a signing command, in bytes. A signature has 72.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// Something that signs, and whose signatures can be checked.
pub trait Signer: fmt::Debug {
    /// The key that its signatures verify with.
    fn public(&self) -> &PublicKey;

    /// Signs: ECDSA P-256 over the SHA-256 of `message`, in DER.
    ///
    /// # Errors
    /// [`AttestError`] when there is no signature, or one that does not verify.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AttestError>;
}

/// A command that signs: it gets the message on its standard input, and answers
/// with the signature, as DER or as base64 of that, on its standard output.
#[derive(Debug)]
pub struct CommandSigner {
    command: String,
    public: PublicKey,
}

impl CommandSigner {
    /// A signer that runs `command` in `/bin/sh`.
    #[must_use]
    pub fn new(command: impl Into<String>, public: PublicKey) -> Self {
        Self {
            command: command.into(),
            public,
        }
    }

    fn failed(&self, why: impl Into<String>) -> AttestError {
        AttestError::Signer {
            command: self.command.clone(),
            why: why.into(),
        }
    }

    fn answer(&self, message: &[u8]) -> Result<Vec<u8>, AttestError> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &self.command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| self.failed(format!("cannot be started: {error}")))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut answer = Vec::new();
        let read = std::thread::scope(|scope| {
            scope.spawn(move || {
                // A command that does not read it all will be seen by its signature.
                let _ = stdin.map(|mut pipe| pipe.write_all(message));
            });
            match stdout {
                Some(pipe) => pipe.take(ANSWER_LIMIT + 1).read_to_end(&mut answer),
                None => Ok(0),
            }
        });
        if answer.len() as u64 > ANSWER_LIMIT {
            let _ = child.kill();
        }
        let status = child
            .wait()
            .map_err(|error| self.failed(format!("cannot be waited for: {error}")))?;
        read.map_err(|error| self.failed(format!("cannot be read from: {error}")))?;
        if answer.len() as u64 > ANSWER_LIMIT {
            return Err(self.failed(
                "answers with more than 64 KiB; it must print the signature and nothing else",
            ));
        }
        if !status.success() {
            return Err(self.failed(format!("failed: {status}; what it said stands above")));
        }
        Ok(answer)
    }
}

impl Signer for CommandSigner {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AttestError> {
        let answer = self.answer(message)?;
        let signature = match std::str::from_utf8(&answer) {
            Ok(text) => {
                let text: String = text.split_ascii_whitespace().collect();
                from_base64(&text).unwrap_or(answer)
            }
            Err(_) => answer,
        };
        if self.public.verifies(message, &signature) {
            return Ok(signature);
        }
        Err(self.failed(format!(
            "answers with {} bytes that are no signature of the key {}; it must sign the SHA-256 of its input with ECDSA P-256, print DER or base64 of it, and --key must name its public key",
            signature.len(),
            self.public.id()
        )))
    }
}
