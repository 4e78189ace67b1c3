use super::*;
use crate::ship::record::testing::{OFFSET, identity};

fn start(root: &Path) -> (Disk, Left) {
    let mut disk = Disk::start(root.to_owned(), 1 << 20, vec!["a".to_owned()]).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        match disk.take().pop() {
            Some(News::Left(left)) => return (disk, left),
            Some(News::Trouble(why)) => panic!("{why}"),
            None => {}
        }
    }
    panic!("it says nothing");
}

fn line(text: &str) -> Record {
    Record::line(Duration::from_secs(1), "web", "out", text)
}

fn advance(disk: &Disk, arrived: u64) {
    let identity = identity();
    let context = Context {
        identity: &identity,
        offset: OFFSET,
    };
    disk.advance(&context, vec![arrived]);
}

fn end(mut disk: Disk) {
    disk.close();
    while !disk.is_closed() {
        disk.take();
    }
}

fn texts(left: &Left) -> Vec<&str> {
    left.records.iter().map(|record| &*record.text).collect()
}

#[test]
fn what_has_not_arrived_is_there_in_the_next_boot() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    let (disk, left) = start(&root);
    assert!(left.records.is_empty());
    for (number, text) in (0..).zip(["a", "b", "c"]) {
        disk.writer().push(number, &line(text));
    }
    advance(&disk, 1);
    end(disk);
    let (disk, left) = start(&root);
    assert_eq!(texts(&left), ["b", "c"]);
    let past = left.records[0].past.as_deref().unwrap();
    assert_eq!((&past.identity, past.offset), (&identity(), OFFSET));
    advance(&disk, 2);
    end(disk);
    let (disk, left) = start(&root);
    assert!(left.records.is_empty());
    end(disk);
}

#[test]
fn what_arrives_soon_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    let (disk, _) = start(&root);
    for number in 0..100 {
        disk.writer().push(number, &line("x"));
        advance(&disk, number + 1);
    }
    thread::sleep(DELAY * 2);
    let generation = std::fs::read_dir(root.join("0")).unwrap();
    assert_eq!(generation.count(), 0);
    end(disk);
}

#[test]
fn the_queue_is_bounded_and_what_does_not_fit_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (mut disk, _) = start(&folder.path().join("spool"));
    let long = line(&"x".repeat(1000));
    for number in 0..1000 {
        disk.writer().push(number, &long);
    }
    let waits = disk.shared.with(|queue| queue.bytes);
    assert!(waits <= QUEUE_MAX, "{waits}");
    disk.close();
    let mut told = Vec::new();
    while !disk.is_closed() {
        told.extend(disk.take());
    }
    let [News::Trouble(why)] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert!(
        why.ends_with("records came faster than the disk takes them"),
        "{why}"
    );
}

#[test]
fn a_disk_that_does_not_work_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent/spool");
    let mut disk = Disk::start(absent, 1 << 20, vec!["a".to_owned()]).unwrap();
    let mut told = Vec::new();
    while !disk.is_closed() {
        told.extend(disk.take());
    }
    assert!(matches!(told.as_slice(), [News::Trouble(why)] if why.contains("absent/spool")));
}
