//! Receivers of logs and metrics on the host's loopback. QEMU's user network shows
//! them to the guest at 10.0.2.2.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::tls;

/// Ports of the host that nobody listens on right now.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    // Held together, so that they differ, and free for both protocols.
    let held: [(TcpListener, UdpSocket); N] = std::array::from_fn(|_| {
        loop {
            let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = tcp.local_addr().expect("its number").port();
            if let Ok(udp) = UdpSocket::bind(("127.0.0.1", port)) {
                return (tcp, udp);
            }
        }
    });
    held.each_ref()
        .map(|(tcp, _)| tcp.local_addr().expect("its number").port())
}

/// Waits until `wanted` gives something.
#[track_caller]
pub(crate) fn within<T>(limit: Duration, what: &str, mut wanted: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(got) = wanted() {
            return got;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Takes JSON lines over TCP.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<Value>>>);

impl Lines {
    /// Listens from now on.
    pub(crate) fn listen(port: u16) -> Self {
        let lines = Self::default();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let got = lines.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let got = got.clone();
                thread::spawn(move || {
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        let value = serde_json::from_str(&line)
                            .unwrap_or_else(|error| panic!("{error}: {line}"));
                        got.0
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(value);
                    }
                });
            }
        });
        lines
    }

    /// All so far.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A POST request.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    /// The request line and headers.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: Value,
}

/// Takes JSON over HTTP. The first request is answered by 503.
#[derive(Debug, Clone, Default)]
pub(crate) struct Posts(Arc<Mutex<(usize, Vec<Post>)>>);

impl Posts {
    /// Listens from now on.
    pub(crate) fn listen(port: u16) -> Self {
        let posts = Self::default();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let got = posts.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let got = got.clone();
                thread::spawn(move || while got.serve(&stream).is_some() {});
            }
        });
        posts
    }

    fn serve(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.expect("a length").parse().expect("a number");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        assert!(reader.buffer().is_empty(), "more than was announced");
        let body = serde_json::from_slice(&body).expect("JSON");
        let mut got = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        got.0 += 1;
        let answer = if got.0 == 1 {
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
        } else {
            got.1.push(Post { head, body });
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        };
        stream.write_all(answer.as_bytes()).ok()
    }

    /// All that were taken so far.
    pub(crate) fn all(&self) -> Vec<Post> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone()
    }
}

/// Debian's rsyslog, which writes what it understood as JSON.
#[derive(Debug)]
pub(crate) struct Rsyslog {
    child: Child,
    folder: PathBuf,
}

impl Rsyslog {
    /// Starts it; `command` is the program, `modules` the folder of its modules.
    pub(crate) fn start(
        mut command: Command,
        modules: &Path,
        folder: &Path,
        [tcp, udp, tls]: [u16; 3],
    ) -> Self {
        let dir = folder.display();
        let [authority, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(tls::file);
        let (authority, certificate) = (authority.display(), certificate.display());
        let key = key.display();
        let config = format!(
            "global(workDirectory=\"{dir}\" maxMessageSize=\"64k\" parser.escapeControlCharactersOnReceive=\"off\"\n\
             defaultNetstreamDriverCAFile=\"{authority}\" defaultNetstreamDriverCertFile=\"{certificate}\" defaultNetstreamDriverKeyFile=\"{key}\")\n\
             module(load=\"imtcp\")\nmodule(load=\"imudp\")\n\
             template(name=\"all\" type=\"list\") {{ property(name=\"jsonmesg\") constant(value=\"\\n\") }}\n\
             ruleset(name=\"tcp\") {{ action(type=\"omfile\" file=\"{dir}/tcp.log\" template=\"all\") }}\n\
             ruleset(name=\"udp\") {{ action(type=\"omfile\" file=\"{dir}/udp.log\" template=\"all\") }}\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{tcp}\" ruleset=\"tcp\")\n\
             ruleset(name=\"tls\") {{ action(type=\"omfile\" file=\"{dir}/tls.log\" template=\"all\") }}\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{tls}\" ruleset=\"tls\" streamDriver.name=\"gtls\" streamDriver.mode=\"1\" streamDriver.authMode=\"anon\")\n\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"{udp}\" ruleset=\"udp\")\n"
        );
        let path = folder.join("rsyslog.conf");
        std::fs::write(&path, config).expect("its configuration");
        let child = command
            .arg("-n")
            .arg("-f")
            .arg(&path)
            .arg("-i")
            .arg(folder.join("pid"))
            .arg("-M")
            .arg(modules)
            .stdin(Stdio::null())
            .spawn()
            .expect("rsyslog starts");
        Self {
            child,
            folder: folder.to_owned(),
        }
    }

    /// What came over `tcp`, `tls` or `udp`, each message with all that rsyslog read from it.
    pub(crate) fn all(&self, way: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.join(format!("{way}.log")));
        let text = text.unwrap_or_default();
        // The last line may be half written.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A GET over a connection of its own; head and body.
pub(crate) fn get(port: u16, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((head.to_owned(), body.to_owned()))
}
