//! Packet sockets: what comes before the kernel's own stack has an address. Each has a
//! filter in the kernel, without which PID 1 would wake up for every packet of every service.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::net::{bind, counted, set_option, size_of, socket};

/// ETH_P_IP.
const IP: u16 = 0x0800;
/// ETH_P_ARP.
const ARP: u16 = 0x0806;
const ACCEPT: u32 = 0xffff;
const DROP: u32 = 0;

/// A socket for one protocol on one interface.
#[derive(Debug)]
pub(crate) struct Packets {
    fd: OwnedFd,
    index: u32,
    protocol: u16,
}

impl Packets {
    /// Only unfragmented UDP to `port`, from the IP header on.
    ///
    /// # Errors
    /// What socket(2), setsockopt(2) or bind(2) says.
    pub(crate) fn udp(index: u32, port: u16) -> io::Result<Packets> {
        let (load, jump) = (libc::BPF_LD | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_K);
        let filter = [
            op(load | libc::BPF_B, 0, 0, 9), // IP protocol
            op(jump | libc::BPF_JEQ, 0, 5, libc::IPPROTO_UDP as u32),
            op(load | libc::BPF_H, 0, 0, 6), // flags and fragment offset
            op(jump | libc::BPF_JSET, 3, 0, 0x3fff),
            op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0), // X = IP header length
            op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 2),  // destination port
            op(jump | libc::BPF_JEQ, 1, 0, u32::from(port)),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, DROP),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, ACCEPT),
        ];
        Packets::open(index, IP, filter)
    }

    /// Only ARP of whoever has `address`, or would like to have it (sender 0.0.0.0, RFC
    /// 5227 section 1.1).
    ///
    /// # Errors
    /// As [`Packets::udp`].
    pub(crate) fn arp(index: u32, address: Ipv4Addr) -> io::Result<Packets> {
        let (load, jump) = (libc::BPF_LD | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_K);
        let address = u32::from(address);
        let filter = [
            op(load | libc::BPF_W, 0, 0, 14), // sender's address
            op(jump | libc::BPF_JEQ, 4, 0, address),
            op(jump | libc::BPF_JEQ, 0, 2, 0),
            op(load | libc::BPF_W, 0, 0, 24), // whose it asks for
            op(jump | libc::BPF_JEQ, 1, 0, address),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, DROP),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, ACCEPT),
        ];
        Packets::open(index, ARP, filter)
    }

    fn open<const N: usize>(
        index: u32,
        protocol: u16,
        mut filter: [libc::sock_filter; N],
    ) -> io::Result<Packets> {
        // Protocol 0: nothing arrives before the filter stands and bind names the protocol.
        let fd = socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        set_option(
            fd.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            &program,
        )?;
        bind(&fd, &link_address(index, protocol, [0; 6]))?;
        Ok(Packets {
            fd,
            index,
            protocol,
        })
    }

    /// The socket.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Sends a packet to everybody on the link.
    ///
    /// # Errors
    /// What sendto(2) says.
    pub(crate) fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        let address = link_address(self.index, self.protocol, [0xff; 6]);
        let (to, size) = ((&raw const address).cast(), size_of::<libc::sockaddr_ll>());
        // SAFETY: live packet, live address of the given size.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_NOSIGNAL,
                to,
                size,
            )
        };
        counted(sent)?;
        Ok(())
    }
}

fn op(code: u32, yes: u8, no: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    }
}

fn link_address(index: u32, protocol: u16, hardware: [u8; 6]) -> libc::sockaddr_ll {
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&hardware);
    address
}
