//! The client against a server that misbehaves.

use std::net::TcpListener;
use std::sync::Mutex;

use super::*;
use crate::sources::testing::{Fault, Server};

/// For tests: retries at once, but patience with a loaded machine.
pub(crate) fn impatient() -> ClientOptions {
    ClientOptions {
        connect: Duration::from_secs(30),
        read: Duration::from_secs(30),
        retries: 3,
        backoff: Duration::from_millis(1),
    }
}

struct Bench {
    folder: tempfile::TempDir,
    server: Server,
}

#[derive(Debug, Default)]
struct Count(Mutex<u64>);

impl Task for Count {
    fn advance(&self, by: u64) {
        *self.0.lock().unwrap() += by;
    }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(folder.path().join("www"));
        server.put("/file", body());
        Self { folder, server }
    }

    fn client(&self, env: &[(&str, &str)]) -> Client {
        Client::new(&Host::fake(self.folder.path(), env), impatient())
    }

    fn uri(&self, path: &str) -> Uri {
        Uri::parse(&format!("{}{path}", self.server.uri())).unwrap()
    }

    fn fetch(&self) -> Result<Fetched<Vec<u8>>, SourceError> {
        self.fetch_counting(&Quiet)
    }

    fn fetch_counting(&self, task: &dyn Task) -> Result<Fetched<Vec<u8>>, SourceError> {
        let uri = self.uri("/file");
        let wanted = Wanted {
            uri: &uri,
            size: Some(body().len() as u64),
            limit: 1 << 30,
            fresh: false,
        };
        self.client(&[]).fetch(wanted, task, &mut || Ok(Vec::new()))
    }

    fn ranges(&self) -> Vec<String> {
        let requests = self.server.requests();
        requests
            .iter()
            .map(|r| r.header("range").to_owned())
            .collect()
    }
}

fn body() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

fn done(fetched: Result<Fetched<Vec<u8>>, SourceError>) -> Vec<u8> {
    match fetched.unwrap() {
        Fetched::Done(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_a_file_and_tells_when_there_is_none() {
    let bench = Bench::new();
    let client = bench.client(&[]);
    assert_eq!(
        client.read(&bench.uri("/file"), 1 << 30).unwrap(),
        Some(body())
    );
    assert_eq!(client.read(&bench.uri("/none"), 1 << 30).unwrap(), None);
    let error = client.read(&bench.uri("/file"), 1000).unwrap_err();
    assert!(
        matches!(error, SourceError::TooBig { limit: 1000, .. }),
        "{error}"
    );
    let request = &bench.server.requests()[0];
    assert!(request.header("user-agent").starts_with("slipform/"));
    assert_eq!(request.header("accept-encoding"), "identity");
}

#[test]
fn passing_faults_are_outlasted() {
    for faults in [
        vec![Fault::Status(500), Fault::Status(429), Fault::Status(503)],
        vec![Fault::Close, Fault::Close],
        vec![Fault::RetryAfter(0)],
    ] {
        let bench = Bench::new();
        bench.server.fault("/file", faults.clone());
        assert_eq!(done(bench.fetch()), body(), "{faults:?}");
        assert_eq!(
            bench.server.requests().len(),
            faults.len() + 1,
            "{faults:?}"
        );
    }
}

#[test]
fn a_server_that_hangs_is_given_up_and_asked_again() {
    let bench = Bench::new();
    bench
        .server
        .fault("/file", [Fault::Hang(Duration::from_secs(60))]);
    let options = ClientOptions {
        read: Duration::from_millis(500),
        retries: 20,
        ..impatient()
    };
    let client = Client::new(&Host::fake(bench.folder.path(), &[]), options);
    let read = client.read(&bench.uri("/file"), 1 << 30).unwrap();
    assert_eq!(read, Some(body()));
    assert!(bench.server.requests().len() > 1);
}

#[test]
fn lasting_faults_are_errors_that_say_what_was_tried() {
    for (fault, requests, part) in [
        (Fault::Status(500), 4, "answers 500 (tried 4 times)"),
        (Fault::Status(403), 1, "403"),
        (Fault::Status(401), 1, ".netrc"),
        (Fault::Status(400), 1, "answers 400"),
        (Fault::Close, 4, "tried 4 times"),
        (Fault::Truncate(0), 4, "broke off after 0 bytes"),
    ] {
        let bench = Bench::new();
        bench.server.always("/file", fault.clone());
        let error = bench.fetch().unwrap_err().to_string();
        assert!(error.contains(part), "{fault:?}: {error}");
        assert!(error.contains("/file"), "{error}");
        assert_eq!(bench.server.requests().len(), requests, "{fault:?}");
    }
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let bench = Bench::new();
    let cut = Fault::Truncate(250_000);
    bench.server.fault("/file", [cut.clone(), cut.clone(), cut]);
    let count = Count::default();
    assert_eq!(done(bench.fetch_counting(&count)), body());
    assert_eq!(
        bench.ranges(),
        ["", "bytes=250000-", "bytes=500000-", "bytes=750000-"]
    );
    assert_eq!(*count.0.lock().unwrap(), body().len() as u64);
}

#[test]
fn a_server_without_ranges_starts_over_and_progress_counts_once() {
    let bench = Bench::new();
    bench.server.ignore_ranges();
    bench
        .server
        .fault("/file", [Fault::Truncate(1_000_000), Fault::Truncate(10)]);
    let count = Count::default();
    assert_eq!(done(bench.fetch_counting(&count)), body());
    assert_eq!(*count.0.lock().unwrap(), body().len() as u64);
}

#[test]
fn a_file_that_changes_between_two_parts_starts_over() {
    let bench = Bench::new();
    let new: Vec<u8> = body().into_iter().rev().collect();
    bench.server.fault("/file", [Fault::Truncate(1000)]);
    let uri = bench.uri("/file");
    let client = bench.client(&[]);
    let wanted = Wanted {
        uri: &uri,
        size: Some(new.len() as u64),
        limit: 1 << 30,
        fresh: false,
    };
    struct Swap<'a>(&'a Server, &'a [u8]);
    impl Task for Swap<'_> {
        fn advance(&self, _by: u64) {
            self.0.put("/file", self.1);
        }
    }
    let fetched = client.fetch(wanted, &Swap(&bench.server, &new), &mut || Ok(Vec::new()));
    assert!(done(fetched) == new, "parts of two files were joined");
}

#[test]
fn a_range_that_nobody_asked_for_is_not_joined() {
    let bench = Bench::new();
    bench
        .server
        .fault("/file", [Fault::Truncate(1000), Fault::WrongRange]);
    assert!(done(bench.fetch()) == body());
}

#[test]
fn another_size_is_told_at_once() {
    let bench = Bench::new();
    bench.server.fault("/file", [Fault::Longer]);
    assert!(matches!(bench.fetch(), Ok(Fetched::OtherSize(1_200_001))));
    assert_eq!(bench.server.requests().len(), 1);
}

#[test]
fn redirects_are_followed_within_reason() {
    let bench = Bench::new();
    bench.server.always("/a/b", Fault::Redirect("c".into()));
    bench.server.always("/a/c", Fault::Redirect("/file".into()));
    let client = bench.client(&[]);
    assert_eq!(
        client.read(&bench.uri("/a/b"), 1 << 30).unwrap(),
        Some(body())
    );
    let there = format!("{}/file", bench.server.uri());
    bench.server.always("/abs", Fault::Redirect(there));
    assert_eq!(
        client.read(&bench.uri("/abs"), 1 << 30).unwrap(),
        Some(body())
    );
    bench
        .server
        .always("/loop", Fault::Redirect("/loop".into()));
    let error = client.read(&bench.uri("/loop"), 1).unwrap_err().to_string();
    assert!(error.contains("more than 10 times"), "{error}");
    bench
        .server
        .always("/evil", Fault::Redirect("file:/etc/passwd".into()));
    let error = client.read(&bench.uri("/evil"), 1).unwrap_err().to_string();
    assert!(error.contains("not followed"), "{error}");
    bench
        .server
        .always("/broken", Fault::Redirect("http://:0/".into()));
    assert!(client.read(&bench.uri("/broken"), 1).is_err());
}

#[test]
fn logins_come_from_netrc_and_never_reach_another_server() {
    let bench = Bench::new();
    let other = Server::new(bench.folder.path().join("www"));
    bench.server.require_login("me", "secret");
    let netrc = bench.folder.path().join(".netrc");
    let port = bench.server.address().port();
    std::fs::write(
        &netrc,
        format!("machine 127.0.0.1:{port} login me password secret\n"),
    )
    .unwrap();
    let client = bench.client(&[("NETRC", netrc.to_str().unwrap())]);
    assert!(client.read(&bench.uri("/file"), 1 << 30).unwrap().is_some());

    let with_login = format!("http://me:secret@{}/out", bench.server.address());
    bench
        .server
        .always("/out", Fault::Redirect(format!("{}/file", other.uri())));
    let uri = Uri::parse(&with_login).unwrap();
    assert!(bench.client(&[]).read(&uri, 1 << 30).unwrap().is_some());
    assert_eq!(
        bench
            .server
            .requests()
            .last()
            .unwrap()
            .header("authorization"),
        "Basic bWU6c2VjcmV0"
    );
    assert_eq!(other.requests()[0].header("authorization"), "");

    let error = bench.client(&[]).read(&bench.uri("/file"), 1).unwrap_err();
    assert!(error.to_string().contains("wants a login"), "{error}");
}

#[test]
fn http_goes_through_a_proxy_in_absolute_form() {
    let bench = Bench::new();
    bench.server.require_proxy_login("p", "w");
    bench.server.put("/debian/a+b", "through");
    let proxy = format!("http://p:w@{}", bench.server.address());
    let client = bench.client(&[("http_proxy", &proxy)]);
    let uri = Uri::parse("http://mirror.example/debian/").unwrap();
    for _ in 0..2 {
        let read = client.read(&uri.below("a+b").unwrap(), 100).unwrap();
        assert_eq!(read.as_deref(), Some(b"through".as_slice()));
    }
    let request = &bench.server.requests()[0];
    assert_eq!(request.method, "GET");
    assert_eq!(request.target, "http://mirror.example/debian/a%2bb");
    assert_eq!(request.header("host"), "mirror.example");

    let proxy = bench.server.uri();
    let error = bench
        .client(&[("http_proxy", &proxy)])
        .read(&uri, 100)
        .unwrap_err();
    assert!(
        error.to_string().contains("the proxy wants a login"),
        "{error}"
    );
}

#[test]
fn no_proxy_goes_past_the_proxy() {
    let bench = Bench::new();
    let client = bench.client(&[
        ("http_proxy", "http://127.0.0.1:1"),
        ("no_proxy", "127.0.0.1"),
    ]);
    assert!(client.read(&bench.uri("/file"), 1 << 30).unwrap().is_some());
}

#[test]
fn nobody_there() {
    let bench = Bench::new();
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let uri = Uri::parse(&format!("http://127.0.0.1:{port}/x")).unwrap();
    let error = bench.client(&[]).read(&uri, 1).unwrap_err().to_string();
    assert!(error.contains(&port.to_string()), "{error}");
}

#[test]
fn files_of_this_host() {
    let bench = Bench::new();
    std::fs::write(bench.folder.path().join("a b"), "text").unwrap();
    let base = Uri::parse(&format!("file://{}", bench.folder.path().display())).unwrap();
    let client = bench.client(&[]);
    let read = |path: &str, limit| client.read(&base.below(path).unwrap(), limit);
    assert_eq!(read("a b", 4).unwrap().as_deref(), Some(b"text".as_slice()));
    assert_eq!(read("none", 4).unwrap(), None);
    assert_eq!(read("a b/c", 4).unwrap(), None);
    assert_eq!(read("www", 4).unwrap(), None, "a folder");
    assert!(matches!(read("a b", 3), Err(SourceError::TooBig { .. })));
}
