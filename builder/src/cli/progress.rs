//! Progress on stderr: bars on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::base::progress::{Progress, Quiet, Task};

/// Bars, lines or nothing.
pub(crate) fn choose(quiet: bool) -> Arc<dyn Progress> {
    if quiet {
        Arc::new(Quiet)
    } else if std::io::stderr().is_terminal() {
        Arc::new(Bars(MultiProgress::new()))
    } else {
        Arc::new(Lines)
    }
}

#[derive(Debug)]
struct Bars(MultiProgress);

struct Bar(ProgressBar);

impl Progress for Bars {
    fn begin(&self, what: &str, total: Option<u64>) -> Box<dyn Task> {
        let bar = match total {
            Some(total) => ProgressBar::new(total)
                .with_style(style("{msg:32} {bar:30} {bytes:>10} / {total_bytes}")),
            None => ProgressBar::new_spinner().with_style(style("{msg:32} {spinner} {elapsed}")),
        };
        let bar = self.0.add(bar).with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Box::new(Bar(bar))
    }

    fn note(&self, line: &str) {
        let _ = self.0.println(line);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Task for Bar {
    fn advance(&self, by: u64) {
        self.0.inc(by);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[derive(Debug)]
struct Lines;

impl Progress for Lines {
    fn begin(&self, what: &str, total: Option<u64>) -> Box<dyn Task> {
        match total {
            Some(total) => self.note(&format!("{what} ({})", crate::base::bytes::human(total))),
            None => self.note(what),
        }
        Box::new(Quiet)
    }

    fn note(&self, line: &str) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
