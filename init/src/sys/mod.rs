//! System calls: the only place with unsafe code.
#![allow(unsafe_code)]

mod child;
pub(crate) mod net;
pub(crate) mod process;
