//! The addresses of the machine's interfaces.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use super::check;

/// More are not told.
const MOST: usize = 1024;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// The interface's name.
    pub(crate) interface: String,
    /// Address.
    pub(crate) address: IpAddr,
    /// Length of its network's prefix.
    pub(crate) prefix: u32,
}

/// All of them, by getifaddrs(3): a question to the kernel over rtnetlink, which it answers
/// at once.
pub(crate) fn all() -> io::Result<Vec<Assigned>> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: the call fills the pointer; it is freed below.
    check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() && found.len() < MOST {
        // SAFETY: an entry of the list, which lives until it is freed below.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        let address = ip(entry.ifa_addr);
        let mask = ip(entry.ifa_netmask);
        if let (Some(address), Some(mask)) = (address, mask) {
            // SAFETY: a C string of the list.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            found.push(Assigned {
                interface: name.to_string_lossy().into_owned(),
                address,
                prefix: match mask {
                    IpAddr::V4(mask) => mask.to_bits().count_ones(),
                    IpAddr::V6(mask) => mask.to_bits().count_ones(),
                },
            });
        }
    }
    // SAFETY: the list that getifaddrs made, freed once; nothing of it is kept.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: every socket address begins with its family, which says how long it is;
    // getifaddrs gives whole ones, and reading unaligned asks nothing of where they lie.
    unsafe {
        match libc::c_int::from(address.cast::<libc::sa_family_t>().read_unaligned()) {
            libc::AF_INET => {
                let address = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let address = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}
