//! The command: arguments in, results on stdout, progress on stderr, exit codes.
//!
//! One file a verb. Here is only what all of them share. Exit codes: 0 good,
//! 1 the operation failed, 2 the input is wrong, 3 the image failed its boot test.

mod args;
mod build;
mod channels;
mod diff;
mod export;
mod flash;
mod inside;
mod inspect;
mod key;
mod lock;
mod new;
mod progress;
mod publish;
mod pull;
mod release_args;
mod report;
mod store;
mod sweep;
mod test;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::attest::AttestError;
use crate::pipeline::{PipelineError, Settings};
use crate::sources::{Host, UserConfig};

pub use args::Cli;
use args::Verb;

/// What a verb came to.
pub(crate) enum Done {
    /// Exit code 0.
    Good,
    /// Exit code 1, already explained on stdout.
    Found,
    /// Exit code 3: the image failed its boot test.
    Red,
}

/// Parses the command line, runs the verb, prints what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse(); // exits with 2 on wrong arguments, 0 on --help
    match run(&cli) {
        Ok(Done::Good) => ExitCode::SUCCESS,
        Ok(Done::Found) => ExitCode::from(1),
        Ok(Done::Red) => ExitCode::from(3),
        Err(error) => {
            let broken_pipe = error
                .chain()
                .filter_map(|e| e.downcast_ref::<std::io::Error>())
                .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
            if broken_pipe {
                return ExitCode::SUCCESS; // `slipform … | head` is no failure
            }
            complain(&error);
            ExitCode::from(if is_bad_input(&error) { 2 } else { 1 })
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Done> {
    match &cli.verb {
        Verb::New(verb) => new::run(cli, verb),
        Verb::Lock(verb) => lock::run(cli, verb),
        Verb::Fetch(verb) => lock::fetch(cli, verb),
        Verb::Build(verb) => build::run(cli, verb),
        Verb::Run(verb) => test::interactive(cli, verb),
        Verb::Ps(verb) => inside::ps(cli, verb),
        Verb::Logs(verb) => inside::logs(cli, verb),
        Verb::Test(verb) => test::run(cli, verb),
        Verb::Report(verb) => report::run(cli, verb),
        Verb::Inspect(verb) => inspect::run(cli, verb),
        Verb::Channels(verb) => channels::list(cli, verb),
        Verb::Checkout(verb) => pull::checkout(cli, verb),
        Verb::Diff(verb) => diff::run(cli, verb),
        Verb::Export(verb) => export::run(cli, verb),
        Verb::Flash(verb) => flash::run(cli, verb),
        Verb::Key(verb) => key::run(cli, verb),
        Verb::Log(verb) => channels::log(cli, verb),
        Verb::Promote(verb) => publish::promote(cli, verb),
        Verb::Publish(verb) => publish::run(cli, verb),
        Verb::Pull(verb) => pull::run(cli, verb),
        Verb::Revoke(verb) => publish::revoke(cli, verb),
        Verb::Rollback(verb) => publish::rollback(cli, verb),
        Verb::Verify(verb) => pull::verify(cli, verb),
        Verb::Gc(verb) => store::gc(cli, verb),
        Verb::Schema(verb) => inspect::schema(verb),
        Verb::Completions(verb) => {
            let mut bytes = Vec::new();
            clap_complete::generate(
                verb.shell,
                &mut <Cli as clap::CommandFactory>::command(),
                "slipform",
                &mut bytes,
            );
            print(&String::from_utf8_lossy(&bytes))
        }
    }
}

/// Settings that every verb shares.
pub(crate) fn settings(cli: &Cli) -> anyhow::Result<Settings> {
    let settings = Settings::new(
        cli.store.clone(),
        cli.mirror.clone(),
        cli.offline,
        progress::choose(cli.quiet),
    )
    .context("cannot open the store")?;
    let mut sources = cli.sources.clone();
    sources.retain(|uri| !uri.is_empty());
    if sources.is_empty() {
        sources = UserConfig::load(&Host::real())
            .map_err(PipelineError::from)?
            .sources;
    }
    let cache = cli.cache.as_deref().filter(|uri| !uri.is_empty());
    Ok(settings.with_elsewhere(&sources, cache.map(|uri| (uri, cli.cache_mode)))?)
}

/// Prints a result on stdout.
pub(crate) fn print(text: &str) -> anyhow::Result<Done> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(Done::Good)
}

/// Prints a result as one JSON object.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<Done> {
    print(&serde_json::to_string_pretty(value)?)
}

/// A fault of the input, found by a verb itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadInput(pub(crate) String);

fn is_bad_input(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.is::<BadInput>()
            || e.downcast_ref::<AttestError>()
                .is_some_and(AttestError::is_bad_input)
            || e.downcast_ref::<PipelineError>()
                .is_some_and(PipelineError::is_bad_input)
    })
}

fn complain(error: &anyhow::Error) {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Most messages tell their cause already.
        if text.contains(&cause) {
            continue;
        }
        let colon = if text.is_empty() { "" } else { ": " };
        text.push_str(&format!("{colon}{cause}"));
    }
    let _ = writeln!(std::io::stderr(), "slipform: {text}");
}
