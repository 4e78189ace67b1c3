//! What a service may ask for beyond its program and its user: limits, a sandbox,
//! sockets, hooks, health. Part of [`super::machine::Service`]; everything has a
//! default that is left out of `machine.json`.

use serde::{Deserialize, Serialize};

use super::machine::Ready;

/// What kind of program it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Runs as long as the machine.
    #[default]
    Daemon,
    /// Does its work and ends; ready when it has ended well.
    Oneshot,
    /// Runs once, and again so many milliseconds after its last start.
    Every(u64),
}

impl Kind {
    /// Whether it is [`Kind::Daemon`].
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        *self == Self::Daemon
    }
}

/// What is done about a service that does not get well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// It stays down; the others go on.
    GiveUp,
    /// The machine starts again.
    Reboot,
}

/// How often a service is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartLimit {
    /// Ends in a row without health; the last of them is the end.
    pub starts: u32,
    /// What then.
    pub then: Then,
}

/// What must hold after the service became ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// [`Ready::Tcp`] or [`Ready::Http`].
    pub probe: Ready,
    /// Milliseconds between two probes.
    pub interval_ms: u64,
    /// Milliseconds that an answer may take.
    pub timeout_ms: u64,
    /// Probes that fail in a row before something is done.
    pub failures: u32,
    /// Restarts within [`Health::within_ms`] before the policy escalates.
    pub restarts: u32,
    /// Milliseconds over which restarts count.
    pub within_ms: u64,
    /// What is done when restarts do not help.
    pub then: Then,
}

/// Limits of the service's cgroup (Linux, admin-guide/cgroup-v2). 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Bytes of memory, swap included.
    pub memory: u64,
    /// Thousandths of a processor.
    pub cpu_milli: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes a second read from each disk.
    pub read_bytes: u64,
    /// Bytes a second written to each disk.
    pub write_bytes: u64,
    /// Reads a second from each disk.
    pub read_ops: u64,
    /// Writes a second to each disk.
    pub write_ops: u64,
}

/// What the service is kept from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// A /tmp of its own.
    pub private_tmp: bool,
    /// Everything is read-only but /dev, /proc, a private /tmp and `writable`.
    pub read_only: bool,
    /// Absolute paths that stay writable; they must be there when it starts.
    pub writable: Vec<String>,
    /// Without the system call filter.
    pub unfiltered: bool,
}

/// A socket that init opens and hands over (sd_listen_fds(3)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
    /// Where.
    pub address: SocketAddress,
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketAddress {
    /// `address:port`, a stream.
    Tcp(String),
    /// `address:port`, datagrams.
    Udp(String),
    /// Path of a stream socket; it belongs to the service's user.
    Unix(String),
}

/// Most sockets of one service.
pub const MAX_SOCKETS: usize = 16;

/// The machine's own health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineHealth {
    /// Seconds without a sign of init after which the watchdog resets; 0: no watchdog.
    pub watchdog_seconds: u32,
    /// Boots in a row without health after which the machine takes its time.
    pub boots: u32,
    /// Seconds after ready that make a boot a healthy one.
    pub healthy_seconds: u32,
}

impl Default for MachineHealth {
    fn default() -> Self {
        Self {
            watchdog_seconds: 30,
            boots: 3,
            healthy_seconds: 60,
        }
    }
}

impl MachineHealth {
    /// Whether it is what a machine has that says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a value is its type's default: such are left out of `machine.json`.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
