//! Data that travels between builder, init and harness.

pub mod event;
pub mod inside;
pub mod machine;
pub mod modalias;
pub mod service;
pub mod telemetry;
