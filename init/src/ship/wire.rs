//! A socket as the state machines see it; the tests have one of their own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use crate::sys::{host, net};

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// A connection, at most one at a time. Nothing blocks: what cannot be done now is
/// [`ErrorKind::WouldBlock`].
pub(crate) trait Wire {
    /// Another one, closed.
    fn sibling(&self) -> Self;
    /// Begins a connection; an older one is closed.
    fn connect(&mut self, to: SocketAddr, transport: Transport) -> io::Result<()>;
    /// Whether it stands.
    fn connected(&mut self) -> io::Result<bool>;
    /// Hands bytes to the kernel: some of a stream, or one whole datagram.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Takes what has come; 0 of a stream is its end.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Bytes that the peer's kernel has not confirmed yet.
    fn unconfirmed(&self) -> usize;
    /// Ends it.
    fn close(&mut self);
    /// To poll.
    fn fd(&self) -> Option<RawFd>;
    /// To poll until it stands, and for what.
    fn connecting(&self) -> Option<(RawFd, i16)> {
        Some((self.fd()?, libc::POLLOUT))
    }
}

/// Whether this error only means: later.
pub(crate) fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The real one.
#[derive(Debug, Default)]
pub(crate) enum Socket {
    /// None.
    #[default]
    Closed,
    /// TCP.
    Stream(TcpStream),
    /// UDP, connected: only the peer's datagrams come in.
    Datagram(UdpSocket),
}

impl Wire for Socket {
    fn sibling(&self) -> Self {
        Self::Closed
    }

    fn connect(&mut self, to: SocketAddr, transport: Transport) -> io::Result<()> {
        *self = Self::Closed;
        *self = match transport {
            Transport::Stream => Self::Stream(net::connect(to)?),
            Transport::Datagram => {
                let any: SocketAddr = match to {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                // The kernel draws the port: half of what makes forging an answer hard.
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                socket.connect(to)?;
                Self::Datagram(socket)
            }
        };
        Ok(())
    }

    fn connected(&mut self) -> io::Result<bool> {
        match self {
            Self::Closed => Err(ErrorKind::NotConnected.into()),
            Self::Datagram(_) => Ok(true),
            Self::Stream(stream) => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                match stream.peer_addr() {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Closed => Err(ErrorKind::NotConnected.into()),
            Self::Stream(stream) => stream.write(bytes),
            Self::Datagram(socket) => socket.send(bytes),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Closed => Err(ErrorKind::NotConnected.into()),
            Self::Stream(stream) => stream.read(buffer),
            Self::Datagram(socket) => socket.recv(buffer),
        }
    }

    fn unconfirmed(&self) -> usize {
        match self {
            // SIOCOUTQ, which is TIOCOUTQ's number: sent or not, but not acknowledged (tcp(7)).
            Self::Stream(stream) => host::terminal_backlog(stream.as_fd()).unwrap_or(0),
            _ => 0,
        }
    }

    fn close(&mut self) {
        *self = Self::Closed;
    }

    fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Closed => None,
            Self::Stream(stream) => Some(stream.as_raw_fd()),
            Self::Datagram(socket) => Some(socket.as_raw_fd()),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A network in memory: peers are closures' worth of state that tests look into.

    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use super::*;

    /// What every wire of a test shares.
    #[derive(Debug, Default)]
    pub(crate) struct World {
        /// Addresses that accept connections.
        pub(crate) listening: Vec<SocketAddr>,
        /// Addresses whose packets vanish.
        pub(crate) silent: Vec<SocketAddr>,
        /// All that was sent, by connection.
        pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
        /// What the next `receive` of the newest connection to an address gets.
        pub(crate) answers: VecDeque<(SocketAddr, Vec<u8>)>,
        /// Bytes that a stream's buffer takes until it is confirmed.
        pub(crate) window: usize,
        /// Bytes not confirmed.
        pub(crate) unconfirmed: usize,
        /// Streams end at the next look.
        pub(crate) cut: bool,
        /// Connections begun.
        pub(crate) connects: usize,
    }

    /// A wire of the test's network.
    #[derive(Debug, Clone)]
    pub(crate) struct Fake {
        pub(crate) world: Rc<RefCell<World>>,
        to: Option<(SocketAddr, Transport)>,
        number: usize,
    }

    impl Fake {
        /// A network where nobody listens.
        pub(crate) fn new() -> Self {
            let world = World {
                window: usize::MAX,
                ..World::default()
            };
            Self {
                world: Rc::new(RefCell::new(world)),
                to: None,
                number: 0,
            }
        }

        /// All that was sent to `to`.
        pub(crate) fn got(&self, to: SocketAddr) -> Vec<u8> {
            let world = self.world.borrow();
            let sent = world.sent.iter().filter(|(address, _)| *address == to);
            sent.flat_map(|(_, bytes)| bytes.clone()).collect()
        }
    }

    impl Wire for Fake {
        fn sibling(&self) -> Self {
            Self {
                world: Rc::clone(&self.world),
                to: None,
                number: 0,
            }
        }

        fn connect(&mut self, to: SocketAddr, transport: Transport) -> io::Result<()> {
            let mut world = self.world.borrow_mut();
            world.connects += 1;
            world.cut = false;
            world.unconfirmed = 0;
            self.to = Some((to, transport));
            world.sent.push((to, Vec::new()));
            self.number = world.sent.len() - 1;
            Ok(())
        }

        fn connected(&mut self) -> io::Result<bool> {
            let world = self.world.borrow();
            let Some((to, transport)) = self.to else {
                return Err(ErrorKind::NotConnected.into());
            };
            if world.silent.contains(&to) {
                return Ok(false);
            }
            if transport == Transport::Datagram || world.listening.contains(&to) {
                return Ok(true);
            }
            Err(ErrorKind::ConnectionRefused.into())
        }

        fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut world = self.world.borrow_mut();
            let Some((to, transport)) = self.to else {
                return Err(ErrorKind::NotConnected.into());
            };
            if transport == Transport::Datagram {
                world.sent.push((to, bytes.to_vec()));
                return Ok(bytes.len());
            }
            let count = bytes
                .len()
                .min(world.window - world.unconfirmed.min(world.window));
            if count == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            if world.window != usize::MAX {
                world.unconfirmed += count;
            }
            match world.sent.get_mut(self.number) {
                Some((_, sent)) => sent.extend_from_slice(&bytes[..count]),
                // The test has cleared what it has seen.
                None => world.sent.push((to, bytes[..count].to_vec())),
            }
            Ok(count)
        }

        fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let mut world = self.world.borrow_mut();
            let Some((to, transport)) = self.to else {
                return Err(ErrorKind::NotConnected.into());
            };
            if transport == Transport::Stream && world.cut {
                return Ok(0);
            }
            let Some(index) = world.answers.iter().position(|(from, _)| *from == to) else {
                return Err(ErrorKind::WouldBlock.into());
            };
            let (_, mut bytes) = world.answers.remove(index).expect("found");
            let count = bytes.len().min(buffer.len());
            buffer[..count].copy_from_slice(&bytes[..count]);
            if transport == Transport::Stream && count < bytes.len() {
                world.answers.push_front((to, bytes.split_off(count)));
            }
            Ok(count)
        }

        fn unconfirmed(&self) -> usize {
            self.world.borrow().unconfirmed
        }

        fn close(&mut self) {
            self.to = None;
        }

        fn fd(&self) -> Option<RawFd> {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_real_stream_confirms_what_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = Socket::default();
        assert_eq!(
            socket.send(b"x").unwrap_err().kind(),
            ErrorKind::NotConnected
        );
        let to = listener.local_addr().unwrap();
        socket.connect(to, Transport::Stream).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while !socket.connected().unwrap() {
            assert!(Instant::now() < end);
        }
        assert_eq!(socket.send(b"hello").unwrap(), 5);
        let mut buffer = [0; 5];
        peer.read_exact(&mut buffer).unwrap();
        while socket.unconfirmed() > 0 {
            assert!(Instant::now() < end);
        }
        let later = socket.receive(&mut buffer).unwrap_err();
        assert!(is_later(&later));
        drop(peer);
        while socket.receive(&mut buffer).is_err() {
            assert!(Instant::now() < end);
        }
        socket.close();
        assert_eq!(socket.fd(), None);
    }

    #[test]
    fn a_refusal_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        let mut socket = Socket::default();
        let decided = socket
            .connect(to, Transport::Stream)
            .and_then(|()| socket.connected());
        assert!(decided.is_err());
    }
}
