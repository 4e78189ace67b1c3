//! Dates as Release files write them (RFC 2822, section 3.3), and back for people.

/// Seconds in a day.
const DAY: i64 = 86_400;
/// The names in RFC 2822's order.
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// 1970-01-01 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Seconds since 1970 of `Sat, 12 Sep 2026 07:55:41 UTC`; the weekday may be
/// missing, the zone may be a name of UTC or an offset like `+0200`.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = text.split_ascii_whitespace();
    let day: i64 = number(words.next()?, 1..=31)?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month))?;
    let year = number(words.next()?, 1970..=9999)?;
    let mut clock = words.next()?.split(':');
    let hour = number(clock.next()?, 0..=23)?;
    let minute = number(clock.next()?, 0..=59)?;
    let second = number(clock.next().unwrap_or("0"), 0..=60)?;
    let offset = offset(words.next()?)?;
    if words.next().is_some() || clock.next().is_some() {
        return None;
    }
    let days = days(year, i64::try_from(month).ok()? + 1, day);
    Some(days * DAY + hour * 3600 + minute * 60 + second - offset)
}

/// `Sat, 12 Sep 2026 07:55:41 UTC`.
#[must_use]
pub fn format(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let weekday = usize::try_from(days.rem_euclid(7)).map_or("", |at| WEEKDAYS[at]);
    let month = usize::try_from(month - 1).map_or("", |at| MONTHS[at]);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `2026-09-12T07:55:41Z` (RFC 3339, section 5.6).
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `20260912T075541Z`, as signatures of cloud requests have it (ISO 8601, basic format).
#[must_use]
pub fn compact(seconds: i64) -> String {
    rfc3339(seconds).replace([':', '-'], "")
}

/// Reads what [`rfc3339`] writes; parts of a second are dropped.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let whole = text.split(['.', 'Z']).next()?;
    let (date, clock) = whole.split_once('T')?;
    let (mut date, mut clock) = (date.split('-'), clock.split(':'));
    let year = number(date.next()?, 1970..=9999)?;
    let month = number(date.next()?, 1..=12)?;
    let day = number(date.next()?, 1..=31)?;
    let hour = number(clock.next()?, 0..=23)?;
    let minute = number(clock.next()?, 0..=59)?;
    let second = number(clock.next()?, 0..=59)?;
    let at = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    let same = rfc3339(at).trim_end_matches('Z') == whole;
    (text.ends_with('Z') && same).then_some(at)
}

fn number(text: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten()?;
    range.contains(&number).then_some(number)
}

fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "UTC" | "GMT" | "Z" | "UT") {
        return Some(0);
    }
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    if digits.len() != 4 {
        return None;
    }
    let hours = number(digits.get(..2)?, 0..=14)?;
    let minutes = number(digits.get(2..)?, 0..=59)?;
    Some(sign * (hours * 3600 + minutes * 60))
}

/// Days since 1970-01-01 in the Gregorian calendar; years begin in March, so
/// that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The reverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year + i64::from(month <= 2);
    (year, month, of_year - (153 * march_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("Sat, 12 Sep 2026 07:55:41 UTC", 1_789_199_741),
            ("Thu, 29 Feb 2024 23:59:59 UTC", 1_709_251_199),
            ("Tue, 01 Mar 2050 12:00:00 UTC", 2_529_748_800),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
            assert_eq!(format(seconds), text);
        }
        assert_eq!(compact(1_789_199_741), "20260912T075541Z");
        assert_eq!(parse("12 Sep 2026 09:55:41 +0200"), Some(1_789_199_741));
        assert_eq!(parse("Sat, 12 sep 2026 7:55 Z"), Some(1_789_199_700));
    }

    #[test]
    fn rfc_3339_comes_back() {
        for at in [0, 1_789_199_741, 1_709_251_199] {
            assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        }
        assert_eq!(
            parse_rfc3339("2026-09-12T07:55:41.123Z"),
            Some(1_789_199_741)
        );
        for text in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-09-12T07:55:41",
            "2026-09-12 07:55:41Z",
            "2026-9-12T07:55:41Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_comes_back() {
        for day in (-200_000..200_000).step_by(7) {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }

    #[test]
    fn refuses_what_is_no_date() {
        for text in [
            "",
            "now",
            "32 Sep 2026 00:00:00 UTC",
            "1 Sept 2026 00:00:00 UTC",
            "1 Sep 2026 24:00:00 UTC",
            "1 Sep 2026 00:00:00",
            "1 Sep 2026 00:00:00 +2",
            "1 Sep 2026 00:00:00 CET",
            "1 Sep 99999999999999999999 00:00:00 UTC",
            "1 Sep 2026 00:00:00 +é00",
            "1 Sep 2026 00:00:00 UTC x",
            "1 Sep 2026 -1:00:00 UTC",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
