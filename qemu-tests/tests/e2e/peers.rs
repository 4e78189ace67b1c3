//! A machine on a link with real servers: dnsmasq and chrony, locked Debian packages in a
//! second machine, which has the rights on its own link that they want. What is asked is
//! read in their logs, what came of it in the machine's report.

use std::net::UdpSocket;
use std::thread;

use slipform_init::contract::event::{Event, Record};

use crate::support::lab::{is_nightly, slot};
use crate::support::project::Project;
use crate::support::wire::{Extra, Machine, Way};

/// A cable between two machines: what each is told, for `-netdev`.
fn cable() -> [Extra; 2] {
    let sockets = [0; 2].map(|_| UdpSocket::bind(("127.0.0.1", 0)).expect("a port"));
    let ports = sockets
        .each_ref()
        .map(|socket| socket.local_addr().expect("its number").port());
    let end = |ours: u16, theirs: u16, mac: &str| Extra {
        netdev: Some(format!(
            "dgram,id=net,local.type=inet,local.host=127.0.0.1,local.port={ours},remote.type=inet,remote.host=127.0.0.1,remote.port={theirs}"
        )),
        mac: Some(mac.to_owned()),
        ..Extra::default()
    };
    [
        end(ports[0], ports[1], "52:54:00:77:00:01"),
        end(ports[1], ports[0], "52:54:00:77:00:02"),
    ]
}

/// How often a service has said this.
fn said(records: &[Record], service: &str, part: &str) -> usize {
    let lines = records.iter().filter(|record| {
        matches!(&record.event, Event::Log { service: by, line, .. } if by == service && line.contains(part))
    });
    lines.count()
}

fn has(event: &Event, start: &str) -> bool {
    matches!(event, Event::Network { address, .. } if address.starts_with(start))
}

/// Goes through `wanted` in the server's log, in whatever order they come.
fn heard(peer: &mut Machine, wanted: &[(&str, usize)]) {
    let all = |records: &[Record]| {
        wanted
            .iter()
            .all(|(part, times)| said(records, "dnsmasq", part) >= *times)
    };
    while !all(&peer.records) {
        let went_on = peer.until(|event| matches!(event, Event::Log { .. }));
        assert!(went_on, "{wanted:?}: {:#?}", peer.records);
    }
}

/// Two machines, and two minutes until a lease is renewed: nightly.
#[test]
#[allow(clippy::print_stdout)]
fn dnsmasq_and_chrony_serve_a_machine() {
    if !is_nightly() {
        println!("Skipped: it runs with SLIPFORM_TESTS_NIGHTLY=1");
        return;
    }
    let _slot = slot();
    for stateless in [false, true] {
        let peer = match stateless {
            false => Project::own("peer"),
            true => Project::own("peer").variant(
                "peer-stateless",
                &[("fd00:77::100,fd00:77::1ff,64,2m", "fd00:77::,ra-stateless")],
                &[],
            ),
        };
        let (peer, subject) = (peer.cast(), Project::own("lan").cast());
        let [theirs, ours] = cable();
        let mut peer = Machine::start_with(&peer.direct("peer"), Way::Port, &theirs);
        assert!(
            peer.until(|event| matches!(event, Event::Ready { .. })),
            "{:#?}",
            peer.records
        );
        let mut machine = Machine::start_with(&subject.direct("lan"), Way::Port, &ours);
        let told = thread::scope(|scope| {
            let server = scope.spawn(|| {
                match stateless {
                    false => heard(
                        &mut peer,
                        &[("DHCPACK", 2), ("RTR-ADVERT", 1), ("DHCPRENEW", 1)],
                    ),
                    true => heard(
                        &mut peer,
                        &[
                            ("DHCPACK", 1),
                            ("RTR-ADVERT", 1),
                            ("DHCPINFORMATION-REQUEST", 1),
                        ],
                    ),
                }
                peer.records.len()
            });
            let by_lease =
                machine.until(|event| has(event, "10.77.0.5") || has(event, "10.77.0.60"));
            assert!(by_lease, "{:#?}", machine.records);
            if !stateless {
                let six = machine.was_or_until(|event| has(event, "fd00:77::1"));
                assert!(six, "{:#?}", machine.records);
            }
            let clock = machine.was_or_until(
                |event| matches!(event, Event::Clock { server, .. } if server == "10.77.0.1"),
            );
            assert!(clock, "{:#?}", machine.records);
            server.join().expect("the servers")
        });
        println!("stateless {stateless}: the servers' machine told {told} things");
        machine.send(r#"{"command":"show","id":1,"sections":["network"]}"#);
        let mut seen = String::new();
        while !seen.contains("\"end\"") {
            assert!(
                machine.until(|event| matches!(event, Event::Inside { .. })),
                "{:#?}",
                machine.records
            );
            let last = machine.records.last().expect("the answer");
            seen += &serde_json::to_string(last).expect("a record");
        }
        for part in ["10.77.0.53", "fd00:77::53", "peers.test"] {
            assert!(seen.contains(part), "{part}: {seen}");
        }
        let errors = machine
            .records
            .iter()
            .filter(|record| matches!(record.event, Event::Error { .. }));
        assert_eq!(errors.count(), 0, "{:#?}", machine.records);
        for mut ended in [machine, peer] {
            ended.send(r#"{"command":"power-off"}"#);
            assert!(ended.until(|event| matches!(event, Event::End { clean: true })));
        }
    }
}
