//! The order of Debian versions: `[epoch:]upstream[-revision]` (deb-version(7)).

use std::cmp::Ordering;

/// Longest version that is read, in bytes.
const MAX_LENGTH: usize = 256;

/// Compares two versions as dpkg does: epoch by number, then the upstream
/// version and the revision part by part.
#[must_use]
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left) = split_epoch(left);
    let (right_epoch, right) = split_epoch(right);
    let (left_upstream, left_revision) = split_revision(left);
    let (right_upstream, right_revision) = split_revision(right);
    compare_number(left_epoch.as_bytes(), right_epoch.as_bytes())
        .then_with(|| compare_part(left_upstream.as_bytes(), right_upstream.as_bytes()))
        .then_with(|| compare_part(left_revision.as_bytes(), right_revision.as_bytes()))
}

/// Whether `version` is made of the characters that Debian allows, and starts
/// with a letter or digit.
#[must_use]
pub fn is_valid(version: &str) -> bool {
    version.len() <= MAX_LENGTH
        && version
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && version
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".+-~:_".contains(&b))
}

/// A missing epoch is 0.
fn split_epoch(version: &str) -> (&str, &str) {
    version.split_once(':').unwrap_or(("0", version))
}

/// The revision follows the last hyphen; a missing one equals `0`.
fn split_revision(version: &str) -> (&str, &str) {
    version.rsplit_once('-').unwrap_or((version, ""))
}

/// Alternately the longest run of non-digits by [`rank`] and the longest run of
/// digits by value.
fn compare_part(mut left: &[u8], mut right: &[u8]) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split_run(left, |b| !b.is_ascii_digit());
        let (right_text, right_rest) = split_run(right, |b| !b.is_ascii_digit());
        let (left_digits, left_next) = split_run(left_rest, |b| b.is_ascii_digit());
        let (right_digits, right_next) = split_run(right_rest, |b| b.is_ascii_digit());
        let order = compare_text(left_text, right_text)
            .then_with(|| compare_number(left_digits, right_digits));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_next, right_next);
    }
    Ordering::Equal
}

fn split_run(bytes: &[u8], inside: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|b| !inside(*b));
    bytes.split_at(end.unwrap_or(bytes.len()))
}

fn compare_text(left: &[u8], right: &[u8]) -> Ordering {
    (0..left.len().max(right.len()))
        .map(|at| rank(left.get(at)).cmp(&rank(right.get(at))))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// `~` sorts before the end, the end before letters, letters before all else.
fn rank(byte: Option<&u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(other) => i32::from(*other) + 256,
    }
}

/// Digits of any length by value.
fn compare_number(left: &[u8], right: &[u8]) -> Ordering {
    let (left, right) = (without_zeros(left), without_zeros(right));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    split_run(digits, |b| b == b'0').1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_as_dpkg_does() {
        // Each line ascends strictly.
        for line in [
            "1.0~~ 1.0~~a 1.0~ 1.0 1.0a 1.0+",
            "1.0~rc1-1 1.0-1 1.0-1+b1 1.0-1+b2 1.0-1.1 1.0-2",
            "1.0-1~deb13u1 1.0-1 1.0-1+deb13u1 1.0-1+deb13u2 1.0-1+deb13u10",
            "9 10 1:1 2:0.1 10:0",
            "1.0 1.0-0a 1.0-0.1 1.0-1",
            "2.0 2.0a 2.0.0 2.0.a",
            "1.2.3 1.2.03.1 1.2.10",
            "0-1 0a 0ab 0b 0.",
            "6.12.48-1 6.12.107-1 6.12.107+deb13-1",
            "1:1.3.dfsg+really1.3.1-1+b1 1:1.3.dfsg+really1.3.1-1+deb13u1",
            "99999999999999999999998 99999999999999999999999 100000000000000000000000",
        ] {
            let versions: Vec<&str> = line.split(' ').collect();
            for (at, left) in versions.iter().enumerate() {
                for (other, right) in versions.iter().enumerate() {
                    assert_eq!(compare(left, right), at.cmp(&other), "{left} {right}");
                }
            }
        }
    }

    #[test]
    fn different_spellings_are_equal() {
        for (left, right) in [
            ("1.0", "0:1.0"),
            ("1.0", "1.0-0"),
            ("1.01", "1.1"),
            ("", "0"),
        ] {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} {right}");
        }
    }

    #[test]
    fn refuses_what_is_no_version() {
        assert!(is_valid("1:2.3~rc1+dfsg-4+b5"));
        for version in ["", "-1", "1 2", "1/2", "1\n", "ä", &"1".repeat(300)] {
            assert!(!is_valid(version), "{version}");
        }
    }
}
