//! HTTPS: private authorities, tunnels, and redirects that would lose TLS.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::sources::http::tests::impatient;
use crate::sources::testing::{Fault, Server};
use crate::sources::uri::Uri;
use crate::sources::{Client, Host, SourceError};

/// The authority, and a server's certificate for 127.0.0.1 and mirror.example
/// that it signed. Its own key exists no more.
const CA: &str = include_str!("testdata/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("testdata/server.pem");
const KEY: &[u8] = include_bytes!("testdata/server.key");

/// Ends TLS before `server`; returns where.
fn relay(server: SocketAddr) -> SocketAddr {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            // A client that does not trust us goes away; that is its right.
            drop(exchange(StreamOwned::new(connection, stream), server));
        }
    });
    address
}

/// One request, one answer.
fn exchange(
    mut client: StreamOwned<ServerConnection, TcpStream>,
    server: SocketAddr,
) -> io::Result<()> {
    use std::io::Read;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let mut server = TcpStream::connect(server)?;
    server.write_all(&request)?;
    io::copy(&mut server, &mut client)?;
    client.conn.send_close_notify();
    client.flush()
}

struct Bench {
    folder: tempfile::TempDir,
    server: Server,
    address: SocketAddr,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(folder.path().join("www"));
        server.put("/file", "over TLS");
        let address = relay(server.address());
        std::fs::write(folder.path().join("ca.pem"), CA).unwrap();
        std::fs::create_dir(folder.path().join("certs")).unwrap();
        std::fs::write(folder.path().join("certs/ca.pem"), CA).unwrap();
        std::fs::write(folder.path().join("none.pem"), "no certificate").unwrap();
        Self {
            folder,
            server,
            address,
        }
    }

    fn read(&self, uri: &str, env: &[(&str, &str)]) -> Result<String, SourceError> {
        let root = self.folder.path().to_str().unwrap();
        let env: Vec<_> = env
            .iter()
            .map(|(key, value)| (*key, value.replace("ROOT", root)))
            .collect();
        let env: Vec<_> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let client = Client::new(&Host::fake(Path::new(root), &env), impatient());
        let bytes = client.read(&Uri::parse(uri)?, 100)?;
        Ok(String::from_utf8(bytes.unwrap()).unwrap())
    }

    fn direct(&self) -> String {
        format!("https://{}/file", self.address)
    }
}

#[test]
fn a_private_authority_is_trusted_when_named() {
    let bench = Bench::new();
    for variable in [
        ("SSL_CERT_FILE", "ROOT/ca.pem"),
        ("CURL_CA_BUNDLE", "ROOT/ca.pem"),
        ("SSL_CERT_DIR", "ROOT/certs"),
    ] {
        let read = bench.read(&bench.direct(), &[variable]);
        assert_eq!(read.unwrap(), "over TLS", "{variable:?}");
    }
}

#[test]
fn an_unknown_authority_is_refused_and_the_remedy_named() {
    let bench = Bench::new();
    let error = bench.read(&bench.direct(), &[]).unwrap_err().to_string();
    assert!(error.contains("SSL_CERT_FILE"), "{error}");
    assert!(
        !error.contains("tried"),
        "trying again is of no use: {error}"
    );
    assert!(bench.server.requests().is_empty());
    for bad in ["ROOT/none.pem", "ROOT/missing.pem"] {
        let error = bench
            .read(&bench.direct(), &[("SSL_CERT_FILE", bad)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no CA certificate"), "{error}");
    }
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let bench = Bench::new();
    let uri = format!("https://localhost:{}/file", bench.address.port());
    let error = bench.read(&uri, &[("SSL_CERT_FILE", "ROOT/ca.pem")]);
    assert!(error.unwrap_err().to_string().contains("certificate"));
}

#[test]
fn https_goes_through_a_tunnel() {
    let bench = Bench::new();
    let proxy = Server::new(bench.folder.path().join("proxy"));
    proxy.tunnel("mirror.example:443", bench.address);
    proxy.require_proxy_login("p", "w");
    let trust = ("SSL_CERT_FILE", "ROOT/ca.pem");
    let uri = format!("http://p:w@{}", proxy.address());
    let env = [("https_proxy", uri.as_str()), trust];
    let read = bench.read("https://mirror.example/file", &env);
    assert_eq!(read.unwrap(), "over TLS");
    assert_eq!(proxy.requests()[0].method, "CONNECT");
    assert_eq!(bench.server.requests()[0].target, "/file");

    let uri = proxy.uri();
    let env = [("https_proxy", uri.as_str()), trust];
    let error = bench.read("https://mirror.example/file", &env).unwrap_err();
    assert!(
        error.to_string().contains("the proxy wants a login"),
        "{error}"
    );
}

#[test]
fn a_redirect_that_would_lose_tls_is_not_followed() {
    let bench = Bench::new();
    bench.server.always(
        "/file",
        Fault::Redirect(format!("{}/plain", bench.server.uri())),
    );
    let error = bench
        .read(&bench.direct(), &[("SSL_CERT_FILE", "ROOT/ca.pem")])
        .unwrap_err();
    assert!(error.to_string().contains("without TLS"), "{error}");
}
