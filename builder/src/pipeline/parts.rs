//! An image whose boards are of several architectures is locked and cast as an image for
//! each: a part, which is the image with the boards of one architecture alone.

use std::collections::BTreeMap;

use super::PipelineError;
use crate::base::Arch;
use crate::board::Board;
use crate::spec::Image;

/// The parts of an image, by architecture; the image itself if there is but one.
pub(super) fn parts(image: &Image) -> Result<BTreeMap<Arch, Image>, PipelineError> {
    let mut boards: BTreeMap<Arch, Vec<String>> = BTreeMap::new();
    for name in &image.boards {
        let board = Board::find(name, &image.dir)?;
        boards.entry(board.arch).or_default().push(name.clone());
    }
    if boards.is_empty() {
        return Ok([(Arch::TOOLS, image.clone())].into());
    }
    let part = |(arch, boards)| {
        let image = image.clone();
        (arch, Image { boards, ..image })
    };
    Ok(boards.into_iter().map(part).collect())
}

/// The part for the boards of `arch`.
pub(super) fn part(image: &Image, arch: Arch) -> Result<Image, PipelineError> {
    let none = || PipelineError::Internal(format!("the image has no board of {}", arch.name()));
    parts(image)?.remove(&arch).ok_or_else(none)
}

/// The one architecture of a part.
pub(super) fn architecture(part: &Image) -> Result<Arch, PipelineError> {
    let all = parts(part)?;
    match all.keys().collect::<Vec<_>>().as_slice() {
        [only] => Ok(**only),
        _ => Err(PipelineError::Internal(
            "the boards of a part are of several architectures".to_owned(),
        )),
    }
}
