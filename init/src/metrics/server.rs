//! A server of one page: few connections, short requests, short times.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use super::request::{self, HEAD_MAX, Wanted};
use crate::sys::poll;

/// Connections at once; others wait in the kernel's queue.
const CLIENTS_MAX: usize = 4;
/// How long a request may take to come, and an answer to go.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);
/// How old a page may be: whoever asks without pause gets the same one.
const PAGE_AGE: Duration = Duration::from_secs(1);
/// After an error of the listener's own (no descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    until: Duration,
    request: Vec<u8>,
    answer: Option<Rc<[u8]>>,
    sent: usize,
    /// The answer is out; what the client still sends is passed over.
    done: bool,
}

/// The listener and its clients.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    clients: Vec<Client>,
    page: Option<(Duration, Rc<[u8]>)>,
    pause: Option<Duration>,
}

/// Makes the page.
pub(crate) type Page<'a> = &'a mut dyn FnMut() -> String;

impl Server {
    /// Listens; on all addresses of both families if `address` is empty.
    ///
    /// # Errors
    /// What socket(2), bind(2) or listen(2) says.
    pub(crate) fn listen(address: &str, port: u16) -> io::Result<Self> {
        let listener = match address.parse::<IpAddr>() {
            Ok(address) => TcpListener::bind((address, port)),
            // A kernel without IPv6 has only the other.
            Err(_) => TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
                .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))),
        }?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            clients: Vec::new(),
            page: None,
            pause: None,
        })
    }

    /// To poll.
    pub(crate) fn fds(&self, out: &mut Vec<libc::pollfd>) {
        if self.clients.len() < CLIENTS_MAX && self.pause.is_none() {
            out.push(poll::entry(self.listener.as_raw_fd(), libc::POLLIN));
        }
        for client in &self.clients {
            let events = if client.answer.is_some() && !client.done {
                libc::POLLOUT
            } else {
                libc::POLLIN
            };
            out.push(poll::entry(client.stream.as_raw_fd(), events));
        }
    }

    /// When a client has had its time.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let clients = self.clients.iter().map(|client| client.until);
        let page = self.page.as_ref().map(|(made, _)| *made + PAGE_AGE);
        let page = page.filter(|_| self.clients.is_empty());
        clients.chain(self.pause).chain(page).min()
    }

    /// Ends what has had its time.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.clients.retain(|client| now < client.until);
        if self.pause.is_some_and(|until| now >= until) {
            self.pause = None;
        }
        if self.clients.is_empty()
            && self
                .page
                .as_ref()
                .is_some_and(|(made, _)| now >= *made + PAGE_AGE)
        {
            self.page = None;
        }
    }

    /// A descriptor is ready; false if it is none of ours.
    pub(crate) fn ready(&mut self, fd: RawFd, now: Duration, page: Page<'_>) -> bool {
        if fd == self.listener.as_raw_fd() {
            self.accept(now);
            return true;
        }
        let Some(index) = self
            .clients
            .iter()
            .position(|client| client.stream.as_raw_fd() == fd)
        else {
            return false;
        };
        let mut client = self.clients.swap_remove(index);
        if self.serve(&mut client, now, page).is_ok_and(|stays| stays) {
            self.clients.push(client);
        }
        true
    }

    fn accept(&mut self, now: Duration) {
        while self.clients.len() < CLIENTS_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        self.clients.push(Client {
                            stream,
                            until: now + CLIENT_LIMIT,
                            request: Vec::new(),
                            answer: None,
                            sent: 0,
                            done: false,
                        });
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.pause = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Goes as far as it can; false: it is over.
    fn serve(&mut self, client: &mut Client, now: Duration, page: Page<'_>) -> io::Result<bool> {
        if client.answer.is_none() && !read(client)? {
            return Ok(false);
        }
        if client.answer.is_none() {
            client.answer = match request::wanted(&client.request) {
                Wanted::More => return Ok(true),
                Wanted::Metrics { body: true } => Some(self.page(now, page)),
                Wanted::Metrics { body: false } => {
                    Some(request::answer("200 OK", &page(), false).into())
                }
                Wanted::Error(status) => {
                    Some(request::answer(status, &format!("{status}\n"), true).into())
                }
            };
            client.request = Vec::new();
        }
        let Some(answer) = &client.answer else {
            return Ok(true);
        };
        while let Some(rest) = answer.get(client.sent..).filter(|rest| !rest.is_empty()) {
            match client.stream.write(rest) {
                Ok(0) => return Ok(false),
                Ok(count) => client.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Closing on unread bytes would reset the connection, and the answer with it.
        if !client.done {
            client.done = true;
            client.stream.shutdown(std::net::Shutdown::Write)?;
        }
        drain(client)
    }

    fn page(&mut self, now: Duration, page: Page<'_>) -> Rc<[u8]> {
        if let Some((made, bytes)) = &self.page
            && now < *made + PAGE_AGE
        {
            return Rc::clone(bytes);
        }
        let bytes: Rc<[u8]> = request::answer("200 OK", &page(), true).into();
        self.page = Some((now, Rc::clone(&bytes)));
        bytes
    }
}

/// Takes what has come of the request; false at its end.
fn read(client: &mut Client) -> io::Result<bool> {
    let mut buffer = [0; 1024];
    while client.request.len() <= HEAD_MAX {
        match client.stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                let piece = buffer.get(..count).unwrap_or_default();
                client.request.extend_from_slice(piece);
                if request::wanted(&client.request) != Wanted::More {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Passes over what still comes; false once the client has ended, too.
fn drain(client: &mut Client) -> io::Result<bool> {
    let mut buffer = [0; 1024];
    for _ in 0..16 {
        match client.stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    struct Scene {
        server: Server,
        start: Instant,
        pages: usize,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                server: Server::listen("127.0.0.1", 0).unwrap(),
                start: Instant::now(),
                pages: 0,
            }
        }

        fn client(&self) -> TcpStream {
            let address = self.server.listener.local_addr().unwrap();
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        }

        /// Lets the server work for a moment of real time, at `now`.
        fn work(&mut self, now: Duration) {
            for _ in 0..5 {
                let mut fds = Vec::new();
                self.server.fds(&mut fds);
                poll::wait(&mut fds, Some(Duration::from_millis(10))).unwrap();
                for fd in fds.iter().filter(|fd| fd.revents != 0) {
                    let pages = &mut self.pages;
                    let page = &mut || {
                        *pages += 1;
                        format!("page {}\n", "x".repeat(100_000))
                    };
                    assert!(self.server.ready(fd.fd, now, page));
                }
                self.server.tick(now);
            }
        }

        fn all(&mut self, stream: &mut TcpStream) -> String {
            let mut text = Vec::new();
            let mut buffer = [0; 65_536];
            loop {
                assert!(self.start.elapsed() < Duration::from_secs(20));
                match stream.read(&mut buffer) {
                    Ok(0) => return String::from_utf8(text).unwrap(),
                    Ok(count) => text.extend_from_slice(&buffer[..count]),
                    Err(_) => self.work(Duration::ZERO),
                }
            }
        }
    }

    #[test]
    fn a_page_comes_whole_and_is_made_once() {
        let mut scene = Scene::new();
        for _ in 0..3 {
            let mut client = scene.client();
            client.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
            scene.work(Duration::ZERO);
            client.write_all(b"Host: x\r\n\r\n").unwrap();
            let text = scene.all(&mut client);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("Content-Length: {}", body.len())),
                "{head}"
            );
            assert!(body.starts_with("page x"));
        }
        assert_eq!(scene.pages, 1);
    }

    #[test]
    fn errors_reach_a_client_that_says_too_much() {
        let mut scene = Scene::new();
        let mut client = scene.client();
        client.write_all(&[b'x'; 20_000]).unwrap();
        let text = scene.all(&mut client);
        assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
        let mut client = scene.client();
        client
            .write_all(b"DELETE /metrics HTTP/1.1\r\n\r\n")
            .unwrap();
        assert!(scene.all(&mut client).starts_with("HTTP/1.1 405 "));
        assert_eq!(scene.pages, 0);
    }

    #[test]
    fn silent_clients_keep_nobody_out_for_long() {
        let mut scene = Scene::new();
        let _silent: Vec<TcpStream> = (0..CLIENTS_MAX + 3).map(|_| scene.client()).collect();
        scene.work(Duration::ZERO);
        assert_eq!(scene.server.clients.len(), CLIENTS_MAX);
        assert_eq!(scene.server.deadline(), Some(CLIENT_LIMIT));
        let mut fds = Vec::new();
        scene.server.fds(&mut fds);
        assert_eq!(fds.len(), CLIENTS_MAX, "the listener is not polled");
        scene.server.tick(CLIENT_LIMIT);
        assert!(scene.server.clients.is_empty());
        scene.work(CLIENT_LIMIT);
        assert_eq!(scene.server.clients.len(), 3);
    }
}
