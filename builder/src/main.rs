//! The `slipform` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // QEMU starts this command again for each connection to an emulated metadata server.
    if slipform_qemu_tests::metadata::relay_if_asked(std::env::args_os().skip(1)) {
        return ExitCode::SUCCESS;
    }
    slipform::cli::main()
}
