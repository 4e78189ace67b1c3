//! Debian packages: the `.deb` container (`ar.rs`), its control file
//! (`control.rs`), and unpacking into the store (`unpack.rs`).
//! Format: deb(5), deb-control(5).

mod ar;
mod control;
mod unpack;

pub use unpack::{UnpackedDeb, unpack};
