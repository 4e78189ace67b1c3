//! One fuzzer for every reader's test.
//!
//! ```text
//! slipform_fuzz::fuzz(&[SEED, OTHER], |bytes, random| { let _ = parse(bytes); });
//! ```
//!
//! Under plain `cargo test` the seeds are mutated and spliced for `SLIPFORM_FUZZ_SECONDS`
//! (1 if unset) per call, in the same order in every run. Built with coverage, an input
//! that reaches something new is kept and mutated further. The long way:
//!
//! ```text
//! export CARGO_TARGET_DIR=/var/tmp/fuzz SLIPFORM_FUZZ_SECONDS=3600 SLIPFORM_FUZZ_MIB=64
//! export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
//! export RUSTFLAGS="--cfg fuzz_coverage -Cpasses=sancov-module
//!   -Cllvm-args=-sanitizer-coverage-level=3
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
//!   -Clink-arg=-Wl,--unresolved-symbols=ignore-all"
//! cargo test --release --target x86_64-unknown-linux-gnu -p slipform-init \
//!   net::ra:: -- --nocapture --test-threads=1
//! ```
//!
//! `--target` keeps the flags from build scripts; the last flag lets programs link that do
//! not have the fuzzer. One target per process: what other threads run is counted, too.
//! The line at a run's end says what was done and whether coverage still grew.
//!
//! An input that panics, takes too long or (with coverage) too much memory is told in
//! hexadecimal: it becomes a named test. `random` depends on the input alone, so
//! [`Random::of`] gives such a test the same one. What ends the process without a word (an
//! overflown stack) is found in the file that `SLIPFORM_FUZZ_LAST` names.

#![cfg_attr(test, allow(clippy::print_stdout))]

#[cfg(fuzz_coverage)]
mod coverage;
mod form;
mod mutate;
mod random;
mod run;
#[cfg(test)]
mod tests;
mod watch;

pub use form::{Patch, framed, frames, patches};
pub use random::Random;

use run::Limits;

/// Hands every seed, then mutants of them, to `check`, for as long as
/// `SLIPFORM_FUZZ_SECONDS` says (1 if unset), and 100 mutants at least. A panic of `check`
/// is a finding; so is an execution without an end.
#[track_caller]
pub fn fuzz<S: AsRef<[u8]>>(seeds: &[S], check: impl FnMut(&[u8], &mut Random)) {
    let place = std::panic::Location::caller();
    let thread = std::thread::current();
    let name = format!("{} (line {})", thread.name().unwrap_or("?"), place.line());
    let limits = Limits::of_environment();
    #[cfg(fuzz_coverage)]
    let outcome = {
        // The counters are the process's.
        let mut counters = coverage::take();
        run::run(seeds, &limits, &mut *counters, check)
    };
    #[cfg(not(fuzz_coverage))]
    let outcome = run::run(seeds, &limits, &mut run::Blind, check);
    run::tell(&name, &outcome);
}
