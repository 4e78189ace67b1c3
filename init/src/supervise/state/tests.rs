//! The life of a service as tables: time, input, what must follow.

use slipform_init::contract::machine::Restart;

use super::*;

const GRACE: Duration = Duration::from_secs(3);
const READY: Duration = Duration::from_secs(30);

fn life(restart: Restart) -> Life {
    Life::new(Policy {
        restart,
        ready_timeout: READY,
        stop_timeout: GRACE,
        ..Policy::default()
    })
}

/// One input and what it leads to, in words.
pub(super) fn say(life: &mut Life, seconds: f64, input: Input) -> Vec<String> {
    let mut out = Vec::new();
    life.step(Duration::from_secs_f64(seconds), input, &mut out);
    let word = |action: &Action| match action {
        Action::Spawn => "spawn".to_owned(),
        Action::Terminate => "terminate".to_owned(),
        Action::Kill => "kill".to_owned(),
        Action::Reboot(why) => format!("reboot {why}"),
        Action::Report { state, pid, detail } => {
            format!("{state:?} {pid} {detail}").trim_end().to_owned()
        }
    };
    out.iter().map(word).collect()
}

type Row<'a> = (f64, Input, &'a [&'a str]);

fn run(restart: Restart, rows: &[Row<'_>]) -> Life {
    let mut life = life(restart);
    for (number, (seconds, input, expected)) in rows.iter().enumerate() {
        assert_eq!(
            &say(&mut life, *seconds, input.clone()),
            expected,
            "row {number}: {input:?} at {seconds}"
        );
    }
    life
}

fn tick() -> Input {
    Input::Tick(String::new())
}

fn exit(status: i32) -> Input {
    Input::Exited(End::Status(status))
}

#[test]
fn a_service_starts_gets_ready_and_is_stopped() {
    let life = run(
        Restart::Always,
        &[
            (0.0, Input::DepsReady, &["spawn"]),
            (0.0, Input::DepsReady, &[]),
            (0.0, Input::Spawned(7), &[]),
            (0.1, Input::Execed, &["Started 7"]),
            (1.0, Input::Ready, &["Ready 7"]),
            (1.1, Input::Ready, &[]),
            (50.0, tick(), &[]),
            (60.0, Input::Stop, &["terminate"]),
            (60.0, Input::Stop, &[]),
            (
                61.0,
                Input::Exited(End::Signal(15)),
                &["Exited 7 killed by SIGTERM", "Stopped 0 killed by SIGTERM"],
            ),
            (90.0, tick(), &[]),
        ],
    );
    assert!(life.is_over() && life.is_ready());
}

#[test]
fn work_done_once_counts_as_ready() {
    let life = run(
        Restart::Never,
        &[
            (0.0, Input::DepsReady, &["spawn"]),
            (0.0, Input::Spawned(7), &[]),
            (0.1, Input::Execed, &["Started 7"]),
            (0.1, Input::Ready, &["Ready 7"]),
            (0.2, exit(0), &["Exited 7 exit status 0", "Stopped 0 done"]),
        ],
    );
    assert!(life.is_ready() && life.is_over() && !life.is_lost());
}

#[test]
fn an_end_before_ready_is_a_failure_even_with_status_0() {
    let life = run(
        Restart::OnFailure,
        &[
            (0.0, Input::DepsReady, &["spawn"]),
            (0.0, Input::Spawned(7), &[]),
            (0.1, Input::Execed, &["Started 7"]),
            (
                0.2,
                exit(0),
                &[
                    "Exited 7 exit status 0",
                    "Failed 0 ended before it was ready (exit status 0)",
                ],
            ),
        ],
    );
    assert!(life.is_lost());
}

#[test]
fn restart_policies() {
    let start: [Row<'_>; 4] = [
        (0.0, Input::DepsReady, &["spawn"]),
        (0.0, Input::Spawned(7), &[]),
        (0.0, Input::Execed, &["Started 7"]),
        (0.0, Input::Ready, &["Ready 7"]),
    ];
    let again = "Backoff 0 starts again in 100 ms";
    let cases: [(Restart, i32, &[&str]); 6] = [
        (Restart::Always, 0, &["Exited 7 exit status 0", again]),
        (Restart::Always, 1, &["Exited 7 exit status 1", again]),
        (
            Restart::OnFailure,
            0,
            &["Exited 7 exit status 0", "Stopped 0 done"],
        ),
        (Restart::OnFailure, 1, &["Exited 7 exit status 1", again]),
        (
            Restart::Never,
            0,
            &["Exited 7 exit status 0", "Stopped 0 done"],
        ),
        (
            Restart::Never,
            1,
            &[
                "Exited 7 exit status 1",
                "Failed 0 exit status 1; restart = \"never\"",
            ],
        ),
    ];
    for (restart, status, expected) in cases {
        let mut rows = start.to_vec();
        rows.push((1.0, exit(status), expected));
        run(restart, &rows);
    }
}

#[test]
fn a_crash_loop_is_reported_and_tried_slowly() {
    let mut life = life(Restart::OnFailure);
    let mut now = 0.0;
    let mut told = Vec::new();
    say(&mut life, now, Input::DepsReady);
    for _ in 0..8 {
        say(&mut life, now, Input::Spawned(7));
        say(&mut life, now, Input::Execed);
        say(&mut life, now, Input::Ready);
        let said = say(&mut life, now, Input::Exited(End::Signal(libc::SIGSEGV)));
        told.push(said[1].clone());
        let until = life.deadline().expect("it starts again").as_secs_f64();
        told.push(format!("{:.1}", until - now));
        now = until;
        assert_eq!(say(&mut life, now, tick()), ["spawn"]);
    }
    let pause = |ms: u32| format!("Backoff 0 starts again in {ms} ms");
    let failed = "Failed 0 crash loop: ended 5 times in a row without 10 s of health, \
                  last: killed by SIGSEGV; it is tried again every 10 s";
    let expected = [
        [pause(100), "0.1".into()],
        [pause(200), "0.2".into()],
        [pause(400), "0.4".into()],
        [pause(800), "0.8".into()],
        [failed.to_owned(), "10.0".into()],
        [pause(10_000), "10.0".into()],
        [pause(10_000), "10.0".into()],
        [pause(10_000), "10.0".into()],
    ];
    assert_eq!(told, expected.concat());

    // Ten good seconds, and the count begins anew.
    say(&mut life, now, Input::Spawned(8));
    say(&mut life, now, Input::Execed);
    say(&mut life, now, Input::Ready);
    assert_eq!(say(&mut life, now + 10.0, exit(1))[1], pause(100));
}

#[test]
fn not_ready_in_time_is_stopped_and_started_again() {
    run(
        Restart::OnFailure,
        &[
            (0.0, Input::DepsReady, &["spawn"]),
            (0.0, Input::Spawned(7), &[]),
            (0.1, Input::Execed, &["Started 7"]),
            (29.9, tick(), &[]),
            (
                30.0,
                Input::Tick("connect: Connection refused".into()),
                &[
                    "Failed 7 not ready within 30 s; last seen: connect: Connection refused",
                    "terminate",
                ],
            ),
            (31.0, Input::Ready, &[]),
            (33.0, tick(), &["kill"]),
            (
                33.1,
                exit(0),
                &["Exited 7 exit status 0", "Backoff 0 starts again in 100 ms"],
            ),
            (33.2, tick(), &["spawn"]),
        ],
    );
}

#[test]
fn not_ready_in_time_without_restart_stays_down() {
    let life = run(
        Restart::Never,
        &[
            (0.0, Input::DepsReady, &["spawn"]),
            (0.0, Input::Spawned(7), &[]),
            (
                30.0,
                tick(),
                &["Failed 7 not ready within 30 s", "terminate"],
            ),
            (30.1, exit(0), &["Exited 7 exit status 0"]),
        ],
    );
    assert!(life.is_lost());
}

#[test]
fn a_program_that_cannot_start_is_failed_with_the_reason() {
    let why = || Input::SpawnFailed("exec /usr/bin/x: No such file or directory".into());
    let failed = "Failed 0 exec /usr/bin/x: No such file or directory";
    let again = "Backoff 0 starts again in 100 ms";
    run(
        Restart::OnFailure,
        &[
            (0.0, Input::DepsReady, &["spawn"]),
            (0.0, Input::Spawned(7), &[]),
            (0.0, why(), &[failed, again]),
            (0.1, tick(), &["spawn"]),
            (0.1, why(), &[failed, "Backoff 0 starts again in 200 ms"]),
        ],
    );
    let life = run(
        Restart::Never,
        &[(0.0, Input::DepsReady, &["spawn"]), (0.0, why(), &[failed])],
    );
    assert!(life.is_lost());
}

#[test]
fn a_stop_reaches_every_state() {
    let stopped = |text: &str| vec![format!("Stopped 0 {text}")];
    let mut waiting = life(Restart::Always);
    assert_eq!(
        say(&mut waiting, 0.0, Input::Stop),
        stopped("it had not been started")
    );
    assert_eq!(say(&mut waiting, 0.0, Input::DepsReady), [""; 0]);

    let mut spawning = life(Restart::Always);
    say(&mut spawning, 0.0, Input::DepsReady);
    assert_eq!(say(&mut spawning, 0.0, Input::Stop), [""; 0]);
    assert_eq!(say(&mut spawning, 0.0, Input::Spawned(7)), ["terminate"]);
    assert_eq!(say(&mut spawning, 0.0, Input::Execed), [""; 0]);
    say(&mut spawning, 1.0, exit(0));
    assert!(spawning.is_over());

    let mut backoff = life(Restart::Always);
    say(&mut backoff, 0.0, Input::DepsReady);
    say(&mut backoff, 0.0, Input::SpawnFailed("no".into()));
    assert_eq!(
        say(&mut backoff, 0.0, Input::Stop),
        stopped("it was not running")
    );
    assert_eq!(say(&mut backoff, 9.0, tick()), [""; 0]);
}

#[test]
fn a_process_that_survives_sigkill_holds_nobody_up() {
    let life = run(
        Restart::Always,
        &[
            (0.0, Input::DepsReady, &["spawn"]),
            (0.0, Input::Spawned(7), &[]),
            (0.0, Input::Execed, &["Started 7"]),
            (1.0, Input::Stop, &["terminate"]),
            (4.0, tick(), &["kill"]),
            (8.9, tick(), &[]),
            (
                9.0,
                tick(),
                &["Failed 0 process 7 is still there 5 s after SIGKILL"],
            ),
            (99.0, exit(0), &[]),
        ],
    );
    assert!(life.is_over());
}

#[test]
fn wait_statuses() {
    for (status, expected) in [
        (0, "exit status 0"),
        (3 << 8, "exit status 3"),
        (libc::SIGKILL, "killed by SIGKILL"),
        (libc::SIGSEGV | 0x80, "killed by SIGSEGV"),
        (42, "killed by signal 42"),
    ] {
        assert_eq!(End::from_wait(status).to_string(), expected);
    }
}
