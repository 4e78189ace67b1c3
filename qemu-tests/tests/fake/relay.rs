//! The relay of an emulated metadata server, for tests that are no `slipform` command.

fn main() {
    slipform_qemu_tests::metadata::relay_if_asked(std::env::args_os().skip(1));
}
