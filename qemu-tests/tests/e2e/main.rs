//! Real images, really booted: TCG only, two machines at a time. One program, so that it
//! is linked once and a long test runs beside many short ones.

mod bond;
mod boots;
mod broken;
mod clouds;
mod coldplug;
mod containers;
mod hostile;
mod identity;
mod lan;
mod media;
mod peers;
mod plugged;
mod spool;
mod state;
mod state_label;
mod state_quota;
mod support;
mod sweeps;
mod telemetry;
