//! The HTTP agents: one for each way to a server, with its certificates.
//!
//! ureq asks every HTTP proxy by CONNECT. Proxies that people put before
//! mirrors (squid, apt-cacher-ng) refuse that for port 80, and could not cache:
//! a plain `http:` request must reach them in absolute form (RFC 9112, section
//! 3.2.2). ureq cannot write that, so [`Forward`] takes the slash away with
//! which `GET /http://mirror/path` leaves.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};

use super::Host;
use super::apt_conf::AptConf;

/// Every request's start through a forwarding proxy, as ureq writes it.
const MARK: &[u8] = b"GET /http://";

/// A way to a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// Asked directly.
    Direct,
    /// Through a proxy that makes a tunnel (CONNECT, SOCKS).
    Tunnel(String),
    /// Through a proxy that is asked in absolute form.
    Forward,
}

/// Makes agents and keeps them, with their open connections.
#[derive(Debug)]
pub(super) struct Agents {
    certificates: Certificates,
    connect: Duration,
    read: Duration,
    tls: OnceLock<Result<TlsConfig, String>>,
    agents: Mutex<HashMap<(Way, bool), Agent>>,
}

/// Where certificate authorities come from.
#[derive(Debug, Clone, Default)]
struct Certificates {
    file: Option<PathBuf>,
    folder: Option<PathBuf>,
}

impl Agents {
    pub(super) fn new(host: &Host, apt: &AptConf, connect: Duration, read: Duration) -> Self {
        let file = host
            .first_var(&["CURL_CA_BUNDLE", "SSL_CERT_FILE"])
            .or_else(|| apt.get("Acquire::https::CAInfo"));
        Self {
            certificates: Certificates {
                file: file.map(PathBuf::from),
                folder: host.var("SSL_CERT_DIR").map(PathBuf::from),
            },
            connect,
            read,
            tls: OnceLock::new(),
            agents: Mutex::default(),
        }
    }

    /// The agent for a way; `tls` when anything on it speaks TLS.
    pub(super) fn get(&self, way: Way, tls: bool) -> Result<Agent, String> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&(way.clone(), tls)) {
            return Ok(agent.clone());
        }
        let agent = self.make(&way, tls)?;
        agents.insert((way, tls), agent.clone());
        Ok(agent)
    }

    fn make(&self, way: &Way, tls: bool) -> Result<Agent, String> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("slipform/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(self.connect))
            .timeout_connect(Some(self.connect))
            .timeout_recv_response(Some(self.read))
            .timeout_per_read(Some(self.read))
            .timeout_per_write(Some(self.read));
        if let Way::Tunnel(proxy) = way {
            let proxy = ureq::Proxy::new(proxy)
                .map_err(|_| "the proxy's URI is broken; check the proxy settings".to_owned())?;
            config = config.proxy(Some(proxy));
        }
        if tls {
            let tls = self.tls.get_or_init(|| self.certificates.load());
            config = config.tls_config(tls.clone()?);
        }
        let config = config.build();
        Ok(match way {
            Way::Forward => Agent::with_parts(
                config,
                DefaultConnector::new().chain(ForwardConnector),
                DefaultResolver::default(),
            ),
            _ => Agent::new_with_config(config),
        })
    }
}

impl Certificates {
    fn load(&self) -> Result<TlsConfig, String> {
        let given = self.file.is_some() || self.folder.is_some();
        let found = if given {
            rustls_native_certs::load_certs_from_paths(self.file.as_deref(), self.folder.as_deref())
        } else {
            rustls_native_certs::load_native_certs()
        };
        if given && found.certs.is_empty() {
            let paths: Vec<_> = [&self.file, &self.folder]
                .into_iter()
                .flatten()
                .map(|path| path.display().to_string())
                .collect();
            let why = found.errors.first().map(ToString::to_string);
            return Err(format!(
                "no CA certificate could be read from {} ({}); check SSL_CERT_FILE, SSL_CERT_DIR and CURL_CA_BUNDLE",
                paths.join(" and "),
                why.unwrap_or_else(|| "none in there".to_owned())
            ));
        }
        let roots: Vec<_> = found
            .certs
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect();
        let roots = if roots.is_empty() {
            // A host without certificates (a bare container): those of Mozilla, as compiled in.
            RootCerts::WebPki
        } else {
            RootCerts::Specific(Arc::new(roots))
        };
        Ok(TlsConfig::builder().root_certs(roots).build())
    }
}

#[derive(Debug)]
struct ForwardConnector;

impl<In: Transport> Connector<In> for ForwardConnector {
    type Out = Forward<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(Forward))
    }
}

/// A connection to a forwarding proxy.
#[derive(Debug)]
struct Forward<T>(T);

impl<T: Transport> Transport for Forward<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let output = self.0.buffers().output();
        let amount = if output[..amount].starts_with(MARK) {
            output.copy_within(5..amount, 4);
            amount - 1
        } else {
            amount
        };
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}
