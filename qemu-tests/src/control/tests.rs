//! A run that answers by a script, asked over its real socket.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use slipform_init::contract::event::Command;
use slipform_init::contract::inside::{Item, Query, Section};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn query() -> Query {
    Query {
        sections: vec![Section::Services],
        ..Query::default()
    }
}

/// Serves `control` until `asked` gives true; it gets each query that would go to init.
fn serve(control: &mut Control, mut asked: impl FnMut(&mut Control, &Query) -> bool) {
    for _ in 0..2000 {
        let mut lines = Vec::new();
        control.turn(&mut |line| {
            lines.push(line.to_owned());
            Ok(())
        });
        for line in lines {
            let Command::Show(query) = serde_json::from_str(&line).unwrap() else {
                panic!("{line}")
            };
            if asked(control, &query) {
                return control.turn(&mut |_| Ok(()));
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("nobody asked");
}

#[test]
fn a_question_goes_in_and_its_answer_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("run");
    let mut control = Control::open(&dir, "hello", "sha256:00").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = dir.join(format!("{}.sock", std::process::id()));
    assert_eq!((mode(&dir), mode(&socket)), (0o700, 0o600));
    let asker = std::thread::spawn({
        let dir = dir.clone();
        move || {
            let found = running(&dir).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(
                (found[0].name.as_str(), found[0].id),
                ("hello", std::process::id())
            );
            let answer = found[0].ask(&query(), LIMIT).unwrap();
            answer.collect::<Result<Vec<Item>, _>>().unwrap()
        }
    });
    serve(&mut control, |control, query| {
        assert_eq!(query.sections, [Section::Services]);
        control.answer(query.id + 1, &Item::Lost(1));
        control.answer(query.id, &Item::Lost(7));
        control.answer(query.id, &Item::End(String::new()));
        true
    });
    assert_eq!(asker.join().unwrap(), [Item::Lost(7)]);
    drop(control);
    assert!(!socket.exists());
}

#[test]
fn who_follows_is_served_until_it_goes_and_init_learns_that() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = Control::open(dir.path(), "hello", "sha256:00").unwrap();
    let asker = std::thread::spawn({
        let dir = dir.path().to_owned();
        move || {
            let follow = Query {
                follow: true,
                ..query()
            };
            let run = running(&dir).unwrap().remove(0);
            let mut answer = run.ask(&follow, LIMIT).unwrap();
            let next = answer.next().unwrap().unwrap();
            (next, answer.next().unwrap().unwrap())
        }
    });
    let mut first = None;
    serve(&mut control, |control, query| {
        if first == Some(query.id) {
            assert_eq!(query.sections, [], "the end of it");
            return true;
        }
        first = Some(query.id);
        control.answer(query.id, &Item::Lost(1));
        control.answer(query.id, &Item::End(String::new()));
        control.answer(query.id, &Item::Lost(2));
        false
    });
    assert_eq!(asker.join().unwrap(), (Item::Lost(1), Item::Lost(2)));
}

#[test]
fn what_is_no_question_never_reaches_init() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = Control::open(dir.path(), "hello", "sha256:00").unwrap();
    let path = dir.path().join(format!("{}.sock", std::process::id()));
    let long = vec![b'x'; MAX_QUERY + 1];
    for bytes in [
        &b"{\"command\":\"power-off\"}\n"[..],
        b"{\"id\":1,\"sections\":[],\"command\":\"reboot\"}\n",
        b"\xff\xfe\n",
        b"\n",
        &long,
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        for _ in 0..50 {
            control.turn(&mut |line| panic!("{line}"));
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("\"end\":\""), "{text}");
    }
    assert!(control.clients.is_empty());
}

#[test]
fn dead_sockets_are_swept_and_a_machine_that_starts_again_ends_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("1.sock");
    drop(UnixListener::bind(&dead).unwrap());
    assert!(dead.exists());
    assert_eq!(running(dir.path()).unwrap(), []);
    assert!(!dead.exists());
    let mut control = Control::open(dir.path(), "hello", "sha256:00").unwrap();
    let asker = std::thread::spawn({
        let dir = dir.path().to_owned();
        move || {
            let run = running(&dir).unwrap().remove(0);
            let mut answer = run.ask(&query(), LIMIT).unwrap();
            let error = answer.next().unwrap().unwrap_err().to_string();
            assert!(answer.next().is_none());
            error
        }
    });
    serve(&mut control, |control, _| {
        control.restarted();
        true
    });
    let error = asker.join().unwrap();
    assert!(error.contains("started again"), "{error}");
}

#[test]
fn a_folder_that_is_not_this_users_alone_is_made_so_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    drop(Control::open(&open, "hello", "x").unwrap());
    assert_eq!(
        fs::metadata(&open).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&open, &link).unwrap();
    assert!(Control::open(&link, "hello", "x").is_err());
    let long = dir.path().join("x".repeat(100));
    let error = running(&long).unwrap_err().to_string();
    assert!(error.contains("XDG_RUNTIME_DIR"), "{error}");
}
