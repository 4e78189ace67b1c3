//! Values with a syntax of their own: durations, modes, owners, names, guest paths.
//! Each returns the rule and the remedy as text; the caller adds file and line.

use std::time::Duration;

use super::image::Owner;

/// `500ms`, `10s`, `2min`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let error =
        || format!("'{text}' is no duration; write a number and ms, s, min or h, such as \"10s\"");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| error())?;
    let unit: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    let millis = number
        .checked_mul(unit)
        .filter(|ms| *ms <= 7 * 24 * 3_600_000);
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("'{text}' is longer than a week"))
}

/// `90min`, `12h`, `7d`: how old evidence may be.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let error = || format!("'{text}' is no age; write a number and min, h or d, such as \"7d\"");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| error())?;
    let unit: u64 = match &text[digits.len()..] {
        "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(error()),
    };
    match number.checked_mul(unit) {
        Some(0) => Err(format!(
            "'{text}' is no time at all; write at least \"1min\""
        )),
        Some(seconds) if seconds <= 10 * 366 * 86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("'{text}' is longer than ten years")),
    }
}

/// Permission bits in octal.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777 && text.len() <= 5)
        .ok_or_else(|| {
            format!("'{text}' is no mode; write octal digits up to \"7777\", such as \"0644\"")
        })
}

/// `user:group`, both by name or both by number.
pub(crate) fn owner(text: &str) -> Result<Owner, String> {
    let error = || format!("'{text}' is no owner; write \"user:group\" by name, or \"1000:1000\"");
    let (user, group) = text.split_once(':').ok_or_else(error)?;
    match (user.parse(), group.parse()) {
        (Ok(uid), Ok(gid)) => Ok(Owner::Ids(uid, gid)),
        (Err(_), Err(_)) if name(user).is_ok() && name(group).is_ok() => {
            Ok(Owner::Names(user.to_owned(), group.to_owned()))
        }
        _ => Err(error()),
    }
}

/// Checks a name of an image, layer, service, user or group.
///
/// # Errors
/// The value, the rule and the remedy, as text.
pub fn name(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    let first = bytes
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest =
        bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if first && rest && text.len() <= 32 {
        return Ok(());
    }
    Err(format!(
        "'{text}' is no name; write a lower-case letter, then at most 31 lower-case letters, digits, - or _"
    ))
}

/// An absolute, clean path in the image, without its trailing slash.
pub(crate) fn guest_path(text: &str) -> Result<String, String> {
    let path = if text.len() > 1 {
        text.strip_suffix('/').unwrap_or(text)
    } else {
        text
    };
    let clean = path.strip_prefix('/').is_some_and(|rest| {
        text == "/"
            || rest
                .split('/')
                .all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
    });
    if clean && !path.contains('\0') && path.len() < 4096 {
        return Ok(path.to_owned());
    }
    Err(format!(
        "'{text}' is no path in the image; write an absolute one without '.', '..' or '//'"
    ))
}

/// A version: files are called by it.
pub(super) fn version(text: &str) -> Result<(), String> {
    let wrong = |c: char| c == '/' || c.is_control();
    if !(1..=64).contains(&text.len()) || text.starts_with('.') || text.contains(wrong) {
        return Err(
            "version: write 1 to 64 printable characters, without '/' and no '.' first".to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_modes_and_owners() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        assert!(duration("10").is_err() && duration("s").is_err() && duration("9999999h").is_err());
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(age("90min"), Ok(Duration::from_secs(5400)));
        for bad in [
            "",
            "d",
            "7",
            "7s",
            "0d",
            "99999d",
            "18446744073709551615d",
            "7dd",
            "é",
        ] {
            assert!(age(bad).is_err(), "{bad}");
        }
        assert_eq!(mode("0644"), Ok(0o644));
        assert!(mode("0888").is_err() && mode("17777").is_err() && mode("").is_err());
        assert_eq!(owner("0:5"), Ok(Owner::Ids(0, 5)));
        assert_eq!(
            owner("web:web"),
            Ok(Owner::Names("web".into(), "web".into()))
        );
        assert!(owner("web").is_err() && owner("web:5").is_err() && owner(":").is_err());
    }

    #[test]
    fn names_and_guest_paths() {
        assert!(
            name("redis-7").is_ok()
                && name("").is_err()
                && name("Web").is_err()
                && name("../x").is_err()
        );
        assert_eq!(guest_path("/srv/www/"), Ok("/srv/www".into()));
        assert_eq!(guest_path("/"), Ok("/".into()));
        for text in ["", "srv", "/a/../b", "/a//b", "/./a", "//"] {
            assert!(guest_path(text).is_err(), "{text}");
        }
    }
}
