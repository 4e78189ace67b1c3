//! Against a real server of TLS on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{READY, relay};
use crate::{TlsError, Trust};

type Session = StreamOwned<ServerConnection, TcpStream>;

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name)
}

fn config(certificate: &str) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(data(certificate)).unwrap()];
    let key = PrivateKeyDer::from_pem_file(data("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    Arc::new(config.with_single_cert(chain, key).unwrap())
}

struct Scene {
    /// init's end.
    inside: UnixStream,
    relay: JoinHandle<(Result<(), TlsError>, Vec<u8>)>,
}

/// A relay to `serve`, which gets the session before its handshake.
fn scene(
    bundle: &str,
    host: &str,
    certificate: &str,
    serve: impl FnOnce(Session) + Send + 'static,
) -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connection = ServerConnection::new(config(certificate)).unwrap();
    let (peer, _) = listener.accept().unwrap();
    std::thread::spawn(move || serve(StreamOwned::new(connection, peer)));
    let (inside, other) = UnixStream::pair().unwrap();
    let trust = Trust::read(&data(bundle)).unwrap();
    let host = host.to_owned();
    let relay = std::thread::spawn(move || {
        let mut said = Vec::new();
        (relay(&trust, &host, tcp, other, &mut said), said)
    });
    Scene { inside, relay }
}

fn echo(mut session: Session) {
    let mut buffer = [0; 5000];
    while let Ok(count) = session.read(&mut buffer)
        && count > 0
    {
        session.write_all(&buffer[..count]).unwrap();
    }
    session.conn.send_close_notify();
    let _ = session.flush();
}

#[test]
fn much_goes_there_and_comes_back_whole() {
    for host in ["logs.example", "127.0.0.1"] {
        let Scene { mut inside, relay } = scene("ca.pem", host, "server.pem", echo);
        let sent: Vec<u8> = (0..3_000_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let mut writer = inside.try_clone().unwrap();
        let copy = sent.clone();
        let write = std::thread::spawn(move || writer.write_all(&copy).unwrap());
        let mut came = vec![0; sent.len()];
        inside.read_exact(&mut came).unwrap();
        write.join().unwrap();
        assert!(came == sent);
        // init goes: so does the relay.
        drop(inside);
        let (result, said) = relay.join().unwrap();
        result.unwrap();
        assert_eq!(said, READY);
    }
}

#[test]
fn who_cannot_be_trusted_gets_nothing() {
    for (bundle, host, certificate, expected) in [
        (
            "stranger.pem",
            "logs.example",
            "server.pem",
            "UnknownIssuer",
        ),
        (
            "ca.pem",
            "logs.example",
            "elsewhere.pem",
            "elsewhere.example",
        ),
        ("ca.pem", "10.9.9.9", "server.pem", "not valid for name"),
        ("ca.pem", "logs.example", "expired.pem", "expired"),
    ] {
        let (send, got) = std::sync::mpsc::channel();
        let Scene { mut inside, relay } = scene(bundle, host, certificate, move |mut session| {
            let mut buffer = [0; 1];
            send.send(session.read(&mut buffer)).unwrap();
        });
        inside.write_all(b"secret").unwrap();
        let (result, said) = relay.join().unwrap();
        let told = result.unwrap_err().to_string();
        assert!(told.starts_with("TLS: "), "{told}");
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(said.is_empty(), "never ready");
        // The server is told by an alert, and never sees a byte.
        assert!(got.recv().unwrap().is_err());
    }
}

#[test]
fn what_is_not_tls_and_what_goes_away_is_told() {
    let told = |answer: &'static [u8]| {
        let scene = scene("ca.pem", "logs.example", "server.pem", |mut session| {
            session.sock.write_all(answer).unwrap();
            let mut hello = [0; 8];
            session.sock.read_exact(&mut hello).unwrap();
        });
        scene.relay.join().unwrap().0.unwrap_err().to_string()
    };
    assert!(told(b"220 mail.example ESMTP\r\n").starts_with("TLS: "));
    let closed = told(b"");
    assert!(
        closed.contains("closed during the handshake") || closed.contains("reset"),
        "{closed}"
    );
}

#[test]
fn the_receivers_end_is_the_end() {
    let Scene { mut inside, relay } =
        scene("ca.pem", "logs.example", "server.pem", |mut session| {
            session.write_all(b"bye").unwrap();
            session.conn.send_close_notify();
            session.flush().unwrap();
        });
    let mut came = Vec::new();
    inside.read_to_end(&mut came).unwrap();
    assert_eq!(came, b"bye");
    relay.join().unwrap().0.unwrap();
}

/// init counts what lies in its own socket as not delivered: it may leave it only for TCP.
#[test]
fn nothing_leaves_the_local_socket_before_tcp_has_it() {
    // A server that completes the handshake, and then reads no more.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let Scene { mut inside, relay } = scene(
        "ca.pem",
        "logs.example",
        "server.pem",
        move |mut session| {
            session.conn.complete_io(&mut session.sock).unwrap();
            let _ = wait.recv();
            let mut all = Vec::new();
            let _ = session.read_to_end(&mut all);
        },
    );
    inside.set_nonblocking(true).unwrap();
    let block = vec![7; 64 * 1024];
    let (mut written, mut idle) = (0_usize, 0);
    while idle < 20 && written < 512 << 20 {
        match inside.write(&block) {
            Ok(count) => (written, idle) = (written + count, 0),
            Err(_) => {
                std::thread::sleep(std::time::Duration::from_millis(20));
                idle += 1;
            }
        }
    }
    assert!(idle == 20, "it swallowed {written} bytes that nobody took");
    go.send(()).unwrap();
    inside.set_nonblocking(false).unwrap();
    inside.write_all(b"end").unwrap();
    drop(inside);
    relay.join().unwrap().0.unwrap();
}

#[test]
fn names_and_bundles_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle");
    for (content, expected) in [
        (None, "o such file"),
        (Some("text\n"), "none that can be used"),
    ] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let told = Trust::read(&path).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
        assert!(told.contains("ca-certificates"), "{told}");
    }
    let (inside, _other) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let trust = Trust::read(&data("ca.pem")).unwrap();
    let told = relay(&trust, "not a name", tcp, inside, &mut Vec::new()).unwrap_err();
    assert!(told.to_string().contains("'not a name' is neither"));
}
