//! Logins for mirrors: apt's `auth.conf` (apt_auth.conf(5)) and `~/.netrc`.
//!
//! A login belongs to a host and is never sent to another one. Without a
//! scheme, an entry of apt's is for https only, as in apt; one of `.netrc` is
//! for both, as in curl.

use super::Host;
use super::uri::{Login, Scheme, Uri};

/// All logins of the host, in the order in which they are asked.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// `None` for netrc's `default`.
    machine: Option<Machine>,
    login: Login,
}

#[derive(Debug, Clone)]
struct Machine {
    schemes: &'static [Scheme],
    host: String,
    port: Option<u16>,
    path: String,
}

/// Whose rules a file follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `auth.conf`.
    Apt,
    /// `.netrc`.
    Netrc,
}

impl Credentials {
    /// Reads the host's files; those that cannot be read are left out.
    #[must_use]
    pub fn load(host: &Host) -> Self {
        let mut all = Self::default();
        let mut apt = vec![host.at("/etc/apt/auth.conf")];
        apt.extend(host.list("/etc/apt/auth.conf.d", &["", "conf"]));
        for text in apt.iter().filter_map(|path| Host::read(path)) {
            all.add(&text, Dialect::Apt);
        }
        let netrc = match host.var("NETRC") {
            Some(path) => Some(path.into()),
            None => host.home().map(|home| home.join(".netrc")),
        };
        if let Some(text) = netrc.and_then(|path| Host::read(&path)) {
            all.add(&text, Dialect::Netrc);
        }
        all
    }

    /// Reads one file's text.
    pub fn add(&mut self, text: &str, dialect: Dialect) {
        let words = words(text, dialect);
        let mut words = words.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            let machine = match word {
                "machine" => match words.next() {
                    Some(name) => Some(Machine::parse(name, dialect)),
                    None => return,
                },
                "default" if dialect == Dialect::Netrc => None,
                _ => continue,
            };
            let mut login = Login {
                user: String::new(),
                password: String::new(),
            };
            while let Some(word) = words.next_if(|word| !["machine", "default"].contains(word)) {
                let field = match word {
                    "login" => &mut login.user,
                    "password" => &mut login.password,
                    _ => continue,
                };
                words.next().unwrap_or_default().clone_into(field);
            }
            let sound = !login.user.contains(char::is_control)
                && !login.password.contains(char::is_control);
            if sound {
                self.entries.push(Entry { machine, login });
            }
        }
    }

    /// The login for a URI: its own, else the first one of the files that fits.
    #[must_use]
    pub fn find(&self, uri: &Uri) -> Option<Login> {
        if uri.login.is_some() {
            return uri.login.clone();
        }
        self.entries
            .iter()
            .find(|entry| entry.machine.as_ref().is_none_or(|m| m.fits(uri)))
            .map(|entry| entry.login.clone())
    }
}

impl Machine {
    fn parse(name: &str, dialect: Dialect) -> Self {
        let (schemes, rest): (&'static [Scheme], _) = match name.split_once("://") {
            Some(("http", rest)) => (&[Scheme::Http], rest),
            Some(("https", rest)) => (&[Scheme::Https], rest),
            Some((_, rest)) => (&[], rest),
            None if dialect == Dialect::Apt => (&[Scheme::Https], name),
            None => (&[Scheme::Http, Scheme::Https], name),
        };
        let end = rest.find('/').unwrap_or(rest.len());
        let (address, path) = rest.split_at(end);
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => match port.parse() {
                Ok(port) => (host, Some(port)),
                // A port that is none fits nothing.
                Err(_) => ("", None),
            },
            _ => (address, None),
        };
        Self {
            schemes,
            host: host.to_ascii_lowercase(),
            port,
            path: path.to_owned(),
        }
    }

    fn fits(&self, uri: &Uri) -> bool {
        self.schemes.contains(&uri.scheme)
            && self.host == uri.host
            && self.port.is_none_or(|port| port == uri.port)
            && uri.path.starts_with(&self.path)
    }
}

/// Words, comments and macros left out.
fn words(text: &str, dialect: Dialect) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        if in_macro {
            // A macro ends with an empty line.
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, tail) = next_word(rest, dialect);
            rest = tail.trim_start();
            if word == "macdef" {
                in_macro = true;
                break;
            }
            words.push(word);
        }
    }
    words
}

fn next_word(text: &str, dialect: Dialect) -> (String, &str) {
    if dialect == Dialect::Netrc
        && let Some(quoted) = text.strip_prefix('"')
    {
        let mut word = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return (word, &quoted[at + 1..]),
                '\\' => word.extend(chars.next().map(|(_, c)| c)),
                c => word.push(c),
            }
        }
        return (word, "");
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (text[..end].to_owned(), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(all: &Credentials, uri: &str) -> String {
        all.find(&Uri::parse(uri).unwrap())
            .map(|login| format!("{}/{}", login.user, login.password))
            .unwrap_or_default()
    }

    #[test]
    fn apts_rules() {
        let mut all = Credentials::default();
        all.add(
            "machine a.example login u1 password p1 # tail\n\
             machine http://a.example/debian\n  login u2\n  password p2\n\
             machine b.example:8443 login u3 password p3\n\
             machine ftp://c.example login u4 password p4\n\
             default login u5 password p5\n",
            Dialect::Apt,
        );
        for (uri, expected) in [
            ("https://a.example/x", "u1/p1"),
            ("https://a.example:444/x", "u1/p1"),
            ("http://a.example/debian/x", "u2/p2"),
            ("http://a.example/other", ""),
            ("https://b.example:8443/", "u3/p3"),
            ("https://b.example/", ""),
            ("https://c.example/", ""),
            ("https://sub.a.example/", ""),
            ("https://me:own@a.example/", "me/own"),
        ] {
            assert_eq!(user(&all, uri), expected, "{uri}");
        }
    }

    #[test]
    fn netrcs_rules() {
        let mut all = Credentials::default();
        all.add(
            "machine a.example login u1 password \"p w\\\"1\"\nmacdef init\nmachine evil.example login e password e\n\n\
             machine b.example login u2 password p#2\ndefault login d password dp\n",
            Dialect::Netrc,
        );
        for (uri, expected) in [
            ("http://a.example/", "u1/p w\"1"),
            ("https://b.example/", "u2/p#2"),
            ("https://evil.example/", "d/dp"),
        ] {
            assert_eq!(user(&all, uri), expected, "{uri}");
        }
    }

    #[test]
    fn files_of_the_host() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/apt/auth.conf", "machine a login 1 password x");
        write(
            "etc/apt/auth.conf.d/10-b.conf",
            "machine b login 2 password x",
        );
        write(
            "home/.netrc",
            "machine a login 3 password x machine c login 4 password x",
        );
        let home = root.path().join("home");
        let host = Host::fake(root.path(), &[("HOME", home.to_str().unwrap())]);
        let all = Credentials::load(&host);
        for (uri, expected) in [
            ("https://a/", "1/x"),
            ("https://b/", "2/x"),
            ("http://c/", "4/x"),
        ] {
            assert_eq!(user(&all, uri), expected);
        }
    }

    #[test]
    fn mutated_files_do_not_panic() {
        let seed =
            b"machine http://a:1/p login \"u\\\"\" password p\nmacdef x\n\ndefault login d\n";
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            for dialect in [Dialect::Apt, Dialect::Netrc] {
                Credentials::default().add(&String::from_utf8_lossy(bytes), dialect);
            }
        });
    }
}
