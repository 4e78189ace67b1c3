//! Relations between packages (deb-control(5), Debian policy chapter 7), and the
//! user's own wish syntax.
//!
//! `a (>= 1) | b:any [amd64] <!nocheck>, c`: groups separated by commas, each of
//! alternatives separated by bars.

use std::cmp::Ordering;
use std::fmt;

use super::version;

/// Most alternatives in one group.
const MAX_ALTERNATIVES: usize = 256;

/// How a version is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `<<`
    Less,
    /// `<=`, also the old spelling `<`
    LessEqual,
    /// `=`
    Equal,
    /// `>=`, also the old spelling `>`
    GreaterEqual,
    /// `>>`
    Greater,
}

/// One alternative of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// Package name, real or virtual.
    pub name: &'a str,
    /// What follows the colon: `any`, `native` or an architecture.
    pub qualifier: Option<&'a str>,
    /// The version asked for.
    pub version: Option<(Op, &'a str)>,
}

/// A text that is no relation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is no package relation: {problem}; write name, name (>= version) or name=version"
)]
pub struct RelationError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// A package that the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its name.
    pub name: String,
    /// Which versions will do.
    pub version: Option<(Op, String)>,
}

impl Op {
    /// Whether `version` stands in this relation to `wanted`.
    #[must_use]
    pub fn holds(self, version: &str, wanted: &str) -> bool {
        let order = version::compare(version, wanted);
        match self {
            Self::Less => order == Ordering::Less,
            Self::LessEqual => order != Ordering::Greater,
            Self::Equal => order == Ordering::Equal,
            Self::GreaterEqual => order != Ordering::Less,
            Self::Greater => order == Ordering::Greater,
        }
    }

    /// The longest operator that `text` starts with, and the rest.
    fn parse(text: &str) -> Option<(Self, &str)> {
        [
            ("<<", Self::Less),
            ("<=", Self::LessEqual),
            (">=", Self::GreaterEqual),
            (">>", Self::Greater),
            ("<", Self::LessEqual),
            (">", Self::GreaterEqual),
            ("=", Self::Equal),
        ]
        .into_iter()
        .find_map(|(sign, op)| Some((op, text.strip_prefix(sign)?)))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<<",
            Self::LessEqual => "<=",
            Self::Equal => "=",
            Self::GreaterEqual => ">=",
            Self::Greater => ">>",
        })
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.version {
            Some((op, version)) => write!(f, " ({op} {version})"),
            None => Ok(()),
        }
    }
}

impl<'a> Relation<'a> {
    /// Whether a real package of this name in `version` will do.
    #[must_use]
    pub fn accepts(&self, version: &str) -> bool {
        self.version
            .is_none_or(|(op, wanted)| op.holds(version, wanted))
    }

    /// Whether a package that provides this name will do: without a version only
    /// where none is asked for (policy 7.5).
    #[must_use]
    pub fn accepts_provided(&self, version: Option<&str>) -> bool {
        match (self.version, version) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((op, wanted)), Some(version)) => op.holds(version, wanted),
        }
    }
}

/// The groups of a relation field. Alternatives for other architectures or for
/// build profiles are left out, and so is a group of nothing else. Empty groups
/// (a comma too many) are passed over, as dpkg does.
pub fn groups<'a>(
    text: &'a str,
    arch: &'a str,
) -> impl Iterator<Item = Result<Vec<Relation<'a>>, RelationError>> {
    text.split(',')
        .filter(|group| !group.trim().is_empty())
        .map(move |group| {
            if group.split('|').count() > MAX_ALTERNATIVES {
                return Err(error(
                    &group[..group.len().min(64)],
                    "it has too many alternatives",
                ));
            }
            group
                .split('|')
                .filter_map(|text| relation(text, arch).transpose())
                .collect()
        })
        .filter(|group: &Result<Vec<_>, _>| !matches!(group, Ok(group) if group.is_empty()))
}

/// One relation; `None` when it is for other architectures or profiles.
fn relation<'a>(text: &'a str, arch: &str) -> Result<Option<Relation<'a>>, RelationError> {
    let whole = text;
    let text = text.trim();
    let end = text
        .find(|c: char| c.is_ascii_whitespace() || "([<".contains(c))
        .unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    if !is_name(name) || qualifier.is_some_and(|q| !is_name(q)) {
        return Err(error(whole, "the name has characters that no package has"));
    }
    let mut found = Relation {
        name,
        qualifier,
        version: None,
    };
    let mut ours = true;
    loop {
        rest = rest.trim_start();
        let (close, kind) = match rest.bytes().next() {
            None => return Ok(ours.then_some(found)),
            Some(b'(') => (')', '('),
            Some(b'[') => (']', '['),
            Some(b'<') => ('>', '<'),
            Some(_) => return Err(error(whole, "there is more behind the name")),
        };
        let (inside, next) = rest[1..]
            .split_once(close)
            .ok_or_else(|| error(whole, "a bracket is not closed"))?;
        rest = next;
        match kind {
            '(' if found.version.is_none() => found.version = Some(constraint(inside, whole)?),
            '(' => return Err(error(whole, "it has two versions")),
            '[' => ours &= for_arch(inside, arch),
            // No build profile is ever active here.
            _ => ours &= inside.split_ascii_whitespace().all(|p| p.starts_with('!')),
        }
    }
}

fn constraint<'a>(inside: &'a str, whole: &str) -> Result<(Op, &'a str), RelationError> {
    let (op, version) =
        Op::parse(inside.trim()).ok_or_else(|| error(whole, "the version has no operator"))?;
    let version = version.trim();
    if version::is_valid(version) {
        Ok((op, version))
    } else {
        Err(error(whole, "the version is none"))
    }
}

/// `[amd64 arm64]` names those it is for, `[!i386]` those it is not for.
fn for_arch(list: &str, arch: &str) -> bool {
    let matches = |word: &str| {
        word == arch
            || word == "any"
            || word == "linux-any"
            || word.strip_prefix("any-") == Some(arch)
    };
    let mut words = list.split_ascii_whitespace().peekable();
    if words.peek().is_some_and(|word| word.starts_with('!')) {
        words.all(|word| !word.strip_prefix('!').is_some_and(matches))
    } else {
        words.any(matches)
    }
}

/// Whether `name` is made of what Debian allows in package names (policy 5.6.1),
/// and of what other archives use beside it.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
}

impl Wish {
    /// Reads `name`, `name (>= version)` or `name=version`.
    ///
    /// # Errors
    /// [`RelationError`] for anything else; alternatives and other architectures included.
    pub fn parse(text: &str) -> Result<Self, RelationError> {
        let trimmed = text.trim();
        if let Some((name, version)) = trimmed.split_once('=')
            && !trimmed.contains('(')
        {
            if !is_name(name.trim()) || !version::is_valid(version.trim()) {
                return Err(error(text, "the name or the version is none"));
            }
            return Ok(Self {
                name: name.trim().to_owned(),
                version: Some((Op::Equal, version.trim().to_owned())),
            });
        }
        if trimmed.contains([',', '|', ':', '[', ']']) && !trimmed.contains('(') {
            return Err(error(text, "name one package"));
        }
        let found = relation(trimmed, "")?.ok_or_else(|| error(text, "name one package"))?;
        if found.qualifier.is_some() {
            return Err(error(text, "an architecture cannot be chosen"));
        }
        Ok(Self {
            name: found.name.to_owned(),
            version: found.version.map(|(op, version)| (op, version.to_owned())),
        })
    }

    /// The wish as a relation.
    #[must_use]
    pub fn relation(&self) -> Relation<'_> {
        Relation {
            name: &self.name,
            qualifier: None,
            version: self.version.as_ref().map(|(op, v)| (*op, v.as_str())),
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.relation().fmt(f)
    }
}

fn error(text: &str, problem: &'static str) -> RelationError {
    RelationError {
        text: text.trim().chars().take(128).collect(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, RelationError> {
        let groups: Result<Vec<_>, _> = groups(text, "amd64").collect();
        Ok(groups?
            .iter()
            .map(|group| {
                let group: Vec<String> = group.iter().map(ToString::to_string).collect();
                group.join(" | ")
            })
            .collect::<Vec<_>>()
            .join(", "))
    }

    #[test]
    fn reads_what_debian_writes() {
        for (text, expected) in [
            ("libc6 (>= 2.38), libssl3t64", "libc6 (>= 2.38), libssl3t64"),
            ("a|b(<<1)|c ( = 1:2-3 )", "a | b (<< 1) | c (= 1:2-3)"),
            ("python3:any (>= 3.13~)", "python3 (>= 3.13~)"),
            ("a [amd64], b [i386], c [!i386] | d [!amd64]", "a, c"),
            ("a <!nocheck>, b <cross>, c [linux-any]", "a, c"),
            ("a,\n b,, c ,", "a, b, c"),
            ("a (< 1), b (> 2)", "a (<= 1), b (>= 2)"),
            ("", ""),
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_relation() {
        for text in [
            "a b",
            "a (1)",
            "a (>= )",
            "a (>= 1",
            "a (>= 1) (<< 2)",
            "ä",
            "a:",
            "|",
            "a | ",
            "a (>= 1) x",
            "/etc",
            &"|".repeat(1000),
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_wishes() {
        for (text, expected) in [
            ("redis-server", "redis-server"),
            (" redis-server (>= 5:7) ", "redis-server (>= 5:7)"),
            ("redis-server=5:8.0.2-3", "redis-server (= 5:8.0.2-3)"),
            ("a (= 1)", "a (= 1)"),
        ] {
            assert_eq!(Wish::parse(text).unwrap().to_string(), expected);
        }
        for text in [
            "",
            "a b",
            "a | b",
            "a, b",
            "a=",
            "=1",
            "a:i386",
            "a [amd64]",
            "a/b",
            "A b",
        ] {
            assert!(Wish::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn virtual_packages_need_a_version_where_one_is_asked_for() {
        let plain = Wish::parse("mta").unwrap();
        let versioned = Wish::parse("mta (>= 2)").unwrap();
        assert!(plain.relation().accepts_provided(None));
        assert!(plain.relation().accepts_provided(Some("1")));
        assert!(!versioned.relation().accepts_provided(None));
        assert!(!versioned.relation().accepts_provided(Some("1")));
        assert!(versioned.relation().accepts_provided(Some("2")));
    }
}
