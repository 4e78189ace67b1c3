//! One connection: bytes from a local socket into TLS, and back. Both sockets are
//! non-blocking, and nothing is held back beyond [`CHUNK`] in each direction.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, recv};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::{TlsError, Trust};

/// What is written to `ready` once the receiver has proved who it is.
pub const READY: &[u8] = b"ready\n";
/// Bytes that are on the way in one direction: as many as a TLS record holds (RFC 8446 section 5.1).
const CHUNK: usize = 16 * 1024;

/// Speaks TLS over `tcp` until one side is done: `inside` carries what is in it. Says
/// [`READY`] once, after the handshake; nothing is read from `inside` before.
///
/// # Errors
/// Every [`TlsError`] but [`TlsError::Bundle`]; the receiver gets the alert that belongs to it.
pub fn relay(
    trust: &Trust,
    host: &str,
    tcp: TcpStream,
    inside: UnixStream,
    ready: &mut dyn Write,
) -> Result<(), TlsError> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
    let connection = ClientConnection::new(trust.0.clone(), name)?;
    for unblocked in [tcp.set_nonblocking(true), inside.set_nonblocking(true)] {
        unblocked.map_err(socket("set a socket non-blocking"))?;
    }
    let mut relay = Relay {
        tcp,
        inside,
        connection,
        peeked: 0,
        back: Vec::new(),
        is_ready: false,
    };
    let result = relay.run(ready);
    // An alert or the goodbye, if there is room for it; nobody waits for it.
    let _ = relay.drain();
    result
}

fn socket(what: &'static str) -> impl Fn(io::Error) -> TlsError {
    move |source| TlsError::Socket { what, source }
}

struct Relay {
    tcp: TcpStream,
    inside: UnixStream,
    connection: ClientConnection,
    /// Bytes that lie in `inside` still, and are on their way through TLS.
    peeked: usize,
    /// What came out of TLS, and `inside` has no room for.
    back: Vec<u8>,
    is_ready: bool,
}

impl Relay {
    fn run(&mut self, ready: &mut dyn Write) -> Result<(), TlsError> {
        loop {
            self.drain().map_err(socket("send"))?;
            self.settle()?;
            if !self.is_ready && !self.connection.is_handshaking() {
                self.is_ready = true;
                ready.write_all(READY).map_err(socket("say ready"))?;
            }
            let (outer, inner) = self.wait()?;
            if !outer.is_empty() && self.connection.wants_read() && !self.take_outer()? {
                return Ok(());
            }
            if !inner.is_empty() && !self.take_inner()? {
                self.connection.send_close_notify();
                return Ok(());
            }
        }
    }

    /// Whether more may come out of `inside`: what came before is TCP's by now.
    fn is_hungry(&self) -> bool {
        self.is_ready && self.peeked == 0 && !self.connection.wants_write()
    }

    fn wait(&self) -> Result<(PollFlags, PollFlags), TlsError> {
        let mut outer = PollFlags::empty();
        // What came before goes first: the receiver is to slow down.
        let reads = self.back.is_empty() && self.connection.wants_read();
        outer.set(PollFlags::IN, reads);
        outer.set(PollFlags::OUT, self.connection.wants_write());
        let mut inner = PollFlags::empty();
        inner.set(PollFlags::IN, self.is_hungry());
        inner.set(PollFlags::OUT, !self.back.is_empty());
        let mut polled = vec![PollFd::from_borrowed_fd(self.inside.as_fd(), inner)];
        // A connection that is gone is told without being asked for, again and again.
        if !outer.is_empty() {
            polled.push(PollFd::from_borrowed_fd(self.tcp.as_fd(), outer));
        }
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(socket("poll")(error.into())),
        }
        let told = |number: usize| {
            polled
                .get(number)
                .map_or(PollFlags::empty(), PollFd::revents)
        };
        Ok((told(1), told(0)))
    }

    /// Everything that TLS has to say goes to TCP, as far as TCP takes it.
    fn drain(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What TCP has taken leaves `inside`.
    fn settle(&mut self) -> Result<(), TlsError> {
        if self.peeked > 0 && !self.connection.wants_write() {
            let mut taken = vec![0; self.peeked];
            self.inside
                .read_exact(&mut taken)
                .map_err(socket("take what was sent"))?;
            self.peeked = 0;
        }
        Ok(())
    }

    /// `false`: the receiver is gone.
    fn take_outer(&mut self) -> Result<bool, TlsError> {
        if !self.back.is_empty() || !self.connection.wants_read() {
            return Ok(true);
        }
        match self.connection.read_tls(&mut self.tcp) {
            Ok(0) if self.connection.is_handshaking() => return Err(TlsError::Closed),
            Ok(_) => {}
            Err(error) if is_later(&error) => return Ok(true),
            Err(error) => return Err(socket("receive")(error)),
        }
        self.connection.process_new_packets()?;
        self.give_back()
    }

    /// `false`: init is done, or the receiver is.
    fn take_inner(&mut self) -> Result<bool, TlsError> {
        if !self.back.is_empty() {
            return self.give_back();
        }
        if !self.is_hungry() {
            // Told without being asked for: the other end is gone.
            return Ok(false);
        }
        let mut buffer = vec![0; CHUNK];
        let count = match recv(&self.inside, buffer.as_mut_slice(), RecvFlags::PEEK) {
            Ok((count, _)) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(socket("look at what is to be sent")(error.into())),
        };
        if count == 0 {
            return Ok(false);
        }
        let written = self.connection.writer().write(&buffer[..count]);
        self.peeked = written.map_err(socket("encrypt"))?;
        Ok(true)
    }

    /// Hands over what came out of TLS, as far as init takes it; `false` at its end.
    fn give_back(&mut self) -> Result<bool, TlsError> {
        loop {
            while !self.back.is_empty() {
                match self.inside.write(&self.back) {
                    Ok(count) => drop(self.back.drain(..count)),
                    Err(error) if is_later(&error) => return Ok(true),
                    Err(error) => return Err(socket("hand over what came")(error)),
                }
            }
            let mut buffer = vec![0; CHUNK];
            match self.connection.reader().read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.back.extend_from_slice(&buffer[..count]),
                Err(error) if is_later(&error) => return Ok(true),
                // Without a goodbye: it is over all the same.
                Err(_) => return Ok(false),
            }
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
