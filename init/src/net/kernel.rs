//! Requests to the kernel, one at a time. rtnetlink does its work within the send,
//! so the answer is there when it returns and nothing waits.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use thiserror::Error;

use super::rtnl::{self, Request};
use crate::sys::{net, process};

/// Datagrams that are looked at for one answer.
const ANSWERS: usize = 16;

/// A request that the kernel did not carry out.
#[derive(Debug, Error)]
#[error("{what}: {}", why(*errno))]
pub(crate) struct KernelError {
    /// What was tried, on what.
    pub(crate) what: String,
    /// What came back; 0: nothing.
    pub(crate) errno: i32,
}

impl KernelError {
    pub(crate) fn of(what: &str, error: &std::io::Error) -> KernelError {
        KernelError {
            what: what.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
        }
    }

    /// The reason alone.
    pub(crate) fn why(&self) -> String {
        why(self.errno)
    }
}

fn why(errno: i32) -> String {
    match errno {
        0 => "the kernel gave no answer".into(),
        errno => process::error_text(errno),
    }
}

/// An rtnetlink socket.
#[derive(Debug)]
pub(crate) struct Kernel {
    socket: OwnedFd,
    sequence: u32,
}

impl Kernel {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`KernelError`] when there is no rtnetlink.
    pub(crate) fn open() -> Result<Kernel, KernelError> {
        let socket = net::netlink(0).map_err(|error| KernelError::of("open rtnetlink", &error))?;
        Ok(Kernel {
            socket,
            sequence: 0,
        })
    }

    /// Has `request` carried out; an errno of `fine` is no error.
    ///
    /// # Errors
    /// [`KernelError`] with what the kernel said.
    pub(crate) fn run(
        &mut self,
        what: &str,
        request: Request,
        fine: &[i32],
    ) -> Result<(), KernelError> {
        self.sequence = self.sequence.wrapping_add(1);
        let failed = |error: &std::io::Error| KernelError::of(what, error);
        net::send(&self.socket, &request.numbered(self.sequence))
            .map_err(|error| failed(&error))?;
        let mut buffer = [0; 4096];
        for _ in 0..ANSWERS {
            let (count, port) = match net::receive_netlink(&self.socket, &mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(&error)),
            };
            // Any process may send to a netlink port; only port 0 is the kernel.
            if port != 0 {
                continue;
            }
            match rtnl::answer(&buffer[..count], self.sequence) {
                Some(0) => return Ok(()),
                Some(errno) if fine.contains(&errno) => return Ok(()),
                Some(errno) => {
                    return Err(KernelError {
                        what: what.to_owned(),
                        errno,
                    });
                }
                None => {}
            }
        }
        Err(KernelError {
            what: what.to_owned(),
            errno: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real kernel as the judge of the request's form: an interface that cannot be
    /// is refused as such (or for want of rights), never as malformed.
    #[test]
    fn the_kernel_answers() {
        let mut kernel = Kernel::open().expect("rtnetlink");
        let error = kernel
            .run("switch on 2147483647", Request::link_up(0x7fff_ffff), &[])
            .expect_err("no such interface");
        assert!(
            [libc::ENODEV, libc::EPERM].contains(&error.errno),
            "{error}"
        );
        assert!(
            error.to_string().starts_with("switch on 2147483647: "),
            "{error}"
        );
        let fine = [libc::ENODEV, libc::EPERM];
        kernel
            .run("again", Request::link_up(0x7fff_ffff), &fine)
            .expect("an answer that is fine");
    }
}
