//! What can be compared, and how its bytes are reached.

use std::fmt;
use std::path::{Path, PathBuf};

use super::super::{PipelineError, Settings};
use crate::base::Digest;
use crate::disk::{DiskMap, DiskReader};
use crate::output::{self, DiskSource};
use crate::store::Store;

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// Of the store: an image's manifest, its disk map, or a release over several boards.
    Digest(Digest),
    /// A file of any format.
    File(PathBuf),
}

impl Side {
    /// A file of this name, else a digest.
    ///
    /// # Errors
    /// That it is neither, and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        if path.exists() {
            return Ok(Self::File(path.to_owned()));
        }
        text.parse().map(Self::Digest).map_err(|_| {
            format!(
                "'{text}' is neither a file nor a digest; name an image file, or sha256:… as `build` prints it"
            )
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In a file of its own.
    File(PathBuf),
    /// In the blobs of the store.
    Map(DiskMap),
}

impl Place {
    /// The disk, as one file of its full size.
    pub(super) fn open<'a>(
        &'a self,
        store: &'a Store,
    ) -> Result<Box<dyn DiskSource + 'a>, PipelineError> {
        Ok(match self {
            Self::File(path) => {
                let (_, disk) =
                    output::open(path).map_err(|error| no_image(path.display(), error))?;
                disk
            }
            Self::Map(map) => Box::new(DiskReader::new(store, map)),
        })
    }
}

/// What cannot be read as an image.
pub(super) fn no_image(what: impl fmt::Display, why: impl fmt::Display) -> PipelineError {
    PipelineError::NoImage {
        what: what.to_string(),
        why: why.to_string(),
    }
}

impl Settings {
    /// The digests of a side's images: several of a release over several boards.
    pub(super) fn image_digests(&self, digest: &Digest) -> Result<Vec<Digest>, PipelineError> {
        match self.disk_map(digest) {
            Err(PipelineError::SeveralBoards { images, .. }) => {
                let parse = |text: String| text.parse().map_err(|error| no_image(digest, error));
                images.into_iter().map(parse).collect()
            }
            _ => Ok(vec![*digest]),
        }
    }
}
