//! PID 1.

#![allow(dead_code)] // the halves meet when they are done

mod net;
mod supervise;
mod sys;
mod turn;

fn main() {}
