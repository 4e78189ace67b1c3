//! Which host ports QEMU chose, from the monitor's `info usernet` (no QMP command
//! tells them). Read as QEMU 7.2 to 10 print it:
//!
//! ```text
//! Hub -1 (net0):
//!   Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
//!   TCP[HOST_FORWARD]  13       127.0.0.1 46467       10.0.2.15  8080     0     0
//! ```

use std::collections::BTreeMap;

/// Guest port to host port of every forward.
pub(crate) fn forwarded_ports(text: &str) -> BTreeMap<u16, u16> {
    text.lines()
        .filter_map(forward)
        .map(|(host, guest)| (guest, host))
        .collect()
}

/// `(host port, guest port)` of a TCP forward's line.
fn forward(line: &str) -> Option<(u16, u16)> {
    let mut words = line.split_whitespace();
    if words.next()? != "TCP[HOST_FORWARD]" {
        return None;
    }
    let _fd: i64 = words.next()?.parse().ok()?;
    let _source = words.next()?;
    let host: u16 = words.next()?.parse().ok()?;
    let _dest = words.next()?;
    let guest: u16 = words.next()?.parse().ok()?;
    (host != 0).then_some((host, guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_found_among_the_rest() {
        let text = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
TCP[HOST_FORWARD]  13       127.0.0.1 46467       10.0.2.15  8080     0     0\r\n  \
TCP[ESTABLISHED]   14       127.0.0.1 55555       10.0.2.15  8080     0     0\r\n  \
TCP[HOST_FORWARD]  12       127.0.0.1 42523       10.0.2.15  9090     0     0\r\n  \
UDP[236 sec]       15       10.0.2.15 53              *    53     0     0\r\n";
        let ports = forwarded_ports(text);
        assert_eq!(
            ports.into_iter().collect::<Vec<_>>(),
            [(8080, 46467), (9090, 42523)]
        );
    }

    #[test]
    fn nonsense_is_no_forward() {
        for text in [
            "",
            "TCP[HOST_FORWARD]",
            "TCP[HOST_FORWARD] x y z",
            "TCP[HOST_FORWARD] 1 127.0.0.1 99999 10.0.2.15 80 0 0",
            "TCP[HOST_FORWARD] 1 127.0.0.1 0 10.0.2.15 80 0 0",
            "Unknown command",
        ] {
            assert!(forwarded_ports(text).is_empty(), "{text}");
        }
    }
}
