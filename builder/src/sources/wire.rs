//! One request, one answer: along the host's proxies, with its certificates.
//!
//! No logins, no redirects, no retries: those are for who knows what is asked.

use std::io::Read;
use std::time::Duration;

use ureq::http::header::{CONTENT_LENGTH, HOST, HeaderName, PROXY_AUTHORIZATION};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, AsSendBody, SendBody};

use super::Host;
use super::agents::{Agents, Way};
use super::apt_conf::AptConf;
use super::proxy::Proxies;
use super::uri::{Scheme, Uri};

/// What a server said.
pub type Answer = Response<ureq::Body>;

/// Headers of a request.
pub type Headers = [(HeaderName, String)];

/// What kept an answer from coming.
#[derive(Debug)]
pub struct WireError {
    /// Whether asking again may help.
    pub again: bool,
    /// What happened, and the remedy where there is one.
    pub why: String,
}

/// Ways to servers.
#[derive(Debug)]
pub struct Wire {
    agents: Agents,
    proxies: Proxies,
}

/// How a server is reached.
struct Route {
    agent: Agent,
    target: String,
    headers: Vec<(HeaderName, String)>,
}

impl Wire {
    /// The host's proxies and certificates. `connect` is the time for a
    /// connection, `read` the one without a byte after which a server is given up.
    #[must_use]
    pub fn new(host: &Host, connect: Duration, read: Duration) -> Self {
        let apt = AptConf::load(host);
        Self {
            agents: Agents::new(host, &apt, connect, read),
            proxies: Proxies::load(host, &apt),
        }
    }

    /// Asks for a file.
    ///
    /// # Errors
    /// [`WireError`]; whatever the status, an answer is none.
    pub fn get(&self, uri: &Uri, headers: &Headers) -> Result<Answer, WireError> {
        let proxy = self.proxies.find(uri);
        let route = self.route(uri, proxy)?;
        send(&route, Method::GET, headers, ()).map_err(|error| explain(uri, &error))
    }

    /// Sends any request, with `length` bytes from `body`. This host itself is
    /// asked without a proxy, others in clear only without one that is asked in
    /// absolute form.
    ///
    /// # Errors
    /// [`WireError`]; whatever the status, an answer is none.
    pub fn send(
        &self,
        method: Method,
        uri: &Uri,
        headers: &Headers,
        body: Option<(&mut dyn Read, u64)>,
    ) -> Result<Answer, WireError> {
        let proxy = (!uri.is_loopback())
            .then(|| self.proxies.find(uri))
            .flatten();
        let mut route = self.route(uri, proxy)?;
        let answer = match body {
            None => send(&route, method, headers, ()),
            Some((reader, length)) => {
                route.headers.push((CONTENT_LENGTH, length.to_string()));
                send(&route, method, headers, SendBody::from_reader(reader))
            }
        };
        answer.map_err(|error| explain(uri, &error))
    }

    fn route(&self, uri: &Uri, proxy: Option<String>) -> Result<Route, WireError> {
        let broken = |why: String| WireError { again: false, why };
        let mut headers: Vec<(HeaderName, String)> = Vec::new();
        let mut target = uri.public();
        let (mut way, mut tls) = (Way::Direct, uri.scheme == Scheme::Https);
        if let Some(proxy) = proxy {
            let forwarding = uri.scheme == Scheme::Http
                && (proxy.starts_with("http://") || proxy.starts_with("https://"));
            if forwarding {
                let proxy = Uri::parse(&proxy).map_err(|error| broken(error.to_string()))?;
                let root = format!("{}://{}", proxy.scheme.name(), proxy.authority());
                target = format!("{root}/{target}");
                headers.push((HOST, uri.authority()));
                headers.extend(
                    proxy
                        .login
                        .map(|login| (PROXY_AUTHORIZATION, login.basic())),
                );
                tls = proxy.scheme == Scheme::Https;
                way = Way::Forward;
            } else {
                tls |= proxy.starts_with("https://");
                way = Way::Tunnel(proxy);
            }
        }
        let agent = self.agents.get(way, tls).map_err(broken)?;
        Ok(Route {
            agent,
            target,
            headers,
        })
    }
}

fn send(
    route: &Route,
    method: Method,
    headers: &Headers,
    body: impl AsSendBody,
) -> Result<Answer, ureq::Error> {
    let mut request = Request::builder().method(method).uri(&route.target);
    for (name, value) in route.headers.iter().chain(headers) {
        request = request.header(name, value);
    }
    route.agent.run(request.body(body)?)
}

/// A header's value, if it is text.
#[must_use]
pub fn header<'a>(answer: &'a Answer, name: &HeaderName) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// What kept an answer from coming.
fn explain(uri: &Uri, error: &ureq::Error) -> WireError {
    use ureq::Error as E;
    let text = error.to_string();
    let broken = |why: String| WireError { again: false, why };
    let again = |why: String| WireError { again: true, why };
    if matches!(error, E::Rustls(_) | E::Tls(_) | E::Pem(_)) || text.contains("certificate") {
        return broken(format!(
            "{text}; if its certificate is a private one, name the CA in SSL_CERT_FILE"
        ));
    }
    match error {
        E::HostNotFound => again(format!(
            "host {} is unknown; check the name and the network",
            uri.host
        )),
        E::ConnectProxyFailed(why) if why.contains("407") => {
            broken("407: the proxy wants a login; write http://user:password@proxy:port".to_owned())
        }
        E::Io(_) | E::Timeout(_) | E::Protocol(_) | E::ConnectionFailed => again(text),
        E::ConnectProxyFailed(why) => again(format!("the proxy failed: {why}")),
        _ => broken(text),
    }
}
