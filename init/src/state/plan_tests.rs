//! A disk whose power can go at every write. What was written since the last flush may
//! have reached it or not, each sector for itself, as a disk's cache does it.

use std::cell::RefCell;
use std::io;

use super::*;
use crate::early::gpt::{self, ReadAt};
use slipform_fuzz::fuzz;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Of the layers' partitions, in MiB from the disk's start.
const LAYERS: [(u64, u64); 2] = [(1, 2), (2, 4)];

/// What reached the disk after a cut.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lost {
    /// Nothing since the last flush.
    All,
    /// The later half of the last write.
    Tail,
    /// Everything but the last write.
    AllButLast,
    /// Some sectors.
    Some(u64),
}

#[derive(Debug, Clone)]
struct Disk {
    bytes: RefCell<Vec<u8>>,
    /// Since the last flush.
    waiting: RefCell<Vec<(u64, Vec<u8>)>>,
    /// Writes and flushes until the power goes.
    left: RefCell<Option<u32>>,
    count: RefCell<u32>,
}

impl Disk {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: RefCell::new(bytes),
            waiting: RefCell::default(),
            left: RefCell::new(None),
            count: RefCell::new(0),
        }
    }

    fn step(&self) -> io::Result<()> {
        *self.count.borrow_mut() += 1;
        match &mut *self.left.borrow_mut() {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn apply(&self, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The disk as it is when the power comes back.
    fn after(&self, lost: Lost) -> Self {
        let after = Self::new(self.bytes.borrow().clone());
        let waiting = self.waiting.borrow();
        let mut state = 1;
        for (index, (offset, bytes)) in waiting.iter().enumerate() {
            let last = index + 1 == waiting.len();
            // Large writes are only zeros: coarse pieces of them are enough.
            let piece = if bytes.len() > 65536 { 65536 } else { SECTOR };
            for (n, sector) in bytes.chunks(piece as usize).enumerate() {
                let half = (n as u64) * piece * 2 < bytes.len() as u64;
                let kept = match lost {
                    Lost::All => false,
                    Lost::Tail => !last || half,
                    Lost::AllButLast => last,
                    Lost::Some(seed) => {
                        state = u64::wrapping_mul(state ^ seed, 0x2545_f491_4f6c_dd1d) >> 3;
                        state & 4 != 0
                    }
                };
                if kept {
                    after.apply(offset + n as u64 * piece, sector);
                }
            }
        }
        after
    }

    fn sectors(&self) -> u64 {
        self.bytes.borrow().len() as u64 / SECTOR
    }

    /// The same content on a disk of another size.
    fn resized(&self, mib: u64) -> Self {
        let mut bytes = self.bytes.borrow().clone();
        bytes.resize((mib * MIB) as usize, 0);
        Self::new(bytes)
    }

    fn range(&self, start: u64, bytes: u64) -> Vec<u8> {
        self.bytes.borrow()[start as usize..(start + bytes) as usize].to_vec()
    }
}

impl ReadAt for Disk {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        assert!(self.waiting.borrow().is_empty(), "what is read was flushed");
        let start = usize::try_from(offset).unwrap();
        let bytes = self.bytes.borrow();
        let from = bytes.get(start..start + buffer.len());
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Blocks for Disk {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset + bytes.len() as u64 <= self.sectors() * SECTOR);
        self.waiting.borrow_mut().push((offset, bytes.to_vec()));
        self.step()
    }

    fn flush(&self) -> io::Result<()> {
        self.step()?;
        for (offset, bytes) in self.waiting.take() {
            self.apply(offset, &bytes);
        }
        Ok(())
    }

    fn reader(&self) -> &dyn ReadAt {
        self
    }
}

fn put(bytes: &mut [u8], at: u64, value: &[u8]) {
    bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
}

/// A disk of so many MiB with the layers' partitions, and those in `more` (MiB from, to, name).
fn cast(mib: u64, more: &[(u64, u64, &str)]) -> Disk {
    let mut entries = vec![0; 128 * 128];
    let layers = LAYERS.iter().map(|&(from, to)| (from, to, "layer"));
    for (n, (from, to, name)) in layers.chain(more.iter().copied()).enumerate() {
        let at = 128 * n as u64;
        let kind = if name == "layer" { [7; 16] } else { KIND };
        put(&mut entries, at, &gpt::text_order(&kind));
        put(&mut entries, at + 16, &[n as u8 + 1; 16]);
        put(&mut entries, at + 32, &(from * MIB / SECTOR).to_le_bytes());
        put(
            &mut entries,
            at + 40,
            &(to * MIB / SECTOR - 1).to_le_bytes(),
        );
        for (unit, letter) in name.bytes().enumerate() {
            put(&mut entries, at + 56 + 2 * unit as u64, &[letter]);
        }
    }
    let mut bytes = vec![0; (mib * MIB) as usize];
    // The layers' content.
    bytes[MIB as usize..4 * MIB as usize].fill(0x11);
    let end = mib * MIB / SECTOR - 1;
    for (own, other, at) in [(1, end, 2), (end, 1, end - 32)] {
        let mut header = vec![0; 512];
        put(&mut header, 0, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        for (field, value) in [(24, own), (32, other), (40, 34), (48, end - 33), (72, at)] {
            put(&mut header, field, &value.to_le_bytes());
        }
        put(&mut header, 80, &[128, 0, 0, 0, 128, 0, 0, 0]);
        put(&mut header, 88, &gpt::crc32(&entries).to_le_bytes());
        let sum = gpt::crc32(&header[..92]);
        put(&mut header, 16, &sum.to_le_bytes());
        put(&mut bytes, own * SECTOR, &header);
        put(&mut bytes, at * SECTOR, &entries);
    }
    Disk::new(bytes)
}

fn wish() -> Wish {
    Wish {
        bytes: 16 * MIB,
        identity: Identity {
            quotas: false,
            uuid: [0xab; 16],
            hash_seed: [0xcd; 16],
            now: 1_700_000_000,
        },
        guid: [0xef; 16],
    }
}

fn prepared(disk: &Disk) -> Result<Place, PlanError> {
    prepare(disk, 512, disk.sectors(), &wish())
}

/// What every reader of partition tables sees: GUIDs and lengths.
fn table(disk: &Disk) -> Vec<gpt::Partition> {
    gpt::read(disk, 512, disk.sectors()).expect("a table that can be read at every moment")
}

/// All that formatting writes, for an undisturbed one.
fn metadata(disk: &Disk, start: u64) -> Vec<u8> {
    disk.range(start, (518 + 1024) * ext4::BLOCK)
}

/// Cuts the power at each write of `prepare` on `disk`, in each way; `each` gets the disk
/// as it is when the power is back. Returns the number of cuts.
fn cut_everywhere(disk: &Disk, each: impl Fn(&Disk, &str)) -> u32 {
    let undisturbed = disk.clone();
    prepared(&undisturbed).unwrap();
    let steps = *undisturbed.count.borrow();
    assert!(steps > 4, "{steps}");
    for left in 0..steps {
        let cut = disk.clone();
        *cut.left.borrow_mut() = Some(left);
        assert!(prepared(&cut).is_err(), "step {left} of {steps}");
        for lost in [
            Lost::All,
            Lost::Tail,
            Lost::AllButLast,
            Lost::Some(3),
            Lost::Some(8),
        ] {
            each(
                &cut.after(lost),
                &format!("step {left} of {steps}, lost {lost:?}"),
            );
        }
    }
    5 * steps
}

#[test]
fn the_free_space_behind_the_layers_becomes_the_state() {
    let disk = cast(21, &[]);
    let place = prepared(&disk).unwrap();
    let expected = Place {
        number: 3,
        start: 4 * MIB,
        bytes: 16 * MIB,
        made: true,
        grown_from: None,
    };
    assert_eq!(place, expected);
    assert_eq!(table(&disk).len(), 3);
    let again = prepared(&disk).unwrap();
    assert_eq!(
        again,
        Place {
            made: false,
            ..expected
        }
    );
    assert_eq!(disk.range(MIB, 3 * MIB), cast(21, &[]).range(MIB, 3 * MIB));
}

#[test]
fn a_power_cut_at_any_moment_of_the_first_boot_is_made_good_by_the_next() {
    for disk in [cast(21, &[]), cast(21, &[]).resized(26)] {
        let whole = disk.clone();
        let place = prepared(&whole).unwrap();
        let good = metadata(&whole, place.start);
        let layers = table(&disk);
        let cuts = cut_everywhere(&disk, |after, how| {
            // All layers are found at once, and a partition that is seen is whole.
            let seen = table(after);
            assert_eq!(seen[..2], layers, "{how}");
            if seen.len() > 2 {
                assert_eq!(metadata(after, place.start), good, "{how}");
            }
            let next = prepared(after).expect(how);
            assert_eq!(
                (next.start, next.bytes),
                (place.start, place.bytes),
                "{how}"
            );
            assert_eq!(metadata(after, place.start), good, "{how}");
            assert_eq!(table(after), table(&whole), "{how}");
            assert_eq!(after.range(MIB, 3 * MIB), disk.range(MIB, 3 * MIB), "{how}");
        });
        assert!(cuts >= 80, "{cuts}");
    }
}

#[test]
fn a_power_cut_at_any_moment_of_growing_loses_nothing() {
    let disk = cast(21, &[]);
    let place = prepared(&disk).unwrap();
    // Somebody's data, up to the partition's very end.
    let kept = vec![0x77; place.bytes as usize];
    disk.apply(place.start, &kept);
    let larger = disk.resized(25);
    let whole = larger.clone();
    let grown = prepared(&whole).unwrap();
    assert_eq!(grown.grown_from, Some(16 * MIB));
    assert_eq!((grown.start, grown.bytes), (place.start, 20 * MIB));
    cut_everywhere(&larger, |after, how| {
        assert_eq!(table(after)[..2], table(&disk)[..2], "{how}");
        assert!(table(after)[2].bytes >= 16 * MIB, "{how}");
        let next = prepared(after).expect(how);
        assert_eq!(
            (next.start, next.bytes, next.made),
            (grown.start, grown.bytes, false),
            "{how}"
        );
        let data = after.range(place.start, place.bytes);
        assert!(data == kept, "{how}");
        assert_eq!(table(after), table(&whole), "{how}");
    });
}

#[test]
fn a_damaged_table_is_mended_from_the_other_before_anything_else() {
    for (damaged, at) in [
        ("primary", 512),
        ("entries", 1024 + 5),
        ("backup", 21 * MIB - 512),
    ] {
        let disk = cast(21, &[]);
        disk.bytes.borrow_mut()[at as usize + 8] ^= 1;
        let whole = disk.clone();
        prepared(&whole).unwrap();
        cut_everywhere(&disk, |after, how| {
            assert_eq!(table(after)[..2], table(&cast(21, &[])), "{damaged}: {how}");
            prepared(after).expect(how);
            assert_eq!(table(after), table(&whole), "{damaged}: {how}");
        });
    }
}

#[test]
fn several_candidates_are_refused_and_another_name_puts_one_aside() {
    let disk = cast(40, &[(4, 20, NAME), (20, 36, NAME)]);
    let error = prepared(&disk).unwrap_err().to_string();
    assert!(error.contains("[3, 4]"), "{error}");
    assert_eq!(*disk.count.borrow(), 0, "nothing was written");
    let disk = cast(40, &[(4, 20, "old"), (20, 36, NAME)]);
    let place = prepared(&disk).unwrap();
    assert_eq!(
        (place.number, place.start, place.made),
        (4, 20 * MIB, false)
    );
}

#[test]
fn one_with_another_partition_behind_it_stays_as_large_as_it_is() {
    let disk = cast(40, &[(4, 20, NAME), (30, 32, "old")]);
    let place = prepared(&disk).unwrap();
    assert_eq!((place.bytes, place.grown_from), (16 * MIB, None));
    assert_eq!(*disk.count.borrow(), 0);
}

#[test]
fn too_little_room_is_said_and_nothing_written() {
    let disk = cast(20, &[]);
    let error = prepared(&disk).unwrap_err().to_string();
    assert!(
        error.contains("15728640 bytes are free, the image asks for 16777216"),
        "{error}"
    );
    assert_eq!(*disk.count.borrow(), 0);
}

#[test]
fn partitions_that_lie_where_none_may_keep_the_table_from_being_written() {
    for (field, value) in [
        (32, 1u64),
        (32, 41 * 2048),
        (40, 40 * 2048 - 1),
        (40, u64::MAX),
    ] {
        let disk = cast(40, &[]);
        {
            let mut bytes = disk.bytes.borrow_mut();
            for (own, entries) in [(1, 2), (40 * 2048 - 1, 40 * 2048 - 33)] {
                put(
                    &mut bytes,
                    entries * SECTOR + 128 + field,
                    &value.to_le_bytes(),
                );
                let start = (entries * SECTOR) as usize;
                let sum = gpt::crc32(&bytes[start..start + 128 * 128]);
                put(&mut bytes, own * SECTOR + 88, &sum.to_le_bytes());
                put(&mut bytes, own * SECTOR + 16, &[0; 4]);
                let start = (own * SECTOR) as usize;
                let sum = gpt::crc32(&bytes[start..start + 92]);
                put(&mut bytes, own * SECTOR + 16, &sum.to_le_bytes());
            }
        }
        assert!(
            matches!(prepared(&disk), Err(PlanError::Table(_))),
            "{field} {value}"
        );
        assert_eq!(*disk.count.borrow(), 0);
    }
}

/// Whatever the table says: no panic, no write outside of the disk, and the layers' bytes
/// stay if their partitions are found.
#[test]
fn no_table_makes_it_write_where_something_is() {
    let good = cast(21, &[]);
    let head = good.range(512, 34 * 512);
    fuzz(&[&head], |bytes, random| {
        let disk = good.clone();
        disk.apply(512, bytes);
        let mut header = disk.range(512, 512);
        if random.below(2) == 0 {
            let entries = gpt::crc32(&disk.range(1024, 128 * 128));
            put(&mut header, 88, &entries.to_le_bytes());
            put(&mut header, 16, &[0; 4]);
            let sum = gpt::crc32(&header[..92]);
            put(&mut header, 16, &sum.to_le_bytes());
            disk.apply(512, &header);
        }
        let before = gpt::read(&disk, 512, disk.sectors()).map(|found| found.len());
        let result = prepared(&disk);
        if before.ok() == Some(2) && result.is_ok_and(|place| place.start == 4 * MIB) {
            assert_eq!(disk.range(MIB, 3 * MIB), good.range(MIB, 3 * MIB));
        }
    });
}
