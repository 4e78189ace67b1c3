//! One connection of the guest: standard input and output are its two directions, a Unix
//! socket is the server.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A first argument that makes a program the relay; a socket's path follows.
pub const RELAY_WORD: &str = "--metadata-relay";

/// Is the relay if the arguments (without the program) say so, and tells whether they did.
/// To be called before a program looks at its arguments.
pub fn relay_if_asked(mut arguments: impl Iterator<Item = OsString>) -> bool {
    if arguments.next().as_deref() != Some(OsStr::new(RELAY_WORD)) {
        return false;
    }
    if let Some(socket) = arguments.next() {
        // Either side that breaks ends the connection, which is all that the guest sees.
        drop(relay(Path::new(&socket)));
    }
    true
}

fn relay(socket: &Path) -> io::Result<()> {
    let mut server = UnixStream::connect(socket)?;
    let mut to_server = server.try_clone()?;
    std::thread::spawn(move || {
        drop(copy(&mut io::stdin().lock(), &mut to_server));
        drop(to_server.shutdown(Shutdown::Write));
    });
    copy(&mut server, &mut io::stdout().lock())
}

/// Each part goes on at once: a request waits for nothing behind it.
fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
