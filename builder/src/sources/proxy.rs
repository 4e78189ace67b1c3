//! Which proxy a request goes through, by the rules of curl and apt.
//!
//! In this order: a host's own setting in apt's configuration
//! (`Acquire::http::Proxy::<host>`, where `DIRECT` means none), the environment
//! as curl reads it (`http_proxy` in lower case only; `https_proxy`,
//! `all_proxy`, also in upper case), apt's general setting
//! (`Acquire::http::Proxy`, which also serves https). `no_proxy` switches all
//! off. apt's `Proxy-Auto-Detect` runs a command and is not followed.

use std::net::IpAddr;

use super::Host;
use super::apt_conf::AptConf;
use super::uri::{Scheme, Uri};

/// The host's proxies.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    all: Option<String>,
    no_proxy: String,
    apt: AptConf,
}

impl Proxies {
    /// Reads environment and apt's configuration.
    #[must_use]
    pub fn load(host: &Host, apt: &AptConf) -> Self {
        let get = |names: &[&str]| host.first_var(names).map(str::to_owned);
        Self {
            // Upper case HTTP_PROXY is what a CGI's client can set: curl ignores it, and so does this.
            http: get(&["http_proxy"]),
            https: get(&["https_proxy", "HTTPS_PROXY"]),
            all: get(&["all_proxy", "ALL_PROXY"]),
            no_proxy: get(&["no_proxy", "NO_PROXY"]).unwrap_or_default(),
            apt: apt.clone(),
        }
    }

    /// The proxy for a URI, with a scheme; `None` when it is asked directly.
    #[must_use]
    pub fn find(&self, uri: &Uri) -> Option<String> {
        if uri.scheme == Scheme::File || self.is_exempt(uri) {
            return None;
        }
        let own = match uri.scheme {
            Scheme::Http => &self.http,
            _ => &self.https,
        };
        let scheme = uri.scheme.name();
        let apt = |key: &str| {
            self.apt
                .get(&format!("Acquire::{scheme}::{key}"))
                .or_else(|| self.apt.get(&format!("Acquire::http::{key}")))
                .map(str::to_owned)
        };
        let found = apt(&format!("Proxy::{}", uri.host))
            .or_else(|| own.clone())
            .or_else(|| self.all.clone())
            .or_else(|| apt("Proxy"))?;
        if found.eq_ignore_ascii_case("DIRECT") || found.eq_ignore_ascii_case("false") {
            return None;
        }
        Some(if found.contains("://") {
            found
        } else {
            format!("http://{found}")
        })
    }

    fn is_exempt(&self, uri: &Uri) -> bool {
        let host = uri.host.trim_start_matches('[').trim_end_matches(']');
        self.no_proxy
            .split([',', ' '])
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .any(|entry| exempts(entry, host, uri.port))
    }
}

/// Whether one entry of `no_proxy` covers a host: `*`, a domain with all below
/// it, an address, a network (`10.0.0.0/8`), each with an optional port.
fn exempts(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        if let Some((network, bits)) = entry.split_once('/') {
            let (Ok(network), Ok(bits)) = (network.parse(), bits.parse()) else {
                return false;
            };
            return in_network(address, network, bits);
        }
        let bare = entry.trim_start_matches('[');
        let (bare, wanted) = match bare.split_once(']') {
            Some((bare, port)) => (bare, port.strip_prefix(':')),
            None => match entry.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (entry, None),
            },
        };
        return bare.parse() == Ok(address) && wanted.is_none_or(|p| p.parse() == Ok(port));
    }
    let (domain, wanted) = match entry.rsplit_once(':') {
        Some((domain, port)) => (domain, Some(port)),
        None => (entry, None),
    };
    if wanted.is_some_and(|wanted| wanted.parse() != Ok(port)) {
        return false;
    }
    let domain = domain.trim_start_matches("*.").trim_matches('.');
    let domain = domain.to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    !domain.is_empty()
        && host
            .strip_suffix(domain.as_str())
            .is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(env: &[(&str, &str)], apt: &str) -> Proxies {
        let mut conf = AptConf::default();
        conf.add(apt);
        Proxies::load(&Host::fake("/nowhere", env), &conf)
    }

    fn find(proxies: &Proxies, uri: &str) -> String {
        proxies
            .find(&Uri::parse(uri).unwrap())
            .unwrap_or_else(|| "direct".to_owned())
    }

    #[test]
    fn as_curl_does() {
        let all = proxies(
            &[
                ("http_proxy", "p1:3128"),
                ("HTTP_PROXY", "http://evil"),
                ("HTTPS_PROXY", "https://p2"),
                ("all_proxy", "socks5h://p3"),
            ],
            "",
        );
        assert_eq!(find(&all, "http://h/"), "http://p1:3128");
        assert_eq!(find(&all, "https://h/"), "https://p2");
        assert_eq!(find(&all, "file:/x"), "direct");
        let only = proxies(&[("ALL_PROXY", "socks5h://p3"), ("HTTP_PROXY", "x")], "");
        assert_eq!(find(&only, "http://h/"), "socks5h://p3");
        assert_eq!(
            find(&proxies(&[("http_proxy", "")], ""), "http://h/"),
            "direct"
        );
    }

    #[test]
    fn as_apt_does() {
        let apt = "Acquire::http::Proxy \"http://general:1\"; \
                   Acquire::http::Proxy::local.example \"DIRECT\"; \
                   Acquire::http::Proxy::far.example \"http://special:2\";";
        let plain = proxies(&[], apt);
        assert_eq!(find(&plain, "http://h/"), "http://general:1");
        assert_eq!(find(&plain, "https://h/"), "http://general:1");
        assert_eq!(find(&plain, "http://local.example/"), "direct");
        let both = proxies(&[("http_proxy", "http://env:3")], apt);
        assert_eq!(find(&both, "http://h/"), "http://env:3");
        assert_eq!(find(&both, "http://far.example/"), "http://special:2");
        let off = proxies(&[], "Acquire::http::Proxy \"false\";");
        assert_eq!(find(&off, "http://h/"), "direct");
    }

    #[test]
    fn no_proxy_of_all_kinds() {
        for (entry, uri, exempt) in [
            ("*", "http://h/", true),
            ("example.org", "http://example.org/", true),
            ("example.org", "http://a.example.org/", true),
            (".example.org", "http://a.example.org/", true),
            ("*.example.org", "http://a.example.org/", true),
            ("example.org", "http://badexample.org/", false),
            ("EXAMPLE.org", "http://example.ORG/", true),
            ("example.org:8080", "http://example.org/", false),
            ("example.org:8080", "http://example.org:8080/", true),
            ("x, example.org ,y", "http://example.org/", true),
            ("127.0.0.1", "http://127.0.0.1:1/", true),
            ("127.0.0.1:2", "http://127.0.0.1:1/", false),
            ("127.0.0.0/8", "http://127.9.9.9/", true),
            ("10.0.0.0/8", "http://127.0.0.1/", false),
            ("0.0.0.0/0", "http://127.0.0.1/", true),
            ("10.0.0.0/99", "http://10.0.0.1/", false),
            ("::1", "http://[::1]/", true),
            ("fe80::/10", "http://[fe80::1]/", true),
            (",,", "http://h/", false),
            (".", "http://h/", false),
        ] {
            let all = proxies(&[("all_proxy", "p"), ("no_proxy", entry)], "");
            assert_eq!(find(&all, uri) == "direct", exempt, "{entry} {uri}");
        }
    }
}
