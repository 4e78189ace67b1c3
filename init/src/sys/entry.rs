//! The way in. Not Rust's own `main`: the standard library's start-up wants
//! /dev/null when a standard descriptor is closed and aborts without it, which for
//! PID 1 would be a kernel panic before the first line of ours.

/// What the C library calls.
#[cfg(not(test))]
// SAFETY: no other symbol of this program is called `main`.
#[unsafe(no_mangle)]
extern "C" fn main(_count: libc::c_int, _arguments: *const *const libc::c_char) -> libc::c_int {
    crate::run()
}
