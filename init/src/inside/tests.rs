//! Questions and answers over a port that is a file.

use std::io::Read;

use slipform_init::contract::event::{Event, Phase, Record as Told};
use slipform_init::contract::inside::RECENT_BYTES;

use super::*;
use crate::turn::Report;
use slipform_fuzz::fuzz;

/// A reporter, the part that answers, and what came out of the port.
struct Scene {
    report: Reporter,
    inside: Inside,
    out: std::fs::File,
}

impl Scene {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        Self {
            report: Reporter::with_port(file.reopen().unwrap()),
            inside: Inside::new(vec!["web".to_owned(), "db".to_owned()], Vec::new(), true),
            out: file.reopen().unwrap(),
        }
    }

    fn say(&mut self, service: &str, line: &str) {
        self.report.event(Event::Log {
            service: service.to_owned(),
            stream: "out".to_owned(),
            line: line.to_owned(),
        });
    }

    fn ask(&mut self, question: &str) -> Vec<(u32, Item)> {
        self.items();
        self.report
            .receive(format!("{{\"command\":\"show\",{question}}}\n").as_bytes());
        self.turns();
        self.items()
    }

    fn turns(&mut self) {
        self.inside.advance(&mut self.report);
        while self.inside.deadline(&self.report).is_some() {
            self.inside.advance(&mut self.report);
        }
    }

    /// The pieces of answers since the last call.
    fn items(&mut self) -> Vec<(u32, Item)> {
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        let records = text
            .lines()
            .map(|line| serde_json::from_str::<Told>(line).unwrap());
        let items = records.filter_map(|record| match record.event {
            Event::Inside { query, item } => Some((query, *item)),
            _ => None,
        });
        items.collect()
    }
}

fn lines(items: &[(u32, Item)]) -> Vec<&str> {
    let lines = items.iter().filter_map(|(_, item)| match item {
        Item::Log(log) => Some(log.line.as_str()),
        _ => None,
    });
    lines.collect()
}

#[test]
fn every_section_is_answered_and_ends() {
    let mut scene = Scene::new();
    scene.report.phase(Phase::Running);
    scene.say("web", "hello");
    let items =
        scene.ask(r#""id":9,"sections":["log","network","mounts","memory","services","services"]"#);
    assert!(items.iter().all(|(id, _)| *id == 9));
    let Item::Machine(machine) = &items[0].1 else {
        panic!("{items:?}")
    };
    assert!(machine.debug);
    assert_eq!(machine.phase, Phase::Running);
    let names: Vec<&str> = items
        .iter()
        .filter_map(|(_, item)| match item {
            Item::Service(service) => Some(service.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["web", "db"], "asked for twice, told once");
    let has = |wanted: fn(&Item) -> bool| items.iter().any(|(_, item)| wanted(item));
    assert!(has(
        |item| matches!(item, Item::Memory(memory) if memory.total > memory.available)
    ));
    assert!(has(
        |item| matches!(item, Item::Mount(mount) if mount.target == "/")
    ));
    assert!(has(
        |item| matches!(item, Item::Interface(link) if link.name == "lo")
    ));
    assert!(has(|item| matches!(item, Item::Dns(_))));
    assert_eq!(lines(&items), ["phase running", "hello"]);
    assert_eq!(items.last().unwrap().1, Item::End(String::new()));
    let one = scene.ask(r#""id":10,"sections":["services"],"service":"db""#);
    assert_eq!(one.len(), 3, "{one:?}");
}

#[test]
fn the_last_lines_come_and_of_one_service_where_that_is_asked() {
    let mut scene = Scene::new();
    for number in 0..10 {
        scene.say("web", &format!("w{number}"));
        scene.say("db", &format!("d{number}"));
    }
    let items = scene.ask(r#""id":1,"sections":["log"],"lines":3"#);
    assert_eq!(lines(&items), ["d8", "w9", "d9"]);
    let items = scene.ask(r#""id":1,"sections":["log"],"lines":2,"service":"web""#);
    assert_eq!(lines(&items), ["w8", "w9"]);
    let items = scene.ask(r#""id":1,"sections":["log"],"service":"nobody""#);
    assert_eq!(lines(&items), [""; 0]);
    assert_eq!(items.last().unwrap().1, Item::End(String::new()));
}

#[test]
fn who_follows_gets_each_line_once_until_it_ends() {
    let mut scene = Scene::new();
    scene.say("web", "before");
    let items = scene.ask(r#""id":4,"sections":["log"],"service":"web","follow":true"#);
    assert_eq!(lines(&items), ["before"]);
    assert_eq!(items.last().unwrap().1, Item::End(String::new()));
    assert_eq!(
        scene.inside.deadline(&scene.report),
        None,
        "nothing to do till something is said"
    );
    scene.say("db", "not asked for");
    scene.say("web", "one");
    scene.say("web", "two");
    scene.turns();
    assert_eq!(lines(&scene.items()), ["one", "two"]);
    let end = scene.ask(r#""id":4"#);
    assert_eq!(end, [(4, Item::End(String::new()))]);
    scene.say("web", "three");
    scene.turns();
    assert_eq!(lines(&scene.items()), [""; 0]);
}

#[test]
fn the_log_is_bounded_and_who_is_too_slow_is_told() {
    let mut scene = Scene::new();
    scene.say("web", "first");
    let followed = scene.ask(r#""id":1,"sections":["log"],"follow":true"#);
    assert_eq!(lines(&followed), ["first"]);
    for number in 0..20_000 {
        scene.say("web", &format!("line {number}"));
    }
    let kept = scene
        .report
        .spool()
        .with(|journal| journal.recent.bytes())
        .unwrap();
    assert!(kept <= RECENT_BYTES, "{kept}");
    scene.items();
    scene.turns();
    let items = scene.items();
    let Item::Lost(lost) = items[0].1 else {
        panic!("{:?}", items[0])
    };
    let told = lines(&items);
    assert_eq!(lost + told.len() as u64, 20_000);
    assert_eq!(told.last(), Some(&"line 19999"));
}

#[test]
fn questions_of_no_end_cost_no_more_than_a_few() {
    let mut scene = Scene::new();
    for id in 0..100 {
        scene.ask(&format!(r#""id":{id},"sections":["log"],"follow":true"#));
    }
    assert_eq!(scene.inside.answers.len(), MAX_QUERIES);
    let refused = scene.ask(r#""id":200,"sections":["services"]"#);
    assert!(matches!(&refused[..], [(200, Item::End(why))] if why.contains("too many")));
    // The same number asks anew.
    scene.ask(r#""id":0,"sections":["log"],"follow":true"#);
    assert_eq!(scene.inside.answers.len(), MAX_QUERIES);
}

#[test]
fn no_bytes_can_hurt_who_answers() {
    let mut scene = Scene::new();
    scene.say("web", "x");
    let seed = b"{\"command\":\"show\",\"id\":1,\"sections\":[\"log\",\"memory\"],\"service\":\"web\",\"lines\":20}\n";
    fuzz(&[seed], |bytes, _| {
        scene.report.receive(bytes);
        scene.inside.advance(&mut scene.report);
        scene.report.take_command();
        assert!(scene.inside.answers.len() <= MAX_QUERIES);
    });
    // What the last mutation left of a line ends here: the reader rightly joins its
    // bytes with what follows.
    scene.report.receive(b"\n");
    let items = scene.ask(r#""id":7,"sections":["memory"]"#);
    assert!(
        items
            .iter()
            .any(|(id, item)| *id == 7 && matches!(item, Item::Memory(_)))
    );
}
