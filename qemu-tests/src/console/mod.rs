//! The serial console: bytes to clean lines ([`buffer`]), lines to findings ([`fatal`]).

pub(crate) mod buffer;
pub(crate) mod fatal;

pub(crate) use buffer::LineBuffer;
pub(crate) use fatal::Kind;
