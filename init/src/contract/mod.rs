//! Data that travels between builder, init and harness.

pub mod event;
pub mod machine;
pub mod service;
pub mod telemetry;
