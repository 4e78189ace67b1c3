//! The client against simulated servers: friendly, absent, hostile, mad.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::client::{Action, Client, Config, Destination, Input};
use super::ip;
use super::lease::Lease;
use super::packet::testing::{MAC, reply};
use super::packet::{Kind, Reply, option};

const OURS: [u8; 4] = [10, 0, 2, 15];
const SERVER: [u8; 4] = [10, 0, 2, 2];
const BROADCAST: Destination = Destination::Broadcast {
    from: Ipv4Addr::UNSPECIFIED,
};

/// A client, its clock, and what it did last.
struct Bench {
    client: Client,
    now: Duration,
    sent: Vec<(Vec<u8>, Destination)>,
    other: Vec<Action>,
    /// What went to the link by ARP since the link came up.
    arp: Vec<Action>,
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Bench {
    fn new() -> Bench {
        let client = Client::new(Config {
            mac: MAC,
            hostname: "hello".into(),
            seed: 1,
        });
        Bench {
            client,
            now: at(100),
            sent: Vec::new(),
            other: Vec::new(),
            arp: Vec::new(),
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.client.step(self.now, input, &mut out);
        (self.sent, self.other) = (Vec::new(), Vec::new());
        for action in out {
            match action {
                Action::Send { message, to } => self.sent.push((message, to)),
                Action::Probe(_) | Action::Announce(_) => self.arp.push(action),
                other => self.other.push(other),
            }
        }
    }

    /// Goes to the next deadline.
    fn tick(&mut self) {
        self.now = self
            .client
            .deadline()
            .expect("something to wait for")
            .max(self.now);
        self.step(Input::Tick);
    }

    fn xid(&self) -> u32 {
        let message = &self.sent.last().expect("something was sent").0;
        u32::from_be_bytes([message[4], message[5], message[6], message[7]])
    }

    /// The message type of what was sent last, and where it went.
    fn asked(&self) -> Option<(u8, Destination)> {
        self.sent.last().map(|(message, to)| (message[242], *to))
    }

    fn answer(&mut self, kind: Kind, xid: u32, lease_seconds: u32) {
        let time = lease_seconds.to_be_bytes();
        let bytes = answer(kind, xid, &time);
        self.step(Input::Packet(&bytes));
        self.find_it_free();
    }

    /// Nobody has the address that is probed for.
    fn find_it_free(&mut self) {
        while self.client.probes().is_some() {
            self.tick();
        }
    }

    fn bind(lease_seconds: u32) -> Bench {
        let mut bench = Bench::new();
        bench.step(Input::LinkUp);
        assert_eq!(bench.asked(), Some((1, BROADCAST)));
        let xid = bench.xid();
        bench.answer(Kind::Offer, xid, lease_seconds);
        assert_eq!(bench.asked(), Some((3, BROADCAST)));
        assert_eq!(bench.xid(), xid, "the request repeats the offer's id");
        bench.answer(Kind::Ack, xid, lease_seconds);
        assert!(
            matches!(&bench.other[..], [Action::Bind { previous: None, .. }]),
            "{:?}",
            bench.other
        );
        assert!(!bench.client.listens());
        // The second announcement.
        bench.tick();
        bench
    }
}

fn answer(kind: Kind, xid: u32, time: &[u8]) -> Vec<u8> {
    let options: [(u8, &[u8]); 3] = [
        (option::SERVER, &SERVER),
        (option::MASK, &[255, 255, 255, 0]),
        (option::LEASE, time),
    ];
    reply(kind, xid, OURS, &options)
}

#[test]
fn a_lease_is_got_renewed_rebound_and_lost() {
    let mut bench = Bench::bind(3600);
    let unicast = Destination::Unicast {
        from: OURS.into(),
        to: SERVER.into(),
    };

    bench.tick();
    assert_eq!(
        (bench.now, bench.asked()),
        (at(100 + 1800), Some((3, unicast)))
    );
    assert_eq!(bench.sent[0].0[12..16], OURS, "ciaddr");
    let xid = bench.xid();
    bench.now += at(1);
    bench.answer(Kind::Ack, xid, 3600);
    assert!(matches!(
        &bench.other[..],
        [Action::Bind {
            previous: Some(_),
            ..
        }]
    ));

    // Nobody answers any more: half of what is left to T2, then to the end.
    let mut steps = Vec::new();
    let began = at(100 + 1800);
    while bench.client.lease().is_some() {
        bench.tick();
        steps.push((
            (bench.now - began).as_secs(),
            bench.asked().map(|(kind, to)| (kind, to == unicast)),
        ));
    }
    let renewal = |to_server| Some((3, to_server));
    assert_eq!(steps[0], (1800, renewal(true)));
    assert_eq!(steps[1], (2475, renewal(true)));
    assert!(steps.contains(&(3150, renewal(false))), "{steps:?}");
    assert!(
        steps
            .windows(2)
            .all(|pair| pair[1].0 - pair[0].0 >= 60 || [3150, 3600].contains(&pair[1].0)),
        "{steps:?}"
    );
    assert_eq!(
        steps.last(),
        Some(&(3600, Some((1, false)))),
        "expired: a discover"
    );
    assert!(matches!(
        &bench.other[..],
        [Action::Unbind {
            why: "the lease has expired",
            ..
        }]
    ));
}

#[test]
fn an_address_is_probed_for_and_announced_twice() {
    let mut bench = Bench::new();
    bench.step(Input::LinkUp);
    let xid = bench.xid();
    bench.answer(Kind::Offer, xid, 3600);
    let began = bench.now;
    let time = 3600_u32.to_be_bytes();
    bench.step(Input::Packet(&answer(Kind::Ack, xid, &time)));
    assert_eq!(bench.client.probes(), Some(OURS.into()));
    assert!(bench.other.is_empty() && bench.client.lease().is_none());
    bench.find_it_free();
    assert!(matches!(&bench.other[..], [Action::Bind { .. }]));
    assert_eq!((bench.now - began).as_millis(), 300);
    bench.tick();
    assert_eq!((bench.now - began).as_millis(), 2300);
    let (probe, announce) = (Action::Probe(OURS.into()), Action::Announce(OURS.into()));
    let all = [&probe, &probe, &probe, &announce, &announce];
    assert_eq!(bench.arp.iter().collect::<Vec<_>>(), all);
    // Somebody who is too late is not heard: the address is in use.
    bench.step(Input::Taken([2; 6]));
    assert!(bench.sent.is_empty() && bench.client.lease().is_some());
}

#[test]
fn an_address_that_somebody_has_is_declined_and_asked_for_no_sooner_than_after_ten_seconds() {
    let mut bench = Bench::new();
    bench.step(Input::LinkUp);
    let time = 3600_u32.to_be_bytes();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let xid = bench.xid();
        bench.answer(Kind::Offer, xid, 3600);
        bench.step(Input::Packet(&answer(Kind::Ack, xid, &time)));
        bench.tick();
        bench.step(Input::Taken([2, 0, 0, 0, 0, 9]));
        assert_eq!(bench.asked(), Some((Kind::Decline as u8, BROADCAST)));
        let message = &bench.sent[0].0;
        let options = [50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2, 255];
        assert_eq!(message[243..256], options);
        assert_ne!(bench.xid(), xid);
        let [Action::Note(text)] = &bench.other[..] else {
            panic!("{:?}", bench.other)
        };
        assert!(text.starts_with("10.0.2.15 is in use by 02:00:00:00:00:09"));
        assert!(bench.client.lease().is_none() && !bench.client.listens());
        let before = bench.now;
        bench.tick();
        assert_eq!(bench.asked(), Some((1, BROADCAST)));
        pauses.push((bench.now - before).as_secs());
    }
    assert!(pauses[0] == 10 && pauses[7] >= 50, "{pauses:?}");
}

/// After the link was away: the address that it had is somebody else's by now.
#[test]
fn an_address_in_use_is_given_up_when_the_link_comes_back_and_somebody_has_it() {
    let mut bench = Bench::bind(3600);
    bench.step(Input::LinkDown);
    bench.step(Input::LinkUp);
    let xid = bench.xid();
    bench.answer(Kind::Offer, xid, 3600);
    let time = 3600_u32.to_be_bytes();
    bench.step(Input::Packet(&answer(Kind::Ack, xid, &time)));
    bench.step(Input::Taken([2; 6]));
    assert!(
        matches!(&bench.other[..], [Action::Unbind { .. }, Action::Note(_)]),
        "{:?}",
        bench.other
    );
    assert_eq!(bench.client.lease(), None);
}

#[test]
fn a_renewal_with_another_address_hands_over_both() {
    let mut bench = Bench::bind(3600);
    bench.tick();
    let mut bytes = answer(Kind::Ack, bench.xid(), &3600_u32.to_be_bytes());
    bytes[19] = 99;
    bench.step(Input::Packet(&bytes));
    assert_eq!(bench.client.probes(), Some([10, 0, 2, 99].into()));
    bench.find_it_free();
    let [
        Action::Bind {
            lease,
            previous: Some(previous),
        },
    ] = &bench.other[..]
    else {
        panic!("{:?}", bench.other)
    };
    assert_eq!(
        (lease.address.octets()[3], previous.address.octets()[3]),
        (99, 15)
    );
}

#[test]
fn an_infinite_lease_asks_no_more() {
    let bench = Bench::bind(u32::MAX);
    assert_eq!(bench.client.deadline(), None);
    assert!(
        bench
            .client
            .lease()
            .is_some_and(|lease| lease.seconds.is_none())
    );
}

#[test]
fn questions_grow_rarer_and_each_is_jittered() {
    let mut bench = Bench::new();
    bench.step(Input::LinkUp);
    let xid = bench.xid();
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let before = bench.now;
        bench.tick();
        assert_eq!((bench.asked(), bench.xid()), (Some((1, BROADCAST)), xid));
        pauses.push((bench.now - before).as_millis());
    }
    let secs = u16::from_be_bytes([bench.sent[0].0[8], bench.sent[0].0[9]]);
    assert_eq!(u64::from(secs), (bench.now - at(100)).as_secs());
    for (pause, expected) in pauses.iter().zip([1, 2, 4, 8, 16, 32, 64, 64, 64, 64]) {
        assert!(
            (expected * 875..=expected * 1125).contains(pause),
            "{pauses:?}"
        );
    }
    let other = Client::new(Config {
        mac: MAC,
        hostname: String::new(),
        seed: 2,
    });
    let mut other = Bench {
        client: other,
        ..Bench::new()
    };
    other.step(Input::LinkUp);
    assert_ne!(other.xid(), xid, "another seed, another id");
}

#[test]
fn a_server_that_falls_silent_after_its_offer_is_given_up() {
    let mut bench = Bench::new();
    bench.step(Input::LinkUp);
    let xid = bench.xid();
    bench.answer(Kind::Offer, xid, 3600);
    let mut kinds = Vec::new();
    for _ in 0..6 {
        bench.tick();
        kinds.push(bench.asked().map(|(kind, _)| kind));
    }
    assert_eq!(kinds, [3, 3, 3, 3, 1, 1].map(Some));
    assert_ne!(bench.xid(), xid);
}

#[test]
fn a_refusal_begins_anew_after_a_pause_that_grows() {
    let mut bench = Bench::new();
    bench.step(Input::LinkUp);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let xid = bench.xid();
        bench.answer(Kind::Offer, xid, 3600);
        bench.answer(Kind::Nak, xid, 3600);
        assert!(bench.sent.is_empty() && !bench.client.listens());
        let before = bench.now;
        bench.tick();
        pauses.push((bench.now - before).as_secs_f64().round());
        assert_eq!(bench.asked(), Some((1, BROADCAST)));
    }
    assert!(pauses[0] <= 2.0 && pauses[7] >= 50.0, "{pauses:?}");

    let mut bench = Bench::bind(3600);
    bench.tick();
    let xid = bench.xid();
    bench.answer(Kind::Nak, xid, 3600);
    assert!(
        matches!(&bench.other[..], [Action::Unbind { .. }, Action::Note(_)]),
        "{:?}",
        bench.other
    );
    assert!(bench.client.lease().is_none());
}

#[test]
fn strangers_are_not_heard() {
    let mut bench = Bench::new();
    bench.step(Input::LinkUp);
    let xid = bench.xid();
    let time = 3600_u32.to_be_bytes();
    let good = answer(Kind::Offer, xid, &time);
    let mut other_mac = good.clone();
    other_mac[33] ^= 1;
    for bytes in [
        answer(Kind::Offer, xid ^ 1, &time),
        other_mac,
        answer(Kind::Ack, xid, &time),
        Vec::new(),
    ] {
        bench.step(Input::Packet(&bytes));
        assert!(bench.sent.is_empty() && bench.other.is_empty());
    }
    bench.step(Input::Packet(&good));
    // Another server acknowledges, or refuses, what was asked of the first.
    for kind in [Kind::Ack, Kind::Nak] {
        let options: [(u8, &[u8]); 2] = [(option::SERVER, &[10, 0, 2, 66]), (option::LEASE, &time)];
        bench.step(Input::Packet(&reply(kind, xid, OURS, &options)));
        assert!(
            bench.sent.is_empty() && bench.other.is_empty(),
            "{kind:?}: {:?}",
            bench.other
        );
    }
    bench.step(Input::Packet(&answer(Kind::Ack, xid, &time)));
    bench.find_it_free();
    assert!(bench.client.lease().is_some());
    // Late copies.
    for kind in [Kind::Offer, Kind::Ack, Kind::Nak] {
        bench.step(Input::Packet(&answer(kind, xid, &time)));
        assert!(bench.sent.is_empty() && bench.other.is_empty());
    }
}

#[test]
fn a_useless_offer_is_noted_once_and_the_next_one_taken() {
    let mut bench = Bench::new();
    bench.step(Input::LinkUp);
    let xid = bench.xid();
    bench.answer(Kind::Offer, xid, 0);
    let expected = Action::Note("answer ignored: lease time 0 s is shorter than 10 s".into());
    assert_eq!(bench.other, [expected]);
    bench.answer(Kind::Offer, xid, 0);
    assert!(bench.other.is_empty());
    bench.answer(Kind::Offer, xid, 3600);
    assert_eq!(bench.asked(), Some((3, BROADCAST)));
}

#[test]
fn a_link_that_comes_back_is_asked_anew_and_the_lease_kept_till_then() {
    let mut bench = Bench::bind(3600);
    bench.step(Input::LinkDown);
    assert!(bench.sent.is_empty() && bench.other.is_empty() && bench.client.lease().is_some());
    bench.now += at(10);
    bench.step(Input::LinkUp);
    assert_eq!(bench.asked(), Some((1, BROADCAST)));
    assert_eq!(
        bench.sent[0].0[243..249],
        [50, 4, 10, 0, 2, 15],
        "it would like to keep its address"
    );
    bench.step(Input::LinkUp);
    assert!(bench.sent.is_empty(), "news that is none");
    let xid = bench.xid_of_discover();
    bench.answer(Kind::Offer, xid, 3600);
    bench.answer(Kind::Ack, xid, 3600);
    assert!(matches!(
        &bench.other[..],
        [Action::Bind {
            previous: Some(_),
            ..
        }]
    ));

    // Away for longer than the lease: the address goes when its time is up.
    bench.step(Input::LinkDown);
    bench.tick();
    assert!(
        matches!(&bench.other[..], [Action::Unbind { .. }]),
        "{:?}",
        bench.other
    );
    assert!(bench.sent.is_empty());
    assert_eq!(bench.client.deadline(), None);
}

impl Bench {
    /// Asks again, to see the id of a question that was sent earlier.
    fn xid_of_discover(&mut self) -> u32 {
        self.tick();
        self.xid()
    }
}

/// What the client is given one after the other: datagrams, and nothing for time to pass.
fn seeds() -> Vec<Vec<u8>> {
    let [offer, ack, nak] = [Kind::Offer, Kind::Ack, Kind::Nak].map(|kind| {
        let options: [(u8, &[u8]); 9] = [
            (option::OVERLOAD, &[3]),
            (option::SERVER, &SERVER),
            (option::MASK, &[255, 255, 255, 0]),
            (option::LEASE, &[0, 0, 0, 60]),
            (option::RENEWAL, &[0, 0, 0, 20]),
            (option::REBINDING, &[0, 0, 0, 40]),
            (
                option::ROUTES,
                &[32, 10, 128, 0, 1, 0, 0, 0, 0, 0, 10, 128, 0, 1],
            ),
            (
                option::SEARCH,
                b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04",
            ),
            (option::DNS, &[10, 0, 2, 3, 8, 8, 8, 8]),
        ];
        reply(kind, 0, OURS, &options)
    });
    let small = answer(Kind::Offer, 0, &[0, 0, 14, 16]);
    let (offer, ack, nak, small) = (&offer[..], &ack[..], &nak[..], &small[..]);
    let tick: &[u8] = b"";
    let exchanges: [&[&[u8]]; 5] = [
        &[offer],
        &[small, ack],
        &[offer, ack, tick, tick, tick, tick, ack],
        &[offer, nak, tick, offer, tick, ack],
        &[offer, ack, tick, tick, tick, tick, nak, tick, tick, tick],
    ];
    exchanges.map(slipform_fuzz::framed).to_vec()
}

/// Mutated exchanges: nothing panics, nothing useless is bound, and no answer makes the
/// client talk more than it would by itself.
#[test]
fn mutated_answers_do_no_harm() {
    let mut bound = 0_u64;
    slipform_fuzz::fuzz(&seeds(), |bytes, random| {
        let mut bench = Bench::new();
        bench.step(Input::LinkUp);
        let (mut xid, mut messages, mut rounds) = (bench.xid(), 1, 0);
        for piece in slipform_fuzz::frames(bytes).take(64) {
            rounds += 1;
            let mut datagram = piece.to_vec();
            // Else hardly one would be an answer.
            if let Some(place) = datagram.get_mut(4..8) {
                place.copy_from_slice(&xid.to_be_bytes());
            }
            if piece.is_empty() {
                bench.now = bench.client.deadline().unwrap_or(bench.now).max(bench.now);
                bench.step(Input::Tick);
            } else {
                bench.step(Input::Packet(&datagram));
            }
            for action in &bench.other {
                if let Action::Bind { lease, .. } = action {
                    bound += 1;
                    check(lease);
                }
            }
            messages += bench.sent.len();
            if !bench.sent.is_empty() {
                xid = bench.xid();
            }
            let wrapped = ip::wrap(Ipv4Addr::UNSPECIFIED, &datagram);
            let _ = ip::unwrap(&wrapped[..random.below(wrapped.len() + 1)]);
            let _ = ip::unwrap(piece);
        }
        assert!(
            messages <= rounds + 1,
            "{messages} messages in {rounds} rounds"
        );
    });
    assert!(bound > 0, "none got as far as a lease");
}

fn check(lease: &Lease) {
    assert!((4..=32).contains(&lease.prefix), "{lease:?}");
    assert!(
        !lease.address.is_unspecified()
            && !lease.address.is_multicast()
            && !lease.address.is_loopback()
    );
    assert!(
        lease.seconds.is_none_or(|seconds| seconds >= 10),
        "{lease:?}"
    );
    assert!(lease.renew <= lease.rebind, "{lease:?}");
    assert!(
        lease.routes.len() <= 16 && lease.dns.len() <= 3 && lease.search.len() <= 6,
        "{lease:?}"
    );
    assert!(
        lease
            .search
            .iter()
            .all(|name| crate::net::resolv::is_domain(name)),
        "{lease:?}"
    );
}

/// Bytes without any form.
#[test]
fn noise_is_no_reply() {
    let mut random = slipform_fuzz::Random::new(7);
    for length in 0..1600 {
        let bytes: Vec<u8> = (0..length).map(|_| random.byte()).collect();
        assert!(Reply::parse(&bytes).is_err());
        let _ = ip::unwrap(&bytes);
    }
}
