//! The run's side: takes queries, hands them to init, and the answers back. It never
//! waits for a client: who does not read loses the connection.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use slipform_init::contract::event::Command;
use slipform_init::contract::inside::{Item, Query};

use super::{CONTROL, ENDING, Hello, MAX_QUERY, folder};
use crate::error::HarnessError;

/// Connections at a time.
const MAX_CLIENTS: usize = 8;
/// Bytes that may wait for a client.
const MAX_WAITING: usize = 1 << 20;
/// How long a client may take to ask.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// The socket of a run, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    listener: UnixListener,
    hello: String,
    pub(super) clients: Vec<Client>,
    next: u32,
}

#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    since: Instant,
    asked: Vec<u8>,
    /// The number of its query, once it asked.
    query: Option<u32>,
    follows: bool,
    waiting: Vec<u8>,
    /// Nothing comes after what waits.
    closing: bool,
}

impl Control {
    /// Opens the socket of this process in `dir`.
    ///
    /// # Errors
    /// [`HarnessError::Io`].
    pub(crate) fn open(dir: &Path, name: &str, image: &str) -> Result<Self, HarnessError> {
        folder(dir)?;
        let id = std::process::id();
        let path = dir.join(format!("{id}.{ENDING}"));
        // Whoever sweeps takes a socket that nobody listens on for a dead one: it gets its
        // name when it listens, and is this user's alone.
        let made = dir.join(format!(".{id}"));
        drop(fs::remove_file(&made));
        let listener = UnixListener::bind(&made)
            .and_then(|listener| {
                fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
                listener.set_nonblocking(true)?;
                fs::rename(&made, &path)?;
                Ok(listener)
            })
            .map_err(HarnessError::io(
                "listen on",
                &path,
                "set XDG_RUNTIME_DIR to a folder of yours with a short path",
            ))?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let hello = Hello {
            control: CONTROL,
            id,
            name: name.to_owned(),
            image: image.to_owned(),
            started: started.unwrap_or_default().as_secs(),
        };
        Ok(Self {
            path,
            listener,
            hello: json(&hello),
            clients: Vec::new(),
            next: 1,
        })
    }

    /// A turn: new clients, their queries, what waits for them. `send` takes a line to init.
    pub(crate) fn turn(&mut self, send: &mut dyn FnMut(&str) -> std::io::Result<()>) {
        while self.clients.len() < MAX_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                break;
            };
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client::new(stream, &self.hello));
            }
        }
        for client in &mut self.clients {
            if let Some(query) = client.read() {
                client.query = Some(self.next);
                client.follows = query.follow;
                let query = Query {
                    id: self.next,
                    ..query
                };
                self.next = self.next.wrapping_add(1);
                if let Err(error) = send(json(&Command::Show(query)).trim_end()) {
                    client.end(&format!("the machine takes no questions: {error}"));
                }
            }
            client.write();
        }
        self.clients.retain(|client| {
            let gone = client.is_gone();
            // Init need not go on for nobody.
            if let (true, true, Some(id)) = (gone, client.follows, client.query) {
                let end = Query {
                    id,
                    ..Query::default()
                };
                drop(send(json(&Command::Show(end)).trim_end()));
            }
            !gone
        });
    }

    /// Init answered.
    pub(crate) fn answer(&mut self, query: u32, item: &Item) {
        let asked = |client: &&mut Client| client.query == Some(query);
        if let Some(client) = self.clients.iter_mut().find(asked) {
            client.say(&json(item));
            client.closing |= matches!(item, Item::End(why) if !client.follows || !why.is_empty());
            client.write();
        }
    }

    /// The machine forgot what it was asked.
    pub(crate) fn restarted(&mut self) {
        for client in &mut self.clients {
            if client.query.is_some() {
                client.end("the machine started again");
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

impl Client {
    fn new(stream: UnixStream, hello: &str) -> Self {
        Self {
            stream,
            since: Instant::now(),
            asked: Vec::new(),
            query: None,
            follows: false,
            waiting: hello.as_bytes().to_vec(),
            closing: false,
        }
    }

    /// The query, once it is whole.
    fn read(&mut self) -> Option<Query> {
        let mut bytes = [0; MAX_QUERY];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.leave(),
            Ok(length) if self.query.is_none() && !self.closing => {
                self.asked.extend_from_slice(&bytes[..length]);
            }
            // One question a connection: what follows it is nobody's.
            Ok(_) => {}
            Err(error) if is_later(&error) => {}
            Err(_) => self.leave(),
        }
        if self.query.is_some() || self.closing {
            return None;
        }
        let end = self.asked.iter().position(|&byte| byte == b'\n');
        if end.is_none() && self.asked.len() > MAX_QUERY {
            self.end("the question is too long");
        }
        if end.is_none() && self.since.elapsed() > ASK_LIMIT {
            self.leave();
        }
        match serde_json::from_slice(&self.asked[..end?]) {
            Ok(query) => Some(query),
            Err(error) => {
                self.end(&format!("not a question: {error}"));
                None
            }
        }
    }

    fn say(&mut self, line: &str) {
        if self.waiting.len() + line.len() > MAX_WAITING {
            return self.leave();
        }
        self.waiting.extend_from_slice(line.as_bytes());
    }

    fn end(&mut self, why: &str) {
        self.say(&json(&Item::End(why.to_owned())));
        self.closing = true;
    }

    /// Writes what can be written without waiting.
    fn write(&mut self) {
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(0) => return self.leave(),
                Ok(length) => drop(self.waiting.drain(..length)),
                Err(error) if is_later(&error) => return,
                Err(_) => return self.leave(),
            }
        }
    }

    fn leave(&mut self) {
        self.waiting.clear();
        self.closing = true;
    }

    fn is_gone(&self) -> bool {
        self.closing && self.waiting.is_empty()
    }
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A line of JSON. Types whose keys are texts always have one.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}
