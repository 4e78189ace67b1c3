//! FAT12, FAT16 and FAT32 (Microsoft's "FAT: General Overview of On-Disk Format" 1.03),
//! as far as two files in the root folder want it.
//!
//! ```text
//! boot sector   +11 bytes per sector u16  +13 sectors per cluster u8  +14 reserved u16
//!   +16 number of FATs u8  +17 root entries u16  +19 sectors u16  +22 sectors per FAT u16
//!   +32 sectors u32  +36 sectors per FAT u32 (FAT32)  +44 root cluster u32 (FAT32)
//! folder entry  +0 name 11  +11 attributes u8  +20 cluster high u16  +26 cluster low u16  +28 size u32
//! ```
//! The label is that of the root folder, else that of the boot sector.

use super::{Document, Files, LABEL, Volume, length, u16_at, u32_at};

/// Longest root folder that is read, in bytes.
const FOLDER_MAX: usize = 64 * 1024;
const ENTRY: usize = 32;
const LABEL_ENTRY: u8 = 0x08;
const LONG_NAME: u8 = 0x0f;
const DIRECTORY: u8 = 0x10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

struct Fat<'a> {
    volume: &'a dyn Volume,
    kind: Kind,
    /// Offsets and sizes in bytes.
    table: u64,
    data: u64,
    cluster: usize,
    /// Number of clusters.
    clusters: u32,
}

/// The documents, if the volume is a seed.
pub(super) fn read(volume: &dyn Volume) -> Option<Files> {
    let boot = volume.bytes(0, 512)?;
    if boot.get(510..)? != [0x55, 0xaa] {
        return None;
    }
    let sector = u64::from(u16_at(&boot, 11)?);
    let per_cluster = u64::from(*boot.get(13)?);
    let reserved = u64::from(u16_at(&boot, 14)?);
    let tables = u64::from(*boot.get(16)?);
    if ![512, 1024, 2048, 4096].contains(&sector)
        || !per_cluster.is_power_of_two()
        || !(1..=2).contains(&tables)
        || reserved == 0
    {
        return None;
    }
    let entries = u64::from(u16_at(&boot, 17)?);
    let small = |short: u16, long: u32| match short {
        0 => u64::from(long),
        short => u64::from(short),
    };
    let sectors = small(u16_at(&boot, 19)?, u32_at(&boot, 32)?);
    let table = small(u16_at(&boot, 22)?, u32_at(&boot, 36)?);
    let root = reserved + tables * table;
    let data = root + (entries * ENTRY as u64).div_ceil(sector);
    let clusters = sectors.checked_sub(data)? / per_cluster;
    let fat = Fat {
        volume,
        kind: match clusters {
            0..4085 => Kind::Fat12,
            4085..65_525 => Kind::Fat16,
            _ => Kind::Fat32,
        },
        table: reserved * sector,
        data: data * sector,
        cluster: usize::try_from(per_cluster * sector).ok()?,
        clusters: u32::try_from(clusters).ok()?,
    };
    let (folder, label) = match fat.kind {
        Kind::Fat32 => (fat.chain(u32_at(&boot, 44)?, FOLDER_MAX)?, 71),
        _ => {
            let size = usize::try_from(entries).ok()? * ENTRY;
            (volume.bytes(root * sector, size.min(FOLDER_MAX))?, 43)
        }
    };
    let own = folder_label(&folder).or_else(|| boot.get(label..label + 11))?;
    if !String::from_utf8_lossy(own)
        .trim_end()
        .eq_ignore_ascii_case(LABEL)
    {
        return None;
    }
    fat.files(&folder)
}

fn entries(folder: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = folder.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0);
    all.filter(|entry| entry[0] != 0xe5)
}

fn folder_label(folder: &[u8]) -> Option<&[u8]> {
    let is_label =
        |attributes: u8| attributes & LONG_NAME != LONG_NAME && attributes & LABEL_ENTRY != 0;
    entries(folder)
        .find(|entry| is_label(entry[11]))
        .map(|entry| &entry[..11])
}

impl Fat<'_> {
    fn files(&self, folder: &[u8]) -> Option<Files> {
        let mut files = Files::default();
        // Parts of a long name stand before their entry, the last part first.
        let mut long = Long::default();
        for entry in entries(folder) {
            if entry[11] & LONG_NAME == LONG_NAME {
                long.part(entry);
                continue;
            }
            let name = long.take(entry);
            if entry[11] & (LABEL_ENTRY | DIRECTORY) != 0 {
                continue;
            }
            let Some(document) = Document::of(&name) else {
                continue;
            };
            let size = length(u32_at(entry, 28)?);
            let cluster = u32::from(u16_at(entry, 20)?) << 16 | u32::from(u16_at(entry, 26)?);
            let mut content = match size {
                0 => Vec::new(),
                size => self.chain(cluster, size)?,
            };
            if content.len() < size {
                return None;
            }
            content.truncate(size);
            match document {
                Document::MetaData => files.meta_data = Some(content),
                Document::UserData => files.user_data = Some(content),
            }
        }
        Some(files)
    }

    /// The clusters from `first` on, until the chain ends or `limit` bytes are there;
    /// so a chain that runs in circles ends, too.
    fn chain(&self, first: u32, limit: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut cluster = first & 0x0fff_ffff;
        while bytes.len() < limit {
            if cluster < 2 || cluster - 2 >= self.clusters {
                break;
            }
            let offset = u64::from(cluster - 2) * self.cluster as u64;
            let wanted = self.cluster.min(limit - bytes.len());
            bytes.extend(self.volume.bytes(self.data + offset, wanted)?);
            cluster = self.next(cluster)?;
        }
        Some(bytes)
    }

    /// What the table says of a cluster; ends of chains are beyond all clusters.
    fn next(&self, cluster: u32) -> Option<u32> {
        let cluster = u64::from(cluster);
        Some(match self.kind {
            Kind::Fat12 => {
                let two = self.volume.bytes(self.table + cluster * 3 / 2, 2)?;
                let pair = u32::from(u16_at(&two, 0)?);
                match cluster % 2 {
                    0 => pair & 0xfff,
                    _ => pair >> 4,
                }
            }
            Kind::Fat16 => {
                let two = self.volume.bytes(self.table + cluster * 2, 2)?;
                u32::from(u16_at(&two, 0)?)
            }
            Kind::Fat32 => {
                let four = self.volume.bytes(self.table + cluster * 4, 4)?;
                u32_at(&four, 0)? & 0x0fff_ffff
            }
        })
    }
}

/// A long name as its parts come.
#[derive(Default)]
struct Long {
    /// Letters of the parts so far, in their right order.
    letters: Vec<u16>,
    check: u8,
}

impl Long {
    fn part(&mut self, entry: &[u8]) {
        if entry[0] & 0x40 != 0 || entry[13] != self.check {
            self.letters.clear();
            self.check = entry[13];
        }
        let places = (1..11)
            .step_by(2)
            .chain((14..26).step_by(2))
            .chain([28, 30]);
        let part = places
            .filter_map(|at| u16_at(entry, at))
            .take_while(|letter| ![0, 0xffff].contains(letter));
        let mut letters: Vec<u16> = part.collect();
        letters.append(&mut self.letters);
        letters.truncate(260);
        self.letters = letters;
    }

    /// The name of the short entry behind: the long one if it is this entry's.
    fn take(&mut self, entry: &[u8]) -> String {
        let letters = std::mem::take(&mut self.letters);
        let sum = entry[..11]
            .iter()
            .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if !letters.is_empty() && sum == self.check {
            return String::from_utf16_lossy(&letters);
        }
        let part = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&entry[range]).trim_end().to_owned()
        };
        match (part(0..8), part(8..11)) {
            (name, ending) if ending.is_empty() => name,
            (name, ending) => format!("{name}.{ending}"),
        }
    }
}
