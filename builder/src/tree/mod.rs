//! A layer's entries meet the layers below: paths canonical, modes normal,
//! whiteouts in place. The result is what one file system holds, no more.
//!
//! ```text
//! below.rs     the layers below as one view; remembers what was asked of it
//! build.rs     entries + what to remove + the view below -> the layer's Tree
//! paths.rs     where a path really leads, through folder links of this layer and those below
//! listing.rs   a Tree as text: golden dump, cache key and cached blob in one
//! generated/   the topmost layer: what depends on the whole stack
//! ```

pub mod below;
pub mod build;
mod error;
pub mod generated;
pub mod listing;
pub mod node;
mod paths;
#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod testing;

pub use below::{Below, Facts, Seen};
pub use build::{Built, build};
pub use error::TreeError;
pub use node::*;
