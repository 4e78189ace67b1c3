//! Sockets that std does not make: rtnetlink, non-blocking
//! connects, and datagrams with the sender's credentials. All are close-on-exec
//! and non-blocking.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{mem, ptr};

/// Connections that may wait; the kernel cuts it to net.core.somaxconn.
const BACKLOG: libc::c_int = 4096;
/// `RTMGRP_LINK` of linux/rtnetlink.h.
pub(crate) const GROUP_LINK: u32 = 1;
/// `RTMGRP_IPV6_IFADDR`.
pub(crate) const GROUP_ADDRESSES6: u32 = 0x100;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub(super) fn counted(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Size of a socket structure as the calls want it.
pub(super) fn size_of<T>() -> libc::socklen_t {
    mem::size_of::<T>() as libc::socklen_t
}

pub(super) fn socket(
    domain: libc::c_int,
    kind: libc::c_int,
    protocol: libc::c_int,
) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain call.
    let fd = checked(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: socket has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn bind<T>(fd: &OwnedFd, address: &T) -> io::Result<()> {
    // SAFETY: `address` is a live sockaddr structure of that size.
    checked(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            ptr::from_ref(address).cast(),
            size_of::<T>(),
        )
    })?;
    Ok(())
}

pub(super) fn set_option<T>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let (value, size) = (ptr::from_ref(value).cast(), size_of::<T>());
    // SAFETY: `value` is alive and of that size.
    checked(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, size) })?;
    Ok(())
}

/// An rtnetlink socket that hears `groups` (0: only answers).
///
/// # Errors
/// What socket(2) or bind(2) says.
pub(crate) fn netlink(groups: u32) -> io::Result<OwnedFd> {
    bound_netlink(libc::NETLINK_ROUTE, groups)
}

/// A socket that hears the kernel's uevents.
///
/// # Errors
/// What socket(2) or bind(2) says.
pub(crate) fn uevents() -> io::Result<OwnedFd> {
    bound_netlink(libc::NETLINK_KOBJECT_UEVENT, 1)
}

fn bound_netlink(protocol: libc::c_int, groups: u32) -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
    // SAFETY: all zeros is a valid sockaddr_nl.
    let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    bind(&fd, &address)?;
    Ok(fd)
}

/// Sends one datagram.
///
/// # Errors
/// What send(2) says; a short write is an error, too.
pub(crate) fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length of one live slice.
    let sent =
        counted(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives one datagram, cut to `buffer`.
///
/// # Errors
/// What recv(2) says; `WouldBlock` when there is none.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length of one live slice.
    counted(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

/// Like [`receive`], but says who sent it: only datagrams of the kernel (port 0) count as netlink news.
///
/// # Errors
/// What recvfrom(2) says; `WouldBlock` when there is none.
pub(crate) fn receive_netlink(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    // SAFETY: all zeros is a valid sockaddr_nl.
    let mut from: libc::sockaddr_nl = unsafe { mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_nl>();
    let address = (&raw mut from).cast();
    // SAFETY: live buffer, live address of the given size.
    let count = counted(unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            address,
            &raw mut size,
        )
    })?;
    Ok((count, from.nl_pid))
}

/// A socket that hears router advertisements on all links; the kernel passes nothing else.
///
/// # Errors
/// What socket(2) or setsockopt(2) says; `EAFNOSUPPORT` where there is no IPv6.
pub(crate) fn advertisements() -> io::Result<OwnedFd> {
    /// `ICMP6_FILTER` of linux/icmpv6.h, and the only type that may pass: a set bit blocks.
    const FILTER: libc::c_int = 1;
    const ADVERTISEMENT: usize = 134;
    let fd = socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)?;
    let mut blocked = [u32::MAX; 8];
    blocked[ADVERTISEMENT / 32] &= !(1 << (ADVERTISEMENT % 32));
    let borrowed = std::os::fd::AsFd::as_fd(&fd);
    set_option(borrowed, libc::IPPROTO_ICMPV6, FILTER, &blocked)?;
    set_option(
        borrowed,
        libc::IPPROTO_IPV6,
        libc::IPV6_RECVHOPLIMIT,
        &1_i32,
    )?;
    Ok(fd)
}

/// A received ICMPv6 packet: its length, its sender, the link's index and the hop limit.
pub(crate) type FromLink = (usize, Ipv6Addr, u32, u8);

/// Receives one packet of [`advertisements`].
///
/// # Errors
/// What recvmsg(2) says; `WouldBlock` when there is none.
pub(crate) fn receive_advertisement(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<FromLink> {
    #[repr(C, align(8))]
    struct Control([u8; 64]);
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a valid sockaddr_in6.
    let mut from: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in6>();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = 64;
    // SAFETY: every pointer in `message` is alive and of the given length.
    let count = counted(unsafe {
        libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
    })?;
    // SAFETY: the kernel has filled the control data; the macros stay within
    // msg_controllen, and the payload of IPV6_HOPLIMIT is an int, read unaligned.
    let hops = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null()
            || (*header).cmsg_level != libc::IPPROTO_IPV6
            || (*header).cmsg_type != libc::IPV6_HOPLIMIT
        {
            0
        } else {
            ptr::read_unaligned(libc::CMSG_DATA(header).cast::<libc::c_int>())
        }
    };
    let source = Ipv6Addr::from(from.sin6_addr.s6_addr);
    Ok((
        count,
        source,
        from.sin6_scope_id,
        u8::try_from(hops).unwrap_or(0),
    ))
}

/// A UDP socket bound to one interface, address and port.
///
/// # Errors
/// What socket(2), setsockopt(2) or bind(2) says.
pub(crate) fn udp(interface: &str, address: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut name = [0_u8; libc::IFNAMSIZ];
    for (to, from) in name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(interface.bytes())
    {
        *to = from;
    }
    let borrowed = std::os::fd::AsFd::as_fd(&fd);
    set_option(borrowed, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)?;
    set_option(borrowed, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    bind(&fd, &inet(address, port))?;
    Ok(fd.into())
}

/// A UDP socket on `port` of one interface, for IPv6 alone.
///
/// # Errors
/// What socket(2), setsockopt(2) or bind(2) says.
pub(crate) fn udp6(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let fd = socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    let mut name = [0_u8; libc::IFNAMSIZ];
    for (to, from) in name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(interface.bytes())
    {
        *to = from;
    }
    let borrowed = std::os::fd::AsFd::as_fd(&fd);
    set_option(borrowed, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)?;
    set_option(borrowed, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
    // SAFETY: all zeros is a valid sockaddr_in6: any address.
    let mut own: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    own.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    own.sin6_port = port.to_be();
    bind(&fd, &own)?;
    Ok(fd.into())
}

fn inet(address: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    // SAFETY: all zeros is a valid sockaddr_in.
    let mut to: libc::sockaddr_in = unsafe { mem::zeroed() };
    to.sin_family = libc::AF_INET as libc::sa_family_t;
    to.sin_port = port.to_be();
    to.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
    to
}

/// A socket for a service: it listens, or takes datagrams. The address need not be
/// this machine's yet (IP_FREEBIND): the lease may come later.
///
/// # Errors
/// What socket(2), setsockopt(2), bind(2) or listen(2) says.
pub(crate) fn listen(address: SocketAddr, stream: bool) -> io::Result<OwnedFd> {
    let kind = if stream {
        libc::SOCK_STREAM
    } else {
        libc::SOCK_DGRAM
    };
    let fd = match address {
        SocketAddr::V4(v4) => {
            let fd = socket(libc::AF_INET, kind, 0)?;
            freely(&fd, libc::IPPROTO_IP, libc::IP_FREEBIND)?;
            bind(&fd, &inet(*v4.ip(), v4.port()))?;
            fd
        }
        SocketAddr::V6(v6) => {
            let fd = socket(libc::AF_INET6, kind, 0)?;
            freely(&fd, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND)?;
            bind(&fd, &inet6(&v6))?;
            fd
        }
    };
    if stream {
        // SAFETY: plain call.
        checked(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    }
    // What a service is handed blocks, as the protocol has it.
    // SAFETY: plain call on an owned descriptor.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, 0) })?;
    Ok(fd)
}

fn freely(fd: &OwnedFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let fd = std::os::fd::AsFd::as_fd(fd);
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    set_option(fd, level, option, &1_i32)
}

fn inet6(address: &SocketAddrV6) -> libc::sockaddr_in6 {
    // SAFETY: all zeros is a valid sockaddr_in6.
    let mut to: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    to.sin6_port = address.port().to_be();
    to.sin6_addr.s6_addr = address.ip().octets();
    to.sin6_scope_id = address.scope_id();
    to
}

/// Begins a TCP connection. Writable means decided: `peer_addr` of the stream then says how.
///
/// # Errors
/// What socket(2) says, and what connect(2) knows at once (on loopback, a refusal).
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let begun = |fd: OwnedFd, result| match checked(result) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from(fd)),
    };
    match address {
        SocketAddr::V4(v4) => {
            let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            let to = inet(*v4.ip(), v4.port());
            let size = size_of::<libc::sockaddr_in>();
            // SAFETY: a live address of the given size.
            let result = unsafe { libc::connect(fd.as_raw_fd(), (&raw const to).cast(), size) };
            begun(fd, result)
        }
        SocketAddr::V6(v6) => {
            let fd = socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?;
            let to = inet6(&v6);
            let size = size_of::<libc::sockaddr_in6>();
            // SAFETY: a live address of the given size.
            let result = unsafe { libc::connect(fd.as_raw_fd(), (&raw const to).cast(), size) };
            begun(fd, result)
        }
    }
}

/// Asks the kernel to add the sender's pid, uid and gid to each datagram.
///
/// # Errors
/// What setsockopt(2) says.
pub(crate) fn pass_credentials(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, &1_i32)
}

/// Bytes of control data that hold credentials and nothing else: descriptors that a
/// sender adds find no room behind them, so the kernel drops them instead of filling
/// PID 1's table.
const CREDENTIALS: usize = 32;

/// Receives one datagram and its sender's pid (`None`: cut, or without credentials).
///
/// # Errors
/// What recvmsg(2) says; `WouldBlock` when there is none.
pub(crate) fn receive_from_process(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<i32>)> {
    #[repr(C, align(8))]
    struct Control([u8; CREDENTIALS]);
    let mut control = Control([0; CREDENTIALS]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = CREDENTIALS as _;
    // SAFETY: every pointer in `message` is alive and of the given length.
    let count = counted(unsafe {
        libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
    })?;
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Ok((count, None));
    }
    // SAFETY: the kernel has filled the control data; the macros stay within msg_controllen,
    // and the payload of SCM_CREDENTIALS is a ucred, read unaligned.
    let sender = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null()
            || (*header).cmsg_level != libc::SOL_SOCKET
            || (*header).cmsg_type != libc::SCM_CREDENTIALS
        {
            None
        } else {
            Some(ptr::read_unaligned(libc::CMSG_DATA(header).cast::<libc::ucred>()).pid)
        }
    };
    Ok((count, sender))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_datagram_names_its_sender() {
        let (ours, theirs) = UnixDatagram::pair().expect("socketpair");
        ours.set_nonblocking(true).expect("non-blocking");
        pass_credentials(ours.as_fd()).expect("SO_PASSCRED");
        theirs.send(b"READY=1").expect("send");
        let mut buffer = [0; 64];
        let (count, sender) = receive_from_process(ours.as_fd(), &mut buffer).expect("receive");
        assert_eq!(
            (&buffer[..count], sender),
            (&b"READY=1"[..], Some(std::process::id() as i32))
        );
        let again = receive_from_process(ours.as_fd(), &mut buffer).expect_err("nothing is left");
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
    }

    fn skipped(why: &str) {
        use io::Write;
        let _ = writeln!(io::stderr(), "SKIPPED: router advertisements: {why}");
    }

    /// Through the real kernel: an advertisement passes its filter, with its hop limit and
    /// sender; another message does not. Only root may open such a socket.
    #[test]
    fn advertisements_pass_the_kernels_filter_and_nothing_else() {
        let Ok(hears) = advertisements() else {
            return skipped("no right to open raw sockets, or no IPv6");
        };
        let says = advertisements().expect("a second");
        set_option(
            says.as_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_UNICAST_HOPS,
            &255_i32,
        )
        .expect("hop limit");
        // SAFETY: all zeros is a valid sockaddr_in6.
        let mut to: libc::sockaddr_in6 = unsafe { mem::zeroed() };
        to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        to.sin6_addr.s6_addr = Ipv6Addr::LOCALHOST.octets();
        for kind in [136_u8, 134] {
            let mut message = [0_u8; 24];
            message[0] = kind;
            let (address, size) = ((&raw const to).cast(), size_of::<libc::sockaddr_in6>());
            // SAFETY: live message, live address of the given size.
            let sent = unsafe {
                libc::sendto(
                    says.as_raw_fd(),
                    message.as_ptr().cast(),
                    24,
                    0,
                    address,
                    size,
                )
            };
            if sent != 24 {
                return skipped("::1 cannot be reached");
            }
        }
        let mut buffer = [0; 64];
        let got = receive_advertisement(&hears, &mut buffer).expect("the advertisement");
        assert_eq!((got.0, got.1, got.3), (24, Ipv6Addr::LOCALHOST, 255));
        assert_eq!(buffer[0], 134);
        let again = receive_advertisement(&hears, &mut buffer).expect_err("no more");
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_cut_datagram_has_no_sender() {
        let (ours, theirs) = UnixDatagram::pair().expect("socketpair");
        pass_credentials(ours.as_fd()).expect("SO_PASSCRED");
        theirs.send(&[b'x'; 100]).expect("send");
        let got = receive_from_process(ours.as_fd(), &mut [0; 64]).expect("receive");
        assert_eq!(got, (64, None));
    }

    /// A descriptor in the message must not arrive: a service could fill PID 1's table with them.
    #[test]
    fn passed_descriptors_are_dropped() {
        let (ours, theirs) = UnixDatagram::pair().expect("socketpair");
        pass_credentials(ours.as_fd()).expect("SO_PASSCRED");
        let marker = std::fs::File::open("/dev/null").expect("open");
        let count = || {
            let links = std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd");
            links
                .flatten()
                .filter_map(|e| std::fs::read_link(e.path()).ok())
                .filter(|to| to.ends_with("passed-on"))
                .count()
        };
        let folder = std::env::temp_dir().join(format!("slipform-fds-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let passed = std::fs::File::create(folder.join("passed-on")).expect("file");
        send_with_descriptor(&theirs, b"READY=1", passed.as_raw_fd());
        drop((marker, passed));
        let (size, sender) = receive_from_process(ours.as_fd(), &mut [0; 64]).expect("receive");
        assert_eq!((size, sender), (7, Some(std::process::id() as i32)));
        assert_eq!(count(), 0, "the descriptor arrived");
        std::fs::remove_dir_all(&folder).expect("clean up");
    }

    fn send_with_descriptor(socket: &UnixDatagram, bytes: &[u8], passed: i32) {
        #[repr(C, align(8))]
        struct Control([u8; 24]);
        let mut control = Control([0; 24]);
        let mut part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: a msghdr whose pointers are alive; 24 bytes are CMSG_SPACE of one descriptor.
        unsafe {
            let mut message: libc::msghdr = mem::zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = 24;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(4) as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast::<i32>(), passed);
            assert_eq!(
                libc::sendmsg(socket.as_raw_fd(), &raw const message, 0),
                bytes.len() as isize
            );
        }
    }
}
