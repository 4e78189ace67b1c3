//! A container image becomes entries: what its documents say, and its layers applied
//! one on the other.
//!
//! ```text
//! documents.rs manifest, index, configuration (image-spec 1.1, Docker's schema 2)
//! archive.rs   an archive of an image (`docker save`, an OCI layout in a tar) -> blobs of the store
//! apply.rs     layers -> entries: whiteouts, opaque folders, links into layers below
//! accounts.rs  what its /etc/passwd and /etc/group say
//! ```

mod accounts;
mod apply;
pub mod archive;
pub mod documents;

pub use accounts::AccountFiles;

use super::entry::CONTAINER_ORIGIN;
use super::{Entry, LayersError, UnpackedTar};
use crate::store::Store;

/// A container's layers as uncompressed tars in the store, bottom to top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedContainer {
    /// One each, as often as the manifest lists it.
    pub layers: Vec<UnpackedTar>,
}

impl UnpackedContainer {
    /// The files that the container would see; `name` is the image's for messages.
    ///
    /// # Errors
    /// [`LayersError`] when a blob is missing or damaged, or a layer does what it must not.
    pub fn entries(&self, store: &Store, name: &str) -> Result<Vec<Entry>, LayersError> {
        let origin = origin(name);
        let mut root = apply::Root::new(&origin);
        for layer in &self.layers {
            root.apply(layer.layer_entries(store, &origin)?)?;
        }
        Ok(root.finish())
    }
}

/// What the entries of the container of that name come from.
#[must_use]
pub fn origin(name: &str) -> String {
    format!("{CONTAINER_ORIGIN}{name}")
}

pub(super) fn fault(name: &str, problem: impl Into<String>) -> LayersError {
    LayersError::Container {
        container: name.to_owned(),
        problem: problem.into(),
    }
}
