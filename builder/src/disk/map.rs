//! The disk map: sorted extents of blobs; everything else is zero.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::DiskError;
use crate::base::Digest;

/// Version of the format.
pub const MAP_SCHEMA: u32 = 1;
/// Disks larger than this are refused (an exbibyte is beyond every target).
const MAX_SIZE: u64 = 1 << 60;
/// More extents than any cast makes; bounds a hostile map.
const MAX_EXTENTS: usize = 1 << 20;

/// Where every byte of a disk comes from.
///
/// The JSON form has one spelling only (fields in this order, no spaces,
/// extents sorted), and its digest is the disk's identity: whoever holds the
/// map and its blobs casts the same disk, bit for bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskMap {
    /// [`MAP_SCHEMA`].
    pub schema: u32,
    /// Bytes of a sector: 512 or 4096.
    pub sector_size: u32,
    /// Bytes of the disk, a multiple of the sector size.
    pub size: u64,
    /// What is not zero, by ascending offset; no two overlap.
    pub extents: Vec<Extent>,
}

/// A run of bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes, at least one.
    pub length: u64,
    /// What is there.
    pub content: ExtentContent,
}

/// What an extent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ExtentContent {
    /// Bytes of a blob of the store.
    Blob {
        /// The blob.
        digest: Digest,
        /// First byte in the blob.
        offset: u64,
    },
    /// Zeros, said explicitly.
    Zero,
}

impl Extent {
    /// First byte of the disk behind the extent.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset + self.length
    }
}

impl DiskMap {
    /// The canonical JSON form.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Numbers, texts and lists only: serialising them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The disk's identity: the digest of [`DiskMap::to_json`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_json())
    }

    /// Reads a map and checks it.
    ///
    /// # Errors
    /// [`DiskError::Map`] for anything that [`DiskMap::to_json`] does not write.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DiskError> {
        let map: Self =
            serde_json::from_slice(bytes).map_err(|error| DiskError::Map(error.to_string()))?;
        map.check()?;
        Ok(map)
    }

    /// Checks that extents are sorted, inside of the disk and do not overlap.
    ///
    /// # Errors
    /// [`DiskError::Map`] with the extent and the rule.
    pub fn check(&self) -> Result<(), DiskError> {
        let wrong = |text: String| Err(DiskError::Map(text));
        if self.schema != MAP_SCHEMA {
            return wrong(format!(
                "it has schema {}, this program reads {MAP_SCHEMA}; use the newer slipform",
                self.schema
            ));
        }
        if !matches!(self.sector_size, 512 | 4096)
            || !self.size.is_multiple_of(u64::from(self.sector_size))
            || self.size > MAX_SIZE
        {
            return wrong(format!(
                "{} bytes in sectors of {} are no disk",
                self.size, self.sector_size
            ));
        }
        if self.extents.len() > MAX_EXTENTS {
            return wrong(format!("{} extents are too many", self.extents.len()));
        }
        let mut floor = 0;
        for extent in &self.extents {
            let end = extent.offset.checked_add(extent.length);
            let fits = extent.length > 0
                && extent.offset >= floor
                && end.is_some_and(|end| end <= self.size);
            let source = match extent.content {
                ExtentContent::Blob { offset, .. } => offset.checked_add(extent.length).is_some(),
                ExtentContent::Zero => true,
            };
            if !fits || !source {
                return wrong(format!(
                    "the extent at {} of {} bytes overlaps another or leaves the disk",
                    extent.offset, extent.length
                ));
            }
            floor = extent.offset + extent.length;
        }
        Ok(())
    }

    /// The blobs that the map names.
    #[must_use]
    pub fn blobs(&self) -> BTreeSet<Digest> {
        self.extents
            .iter()
            .filter_map(|extent| match extent.content {
                ExtentContent::Blob { digest, .. } => Some(digest),
                ExtentContent::Zero => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> DiskMap {
        let blob = |offset, length| Extent {
            offset,
            length,
            content: ExtentContent::Blob {
                digest: Digest::of("x"),
                offset: 7,
            },
        };
        DiskMap {
            schema: MAP_SCHEMA,
            sector_size: 512,
            size: 4096,
            extents: vec![
                blob(0, 10),
                Extent {
                    offset: 512,
                    length: 512,
                    content: ExtentContent::Zero,
                },
                blob(4000, 96),
            ],
        }
    }

    #[test]
    fn the_json_form_is_pinned_and_reads_back() {
        let json = String::from_utf8(map().to_json()).unwrap();
        let digest = Digest::of("x");
        assert_eq!(
            json,
            format!(
                r#"{{"schema":1,"sector_size":512,"size":4096,"extents":[{{"offset":0,"length":10,"content":{{"blob":{{"digest":"{digest}","offset":7}}}}}},{{"offset":512,"length":512,"content":"zero"}},{{"offset":4000,"length":96,"content":{{"blob":{{"digest":"{digest}","offset":7}}}}}}]}}"#
            )
        );
        assert_eq!(DiskMap::from_json(json.as_bytes()).unwrap(), map());
    }

    #[test]
    fn refuses_what_is_no_map() {
        let broken: [fn(&mut DiskMap); 8] = [
            |map| map.schema = 2,
            |map| map.sector_size = 1000,
            |map| map.size = 4097,
            |map| map.extents.reverse(),
            |map| map.extents[1].offset = 9,
            |map| map.extents[2].length = 97,
            |map| map.extents[0].length = 0,
            |map| map.extents[2].offset = u64::MAX - 5,
        ];
        for (index, change) in broken.iter().enumerate() {
            let mut map = map();
            change(&mut map);
            assert!(
                DiskMap::from_json(&map.to_json()).is_err(),
                "change {index}"
            );
        }
    }
}
