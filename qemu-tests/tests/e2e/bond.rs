//! Two interfaces that are one: a lease and a VLAN on the bond, and a connection that
//! goes on by the other member when a cable is pulled.

use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use slipform_init::contract::event::Event;

use crate::support::lab::slot;
use crate::support::project::Project;
use crate::support::wire::{Extra, Machine, Way};

/// Only reached when something hangs.
const LIMIT: Duration = Duration::from_secs(120);

const INTERFACES: &str = r#"[[interface]]
name = "bond0"
bond = { links = ["eth0", "eth1"] }

[[interface]]
name = "tagged"
addresses = ["192.0.2.10/24"]
vlan = { link = "bond0", id = 7 }

[[service]]"#;

/// Waits until the machine has called and said that `member` carries its traffic.
fn called_by(calls: &TcpListener, member: &str) {
    let end = Instant::now() + LIMIT;
    let mut said = Vec::new();
    while Instant::now() < end {
        let Ok((mut call, _)) = calls.accept() else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        call.set_nonblocking(false).expect("a blocking call");
        call.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a limit");
        let mut text = String::new();
        drop(call.read_to_string(&mut text));
        if text.contains("active-backup") && text.contains(&format!("Active Slave: {member}")) {
            return;
        }
        said.push(text);
    }
    panic!("nobody called by {member}: {said:#?}");
}

#[test]
fn a_bond_outlives_a_cable() {
    let _slot = slot();
    let calls = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    calls.set_nonblocking(true).expect("no waiting");
    let port = calls.local_addr().expect("its number").port();
    let script = format!(
        "while :; do\n  busybox grep -E '^(Bonding Mode|Currently)' /proc/net/bonding/bond0 | busybox nc -w 3 10.0.2.2 {port}\n  busybox sleep 1\ndone\n"
    );
    let subject = Project::own("lan")
        .variant(
            "bond",
            &[("[[service]]", INTERFACES)],
            &[("srv/calm.sh", &script)],
        )
        .cast();
    let extra = Extra {
        second_nic: true,
        ..Extra::default()
    };
    let mut machine = Machine::start_with(&subject.direct("bond"), Way::Port, &extra);
    for (name, start) in [("bond0", "10.0.2.15/24"), ("tagged", "192.0.2.10/24")] {
        let has = |event: &Event| matches!(event, Event::Network { interface, address, .. } if interface == name && address.starts_with(start));
        assert!(machine.was_or_until(has), "{name}: {:#?}", machine.records);
    }
    called_by(&calls, "eth0");
    machine.set_link(false);
    called_by(&calls, "eth1");
    let one = "1 of 2 members have a link: eth1";
    let told = |text: &'static str, warns: bool| move |event: &Event| matches!(event, Event::Network { interface, detail, bad, .. } if interface == "bond0" && detail == text && *bad == warns);
    assert!(
        machine.was_or_until(told(one, true)),
        "{:#?}",
        machine.records
    );
    machine.set_link(true);
    let all = told("all 2 members have a link", false);
    assert!(machine.until(all), "{:#?}", machine.records);
    machine.send(r#"{"command":"power-off"}"#);
    assert!(
        machine.until(|event| matches!(event, Event::End { clean: true })),
        "{:#?}",
        machine.records
    );
    let odd = machine.records.iter().filter(|record| {
        matches!(&record.event, Event::Error { .. })
            || matches!(&record.event, Event::Network { interface, .. } if interface.starts_with("eth"))
    });
    assert_eq!(odd.count(), 0, "{:#?}", machine.records);
}
