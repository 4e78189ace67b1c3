//! A wire inside TLS. init connects by TCP and hands the connection to a child without
//! rights, which speaks TLS (`slipform_tls`, in the init of an image that asks for it);
//! init itself sees plain bytes on a local socket, and parses nothing of the peer's.
//!
//! The child takes a byte out of the local socket only when TCP has what became of it. So
//! what waits in one of the two sockets is not confirmed, and everything else is.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use slipform_init::contract::machine::Service;
use slipform_init::contract::service::Sandbox;
use slipform_init::contract::telemetry::CERTIFICATES;

use super::wire::{Socket, Transport, Wire, is_later};
use crate::sys::host;
use crate::sys::process::{self, Child, Extra, Failure, Handed, Handle, Program};

/// First argument of the child.
pub(crate) const ROLE: &str = "tls";
/// What the child says when the receiver has proved who it is.
const READY: &[u8] = b"ready\n";
/// Nobody's user and group id (Debian's `nobody` and `nogroup`).
const NOBODY: u32 = 65534;
/// What the child may take: RLIMIT_AS and RLIMIT_NOFILE of asm-generic/resource.h.
const LIMITS: [(u32, u64); 2] = [(9, 64 << 20), (7, 16)];
/// Longest reason that is told.
const REASON_MAX: u64 = 512;

/// A wire that may be either.
#[derive(Debug)]
pub(crate) enum Line {
    /// As it is.
    Plain(Socket),
    /// Inside TLS.
    Secure(Box<Secure>),
}

impl Line {
    /// A closed one, to `host`.
    pub(crate) fn new(host: &str, tls: bool) -> Self {
        if tls {
            Self::Secure(Box::new(Secure {
                host: host.to_owned(),
                tcp: Socket::Closed,
                relay: None,
                last: None,
            }))
        } else {
            Self::Plain(Socket::Closed)
        }
    }
}

impl Wire for Line {
    /// For names: a resolver is asked as ever.
    fn sibling(&self) -> Self {
        Self::Plain(Socket::Closed)
    }

    fn connect(&mut self, to: SocketAddr, transport: Transport) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.connect(to, transport),
            Self::Secure(secure) => secure.connect(to, transport),
        }
    }

    fn connected(&mut self) -> io::Result<bool> {
        match self {
            Self::Plain(socket) => socket.connected(),
            Self::Secure(secure) => secure.connected(),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.send(bytes),
            Self::Secure(secure) => secure.relay()?.inside.write(bytes),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.receive(buffer),
            Self::Secure(secure) => secure.receive(buffer),
        }
    }

    fn unconfirmed(&self) -> usize {
        match self {
            Self::Plain(socket) => socket.unconfirmed(),
            Self::Secure(secure) => secure.unconfirmed(),
        }
    }

    fn close(&mut self) {
        match self {
            Self::Plain(socket) => socket.close(),
            Self::Secure(secure) => secure.close(),
        }
    }

    fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Plain(socket) => socket.fd(),
            Self::Secure(secure) => Some(secure.relay.as_ref()?.inside.as_raw_fd()),
        }
    }

    fn connecting(&self) -> Option<(RawFd, i16)> {
        match self {
            Self::Plain(socket) => socket.connecting(),
            Self::Secure(secure) => match &secure.relay {
                None => secure.tcp.connecting(),
                Some(relay) => Some((relay.said.as_raw_fd(), libc::POLLIN)),
            },
        }
    }
}

/// A connection inside TLS.
#[derive(Debug)]
pub(crate) struct Secure {
    /// Whose certificate it must be.
    host: String,
    tcp: Socket,
    relay: Option<Relay>,
    /// The child of the last connection; it may be saying goodbye still.
    last: Option<Handle>,
}

/// The child, from init's side.
#[derive(Debug)]
struct Relay {
    inside: UnixStream,
    /// Its standard output and error, and whether it came to be at all.
    said: File,
    reason: File,
    outcome: File,
    heard: Vec<u8>,
    child: Handle,
    program: Program,
}

impl Secure {
    fn connect(&mut self, to: SocketAddr, transport: Transport) -> io::Result<()> {
        self.close();
        // It has had its time.
        if let Some(last) = self.last.take() {
            last.kill();
        }
        self.tcp.connect(to, transport)
    }

    fn connected(&mut self) -> io::Result<bool> {
        let Some(relay) = &mut self.relay else {
            if self.tcp.connected()? {
                self.relay = Some(Relay::start(&self.host, &self.tcp)?);
            }
            return Ok(false);
        };
        let mut buffer = [0; READY.len()];
        while relay.heard != READY {
            match relay.said.read(&mut buffer[relay.heard.len()..]) {
                Ok(0) => return Err(relay.reason("it ended without a word")),
                Ok(count) => {
                    let from = relay.heard.len();
                    relay.heard.extend_from_slice(&buffer[from..from + count]);
                }
                Err(error) if is_later(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn relay(&mut self) -> io::Result<&mut Relay> {
        self.relay
            .as_mut()
            .ok_or_else(|| ErrorKind::NotConnected.into())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let relay = self.relay()?;
        let count = relay.inside.read(buffer)?;
        if count == 0 {
            let reason = relay.reason("");
            if !reason.to_string().is_empty() {
                return Err(reason);
            }
        }
        Ok(count)
    }

    /// Plain bytes in the one socket, and what became of others in the other: more than
    /// the plain bytes that are on the way, and nothing when nothing is.
    fn unconfirmed(&self) -> usize {
        let Some(relay) = &self.relay else { return 0 };
        // First the local one: a byte on its way from there to TCP must not be missed.
        let inside = host::terminal_backlog(relay.inside.as_fd()).unwrap_or(0);
        inside + self.tcp.unconfirmed()
    }

    /// The child sees the end, says goodbye, and goes.
    fn close(&mut self) {
        self.tcp.close();
        if let Some(relay) = self.relay.take() {
            self.last = Some(relay.child);
        }
    }
}

impl Relay {
    fn start(host: &str, tcp: &Socket) -> io::Result<Self> {
        let Socket::Stream(tcp) = tcp else {
            return Err(ErrorKind::NotConnected.into());
        };
        if !cfg!(feature = "tls") {
            return Err(io::Error::other(
                "this init was built without TLS; build the image again",
            ));
        }
        let service = Service {
            name: ROLE.to_owned(),
            // This very program, wherever it was.
            exec: ["/proc/self/exe", ROLE, host, CERTIFICATES]
                .map(str::to_owned)
                .to_vec(),
            uid: NOBODY,
            gid: NOBODY,
            limits: LIMITS.into(),
            sandbox: Sandbox {
                read_only: true,
                ..Sandbox::default()
            },
            ..Service::default()
        };
        let program = Program::new(&service, &Extra::default()).map_err(io::Error::other)?;
        let (inside, other) = UnixStream::pair()?;
        inside.set_nonblocking(true)?;
        let handed = Handed {
            cgroup: None,
            sockets: vec![tcp.as_fd(), other.as_fd()],
        };
        let Child {
            pid,
            stdout,
            stderr,
            outcome,
        } = process::spawn(&program, &handed).map_err(io::Error::other)?;
        Ok(Self {
            inside,
            said: stdout,
            reason: stderr,
            outcome,
            heard: Vec::new(),
            child: Handle::of(pid)?,
            program,
        })
    }

    /// Why it ended, or `otherwise`.
    fn reason(&mut self, otherwise: &str) -> io::Error {
        let mut bytes = Vec::new();
        // What the child says may hold what a stranger's certificate says.
        let _ = (&mut self.reason).take(REASON_MAX).read_to_end(&mut bytes);
        if bytes.is_empty() {
            let _ = (&mut self.outcome).take(REASON_MAX).read_to_end(&mut bytes);
            return io::Error::other(match Failure::decode(&bytes) {
                Some(failure) => failure.describe(&self.program),
                None => otherwise.to_owned(),
            });
        }
        let mut text = String::new();
        for letter in String::from_utf8_lossy(&bytes).trim().chars() {
            let _ = match letter {
                letter if letter.is_control() => write!(text, "{}", letter.escape_default()),
                letter => write!(text, "{letter}"),
            };
        }
        io::Error::other(text)
    }
}

/// What the child does: `arguments` are those behind the program's name. `None` if this
/// is no call for it.
#[cfg(feature = "tls")]
pub(crate) fn serve(arguments: &[String]) -> Option<i32> {
    use std::net::TcpStream;
    use std::path::Path;

    use slipform_tls::{Trust, relay};

    let [role, host, bundle] = arguments else {
        return None;
    };
    if role != ROLE {
        return None;
    }
    process::shun_debuggers();
    // It ends when init lets go of it, after its goodbye (close_notify).
    process::pass_over_term();
    let (Some(tcp), Some(inside)) = (process::inherited(3), process::inherited(4)) else {
        return None;
    };
    let mut stdout = io::stdout();
    let done = Trust::read(Path::new(bundle)).and_then(|trust| {
        relay(
            &trust,
            host,
            TcpStream::from(tcp),
            UnixStream::from(inside),
            &mut stdout,
        )
    });
    match done {
        Ok(()) => Some(0),
        Err(error) => {
            host::write_once(2, error.to_string().as_bytes());
            Some(1)
        }
    }
}
