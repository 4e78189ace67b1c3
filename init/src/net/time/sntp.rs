//! The client of the Simple Network Time Protocol (RFC 4330; packets RFC 5905 section 7.3),
//! pure, on clocks from outside.
//!
//! ```text
//! 0 LI(2) VN(3) mode(3)  1 stratum  2 poll  3 precision  4 root delay  8 root dispersion
//! 12 reference id  16 reference  24 origin  32 receive  40 transmit      timestamps 64 bits
//! ```
//!
//! The first answer sets the clock (a step, where it is off by more than a tenth of a
//! second), later ones slew it, so that a service sees no jump. A clock that is far off
//! after that (a machine that slept) is stepped once two answers in a row say so.
//! Our transmit time in the question is a random number: whoever cannot read the question
//! cannot answer it.

use std::net::IpAddr;
use std::time::Duration;

/// Length of a packet without extensions.
pub(crate) const PACKET: usize = 48;
/// Seconds from 1900 to 1970.
const EPOCH: i64 = 2_208_988_800;
/// One era of the 32 bit seconds.
const ERA: i64 = 1 << 32;
/// How long an answer is awaited.
const PATIENCE: Duration = Duration::from_secs(3);
/// First pause after a failure; it doubles up to [`PAUSE_CAP`].
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_CAP: Duration = Duration::from_secs(64);
/// Pause after a good answer; it doubles up to [`POLL_CAP`].
const POLL_FIRST: Duration = Duration::from_secs(64);
const POLL_CAP: Duration = Duration::from_secs(1024);
/// Nanoseconds that the first answer may find without a step.
const SMALL: i128 = 100_000_000;
/// Nanoseconds that are never slewed: it would take hours.
const FAR: i128 = 10_000_000_000;
/// An answer that was longer on its way says little.
const DELAY_MAX: i128 = 2_000_000_000;
const NANOS: i128 = 1_000_000_000;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask this server (port 123).
    Ask(IpAddr, [u8; PACKET]),
    /// Add so many nanoseconds to the clock, at once or by and by.
    Adjust {
        /// What is to be added.
        nanos: i128,
        /// At once.
        step: bool,
        /// Who says so.
        server: IpAddr,
    },
}

#[derive(Debug)]
struct Asked {
    cookie: u64,
    /// CLOCK_MONOTONIC and CLOCK_REALTIME (nanoseconds since 1970) of the question.
    at: Duration,
    wall: i128,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Sntp {
    servers: Vec<IpAddr>,
    current: usize,
    random: u64,
    /// No answer before this time is believed: seconds since 1970.
    floor: i64,
    asked: Option<Asked>,
    next: Option<Duration>,
    failures: u32,
    poll: Duration,
    /// The clock was right once.
    synchronised: bool,
    /// The last answer found the clock far off.
    far: bool,
}

impl Sntp {
    /// Asks nobody until there are servers.
    pub(crate) fn new(floor: i64, seed: u64) -> Sntp {
        Sntp {
            servers: Vec::new(),
            current: 0,
            random: seed,
            floor,
            asked: None,
            next: None,
            failures: 0,
            poll: POLL_FIRST,
            synchronised: false,
            far: false,
        }
    }

    /// Asks these servers, the first as long as it answers.
    pub(crate) fn servers(&mut self, now: Duration, servers: Vec<IpAddr>) {
        if servers == self.servers {
            return;
        }
        self.servers = servers;
        (self.current, self.failures, self.asked) = (0, 0, None);
        self.next = (!self.servers.is_empty()).then_some(now);
    }

    /// When it wants a tick.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.next
    }

    /// Whom it asks.
    fn server(&self) -> Option<IpAddr> {
        self.servers.get(self.current).copied()
    }

    /// Time has passed; `wall` is CLOCK_REALTIME in nanoseconds since 1970.
    pub(crate) fn tick(&mut self, now: Duration, wall: i128) -> Option<Action> {
        if self.next.is_none_or(|next| now < next) {
            return None;
        }
        if self.asked.take().is_some() {
            self.failed(now);
            return None;
        }
        let server = self.server()?;
        let cookie = self.roll();
        self.asked = Some(Asked {
            cookie,
            at: now,
            wall,
        });
        self.next = Some(now.saturating_add(PATIENCE));
        let mut packet = [0; PACKET];
        // Version 4, client.
        packet[0] = 4 << 3 | 3;
        packet[40..].copy_from_slice(&cookie.to_be_bytes());
        Some(Action::Ask(server, packet))
    }

    /// The question could not be sent, or came back.
    pub(crate) fn unreachable(&mut self, now: Duration) {
        if self.asked.take().is_some() {
            self.failed(now);
        }
    }

    /// An answer of the current server.
    pub(crate) fn packet(&mut self, now: Duration, packet: &[u8]) -> Option<Action> {
        let asked = self.asked.as_ref()?;
        let server = self.servers.get(self.current).copied()?;
        // Not an answer to this question: whoever sent it, the right one may still come.
        if packet.len() < PACKET || stamp(packet, 24)? != asked.cookie || packet[0] & 7 != 4 {
            return None;
        }
        let offset = self.offset(asked, now, packet);
        self.asked = None;
        let Some(nanos) = offset else {
            self.failed(now);
            return None;
        };
        self.failures = 0;
        self.next = Some(now.saturating_add(self.poll));
        self.poll = (self.poll * 2).min(POLL_CAP);
        let size = nanos.abs();
        let again = std::mem::replace(&mut self.far, size > FAR);
        if self.synchronised && size > FAR && !again {
            // Once is chance: ask again soon.
            self.next = Some(now.saturating_add(PAUSE_FIRST));
            return None;
        }
        let step = size > FAR || !self.synchronised && size > SMALL;
        self.synchronised = true;
        if step {
            self.far = false;
        }
        Some(Action::Adjust {
            nanos,
            step,
            server,
        })
    }

    /// What is to be added to the clock, in nanoseconds; `None` for an answer that no
    /// clock should be set by.
    fn offset(&self, asked: &Asked, now: Duration, packet: &[u8]) -> Option<i128> {
        let (first, stratum) = (*packet.first()?, *packet.get(1)?);
        // A server that is not synchronised says so; stratum 0 is a refusal ("kiss of death").
        if first >> 6 == 3 || !(3..=4).contains(&(first >> 3 & 7)) || !(1..=15).contains(&stratum) {
            return None;
        }
        let (receive, transmit) = (
            self.time(stamp(packet, 32)?)?,
            self.time(stamp(packet, 40)?)?,
        );
        // The monotonic clock tells how long it took, whatever happens to the other.
        let round = now.checked_sub(asked.at)?.as_nanos() as i128;
        let delay = round - (transmit - receive);
        if transmit < receive || !(-NANOS / 100..=DELAY_MAX).contains(&delay) {
            return None;
        }
        Some(((receive - asked.wall) + (transmit - (asked.wall + round))) / 2)
    }

    /// Nanoseconds since 1970; the era is the one that does not lie before the floor.
    fn time(&self, stamp: u64) -> Option<i128> {
        if stamp == 0 {
            return None;
        }
        let mut seconds = (stamp >> 32) as i64 - EPOCH;
        while seconds < self.floor {
            seconds = seconds.checked_add(ERA)?;
        }
        let fraction = (i128::from(stamp & 0xffff_ffff) * NANOS) >> 32;
        // More than a century ahead is an answer from before the floor.
        (seconds - self.floor < ERA / 2).then_some(i128::from(seconds) * NANOS + fraction)
    }

    fn failed(&mut self, now: Duration) {
        let pause = PAUSE_FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(PAUSE_CAP);
        self.failures = self.failures.saturating_add(1);
        self.current = (self.current + 1) % self.servers.len().max(1);
        self.poll = POLL_FIRST;
        self.next = (!self.servers.is_empty()).then(|| now.saturating_add(pause));
    }

    /// splitmix64.
    fn roll(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn stamp(packet: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(packet.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    const FLOOR: i64 = 1_790_000_000;
    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// A timestamp of nanoseconds since 1970.
    fn ntp(nanos: i128) -> [u8; 8] {
        let seconds = (nanos / NANOS) as i64 + EPOCH;
        let fraction = ((nanos % NANOS) << 32) / NANOS;
        ((seconds as u64) << 32 | fraction as u64).to_be_bytes()
    }

    fn reply(question: &[u8; PACKET], at: i128) -> [u8; PACKET] {
        let mut packet = [0; PACKET];
        (packet[0], packet[1]) = (4 << 3 | 4, 2);
        packet[24..32].copy_from_slice(&question[40..]);
        packet[32..40].copy_from_slice(&ntp(at));
        packet[40..].copy_from_slice(&ntp(at));
        packet
    }

    /// Asks at `now` with a clock that is `wrong` nanoseconds behind; 20 ms there and back.
    fn ask(client: &mut Sntp, now: Duration, wrong: i128) -> Option<Action> {
        let truth = i128::from(FLOOR) * NANOS + now.as_nanos() as i128;
        let Some(Action::Ask(_, question)) = client.tick(now, truth - wrong) else {
            panic!("no question at {now:?}")
        };
        let answer = reply(&question, truth + 10_000_000);
        client.packet(now + Duration::from_millis(20), &answer)
    }

    fn client() -> Sntp {
        let mut client = Sntp::new(FLOOR, 1);
        client.servers(Duration::ZERO, vec![SERVER, OTHER]);
        client
    }

    #[test]
    fn the_first_answer_steps_and_later_ones_slew() {
        let mut client = client();
        let Some(Action::Adjust {
            nanos,
            step: true,
            server: SERVER,
        }) = ask(&mut client, seconds(1), 5 * NANOS)
        else {
            panic!("no step")
        };
        assert!((nanos - 5 * NANOS).abs() < 1000, "{nanos}");
        let next = client.deadline().unwrap();
        assert_eq!(next, seconds(65) + Duration::from_millis(20));
        let Some(Action::Adjust {
            nanos, step: false, ..
        }) = ask(&mut client, next, -3 * NANOS)
        else {
            panic!("no slew")
        };
        assert!((nanos + 3 * NANOS).abs() < 1000, "{nanos}");
        assert_eq!(
            client.deadline().unwrap() - next,
            seconds(128) + Duration::from_millis(20)
        );
    }

    #[test]
    fn a_good_clock_is_not_stepped_and_a_far_one_only_when_it_is_said_twice() {
        let mut client = client();
        let first = ask(&mut client, seconds(1), 1_000_000);
        assert!(matches!(first, Some(Action::Adjust { step: false, .. })));
        let at = client.deadline().unwrap();
        assert_eq!(ask(&mut client, at, 3600 * NANOS), None);
        let at = client.deadline().unwrap();
        let again = ask(&mut client, at, 3600 * NANOS);
        assert!(
            matches!(again, Some(Action::Adjust { step: true, .. })),
            "{again:?}"
        );
    }

    #[test]
    fn silence_goes_to_the_next_server_with_growing_pauses() {
        let mut client = client();
        let mut asked = Vec::new();
        let mut now = seconds(1);
        for _ in 0..20 {
            if let Some(Action::Ask(server, _)) = client.tick(now, 0) {
                asked.push((server, now.as_secs()));
            }
            now = client.deadline().unwrap();
        }
        assert_eq!(asked[..3], [(SERVER, 1), (OTHER, 5), (SERVER, 10)]);
        let last = asked[asked.len() - 1].1 - asked[asked.len() - 2].1;
        assert_eq!(last, 67);
    }

    #[test]
    fn what_no_clock_should_be_set_by_is_not_believed() {
        let truth = i128::from(FLOOR) * NANOS;
        let question = |client: &mut Sntp| match client.tick(seconds(1), truth) {
            Some(Action::Ask(_, question)) => question,
            other => panic!("{other:?}"),
        };
        type Spoil = fn(&mut [u8; PACKET]);
        let spoil: [(&str, Spoil); 7] = [
            ("not synchronised", |packet| packet[0] |= 0xc0),
            ("kiss of death", |packet| packet[1] = 0),
            ("stratum 16", |packet| packet[1] = 16),
            ("version 1", |packet| packet[0] = 1 << 3 | 4),
            ("no time", |packet| packet[40..].fill(0)),
            ("backwards", |packet| {
                packet[32] = packet[32].wrapping_add(1);
            }),
            ("before the floor", |packet| {
                packet[32..40].copy_from_slice(&ntp(i128::from(FLOOR - 1000) * NANOS));
            }),
        ];
        for (name, spoil) in spoil {
            let mut client = client();
            let mut packet = reply(&question(&mut client), truth);
            spoil(&mut packet);
            assert_eq!(client.packet(seconds(1), &packet), None, "{name}");
            assert!(client.asked.is_none(), "{name}");
        }
        // Of somebody who did not see the question: the right answer still counts.
        let mut client = client();
        let question = question(&mut client);
        let mut forged = reply(&question, truth);
        forged[24] ^= 1;
        assert_eq!(client.packet(seconds(1), &forged), None);
        assert_eq!(client.packet(seconds(1), &question), None);
        assert!(
            client
                .packet(seconds(1), &reply(&question, truth))
                .is_some()
        );
    }

    #[test]
    fn the_era_after_2036_is_understood() {
        let client = Sntp::new(FLOOR, 1);
        let later = i128::from(FLOOR + 700_000_000) * NANOS;
        let seconds = ((later / NANOS) as i64 + EPOCH) as u64 & 0xffff_ffff;
        assert_eq!(client.time(seconds << 32), Some(later));
    }

    #[test]
    fn no_packet_breaks_it() {
        let mut probe = client();
        let Some(Action::Ask(_, question)) = probe.tick(seconds(1), 0) else {
            panic!("no question")
        };
        fuzz(
            &[&reply(&question, i128::from(FLOOR) * NANOS)],
            |bytes, random| {
                let mut client = client();
                client.tick(seconds(1), 0);
                let length = random.below(PACKET + 1).min(bytes.len());
                client.packet(seconds(2), &bytes[..length]);
            },
        );
    }
}
