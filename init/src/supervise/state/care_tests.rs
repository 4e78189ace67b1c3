//! Kinds, start limits and health as tables, like those of [`super::tests`].

use slipform_init::contract::machine::Restart;
use slipform_init::contract::service::StartLimit;

use super::tests::say;
use super::*;
use crate::supervise::escalate::Patience;

fn life(policy: Policy) -> Life {
    Life::new(policy)
}

fn exit(status: i32) -> Input {
    Input::Exited(End::Status(status))
}

/// From waiting to a process that runs, and is ready if its kind can be.
fn up(life: &mut Life, at: f64) {
    say(life, at, Input::DepsReady);
    say(life, at, Input::Tick(String::new()));
    say(life, at, Input::Spawned(7));
    say(life, at, Input::Execed);
    say(life, at, Input::Ready);
}

#[test]
fn a_oneshot_is_ready_when_it_has_ended_well() {
    let policy = Policy {
        kind: Kind::Oneshot,
        ..Policy::default()
    };
    let mut one = life(policy);
    up(&mut one, 0.0);
    assert!(!one.is_ready() && !one.wants_health());
    assert_eq!(
        say(&mut one, 1.0, exit(2)),
        ["Exited 7 exit status 2", "Backoff 0 starts again in 100 ms"]
    );
    assert!(!one.is_ready());
    up(&mut one, 2.0);
    assert_eq!(
        say(&mut one, 3.0, exit(0)),
        ["Exited 7 exit status 0", "Stopped 0 done"]
    );
    assert!(one.is_ready() && one.is_over());
}

#[test]
fn a_timer_runs_again_and_never_twice_at_once() {
    let policy = Policy {
        kind: Kind::Every(60_000),
        ..Policy::default()
    };
    let mut timer = life(policy);
    assert!(!timer.is_ready());
    up(&mut timer, 0.0);
    assert!(timer.is_ready());
    let next = "Waiting 0 exit status 0; the next run comes in 55 s";
    assert_eq!(
        say(&mut timer, 5.0, exit(0)),
        ["Exited 7 exit status 0", next]
    );
    assert!(timer.is_ready());
    assert_eq!(timer.deadline(), Some(Duration::from_secs(60)));
    assert_eq!(say(&mut timer, 59.9, Input::Tick(String::new())), [""; 0]);
    assert_eq!(say(&mut timer, 60.0, Input::Tick(String::new())), ["spawn"]);
    say(&mut timer, 60.0, Input::Spawned(8));
    say(&mut timer, 60.0, Input::Execed);
    // A run that took longer than its period, and failed: the next one comes soon, once.
    let late = "Failed 0 exit status 1; the next run comes in 0 s";
    assert_eq!(
        say(&mut timer, 400.0, exit(1)),
        ["Exited 8 exit status 1", late]
    );
    assert_eq!(
        say(&mut timer, 400.1, Input::Tick(String::new())),
        ["spawn"]
    );
    let gone = "Failed 0 fork: no; the next run comes in 60 s";
    assert_eq!(
        say(&mut timer, 400.1, Input::SpawnFailed("fork: no".into())),
        [gone]
    );
    assert_eq!(
        say(&mut timer, 401.0, Input::Stop),
        ["Stopped 0 it was not running"]
    );
}

#[test]
fn starts_in_vain_end_as_the_limit_says() {
    for (then, last) in [
        (Then::GiveUp, "it is given up"),
        (Then::Reboot, "the machine reboots"),
    ] {
        let policy = Policy {
            start_limit: Some(StartLimit { starts: 3, then }),
            ..Policy::default()
        };
        let mut tired = life(policy);
        for (at, pause) in [(0.0, 100), (1.0, 200)] {
            up(&mut tired, at);
            let again = format!("Backoff 0 starts again in {pause} ms");
            assert_eq!(
                say(&mut tired, at, exit(1)),
                ["Exited 7 exit status 1", again.as_str()]
            );
        }
        up(&mut tired, 2.0);
        let why = format!(
            "start limit: ended 3 times in a row without 10 s of health, last: exit status 1; {last}"
        );
        let mut expected = vec![
            "Exited 7 exit status 1".to_owned(),
            format!("Failed 0 {why}"),
        ];
        if then == Then::Reboot {
            expected.push(format!("reboot {why}"));
        }
        assert_eq!(say(&mut tired, 2.0, exit(1)), expected);
        assert!(tired.is_lost());
        // Health in between counts anew.
        let mut well = life(Policy {
            start_limit: Some(StartLimit { starts: 3, then }),
            ..Policy::default()
        });
        for round in 0..20 {
            up(&mut well, f64::from(round) * 100.0);
            say(&mut well, f64::from(round) * 100.0 + 11.0, exit(1));
        }
        assert!(!well.is_lost());
    }
}

#[test]
fn an_unhealthy_service_is_restarted_until_that_does_not_help() {
    for then in [Then::GiveUp, Then::Reboot] {
        let policy = Policy {
            restart: Restart::OnFailure,
            patience: Some(Patience {
                restarts: 1,
                within: Duration::from_secs(3600),
                then,
            }),
            ..Policy::default()
        };
        let mut sick = life(policy);
        assert_eq!(say(&mut sick, 0.0, Input::Unhealthy("x".into())), [""; 0]);
        up(&mut sick, 0.0);
        assert!(sick.wants_health());
        assert_eq!(
            say(&mut sick, 50.0, Input::Unhealthy("deaf".into())),
            ["terminate"]
        );
        assert!(!sick.wants_health());
        // A good status does not hide why it was stopped.
        assert_eq!(
            say(&mut sick, 51.0, exit(0)),
            ["Exited 7 exit status 0", "Backoff 0 starts again in 100 ms"]
        );
        up(&mut sick, 60.0);
        let why = "deaf; 1 restarts within 3600 s did not help";
        let mut expected = vec!["terminate".to_owned()];
        if then == Then::Reboot {
            expected.insert(0, format!("reboot {why}"));
        }
        assert_eq!(
            say(&mut sick, 70.0, Input::Unhealthy("deaf".into())),
            expected
        );
        let failed = format!("Failed 0 {why}");
        assert_eq!(
            say(&mut sick, 71.0, exit(0)),
            ["Exited 7 exit status 0", failed.as_str()]
        );
        assert!(sick.is_lost());
    }
}

#[test]
fn a_process_that_follows_another_is_the_service() {
    let mut life = life(Policy::default());
    say(&mut life, 0.0, Input::DepsReady);
    say(&mut life, 0.0, Input::Spawned(7));
    assert_eq!(life.pid(), Some(7));
    say(&mut life, 0.0, Input::Followed(8));
    assert_eq!(say(&mut life, 0.0, Input::Execed), ["Started 8"]);
    say(&mut life, 0.0, Input::Followed(9));
    assert_eq!(life.pid(), Some(8), "late news");
}
