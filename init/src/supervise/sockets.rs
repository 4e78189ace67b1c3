//! Sockets that init opens before a service starts and keeps over its restarts: no
//! connection is refused in between (sd_listen_fds(3)).

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use slipform_init::contract::service::{MAX_SOCKETS, Socket, SocketAddress};

use crate::sys::net;

/// All sockets of one service, in the order of its specification.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: Vec<OwnedFd>,
    names: String,
}

impl Sockets {
    /// Opens them; those of files belong to `owner` (`None`: the caller, in tests).
    pub(crate) fn open(wanted: &[Socket], owner: Option<(u32, u32)>) -> Result<Sockets, String> {
        if wanted.len() > MAX_SOCKETS {
            return Err(format!("more than {MAX_SOCKETS} sockets"));
        }
        let open = wanted.iter().map(|socket| {
            one(&socket.address, owner).map_err(|error| format!("socket {}: {error}", socket.name))
        });
        let names: Vec<&str> = wanted.iter().map(|socket| socket.name.as_str()).collect();
        Ok(Sockets {
            open: open.collect::<Result<_, _>>()?,
            names: names.join(":"),
        })
    }

    /// To hand over.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.open.iter().map(AsFd::as_fd).collect()
    }

    /// `LISTEN_FDS` and `LISTEN_FDNAMES`; nothing if there are none. `LISTEN_PID` goes with them.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        if self.open.is_empty() {
            return Vec::new();
        }
        vec![
            ("LISTEN_FDS".to_owned(), self.open.len().to_string()),
            ("LISTEN_FDNAMES".to_owned(), self.names.clone()),
        ]
    }
}

fn one(address: &SocketAddress, owner: Option<(u32, u32)>) -> Result<OwnedFd, String> {
    let named = |what: &str, error: io::Error| format!("{what}: {error}");
    match address {
        SocketAddress::Tcp(text) | SocketAddress::Udp(text) => {
            let stream = matches!(address, SocketAddress::Tcp(_));
            let at: SocketAddr = text
                .parse()
                .map_err(|_| format!("{text:?} must be address:port with a numeric address"))?;
            net::listen(at, stream).map_err(|error| named(text, error))
        }
        SocketAddress::Unix(path) => {
            unix(Path::new(path), owner).map_err(|error| named(path, error))
        }
    }
}

fn unix(path: &Path, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    if let Some((uid, gid)) = owner {
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn socket(name: &str, address: SocketAddress) -> Socket {
        Socket {
            name: name.to_owned(),
            address,
        }
    }

    #[test]
    fn sockets_take_connections_before_their_service_runs() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("deep/app.sock");
        let text = path.to_str().expect("UTF-8").to_owned();
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
            listener.local_addr().expect("address").port()
        };
        let wanted = [
            socket("web", SocketAddress::Tcp(format!("127.0.0.1:{port}"))),
            socket("app", SocketAddress::Unix(text.clone())),
            // An address that this machine does not have yet.
            socket("log", SocketAddress::Udp("192.0.2.7:5514".to_owned())),
        ];
        let sockets = Sockets::open(&wanted, None).expect("open");
        TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        UnixStream::connect(&path).expect("it listens");
        assert_eq!(sockets.fds().len(), 3);
        assert_eq!(
            sockets.env(),
            [
                ("LISTEN_FDS".to_owned(), "3".to_owned()),
                ("LISTEN_FDNAMES".to_owned(), "web:app:log".to_owned())
            ]
        );
        drop(sockets);
        // A stale file does not matter.
        Sockets::open(&[socket("app", SocketAddress::Unix(text))], None).expect("again");
        assert!(Sockets::default().env().is_empty());
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        for address in ["localhost:80", "127.0.0.1", ""] {
            let wanted = [socket("web", SocketAddress::Tcp(address.to_owned()))];
            let error = Sockets::open(&wanted, None).expect_err("no address");
            assert!(
                error.starts_with("socket web: ") && error.contains("numeric"),
                "{error}"
            );
        }
        let many = vec![socket("a", SocketAddress::Tcp("127.0.0.1:0".to_owned())); 17];
        assert!(Sockets::open(&many, None).is_err());
    }
}
