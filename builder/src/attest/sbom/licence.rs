//! Licences from machine-readable copyright files (DEP-5,
//! debian.org/doc/packaging-manuals/copyright-format/1.0) as SPDX expressions.
//! Names that SPDX does not have become `LicenseRef-Debian-…`, with the text that
//! the file gives. Files in free text say nothing here.

use std::collections::{BTreeMap, BTreeSet};

/// Longest file that is read, in bytes; Debian's longest has 1.6 MB.
const LONGEST: usize = 4 * 1024 * 1024;
/// Longest licence text that is kept, in bytes.
const LONGEST_TEXT: usize = 64 * 1024;

/// What a copyright file declares.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// All licences of the package's files, joined by `AND`.
    pub(super) expression: String,
    /// Texts of those that SPDX does not know, by their id.
    pub(super) own: BTreeMap<String, String>,
}

/// Names that are written differently, in lower case, and those that are the same.
const NAMES: &[(&str, &str)] = &[
    ("0bsd", "0BSD"),
    ("apache-2", "Apache-2.0"),
    ("apache-2.0", "Apache-2.0"),
    ("artistic", "Artistic-1.0"),
    ("artistic-1.0", "Artistic-1.0"),
    ("artistic-2", "Artistic-2.0"),
    ("artistic-2.0", "Artistic-2.0"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-4-clause", "BSD-4-Clause"),
    ("bsl-1.0", "BSL-1.0"),
    ("cc-by-3.0", "CC-BY-3.0"),
    ("cc-by-4.0", "CC-BY-4.0"),
    ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
    ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
    ("cc0", "CC0-1.0"),
    ("cc0-1.0", "CC0-1.0"),
    ("cddl-1.0", "CDDL-1.0"),
    ("curl", "curl"),
    ("epl-1.0", "EPL-1.0"),
    ("epl-2.0", "EPL-2.0"),
    ("expat", "MIT"),
    ("isc", "ISC"),
    ("mit", "MIT"),
    ("mit-0", "MIT-0"),
    ("mpl-1.1", "MPL-1.1"),
    ("mpl-2.0", "MPL-2.0"),
    ("ofl-1.1", "OFL-1.1"),
    ("openssl", "OpenSSL"),
    ("postgresql", "PostgreSQL"),
    ("unlicense", "Unlicense"),
    ("wtfpl", "WTFPL"),
    ("zlib", "Zlib"),
    ("zpl-2.1", "ZPL-2.1"),
];

/// Families with versions and `+`: name, and the versions that SPDX has.
const FAMILIES: &[(&str, &[&str])] = &[
    ("AGPL", &["1.0", "3.0"]),
    ("GFDL", &["1.1", "1.2", "1.3"]),
    ("GPL", &["1.0", "2.0", "3.0"]),
    ("LGPL", &["2.0", "2.1", "3.0"]),
];

/// What `text` declares; `None` when it is no DEP-5 or declares nothing.
pub(super) fn declared(text: &str) -> Option<Declared> {
    if text.len() > LONGEST {
        return None;
    }
    let mut paragraphs = paragraphs(text);
    let header = paragraphs.next()?;
    header.iter().find(|(name, value)| {
        name.eq_ignore_ascii_case("format") && value.contains("copyright-format/1.0")
    })?;
    let mut names = BTreeSet::new();
    let mut texts = BTreeMap::new();
    for paragraph in paragraphs {
        let field = |wanted: &str| {
            let found = paragraph
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.as_str())
        };
        let Some(licence) = field("license") else {
            continue;
        };
        let (name, text) = licence.split_once('\n').unwrap_or((licence, ""));
        let name = name.trim();
        if !text.is_empty() {
            texts
                .entry(name.to_owned())
                .or_insert_with(|| text.to_owned());
        }
        if field("files").is_some() && !name.is_empty() {
            names.insert(name.to_owned());
        }
    }
    let mut own = BTreeMap::new();
    let parts: BTreeSet<String> = names
        .iter()
        .map(|name| expression(name, &texts, &mut own))
        .collect();
    if parts.is_empty() {
        return None;
    }
    let several = parts.len() > 1;
    let parts: Vec<String> = parts
        .into_iter()
        .map(|part| {
            if several && part.contains(' ') {
                format!("({part})")
            } else {
                part
            }
        })
        .collect();
    Some(Declared {
        expression: parts.join(" AND "),
        own,
    })
}

/// Fields of each paragraph; continuation lines keep their line breaks.
fn paragraphs(text: &str) -> impl Iterator<Item = Vec<(String, String)>> {
    text.split("\n\n")
        .map(|paragraph| {
            let mut fields: Vec<(String, String)> = Vec::new();
            for line in paragraph.lines().filter(|line| !line.starts_with('#')) {
                if line.starts_with([' ', '\t']) {
                    if let Some((_, value)) = fields.last_mut()
                        && value.len() < LONGEST_TEXT
                    {
                        value.push('\n');
                        let line = line.trim();
                        value.push_str(if line == "." { "" } else { line });
                    }
                } else if let Some((name, value)) = line.split_once(':') {
                    fields.push((name.trim().to_owned(), value.trim().to_owned()));
                }
            }
            fields
        })
        .filter(|fields| !fields.is_empty())
}

/// A short name, or several with `and` and `or`, in SPDX's words.
fn expression(
    name: &str,
    texts: &BTreeMap<String, String>,
    own: &mut BTreeMap<String, String>,
) -> String {
    let mut reference = |name: &str| {
        let id = format!("LicenseRef-Debian-{}", super::idstring(name));
        let text = texts.get(name).cloned();
        let text = text.unwrap_or_else(|| format!("'{name}': see the package's copyright file"));
        own.insert(id.clone(), text);
        id
    };
    let words: Vec<&str> = name.split_ascii_whitespace().collect();
    let joined = words.len() % 2 == 1
        && words.iter().enumerate().all(|(n, word)| {
            let joins = word.eq_ignore_ascii_case("and") || word.eq_ignore_ascii_case("or");
            joins == (n % 2 == 1) && !word.ends_with(',')
        });
    // Commas and exceptions have a grammar of their own: kept whole.
    if !joined {
        return reference(name);
    }
    let words: Vec<String> = words
        .iter()
        .enumerate()
        .map(|(n, word)| match n % 2 {
            1 => word.to_ascii_uppercase(),
            _ => spdx(word).unwrap_or_else(|| reference(word)),
        })
        .collect();
    words.join(" ")
}

/// SPDX's name of a DEP-5 short name.
fn spdx(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, known)) = NAMES.iter().find(|(debian, _)| *debian == lower) {
        return Some((*known).to_owned());
    }
    let (family, version) = lower.split_once('-')?;
    let (family, versions) = FAMILIES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(family))?;
    let (version, later) = match version.strip_suffix('+') {
        Some(version) => (version, "or-later"),
        None => (version, "only"),
    };
    let full = versions
        .iter()
        .find(|full| **full == version || full.strip_suffix(".0") == Some(version))?;
    Some(format!("{family}-{full}-{later}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names() {
        for (debian, expected) in [
            ("GPL-2+", Some("GPL-2.0-or-later")),
            ("GPL-3", Some("GPL-3.0-only")),
            ("LGPL-2.1+", Some("LGPL-2.1-or-later")),
            ("gfdl-1.3", Some("GFDL-1.3-only")),
            ("Expat", Some("MIT")),
            ("BSD-3-clause", Some("BSD-3-Clause")),
            ("GPL-9", None),
            ("public-domain", None),
            ("GPL", None),
        ] {
            assert_eq!(spdx(debian).as_deref(), expected, "{debian}");
        }
    }

    const COPYRIGHT: &str =
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: x

Files: *
Copyright: 2020 A
License: GPL-2+ or Artistic

Files: lib/*
License: odd
 Do what
 .
 you like.

Files: b
License: GPL-2+ with OpenSSL exception

License: GPL-2+
 On Debian systems …
";

    #[test]
    fn a_file_with_several_licences() {
        let declared = declared(COPYRIGHT).unwrap();
        assert_eq!(
            declared.expression,
            "(GPL-2.0-or-later OR Artistic-1.0) AND LicenseRef-Debian-GPL-2--with-OpenSSL-exception AND LicenseRef-Debian-odd"
        );
        assert_eq!(
            declared.own["LicenseRef-Debian-odd"],
            "Do what\n\nyou like."
        );
        assert_eq!(declared.own.len(), 2);
    }

    #[test]
    fn free_text_says_nothing() {
        for text in [
            "",
            "This is free software.\n\nLicense: GPL",
            "Format: x\n\nFiles: *\nLicense: GPL-2",
        ] {
            assert_eq!(declared(text), None, "{text}");
        }
    }

    #[test]
    fn mutated_files_give_clean_ids() {
        slipform_fuzz::fuzz(&[COPYRIGHT.as_bytes()], |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            for id in declared(&text).iter().flat_map(|d| d.own.keys()) {
                assert!(
                    id.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
                );
            }
        });
    }
}
