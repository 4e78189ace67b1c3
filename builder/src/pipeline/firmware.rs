//! Firmware for devices and microcode for processors, of the packages that an image names,
//! on their way into the initrd: drivers ask while there is no root yet.
//!
//! Of the firmware goes along what a module of the board may ask for, by the module's own
//! word; of the microcode, all: whose processor it will be is not known.

use std::collections::{BTreeMap, BTreeSet};

use super::PipelineError;
use super::kernel::Package;
use crate::filesystem::cpio::Initrd;
use crate::layers::Kind;

/// Where the kernel looks for firmware.
pub(super) const FOLDER: &str = "/lib/firmware";
/// The same in a package.
const FOLDERS: [&str; 2] = ["/usr/lib/firmware/", "/lib/firmware/"];
/// How the names of files end that the kernel finds compressed.
const PACKED: [&str; 3] = ["", ".xz", ".zst"];
/// Links that lead to one file, one behind the other.
const MAX_LINKS: usize = 8;
/// Folders with microcode in packages, and the file that the kernel looks for (Linux,
/// Documentation/arch/x86/microcode.rst).
const MICROCODE: [(&str, &str); 2] = [
    ("intel-ucode/", "/kernel/x86/microcode/GenuineIntel.bin"),
    ("amd-ucode/", "/kernel/x86/microcode/AuthenticAMD.bin"),
];
/// Processors read their microcode at multiples of this.
const ALIGNMENT: usize = 16;

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Firmware {
    /// By path below [`FOLDER`].
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Content of each file of [`MICROCODE`]; empty for none.
    microcode: [Vec<u8>; 2],
}

impl Firmware {
    /// What the package has of `asked`, and its microcode.
    pub(super) fn of(
        package: &Package<'_>,
        asked: &BTreeSet<String>,
    ) -> Result<Self, PipelineError> {
        let entries = package.entries.iter().filter_map(|entry| {
            let name = FOLDERS.iter().find_map(|f| entry.path.strip_prefix(f))?;
            Some((name, &entry.kind))
        });
        let entries: BTreeMap<&str, &Kind> = entries.collect();
        let mut found = Self::default();
        for name in asked {
            for end in PACKED {
                let name = format!("{name}{end}");
                if let Some(Kind::File(content)) = follow(&entries, &name) {
                    found.files.insert(name, package.bytes(content)?);
                }
            }
        }
        for (name, kind) in &entries {
            let of = |(folder, _): &(&str, &str)| name.starts_with(folder);
            // Texts beside it are for people.
            let is_code = name.starts_with(MICROCODE[0].0) || name.ends_with(".bin");
            if let (Some(maker), Kind::File(content)) = (MICROCODE.iter().position(of), kind)
                && is_code
            {
                found.microcode[maker].extend(package.bytes(content)?);
            }
        }
        Ok(found)
    }

    /// Puts what another package has to it.
    pub(super) fn add(&mut self, other: Self) {
        self.files.extend(other.files);
        for (to, from) in self.microcode.iter_mut().zip(other.microcode) {
            to.extend(from);
        }
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.microcode.iter().all(Vec::is_empty)
    }

    /// The archive that stands before all others, with microcode alone; empty without.
    pub(super) fn early(&self) -> Result<Vec<u8>, PipelineError> {
        let mut early = Vec::new();
        for ((_, path), code) in MICROCODE.iter().zip(&self.microcode) {
            if code.is_empty() {
                continue;
            }
            // An archive aligns to four; the name of a file before it does the rest.
            for padding in 0..ALIGNMENT / 4 {
                let mut archive = Initrd::new(Vec::new());
                let name = format!("/kernel/x86/microcode/.align{}", "0".repeat(4 * padding));
                archive.file(&name, 0o644, &[])?;
                archive.file(path, 0o644, code)?;
                let archive = archive.finish()?;
                if data_at(&archive, code).is_some_and(|at| at % ALIGNMENT == 0) {
                    early.extend(archive);
                    break;
                }
            }
        }
        Ok(early)
    }
}

/// Where `data` begins in an archive.
fn data_at(archive: &[u8], data: &[u8]) -> Option<usize> {
    (0..archive.len()).find(|at| archive[*at..].starts_with(data))
}

/// What stands at a name, behind the links of the package's own folder.
fn follow<'a>(entries: &BTreeMap<&str, &'a Kind>, name: &str) -> Option<&'a Kind> {
    let mut name = name.to_owned();
    for _ in 0..=MAX_LINKS {
        let kind = entries.get(name.as_str())?;
        let target = match kind {
            Kind::Symlink(target) => target.clone(),
            Kind::Hardlink(target) => {
                let inside = FOLDERS.iter().find_map(|f| target.strip_prefix(f));
                name = inside?.to_owned();
                continue;
            }
            _ => return Some(kind),
        };
        let mut parts: Vec<&str> = name.split('/').collect();
        parts.pop();
        for part in target.split('/') {
            match part {
                "" => return None,
                "." => {}
                ".." => drop(parts.pop()?),
                part => parts.push(part),
            }
        }
        name = parts.join("/");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_package_are_followed_and_none_leads_out() {
        let [file, link, up, out, round] = [
            Kind::Fifo,
            Kind::Symlink("ice-1.pkg".to_owned()),
            Kind::Symlink("../intel/ice.pkg".to_owned()),
            Kind::Symlink("../../../etc/shadow".to_owned()),
            Kind::Symlink("round".to_owned()),
        ];
        let entries = BTreeMap::from([
            ("intel/ice-1.pkg", &file),
            ("intel/ice.pkg", &link),
            ("a/up", &up),
            ("a/out", &out),
            ("a/round", &round),
        ]);
        assert_eq!(follow(&entries, "intel/ice.pkg"), Some(&Kind::Fifo));
        assert_eq!(follow(&entries, "a/up"), Some(&Kind::Fifo));
        for none in ["a/out", "a/round", "a/gone"] {
            assert_eq!(follow(&entries, none), None, "{none}");
        }
    }

    #[test]
    fn microcode_stands_first_and_aligned() {
        let mut firmware = Firmware::default();
        assert_eq!(firmware.early().unwrap(), b"");
        let codes = [b"intel's code".to_vec(), b"amd's own code".to_vec()];
        firmware.microcode = codes.clone();
        let early = firmware.early().unwrap();
        for (code, (_, path)) in codes.iter().zip(MICROCODE) {
            let at = data_at(&early, code).unwrap();
            assert_eq!(at % ALIGNMENT, 0, "{path}");
            assert!(data_at(&early, &path.as_bytes()[1..]).unwrap() < at);
        }
        assert!(!firmware.is_empty());
    }
}
