//! Containers as machines: what `slipform new --from` makes of an image boots, and its
//! service finds what it would find in a container.

use std::fs;
use std::time::Instant;

use serde_json::json;

use crate::support::container::Container;
use crate::support::lab::{boot, is_nightly, slot};
use crate::support::project::Project;
use crate::support::red::{assert_green, tell};
use slipform_init::contract::event::{Event, Record, ServiceState};
use slipform_qemu_tests::{BootReport, Plan};

/// Looks at everything that a container gives its program, and waits for its end.
const JUDGE: &str = r#"#!/bin/busybox sh
export PATH=$PATH:/applets
echo "arguments: $0, $# of them: $*"
echo "environment: $GREETING, home $HOME"
echo "who: $(id -un) $(id -u):$(id -g), groups $(id -G)"
echo "where: $(pwd)"
for folder in /dev/shm /tmp /data /var/cache/judge; do
    echo kept >"$folder/probe" && echo "writable: $folder, $(cat $folder/probe)"
done
touch /srv/probe 2>/dev/null || echo "read-only: /srv"
echo "volume: $(stat -c '%u:%g %a' /data) $(cat /data/born)"
read id </etc/machine-id
echo "the machine's: $(grep -c . /etc/hosts) hosts, $(grep -c stale /etc/resolv.conf) stale, id of ${#id}"
trap 'echo "stopped by SIGUSR1"; exit 0' USR1
trap 'echo "stopped by SIGTERM"; exit 1' TERM
httpd -p 8080 -h /srv
while :; do sleep 1 & wait $!; done
"#;

/// What it must have said.
const SAID: [&str; 10] = [
    "arguments: /opt/tools/judge, 2 of them: one two  words",
    "environment: hello, world, home /home/judge",
    "who: judge 1234:1235, groups 1235 2345",
    "where: /srv/work",
    "writable: /dev/shm, kept",
    "writable: /data, kept",
    "writable: /var/cache/judge, kept",
    "read-only: /srv",
    "volume: 1234:2345 750 with it",
    "the machine's: 2 hosts, 0 stale, id of 32",
];

/// All that a service said; the report leaves such lines out, the evidence has them.
fn lines(plan: &Plan, wanted: &str) -> Vec<String> {
    let events = fs::read_to_string(plan.evidence.join("events.jsonl")).expect("the events");
    let lines = events.lines().filter_map(|line| {
        let record: Record = serde_json::from_str(line).expect("a record");
        match record.event {
            Event::Log { service, line, .. } if service == wanted => Some(line),
            _ => None,
        }
    });
    lines.collect()
}

#[track_caller]
fn says(plan: &Plan, service: &str, expected: &str) {
    let lines = lines(plan, service);
    assert!(
        lines.iter().any(|line| line == expected),
        "no {expected:?} in {lines:#?} (evidence: {})",
        plan.evidence.display()
    );
}

#[test]
fn a_containers_service_finds_what_it_finds_in_a_container() {
    let Some(busybox) = Container::of_package("busybox-static", "usr/bin/busybox") else {
        return;
    };
    let _slot = slot();
    // By number, as Kubernetes wants it; the name and what hangs on it come from the image.
    let container = Container::new(json!({
        "Entrypoint": ["judge"], "Cmd": ["one", "two  words"], "User": "1234",
        "Env": ["PATH=/nowhere:/opt/tools:/bin", "GREETING=hello, world"],
        "WorkingDir": "/srv/work", "StopSignal": "SIGUSR1",
        "ExposedPorts": { "8080/tcp": {} }, "Volumes": { "/data": {}, "/var/cache/judge": {} },
    }));
    let judged = (1234, 2345);
    let mut container = container
        .file("bin/busybox", 0o755, busybox)
        .file("opt/tools/judge", 0o755, JUDGE)
        .file("srv/index.html", 0o644, "a container's page")
        .folder("data", 0o750, judged)
        .file("data/born", 0o644, "with it")
        .folder("var/cache/judge", 0o755, judged)
        .file("etc/hosts", 0o644, "1.2.3.4 stale\n")
        .file("etc/resolv.conf", 0o644, "# stale\n")
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/root:/bin/sh\njudge:x:1234:1235::/home/judge:/bin/sh\n",
        )
        .file(
            "etc/group",
            0o644,
            "root:x:0:\njudge:x:1235:\nextra:x:2345:judge\n",
        );
    for applet in ["cat", "grep", "httpd", "id", "sleep", "stat", "touch"] {
        container = container.link(&format!("applets/{applet}"), "/bin/busybox");
    }
    let test = "\n[[test]]\nname = \"serves a page\"\nhttp = { port = 8080, path = \"/\", status = 200, contains = \"a container's page\" }\n";
    let project = Project::of_container("judge", container, &[], test);
    let subject = project.cast();
    let plan = subject.direct("container-judge");
    let report = boot(&plan);
    assert_green(&plan, &report);
    for line in SAID {
        says(&plan, "judge", line);
    }
    // The harness ends the machine as a power button does.
    says(&plan, "judge", "stopped by SIGUSR1");
    let clean = |event: &Event| matches!(event, Event::End { clean: true });
    assert!(report.events.iter().any(|record| clean(&record.event)));
}

/// Boots what `slipform new --from` makes; what it took, and how large it is.
#[allow(clippy::print_stdout)]
fn boots(
    name: &str,
    container: Container,
    edits: &[(&str, &str)],
    more: &str,
) -> (Plan, BootReport) {
    let _slot = slot();
    let begun = Instant::now();
    let subject = Project::of_container(name, container, edits, more).cast();
    let cast = begun.elapsed();
    // A kernel that QEMU was handed starts once only.
    let plan = subject.by_firmware(&format!("container-{name}"));
    let report = boot(&plan);
    assert_green(&plan, &report);
    let ready = report.events.iter().find_map(|record| match &record.event {
        Event::Service {
            name: service,
            state: ServiceState::Ready,
            ..
        } if service == name => Some(record.t / 1000),
        _ => None,
    });
    println!(
        "{name}: made and cast in {cast:.1?}, ready {ready:?} ms after the kernel started, {:.1} s in all",
        report.total_seconds
    );
    (plan, report)
}

/// A static program and its page: no shell, no library, no passwd.
#[test]
fn a_static_program_alone_boots() {
    if !is_nightly() {
        return;
    }
    let Some(busybox) = Container::of_package("busybox-static", "usr/bin/busybox") else {
        return;
    };
    let container = Container::new(json!({
        "Entrypoint": ["/busybox", "httpd", "-f", "-v", "-p", "8080", "-h", "/www"],
        "User": "65532:65532", "ExposedPorts": { "8080/tcp": {} },
    }));
    let container =
        container
            .file("busybox", 0o755, busybox)
            .file("www/index.html", 0o644, "static");
    let test = "\n[[test]]\nname = \"serves\"\nhttp = { port = 8080, path = \"/\", status = 200, contains = \"static\" }\n";
    boots("static", container, &[], test);
}

/// As nginx' own image has it.
const NGINX: &str = "user nginx;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 64; }
http {
    access_log /dev/stdout;
    server { listen 80; root /usr/share/nginx/html; }
}
";

/// Its master is root and knows its workers' user by name only.
#[test]
fn nginx_boots_from_a_container() {
    if !is_nightly() {
        return;
    }
    let container = Container::new(json!({
        "Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT",
        "ExposedPorts": { "80/tcp": {} },
    }));
    let container = container
        .file("etc/nginx/nginx.conf", 0o644, NGINX)
        .file("usr/share/nginx/html/index.html", 0o644, "by nginx")
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/root:/bin/sh\nnginx:x:101:101::/nonexistent:/bin/false\n",
        )
        .file("etc/group", 0o644, "root:x:0:\nnginx:x:101:\n");
    let Some(container) = container.packages("nginx", &["nginx"]) else {
        return;
    };
    let more = "\n[[scratch]]\npath = \"/var/lib/nginx\"\n\n[[test]]\nname = \"serves\"\nhttp = { port = 80, path = \"/\", status = 200, contains = \"by nginx\" }\n";
    let (plan, report) = boots("nginx", container, &[], more);
    let said = lines(&plan, "nginx").join("\n");
    for part in ["\"GET / HTTP/1.1\" 200", "(SIGQUIT) received"] {
        assert!(
            said.contains(part),
            "{part} in {said}\n{}",
            tell(&plan, &report)
        );
    }
}

/// Makes its database at the first start, in the volume.
const POSTGRES: &str = r#"#!/bin/busybox sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --auth=trust --locale=C --encoding=UTF8 --no-sync
    echo "host all all all trust" >>"$PGDATA/pg_hba.conf"
fi
exec "$@"
"#;

#[test]
fn postgres_boots_from_a_container_and_keeps_its_data() {
    if !is_nightly() {
        return;
    }
    let container = Container::new(json!({
        "Entrypoint": ["docker-entrypoint.sh"], "Cmd": [
            "postgres", "-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp",
        ],
        "Env": [
            "PATH=/usr/local/bin:/usr/bin:/bin:/usr/lib/postgresql/17/bin",
            "PGDATA=/var/lib/postgresql/data",
        ],
        "User": "postgres", "StopSignal": "SIGINT", "ExposedPorts": { "5432/tcp": {} },
        "Volumes": { "/var/lib/postgresql/data": {} },
    }));
    let container = container
        .link("usr/bin/sh", "busybox")
        .file("usr/local/bin/docker-entrypoint.sh", 0o755, POSTGRES)
        .folder("var/lib/postgresql/data", 0o700, (999, 999))
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n",
        )
        .file("etc/group", 0o644, "root:x:0:\npostgres:x:999:\n");
    let packages = ["postgresql-17", "busybox-static"];
    let Some(container) = container.packages("postgres", &packages) else {
        return;
    };
    // It begins with protocol 3.0 and the name; the server tells its version.
    let hello =
        "\\u0000\\u0000\\u0000\\u0017\\u0000\\u0003\\u0000\\u0000user\\u0000postgres\\u0000\\u0000";
    let talk = format!(
        "tcp = {{ port = 5432, steps = [{{ send = \"{hello}\", expect = \"server_version\" }}] }}"
    );
    let more = format!(
        "\n[[test]]\nname = \"talks\"\n{talk}\n\n[[test]]\nname = \"comes back\"\nsteps = [{{ reboot = true }}, {{ {talk} }}]\n"
    );
    let patience = (
        "ready = { tcp = \"127.0.0.1:5432\" }",
        "ready = { tcp = \"127.0.0.1:5432\", timeout = \"5min\" }",
    );
    let (plan, report) = boots("postgres", container, &[patience], &more);
    let said = lines(&plan, "postgres").join("\n");
    assert_eq!(report.boots, 2);
    for (part, count) in [
        ("Success. You can now start the database server", 1),
        ("database system is ready to accept connections", 2),
        ("received fast shutdown request", 2),
        ("database system was not properly shut down", 0),
    ] {
        assert_eq!(
            said.matches(part).count(),
            count,
            "{part} in {said}\n{}",
            tell(&plan, &report)
        );
    }
}
