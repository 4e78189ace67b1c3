//! The network: loopback, the wired interfaces with DHCP or as the image says, and the clock.
//!
//! ```text
//! link.rs   interfaces in /sys            rtnl.rs   requests to the kernel as bytes (pure)
//! made.rs   bonds and VLANs
//! kernel.rs one request, one answer       resolv.rs resolv.conf
//! ra.rs     names in router advertisements (pure)
//! time/     SNTP (pure) and the clock
//! dhcp6/    packet, client (pure), and a socket, where a router says so
//! dhcp/     packet, lease, ip, client (all pure) and the part of the event loop around them
//! ```

mod dhcp;
mod dhcp6;
mod kernel;
mod link;
mod made;
mod ra;
mod resolv;
mod rtnl;
mod time;

use std::net::{Ipv4Addr, Ipv6Addr};

#[allow(unused_imports)] // main is the other half's
pub(crate) use dhcp::Dhcp;
pub(crate) use kernel::KernelError;
pub(crate) use resolv::is_domain;
pub(crate) use time::Time;

use kernel::Kernel;
use rtnl::{Address, Request};

/// The loopback interface is the first that any network namespace has.
const LOOPBACK: u32 = 1;

/// Switches loopback on, with 127.0.0.1/8 and, where the kernel has IPv6, ::1.
///
/// # Errors
/// [`KernelError`]: what was tried and what the kernel said.
pub(crate) fn loopback_up() -> Result<(), KernelError> {
    let mut kernel = Kernel::open()?;
    kernel.run("switch on lo", Request::link_up(LOOPBACK), &[])?;
    let v4 = Address {
        index: LOOPBACK,
        address: Ipv4Addr::LOCALHOST.into(),
        prefix: 8,
        broadcast: None,
        lifetime: None,
    };
    // The kernel adds both by itself when lo comes up; kernels differ, so it is made sure.
    kernel.run(
        "add 127.0.0.1/8 to lo",
        Request::set_address(&v4),
        &[libc::EEXIST],
    )?;
    let v6 = Address {
        address: Ipv6Addr::LOCALHOST.into(),
        prefix: 128,
        ..v4
    };
    let no_ipv6 = [
        libc::EEXIST,
        libc::EOPNOTSUPP,
        libc::EAFNOSUPPORT,
        libc::EACCES,
    ];
    kernel.run("add ::1/128 to lo", Request::set_address(&v6), &no_ipv6)
}
