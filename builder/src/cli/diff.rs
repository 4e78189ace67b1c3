//! `slipform diff`: the difference in sections, with a mark a line.

use std::fmt::Write;

use serde_json::Value;

use super::args::{Cli, Diff as Verb};
use super::{BadInput, Done, print, print_json, settings};
use crate::base::bytes::human;
use crate::pipeline::Settings;
use crate::pipeline::diff::{Change, Diff, Field, ImageDiff, Mark, Side, Size};
use crate::publish::Reference;

/// Files that are told without `--all`.
const SHOWN: usize = 200;
/// Characters of a digest that are told.
const DIGITS: usize = 12;

/// Compares two images. As with diff(1), 1 means different: whatever goes wrong is 2.
pub(crate) fn run(cli: &Cli, verb: &Verb) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let (old, new) = (
        side(&settings, verb, &verb.old)?,
        side(&settings, verb, &verb.new)?,
    );
    let diff = settings
        .diff(&old, &new)
        .map_err(|error| BadInput(error.to_string()))?;
    if cli.json {
        print_json(&diff)?;
    } else {
        print(&describe(&diff, if verb.all { usize::MAX } else { SHOWN }))?;
    }
    Ok(if diff.same { Done::Good } else { Done::Found })
}

/// A file or digest that is here, else what a channel names, brought here.
fn side(settings: &Settings, verb: &Verb, text: &str) -> anyhow::Result<Side> {
    let here = Side::parse(text);
    let is_here = match &here {
        Ok(Side::File(path)) => path.exists(),
        Ok(Side::Digest(digest)) => settings.store().has(digest),
        Err(_) => false,
    };
    match (&verb.remote, text.parse::<Reference>()) {
        (Some(uri), Ok(reference)) if !is_here => {
            let remote = settings.remote(uri)?;
            let trust = settings.trust(&verb.key, None, None)?;
            Ok(Side::Digest(settings.bring(&*remote, &reference, &trust)?))
        }
        _ => Ok(here.map_err(BadInput)?),
    }
}

/// The difference for people; of each image's files at most `shown` are told.
fn describe(diff: &Diff, shown: usize) -> String {
    let mut text = format!("{} -> {}\n", plain(&diff.old), plain(&diff.new));
    for (mark, boards) in [('-', &diff.boards_removed), ('+', &diff.boards_added)] {
        for board in boards {
            line(&mut text, format!("{mark} board {}", plain(board)));
        }
    }
    for image in &diff.images {
        if diff.images.len() > 1 {
            line(&mut text, format!("\nboard {}", plain(&image.board)));
        }
        describe_image(&mut text, image, shown);
    }
    text
}

fn describe_image(text: &mut String, image: &ImageDiff, shown: usize) {
    values(text, "image", &image.image);
    match &image.packages {
        Some(packages) => things(text, "packages", packages),
        None => line(text, "\npackages: not recorded in a disk file"),
    }
    blocks(text, "services", &image.services);
    things(text, "settings", &image.settings);
    values(text, "boot", &image.boot);
    things(text, "layers", &image.layers);
    files(text, image.files.as_deref().unwrap_or_default(), shown);
    sizes(text, &image.sizes);
    for problem in &image.problems {
        line(text, format!("\nproblem: {}", plain(problem)));
    }
    line(text, format!("\n{}", summary(image)));
}

/// Single values of the image.
fn values(text: &mut String, title: &str, fields: &[Field]) {
    if !fields.is_empty() {
        line(text, format!("\n{title}"));
    }
    for field in fields {
        line(text, format!("  ~ {:<14} {}", field.name, step(field)));
    }
}

/// Things, each in one line.
fn things(text: &mut String, title: &str, changes: &[Change]) {
    if !changes.is_empty() {
        line(text, format!("\n{title}"));
    }
    let width = width(changes);
    for change in changes {
        let name = plain(&change.name);
        let row = format!("  {} {name:<width$}  {}", mark(change.mark), told(change));
        line(text, row.trim_end());
    }
}

/// Things with values too long for one line.
fn blocks(text: &mut String, title: &str, changes: &[Change]) {
    if !changes.is_empty() {
        line(text, format!("\n{title}"));
    }
    for change in changes {
        line(
            text,
            format!("  {} {}", mark(change.mark), plain(&change.name)),
        );
        let told = |field: &&Field| change.mark == Mark::Changed || field.name == "exec";
        for field in change.fields.iter().filter(told) {
            line(text, format!("      {:<16} {}", field.name, step(field)));
        }
    }
}

fn files(text: &mut String, changes: &[Change], shown: usize) {
    let first = &changes[..shown.min(changes.len())];
    things(text, "files", first);
    let more = changes.len() - first.len();
    if more > 0 {
        line(text, format!("  … and {more} more (--all)"));
    }
}

/// The sizes that differ, and the total.
fn sizes(text: &mut String, sizes: &[Size]) {
    let differ = sizes.iter().filter(|size| size.old != size.new).count();
    if differ > 0 {
        line(text, "\nsizes");
    }
    let told = |size: &&Size| size.old != size.new || (differ > 0 && size.what == "total");
    for size in sizes.iter().filter(told) {
        let (old, new) = (Value::from(size.old), Value::from(size.new));
        let name = plain(&size.what);
        line(text, format!("  {name:<16} {}", arrow("size", &old, &new)));
    }
}

/// `2 packages, 1 service, 14 files changed (3 added, 1 removed)`.
fn summary(image: &ImageDiff) -> String {
    if image.same {
        return "no difference".to_owned();
    }
    let packages = image.packages.as_deref().unwrap_or_default();
    let all = [
        (packages, "package"),
        (&image.services, "service"),
        (&image.settings, "setting"),
        (&image.layers, "layer"),
        (image.files.as_deref().unwrap_or_default(), "file"),
    ];
    let mut parts = Vec::new();
    for (changes, noun) in all {
        let count = |mark| changes.iter().filter(|change| change.mark == mark).count();
        let marks =
            [(Mark::Added, "added"), (Mark::Removed, "removed")].map(|(m, w)| (count(m), w));
        let marks: Vec<String> = marks
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        let plural = if changes.len() == 1 { "" } else { "s" };
        match (changes.len(), marks.is_empty()) {
            (0, _) => {}
            (count, true) => parts.push(format!("{count} {noun}{plural}")),
            (count, false) => parts.push(format!("{count} {noun}{plural} ({})", marks.join(", "))),
        }
    }
    match parts.is_empty() {
        true => "the disk differs".to_owned(),
        false => format!("{} differ", parts.join(", ")),
    }
}

fn line(text: &mut String, line: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

const fn mark(mark: Mark) -> char {
    match mark {
        Mark::Added => '+',
        Mark::Removed => '-',
        Mark::Changed => '~',
    }
}

/// The widest name, within reason.
fn width(changes: &[Change]) -> usize {
    let widths = changes.iter().map(|change| change.name.chars().count());
    widths.max().unwrap_or(0).min(48)
}

/// What is told of a thing behind its name.
fn told(change: &Change) -> String {
    let [first, ..] = &change.fields[..] else {
        return String::new();
    };
    let of = |field: &Field| match field.name {
        // These tell themselves.
        "version" | "value" | "size" | "type" => step(field),
        "sha256" => "other content".to_owned(),
        name => format!("{name} {}", step(field)),
    };
    if change.mark == Mark::Changed {
        // A package of another version has another digest: no news.
        let news = |field: &&Field| field.name != "sha256" || first.name != "version";
        let told: Vec<String> = change.fields.iter().filter(news).map(of).collect();
        return told.join(", ");
    }
    let key = ["version", "value", "size", "target", "root hash"];
    let known = change.fields.iter().find(|field| key.contains(&field.name));
    let Field { name, old, new } = known.unwrap_or(first);
    shown(name, if change.mark == Mark::Added { new } else { old })
}

fn step(field: &Field) -> String {
    arrow(field.name, &field.old, &field.new)
}

/// `old -> new`, or the one that there is.
fn arrow(name: &str, old: &Value, new: &Value) -> String {
    if let (Some(old), Some(new)) = (items(name, old), items(name, new)) {
        return lists(&old, &new);
    }
    let (before, after) = (shown(name, old), shown(name, new));
    match (old.is_null(), new.is_null()) {
        (true, _) => after,
        (_, true) => format!("was {before}"),
        // Rounded or cut to the same.
        _ if before == after => format!("{} -> {}", plain(&whole(old)), plain(&whole(new))),
        _ => format!("{before} -> {after}"),
    }
}

/// The items of a value that is better told by what it gained and lost.
fn items<'a>(name: &str, value: &'a Value) -> Option<Vec<&'a str>> {
    match (name, value) {
        ("modules", Value::Array(items)) => items.iter().map(Value::as_str).collect(),
        ("command line", Value::String(text)) => Some(text.split_whitespace().collect()),
        ("os-release", Value::String(text)) => Some(text.lines().collect()),
        _ => None,
    }
}

/// What a list gained and lost.
fn lists(old: &[&str], new: &[&str]) -> String {
    let only = |mark: char, these: &[&str], those: &[&str]| -> Vec<String> {
        let alone = these.iter().filter(|item| !those.contains(item));
        alone.map(|item| format!("{mark}{}", plain(item))).collect()
    };
    let told = [only('-', old, new), only('+', new, old)].concat();
    match told.is_empty() {
        true => "another order or number".to_owned(),
        false => told.join(" "),
    }
}

/// A value in the fewest words.
fn shown(name: &str, value: &Value) -> String {
    match (name, value) {
        ("size" | "used", Value::Number(number)) => number.as_u64().map_or_else(String::new, human),
        ("root hash", Value::String(hash)) => plain(hash).chars().take(DIGITS).collect(),
        (_, Value::String(text)) => match text.strip_prefix("sha256:") {
            Some(hex) => plain(hex).chars().take(DIGITS).collect(),
            None => plain(text),
        },
        (_, value) => plain(&whole(value)),
    }
}

/// A value with nothing left out.
fn whole(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(whole).collect();
            items.join(" ")
        }
        Value::Object(map) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}={}", whole(value)))
                .collect();
            pairs.join(" ")
        }
        other => other.to_string(),
    }
}

/// Text out of an image, which may be anyone's, without what a terminal obeys.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            character if character.is_control() => plain.extend(character.escape_debug()),
            character => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_in_few_words() {
        let digest = |digit: &str| json!(format!("sha256:{}", digit.repeat(64)));
        for (name, old, new, told) in [
            ("size", json!(14), json!(2048), "14 B -> 2.0 KiB"),
            (
                "size",
                json!(1_048_576),
                json!(1_048_577),
                "1048576 -> 1048577",
            ),
            ("size", Value::Null, json!(5), "5 B"),
            ("size", json!(5), Value::Null, "was 5 B"),
            (
                "init",
                digest("a"),
                digest("b"),
                "aaaaaaaaaaaa -> bbbbbbbbbbbb",
            ),
            ("exec", json!(["/a", "-b"]), json!(["/a"]), "/a -b -> /a"),
            ("after", json!([]), json!(["x"]), "none -> x"),
            ("env", json!({"A": "1"}), json!({"A": "2"}), "A=1 -> A=2"),
            ("modules", json!(["a", "b"]), json!(["b", "c"]), "-a +c"),
            (
                "modules",
                json!(["a", "b"]),
                json!(["b", "a"]),
                "another order or number",
            ),
            (
                "command line",
                json!("quiet a=1"),
                json!("quiet a=2"),
                "-a=1 +a=2",
            ),
        ] {
            assert_eq!(arrow(name, &old, &new), told, "{name}");
        }
    }

    #[test]
    fn a_terminal_obeys_nothing_of_an_image() {
        assert_eq!(plain("ü\u{1b}[31m\r\n"), "ü\\u{1b}[31m\\r\\n");
        let told = arrow("target", &json!("\u{1b}]0;x\u{7}"), &json!(["\u{9b}2J"]));
        assert!(!told.chars().any(char::is_control), "{told}");
    }
}
