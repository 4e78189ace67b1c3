//! What is known of one image.

use serde::{Deserialize, Serialize};

use super::super::image::{LOCK_TYPE, RecordedLock};
use super::super::{PipelineError, Settings};
use super::side::{Place, Side, no_image};
use crate::base::Digest;
use crate::disk::{ImageInfo, inspect};
use crate::lock::LockedPackage;

/// The layer that the kernel's and the boot stub's packages are listed in.
const BOOT: &str = "boot";

/// All that two images are compared by, but for the files in their layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// The image as people name it: its digest or its file.
    pub what: String,
    /// What `inspect` says.
    pub info: ImageInfo,
    /// Packages in the order of layers; `None` for an image without its lock,
    /// as a file of a disk is.
    pub packages: Option<Vec<Package>>,
    /// The stack, bottom to top.
    pub layers: Vec<LayerFacts>,
    pub(super) place: Place,
}

/// A package that an image is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// The layer that it is in; `boot` for the kernel's and the boot stub's.
    pub layer: String,
    /// Name.
    pub name: String,
    /// Version in Debian's syntax.
    pub version: String,
    /// Of the `.deb`.
    pub sha256: Digest,
}

/// A layer of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFacts {
    /// Name.
    pub name: String,
    /// Root hash, 64 hexadecimal digits: what the machine verifies it by.
    pub root_hash: String,
    /// Where it lies on the disk; `None` when the disk does not have it.
    pub place: Option<LayerPlace>,
}

/// A layer's partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerPlace {
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes of the partition.
    pub partition: u64,
    /// Bytes of the file system, at the partition's start.
    pub filesystem: u64,
    /// Bytes of it that are in use.
    pub used: u64,
}

impl ImageFacts {
    /// The board's name; empty when the image does not say.
    #[must_use]
    pub fn board(&self) -> String {
        let machine = self.info.machine.as_ref();
        machine
            .map(|machine| machine.board.clone())
            .unwrap_or_default()
    }
}

impl Settings {
    /// The facts of one image.
    ///
    /// # Errors
    /// [`PipelineError::SeveralBoards`] for a release over several boards;
    /// else as [`Settings::diff`].
    pub fn facts(&self, side: &Side) -> Result<ImageFacts, PipelineError> {
        let (place, packages) = match side {
            Side::File(path) => (Place::File(path.clone()), None),
            Side::Digest(digest) => (
                Place::Map(self.disk_map(digest)?),
                self.packages_of(digest)?,
            ),
        };
        let info = {
            let mut disk = place.open(&self.store)?;
            inspect(&mut disk).map_err(|error| no_image(side, error))?
        };
        if info.sector_size == 0 {
            return Err(no_image(side, info.problems.join("; ")));
        }
        Ok(ImageFacts {
            what: side.to_string(),
            layers: layers(&info),
            info,
            packages,
            place,
        })
    }

    /// The facts of all of a side's images, at least one.
    pub(super) fn images(&self, side: &Side) -> Result<Vec<ImageFacts>, PipelineError> {
        let Side::Digest(digest) = side else {
            return Ok(vec![self.facts(side)?]);
        };
        let digests = self.image_digests(digest)?;
        if digests.is_empty() {
            return Err(no_image(side, "it is a release without any image"));
        }
        digests
            .into_iter()
            .map(|digest| self.facts(&Side::Digest(digest)))
            .collect()
    }

    /// The packages that an image's manifest records; `None` for a disk map.
    fn packages_of(&self, digest: &Digest) -> Result<Option<Vec<Package>>, PipelineError> {
        let Ok(manifest) = self.store.manifest(digest) else {
            return Ok(None);
        };
        let lock = manifest
            .layers
            .iter()
            .find(|part| part.media_type == LOCK_TYPE);
        let Some(lock) = lock else { return Ok(None) };
        let lock: RecordedLock = serde_json::from_slice(&self.store.read(&lock.digest)?)
            .map_err(|error| no_image(digest, format!("its lock does not read: {error}")))?;
        let package = |layer: &str, package: LockedPackage| Package {
            layer: layer.to_owned(),
            name: package.name,
            version: package.version,
            sha256: package.sha256,
        };
        let mut packages = vec![
            package(BOOT, lock.board.kernel),
            package(BOOT, lock.board.stub),
        ];
        for layer in lock.layers {
            let more = layer.packages.into_iter();
            packages.extend(more.map(|found| package(&layer.name, found)));
        }
        Ok(Some(packages))
    }
}

/// The stack as machine.json tells it, else the partitions in their order.
fn layers(info: &ImageInfo) -> Vec<LayerFacts> {
    let on_disk = info.partitions.iter().filter_map(|partition| {
        let layer = partition.layer.as_ref()?;
        let place = LayerPlace {
            offset: partition.offset,
            partition: partition.size,
            filesystem: layer.size,
            used: layer.used,
        };
        Some((partition, layer, place))
    });
    let Some(machine) = &info.machine else {
        return on_disk
            .map(|(partition, layer, place)| LayerFacts {
                name: partition.name.clone(),
                root_hash: layer.root_hash.clone(),
                place: Some(place),
            })
            .collect();
    };
    let on_disk: Vec<_> = on_disk.collect();
    let find = |root_hash: &str| {
        let found = on_disk
            .iter()
            .find(|(_, layer, _)| layer.root_hash == root_hash);
        found.map(|(_, _, place)| *place)
    };
    let layers = machine.layers.iter().map(|layer| LayerFacts {
        name: layer.name.clone(),
        place: find(&layer.root_hash),
        root_hash: layer.root_hash.clone(),
    });
    layers.collect()
}
