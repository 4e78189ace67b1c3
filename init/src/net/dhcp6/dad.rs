//! What the kernel's duplicate address detection (RFC 4862 section 5.4) has come to, as
//! `/proc/net/if_inet6` shows it: address, index, prefix, scope, flags in hexadecimal, name.

use std::net::Ipv6Addr;

/// Where the kernel lists them.
pub(in crate::net) const FILE: &str = "/proc/net/if_inet6";
/// `IFA_F_DADFAILED` and `IFA_F_TENTATIVE` of linux/if_addr.h.
const FAILED: u8 = 0x08;
const TENTATIVE: u8 = 0x40;

/// An address that was put on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum State {
    /// Nobody has said anything yet.
    Tentative,
    /// It is ours alone.
    Unique,
    /// Somebody has it: the kernel has marked it, or taken it off where it has a lifetime.
    Taken,
}

/// The state of `address` on the interface `index`.
pub(in crate::net) fn state(list: &str, index: u32, address: Ipv6Addr) -> State {
    let flags = list.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let listed = u128::from_str_radix(words.next()?, 16).ok()?;
        let on = u32::from_str_radix(words.next()?, 16).ok()?;
        let flags = u8::from_str_radix(words.nth(2)?, 16).ok()?;
        (Ipv6Addr::from(listed) == address && on == index).then_some(flags)
    });
    match flags {
        None => State::Taken,
        Some(flags) if flags & FAILED != 0 => State::Taken,
        Some(flags) if flags & TENTATIVE != 0 => State::Tentative,
        Some(_) => State::Unique,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "00000000000000000000000000000001 01 80 10 80       lo\n\
        fd000009000000000000000000001234 02 80 00 00     eth0\n\
        fd000009000000000000000000001235 02 80 00 40     eth0\n\
        fd000009000000000000000000001236 02 80 00 c8     eth0\n";

    #[test]
    fn the_kernels_list_is_read() {
        let of =
            |last: u16, index| state(LIST, index, Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, last));
        assert_eq!(of(0x1234, 2), State::Unique);
        assert_eq!(of(0x1235, 2), State::Tentative);
        assert_eq!(of(0x1236, 2), State::Taken);
        assert_eq!(of(0x1237, 2), State::Taken, "taken off by the kernel");
        assert_eq!(of(0x1234, 3), State::Taken, "another interface's");
        assert_eq!(
            state("garbled\n01 02\n", 2, Ipv6Addr::LOCALHOST),
            State::Taken
        );
    }
}
