//! TLS on the host's side: a server with a certificate of one's choice.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A certificate, key or authority of the tests; the machine trusts `ca.pem`.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../init/tls/testdata")
        .join(name)
}

/// Ends TLS.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terminator {
    seen: Arc<Mutex<Vec<u8>>>,
    /// By connection that ended: with a goodbye (close_notify)?
    ends: Arc<Mutex<Vec<bool>>>,
}

impl Terminator {
    /// Listens from now on. What comes out of TLS goes on to `to`, if it is given, and what
    /// is answered there goes back.
    pub(crate) fn listen(port: u16, certificate: &str, to: Option<u16>) -> Self {
        let chain = vec![CertificateDer::from_pem_file(file(certificate)).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("its versions")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let config = Arc::new(config.expect("a certificate with its key"));
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let terminator = Self::default();
        let got = terminator.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).expect("a connection");
                let (got, session) = (got.clone(), StreamOwned::new(connection, stream));
                thread::spawn(move || got.serve(session, to));
            }
        });
        terminator
    }

    /// Requests and answers take turns, and each comes whole: that is all this must do.
    fn serve(&self, mut session: StreamOwned<ServerConnection, TcpStream>, to: Option<u16>) {
        let mut onward = to.map(|to| TcpStream::connect(("127.0.0.1", to)).expect("a server"));
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = match session.read(&mut buffer) {
                Ok(count @ 1..) => count,
                end => {
                    let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
                    return ends.push(end.is_ok());
                }
            };
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend_from_slice(&buffer[..count]);
            drop(seen);
            let Some(onward) = &mut onward else { continue };
            onward.write_all(&buffer[..count]).expect("it listens");
            let wait = std::time::Duration::from_millis(200);
            onward.set_read_timeout(Some(wait)).expect("a time");
            while let Ok(count) = onward.read(&mut buffer)
                && count > 0
            {
                if session.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        }
    }

    /// All that came out of TLS.
    pub(crate) fn seen(&self) -> Vec<u8> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Of the connections that ended: which did with a goodbye.
    pub(crate) fn ends(&self) -> Vec<bool> {
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
