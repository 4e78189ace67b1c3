//! PID 1.

#![allow(dead_code)] // the halves meet when they are done

mod turn;

fn main() {}
