//! Unified kernel images: sections appended to systemd-stub.
//!
//! Specification: UAPI.5, <https://uapi-group.org/specifications/specs/unified_kernel_image/>.
//! Plain file writing; no objcopy, and as few sections as do the work, because
//! some cloud firmware refuses images with many.

mod assemble;
pub mod coldplug;
pub mod grub;
mod modinfo;
pub mod modules;
pub mod pe;
mod section;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use assemble::{Source, UkiBlob, UkiError, UkiInput, assemble};
pub use section::{Section, SectionRange, read};
