//! Stands in for supervision and network until they are merged: no services, no network.

use std::convert::Infallible;
use std::os::fd::RawFd;
use std::time::Duration;

use slipform_init::contract::machine::Service;

use crate::turn::{Turn, Watched};

/// Has nothing to supervise.
#[derive(Debug)]
pub(crate) struct Supervisor;

impl Supervisor {
    pub(crate) fn new(_services: Vec<Service>) -> Self {
        Self
    }

    pub(crate) fn start(&mut self, turn: &mut Turn<'_>) {
        let _ = turn.now;
    }

    pub(crate) fn child_ended(&mut self, _pid: i32, _status: i32, _turn: &mut Turn<'_>) -> bool {
        false
    }

    pub(crate) fn all_ready(&self) -> bool {
        true
    }

    pub(crate) fn stop(&mut self, _turn: &mut Turn<'_>) {}

    pub(crate) fn stopped(&self) -> bool {
        true
    }
}

/// Gets no lease.
#[derive(Debug)]
pub(crate) struct Dhcp;

impl Dhcp {
    pub(crate) fn new() -> Result<Self, Infallible> {
        Ok(Self)
    }
}

pub(crate) fn loopback_up() -> Result<(), Infallible> {
    Ok(())
}

macro_rules! waits_for_nothing {
    ($part:ty) => {
        impl Watched for $part {
            fn fds(&self, _out: &mut Vec<libc::pollfd>) {}
            fn ready(&mut self, _fd: RawFd, _turn: &mut Turn<'_>) {}
            fn deadline(&self) -> Option<Duration> {
                None
            }
            fn tick(&mut self, _turn: &mut Turn<'_>) {}
        }
    };
}

waits_for_nothing!(Supervisor);
waits_for_nothing!(Dhcp);
