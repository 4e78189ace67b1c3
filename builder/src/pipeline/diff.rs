//! What is different between two images, wherever they are.
//!
//! ```text
//! side.rs   a digest of the store or a file -> images that can be read
//! facts.rs  an image -> its facts: what `inspect` sees, packages, the stack
//! change.rs two sets of named values -> what was added, removed, changed
//! image.rs  two sets of facts -> their difference (pure)
//! files.rs  two stacks of layers -> the files that differ in what the machine sees
//! ```

mod change;
mod facts;
mod files;
mod image;
mod side;

use std::collections::BTreeMap;

use serde::Serialize;

use super::{PipelineError, Settings};

pub use change::{Change, Field, Mark};
pub use facts::{ImageFacts, LayerFacts, LayerPlace, Package};
pub use image::{ImageDiff, Size};
pub use side::Side;

/// The difference between two sides, by board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Whether there is none.
    pub same: bool,
    /// The first side, as it was named.
    pub old: String,
    /// The second side.
    pub new: String,
    /// Boards that only the first side has an image for.
    pub boards_removed: Vec<String>,
    /// Boards that only the second side has an image for.
    pub boards_added: Vec<String>,
    /// The pairs of images, by board; a single image is paired with a single
    /// one whatever their boards.
    pub images: Vec<ImageDiff>,
}

impl Settings {
    /// Everything that is different between two sides, files included.
    ///
    /// # Errors
    /// [`PipelineError::NoImage`] for what cannot be read as an image;
    /// [`PipelineError::Store`] when the store does not have it.
    pub fn diff(&self, old: &Side, new: &Side) -> Result<Diff, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let (mut removed, mut added) = (self.images(old)?, self.images(new)?);
        let mut images = Vec::new();
        match (&removed[..], &added[..]) {
            ([a], [b]) => {
                images.push(self.pair(a, b)?);
                removed.clear();
                added.clear();
            }
            _ => {
                let by_board = |facts: Vec<ImageFacts>| -> BTreeMap<String, ImageFacts> {
                    facts
                        .into_iter()
                        .map(|facts| (facts.board(), facts))
                        .collect()
                };
                let (mut old, mut new) = (by_board(removed), by_board(added));
                let both: Vec<String> = old
                    .keys()
                    .filter(|b| new.contains_key(*b))
                    .cloned()
                    .collect();
                for board in both {
                    if let (Some(a), Some(b)) = (old.remove(&board), new.remove(&board)) {
                        images.push(self.pair(&a, &b)?);
                    }
                }
                (removed, added) = (old.into_values().collect(), new.into_values().collect());
            }
        }
        let boards = |facts: &[ImageFacts]| facts.iter().map(ImageFacts::board).collect();
        Ok(Diff {
            same: removed.is_empty() && added.is_empty() && images.iter().all(|image| image.same),
            old: old.to_string(),
            new: new.to_string(),
            boards_removed: boards(&removed),
            boards_added: boards(&added),
            images,
        })
    }

    fn pair(&self, old: &ImageFacts, new: &ImageFacts) -> Result<ImageDiff, PipelineError> {
        let _task = self.progress.begin("compare files", None);
        let files = files::changes(&self.store, old, new)?;
        Ok(ImageDiff::between(old, new).with_files(files))
    }
}
