//! Sinks on a simulated clock, against a network in memory.

use std::net::SocketAddr;

use super::*;
use crate::ship::flow::SEND_LIMIT;
use crate::ship::record::Identity;
use crate::ship::record::testing::identity;
use crate::ship::wire::testing::Fake;

const PEER: &str = "10.0.2.2:601";

struct Scene {
    wire: Fake,
    ring: Ring,
    sink: Sink<Fake>,
    identity: Identity,
    now: Duration,
    news: Vec<News>,
}

impl Scene {
    fn new(kind: SinkKind) -> Self {
        Self::seeded(kind, 1)
    }

    fn seeded(kind: SinkKind, seed: u64) -> Self {
        let spec = telemetry::Sink {
            name: "central".to_owned(),
            kind,
            peer: telemetry::Peer {
                host: "10.0.2.2".to_owned(),
                port: 601,
                tls: false,
                path: "/v1/logs".to_owned(),
                headers: Default::default(),
            },
            level: 6,
        };
        let wire = Fake::new();
        Self {
            sink: Sink::new(&spec, wire.sibling(), Random::new(seed)),
            wire,
            ring: Ring::new(1 << 20),
            identity: identity(),
            now: Duration::from_secs(5),
            news: Vec::new(),
        }
    }

    fn peer() -> SocketAddr {
        PEER.parse().unwrap()
    }

    fn listen(&self) {
        self.wire.world.borrow_mut().listening.push(Self::peer());
    }

    fn deaf(&self) {
        self.wire.world.borrow_mut().listening.clear();
    }

    fn log(&mut self, text: &str) {
        self.ring.push(Record::line(self.now, "web", "out", text));
    }

    fn turn(&mut self) {
        let around = Around {
            now: self.now,
            ring: &self.ring,
            context: Context {
                identity: &self.identity,
                offset: Duration::ZERO,
            },
            servers: &Servers::default,
        };
        self.sink.advance(&around, &mut self.news);
        self.ring.trim(self.sink.confirmed());
    }

    /// Turns at each deadline, for so long.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        self.turn();
        while let Some(next) = self.sink.deadline().filter(|&next| next <= end) {
            self.now = next.max(self.now + Duration::from_millis(1));
            self.turn();
            turns += 1;
            assert!(turns < 100_000, "it spins");
        }
        self.now = self.now.max(end);
    }

    /// The lines' texts that the JSON receiver got.
    fn got(&self) -> Vec<String> {
        let bytes = self.wire.got(Self::peer());
        let text = String::from_utf8(bytes).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines
            .map(|line: serde_json::Value| line["message"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn a_late_receiver_gets_everything_in_order() {
    let mut scene = Scene::new(SinkKind::JsonTcp);
    for number in 0..100 {
        scene.log(&number.to_string());
    }
    scene.run(Duration::from_secs(300));
    assert!(matches!(&scene.news[..], [News::Up(false, why)] if why.starts_with(PEER)));
    let failures = scene.sink.tally().failures;
    assert!((10..40).contains(&failures), "{failures}");
    scene.listen();
    scene.run(Duration::from_secs(30));
    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(scene.got(), expected);
    assert_eq!(scene.news[1..], [News::Up(true, PEER.to_owned())]);
    assert_eq!(scene.sink.tally().sent, 100);
    assert_eq!(scene.ring.first(), 100, "what arrived is not kept");
}

#[test]
fn what_does_not_fit_is_counted_and_told_in_its_place() {
    let mut scene = Scene::new(SinkKind::JsonTcp);
    scene.ring = Ring::new(Record::line(scene.now, "web", "out", "10").cost() * 10);
    scene.run(Duration::ZERO);
    for number in 10..50 {
        scene.log(&number.to_string());
        scene.run(Duration::from_secs(1));
    }
    // What the disk remembers, should the power go now: nobody knows of the loss.
    assert_eq!((scene.sink.confirmed(), scene.sink.arrived()), (30, 0));
    scene.listen();
    scene.run(Duration::from_secs(60));
    assert_eq!((scene.sink.confirmed(), scene.sink.arrived()), (40, 40));
    let mut expected = vec!["30 records are lost: the spool was full".to_owned()];
    expected.extend((40..50).map(|number| number.to_string()));
    assert_eq!(scene.got(), expected);
    assert_eq!(scene.sink.tally().lost, 30);
    let told: u64 = scene
        .news
        .iter()
        .map(|news| match news {
            News::Lost(count, _) => *count,
            News::Up(..) => 0,
        })
        .sum();
    assert_eq!(told, 30);
    let times = scene
        .news
        .iter()
        .filter(|news| matches!(news, News::Lost(..)));
    assert!(times.count() <= 3, "{:?}", scene.news);
}

#[test]
fn what_was_not_confirmed_is_sent_again() {
    let mut scene = Scene::new(SinkKind::JsonTcp);
    scene.listen();
    scene.wire.world.borrow_mut().window = 700;
    for number in 0..5 {
        scene.log(&number.to_string());
    }
    scene.run(Duration::from_secs(1));
    assert_eq!(scene.sink.confirmed(), 0);
    assert!(!scene.sink.is_drained(&scene.ring));
    // The first record is acknowledged, then the connection breaks.
    let first = lines::line(
        &Record::line(Duration::from_secs(5), "web", "out", "0"),
        &Context {
            identity: &scene.identity,
            offset: Duration::ZERO,
        },
    );
    scene.wire.world.borrow_mut().unconfirmed = 700 - first.len();
    scene.run(Duration::from_millis(200));
    assert_eq!(scene.sink.confirmed(), 1);
    {
        let mut world = scene.wire.world.borrow_mut();
        world.cut = true;
        world.window = usize::MAX;
        world.sent.clear();
    }
    scene.run(Duration::from_secs(10));
    assert_eq!(scene.got(), ["1", "2", "3", "4"]);
    assert_eq!(scene.sink.tally().sent, 5);
    assert!(scene.sink.is_drained(&scene.ring));
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let mut scene = Scene::new(SinkKind::SyslogTcp);
    scene.listen();
    scene.wire.world.borrow_mut().window = 10;
    scene.log("x");
    scene.run(SEND_LIMIT - Duration::from_secs(1));
    assert_eq!(scene.news, []);
    scene.run(Duration::from_secs(2));
    assert_eq!(
        scene.news,
        [News::Up(false, "the peer takes nothing".to_owned())]
    );
}

#[test]
fn a_gap_that_was_told_to_a_broken_connection_is_told_again() {
    let mut scene = Scene::new(SinkKind::JsonTcp);
    scene.ring = Ring::new(Record::line(scene.now, "web", "out", "1").cost());
    scene.log("1");
    scene.log("2");
    scene.listen();
    scene.wire.world.borrow_mut().window = 100;
    scene.run(Duration::from_secs(1));
    {
        let mut world = scene.wire.world.borrow_mut();
        world.cut = true;
        world.window = usize::MAX;
        world.sent.clear();
    }
    scene.run(Duration::from_secs(5));
    assert_eq!(scene.got(), ["1 records are lost: the spool was full", "2"]);
}

#[test]
fn an_idle_connection_that_ends_is_no_failure() {
    let mut scene = Scene::new(SinkKind::JsonTcp);
    scene.listen();
    scene.log("a");
    scene.run(Duration::from_secs(1));
    scene.wire.world.borrow_mut().cut = true;
    scene.run(Duration::from_secs(1));
    scene.log("b");
    scene.run(Duration::from_secs(1));
    assert_eq!(scene.got(), ["a", "b"]);
    assert_eq!(scene.news, [News::Up(true, PEER.to_owned())]);
}

#[test]
fn syslog_goes_framed_over_tcp_and_plain_over_udp() {
    let mut scene = Scene::new(SinkKind::SyslogTcp);
    scene.listen();
    scene.log("<7>not this");
    scene.log("hello");
    scene.run(Duration::from_secs(1));
    let text = String::from_utf8(scene.wire.got(Scene::peer())).unwrap();
    let (length, message) = text.split_once(' ').unwrap();
    assert_eq!(length.parse(), Ok(message.len()));
    assert!(
        message.starts_with("<30>1 ") && message.ends_with("] hello"),
        "{message}"
    );

    let mut scene = Scene::new(SinkKind::SyslogUdp);
    for _ in 0..3 {
        scene.log("hello");
    }
    scene.run(Duration::from_secs(1));
    let world = scene.wire.world.borrow();
    let datagrams: Vec<_> = world
        .sent
        .iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    assert_eq!(datagrams.len(), 3);
    assert!(
        datagrams
            .iter()
            .all(|(_, bytes)| bytes.starts_with(b"<30>1 "))
    );
}

fn respond(scene: &Scene, answer: &str) {
    let answer = (Scene::peer(), answer.as_bytes().to_vec());
    scene.wire.world.borrow_mut().answers.push_back(answer);
}

#[test]
fn otlp_waits_a_moment_sends_a_batch_and_believes_the_answer() {
    let mut scene = Scene::new(SinkKind::OtlpHttp);
    scene.listen();
    scene.log("one");
    scene.run(LINGER / 2);
    scene.log("two");
    assert!(scene.got_request().is_empty());
    scene.run(LINGER);
    let request = scene.got_request();
    assert!(
        request.starts_with("POST /v1/logs HTTP/1.1\r\nHost: 10.0.2.2:601\r\n"),
        "{request}"
    );
    assert_eq!(request.matches("timeUnixNano").count(), 2);
    assert_eq!(scene.sink.confirmed(), 0);
    respond(
        &scene,
        "HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n{\"partialSuccess\":{\"rejectedLogRecords\":\"1\"}} ",
    );
    scene.run(Duration::from_secs(1));
    assert_eq!(scene.sink.confirmed(), 2);
    assert_eq!((scene.sink.tally().sent, scene.sink.tally().lost), (1, 1));
    assert!(scene.news.contains(&News::Lost(1, 1)));
}

impl Scene {
    fn got_request(&self) -> String {
        String::from_utf8(self.wire.got(Self::peer())).unwrap()
    }
}

#[test]
fn otlp_comes_back_when_it_may_and_drops_what_is_refused() {
    let mut scene = Scene::new(SinkKind::OtlpHttp);
    scene.listen();
    scene.log("one");
    scene.run(Duration::from_secs(1));
    respond(
        &scene,
        "HTTP/1.1 503 Busy\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n",
    );
    scene.run(Duration::from_secs(1));
    assert_eq!(scene.sink.confirmed(), 0);
    let before = scene.got_request().matches("POST").count();
    scene.run(Duration::from_secs(15));
    assert_eq!(
        scene.got_request().matches("POST").count(),
        before,
        "too early"
    );
    scene.run(Duration::from_secs(10));
    assert_eq!(scene.got_request().matches("POST").count(), before + 1);
    respond(
        &scene,
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    );
    scene.run(Duration::from_secs(2));
    assert_eq!(
        scene.sink.confirmed(),
        1,
        "it will not be taken later either"
    );
    assert_eq!((scene.sink.tally().sent, scene.sink.tally().lost), (0, 1));
}

#[test]
fn a_silent_http_server_is_given_up_and_asked_again() {
    let mut scene = Scene::new(SinkKind::OtlpHttp);
    scene.listen();
    scene.log("one");
    scene.run(Duration::from_secs(60));
    assert!(matches!(&scene.news[..], [News::Up(false, why)] if why == "no answer within 30 s"));
    assert_eq!(scene.got_request().matches("POST").count(), 2);
}

/// A day of lines, outages and answers: bounded memory, nothing lost but what is counted.
#[test]
fn a_day_of_trouble_loses_only_what_it_counts() {
    for kind in [SinkKind::JsonTcp, SinkKind::OtlpHttp, SinkKind::SyslogUdp] {
        for seed in 1..4 {
            let mut scene = Scene::seeded(kind, seed);
            scene.ring = Ring::new(20_000);
            let mut random = Random::new(seed);
            let mut logged = 0_u64;
            for _ in 0..3000 {
                if random.next().is_multiple_of(50) {
                    scene.deaf();
                    scene.wire.world.borrow_mut().cut = true;
                } else if random.next().is_multiple_of(10) {
                    scene.deaf();
                    scene.listen();
                }
                for _ in 0..random.next() % 4 {
                    scene.log("line");
                    logged += 1;
                }
                scene.run(Duration::from_millis(random.next() % 60_000));
                let mut world = scene.wire.world.borrow_mut();
                world.sent.retain(|(_, bytes)| !bytes.is_empty());
                world.sent.clear();
                world.sent.push((Scene::peer(), Vec::new()));
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
                if world.answers.is_empty() && kind == SinkKind::OtlpHttp {
                    world.answers.push_back((Scene::peer(), answer));
                }
                drop(world);
                assert!(scene.ring.bytes() <= 20_000);
            }
            scene.deaf();
            scene.listen();
            for _ in 0..5 {
                respond(&scene, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                scene.run(Duration::from_secs(120));
            }
            let tally = scene.sink.tally();
            assert_eq!(scene.sink.confirmed(), logged, "{kind:?} {seed}");
            assert!(tally.sent + tally.lost >= logged, "{tally:?} of {logged}");
        }
    }
}

#[test]
fn what_one_turn_leaves_waits_for_no_other_record() {
    for kind in [
        SinkKind::OtlpHttp,
        SinkKind::SyslogUdp,
        SinkKind::JsonTcp,
        SinkKind::SyslogTcp,
    ] {
        let mut scene = Scene::new(kind);
        scene.listen();
        let count = BATCH_RECORDS.max(DATAGRAMS_PER_TURN) as u64 + 200;
        for _ in 0..count {
            scene.log("x");
        }
        for _ in 0..2 {
            scene.run(Duration::from_secs(2));
            respond(&scene, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        scene.run(Duration::from_secs(2));
        assert_eq!(scene.sink.confirmed(), count, "{kind:?}");
    }
}

/// A line of another boot than the scene's.
fn earlier(text: &str) -> Record {
    let past = crate::ship::record::Past {
        identity: Identity {
            boot: "an-earlier-one".to_owned(),
            ..identity()
        },
        offset: Duration::from_secs(1000),
    };
    Record {
        past: Some(std::sync::Arc::new(past)),
        ..Record::line(Duration::from_secs(1), "web", "out", text)
    }
}

#[test]
fn what_an_earlier_boot_said_goes_in_its_name() {
    let mut scene = Scene::new(SinkKind::JsonTcp);
    scene.listen();
    scene.ring.push(earlier("before"));
    scene.log("now");
    scene.run(Duration::from_secs(5));
    let text = String::from_utf8(scene.wire.got(Scene::peer())).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |index: usize, key: &str| lines[index][key].as_str().unwrap().to_owned();
    assert_eq!(told(0, "boot"), "an-earlier-one");
    assert_eq!(told(0, "time"), "1970-01-01T00:16:41.000000Z");
    assert_eq!(told(1, "boot"), identity().boot);

    let mut scene = Scene::new(SinkKind::OtlpHttp);
    scene.listen();
    let [first, second] = ["one", "two"].map(earlier);
    scene.ring.push(first);
    scene.ring.push(Record {
        past: scene.ring.next(0, Severity::Debug).unwrap().1.past.clone(),
        ..second
    });
    scene.log("now");
    scene.run(Duration::from_secs(1));
    let request = scene.got_request();
    assert_eq!(request.matches("timeUnixNano").count(), 2, "{request}");
    assert!(request.contains("an-earlier-one") && !request.contains(&identity().boot));
    respond(&scene, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    scene.run(Duration::from_secs(1));
    let request = scene.got_request();
    assert_eq!(request.matches("timeUnixNano").count(), 3, "{request}");
    assert!(request.contains(&identity().boot));
}

#[test]
fn what_it_had_in_an_earlier_boot_is_not_sent_again() {
    let mut scene = Scene::new(SinkKind::JsonTcp);
    scene.listen();
    scene.ring.push(earlier("had"));
    scene.ring.push(earlier("left"));
    scene.sink.begin_at(1);
    scene.run(Duration::from_secs(5));
    assert_eq!(scene.got(), ["left"]);
    assert_eq!(scene.sink.tally().lost, 0);
}
