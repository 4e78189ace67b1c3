//! A blob on its way in, checked as it comes, over as many answers as it takes.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE};

use super::RemoteError;
use super::http::{Answer, CHUNK, Trouble, again, header};
use crate::base::Digest;

/// A blob on its way in, over as many answers as it takes.
pub(super) struct Download<'a> {
    digest: Digest,
    size: u64,
    uri: &'a str,
    sink: &'a mut dyn Write,
    hasher: Sha256,
    /// Bytes in the sink.
    pub(super) got: u64,
}

impl<'a> Download<'a> {
    pub(super) fn new(digest: Digest, size: u64, uri: &'a str, sink: &'a mut dyn Write) -> Self {
        Self {
            digest,
            size,
            uri,
            sink,
            hasher: Sha256::new(),
            got: 0,
        }
    }

    fn what(&self) -> String {
        format!("blob {}", self.digest)
    }

    fn damaged(&self, expected: String, found: String) -> Trouble {
        Trouble::Final(RemoteError::Damaged {
            what: self.what(),
            uri: self.uri.to_owned(),
            expected,
            found,
        })
    }

    /// `Range` for what is missing, if something is there already.
    pub(super) fn range(&self) -> Option<String> {
        (self.got > 0).then(|| format!("bytes={}-", self.got))
    }

    /// Takes what an answer (200 or 206) brings, and checks it once it is whole.
    pub(super) fn receive(&mut self, answer: Answer) -> Result<(), Trouble> {
        let start = match answer.status().as_u16() {
            206 => content_range(&answer).unwrap_or(u64::MAX),
            _ => 0,
        };
        if start != 0 && start != self.got {
            return Err(again("the server mixes up ranges"));
        }
        let length = header(&answer, &CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
        if let Some(length) = length
            && start.saturating_add(length) != self.size
        {
            let found = start.saturating_add(length);
            return Err(self.damaged(format!("{} bytes", self.size), format!("{found} bytes")));
        }
        let mut body = answer.into_body().into_reader();
        // What came before, from a server that sends all of it again.
        let mut skip = self.got - start;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let why = format!("the transfer broke off after {} bytes: {error}", self.got);
                    return Err(again(why));
                }
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
            skip -= skipped as u64;
            self.take(&buffer[skipped..count])?;
        }
        self.finish()
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        if self.got + bytes.len() as u64 > self.size {
            let expected = format!("{} bytes", self.size);
            return Err(self.damaged(expected, "more".to_owned()));
        }
        self.sink
            .write_all(bytes)
            .map_err(|source| write_error(source, self.what()))?;
        self.hasher.update(bytes);
        self.got += bytes.len() as u64;
        Ok(())
    }

    /// Whether all bytes are there, good or bad.
    pub(super) fn is_whole(&self) -> bool {
        self.got == self.size && self.size > 0
    }

    /// Checks what is there.
    pub(super) fn finish(&self) -> Result<(), Trouble> {
        if self.got < self.size {
            let (got, size) = (self.got, self.size);
            return Err(again(format!(
                "the transfer ended after {got} of {size} bytes"
            )));
        }
        let found = Digest::from_bytes(self.hasher.clone().finalize().into());
        if found != self.digest {
            return Err(self.damaged(self.digest.to_string(), found.to_string()));
        }
        Ok(())
    }
}

/// A sink of the store says its own error in full.
pub(super) fn write_error(error: io::Error, what: String) -> RemoteError {
    match crate::store::StoreError::from_writer(error) {
        Ok(store) => RemoteError::Store(store),
        Err(source) => RemoteError::Write { what, source },
    }
}

/// The first byte of a partial answer.
fn content_range(answer: &Answer) -> Option<u64> {
    let range = header(answer, &CONTENT_RANGE)?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}
