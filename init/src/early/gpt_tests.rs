use super::*;
use slipform_fuzz::fuzz;

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let from = self
            .get(start..start + buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc32::new();
    crc.update(bytes);
    crc.finish()
}

/// What a table is made of.
struct Shape {
    sector: usize,
    count: u32,
    entry: u32,
}

const USUAL: Shape = Shape {
    sector: 512,
    count: 128,
    entry: 128,
};

fn header(shape: &Shape, lba: u64, entries_lba: u64, sectors: u64, entries: &[u8]) -> Vec<u8> {
    let mut header = vec![0; shape.sector];
    header[..8].copy_from_slice(SIGNATURE);
    header[8..12].copy_from_slice(&0x10000u32.to_le_bytes());
    header[12..16].copy_from_slice(&92u32.to_le_bytes());
    header[24..32].copy_from_slice(&lba.to_le_bytes());
    header[40..48].copy_from_slice(&40u64.to_le_bytes());
    header[48..56].copy_from_slice(&(sectors - 34).to_le_bytes());
    header[72..80].copy_from_slice(&entries_lba.to_le_bytes());
    header[80..84].copy_from_slice(&shape.count.to_le_bytes());
    header[84..88].copy_from_slice(&shape.entry.to_le_bytes());
    header[88..92].copy_from_slice(&crc(entries).to_le_bytes());
    seal(&mut header);
    header
}

fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let sum = crc(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// A disk of 200 sectors with partitions 1 and 3.
fn disk(shape: &Shape) -> Vec<u8> {
    let sectors = 200;
    let mut entries = vec![0; (shape.count * shape.entry) as usize];
    for (index, first, last) in [(0, 40u64, 47u64), (2, 48, 48)] {
        let entry = &mut entries[index * shape.entry as usize..];
        entry[..16].fill(0xaa);
        for (place, byte) in entry[16..32].iter_mut().zip(1..) {
            *place = byte;
        }
        entry[31] = index as u8;
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
    }
    let mut disk = vec![0; shape.sector * sectors];
    let last = sectors as u64 - 1;
    let backup_entries = last - entries.len().div_ceil(shape.sector) as u64;
    for (lba, entries_lba) in [(1, 2), (last, backup_entries)] {
        let header = header(shape, lba, entries_lba, sectors as u64, &entries);
        disk[lba as usize * shape.sector..][..shape.sector].copy_from_slice(&header);
        disk[entries_lba as usize * shape.sector..][..entries.len()].copy_from_slice(&entries);
    }
    disk
}

fn expected(shape: &Shape) -> Vec<Partition> {
    let guid = |last| [4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, last];
    vec![
        Partition {
            number: 1,
            guid: guid(0),
            start: 40 * shape.sector as u64,
            bytes: 8 * shape.sector as u64,
        },
        Partition {
            number: 3,
            guid: guid(2),
            start: 48 * shape.sector as u64,
            bytes: shape.sector as u64,
        },
    ]
}

#[test]
fn crc_is_that_of_the_standard() {
    assert_eq!(crc(b"123456789"), 0xcbf4_3926);
}

#[test]
fn tables_of_all_shapes_are_read() {
    let shapes = [
        USUAL,
        Shape {
            sector: 4096,
            count: 128,
            entry: 128,
        },
        Shape {
            sector: 512,
            count: 4,
            entry: 1024,
        },
        Shape {
            sector: 512,
            count: 5,
            entry: 256,
        },
        Shape {
            sector: 2048,
            count: 3,
            entry: 128,
        },
    ];
    for shape in shapes {
        assert_eq!(
            read(&disk(&shape), shape.sector as u32, 200).unwrap(),
            expected(&shape)
        );
    }
}

#[test]
fn the_backup_serves_when_the_primary_is_damaged() {
    for damaged in [512, 512 + 60, 1024 + 5] {
        let mut disk = disk(&USUAL);
        disk[damaged] ^= 1;
        assert_eq!(
            read(&disk, 512, 200).unwrap(),
            expected(&USUAL),
            "byte {damaged}"
        );
    }
}

#[test]
fn a_disk_without_any_table_says_what_is_wrong_with_both() {
    let error = read(&vec![0; 512 * 200], 512, 200).unwrap_err().to_string();
    assert_eq!(
        error,
        "no partition table: the primary header has no signature; the backup header has no signature"
    );
    let mut disk = disk(&USUAL);
    disk[600] = 1;
    disk[199 * 512 + 91] ^= 1;
    let error = read(&disk, 512, 200).unwrap_err().to_string();
    assert!(
        error.contains("backup header the header has a wrong checksum"),
        "{error}"
    );
}

#[test]
fn a_disk_of_another_sector_size_has_no_table() {
    assert!(read(&disk(&USUAL), 4096, 25).is_err());
    for (sector, sectors) in [
        (0, 10),
        (3, 10),
        (512, 0),
        (512, 1),
        (8192, 10),
        (4096, u64::MAX),
    ] {
        assert!(
            read(&disk(&USUAL), sector, sectors).is_err(),
            "{sector} {sectors}"
        );
    }
}

/// Fields of a correctly summed header that would read too much, too little or elsewhere.
#[test]
fn hostile_headers_are_refused() {
    let hostile: [(usize, &[u8]); 9] = [
        (12, &91u32.to_le_bytes()),
        (12, &513u32.to_le_bytes()),
        (24, &2u64.to_le_bytes()),
        (72, &u64::MAX.to_le_bytes()),
        (72, &0u64.to_le_bytes()),
        (80, &u32::MAX.to_le_bytes()),
        (80, &0u32.to_le_bytes()),
        (84, &0u32.to_le_bytes()),
        (48, &u64::MAX.to_le_bytes()),
    ];
    for (at, bytes) in hostile {
        let mut disk = disk(&USUAL);
        disk.truncate(512 * 199);
        disk.resize(512 * 200, 0);
        disk[512 + at..][..bytes.len()].copy_from_slice(bytes);
        seal(&mut disk[512..1024]);
        assert!(read(&disk, 512, 200).is_err(), "field at {at}");
    }
}

#[test]
fn partitions_outside_the_usable_sectors_are_left_out() {
    let mut disk = disk(&USUAL);
    disk[1024 + 40..][..8].copy_from_slice(&199u64.to_le_bytes());
    let entries = crc(&disk[1024..1024 + 128 * 128]);
    disk[512 + 88..][..4].copy_from_slice(&entries.to_le_bytes());
    seal(&mut disk[512..1024]);
    let partitions = read(&disk, 512, 200).unwrap();
    assert_eq!(partitions, expected(&USUAL)[1..]);
}

#[test]
fn no_table_can_break_the_reader() {
    let good = disk(&USUAL);
    fuzz(&[&good[..512 * 40]], |bytes, random| {
        let mut disk = good.clone();
        disk[..bytes.len()].copy_from_slice(bytes);
        if random.below(2) == 0 {
            // Past the checksum, into the fields behind it.
            seal(&mut disk[512..1024]);
        }
        let _ = read(&disk, 512, 200);
    });
}
