//! Logs and metrics leave a real machine: Debian's rsyslog, strict receivers of JSON
//! lines and OTLP, and `promtool` judge what comes. One boot for all of it.

use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use crate::support::lab::slot;
use crate::support::otlp;
use crate::support::project::Project;
use crate::support::receivers::{Lines, Posts, Rsyslog, free_ports, get, within};
use crate::support::tls::Terminator;
use crate::support::wire::{Extra, Machine, Way};
use serde_json::Value;
use slipform::pipeline::testing;
use slipform_init::contract::event::{Event, Record};
use slipform_init::contract::inside::Item;

/// Debian's judges.
const JUDGES: &[&str] = &["prometheus", "rsyslog", "rsyslog-gnutls"];
/// Only reached when something hangs: the machine is emulated, and may share the host.
const LIMIT: Duration = Duration::from_secs(300);
const LINES: usize = 300;

/// Everything that one boot has.
struct Scene {
    machine: Machine,
    json: Lines,
    otlp: Posts,
    pushed: Posts,
    rsyslog: Rsyslog,
    /// Behind TLS.
    secure: Posts,
    /// They have a certificate, and not the right one.
    impostors: [(&'static str, Terminator); 2],
    metrics: u16,
    flood: u16,
}

#[test]
fn logs_and_metrics_leave_the_machine() {
    let Some(tools) = testing::tools("telemetry", JUDGES).expect("the judges") else {
        return;
    };
    let _slot = slot();
    let [
        tcp,
        udp,
        json,
        otlp,
        push,
        metrics,
        flood,
        tls,
        https,
        elsewhere,
        expired,
    ] = free_ports::<11>();
    let port = |from: u16, to: u16| (format!(":{from}\""), format!(":{to}\""));
    let edits = [
        (1601, tcp),
        (1514, udp),
        (1602, json),
        (1603, otlp),
        (1604, push),
        (1605, tls),
        (1606, https),
        (1607, elsewhere),
        (1608, expired),
    ]
    .map(|(from, to)| port(from, to));
    let edits = edits
        .each_ref()
        .map(|(from, to)| (from.as_str(), to.as_str()));
    let subject = Project::own("telemetry")
        .variant("telemetry-ports", &edits, &[])
        .cast();
    let plan = subject.direct("telemetry");
    let extra = Extra {
        forwards: vec![(metrics, 9100), (flood, 7000)],
        ..Extra::default()
    };
    let mut machine = Machine::start_with(&plan, Way::Port, &extra);
    assert!(machine.until(|event| matches!(event, Event::Ready { .. })));
    // Nobody listens yet: the machine is ready all the same, and tries again and again.
    let down =
        |event: &Event| matches!(event, Event::Sink { sink, up: false, .. } if sink == "json");
    let known = machine.records.iter().any(|record| down(&record.event));
    assert!(known || machine.until(down));

    let folder = tempfile::tempdir().expect("a folder");
    let [behind] = free_ports::<1>();
    let terminator = Terminator::listen(https, "server.pem", Some(behind));
    let command = tools.command("rsyslogd").expect("rsyslog");
    let modules = tools.root().join("usr/lib/x86_64-linux-gnu/rsyslog");
    let mut scene = Scene {
        machine,
        json: Lines::listen(json),
        otlp: Posts::listen(otlp),
        pushed: Posts::listen(push),
        rsyslog: Rsyslog::start(command, &modules, folder.path(), [tcp, udp, tls]),
        secure: Posts::listen(behind),
        impostors: [("elsewhere", elsewhere), ("expired", expired)]
            .map(|(name, port)| (name, Terminator::listen(port, &format!("{name}.pem"), None))),
        metrics,
        flood,
    };
    nothing_said_early_is_lost(&scene);
    rsyslog_understands(&scene);
    otlp_has_the_protocols_shape(&scene);
    tls_goes_to_whom_can_prove_it(&mut scene);
    let mut promtool = tools.command("promtool").expect("promtool");
    promtool.args(["check", "metrics"]);
    let before = prometheus_is_content(&scene, promtool);
    garbage_on_the_port_hurts_nobody(&mut scene);
    a_flood_hurts_nobody(&mut scene, &before);
    let scene = goodbye_is_heard(scene);
    drop(scene);
    // The child that speaks TLS has had a moment for its own goodbye.
    let ends = within(Duration::from_secs(20), "the end of TLS", || {
        Some(terminator.ends()).filter(|ends| !ends.is_empty())
    });
    assert!(ends.iter().all(|polite| *polite), "{ends:?}");
}

fn texts<'a>(records: &'a [Value], service: &str) -> Vec<&'a str> {
    let own = records.iter().filter(|record| record["service"] == service);
    own.filter_map(|record| record["message"].as_str())
        .collect()
}

/// `line 0` to `line 299`, each once, in order.
fn is_whole<'a>(lines: impl IntoIterator<Item = &'a str>) -> bool {
    let lines = lines.into_iter().filter(|line| line.starts_with("line "));
    lines.eq((0..LINES).map(|number| format!("line {number}")))
}

fn nothing_said_early_is_lost(scene: &Scene) {
    let records = within(LIMIT, "the early lines as JSON", || {
        let records = scene.json.all();
        is_whole(texts(&records, "talker")).then_some(records)
    });
    let kernel = texts(&records, "kernel");
    assert!(
        kernel.iter().any(|line| line.starts_with("Linux version ")),
        "{kernel:?}"
    );
    let init = texts(&records, "slipform");
    assert!(init.contains(&"service talker: ready"), "{init:?}");
    assert!(
        !init.iter().any(|line| line.contains("are lost")),
        "{init:?}"
    );
    let bad = within(LIMIT, "the bad line", || {
        let records = scene.json.all();
        records
            .into_iter()
            .find(|record| record["severity"] == "err" && record["service"] == "talker")
    });
    assert_eq!(bad["message"], "this is bad: \"quoted\", [bracket] ä");
    assert_eq!(bad["stream"], "err");
    let boot = scene
        .machine
        .records
        .iter()
        .find_map(|record| match &record.event {
            Event::Boot { machine, .. } => Some(machine.clone()),
            _ => None,
        });
    assert_eq!(bad["digest"].as_str(), boot.as_deref());
    assert_eq!(bad["image"], "telemetry-ports");
    // The clock of the host is the machine's: emulated hardware has one.
    let time = bad["time"].as_str().expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
}

fn rsyslog_understands(scene: &Scene) {
    let messages = within(LIMIT, "the early lines at rsyslog", || {
        let messages = scene.rsyslog.all("tcp");
        let lines = messages
            .iter()
            .filter(|message| message["app-name"] == "talker");
        is_whole(
            lines
                .filter_map(|message| message["msg"].as_str())
                .map(str::trim_start),
        )
        .then_some(messages)
    });
    let bad = within(LIMIT, "the bad line at rsyslog", || {
        let bad = |message: &Value| message["pri"] == "27" && message["app-name"] == "talker";
        scene.rsyslog.all("tcp").into_iter().find(bad)
    });
    assert_eq!(
        bad["msg"].as_str().map(str::trim_start),
        Some("this is bad: \"quoted\", [bracket] ä")
    );
    assert_eq!(
        (&bad["msgid"], &bad["procid"]),
        (&"err".into(), &"-".into())
    );
    assert_eq!(bad["hostname"], "telemetry-ports");
    let data = bad["structured-data"].as_str().expect("structured data");
    assert!(
        data.starts_with("[slipform@32473 boot=\"")
            && data.contains(" image=\"telemetry-ports 0.1.0\" digest=\""),
        "{data}"
    );
    let kernel = messages
        .iter()
        .find(|message| message["app-name"] == "kernel")
        .expect("a kernel line");
    assert_eq!(kernel["syslogfacility"], "0");

    // UDP promises nothing; but what is said once somebody listens does come.
    let beat = within(LIMIT, "a line over UDP", || {
        scene
            .rsyslog
            .all("udp")
            .into_iter()
            .find(|message| message["app-name"] == "beat")
    });
    assert_eq!(beat["pri"], "30");
}

fn otlp_has_the_protocols_shape(scene: &Scene) {
    let posts = within(LIMIT, "the early lines as OTLP", || {
        let posts = scene.otlp.all();
        let bodies: Vec<Value> = posts.iter().map(|post| post.body.clone()).collect();
        is_whole(bodies.iter().flat_map(|body| otlp_lines(body, "talker"))).then_some(posts)
    });
    for post in &posts {
        assert!(
            post.head
                .starts_with("POST /v1/logs HTTP/1.1\r\nHost: 10.0.2.2:"),
            "{}",
            post.head
        );
        assert!(
            post.head.contains("\r\nContent-Type: application/json\r\n"),
            "{}",
            post.head
        );
        assert!(
            post.head.contains("\r\nx-tenant: slipform\r\n"),
            "{}",
            post.head
        );
        otlp::check(&post.body, "ExportLogsServiceRequest");
    }
    let resource = &posts[0].body["resourceLogs"][0]["resource"];
    assert_eq!(
        otlp::attribute(resource, "host.image.name"),
        Some("telemetry-ports")
    );
    let pushed = within(LIMIT, "pushed metrics", || {
        let posts = scene.pushed.all();
        (posts.len() >= 2).then_some(posts)
    });
    for post in &pushed {
        assert!(
            post.head.starts_with("POST /v1/metrics HTTP/1.1\r\n"),
            "{}",
            post.head
        );
        otlp::check(&post.body, "ExportMetricsServiceRequest");
    }
    let metrics = &pushed[1].body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
    let names: Vec<&str> = metrics
        .as_array()
        .expect("metrics")
        .iter()
        .filter_map(|metric| metric["name"].as_str())
        .collect();
    for name in [
        "slipform_uptime_seconds",
        "slipform_service_state",
        "slipform_log_records_lost_total",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}

/// The same lines, whole; and not a byte to who shows another's certificate, or an old one.
fn tls_goes_to_whom_can_prove_it(scene: &mut Scene) {
    within(LIMIT, "the early lines at rsyslog over TLS", || {
        let messages = scene.rsyslog.all("tls");
        let lines = messages
            .iter()
            .filter(|message| message["app-name"] == "talker");
        let texts = lines.filter_map(|message| message["msg"].as_str());
        is_whole(texts.map(str::trim_start)).then_some(())
    });
    within(LIMIT, "the early lines as OTLP over TLS", || {
        let posts = scene.secure.all();
        let lines = posts
            .iter()
            .flat_map(|post| otlp_lines(&post.body, "talker"));
        is_whole(lines).then_some(())
    });
    for (name, reason) in [("elsewhere", "not valid for name"), ("expired", "expired")] {
        let told = |event: &Event| match event {
            Event::Sink { sink, up, detail } => sink == name && !up && detail.contains(reason),
            _ => false,
        };
        // News are told once: before this server was there, its news was that nobody is.
        let page = scrape(scene.metrics);
        let known = scene.machine.records.iter().any(|r| told(&r.event));
        assert!(known || scene.machine.until(told), "{name}: {page}");
    }
    for (name, impostor) in &scene.impostors {
        assert_eq!(impostor.seen(), b"", "{name} was told something");
    }
}

fn otlp_lines<'a>(body: &'a Value, service: &str) -> Vec<&'a str> {
    let mut lines = Vec::new();
    for resource in body["resourceLogs"].as_array().expect("resources") {
        if otlp::attribute(&resource["resource"], "service.name") != Some(service) {
            continue;
        }
        for record in resource["scopeLogs"][0]["logRecords"]
            .as_array()
            .expect("records")
        {
            lines.extend(record["body"]["stringValue"].as_str());
        }
    }
    lines
}

fn scrape(port: u16) -> String {
    within(LIMIT, "a page of metrics", || {
        let (head, body) = get(port, "/metrics").ok()?;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        Some(body)
    })
}

fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
    line.trim().parse().expect("a number")
}

fn prometheus_is_content(scene: &Scene, mut promtool: std::process::Command) -> String {
    let page = scrape(scene.metrics);
    let mut child = promtool
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(page.as_bytes())
        .expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "{said}\n{page}"
    );

    assert_eq!(
        value(
            &page,
            "slipform_service_state{service=\"talker\",state=\"ready\"}"
        ),
        1.0
    );
    assert_eq!(
        value(&page, "slipform_service_restarts_total{service=\"talker\"}"),
        0.0
    );
    assert!(value(&page, "slipform_service_memory_bytes{service=\"beat\"}") > 1000.0);
    assert!(
        value(
            &page,
            "slipform_service_cpu_seconds_total{service=\"beat\"}"
        ) > 0.0
    );
    assert!(
        value(
            &page,
            "slipform_network_transmit_bytes_total{interface=\"eth0\"}"
        ) > 10_000.0
    );
    assert!(value(&page, "slipform_disk_read_bytes_total{device=\"vda\"}") > 100_000.0);
    assert!(value(&page, "slipform_boot_phase_seconds{phase=\"running\"}") > 0.1);
    assert_eq!(value(&page, "slipform_verity_errors_total"), 0.0);
    for sink in ["rsyslog-tcp", "rsyslog-tls", "json", "otlp", "otlp-tls"] {
        assert_eq!(
            value(&page, &format!("slipform_log_sink_up{{sink=\"{sink}\"}}")),
            1.0
        );
        assert_eq!(
            value(
                &page,
                &format!("slipform_log_records_lost_total{{sink=\"{sink}\"}}")
            ),
            0.0
        );
    }
    for sink in ["nowhere", "elsewhere", "expired"] {
        let up = format!("slipform_log_sink_up{{sink=\"{sink}\"}}");
        assert_eq!(value(&page, &up), 0.0, "{sink}");
    }
    let (head, _) = get(scene.metrics, "/").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    page
}

fn a_flood_hurts_nobody(scene: &mut Scene, before: &str) {
    let beats = |scene: &Scene| texts(&scene.json.all(), "beat").len();
    let first = beats(scene);
    drop(TcpStream::connect(("127.0.0.1", scene.flood)).expect("the knock"));
    within(LIMIT, "the end of the flood", || {
        texts(&scene.json.all(), "flood")
            .contains(&"the flood is over")
            .then_some(())
    });
    let during = beats(scene) - first;
    assert!(during >= 3, "{during} beats while the flood went on");
    let page = scrape(scene.metrics);
    let dropped = value(
        &page,
        "slipform_service_log_lines_dropped_total{service=\"flood\"}",
    );
    assert!(dropped > 1000.0, "{dropped}");
    assert_eq!(
        value(
            &page,
            "slipform_service_log_lines_dropped_total{service=\"beat\"}"
        ),
        0.0
    );
    // The sink that never was there lost what did not fit, and it was told.
    assert!(value(&page, "slipform_log_records_lost_total{sink=\"nowhere\"}") > 0.0);
    let spooled = value(&page, "slipform_log_spool_bytes");
    assert!(spooled <= 256.0 * 1024.0, "{spooled}");
    let resident = |page| value(page, "slipform_init_resident_bytes") / 1024.0;
    let (calm, flooded) = (resident(before), resident(&page));
    assert!(flooded < calm + 2048.0, "{calm} KiB, then {flooded} KiB");
    losses_are_told(scene, &page, dropped, during, (calm, flooded));
}

/// Questions, and what is none, come over one port: init answers the first and lives.
fn garbage_on_the_port_hurts_nobody(scene: &mut Scene) {
    let long = "x".repeat(200_000);
    let many = r#"{"command":"show","id":9,"sections":["log","mounts"],"follow":true}"#;
    let bad = [
        "\u{0}\u{1}\u{7f}",
        "{",
        long.as_str(),
        r#"{"command":"show","id":99999999999}"#,
        r#"{"command":"show","id":1,"sections":["secrets"]}"#,
        r#"{"command":"show","id":1,"sections":["log"],"lines":-1}"#,
        r#"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["#,
    ];
    for line in bad.into_iter().chain(std::iter::repeat_n(many, 200)) {
        scene.machine.send(line);
    }
    // Who asks among so many is refused, and asks again; the followers are ended.
    let mut items = Vec::new();
    for id in 1000..1100 {
        scene.machine.send(r#"{"command":"show","id":9}"#);
        scene.machine.send(&format!(
            r#"{{"command":"show","id":{id},"sections":["services","log"],"service":"talker","lines":50}}"#
        ));
        let ended = |event: &Event| match event {
            Event::Inside { query, item } => *query == id && matches!(**item, Item::End(_)),
            _ => false,
        };
        assert!(scene.machine.until(ended));
        items = scene
            .machine
            .records
            .iter()
            .filter_map(|record| match &record.event {
                Event::Inside { query, item } if *query == id => Some((**item).clone()),
                _ => None,
            })
            .collect();
        if items.len() > 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = |item: &&Item| matches!(item, Item::Log(log) if log.service == "talker");
    assert_eq!(items.iter().filter(said).count(), 50, "{items:?}");
    // Machine, service, the lines, the end.
    assert_eq!(items.len(), 53, "{items:?}");
    assert_eq!(items.last(), Some(&Item::End(String::new())));
}

fn losses_are_told(
    scene: &mut Scene,
    page: &str,
    dropped: f64,
    during: usize,
    (calm, flooded): (f64, f64),
) {
    // What the JSON receiver did not get is told where it is missing.
    let records = scene.json.all();
    let lost: f64 = texts(&records, "slipform")
        .iter()
        .filter_map(|line| {
            let count = line.strip_suffix(" records are lost: the spool was full")?;
            count.parse::<f64>().ok()
        })
        .sum();
    assert_eq!(
        value(page, "slipform_log_records_lost_total{sink=\"json\"}"),
        lost
    );
    // Past what the test runner captures; a closed stderr is nobody who could be told.
    let _ = writeln!(
        std::io::stderr(),
        "FIGURES telemetry: init {calm:.0} KiB before, {flooded:.0} KiB after the flood; {dropped} of the flood's lines dropped at the service, {lost} lost at a sink, {during} beats meanwhile"
    );
    scene.machine.take_waiting();
    let told = scene.machine.records.iter().any(|record| {
        matches!(&record.event, Event::LogLoss { sink, total, .. } if sink == "nowhere" && *total > 0)
    });
    assert!(told, "the loss is no event");
    let why = scene
        .machine
        .records
        .iter()
        .find_map(|record| match &record.event {
            Event::Sink {
                sink,
                up: false,
                detail,
            } if sink == "nowhere" => Some(detail.clone()),
            _ => None,
        });
    assert!(
        why.as_ref()
            .is_some_and(|why| why.contains("is not resolved: ")),
        "{why:?}"
    );
}

/// What is said on the way down arrives before the machine is gone.
fn goodbye_is_heard(mut scene: Scene) -> (Lines, Rsyslog) {
    scene.machine.send(r#"{"command":"power-off"}"#);
    let Scene {
        machine,
        json,
        rsyslog,
        ..
    } = scene;
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    assert!(
        matches!(
            records.last(),
            Some(Record {
                event: Event::End { clean: true },
                ..
            })
        ),
        "{:?}",
        records.last()
    );
    let goodbye = ["power-off (report channel)", "service beat: stopped"];
    within(Duration::from_secs(20), "the last words", || {
        let records = json.all();
        let said = texts(&records, "slipform");
        let messages = rsyslog.all("tcp");
        let heard = |line: &&str| {
            said.iter().any(|said| said.starts_with(line))
                && messages.iter().any(|message| {
                    message["msg"]
                        .as_str()
                        .is_some_and(|text| text.trim_start().starts_with(line))
                })
        };
        goodbye.iter().all(heard).then_some(())
    });
    (json, rsyslog)
}
