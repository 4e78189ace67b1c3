//! The machine's clock, kept right over the network: the socket and the system calls
//! around the pure [`sntp::Sntp`].

mod sntp;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::MetadataSource;

use crate::sys::{clock, poll};
use crate::turn::{Turn, Watched};
use sntp::{Action, PACKET, Sntp};

/// SNTP's port.
const PORT: u16 = 123;
/// Packets that one turn takes.
const PER_TURN: usize = 8;

/// The clock of a cloud, where it has one of its own at a fixed address.
fn of_cloud(source: MetadataSource) -> Option<IpAddr> {
    match source {
        // Amazon Time Sync Service.
        MetadataSource::Ec2 => Some(Ipv4Addr::new(169, 254, 169, 123).into()),
        // metadata.google.internal.
        MetadataSource::Gce => Some(Ipv4Addr::new(169, 254, 169, 254).into()),
        _ => None,
    }
}

/// The clock as a part of the event loop.
#[derive(Debug)]
pub(crate) struct Time {
    client: Sntp,
    port: u16,
    /// The image's own servers: they alone count.
    fixed: Vec<IpAddr>,
    cloud: Option<IpAddr>,
    leased: Vec<IpAddr>,
    socket: Option<UdpSocket>,
    /// The next adjustment is worth a line.
    quiet: bool,
}

impl Time {
    /// Servers of the image, or (with none) whatever the cloud and DHCP name. No time
    /// before `floor` (seconds since 1970) is believed.
    pub(crate) fn new(fixed: Vec<IpAddr>, floor: i64, seed: u64) -> Time {
        Time {
            client: Sntp::new(floor, seed),
            port: PORT,
            fixed,
            cloud: None,
            leased: Vec::new(),
            socket: None,
            quiet: false,
        }
    }

    /// Begins.
    pub(crate) fn start(&mut self, turn: &mut Turn<'_>) {
        self.choose(turn.now);
    }

    /// The machine knows its cloud.
    pub(crate) fn in_cloud(&mut self, sources: &[MetadataSource], turn: &mut Turn<'_>) {
        self.cloud = sources.iter().copied().find_map(of_cloud);
        self.choose(turn.now);
    }

    /// DHCP names these servers.
    pub(crate) fn leased(&mut self, servers: &[Ipv4Addr], now: Duration) {
        let servers: Vec<IpAddr> = servers.iter().copied().map(IpAddr::V4).collect();
        if servers != self.leased {
            self.leased = servers;
            self.choose(now);
        }
    }

    fn choose(&mut self, now: Duration) {
        let servers = match (&self.fixed[..], self.cloud) {
            ([], Some(cloud)) => vec![cloud],
            ([], None) => self.leased.clone(),
            (fixed, _) => fixed.to_vec(),
        };
        self.client.servers(now, servers);
    }

    fn act(&mut self, action: Option<&Action>, turn: &mut Turn<'_>) {
        match action {
            Some(Action::Ask(server, packet)) => {
                self.socket = ask((*server, self.port).into(), packet).ok();
                if self.socket.is_none() {
                    self.client.unreachable(turn.now);
                }
            }
            Some(Action::Adjust {
                nanos,
                step,
                server,
            }) => {
                self.socket = None;
                self.adjust(*nanos, *step, *server, turn);
            }
            None => {}
        }
    }

    fn adjust(&mut self, nanos: i128, step: bool, server: IpAddr, turn: &mut Turn<'_>) {
        let result = match step {
            true => clock::step(nanos),
            false => clock::slew(nanos),
        };
        if let Err(error) = result {
            turn.report.event(Event::Error {
                phase: Phase::Network,
                what: format!("adjust the clock by {} ms", nanos / 1_000_000),
                why: error.to_string(),
            });
        } else if step || !self.quiet {
            self.quiet = true;
            turn.report.event(Event::Clock {
                server: server.to_string(),
                microseconds: i64::try_from(nanos / 1000).unwrap_or(i64::MAX),
                step,
            });
        }
    }
}

/// A socket for one question: a port of its own, and only answers of that server.
fn ask(to: SocketAddr, packet: &[u8; PACKET]) -> std::io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    socket.send(packet)?;
    Ok(socket)
}

impl Watched for Time {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        let socket = self.socket.iter();
        out.extend(socket.map(|socket| poll::entry(socket.as_raw_fd(), libc::POLLIN)));
    }

    fn ready(&mut self, _fd: RawFd, turn: &mut Turn<'_>) {
        let mut buffer = [0; 512];
        for _ in 0..PER_TURN {
            let Some(received) = self.socket.as_ref().map(|socket| socket.recv(&mut buffer)) else {
                return;
            };
            match received {
                Ok(count) => {
                    let action = self.client.packet(turn.now, &buffer[..count]);
                    self.act(action.as_ref(), turn);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Port unreachable.
                Err(_) => {
                    self.socket = None;
                    return self.client.unreachable(turn.now);
                }
            }
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.client.deadline()
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        let action = self.client.tick(turn.now, clock::wall_nanos());
        if action.is_none() && self.client.deadline().is_some_and(|at| at > turn.now) {
            return;
        }
        self.act(action.as_ref(), turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl crate::turn::Report for Nobody {
        fn event(&mut self, _event: Event) {}
    }

    /// A real socket on both sides; the clock itself is not touched.
    #[test]
    fn a_question_reaches_a_server_and_its_answer_comes_back() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut time = Time::new(vec![Ipv4Addr::LOCALHOST.into()], 0, 7);
        time.port = server.local_addr().unwrap().port();
        let mut turn = Turn {
            now: clock::monotonic(),
            report: &mut Nobody,
        };
        time.start(&mut turn);
        time.tick(&mut turn);
        let mut packet = [0; 100];
        let (count, from) = server.recv_from(&mut packet).unwrap();
        assert_eq!((count, packet[0]), (PACKET, 0x23));
        // A refusal: nothing to adjust, and the next question comes later.
        let mut answer = packet;
        (answer[0], answer[1]) = (4 << 3 | 4, 0);
        answer.copy_within(40..48, 24);
        server.send_to(&answer[..PACKET], from).unwrap();
        let mut fds = Vec::new();
        time.fds(&mut fds);
        poll::wait(&mut fds, Some(Duration::from_secs(5))).unwrap();
        time.ready(fds[0].fd, &mut turn);
        assert!(time.deadline().unwrap() <= turn.now + Duration::from_secs(1));
    }

    #[test]
    fn the_images_servers_go_before_the_clouds_and_those_before_dhcps() {
        let mut turn = Turn {
            now: Duration::from_secs(1),
            report: &mut Nobody,
        };
        let mut time = Time::new(Vec::new(), 0, 7);
        time.start(&mut turn);
        assert_eq!(time.deadline(), None);
        time.leased(&[Ipv4Addr::new(192, 0, 2, 9)], turn.now);
        assert!(time.deadline().is_some());
        time.in_cloud(&[MetadataSource::FwCfg, MetadataSource::Ec2], &mut turn);
        let Some(Action::Ask(server, _)) = time.client.tick(turn.now, 0) else {
            panic!("no question")
        };
        assert_eq!(server.to_string(), "169.254.169.123");
    }
}
