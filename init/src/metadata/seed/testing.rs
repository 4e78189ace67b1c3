//! Images as lists of what is not zero: `size N`, then lines of offset and hexadecimal.

use super::Volume;

/// Name and text of each.
pub(super) const IMAGES: [(&str, &str); 6] = [
    ("fat12", include_str!("fixtures/fat12.img.txt")),
    ("fat16", include_str!("fixtures/fat16.img.txt")),
    ("fat32", include_str!("fixtures/fat32.img.txt")),
    ("Joliet", include_str!("fixtures/j.iso.txt")),
    ("Rock Ridge", include_str!("fixtures/r.iso.txt")),
    ("plain ISO 9660", include_str!("fixtures/p.iso.txt")),
];

/// The user-data on all of them.
pub(super) fn user_data() -> Vec<u8> {
    let lines = (0..300).map(|number| format!("line {number:04}\n"));
    format!("#cloud-config\n{}", lines.collect::<String>()).into_bytes()
}

/// A sparse image.
#[derive(Debug, Clone)]
pub(super) struct Image {
    size: u64,
    runs: Vec<(u64, Vec<u8>)>,
}

impl Image {
    pub(super) fn of(text: &str) -> Image {
        let mut lines = text.lines();
        let size = lines.next().unwrap().strip_prefix("size ").unwrap();
        let runs = lines.map(|line| {
            let (offset, digits) = line.split_once(' ').unwrap();
            let bytes = digits
                .as_bytes()
                .chunks(2)
                .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap());
            (offset.parse().unwrap(), bytes.collect())
        });
        Image {
            size: size.parse().unwrap(),
            runs: runs.collect(),
        }
    }

    /// All runs, one behind the other.
    pub(super) fn flat(&self) -> Vec<u8> {
        self.runs
            .iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect()
    }

    /// The same with other bytes.
    pub(super) fn with(&self, mut flat: &[u8]) -> Image {
        let mut image = self.clone();
        for (_, bytes) in &mut image.runs {
            let (own, rest) = flat.split_at(bytes.len());
            bytes.copy_from_slice(own);
            flat = rest;
        }
        image
    }

    /// Another label, wherever it stands.
    pub(super) fn relabel(&mut self) {
        for (_, bytes) in &mut self.runs {
            for label in [
                &b"CIDATA"[..],
                b"cidata",
                b"\0C\0I\0D\0A\0T\0A",
                b"\0c\0i\0d\0a\0t\0a",
            ] {
                while let Some(at) = bytes.windows(label.len()).position(|part| part == label) {
                    bytes[at..at + label.len()].fill(b'x');
                }
            }
        }
    }

    pub(super) fn whole(&self) -> Vec<u8> {
        let mut whole = vec![0; self.size as usize];
        self.read_at(0, &mut whole).unwrap();
        whole
    }
}

impl Volume for Image {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(buffer.len() as u64)?;
        if end > self.size {
            return None;
        }
        buffer.fill(0);
        for (start, bytes) in &self.runs {
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                let source = &bytes[(from - start) as usize..(to - start) as usize];
                buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Some(())
    }
}
