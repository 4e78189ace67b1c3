//! apt's configuration (apt.conf(5)): the few settings that say how to fetch.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Host;

/// Deepest nesting of blocks that is followed.
const DEPTH: usize = 32;

/// The host's settings: keys in lower case, parts joined by `::`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AptConf(BTreeMap<String, String>);

impl AptConf {
    /// Reads the host's files in apt's order: `apt.conf.d/`, `apt.conf`, and what
    /// `APT_CONFIG` names before both. What cannot be read is left out.
    #[must_use]
    pub fn load(host: &Host) -> Self {
        let mut files: Vec<PathBuf> = Vec::new();
        files.extend(host.var("APT_CONFIG").map(PathBuf::from));
        files.extend(host.list("/etc/apt/apt.conf.d", &["", "conf"]));
        files.push(host.at("/etc/apt/apt.conf"));
        let mut conf = Self::default();
        for text in files.iter().filter_map(|path| Host::read(path)) {
            conf.add(&text);
        }
        conf
    }

    /// Reads one file's text; later settings win.
    pub fn add(&mut self, text: &str) {
        let mut stack: Vec<String> = Vec::new();
        let mut statement: Vec<String> = Vec::new();
        for token in tokens(text) {
            match token {
                Token::Word(word) => statement.push(word),
                Token::Open => {
                    let name = statement.first().cloned().unwrap_or_default();
                    statement.clear();
                    stack.push(name);
                }
                Token::End => self.set(&stack, &mut statement),
                Token::Close => {
                    self.set(&stack, &mut statement);
                    stack.pop();
                }
            }
            if stack.len() > DEPTH {
                return;
            }
        }
        self.set(&stack, &mut statement);
    }

    fn set(&mut self, stack: &[String], statement: &mut Vec<String>) {
        if let [name, value, ..] = statement.as_slice() {
            if name.eq_ignore_ascii_case("#clear") {
                let prefix = value.to_ascii_lowercase();
                self.0.retain(|key, _| {
                    key.strip_prefix(&prefix)
                        .is_none_or(|rest| !(rest.is_empty() || rest.starts_with("::")))
                });
            } else if !name.starts_with('#') {
                let key = stack
                    .iter()
                    .chain([name])
                    .map(|part| part.to_ascii_lowercase())
                    .collect::<Vec<_>>()
                    .join("::");
                self.0.insert(key, value.clone());
            }
        }
        statement.clear();
    }

    /// A setting that is not empty; case does not matter.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(&key.to_ascii_lowercase())
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A setting that says no (apt's StringToBool).
    #[must_use]
    pub fn is_off(&self, key: &str) -> bool {
        self.get(key).is_some_and(is_off)
    }
}

/// Whether a value says no: `no`, `false`, `without`, `off`, `disable`, `0`.
#[must_use]
pub fn is_off(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    ["no", "false", "without", "off", "disable", "0"].contains(&value.as_str())
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
    End,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") || (rest.starts_with('#') && !is_directive(rest)) {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, rest)| rest);
        } else if let Some(quoted) = rest.strip_prefix('"') {
            // A value does not span lines: an unclosed quote ends with its line.
            let line = quoted.split('\n').next().unwrap_or("");
            let end = line.find('"').unwrap_or(line.len());
            tokens.push(Token::Word(quoted[..end].to_owned()));
            let tail = &quoted[end..];
            rest = tail.strip_prefix('"').unwrap_or(tail);
        } else if let Some(token) = match first {
            '{' => Some(Token::Open),
            '}' => Some(Token::Close),
            ';' => Some(Token::End),
            _ => None,
        } {
            tokens.push(token);
            rest = &rest[1..];
        } else if first.is_whitespace() {
            rest = rest.trim_start();
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || "{};\"".contains(c))
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    tokens
}

fn is_directive(text: &str) -> bool {
    ["#clear", "#include", "#x-apt-configure-index"]
        .iter()
        .any(|word| text.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> AptConf {
        let mut conf = AptConf::default();
        conf.add(text);
        conf
    }

    #[test]
    fn both_ways_of_writing() {
        let conf = conf(
            r#"
            // a comment with "quotes"; and {braces}
            # another
            /* Acquire::http::Proxy "http://commented:1"; */
            Acquire::http::Proxy "http://proxy.example:3128/";
            Acquire {
              Check-Valid-Until "false";
              http { Proxy { mirror.example "DIRECT"; }; };
              Retries 3;
            };
            DPkg::Post-Invoke { "some command; with { things }"; };
            APT::Last "without semicolon"
            "#,
        );
        assert_eq!(
            conf.get("acquire::HTTP::proxy"),
            Some("http://proxy.example:3128/")
        );
        assert_eq!(
            conf.get("Acquire::http::Proxy::mirror.example"),
            Some("DIRECT")
        );
        assert!(conf.is_off("Acquire::Check-Valid-Until"));
        assert_eq!(conf.get("Acquire::Retries"), Some("3"));
        assert_eq!(conf.get("APT::Last"), Some("without semicolon"));
        assert_eq!(conf.get("DPkg::Post-Invoke"), None);
    }

    #[test]
    fn later_settings_win_and_clear_clears() {
        let conf = conf("A::b \"1\"; A::b \"2\"; C { d \"3\"; }; Cx \"4\"; #clear C;");
        assert_eq!(conf.get("a::b"), Some("2"));
        assert_eq!(conf.get("c::d"), None);
        assert_eq!(conf.get("cx"), Some("4"));
    }

    #[test]
    fn files_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/apt/apt.conf.d");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("20two"), "A \"two\";").unwrap();
        std::fs::write(etc.join("10one"), "A \"one\"; B \"one\";").unwrap();
        std::fs::write(etc.join("30ignored.bak"), "A \"bak\";").unwrap();
        std::fs::write(etc.join("40ignored~"), "A \"old\";").unwrap();
        std::fs::write(etc.join("50three.conf"), "B \"three\";").unwrap();
        let conf = AptConf::load(&Host::fake(root.path(), &[]));
        assert_eq!(conf.get("A"), Some("two"));
        assert_eq!(conf.get("B"), Some("three"));
    }

    #[test]
    fn broken_files_do_not_panic() {
        for text in [
            "}",
            "{",
            "\"",
            "a \"b",
            "/*",
            "#",
            ";;;",
            "a{b{c}}d",
            "é{ü \"ß\";}",
        ] {
            let _any = conf(text);
        }
        let _any = conf(&"a{".repeat(100_000));
        let seed = b"A::b \"1\"; C { d \"3\"; }; #clear C; /* x */ // y\n";
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            let _any = conf(&String::from_utf8_lossy(bytes));
        });
    }
}
