//! Sizes in bytes, as people write and read them.

/// `16MiB`, `1GiB`, `512KiB`, or bytes.
///
/// # Errors
/// The value, the rule and the remedy, as text.
pub fn size(text: &str) -> Result<u64, String> {
    let error =
        || format!("'{text}' is no size; write a number and KiB, MiB or GiB, such as \"16MiB\"");
    let digits = text
        .trim_end_matches(|c: char| c.is_ascii_alphabetic())
        .trim_end();
    let unit = match text[digits.len()..].trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(error()),
    };
    let number: u64 = digits.parse().map_err(|_| error())?;
    number.checked_mul(unit).ok_or_else(error)
}

/// Bytes for people: `3.2 MiB`.
#[must_use]
#[allow(clippy::cast_precision_loss)] // one decimal is shown
pub fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("16MiB", 16 << 20),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "16MB", "-1", "99999999999TiB", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn for_people() {
        assert_eq!(human(512), "512 B");
        assert_eq!(human(3 << 20), "3.0 MiB");
    }
}
