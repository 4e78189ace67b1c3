//! The whole search against real sockets, on good and on ugly days.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use super::*;
use crate::turn::Events;

/// A server that answers every connection by a closure; it ends with the test program.
fn server(answer: impl Fn(&str, usize, &mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (count, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            answer(&String::from_utf8_lossy(&head), count, &mut stream);
        }
    });
    address
}

fn say(stream: &mut TcpStream, status: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}

const DOCUMENT: &str =
    r#"{"instanceId":"i-77","region":"r","availabilityZone":"ra","instanceType":"t"}"#;

fn good(head: &str, stream: &mut TcpStream) {
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let has_token = head.contains("X-aws-ec2-metadata-token: TOK\r\n");
    match (method, path, has_token) {
        ("PUT", "/latest/api/token", _) => say(stream, "200 OK", b"TOK"),
        (_, _, false) => say(stream, "401 Unauthorized", b""),
        (_, "/latest/dynamic/instance-identity/document", _) => {
            say(stream, "200 OK", DOCUMENT.as_bytes());
        }
        (_, "/latest/meta-data/local-hostname", _) => say(stream, "200 OK", b"h.internal"),
        (_, "/latest/user-data", _) => say(stream, "200 OK", b"#!/bin/sh\n"),
        _ => say(stream, "404 Not Found", b""),
    }
}

/// A machine on EC2 by its firmware's strings, with a credential in fw_cfg.
fn places(root: &Path) -> Places {
    let folder = root.join("fw/pin");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("raw"), "1234").unwrap();
    std::fs::create_dir_all(root.join("dmi")).unwrap();
    std::fs::write(root.join("dmi/sys_vendor"), "Amazon EC2\n").unwrap();
    Places {
        dmi: root.join("dmi"),
        table: root.join("none"),
        fw_cfg: root.join("fw"),
        block: root.join("none"),
        dev: root.join("none"),
    }
}

/// Runs the search as the event loop does; it must not hold a turn up.
fn search(order: &[MetadataSource], to: SocketAddr, limit: Duration) -> (Outcome, Event, Duration) {
    let root = tempfile::tempdir().unwrap();
    let attempt = Duration::from_millis(200);
    let mut search = Metadata::at(order.to_vec(), limit, attempt, places(root.path()));
    search.stand_in = Some(to);
    let begin = Instant::now();
    let mut events = Events::default();
    let mut longest = Duration::ZERO;
    let outcome = loop {
        let mut turn = Turn {
            now: begin.elapsed(),
            report: &mut events,
        };
        let at = Instant::now();
        if matches!(search.state, State::Idle) {
            search.start(&mut turn);
        } else {
            search.tick(&mut turn);
        }
        longest = longest.max(at.elapsed());
        if let Some(outcome) = search.take_outcome() {
            break outcome;
        }
        let mut fds = Vec::new();
        search.fds(&mut fds);
        let wait = search.deadline().unwrap().saturating_sub(begin.elapsed());
        poll::wait(&mut fds, Some(wait.max(Duration::from_millis(1)))).unwrap();
        assert!(
            begin.elapsed() < limit + Duration::from_secs(5),
            "it does not end"
        );
    };
    assert!(
        longest < Duration::from_millis(500),
        "a turn took {longest:?}"
    );
    assert_eq!(events.0.len(), 1, "{:?}", events.0);
    (outcome, events.0.remove(0), begin.elapsed())
}

const ORDER: [MetadataSource; 3] = [
    MetadataSource::FwCfg,
    MetadataSource::Ec2,
    MetadataSource::Gce,
];
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_good_day() {
    let to = server(|head, _, stream| good(head, stream));
    let (outcome, event, _) = search(&ORDER, to, LIMIT);
    let found = &outcome.found;
    assert_eq!(
        outcome.sources,
        [MetadataSource::FwCfg, MetadataSource::Ec2]
    );
    assert_eq!(found.instance_id.as_deref(), Some("i-77"));
    assert_eq!(found.hostname.as_deref(), Some("h.internal"));
    assert_eq!(found.user_data.as_deref(), Some(&b"#!/bin/sh\n"[..]));
    assert_eq!(found.credentials["pin"], b"1234");
    let Event::Metadata {
        detail,
        credentials,
        ..
    } = event
    else {
        panic!("{event:?}")
    };
    assert_eq!((detail.as_str(), credentials), ("", vec!["pin".to_owned()]));
}

/// What goes wrong for a while is asked again.
#[test]
fn days_that_get_better() {
    for status in ["429 Slow down", "500 Oops", "503 Later"] {
        let to = server(move |head, count, stream| match count % 3 {
            0 => say(stream, status, b"x"),
            1 => {}
            _ => good(head, stream),
        });
        let (outcome, _, _) = search(&ORDER, to, LIMIT);
        assert_eq!(
            outcome.found.instance_id.as_deref(),
            Some("i-77"),
            "{status}"
        );
    }
    // A token that is refused once.
    let to = server(|head, count, stream| match count {
        1 => say(stream, "401 Unauthorized", b""),
        _ => good(head, stream),
    });
    let (outcome, _, _) = search(&ORDER, to, LIMIT);
    assert_eq!(outcome.found.instance_id.as_deref(), Some("i-77"));
}

/// What stays wrong costs the limit at most, and never what other sources know.
#[test]
fn days_that_stay_ugly() {
    type Day = fn(&str, usize, &mut TcpStream);
    let days: [(&str, Day); 8] = [
        ("silent", |_, _, _| {
            std::thread::sleep(Duration::from_secs(3));
        }),
        ("closes", |_, _, _| {}),
        ("trickles", |_, _, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            for _ in 0..100 {
                let _ = stream.write_all(b"X: y\r\n");
                std::thread::sleep(Duration::from_millis(20));
            }
        }),
        ("always 500", |_, _, stream| say(stream, "500 Oops", b"")),
        ("malformed", |_, _, stream| {
            drop(stream.write_all(&[0xff; 5000]));
        }),
        ("10 MB", |_, _, stream| {
            say(stream, "200 OK", &vec![b'x'; 10 << 20]);
        }),
        ("10 MB without a length", |_, _, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let _ = stream.write_all(&vec![b'x'; 10 << 20]);
        }),
        ("redirects", |_, _, stream| {
            let _ =
                stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n");
        }),
    ];
    let limit = Duration::from_millis(700);
    for (name, day) in days {
        let (outcome, event, took) = search(&ORDER, server(day), limit);
        assert_eq!(outcome.sources, [MetadataSource::FwCfg], "{name}");
        assert_eq!(outcome.found.credentials["pin"], b"1234", "{name}");
        assert!(
            took < limit + Duration::from_millis(400),
            "{name}: {took:?}"
        );
        let Event::Metadata { detail, .. } = event else {
            panic!("{event:?}")
        };
        assert!(detail.starts_with("ec2: "), "{name}: {detail}");
    }
}

#[test]
fn nobody_is_asked_where_the_firmware_names_no_cloud() {
    let to = server(|_, _, _| panic!("asked"));
    let order = [
        MetadataSource::Gce,
        MetadataSource::Azure,
        MetadataSource::Openstack,
    ];
    let (outcome, _, took) = search(&order, to, LIMIT);
    assert!(
        outcome.sources.is_empty() && took < Duration::from_secs(2),
        "{took:?}"
    );
}

fn service(credentials: &[&str]) -> slipform_init::contract::machine::Service {
    let json = serde_json::json!({
        "name": "db", "exec": ["/bin/db"], "workdir": "/", "restart": "never",
        "uid": crate::sys::process::effective_uid(),
        "gid": std::fs::metadata("/proc/self").unwrap().gid(),
        "ready": "started", "ready_timeout_ms": 1, "stop_timeout_ms": 1,
        "credentials": credentials,
    });
    serde_json::from_value(json).unwrap()
}

#[test]
fn credentials_become_files_of_the_service_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut found = Found::default();
    found.credential("db-password", b"s3cret".to_vec());
    found.credential("other", b"x".to_vec());
    let missing = hand_over(&service(&["db-password", "none"]), &found, root.path());
    assert!(missing.unwrap_err().contains("`none`"));
    assert!(!root.path().join("db").exists());
    hand_over(&service(&["db-password"]), &found, root.path()).unwrap();
    let folder = root.path().join("db");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&folder), 0o500);
    assert_eq!(mode(&folder.join("db-password")), 0o400);
    assert_eq!(
        std::fs::read(folder.join("db-password")).unwrap(),
        b"s3cret"
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}
