//! What we publish, in other people's hands: Debian's registry and moto's object
//! store hold it, skopeo, oras and cosign read it. All from locked packages, on
//! loopback, each ended by the test that started it.

mod aws;
mod containers;
mod cosign;
mod oras;
pub(crate) mod parts;
mod race;
mod registry;
mod s3;
mod skopeo;
pub(crate) mod tools;
mod unpackers;

use std::io::Write;

/// Whether what takes minutes is asked for, too.
fn is_nightly() -> bool {
    std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some()
}

/// What a nightly run found, past what the test runner captures.
fn figures(text: &str) {
    if is_nightly() {
        // A closed stderr is nobody who could be told.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
