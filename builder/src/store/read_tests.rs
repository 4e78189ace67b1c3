//! Verification on the way out, damage, holes.

use std::os::unix::fs::FileExt;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn flip(store: &Store, digest: &Digest, at: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(store.path(digest))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn a_flipped_bit_is_found_named_and_set_aside() {
    type Reader = fn(&Store, &Digest) -> Result<(), StoreError>;
    let readers: [(&str, Reader); 3] = [
        ("open", |s, d| s.open_blob(d).map(drop)),
        ("read", |s, d| s.read(d).map(drop)),
        ("copy", |s, d| s.copy_verified(d, &mut io::sink()).map(drop)),
    ];
    for (name, reader) in readers {
        let (folder, store) = store();
        let digest = store.put(&[7; 100_000]).unwrap();
        reader(&store, &digest).unwrap();
        flip(&store, &digest, 99_999);
        let error = reader(&store, &digest).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{name}");
        assert!(error.to_string().contains(&digest.to_string()), "{name}");
        assert!(!store.has(&digest), "{name}");
        assert!(folder.path().join("quarantine").join(digest.hex()).exists());
        assert!(matches!(
            reader(&store, &digest),
            Err(StoreError::Missing(_))
        ));
        assert_eq!(store.put(&[7; 100_000]).unwrap(), digest);
        reader(&store, &digest).unwrap();
    }
}

#[test]
fn a_new_process_finds_a_flip_that_no_time_stamp_tells_of() {
    let (folder, store) = store();
    let digest = store.put(b"some bytes").unwrap();
    let meta = fs::metadata(store.path(&digest)).unwrap();
    flip(&store, &digest, 3);
    File::options()
        .write(true)
        .open(store.path(&digest))
        .unwrap()
        .set_modified(meta.modified().unwrap())
        .unwrap();
    let fresh = Store::open(folder.path()).unwrap();
    assert!(matches!(
        fresh.open_blob(&digest),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn putting_again_heals() {
    let (_folder, store) = store();
    let digest = store.put(b"healed").unwrap();
    flip(&store, &digest, 0);
    store.put(b"healed").unwrap();
    assert_eq!(store.read(&digest).unwrap(), b"healed");
}

#[test]
fn a_short_or_long_blob_is_damaged_too() {
    let (_folder, store) = store();
    for length in [0, 3, 20] {
        let digest = store.put(b"ten bytes.").unwrap();
        File::options()
            .write(true)
            .open(store.path(&digest))
            .unwrap()
            .set_len(length)
            .unwrap();
        assert!(!store.check(&digest).unwrap(), "{length}");
    }
}

#[test]
fn too_big_a_blob_is_refused_before_it_is_read() {
    let (_folder, store) = store();
    let digest = store.put(&[1; 1000]).unwrap();
    assert!(matches!(
        store.read_at_most(&digest, "manifest", 999),
        Err(StoreError::TooBig { size: 1000, .. })
    ));
}

struct Runs(Vec<(bool, u64)>);

impl BlobSink for Runs {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.push(false, bytes.len() as u64);
        Ok(())
    }
    fn zeros(&mut self, count: u64) -> io::Result<()> {
        self.push(true, count);
        Ok(())
    }
}

impl Runs {
    fn push(&mut self, hole: bool, count: u64) {
        match self.0.last_mut() {
            Some(last) if last.0 == hole => last.1 += count,
            _ => self.0.push((hole, count)),
        }
    }
}

#[test]
fn holes_stay_holes_and_the_digest_is_that_of_the_zeros() {
    const MIB: u64 = 1024 * 1024;
    let (_folder, store) = store();
    let mut writer = store.writer().unwrap();
    writer.zeros(MIB).unwrap();
    writer.write_all(&[9; 4096]).unwrap();
    writer.zeros(2 * MIB).unwrap();
    assert_eq!(writer.length(), 3 * MIB + 4096);
    let digest = writer.finish().unwrap();

    let flat = [
        vec![0; MIB as usize],
        vec![9; 4096],
        vec![0; 2 * MIB as usize],
    ]
    .concat();
    assert_eq!(digest, Digest::of(&flat));
    assert_eq!(store.size(&digest), Some(flat.len() as u64));
    assert_eq!(store.read(&digest).unwrap(), flat);
    let mut copy = Vec::new();
    store.copy_verified(&digest, &mut copy).unwrap();
    assert_eq!(copy, flat);

    // tmpfs, ext4, xfs and btrfs all tell where the holes are, 64 KiB pages at the most.
    let mut runs = Runs(Vec::new());
    store.copy_verified(&digest, &mut runs).unwrap();
    let holes: u64 = runs.0.iter().filter(|(hole, _)| *hole).map(|r| r.1).sum();
    let total: u64 = runs.0.iter().map(|r| r.1).sum();
    assert_eq!(total, flat.len() as u64);
    let blocks = fs::metadata(store.path(&digest)).unwrap().blocks() * 512;
    assert!(blocks >= total || holes >= 2 * MIB, "{:?}", runs.0);
}

#[test]
fn a_file_filled_out_of_order_is_adopted() {
    let (_folder, store) = store();
    let file = store.temp().unwrap();
    file.as_file().write_all_at(b"end", 10).unwrap();
    file.as_file().write_all_at(b"start", 0).unwrap();
    let digest = store.adopt_unknown(file).unwrap();
    assert_eq!(store.read(&digest).unwrap(), b"start\0\0\0\0\0end");
}

#[test]
fn refuses_other_bytes_than_promised_and_keeps_nothing() {
    let (_folder, store) = store();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"evil").unwrap();
    let error = writer.finish_as(&Digest::of("good"), "webfs 1.21");
    assert!(
        matches!(&error, Err(StoreError::Unexpected { what, .. }) if what == "webfs 1.21"),
        "{error:?}"
    );
    assert_eq!(fs::read_dir(store.tmp()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.blobs()).unwrap().count(), 0);
}
