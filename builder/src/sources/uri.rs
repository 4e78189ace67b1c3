//! URIs as archives and proxies have them (RFC 3986), no more than is needed.

use super::SourceError;
use crate::base::base64;

/// Longest URI that is taken, in bytes.
const LIMIT: usize = 16 * 1024;

/// How something is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// In clear.
    Http,
    /// Over TLS.
    Https,
    /// From a folder of this host (`file:`, `copy:`).
    File,
}

impl Scheme {
    /// As written before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::File => "file",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::File => 0,
        }
    }
}

/// User and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// The value of an `Authorization` header (RFC 7617).
    #[must_use]
    pub fn basic(&self) -> String {
        let both = format!("{}:{}", self.user, self.password);
        format!("Basic {}", base64::encode(both.as_bytes()))
    }
}

/// A URI that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// How.
    pub scheme: Scheme,
    /// User and password, decoded.
    pub login: Option<Login>,
    /// Host name or address, lower case, as written (IPv6 in brackets); empty for files.
    pub host: String,
    /// Port; that of the scheme when none was written.
    pub port: u16,
    /// Path and query, encoded; for files the path, decoded.
    pub path: String,
}

impl Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// [`SourceError::Uri`].
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let error = |why| SourceError::Uri {
            uri: redact(text),
            why,
        };
        if text.len() > LIMIT {
            return Err(SourceError::Uri {
                uri: text.chars().take(60).collect(),
                why: "it is too long",
            });
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(error("it has characters that must be percent-encoded"));
        }
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| error("it has no scheme"))?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => Self::remote(Scheme::Http, rest).map_err(error),
            "https" => Self::remote(Scheme::Https, rest).map_err(error),
            "file" | "copy" => Self::local(rest).map_err(error),
            _ => Err(error("its scheme is none of http, https and file")),
        }
    }

    fn local(rest: &str) -> Result<Self, &'static str> {
        let path = match rest.strip_prefix("//") {
            None => rest,
            Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        };
        if !path.starts_with('/') {
            return Err("a file: URI has an absolute path and no host");
        }
        let bytes = decode(path).ok_or("its percent-encoding is broken")?;
        Ok(Self {
            scheme: Scheme::File,
            login: None,
            host: String::new(),
            port: 0,
            path: String::from_utf8(bytes).map_err(|_| "its path is not UTF-8")?,
        })
    }

    fn remote(scheme: Scheme, rest: &str) -> Result<Self, &'static str> {
        let rest = rest.strip_prefix("//").ok_or("it has no host")?;
        let rest = rest.split('#').next().unwrap_or(rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (login, address) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((login, address)) => (Some(parse_login(login)?), address),
        };
        let (host, port) = split_port(address)?;
        let path = match path.as_bytes().first() {
            None => "/".to_owned(),
            Some(b'?') => format!("/{path}"),
            Some(_) => path.to_owned(),
        };
        Ok(Self {
            scheme,
            login,
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or_else(|| scheme.port()),
            path,
        })
    }

    /// Host and port as an HTTP `Host` header has them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The URI without user and password.
    #[must_use]
    pub fn public(&self) -> String {
        match self.scheme {
            Scheme::File => format!("file:{}", self.path),
            scheme => format!("{}://{}{}", scheme.name(), self.authority(), self.path),
        }
    }

    /// Whether the host is this one: `localhost`, `127.0.0.0/8` or `[::1]`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// Whether both name the same server, asked in the same way.
    #[must_use]
    pub fn same_origin(&self, other: &Self) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }

    /// The URI of `path` (not encoded, relative) below this one.
    ///
    /// # Errors
    /// [`SourceError::Escape`] when the path is absolute or has `..`.
    pub fn below(&self, path: &str) -> Result<Self, SourceError> {
        check_relative(path)?;
        let mut below = self.clone();
        let base = below.path.trim_end_matches('/');
        below.path = match self.scheme {
            Scheme::File => format!("{base}/{path}"),
            _ => format!("{base}/{}", encode(path)),
        };
        Ok(below)
    }

    /// Where a `Location` header leads to (RFC 9110, 10.2.2).
    ///
    /// # Errors
    /// [`SourceError::Uri`].
    pub fn resolve(&self, location: &str) -> Result<Self, SourceError> {
        let location = location.trim();
        let root = format!("{}://{}", self.scheme.name(), self.authority());
        let mut next = if location.starts_with("//") {
            Self::parse(&format!("{}:{location}", self.scheme.name()))?
        } else if location.starts_with('/') {
            Self::parse(&format!("{root}{location}"))?
        } else if location
            .split_once(':')
            .is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
        {
            Self::parse(location)?
        } else {
            let folder = self.path.split('?').next().unwrap_or("");
            let folder = folder.rsplit_once('/').map_or("", |(folder, _)| folder);
            Self::parse(&format!("{root}{folder}/{location}"))?
        };
        if next.login.is_none() && self.same_origin(&next) {
            next.login.clone_from(&self.login);
        }
        Ok(next)
    }
}

/// Refuses a path that is not relative, or leaves its folder.
///
/// # Errors
/// [`SourceError::Escape`].
pub fn check_relative(path: &str) -> Result<(), SourceError> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.contains(['\0', '\\'])
        || path.split('/').any(|part| part == "..");
    if bad {
        return Err(SourceError::Escape(path.to_owned()));
    }
    Ok(())
}

/// A URI as written, with what stands before `@` in its authority left out.
#[must_use]
pub fn redact(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => text.to_owned(),
    }
}

fn parse_login(text: &str) -> Result<Login, &'static str> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let read = |part: &str| {
        decode(part)
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .filter(|text| !text.contains(char::is_control))
            .ok_or("its user or password is broken")
    };
    Ok(Login {
        user: read(user)?,
        password: read(password)?,
    })
}

fn split_port(address: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match address.rfind(':') {
        Some(at) if !address[at..].contains(']') => (&address[..at], Some(&address[at + 1..])),
        _ => (address, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let good = !host.is_empty()
        && if bracketed {
            host[1..host.len() - 1]
                .bytes()
                .all(|b| b.is_ascii_hexdigit() || b":.%".contains(&b))
        } else {
            host.bytes().all(allowed)
        };
    if !good {
        return Err("its host is broken");
    }
    match port {
        None | Some("") => Ok((host, None)),
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => Ok((host, Some(port))),
            _ => Err("its port is no number from 1 to 65535"),
        },
    }
}

/// Percent-encodes a path. `+` too, as apt does: some object stores read it as a space.
#[must_use]
pub fn encode(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~:@!$&'()*,;=".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
}

/// Undoes percent-encoding; `None` when it is broken.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            // from_str_radix would take a sign.
            digits
                .bytes()
                .all(|b| b.is_ascii_hexdigit())
                .then_some(())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, public) in [
            (
                "http://Mirror.Example/debian",
                "http://mirror.example/debian",
            ),
            (
                "HTTPS://u:p@a.example:444/x?y#z",
                "https://a.example:444/x?y",
            ),
            ("http://a.example:80", "http://a.example/"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("file:/srv/mirror", "file:/srv/mirror"),
            ("file:///srv/a%20b", "file:/srv/a b"),
            ("copy:/srv/mirror", "file:/srv/mirror"),
            ("file://localhost/srv", "file:/srv"),
        ] {
            assert_eq!(Uri::parse(text).unwrap().public(), public, "{text}");
        }
        let login = Uri::parse("http://me%40x:p%3aw@h/").unwrap().login.unwrap();
        assert_eq!((&*login.user, &*login.password), ("me@x", "p:w"));
    }

    #[test]
    fn refuses_the_rest_without_showing_passwords() {
        for text in [
            "",
            "mirror",
            "ftp://a/b",
            "http:/a",
            "http://",
            "http://a:0/",
            "http://a:99999/",
            "http://a b/",
            "http://a\r\nX: y/",
            "http://ä/",
            "http://u:%zz@a/",
            "http://u:%0a@a/",
            "http://a/\u{7f}",
            "file:relative",
            "file://host/path",
            "file:/%",
            "file:/%+1",
            "http://[::1/",
        ] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
        let error = Uri::parse("ftp://user:secret@h/x").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert!(!format!("{:?}", Uri::parse("http://u:secret@h/")).contains("secret"));
    }

    #[test]
    fn paths_stay_below() {
        let base = Uri::parse("http://h/debian/").unwrap();
        let path = "pool/main/g/g++/g++_1%3a2~x_all.deb";
        assert_eq!(
            base.below(path).unwrap().public(),
            "http://h/debian/pool/main/g/g%2b%2b/g%2b%2b_1%253a2~x_all.deb"
        );
        for path in ["", "/etc/passwd", "../x", "a/../b", "a/..", "a\\b", "a\0b"] {
            assert!(base.below(path).is_err(), "{path}");
        }
    }

    #[test]
    fn redirects_resolve_and_logins_stay_with_their_server() {
        let from = Uri::parse("http://u:p@h:81/a/b?c").unwrap();
        for (location, public, login) in [
            ("/x", "http://h:81/x", true),
            ("x", "http://h:81/a/x", true),
            ("//other/x", "http://other/x", false),
            ("http://h:81/y", "http://h:81/y", true),
            ("http://h/y", "http://h/y", false),
            ("https://h:81/y", "https://h:81/y", false),
            ("file:/etc/passwd", "file:/etc/passwd", false),
        ] {
            let next = from.resolve(location).unwrap();
            assert_eq!(next.public(), public);
            assert_eq!(next.login.is_some(), login, "{location}");
        }
    }

    #[test]
    fn mutated_uris_do_not_panic() {
        slipform_fuzz::fuzz(&[b"http://u%40:p@[::1]:80/a%2b/../b?c#d"], |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            let _redacted = redact(&text);
            if let Ok(uri) = Uri::parse(&text) {
                if uri.scheme != Scheme::File {
                    assert_eq!(Uri::parse(&uri.public()).unwrap().public(), uri.public());
                }
                let _next = uri.resolve(&text);
            }
        });
    }
}
