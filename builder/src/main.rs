//! The `slipform` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    slipform::cli::main()
}
