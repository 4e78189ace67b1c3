//! The command as its users meet it: a process of its own, a store and a home of its own
//! for each test, real files, real servers. One program, so that it is linked once and
//! long tests run beside short ones.

#![allow(missing_docs)]

mod architectures;
mod bases;
mod cache;
mod cli;
mod clients;
mod clouds;
mod common;
mod containers;
mod determinism;
mod diff;
mod faults;
mod faults_killed;
mod faults_store;
mod inputs;
mod inside;
mod keys;
mod mirror;
mod publish;
mod publish_faults;
mod story;
mod tars;
