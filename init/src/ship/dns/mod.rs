//! A stub resolver: A and AAAA over UDP, from the name servers of resolv.conf.
//! No getaddrinfo: it blocks, and a static binary cannot load its modules.

mod lookup;
mod message;
mod servers;

pub(crate) use lookup::Lookup;
pub(crate) use servers::Servers;
