//! TLS for one connection of PID 1, in a process of its own.
//!
//! PID 1 parses no certificate and holds no key: it connects by TCP, and hands the
//! connection to a child without rights, which speaks TLS over it ([`relay`]) and passes
//! what is inside through a local socket.
//!
//! ```text
//! init --plain--> local socket --> relay --TLS--> TCP --> receiver
//! ```
//!
//! A byte leaves the local socket only after what it became has been handed to TCP. So
//! init, which holds both sockets, knows what the receiver's kernel has confirmed: all,
//! when nothing waits in either.

mod relay;
mod trust;

use std::path::PathBuf;

use thiserror::Error;

pub use relay::{READY, relay};
pub use trust::Trust;

/// Why a connection ends.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The certificates cannot be read.
    #[error(
        "read the certificates in {}: {why}; add the package ca-certificates to a layer, or your authority's certificate below /usr/local/share/ca-certificates", path.display()
    )]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The receiver's name is none.
    #[error("'{0}' is neither a domain name nor an address")]
    Name(String),
    /// The protocol refuses: a certificate that is not trusted, a peer that speaks no TLS.
    #[error("TLS: {}", told(.0))]
    Protocol(#[from] rustls::Error),
    /// A socket failed.
    #[error("{what}: {source}")]
    Socket {
        /// The operation.
        what: &'static str,
        /// What came back.
        source: std::io::Error,
    },
    /// The receiver went away before it had proved who it is.
    #[error("TLS: the connection was closed during the handshake")]
    Closed,
}

/// Without the times that rustls puts in: the same reason is to be the same text each time.
fn told(error: &rustls::Error) -> String {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    use rustls::Error::InvalidCertificate;

    let doubt = match error {
        InvalidCertificate(Expired | ExpiredContext { .. }) => "has expired",
        InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => "is not valid yet",
        other => return other.to_string(),
    };
    format!("the receiver's certificate {doubt}, or this machine's clock is wrong")
}
