//! An image of the store, or of a file, in another format or onto a disk.

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use super::diff::Side;
use super::{PipelineError, Settings};
use crate::base::fs::At;
use crate::disk::{self, DiskReader};
use crate::output::{self, Artifact, Flashed, OutputFormat, Target};

impl Settings {
    /// Writes the disk of `image` in `format` to `path`; without one, to a file in the
    /// current folder that is named after the image.
    ///
    /// # Errors
    /// [`PipelineError::NoImage`] for what is no image, or is the very file to be written;
    /// [`PipelineError::Output`].
    pub fn export(
        &self,
        image: &Side,
        format: OutputFormat,
        path: Option<&Path>,
    ) -> Result<Artifact, PipelineError> {
        let progress = &*self.progress;
        match image {
            Side::File(file) => {
                let no_image = |why: String| PipelineError::NoImage {
                    what: file.display().to_string(),
                    why,
                };
                let (_, mut disk) =
                    output::open(file).map_err(|error| no_image(error.to_string()))?;
                let target = match path {
                    Some(path) => path.to_owned(),
                    None => named(&mut disk, format).at("read", file)?,
                };
                let same = file.canonicalize().ok() == target.canonicalize().ok();
                if same && target.exists() {
                    return Err(no_image(
                        "it would be written over itself; name another file with --output"
                            .to_owned(),
                    ));
                }
                Ok(output::convert(file, format, &target, progress)?)
            }
            Side::Digest(digest) => {
                let _guard = self.store.shared(progress)?;
                let map = self.disk_map(digest)?;
                let target = match path {
                    Some(path) => path.to_owned(),
                    None => named(&mut DiskReader::new(&self.store, &map), format)
                        .at("read", self.store.path(digest))?,
                };
                Ok(output::write_told(
                    format,
                    &map,
                    (&self.store, progress),
                    &target,
                )?)
            }
        }
    }

    /// Whether the disk of `image` may be written over `target`; nothing is written.
    ///
    /// # Errors
    /// [`PipelineError::NoImage`]; [`PipelineError::Output`] with what stands against it.
    pub fn may_flash(&self, image: &Side, target: &Target) -> Result<(), PipelineError> {
        let (size, sector_size) = match image {
            Side::File(file) => output::facts(file).map_err(|error| PipelineError::NoImage {
                what: file.display().to_string(),
                why: error.to_string(),
            })?,
            Side::Digest(digest) => {
                let map = self.disk_map(digest)?;
                (map.size, map.sector_size)
            }
        };
        Ok(target.check(size, sector_size)?)
    }

    /// Writes the disk of `image` over `target`, and reads it back.
    ///
    /// # Errors
    /// [`PipelineError::Output`]; once writing has begun, the target then holds no
    /// partition table.
    pub fn flash(&self, image: &Side, target: &Target) -> Result<Flashed, PipelineError> {
        let progress = &*self.progress;
        Ok(match image {
            Side::File(file) => output::flash_file(file, target, progress)?,
            Side::Digest(digest) => {
                let _guard = self.store.shared(progress)?;
                let map = self.disk_map(digest)?;
                output::flash_map(&map, &self.store, target, progress)?
            }
        })
    }
}

/// `NAME-VERSION-BOARD.EXTENSION`, as the machine in the disk is called.
fn named<R: Read + Seek>(disk: &mut R, format: OutputFormat) -> std::io::Result<PathBuf> {
    let info = disk::inspect(disk)?;
    let stem = info.machine.map_or_else(
        || "disk".to_owned(),
        |machine| format!("{}-{}-{}", machine.name, machine.version, machine.board),
    );
    // The disk may be anyone's, and its name is no path.
    let stem = stem.replace(['/', '\0'], "_");
    Ok(PathBuf::from(format!("{stem}.{}", format.extension())))
}
