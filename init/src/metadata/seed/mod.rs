//! A seed disk: the file system labelled `cidata` that NoCloud's documents lie on. Read by
//! small readers of our own: nothing of a foreign file system reaches the kernel, and the
//! board needs no module for it.
//!
//! ```text
//! Volume   bytes at an offset           vfat.rs     FAT12, FAT16, FAT32
//! Files    names and content, bounded   iso9660.rs  plain, Rock Ridge, Joliet
//! ```

mod iso9660;
#[cfg(test)]
mod testing;
mod vfat;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The label, in any case.
const LABEL: &str = "cidata";
/// Block devices that are looked at, at most.
const DEVICES_MAX: usize = 256;
/// Devices that no seed lies on.
const NO_SEEDS: [&str; 5] = ["loop", "ram", "zram", "dm-", "md"];

/// Bytes at an offset.
pub(super) trait Volume {
    /// Fills `buffer`, or fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()>;

    /// `length` bytes.
    fn bytes(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_at(offset, &mut bytes)?;
        Some(bytes)
    }
}

impl Volume for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        self.read_exact_at(buffer, offset).ok()
    }
}

/// The documents of a seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) meta_data: Option<Vec<u8>>,
    pub(super) user_data: Option<Vec<u8>>,
}

/// Which document a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Document {
    MetaData,
    UserData,
}

impl Document {
    fn of(name: &str) -> Option<Document> {
        match name.to_ascii_lowercase().as_str() {
            "meta-data" => Some(Document::MetaData),
            "user-data" => Some(Document::UserData),
            _ => None,
        }
    }
}

/// A document's content has at most so many bytes; longer ones are cut by one more, so
/// that whoever takes them sees that they are too long.
fn length(size: u32) -> usize {
    usize::try_from(size)
        .unwrap_or(usize::MAX)
        .min(super::found::USER_DATA_MAX + 1)
}

/// The documents of a volume that is a seed.
pub(super) fn read(volume: &dyn Volume) -> Option<Files> {
    vfat::read(volume).or_else(|| iso9660::read(volume))
}

/// The first seed among the block devices of `sys` (/sys/class/block), opened below
/// `dev`; with its name.
pub(super) fn find(sys: &Path, dev: &Path) -> Option<(String, Files)> {
    let mut names: Vec<String> = fs::read_dir(sys)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !NO_SEEDS.iter().any(|other| name.starts_with(other)))
        .take(DEVICES_MAX)
        .collect();
    names.sort();
    let has_medium = |name: &String| {
        let size = fs::read_to_string(sys.join(name).join("size"));
        size.is_ok_and(|size| !matches!(size.trim(), "" | "0"))
    };
    names.into_iter().filter(has_medium).find_map(|name| {
        let path: PathBuf = dev.join(&name);
        let files = read(&File::open(path).ok()?)?;
        Some((name, files))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::testing::{IMAGES, Image, user_data};
    use super::*;
    use slipform_fuzz::fuzz;

    /// Images that mkfs.fat with mcopy, and pycdlib, have made.
    #[test]
    fn seeds_of_real_tools_are_read() {
        for (name, text) in IMAGES {
            let files = read(&Image::of(text)).unwrap_or_else(|| panic!("{name}: no seed"));
            let meta = b"instance-id: i-seed\nlocal-hostname: seeded\n";
            assert_eq!(files.meta_data.as_deref(), Some(&meta[..]), "{name}");
            assert_eq!(files.user_data, Some(user_data()), "{name}");
        }
    }

    #[test]
    fn other_labels_are_no_seeds() {
        for (name, text) in IMAGES {
            let mut image = Image::of(text);
            image.relabel();
            assert_eq!(read(&image), None, "{name}");
        }
        assert_eq!(read(&Image::of("size 0\n")), None);
        assert_eq!(read(&Image::of("size 100000\n")), None);
    }

    #[test]
    fn no_image_breaks_a_reader_or_keeps_it() {
        for (_, text) in IMAGES {
            let image = Image::of(text);
            let runs: Vec<u8> = image.flat();
            fuzz(&[&runs], |bytes, _| {
                // The image has a size of its own.
                let mut bytes = bytes.to_vec();
                bytes.resize(runs.len(), 0);
                if let Some(files) = read(&image.with(&bytes)) {
                    let length = |file: Option<Vec<u8>>| file.map_or(0, |file| file.len());
                    assert!(length(files.meta_data) <= super::super::found::USER_DATA_MAX + 1);
                    assert!(length(files.user_data) <= super::super::found::USER_DATA_MAX + 1);
                }
            });
        }
    }

    #[test]
    fn devices_are_searched_in_order() {
        let root = tempfile::tempdir().unwrap();
        let (sys, dev) = (root.path().join("sys"), root.path().join("dev"));
        for folder in [&sys, &dev] {
            fs::create_dir(folder).unwrap();
        }
        let add = |name: &str, size: &str, image: &[u8]| {
            fs::create_dir(sys.join(name)).unwrap();
            fs::write(sys.join(name).join("size"), size).unwrap();
            fs::write(dev.join(name), image).unwrap();
        };
        assert_eq!(find(&sys, &dev), None);
        let seed = Image::of(IMAGES[0].1).whole();
        add("loop0", "512\n", &seed);
        add("sr0", "0\n", &seed);
        add("vda", "512\n", b"short");
        assert_eq!(find(&sys, &dev), None);
        add("vdb", "512\n", &seed);
        assert_eq!(find(&sys, &dev).unwrap().0, "vdb");
    }
}
