//! What the end-to-end tests share: casting through the real pipeline and the
//! ordinary store, booting under TCG, operations on finished images, and what a
//! red report must hold.

// Each test file uses a part of it.
#![allow(dead_code)]

pub(crate) mod container;
pub(crate) mod lab;
pub(crate) mod lan;
pub(crate) mod otlp;
pub(crate) mod project;
pub(crate) mod receivers;
pub(crate) mod red;
pub(crate) mod surgery;
pub(crate) mod tls;
pub(crate) mod wire;
