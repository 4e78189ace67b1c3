//! Tests of the whole fleet on a simulated clock: random services, random fates.
//! The world here knows what a real one would never forgive.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use slipform_init::contract::event::{LimitKind, ServiceState};
use slipform_init::contract::machine::{Ready, Restart};
use slipform_init::contract::service::{Health, Kind, StartLimit, Then};

use super::escalate::Patience;
use super::fleet::{Fleet, Ordered};
use super::meter::Meter;
use super::order;
use super::state::{Action, BACKOFF_CAP, BACKOFF_FIRST, End, Input, KILL_GRACE, Policy};
use super::vitals::{Verdict, Vitals};

/// splitmix64: small, seeded, good enough for dice.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A process of the simulated world.
struct Process {
    pid: i32,
    execed: bool,
    ends_at: Option<Duration>,
    stubborn: bool,
}

struct World {
    dice: Dice,
    now: Duration,
    fleet: Fleet,
    after: Vec<Vec<usize>>,
    processes: Vec<Option<Process>>,
    timers: Vec<bool>,
    over: Vec<bool>,
    last_end: Vec<Option<Duration>>,
    spawned: Vec<u64>,
    next_pid: i32,
    stopping: bool,
    largest_batch: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let count = 1 + dice.roll(6) as usize;
        let names: Vec<String> = (0..count).map(|number| format!("s{number}")).collect();
        let mut lists: Vec<Vec<String>> = Vec::new();
        for _ in 0..count {
            // Any service may come after any other: cycles are part of the game.
            lists.push(
                (0..dice.roll(3))
                    .map(|_| names[dice.roll(count as u64) as usize].clone())
                    .collect(),
            );
        }
        let services: Vec<(&str, &[String])> = names
            .iter()
            .zip(&lists)
            .map(|(name, list)| (name.as_str(), list.as_slice()))
            .collect();
        let order = order::resolve(&services);
        let policies: Vec<Policy> = (0..count)
            .map(|_| Policy {
                kind: match dice.roll(8) {
                    0 => Kind::Oneshot,
                    1 => Kind::Every(1000 + dice.roll(60_000)),
                    _ => Kind::Daemon,
                },
                start_limit: (dice.roll(4) == 0).then(|| StartLimit {
                    starts: 1 + dice.roll(20) as u32,
                    then: [Then::GiveUp, Then::Reboot][dice.roll(2) as usize],
                }),
                patience: (dice.roll(2) == 0).then(|| Patience {
                    restarts: dice.roll(100) as u32,
                    within: Duration::from_secs(dice.roll(7200)),
                    then: Then::GiveUp,
                }),
                restart: [Restart::Always, Restart::OnFailure, Restart::Never]
                    [dice.roll(3) as usize],
                ready_timeout: Duration::from_millis(dice.roll(40_000)),
                stop_timeout: Duration::from_millis(dice.roll(10_000)),
            })
            .collect();
        World {
            timers: policies
                .iter()
                .map(|policy| matches!(policy.kind, Kind::Every(_)))
                .collect(),
            dice,
            now: Duration::ZERO,
            after: order.after.clone(),
            fleet: Fleet::new(policies, order),
            processes: (0..count).map(|_| None).collect(),
            over: vec![false; count],
            last_end: vec![None; count],
            spawned: vec![0; count],
            next_pid: 100,
            stopping: false,
            largest_batch: 0,
        }
    }

    fn start(&mut self) {
        let mut out = Vec::new();
        self.fleet.start(self.now, &mut out);
        self.obey(out);
    }

    fn stop(&mut self) {
        self.stopping = true;
        let mut out = Vec::new();
        self.fleet.stop(self.now, &mut out);
        self.obey(out);
    }

    fn tell(&mut self, number: usize, input: Input) {
        if matches!(input, Input::Exited(_) | Input::SpawnFailed(_)) {
            self.processes[number] = None;
            self.last_end[number] = Some(self.now);
        }
        let mut out = Vec::new();
        self.fleet.step(self.now, number, input, &mut out);
        self.obey(out);
    }

    fn obey(&mut self, actions: Vec<Ordered>) {
        self.largest_batch = self.largest_batch.max(actions.len());
        for (number, action) in actions {
            match action {
                Action::Spawn => self.spawn(number),
                Action::Terminate => {
                    let after = Duration::from_millis(self.dice.roll(20_000));
                    let process = self.processes[number]
                        .as_mut()
                        .expect("SIGTERM goes to a process");
                    let at = self.now + after;
                    process.ends_at = Some(process.ends_at.map_or(at, |end| end.min(at)));
                }
                Action::Kill => {
                    let process = self.processes[number]
                        .as_mut()
                        .expect("SIGKILL goes to a process");
                    if !process.stubborn {
                        process.ends_at = Some(self.now);
                    }
                }
                Action::Reboot(_) => {}
                Action::Report { state, pid, .. } => {
                    assert!(
                        !self.over[number] || pid == 0,
                        "news of a process after the end"
                    );
                    self.over[number] |= state == ServiceState::Stopped;
                }
            }
        }
    }

    fn spawn(&mut self, number: usize) {
        assert!(
            self.processes[number].is_none(),
            "two processes of one service"
        );
        assert!(!self.stopping, "a start during the stop");
        if let Some(end) = self.last_end[number] {
            let pause = self.now - end;
            assert!(pause >= BACKOFF_FIRST, "restart after {pause:?}");
            // The world's clock moves in steps of a second at most.
            assert!(
                self.timers[number] || pause <= BACKOFF_CAP + Duration::from_secs(1),
                "restart after {pause:?}"
            );
        }
        for &other in &self.after[number] {
            assert!(self.spawned[other] > 0, "{number} started before {other}");
        }
        self.spawned[number] += 1;
        if self.dice.roll(10) == 0 {
            return self.tell(number, Input::SpawnFailed("fork: no".into()));
        }
        self.next_pid += 1;
        let lives = Duration::from_millis(self.dice.roll(60_000));
        let process = Process {
            pid: self.next_pid,
            execed: false,
            ends_at: (self.dice.roll(4) > 0).then_some(self.now + lives),
            stubborn: self.dice.roll(50) == 0,
        };
        let pid = process.pid;
        self.processes[number] = Some(process);
        self.tell(number, Input::Spawned(pid));
    }

    /// Time goes on, something happens.
    fn turn(&mut self) {
        self.now += Duration::from_millis(self.dice.roll(1000));
        for number in 0..self.processes.len() {
            if let Some(process) = &mut self.processes[number] {
                if !process.execed {
                    process.execed = true;
                    let failed = self.dice.roll(20) == 0;
                    let input = if failed {
                        Input::SpawnFailed("exec: no".into())
                    } else {
                        Input::Execed
                    };
                    self.tell(number, input);
                } else if process.ends_at.is_some_and(|end| end <= self.now) {
                    let status = self.dice.roll(3) as i32;
                    self.tell(number, Input::Exited(End::Status(status)));
                } else if self.dice.roll(5) == 0 {
                    self.tell(number, Input::Ready);
                } else if self.dice.roll(300) == 0 {
                    self.tell(number, Input::Unhealthy("it does not answer".into()));
                }
            }
            // Late and false news of every kind must do no harm.
            match self.dice.roll(250) {
                4 => self.feed_nonsense(number, Input::Unhealthy("nonsense".into())),
                0 => self.feed_nonsense(number, Input::DepsReady),
                1 => self.feed_nonsense(number, Input::Refused("nonsense".into())),
                2 => self.feed_nonsense(number, Input::Ready),
                3 => self.feed_nonsense(number, Input::Execed),
                _ => {}
            }
            self.tell(number, Input::Tick(String::new()));
        }
    }

    fn feed_nonsense(&mut self, number: usize, input: Input) {
        // What only fits a waiting service is no nonsense to one that waits.
        let waiting = self
            .fleet
            .life(number)
            .is_some_and(super::state::Life::is_waiting);
        let execed = self.processes[number]
            .as_ref()
            .is_none_or(|process| process.execed);
        if !waiting && execed {
            self.tell(number, input);
        }
    }
}

/// Longest possible way down: each service's grace, the kill, and steps of the clock.
fn longest_stop(services: usize) -> Duration {
    (Duration::from_secs(10) + KILL_GRACE + Duration::from_secs(4)) * services as u32
}

#[test]
fn whatever_happens_the_rules_hold_and_a_stop_comes_to_its_end() {
    for seed in 0..3000 {
        let mut world = World::new(seed);
        world.start();
        for _ in 0..world.dice.roll(400) {
            world.turn();
        }
        world.stop();
        let limit = world.now + longest_stop(world.processes.len());
        while !world.fleet.all_over() {
            assert!(world.now < limit, "seed {seed}: not stopped in time");
            world.turn();
        }
        for number in 0..world.processes.len() {
            let left = world.processes[number]
                .as_ref()
                .is_some_and(|process| !process.stubborn);
            assert!(!left, "seed {seed}: service {number} is still there");
        }
    }
}

#[test]
fn a_stop_before_the_start_ends_at_once_even_with_cycles() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.stop();
        assert!(world.fleet.all_over(), "seed {seed}");
    }
}

#[test]
fn a_stop_goes_from_the_last_to_the_first() {
    let lists: [Vec<String>; 3] = [vec![], vec!["s0".into()], vec!["s1".into()]];
    let services = [
        ("s0", lists[0].as_slice()),
        ("s1", &lists[1]),
        ("s2", &lists[2]),
    ];
    let policy = Policy {
        restart: Restart::Always,
        ready_timeout: Duration::from_secs(9),
        stop_timeout: Duration::from_secs(3),
        ..Policy::default()
    };
    let mut fleet = Fleet::new(vec![policy; 3], order::resolve(&services));
    let now = Duration::ZERO;
    let mut out = Vec::new();
    fleet.start(now, &mut out);
    for number in 0..3 {
        assert_eq!(out.last(), Some(&(number, Action::Spawn)));
        for input in [Input::Spawned(number as i32 + 10), Input::Execed] {
            fleet.step(now, number, input, &mut out);
        }
        assert!(!fleet.all_ready());
        fleet.step(now, number, Input::Ready, &mut out);
    }
    assert!(fleet.all_ready() && !fleet.all_over());
    out.clear();
    fleet.stop(now, &mut out);
    assert!(!fleet.all_ready(), "nothing gets ready on the way down");
    for number in (0..3).rev() {
        assert_eq!(out.last(), Some(&(number, Action::Terminate)), "{out:?}");
        assert!(!fleet.all_over());
        fleet.step(now, number, Input::Exited(End::Status(0)), &mut out);
    }
    assert!(fleet.all_over());
}

#[test]
fn who_waits_for_a_lost_service_is_told_so() {
    let lists: [Vec<String>; 2] = [vec![], vec!["s0".into()]];
    let services = [("s0", lists[0].as_slice()), ("s1", &lists[1])];
    let policy = Policy {
        restart: Restart::Never,
        ready_timeout: Duration::from_secs(9),
        stop_timeout: Duration::from_secs(3),
        ..Policy::default()
    };
    let mut fleet = Fleet::new(vec![policy; 2], order::resolve(&services));
    let mut out = Vec::new();
    fleet.start(Duration::ZERO, &mut out);
    fleet.step(Duration::ZERO, 0, Input::SpawnFailed("no".into()), &mut out);
    let Some((
        1,
        Action::Report {
            state: ServiceState::Failed,
            detail,
            ..
        },
    )) = out.last()
    else {
        panic!("{out:?}");
    };
    assert_eq!(detail, "after `s0`, which failed for good");
}

/// A day of services that crash, hang and recover: the state stays as small as it was.
#[test]
fn a_day_of_crashes_leaves_no_trace() {
    for seed in 0..8 {
        let mut world = World::new(1_000_000 + seed);
        world.start();
        let mut turns: u64 = 0;
        while world.now < Duration::from_secs(24 * 3600) {
            world.turn();
            turns += 1;
        }
        // All that grows with time would show here: a fleet prints everything it holds.
        let size = format!("{:?}", world.fleet).len();
        assert!(
            size < 8000 * world.processes.len(),
            "seed {seed}: {size} bytes"
        );
        assert!(
            world.largest_batch <= 4 * world.processes.len(),
            "seed {seed}: {} actions",
            world.largest_batch
        );
        // Capped restarts: never more often than the shortest pause allows.
        assert!(
            world.spawned.iter().all(|&count| count < turns),
            "seed {seed}"
        );
        world.stop();
    }
}

/// A service that is watched for a day: it dies, comes back, forgets its signs, and the
/// port that is probed opens and closes.
#[test]
fn a_day_of_signs_is_judged_as_it_went_and_leaves_no_trace() {
    let mut dice = Dice(86_400);
    let (limit, interval) = (Duration::from_secs(30), Duration::from_secs(10));
    // An address of its own: while the port is closed, nobody else may get it.
    let mut listener = TcpListener::bind("127.83.0.2:0").ok();
    let port = listener.as_ref().expect("a port").local_addr();
    let address = port.expect("its address").to_string();
    let health = Health {
        probe: Ready::Tcp(address.clone()),
        interval_ms: 10_000,
        timeout_ms: 5000,
        failures: 3,
        restarts: 3,
        within_ms: 1000,
        then: Then::GiveUp,
    };
    let mut vitals = Vitals::new(Some(&health), Some(limit)).expect("an address");
    let (mut now, mut signed) = (Duration::ZERO, Duration::ZERO);
    vitals.begin(now);
    let first = format!("{vitals:?}").len();
    let (mut failed, mut probe_at, mut is_hung) = (0, interval, false);
    // By the model: silent, unanswered.
    let (mut expected, mut told) = ([0, 0], [0, 0]);
    while now < Duration::from_secs(24 * 3600) {
        let due = vitals.deadline().expect("it is watched");
        assert_eq!(due, probe_at.min(signed + limit), "at {now:?}");
        if !is_hung && now + Duration::from_secs(1) < due && dice.roll(9) > 0 {
            // It signs in between, or says something else.
            now += Duration::from_secs(1);
            assert_eq!(vitals.advance(now), None, "before it is due");
            vitals.sign(now);
            signed = now;
            continue;
        }
        if dice.roll(20) == 0 {
            listener = match listener.take() {
                Some(_) => None,
                None => TcpListener::bind(&address).ok(),
            };
        }
        let is_open = listener.is_some();
        is_hung |= dice.roll(10) == 0;
        now = due;
        let mut verdict = vitals.advance(now);
        while verdict.is_none() && vitals.fd().is_some() {
            verdict = vitals.advance(now);
        }
        let mut is_over = signed + limit <= now;
        expected[0] += u32::from(is_over);
        if !is_over {
            failed = if is_open { 0 } else { failed + 1 };
            probe_at = now + interval;
            is_over = failed == health.failures;
            expected[1] += u32::from(is_over);
        }
        match verdict {
            Some(Verdict::Sick(why)) => {
                told[usize::from(why.contains("probes in a row"))] += 1;
                assert!(is_over, "{why}");
                assert_eq!((vitals.deadline(), vitals.fd()), (None, None));
                vitals.reset();
                now += Duration::from_secs(dice.roll(60));
                vitals.begin(now);
                (signed, failed, probe_at) = (now, 0, now + interval);
                is_hung = false;
            }
            Some(Verdict::Well) | None => assert!(!is_over, "at {now:?}"),
        }
        if let Some(listener) = &listener {
            // Whoever is probed takes the calls, or they pile up in the kernel.
            listener.set_nonblocking(true).expect("no waiting");
            while listener.accept().is_ok() {}
        }
    }
    assert_eq!(told, expected);
    assert!(told.iter().all(|count| *count > 50), "{told:?}");
    let last = format!("{vitals:?}").len();
    assert!(last < first + 512, "{first} bytes became {last}");
}

/// A day of kills and refused forks: each is told once, and no look comes early.
#[test]
fn a_day_of_counters_is_told_to_the_last_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).expect(name);
    let (mut killed, mut refused) = (0, 0);
    write("memory.events", format!("oom 0\noom_kill {killed}\n"));
    write("pids.events", format!("max {refused}\n"));
    let mut meter = Meter::open(folder.path());
    let (mut dice, mut now) = (Dice(7), Duration::ZERO);
    let mut told = [0, 0];
    let mut looks = 0;
    while now < Duration::from_secs(24 * 3600) {
        let (kills, forks) = match dice.roll(50) {
            0 => (1 + dice.roll(3), 0),
            1 => (0, 1 + dice.roll(100_000)),
            _ => (0, 0),
        };
        killed += kills;
        refused += forks;
        if kills > 0 {
            write(
                "memory.events",
                format!("oom {killed}\noom_kill {killed}\n"),
            );
        }
        if forks > 0 {
            write("pids.events", format!("max {refused}\n"));
        }
        // The kernel wakes init only where it polls.
        let is_woken = kills + forks > 0 && meter.fds().iter().any(Option::is_some);
        if is_woken || meter.is_due(now) {
            looks += 1;
            for finding in meter.look(now) {
                told[usize::from(finding.kind == LimitKind::Pids)] += finding.count;
            }
            assert!(meter.deadline().is_none_or(|due| due > now));
        }
        now += Duration::from_millis(200 + dice.roll(2000));
    }
    while meter.deadline().is_some() {
        now += Duration::from_secs(1);
        for finding in meter.look(now) {
            told[usize::from(finding.kind == LimitKind::Pids)] += finding.count;
        }
    }
    assert_eq!(told, [killed, refused]);
    assert!(killed > 100 && refused > 10_000 && looks < 24 * 3600);
    assert!(format!("{meter:?}").len() < 1024);
}
