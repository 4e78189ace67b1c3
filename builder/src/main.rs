//! The `slipform` command.
fn main() {}
