//! The contract of the machine: what the builder tells init ([`contract::machine`]),
//! and what init reports to the harness ([`contract::event`]). No syscalls here.

pub mod contract;
