//! What is plugged in while the machine runs: init loads its drivers, and it works; what is
//! pulled out again does no harm.

use std::path::Path;

use slipform_init::contract::event::{Event, ServiceState};
use slipform_init::contract::inside::Item;

use crate::support::lab::slot;
use crate::support::project::Project;
use crate::support::wire::{Extra, Machine, Way};

/// What the service says of drivers and disks, in order.
fn said(machine: &Machine) -> Vec<&str> {
    let lines = machine
        .records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Log { service, line, .. } if service == "looker" => Some(line.as_str()),
            _ => None,
        });
    lines.collect()
}

fn until_said(machine: &mut Machine, wanted: &str) {
    let is = |event: &Event| matches!(event, Event::Log { service, line, .. } if service == "looker" && line.starts_with(wanted));
    assert!(machine.until(is), "no `{wanted}`: {:#?}", machine.records);
}

/// A network card on a network of its own: the machine takes an address there.
fn plug_card(machine: &mut Machine) {
    machine.order("netdev_add user,id=later,net=10.9.9.0/24");
    machine.order("device_add igb,netdev=later,id=card,bus=place,romfile=");
    let leased = |event: &Event| matches!(event, Event::Network { address, .. } if address == "10.9.9.15/24");
    assert!(machine.until(leased), "no lease: {:#?}", machine.records);
}

fn pull_card(machine: &mut Machine) {
    machine.order("device_del card");
    let gone = |event: &Event| matches!(event, Event::Network { detail, .. } if detail.contains("has gone"));
    assert!(machine.until(gone), "it stays: {:#?}", machine.records);
    machine.order("netdev_del later");
}

/// A stick on USB: the machine reads it.
fn plug_stick(machine: &mut Machine, file: &Path) {
    let file = file.display();
    machine.order(&format!(
        "drive_add 0 if=none,id=stick,format=raw,file={file}"
    ));
    machine.order("device_add usb-storage,id=stick0,bus=usb.0,drive=stick");
    until_said(machine, "disk: a stick on USB");
    until_said(machine, "drivers:");
}

fn pull_stick(machine: &mut Machine) {
    machine.order("device_del stick0");
    until_said(machine, "disk: gone");
    until_said(machine, "drivers:");
}

#[test]
fn what_is_plugged_in_later_gets_its_driver_and_may_go_again() {
    let _slot = slot();
    let subject = Project::own("plugged").cast();
    let plan = subject.direct("plugged");
    let stick = subject.folder.path().join("stick.raw");
    let mut content = b"a stick on USB\n\n".to_vec();
    content.resize(1 << 20, 0);
    std::fs::write(&stick, content).expect("a stick");
    let extra = Extra {
        places: true,
        ..Extra::default()
    };
    let mut machine = Machine::start_with(&plan, Way::Port, &extra);
    let ready = |event: &Event| matches!(event, Event::Ready { .. });
    assert!(machine.until(ready), "{:#?}", machine.records);
    assert_eq!(said(&machine), ["drivers:", "looking"]);

    plug_card(&mut machine);
    plug_stick(&mut machine, &stick);
    let drivers = "drivers: igb sd_mod usb_storage";
    assert_eq!(said(&machine).last(), Some(&drivers));
    pull_card(&mut machine);
    pull_stick(&mut machine);
    // Once more: the drivers are there by now.
    plug_stick(&mut machine, &stick);
    plug_card(&mut machine);
    pull_card(&mut machine);
    pull_stick(&mut machine);

    machine.send(r#"{"command":"show","id":1,"sections":["services","network","log"]}"#);
    let told = |event: &Event| matches!(event, Event::Inside { item, .. } if matches!(**item, Item::End(_)));
    assert!(machine.until(told), "{:#?}", machine.records);
    machine.press_power();
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    let mut news = Vec::new();
    for record in &records {
        match &record.event {
            Event::Error { what, why, .. } => panic!("{what}: {why}"),
            Event::End { clean } => assert!(clean),
            Event::Inside { item, .. } => match &**item {
                Item::Service(looker) => {
                    assert_eq!((looker.state, looker.restarts), (ServiceState::Ready, 0));
                }
                Item::Interface(link) => assert!(["lo", "eth0"].contains(&link.name.as_str())),
                Item::Log(line) if line.line.contains("plugged in") => news.push(&line.line),
                _ => {}
            },
            _ => {}
        }
    }
    // Each driver is told once, by whoever asked for it: a stick's disk asks when it is found.
    let news = format!("{news:?}");
    for driver in ["igb", "usb_storage", "sd_mod"] {
        let count = news.matches(driver).count();
        assert_eq!(count, 1, "{driver}: {news}");
    }
}
