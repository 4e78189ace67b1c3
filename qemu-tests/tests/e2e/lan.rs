//! A machine on a link where anybody may say anything: answers that are malformed, late,
//! greedy or for somebody else, floods of advertisements, a cable that is pulled. The
//! machine starts as if nothing were there, takes the one good answer, keeps it alive,
//! and finds back to it. The servers are the test's own, down to the frame.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use slipform_init::contract::event::{Event, Record};

use crate::support::lab::slot;
use crate::support::lan::{Cable, Frame, Mac, advertisement, arp_answer, neighbour, udp4, udp6};
use crate::support::project::Project;
use crate::support::wire::{Extra, Machine, Way};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x1234);
/// Addresses that the servers give although somebody has them.
const TAKEN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 9);
const TAKEN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x9999);
/// Questions that only get nonsense, of each protocol.
const HOSTILE: u8 = 3;
/// Seconds; the shortest that a client takes is 10.
const LEASE: u32 = 12;
/// Seconds by which the good time server's clock is ahead.
const AHEAD: u64 = 86_400;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What the servers of the link count, and what they are told.
#[derive(Debug, Default)]
struct Link {
    over: AtomicBool,
    silent: AtomicBool,
    declined: AtomicBool,
    declined6: AtomicBool,
    discovers: AtomicU8,
    renewals: AtomicUsize,
    solicits: AtomicU8,
    questions: AtomicU8,
    advertised: AtomicUsize,
}

fn options(list: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![99, 130, 83, 99];
    for (code, value) in list {
        bytes.push(*code);
        bytes.push(u8::try_from(value.len()).expect("short"));
        bytes.extend_from_slice(value);
    }
    bytes.push(255);
    bytes
}

/// A reply of RFC 2131 to the question.
fn reply(question: &[u8], address: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&question[4..8]);
    bytes[16..20].copy_from_slice(&address.octets());
    bytes[20..24].copy_from_slice(&SERVER.octets());
    bytes[28..44].copy_from_slice(&question[28..44]);
    bytes.extend_from_slice(options);
    bytes
}

fn good(kind: u8) -> Vec<u8> {
    options(&[
        (53, &[kind]),
        (54, &SERVER.octets()),
        (51, &LEASE.to_be_bytes()),
        (58, &4u32.to_be_bytes()),
        (1, &[255, 255, 255, 0]),
        (3, &SERVER.octets()),
        (6, &[10, 9, 0, 53]),
        (15, b"lan.test"),
        (42, &SERVER.octets()),
    ])
}

/// All kinds of answers that must not be taken, and one that is odd and good.
fn answers(question: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let fine = reply(question, ADDRESS, &good(OFFER));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fine.clone();
        change(&mut bytes);
        bytes
    };
    let lease = |seconds: u32| {
        let list = options(&[
            (53, &[OFFER]),
            (54, &SERVER.octets()),
            (51, &seconds.to_be_bytes()),
        ]);
        reply(question, ADDRESS, &list)
    };
    let mut all: Vec<Vec<u8>> = [0, 1, 100, 235, 239, 240, 243, 250]
        .into_iter()
        .map(|length| fine[..length].to_vec())
        .collect();
    all.push(with(&|bytes| bytes[4] ^= 1)); // another transaction
    all.push(with(&|bytes| bytes[28] ^= 1)); // another client
    all.push(with(&|bytes| bytes[0] = 1)); // a question
    all.push(with(&|bytes| bytes[236] ^= 1)); // no DHCP
    all.push(with(&|bytes| bytes[241] = 255)); // an option without an end
    all.push(lease(0));
    all.push(lease(3));
    all.push(reply(question, ADDRESS, &options(&[(53, &[OFFER])])));
    all.push(reply(
        question,
        ADDRESS,
        &options(&[(53, &[NAK]), (54, &SERVER.octets())]),
    ));
    let addresses = [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(10, 9, 0, 255),
    ];
    for address in addresses {
        all.push(reply(question, address, &good(OFFER)));
    }
    let mut long = fine.clone();
    long.pop();
    for _ in 0..4 {
        // A thousand bytes of one option, in pieces (RFC 3396).
        long.extend_from_slice(&[119, 255]);
        long.extend_from_slice(&[0xc0; 255]);
    }
    long.push(255);
    (all, long)
}

/// The address that a client asks for, or that it has.
fn wanted(question: &[u8]) -> Option<Ipv4Addr> {
    let option = question[240..].windows(6).find(|six| six[..2] == [50, 4]);
    let own = question.get(12..16).filter(|four| **four != [0; 4]);
    let bytes = option.map(|six| &six[2..]).or(own)?;
    Some(<[u8; 4]>::try_from(bytes).ok()?.into())
}

fn dhcp(link: &Link, cable: &Cable, mac: Mac, question: &[u8], is_to_all: bool) {
    if question.len() < 241 || link.silent.load(Ordering::Relaxed) {
        return;
    }
    let kind = question[240..]
        .windows(3)
        .find(|window| window[..2] == [53, 1])
        .map(|window| window[2]);
    let send = |payload: &[u8]| {
        let to = (Ipv4Addr::BROADCAST, 68);
        cable.send(&udp4(Some(mac), (SERVER, 67), to, payload));
    };
    match kind {
        Some(DISCOVER) => {
            let (bad, odd) = answers(question);
            for bad in bad {
                send(&bad);
            }
            if link.discovers.fetch_add(1, Ordering::Relaxed) < HOSTILE {
                return;
            }
            // An address that somebody has, until the server knows.
            if link.declined.load(Ordering::Relaxed) {
                send(&odd);
            } else {
                send(&reply(question, TAKEN, &good(OFFER)));
            }
        }
        Some(REQUEST) => {
            if !is_to_all {
                link.renewals.fetch_add(1, Ordering::Relaxed);
            }
            // Somebody else's refusals first.
            let mut stranger = reply(question, Ipv4Addr::UNSPECIFIED, &options(&[(53, &[NAK])]));
            stranger[4] ^= 1;
            send(&stranger);
            let address = wanted(question).unwrap_or(ADDRESS);
            send(&reply(question, address, &good(ACK)));
        }
        Some(DECLINE) if wanted(question) == Some(TAKEN) => {
            link.declined.store(true, Ordering::Relaxed);
        }
        _ => {}
    }
}

/// A reply of RFC 8415 to the question: its client's identifier, ours, and its address.
fn reply6(kind: u8, question: &[u8], address: Ipv6Addr) -> Option<Vec<u8>> {
    let mut bytes = vec![kind, question[1], question[2], question[3]];
    let (mut rest, mut client, mut iaid) = (question.get(4..)?, None, None);
    while rest.len() >= 4 {
        let code = u16::from_be_bytes([rest[0], rest[1]]);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let value = rest.get(4..4 + length)?;
        match code {
            1 => client = Some(value),
            3 => iaid = value.get(..4),
            _ => {}
        }
        rest = &rest[4 + length..];
    }
    let mut option = |code: u16, value: &[u8]| {
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(value);
    };
    option(1, client?);
    option(2, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1]);
    let lease = [
        &address.octets()[..],
        &100u32.to_be_bytes(),
        &200u32.to_be_bytes(),
    ]
    .concat();
    let association = [
        iaid?,
        &50u32.to_be_bytes(),
        &80u32.to_be_bytes(),
        &[0, 5, 0, 24],
        &lease,
    ];
    option(3, &association.concat());
    Some(bytes)
}

fn dhcp6(link: &Link, cable: &Cable, mac: Mac, from: Ipv6Addr, question: &[u8]) {
    let kind = match question.first() {
        Some(9) if question.windows(16).any(|part| part == TAKEN6.octets()) => {
            link.declined6.store(true, Ordering::Relaxed);
            7
        }
        Some(1) => 2,
        Some(3 | 5 | 6) => 7,
        _ => return,
    };
    let send = |payload: &[u8]| {
        cable.send(&udp6(mac, (ROUTER6, 547), (from, 546), payload));
    };
    let address = match link.declined6.load(Ordering::Relaxed) {
        true => ADDRESS6,
        false => TAKEN6,
    };
    let Some(fine) = reply6(kind, question, address) else {
        return;
    };
    for length in [0, 1, 3, 4, 7, 20, fine.len() - 1] {
        send(&fine[..length]);
    }
    for (at, value) in [(1, fine[1] ^ 1), (0, 13), (7, 255), (9, fine[9] ^ 1)] {
        let mut bad = fine.clone();
        bad[at] = value;
        send(&bad);
    }
    for address in [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    ] {
        send(&reply6(kind, question, address).unwrap_or_default());
    }
    // The client asks ever less: one is enough.
    if link.solicits.fetch_add(1, Ordering::Relaxed) >= 1 {
        send(&fine);
    }
}

/// An answer of RFC 4330, from a clock that is ahead.
fn ntp(link: &Link, cable: &Cable, mac: Mac, from: (Ipv4Addr, u16), question: &[u8]) {
    if question.len() < 48 {
        return;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // Of 1900, as the protocol counts.
    let seconds = u32::try_from(now.as_secs() + AHEAD + 2_208_988_800).unwrap_or(u32::MAX);
    let mut fine = vec![0; 48];
    fine[..4].copy_from_slice(&[0x24, 2, 6, 0xec]);
    fine[12..16].copy_from_slice(b"TEST");
    for at in [16, 32, 40] {
        fine[at..at + 4].copy_from_slice(&seconds.to_be_bytes());
    }
    fine[24..32].copy_from_slice(&question[40..48]);
    let send = |payload: &[u8]| {
        cable.send(&udp4(Some(mac), (SERVER, 123), from, payload));
    };
    let bad = |at: usize, value: u8| {
        let mut bad = fine.clone();
        bad[at] = value;
        send(&bad);
    };
    // Not answers to this question: the right one still counts.
    send(&[]);
    send(&fine[..47]);
    bad(24, fine[24] ^ 1);
    bad(0, 0x23);
    if link.questions.fetch_add(1, Ordering::Relaxed) == 0 {
        // The server itself is not to be believed: unsynchronised, of no stratum.
        bad(0, 0xe4);
        bad(1, 16);
    } else {
        send(&fine);
    }
}

/// Advertisements by the hundred, from routers that do not exist, and one that does.
fn advertise(link: &Link, cable: &Cable) {
    let round = link.advertised.fetch_add(1, Ordering::Relaxed);
    for n in 0..50 {
        let router = u16::try_from(round * 50 + n).unwrap_or(u16::MAX);
        let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xbad, router);
        // Eight name servers each (RFC 8106 section 5.1), a name that ends nowhere, an
        // option of no length.
        let mut names = vec![25, 17, 0, 0, 0, 0, 1, 0];
        for server in 0..8 {
            let server = Ipv6Addr::new(0xfd00, 0xbad, router, 0, 0, 0, 0, server);
            names.extend_from_slice(&server.octets());
        }
        names.extend_from_slice(&[31, 2, 0, 0, 0, 0, 1, 0, 63, 0, 0, 0, 0, 0, 0, 0]);
        if n % 2 == 0 {
            names.extend_from_slice(&[25, 0]);
        }
        cable.send(&advertisement(from, false, &names));
    }
    let mut fine = vec![25, 3, 0, 0, 0, 0, 1, 0];
    fine.extend_from_slice(&Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x53).octets());
    cable.send(&advertisement(ROUTER6, true, &fine));
}

/// The link's life, until it is over.
fn serve(link: &Link, cable: &Cable) {
    let mut rounds = 0;
    while !link.over.load(Ordering::Relaxed) {
        match cable.next() {
            Some(Frame::Arp { mac, from, wanted }) if wanted == SERVER && from == ADDRESS => {
                cable.send(&arp_answer(mac, wanted, from));
            }
            Some(Frame::Arp { mac, from, wanted }) if wanted == TAKEN => {
                cable.send(&arp_answer(mac, wanted, from));
            }
            Some(Frame::Icmp6 {
                kind: 135,
                target: Some(TAKEN6),
                ..
            }) => cable.send(&neighbour(TAKEN6)),
            Some(Frame::Udp4 {
                mac,
                from: (_, 68),
                to,
                payload,
            }) if to.1 == 67 => {
                dhcp(link, cable, mac, &payload, to.0 == Ipv4Addr::BROADCAST);
            }
            Some(Frame::Udp4 {
                mac,
                from,
                to: (_, 123),
                payload,
            }) => {
                ntp(link, cable, mac, from, &payload);
            }
            Some(Frame::Udp6 {
                mac,
                from: (from, 546),
                to: (_, 547),
                payload,
            }) => {
                dhcp6(link, cable, mac, from, &payload);
            }
            // A router is asked for.
            Some(Frame::Icmp6 { kind: 133, .. }) => advertise(link, cable),
            Some(_) => {}
            None => {
                rounds += 1;
                if rounds % 20 == 0 {
                    advertise(link, cable);
                }
            }
        }
    }
}

fn has(address: &str) -> impl Fn(&Event) -> bool + '_ {
    move |event| matches!(event, Event::Network { address: told, .. } if told.starts_with(address))
}

/// KiB of init, and when, as the service tells them.
fn memory(records: &[Record]) -> Vec<(u64, u64)> {
    let lines = records.iter().filter_map(|record| match &record.event {
        Event::Log { service, line, .. } if service == "calm" => {
            let kib = line
                .strip_prefix("calm, init takes ")?
                .strip_suffix(" KiB")?;
            Some((record.t, kib.parse().ok()?))
        }
        _ => None,
    });
    lines.collect()
}

#[test]
#[allow(clippy::print_stdout)]
fn a_hostile_link_does_no_harm_and_a_good_answer_is_taken() {
    let _slot = slot();
    let subject = Project::own("lan").cast();
    let cable = Cable::new();
    let link = Link::default();
    let extra = Extra {
        netdev: Some(cable.netdev()),
        ..Extra::default()
    };
    thread::scope(|scope| {
        scope.spawn(|| serve(&link, &cable));
        let mut machine = Machine::start_with(&subject.direct("lan"), Way::Port, &extra);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            life(&link, &mut machine);
        }));
        link.over.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[allow(clippy::print_stdout)]
fn life(link: &Link, machine: &mut Machine) {
    let expect = |machine: &mut Machine, what: &str, wanted: &dyn Fn(&Event) -> bool| {
        assert!(
            machine.until(wanted),
            "{what}: {link:?} {:#?}",
            machine.records
        );
    };
    // Nobody waits for the network.
    expect(machine, "ready", &|event| {
        matches!(event, Event::Ready { .. })
    });
    let calm = |machine: &Machine| memory(&machine.records);
    let stepped = |event: &Event| matches!(event, Event::Clock { server, step: true, microseconds } if server == "10.9.0.1" && *microseconds > 86_000_000_000);
    // In whatever order they come.
    assert!(machine.was_or_until(has("10.9.0.5/24")), "{link:?}");
    assert!(machine.was_or_until(has("fd00:9::1234/128")), "{link:?}");
    assert!(machine.was_or_until(stepped), "{link:?}");
    assert!(link.discovers.load(Ordering::Relaxed) > HOSTILE);
    // Before that they gave addresses that somebody has.
    let declined = [&link.declined, &link.declined6];
    assert!(
        declined.iter().all(|told| told.load(Ordering::Relaxed)),
        "{link:?}"
    );
    let used = |event: &Event| matches!(event, Event::Network { address, .. } if address.starts_with("10.9.0.9/"));
    assert!(!machine.records.iter().any(|record| used(&record.event)));

    // The lease is kept alive, and goes when nobody renews it.
    let before = link.renewals.load(Ordering::Relaxed);
    while link.renewals.load(Ordering::Relaxed) == before {
        expect(machine, "a renewal", &|event| {
            matches!(event, Event::Log { .. })
        });
    }
    link.silent.store(true, Ordering::Relaxed);
    expect(
        machine,
        "the lease's end",
        &|event| matches!(event, Event::Network { address, .. } if address.is_empty()),
    );
    link.silent.store(false, Ordering::Relaxed);
    expect(machine, "the address again", &has("10.9.0.5/24"));

    // The cable is pulled and put back, faster than anybody could ask.
    let asked = link.discovers.load(Ordering::Relaxed);
    for _ in 0..5 {
        machine.set_link(false);
        machine.set_link(true);
    }
    let lines = calm(machine).len();
    while calm(machine).len() < lines + 5 {
        expect(machine, "the service", &|event| {
            matches!(event, Event::Log { .. })
        });
    }
    machine.send(r#"{"command":"show","id":1,"sections":["network"]}"#);
    let mut seen = String::new();
    while !seen.contains("\"end\"") {
        expect(machine, "the answer", &|event| {
            matches!(event, Event::Inside { .. })
        });
        let last = machine.records.last().expect("the answer");
        seen += &serde_json::to_string(last).expect("a record");
    }
    for part in ["10.9.0.5/24", "fd00:9::1234/128", "10.9.0.53", "lan.test"] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
    println!(
        "{} discovers ({asked} before the cable), {} solicits, {} rounds of advertisements",
        link.discovers.load(Ordering::Relaxed),
        link.solicits.load(Ordering::Relaxed),
        link.advertised.load(Ordering::Relaxed)
    );

    machine.send(r#"{"command":"power-off"}"#);
    expect(machine, "a clean end", &|event| {
        matches!(event, Event::End { clean: true })
    });
    let told = calm(machine);
    let gap = told
        .windows(2)
        .map(|pair| pair[1].0 - pair[0].0)
        .max()
        .unwrap_or(0);
    let (first, last) = (told[told.len() / 3].1, told[told.len() - 1].1);
    println!(
        "longest gap {} ms, init {first} KiB, at the end {last} KiB",
        gap / 1000
    );
    assert!(gap < 10_000_000, "{told:?}");
    assert!(last <= first + 256, "{told:?}");
    let errors = machine
        .records
        .iter()
        .filter(|record| matches!(record.event, Event::Error { .. }));
    assert_eq!(errors.count(), 0, "{:#?}", machine.records);
}
