use std::time::Duration;

use super::*;
use crate::ship::record::testing::{OFFSET, identity};
use crate::ship::record::{Identity, Record};

const LIMIT: u64 = 1 << 20;

fn open(root: &Path) -> (Folder, Left) {
    Folder::open(root, LIMIT, vec!["a".to_owned(), "b".to_owned()]).unwrap()
}

fn batch(numbers: std::ops::Range<u64>, arrived: [u64; 2], boot: &str) -> Batch {
    let identity = Identity {
        boot: boot.to_owned(),
        ..identity()
    };
    let line = |number| Record::line(Duration::from_secs(number), "web", "out", "line");
    Batch {
        frames: numbers
            .map(|number| (number, frame::record(number, &line(number)).unwrap()))
            .collect(),
        boot: frame::boot(&identity, OFFSET),
        arrived: arrived.to_vec(),
    }
}

fn seconds(left: &Left) -> Vec<u64> {
    left.records
        .iter()
        .map(|record| record.at.as_secs())
        .collect()
}

fn boots(left: &Left) -> Vec<&str> {
    let past = left.records.iter().map(|record| record.past.as_deref());
    past.map(|past| &*past.unwrap().identity.boot).collect()
}

fn bytes(root: &Path) -> u64 {
    let folders = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

#[test]
fn what_has_not_arrived_outlasts_boots() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    let (mut spool, left) = open(&root);
    assert!(left.records.is_empty() && !spool.holds());
    spool.write(&batch(0..4, [0, 0], "first")).unwrap();
    spool.write(&batch(4..6, [3, 2], "first")).unwrap();
    drop(spool);
    let (mut spool, left) = open(&root);
    assert_eq!(seconds(&left), [2, 3, 4, 5]);
    assert_eq!(left.had, [("a".to_owned(), 1), ("b".to_owned(), 0)]);
    // The second boot counts from what was left.
    spool.write(&batch(4..6, [1, 1], "second")).unwrap();
    drop(spool);
    for _ in 0..2 {
        let (_, left) = open(&root);
        assert_eq!(seconds(&left), [3, 4, 5, 4, 5]);
        assert_eq!(
            boots(&left),
            ["first", "first", "first", "second", "second"]
        );
        assert_eq!((left.lost, left.damaged), (0, 0));
    }
    let (mut spool, _) = open(&root);
    spool.write(&batch(0..0, [5, 5], "third")).unwrap();
    assert!(!spool.holds());
    assert_eq!(bytes(&root), 0, "all have all");
    assert!(open(&root).1.records.is_empty());
}

#[test]
fn a_full_spool_loses_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    let (mut spool, _) = open(&root);
    let mut end = 0;
    for _ in 0..60 {
        spool
            .write(&batch(end..end + 1000, [0, 0], "first"))
            .unwrap();
        end += 1000;
        assert!(bytes(&root) <= LIMIT);
    }
    assert!(bytes(&root) > LIMIT / 2);
    let (_, left) = open(&root);
    assert_eq!(left.records.last().unwrap().at.as_secs(), end - 1);
    assert_eq!(left.lost, end - left.records.len() as u64);
}

#[test]
fn a_power_cut_at_any_byte_leaves_what_was_whole() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    let (mut spool, _) = open(&root);
    spool.write(&batch(0..3, [0, 0], "first")).unwrap();
    drop(spool);
    let segment = root.join("0/00000000");
    let whole = fs::read(&segment).unwrap();
    let mut counts = Vec::new();
    for end in 0..=whole.len() {
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("0")).unwrap();
        // The next generation was on its way, and an older one was not gone.
        fs::create_dir_all(root.join("new/more")).unwrap();
        fs::write(&segment, &whole[..end]).unwrap();
        let (spool, left) = open(&root);
        assert_eq!(seconds(&left), (0..counts_of(&left)).collect::<Vec<_>>());
        assert!(left.aside.is_none());
        assert_eq!(spool.path, root.join("1"));
        assert!(!root.join("0").exists() && !root.join("new").exists());
        counts.push(left.records.len());
    }
    assert!(counts.is_sorted());
    assert_eq!((counts[0], counts[whole.len()]), (0, 3));
}

fn counts_of(left: &Left) -> u64 {
    left.records.len() as u64
}

#[test]
fn what_is_no_spool_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    let aside = folder.path().join("spool.aside");
    let secret = folder.path().join("secret");
    fs::write(&secret, b"SLIPLOG1").unwrap();
    let makers: [&dyn Fn(); 5] = [
        &|| fs::write(&root, b"x").unwrap(),
        &|| std::os::unix::fs::symlink("/etc", &root).unwrap(),
        &|| {
            fs::create_dir_all(root.join("3")).unwrap();
            fs::write(root.join("3/00000000"), b"SLIPLOG2 of a later version").unwrap();
        },
        &|| {
            fs::create_dir_all(root.join("3")).unwrap();
            std::os::unix::fs::symlink(&secret, root.join("3/00000000")).unwrap();
        },
        &|| {
            fs::create_dir_all(root.join("3")).unwrap();
            fs::write(root.join("3/5"), b"").unwrap();
        },
    ];
    for make in makers {
        make();
        let (mut spool, left) = open(&root);
        assert_eq!(left.aside.as_deref(), aside.to_str());
        assert!(fs::symlink_metadata(&aside).is_ok());
        spool.write(&batch(0..2, [0, 0], "first")).unwrap();
        drop(spool);
        let (_, left) = open(&root);
        assert_eq!((seconds(&left), left.aside), (vec![0, 1], None));
        fs::remove_dir_all(&root).unwrap();
    }
    assert_eq!(fs::read(&secret).unwrap(), b"SLIPLOG1");
}

/// A file whose disk fails behind so many bytes.
struct Bad(io::Take<File>);

impl Read for Bad {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::from_raw_os_error(libc::EIO)),
            some => Ok(some),
        }
    }
}

#[test]
fn a_segment_that_the_disk_does_not_give_back_is_set_aside_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    let damaged = folder.path().join("spool.damaged");
    let one = batch(0..1, [0, 0], "first");
    let good = (frame::MAGIC.len() + one.boot.len() + one.frames[0].1.len()) as u64 + 50;
    for boot in 0..DAMAGED_MAX as u64 + 2 {
        let (mut spool, _) = open(&root);
        spool.limit = 8; // every batch has a segment of its own
        for number in 0..3 {
            let batch = batch(number * 10..number * 10 + 10, [0, 0], "first");
            spool.put(&batch, Some(number * 10 + 10)).unwrap();
        }
        drop(spool);
        let names = vec!["a".to_owned(), "b".to_owned()];
        // The second of the three: its first records can be read.
        let (mut spool, left) = Folder::open_with(&root, LIMIT, names, |path| {
            let (length, file) = open_segment(path)?;
            let bad = path.ends_with("00000001");
            let end = if bad { good } else { u64::MAX };
            let fails = Bad(file.take(end.min(length)));
            let file: Box<dyn Read> = match bad {
                true => Box::new(fails),
                false => Box::new(fails.0),
            };
            Ok((length, file))
        })
        .unwrap();
        let found = seconds(&left);
        assert_eq!(found[..10], (0..10).collect::<Vec<_>>());
        assert!((10..20).contains(&found[10]) && found.ends_with(&[28, 29]));
        assert_eq!(left.lost, 30 - found.len() as u64);
        assert!(left.lost > 0 && left.damaged > 0 && left.broken.len() == 1);
        let aside = fs::read_dir(&damaged).unwrap().count() as u64;
        assert_eq!(aside, (boot + 1).min(DAMAGED_MAX as u64), "bounded");
        spool.write(&batch(99..99, [40, 40], "first")).unwrap();
        drop(spool);
        let (_, left) = open(&root);
        assert!(
            left.records.is_empty() && left.broken.is_empty(),
            "{left:?}"
        );
    }
}

#[test]
fn a_segment_that_cannot_be_removed_keeps_no_record_out() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    let (mut spool, _) = open(&root);
    spool.write(&batch(0..2, [0, 0], "first")).unwrap();
    // In its place is what no unlink removes.
    let segment = root.join("0/00000000");
    spool.segments[0].path = segment.join("below");
    spool.file = None;
    let error = spool.write(&batch(2..4, [2, 2], "first")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    spool.write(&batch(4..6, [2, 2], "first")).unwrap();
    drop(spool);
    let (_, left) = open(&root);
    assert_eq!((seconds(&left), left.lost), (vec![2, 3, 4, 5], 0));
}
