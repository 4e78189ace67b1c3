//! State on real machines: redis, its disk's file written to, its power cut.
//!
//! QEMU is killed where a machine would lose its power: what the guest had flushed is on
//! the disk, and of the rest what QEMU was told. That a disk may lose and reorder what
//! was not flushed is simulated in init's own tests, at every single write.
//!
//! TCG only, two machines at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::lab::{emulator, settings, slot};
use crate::support::project::{Project, Subject};
use crate::support::wire::{Extra, Machine, Way};
use slipform::disk::gpt;
use slipform::pipeline::{SweepRequest, testing};
use slipform_init::contract::event::{Event, Phase, Record, ServiceState, StateNews};
use slipform_qemu_tests::Plan;

pub(crate) const MIB: u64 = 1 << 20;
const REDIS: u16 = 6379;
/// As init has it.
const STATE_TYPE: u128 = 0x54fc_e1b4_8ef4_8c5c_954b_c8e4_db62_4db8;

/// A connection to redis that speaks RESP.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(port: u16) -> Self {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let stream = TcpStream::connect(("127.0.0.1", port));
            let asked = stream.and_then(|stream| {
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                let mut client = Self(BufReader::new(stream));
                client.ask(&["PING"]).map(|_| client)
            });
            match asked {
                Ok(client) => return client,
                Err(error) if Instant::now() > until => panic!("redis does not answer: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Sends a command; the answer's first line, and a bulk string's text.
    pub(crate) fn ask(&mut self, words: &[&str]) -> io::Result<String> {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(text.as_bytes())?;
        let mut line = self.line()?;
        if line.starts_with('$') && line != "$-1" {
            line = self.line()?;
        }
        Ok(line)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// A free port of the loopback.
fn port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

/// Starts the machine on its disk's file, and waits for redis, or for the end.
fn start(plan: &Plan) -> (Machine, u16, bool) {
    start_with(plan, &[])
}

/// The same with further disks and their serial numbers.
pub(crate) fn start_with(plan: &Plan, disks: &[(&Path, &str)]) -> (Machine, u16, bool) {
    let port = port();
    let extra = Extra {
        writes: true,
        disks: disks
            .iter()
            .map(|&(file, serial)| (file.to_owned(), serial.to_owned()))
            .collect(),
        forwards: vec![(port, REDIS)],
        ..Extra::default()
    };
    let mut machine = Machine::start_with(plan, Way::Port, &extra);
    let ready = machine.until(|event| {
        matches!(event, Event::Service { name, state: ServiceState::Ready, .. } if name == "redis")
    });
    (machine, port, ready)
}

/// What became of the state, in order.
pub(crate) fn news(records: &[Record]) -> Vec<StateNews> {
    let news = records.iter().filter_map(|record| match record.event {
        Event::State { news, .. } => Some(news),
        _ => None,
    });
    news.collect()
}

/// Why init could not bring up the state.
pub(crate) fn error(records: &[Record]) -> Option<String> {
    records.iter().find_map(|record| match &record.event {
        Event::Error {
            phase: Phase::State,
            what,
            why,
        } => Some(format!("{what}: {why}")),
        _ => None,
    })
}

/// Where the state lies on the disk: its only partition of that type, at its end.
fn place(disk: &Path) -> Range<u64> {
    let mut file = File::open(disk).expect("the disk");
    let table = gpt::read(&mut file)
        .expect("it can be read")
        .expect("a table");
    let state: Vec<_> = table
        .partitions
        .iter()
        .filter(|partition| partition.type_guid.as_u128() == STATE_TYPE)
        .collect();
    let [state] = state.as_slice() else {
        panic!("{table:#?}");
    };
    assert_eq!(state.name, "slipform-state");
    let sector = u64::from(table.sector_size);
    let end = file.seek(SeekFrom::End(0)).expect("its size");
    let range = state.first_lba * sector..(state.last_lba + 1) * sector;
    assert!(end - range.end <= MIB, "{range:?} of {end}");
    range
}

/// e2fsck over a copy: it replays the journal as the kernel would, and then finds nothing.
pub(crate) fn fsck(disk: &Path, place: &Range<u64>) {
    let mut copy = tempfile::NamedTempFile::new().expect("a file");
    let mut file = File::open(disk).expect("the disk");
    file.seek(SeekFrom::Start(place.start)).expect("the state");
    let mut state = file.take(place.end - place.start);
    io::copy(&mut state, &mut copy).expect("a copy");
    let Some(tools) = testing::judges().expect("the judges") else {
        return;
    };
    for options in ["-p", "-fn"] {
        let output = tools
            .command("e2fsck")
            .expect("the judges have it")
            .arg(options)
            .arg(copy.path())
            .output()
            .expect("e2fsck runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let good = output
            .status
            .code()
            .is_some_and(|code| code == 0 || options == "-p" && code == 1);
        assert!(good, "e2fsck {options}: {:?} {text}", output.status);
    }
}

/// Numbers that come again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Every one of `count` keys has its value.
pub(crate) fn all_are_there(client: &mut Client, count: u64) {
    for key in 1..=count {
        let value = client
            .ask(&["GET", &format!("key{key}")])
            .expect("an answer");
        assert_eq!(value, format!("value{key}"), "of {count} acknowledged");
    }
}

/// Five cuts, fifty with SLIPFORM_TESTS_NIGHTLY=1.
#[test]
fn every_acknowledged_write_is_there_after_each_power_cut() {
    let _slot = slot();
    let subject = Project::shipped("redis").cast();
    let plan = subject.direct("state-power-cuts");
    let nightly = std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some_and(|value| value == "1");
    let cuts = if nightly { 50 } else { 5 };
    let mut random = Random(7);
    let mut acknowledged = 0;
    for cut in 0..=cuts {
        let (machine, port, ready) = start(&plan);
        assert!(ready, "cut {cut}: {:#?}", machine.records);
        let expected: &[StateNews] = match cut {
            0 => &[StateNews::Made, StateNews::Mounted],
            _ => &[StateNews::Mounted],
        };
        assert_eq!(news(&machine.records), expected, "cut {cut}");
        let mut client = Client::connect(port);
        all_are_there(&mut client, acknowledged);
        if cut == cuts {
            break;
        }
        // Somebody else pulls the plug, in the middle of whatever is written.
        let (pull, pulled) = channel::<()>();
        let moment = Duration::from_millis(20 + random.below(3000));
        let plug = std::thread::spawn(move || {
            // The first write is over, then so long more.
            let _ = pulled.recv();
            std::thread::sleep(moment);
            drop(machine);
        });
        let mut pull = Some(pull);
        let next = acknowledged + 1;
        for key in next.. {
            let answer = client.ask(&["SET", &format!("key{key}"), &format!("value{key}")]);
            match answer.as_deref() {
                Ok("+OK") => acknowledged = key,
                Ok(other) => panic!("{other}"),
                Err(_) => break,
            }
            drop(pull.take());
        }
        plug.join().expect("the plug");
        assert!(
            acknowledged >= next,
            "cut {cut}: nothing was written in {moment:?}"
        );
        let told = writeln!(
            io::stderr(),
            "cut {cut} after {moment:?}: {acknowledged} acknowledged"
        );
        assert!(told.is_ok());
    }
    fsck(&plan.disk, &place(&plan.disk));
}

fn cut(plan: &Plan, count: usize) {
    let mut plan = plan.clone();
    // What is told in one boot only; the third check reboots by itself.
    plan.checks.truncate(2);
    let request = SweepRequest {
        power_cuts: count,
        seed: 11,
        jobs: 2,
        ..SweepRequest::default()
    };
    let sweeps = settings()
        .sweep(&plan, emulator(), "tcg", &request)
        .expect("the sweep can be made");
    assert!(sweeps.passed(), "{}", sweeps.text());
}

/// Cuts from power-on on: most of them while the state is made, or before.
#[test]
fn a_first_boot_that_is_cut_is_made_good_by_the_next() {
    let (_first, _second) = (slot(), slot());
    let subject = Project::shipped("redis").cast();
    let nightly = std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some_and(|value| value == "1");
    cut(
        &subject.direct("state-first-boot"),
        if nightly { 20 } else { 1 },
    );
}

#[test]
fn a_disk_that_grew_gives_all_of_it_to_the_state() {
    let _slot = slot();
    let subject = Project::shipped("redis").cast();
    let plan = subject.direct("state-grows");
    let (machine, port, ready) = start(&plan);
    assert!(ready, "{:#?}", machine.records);
    let mut client = Client::connect(port);
    assert_eq!(
        client.ask(&["SET", "key1", "value1"]).expect("an answer"),
        "+OK"
    );
    drop(machine);
    let before = place(&plan.disk);
    assert_eq!(before.end - before.start, 64 * MIB);

    let disk = File::options()
        .write(true)
        .open(&plan.disk)
        .expect("the disk");
    let size = disk.metadata().expect("its size").len();
    // Beyond a block group, and beyond the old second table.
    disk.set_len(size + 333 * MIB).expect("a larger disk");
    let (machine, port, ready) = start(&plan);
    assert!(ready, "{:#?}", machine.records);
    assert_eq!(
        news(&machine.records),
        [StateNews::Grown, StateNews::Mounted]
    );
    all_are_there(&mut Client::connect(port), 1);
    machine.press_power();
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    assert!(matches!(
        records.last().map(|r| &r.event),
        Some(Event::End { clean: true })
    ));
    let after = place(&plan.disk);
    assert_eq!(
        (after.start, after.end),
        (before.start, before.end + 333 * MIB)
    );
    fsck(&plan.disk, &after);
}

/// Boots once, and ruins the superblock.
fn damaged(subject: &Subject, name: &str) -> (Plan, Range<u64>) {
    let plan = subject.direct(name);
    let (machine, _, ready) = start(&plan);
    assert!(ready, "{:#?}", machine.records);
    machine.press_power();
    let (_, records) = machine.end();
    assert_eq!(error(&records), None);
    let place = place(&plan.disk);
    let disk = File::options()
        .write(true)
        .open(&plan.disk)
        .expect("the disk");
    disk.write_all_at(&[0x5a; 4096], place.start)
        .expect("damage");
    (plan, place)
}

fn content(disk: &Path, place: &Range<u64>) -> Vec<u8> {
    let length = usize::try_from(place.end - place.start).expect("a length");
    let mut bytes = vec![0; length];
    let file = File::open(disk).expect("the disk");
    file.read_exact_at(&mut bytes, place.start)
        .expect("the state");
    bytes
}

#[test]
fn state_that_cannot_be_mounted_ends_the_boot_and_stays_as_it_is() {
    let _slot = slot();
    let subject = Project::shipped("redis").cast();
    let (plan, place) = damaged(&subject, "state-fail");
    let before = content(&plan.disk, &place);
    let (machine, _, ready) = start(&plan);
    assert!(!ready);
    let why = error(&machine.records).unwrap_or_else(|| panic!("{:#?}", machine.records));
    for part in [
        "mount the state partition /dev/vda",
        "left as it is",
        "policy = \"recreate\"",
    ] {
        assert!(why.contains(part), "{why}");
    }
    let left = machine.records.iter().any(|record| {
        matches!(&record.event, Event::Shutdown { kind, reason } if kind == "power-off" && reason == "boot failed")
    });
    assert!(left, "{:#?}", machine.records);
    drop(machine);
    assert!(content(&plan.disk, &place) == before, "nothing was written");
}

#[test]
fn with_policy_recreate_it_is_made_anew_and_said() {
    let _slot = slot();
    let subject = Project::shipped("redis")
        .variant(
            "redis-recreate",
            &[("[state]\n", "[state]\npolicy = \"recreate\"\n")],
            &[],
        )
        .cast();
    let (plan, place) = damaged(&subject, "state-recreate");
    let (machine, port, ready) = start(&plan);
    assert!(ready, "{:#?}", machine.records);
    assert_eq!(
        news(&machine.records),
        [StateNews::Recreated, StateNews::Mounted]
    );
    let mut client = Client::connect(port);
    assert_eq!(client.ask(&["GET", "key1"]).expect("an answer"), "$-1");
    drop(machine);
    fsck(&plan.disk, &place);
}

#[test]
fn a_disk_of_its_own_is_found_by_its_serial_number_and_grows() {
    let _slot = slot();
    let own = "[state]\ndisk = { serial = \"data\" }\n";
    let subject = Project::shipped("redis")
        .variant("redis-own-disk", &[("[state]\n", own)], &[])
        .cast();
    let plan = subject.direct("state-own-disk");
    let before = std::fs::read(&plan.disk).expect("the boot disk");
    let data = subject.folder.path().join("data.raw");
    let file = File::create(&data).expect("a file");
    file.set_len(64 * MIB).expect("its length");

    let (machine, port, ready) = start_with(&plan, &[(&data, "data")]);
    assert!(ready, "{:#?}", machine.records);
    assert_eq!(
        news(&machine.records),
        [StateNews::Made, StateNews::Mounted]
    );
    let mut client = Client::connect(port);
    assert_eq!(
        client.ask(&["SET", "key1", "value1"]).expect("an answer"),
        "+OK"
    );
    drop(machine);

    file.set_len(300 * MIB).expect("a larger disk");
    let (machine, port, ready) = start_with(&plan, &[(&data, "data")]);
    assert!(ready, "{:#?}", machine.records);
    assert_eq!(
        news(&machine.records),
        [StateNews::Grown, StateNews::Mounted]
    );
    all_are_there(&mut Client::connect(port), 1);
    drop(machine);
    fsck(&data, &(0..300 * MIB));
    assert!(std::fs::read(&plan.disk).expect("the boot disk") == before);

    let (machine, _, ready) = start(&plan);
    assert!(!ready);
    let why = error(&machine.records).unwrap_or_else(|| panic!("{:#?}", machine.records));
    assert!(why.contains("serial number \"data\""), "{why}");
    assert!(why.contains("no disk has it"), "{why}");
}
