//! A layer's entries meet the layers below: paths canonical, modes normal,
//! whiteouts in place. The result is what one file system holds, no more.

pub mod node;

pub use node::*;
