//! Reports as JUnit XML, as CI systems read it: a suite for each report, a case for
//! each verdict.

use std::fmt::Write;

use crate::report::{BootReport, Failure, Outcome};

/// The reports as one document.
#[must_use]
pub fn junit<'a>(reports: impl IntoIterator<Item = &'a BootReport>) -> String {
    let mut suites = String::new();
    for report in reports {
        suite(report, &mut suites);
    }
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n{suites}</testsuites>\n")
}

fn suite(report: &BootReport, out: &mut String) {
    let count = |fits: fn(&Outcome) -> bool| {
        let outcomes = report.verdicts.iter().map(|verdict| &verdict.outcome);
        outcomes.filter(|outcome| fits(outcome)).count()
    };
    let name = attribute(&report.name);
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" errors=\"0\" time=\"{:.3}\">",
        report.verdicts.len(),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        report.total_seconds
    );
    let properties = [
        ("image", report.image.clone()),
        ("plan", report.plan.clone()),
        ("accelerator", report.accelerator.clone()),
        ("emulator", report.emulator.clone()),
        ("seed", report.seed.to_string()),
    ];
    out.push_str("    <properties>\n");
    for (name, value) in properties {
        let value = attribute(&value);
        let _ = writeln!(out, "      <property name=\"{name}\" value=\"{value}\"/>");
    }
    out.push_str("    </properties>\n");
    for verdict in &report.verdicts {
        let check = attribute(&verdict.check);
        let _ = write!(out, "    <testcase classname=\"{name}\" name=\"{check}\"");
        match &verdict.outcome {
            Outcome::Passed(_) => out.push_str("/>\n"),
            Outcome::Failed(text) => {
                let all = report.failure.iter().chain(&report.others);
                let explained = all
                    .filter(|failure| failure.check == verdict.check)
                    .map(explanation)
                    .next()
                    .unwrap_or_default();
                let _ = writeln!(
                    out,
                    ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>",
                    attribute(text),
                    escaped(&explained)
                );
            }
            Outcome::Skipped(text) => {
                let _ = writeln!(
                    out,
                    ">\n      <skipped message=\"{}\"/>\n    </testcase>",
                    attribute(text)
                );
            }
        }
    }
    if let Some(failure) = &report.failure {
        let console = escaped(&failure.console.join("\n"));
        let _ = writeln!(out, "    <system-out>{console}</system-out>");
    }
    out.push_str("  </testsuite>\n");
}

fn explanation(failure: &Failure) -> String {
    format!(
        "died in: {}\nbecause: {}\nlikely:  {}\nnext:    {}",
        failure.phase, failure.line, failure.cause, failure.next
    )
}

/// Text as XML takes it. Characters that XML 1.0 cannot have become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

/// The same within an attribute, whose line ends a reader would make blanks.
fn attribute(text: &str) -> String {
    escaped(text).replace('\n', "&#10;").replace('\t', "&#9;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_print_does_not_break_the_document() {
        assert_eq!(
            attribute("a<b> & \"c\"\n\u{1b}[0m\u{fffe}"),
            "a&lt;b&gt; &amp; &quot;c&quot;&#10;\u{fffd}[0m\u{fffd}"
        );
        assert_eq!(escaped("]]>\n\t"), "]]&gt;\n\t");
    }
}
