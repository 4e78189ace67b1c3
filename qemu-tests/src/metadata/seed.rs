//! A NoCloud seed: an ISO 9660 volume `cidata` with Joliet names (ECMA-119; Joliet
//! specification), as `genisoimage -joliet` makes it, but for the path tables, which no
//! reader of a mounted volume looks at.
//!
//! ```text
//! sector 16 primary  17 Joliet  18 end  19 root (short names)  20 root (Joliet)  21.. files
//! ```

use super::Metadata;

const SECTOR: usize = 2048;
const FILES: usize = 21;

/// The volume.
pub(super) fn image(metadata: &Metadata) -> Vec<u8> {
    let meta_data = format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        metadata.instance_id, metadata.hostname
    );
    let mut files = vec![("META_DAT.;1", "meta-data", meta_data.into_bytes())];
    if let Some(data) = metadata.user_data() {
        files.push(("USER_DAT.;1", "user-data", data.into_bytes()));
    }
    let (mut short, mut long) = (folder(19), folder(20));
    let mut content = Vec::new();
    for (name, joliet, bytes) in &files {
        let extent = FILES + content.len() / SECTOR;
        short.extend(record(extent, bytes.len(), 0, name.as_bytes()));
        long.extend(record(extent, bytes.len(), 0, &wide(joliet)));
        content.extend_from_slice(bytes);
        content.resize(content.len().next_multiple_of(SECTOR), 0);
    }
    let sectors = FILES + content.len() / SECTOR;
    let mut image = vec![0; 16 * SECTOR];
    image.extend(descriptor(1, b"cidata".as_slice(), b' ', 19, sectors));
    image.extend(descriptor(2, &wide("cidata"), 0, 20, sectors));
    image.extend(sector(b"\xffCD001\x01".to_vec()));
    image.extend(sector(short));
    image.extend(sector(long));
    image.extend(content);
    image
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn sector(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(SECTOR, 0);
    bytes
}

/// A number in both byte orders.
fn both(number: usize) -> Vec<u8> {
    let number = number as u32;
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

fn record(extent: usize, size: usize, flags: u8, name: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both(extent));
    record.extend(both(size));
    // 1 January 2000, at midnight.
    record.extend([100, 1, 1, 0, 0, 0, 0, flags, 0, 0, 1, 0, 0, 1]);
    record.push(name.len() as u8);
    record.extend_from_slice(name);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = record.len() as u8;
    record
}

fn folder(extent: usize) -> Vec<u8> {
    let own = |name: u8| record(extent, SECTOR, 2, &[name]);
    [own(0), own(1)].concat()
}

fn descriptor(kind: u8, label: &[u8], fill: u8, root: usize, sectors: usize) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(b"CD001\x01\0");
    bytes.resize(40, b' ');
    bytes.extend_from_slice(label);
    while bytes.len() < 72 {
        bytes.push(fill);
    }
    bytes.resize(80, 0);
    bytes.extend(both(sectors));
    if kind == 2 {
        bytes.extend(b"%/E");
    }
    bytes.resize(120, 0);
    for number in [1_u16, 1, SECTOR as u16] {
        bytes.extend(number.to_le_bytes());
        bytes.extend(number.to_be_bytes());
    }
    bytes.resize(156, 0);
    bytes.extend(record(root, SECTOR, 2, &[0]));
    bytes.resize(881, b' ');
    bytes.push(1);
    sector(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::MetadataSource;

    #[test]
    fn the_volume_has_what_a_reader_looks_for() {
        let mut metadata = Metadata::of(MetadataSource::Nocloud);
        metadata.user_data = Some("hello".into());
        let image = image(&metadata);
        assert_eq!(image.len() % SECTOR, 0);
        assert_eq!(&image[16 * SECTOR + 1..16 * SECTOR + 6], b"CD001");
        assert_eq!(&image[16 * SECTOR + 40..16 * SECTOR + 46], b"cidata");
        let root = 16 * SECTOR + 156;
        assert_eq!(image[root], 34);
        assert_eq!(&image[root + 2..root + 6], &[19, 0, 0, 0]);
        let has = |text: &[u8]| image.windows(text.len()).any(|part| part == text);
        assert!(has(b"hello") && has(b"instance-id: i-0123456789abcdef0\n"));
        assert!(has(&wide("meta-data")) && has(&wide("user-data")));
    }
}
