//! The control file of a binary package: one paragraph of fields.
//! Source: deb-control(5), deb822(5).

use std::collections::BTreeMap;

/// Fields by their name as written; continuation lines keep their line breaks.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut current: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if line.starts_with([' ', '\t']) {
            let name = current
                .as_ref()
                .ok_or_else(|| format!("control line {number} continues no field"))?;
            if let Some(value) = fields.get_mut(name) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if line.trim().is_empty() {
            // Blank lines around the paragraph are harmless; a second paragraph is not ours.
            if current.is_some() {
                let rest = text.lines().skip(number);
                if rest.clone().any(|line| !line.trim().is_empty()) {
                    return Err(format!(
                        "control line {number} ends the paragraph, but more follows"
                    ));
                }
                break;
            }
        } else if !line.starts_with('#') {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("control line {number} is no 'Field: value'"))?;
            if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(format!("control line {number} has no field name"));
            }
            let known = fields.keys().any(|known| known.eq_ignore_ascii_case(name));
            if known {
                return Err(format!(
                    "control line {number} gives '{name}' a second time"
                ));
            }
            fields.insert(name.to_owned(), value.trim().to_owned());
            current = Some(name.to_owned());
        }
    }
    Ok(fields)
}

/// A field, its name in any case.
pub(super) fn field<'a>(fields: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// A required field that is a single word, such as a name or a version.
pub(super) fn word(fields: &BTreeMap<String, String>, name: &str) -> Result<String, String> {
    let value = field(fields, name).unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || ".+-:~_".contains(c);
    if value.is_empty() || value.len() > 255 || !value.chars().all(fine) {
        return Err(format!(
            "its control file has no proper {name} ('{}')",
            value.escape_default()
        ));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_and_continuations() {
        let fields =
            parse("Package: a\nVersion: 1:2~rc+3-4\nDescription: short\n long\n .\n more\n\n")
                .unwrap();
        assert_eq!(word(&fields, "package").unwrap(), "a");
        assert_eq!(word(&fields, "VERSION").unwrap(), "1:2~rc+3-4");
        assert_eq!(field(&fields, "Description"), Some("short\nlong\n.\nmore"));
        assert!(word(&fields, "Architecture").is_err());
    }

    #[test]
    fn refuses_bad_paragraphs() {
        for text in [
            " a: b",
            "no colon",
            ": x",
            "A: 1\na: 2",
            "A: 1\n\nB: 2",
            "A B: 1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fuzz_mutated_control_files() {
        let seed = b"Package: a\nVersion: 1\nDescription: x\n y\n .\n z\n\n";
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            let fields = parse(&String::from_utf8_lossy(bytes)).unwrap_or_default();
            assert!(fields.keys().all(|name| !name.contains([' ', '\n', ':'])));
        });
    }
}
