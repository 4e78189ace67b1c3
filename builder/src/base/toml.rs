//! Strict TOML with errors that name file, line and the nearest right key.

use std::path::Path;

use serde::de::DeserializeOwned;

/// Parses `text`, which was read from `file`.
///
/// # Errors
/// `FILE:LINE: message with remedy`.
pub fn parse<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, String> {
    ::toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        format!(
            "{}:{line}: {}",
            file.display(),
            with_remedy(error.message())
        )
    })
}

/// The line (from 1) of a byte offset.
#[must_use]
pub fn line_of(text: &str, offset: usize) -> usize {
    let head = &text.as_bytes()[..offset.min(text.len())];
    1 + head.split(|b| *b == b'\n').count().saturating_sub(1)
}

/// Adds the nearest right key to serde's message about an unknown one, and the
/// meaning to one about a missing one.
fn with_remedy(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let what = if message.starts_with("unknown field") {
            "key"
        } else {
            "value"
        };
        let Some(unknown) = quoted.next() else {
            return message.to_owned();
        };
        let known: Vec<&str> = quoted.collect();
        return match nearest(unknown, known.iter().copied()) {
            Some(right) => format!("unknown {what} '{unknown}'; did you mean '{right}'?"),
            None => format!(
                "unknown {what} '{unknown}'; known here: {}",
                known.join(", ")
            ),
        };
    }
    if let (true, Some(key)) = (message.starts_with("missing field"), quoted.next()) {
        return format!("the key '{key}' is missing here; add it");
    }
    message.to_owned()
}

/// The candidate that looks most like `text`, if one does.
#[must_use]
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let score = |candidate: &str| {
        if !text.is_empty() && candidate.starts_with(text) {
            return 1.0;
        }
        // Winkler favours long common beginnings, Damerau sees swapped letters in short words.
        let winkler = strsim::jaro_winkler(text, candidate);
        let damerau = strsim::normalized_damerau_levenshtein(text, candidate);
        if winkler > 0.75 || damerau > 0.65 {
            winkler.max(damerau)
        } else {
            0.0
        }
    };
    candidates
        .into_iter()
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, _)| *score > 0.0)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::raw::RawImage;

    fn error(text: &str) -> String {
        parse::<RawImage>(text, Path::new("slipform.toml")).unwrap_err()
    }

    #[test]
    fn an_unknown_key_names_the_nearest_right_one_with_file_and_line() {
        let text = "name = \"a\"\nversion = \"1\"\n\n[[layer]]\nname = \"app\"\npackges = []\n";
        assert_eq!(
            error(text),
            "slipform.toml:6: unknown key 'packges'; did you mean 'packages'?"
        );
    }

    #[test]
    fn an_unknown_key_unlike_any_lists_the_known_ones() {
        let message = error("name = \"a\"\nversion = \"1\"\nzzz = 1\n");
        assert!(
            message.starts_with("slipform.toml:3: unknown key 'zzz'; known here: name, version"),
            "{message}"
        );
    }

    #[test]
    fn a_missing_key_and_a_wrong_type_say_so() {
        assert!(error("name = \"a\"\n").contains("the key 'version' is missing"));
        assert!(error("name = 1\nversion = \"1\"\n").starts_with("slipform.toml:1: invalid type"));
        assert!(error("name = \n").starts_with("slipform.toml:1: "));
    }

    #[test]
    fn an_unknown_restart_policy_names_the_nearest() {
        let text =
            "name='a'\nversion='1'\n[[service]]\nname='x'\nexec=['/x']\nrestart='on-failur'\n";
        assert_eq!(
            error(text),
            "slipform.toml:6: unknown value 'on-failur'; did you mean 'on-failure'?"
        );
    }
}
