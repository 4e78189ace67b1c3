//! apt's sources (sources.list(5)): the one-line form and deb822.

use std::path::PathBuf;

use super::Host;
use super::apt_conf::is_off;

/// Most sources that are looked at; a host has a handful.
const LIMIT: usize = 1_000;

/// A source of binary packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptEntry {
    /// Base URIs, as written.
    pub uris: Vec<String>,
    /// Suites, as written.
    pub suites: Vec<String>,
    /// Whether apt takes an expired Release from here (`check-valid-until=no`).
    pub allow_expired: bool,
    /// The file that says so.
    pub file: PathBuf,
}

/// All sources of the host, in apt's order.
#[must_use]
pub fn load(host: &Host) -> Vec<AptEntry> {
    let mut files = vec![host.at("/etc/apt/sources.list")];
    files.extend(host.list("/etc/apt/sources.list.d", &["list", "sources"]));
    let mut entries = Vec::new();
    for file in files {
        let Some(text) = Host::read(&file) else {
            continue;
        };
        let deb822 = file.extension().is_some_and(|e| e == "sources");
        let found = if deb822 {
            parse_deb822(&text)
        } else {
            parse_lines(&text)
        };
        entries.extend(found.into_iter().map(|entry| AptEntry {
            file: file.clone(),
            ..entry
        }));
    }
    entries.truncate(LIMIT);
    entries
}

/// Reads the one-line form: `deb [option=value …] uri suite [component …]`.
#[must_use]
pub fn parse_lines(text: &str) -> Vec<AptEntry> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<AptEntry> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    // cdrom:[a label with spaces]/ is no mirror.
    let mut words = rest.split_whitespace();
    let uri = words.next().filter(|uri| !uri.starts_with("cdrom:"))?;
    let suite = words.next()?;
    let allow_expired = options.split_whitespace().any(|option| {
        option.split_once('=').is_some_and(|(key, value)| {
            key.eq_ignore_ascii_case("check-valid-until") && is_off(value)
        })
    });
    entry(vec![uri.to_owned()], vec![suite.to_owned()], allow_expired)
}

/// Reads the deb822 form: paragraphs of `Types`, `URIs`, `Suites`, ….
#[must_use]
pub fn parse_deb822(text: &str) -> Vec<AptEntry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(paragraph(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn paragraph(fields: &[(String, String)]) -> Option<AptEntry> {
    let get = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let words = |name: &str| {
        get(name)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    if get("enabled").is_some_and(is_off) || !words("types").iter().any(|t| t == "deb") {
        return None;
    }
    let allow_expired = get("check-valid-until").is_some_and(is_off);
    entry(words("uris"), words("suites"), allow_expired)
}

fn entry(uris: Vec<String>, suites: Vec<String>, allow_expired: bool) -> Option<AptEntry> {
    let uris: Vec<_> = uris
        .into_iter()
        .filter(|uri| !uri.starts_with("cdrom:"))
        .collect();
    // A suite that ends in a slash is a flat folder of packages, no archive.
    let suites: Vec<_> = suites.into_iter().filter(|s| !s.ends_with('/')).collect();
    (!uris.is_empty() && !suites.is_empty()).then_some(AptEntry {
        uris,
        suites,
        allow_expired,
        file: PathBuf::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(entries: &[AptEntry]) -> Vec<(String, String, bool)> {
        entries
            .iter()
            .map(|e| (e.uris.join(" "), e.suites.join(" "), e.allow_expired))
            .collect()
    }

    fn row(uris: &str, suites: &str, expired: bool) -> (String, String, bool) {
        (uris.to_owned(), suites.to_owned(), expired)
    }

    #[test]
    fn one_line_form() {
        let entries = parse_lines(
            "# deb http://comment/ x main\n\
             deb http://m.example/debian bookworm main contrib # tail\n\
             deb-src http://m.example/debian bookworm main\n\
             deb [ arch=amd64 check-valid-until=no signed-by=/k ] http://s.example/x trixie main\n\
             deb cdrom:[Debian GNU/Linux 12]/ bookworm main\n\
             deb http://flat.example ./\n\
             deb\thttp://tab.example\ttrixie\tmain\n\
             deb [unclosed http://x y\n\
             deb\n\
             debug http://x y\n",
        );
        assert_eq!(
            short(&entries),
            [
                row("http://m.example/debian", "bookworm", false),
                row("http://s.example/x", "trixie", true),
                row("http://tab.example", "trixie", false),
            ]
        );
    }

    #[test]
    fn deb822_form() {
        let entries = parse_deb822(
            "Types: deb deb-src\n\
             # a comment between\n\
             URIs: http://a.example/debian\n  http://b.example/debian\n\
             Suites: trixie trixie-updates\n\
             Components: main\n\
             Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n\
             \n\
             types: deb\nuris: http://s.example/\nsuites: x-security\ncheck-valid-until: no\n\
             \n\
             Types: deb\nURIs: http://off.example\nSuites: x\nEnabled: no\n\
             \n\
             Types: deb-src\nURIs: http://src.example\nSuites: x\n\
             \n\
             Types: deb\nURIs: http://flat.example\nSuites: ./",
        );
        assert_eq!(
            short(&entries),
            [
                row(
                    "http://a.example/debian http://b.example/debian",
                    "trixie trixie-updates",
                    false
                ),
                row("http://s.example/", "x-security", true),
            ]
        );
    }

    #[test]
    fn mutated_files_do_not_panic() {
        let seed = b"deb [a=b] http://x y main\nTypes: deb\nURIs: http://a\n b\nSuites: c\n\n";
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            let _lines = parse_lines(&text);
            let _paragraphs = parse_deb822(&text);
        });
    }
}
