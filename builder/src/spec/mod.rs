//! What the user writes, checked: `slipform.toml` and `layer.toml` become an [`Image`].

pub mod image;

pub use image::*;
