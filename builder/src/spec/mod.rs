//! What the user writes, checked: `slipform.toml` and `layer.toml` become an [`Image`].
//!
//! ```text
//! raw.rs, raw/  as written (serde, strict)      load.rs   finds and reads the files
//! check.rs      raw -> checked, with layer.rs, service.rs and care.rs (health, limits),
//!               state.rs, network.rs, telemetry.rs ([logs], [[log]], [metrics]), test.rs
//! image.rs      checked types                   values.rs sizes, modes, names, guest paths
//! ```

mod care;
mod check;
mod error;
pub mod image;
mod layer;
mod load;
mod network;
pub mod raw;
mod service;
mod state;
mod telemetry;
mod test;
mod values;

pub use error::SpecError;
pub use image::*;
pub use layer::container as container_rule;
pub use load::{LAYER_FILE, SHIPPED_LAYERS, SPEC_FILE, load};
pub use service::{CAPABILITIES, CREDENTIALS_DIRECTORY, LIMITS};
pub(crate) use values::age;
pub use values::name as check_name;

#[cfg(test)]
mod care_tests;
#[cfg(test)]
mod tests;
