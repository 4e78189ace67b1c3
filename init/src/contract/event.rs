//! What init reports: JSON lines, one [`Record`] each.
//!
//! On the virtio-serial port [`REPORT_PORT`] when it is there; else on the
//! console, each line prefixed by `@slipform-<nonce> `, the nonce handed in by
//! fw_cfg ([`NONCE_FW_CFG`]) so that no service's output can forge an event.

use serde::{Deserialize, Serialize};

use super::inside::{Item, Query};
use super::machine::MetadataSource;

/// Name of the virtio-serial port.
pub const REPORT_PORT: &str = "org.slipform.report";
/// fw_cfg file with the console nonce.
pub const NONCE_FW_CFG: &str = "opt/org.slipform/nonce";
/// fw_cfg file with the factor (a number, 1 at least) by which the emulated machine is
/// slower than real hardware: services get so much more time to become ready. Only a
/// test's emulator hands it in; it makes no time shorter.
pub const SLOWDOWN_FW_CFG: &str = "opt/org.slipform/slowdown";
/// Longest line that a reader must take, in bytes; init cuts log lines to fit.
pub const MAX_LINE: usize = 16 * 1024;

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds since the kernel started (CLOCK_BOOTTIME).
    pub t: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Where the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Kernel file systems, machine.json.
    Start,
    /// Kernel modules.
    Modules,
    /// Partitions of the layers.
    Disk,
    /// dm-verity devices.
    Verity,
    /// Mounts and the overlay.
    Stack,
    /// The new root is `/`.
    Switch,
    /// The state partition; only of images that have one.
    State,
    /// Loopback, DHCP.
    Network,
    /// Services start.
    Services,
    /// All are ready.
    Running,
    /// On the way down.
    Shutdown,
}

impl Phase {
    /// All phases, in their order.
    pub const ALL: [Self; 11] = [
        Self::Start,
        Self::Modules,
        Self::Disk,
        Self::Verity,
        Self::Stack,
        Self::Switch,
        Self::State,
        Self::Network,
        Self::Services,
        Self::Running,
        Self::Shutdown,
    ];

    /// The name, as it stands in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Modules => "modules",
            Self::Disk => "disk",
            Self::Verity => "verity",
            Self::Stack => "stack",
            Self::Switch => "switch",
            Self::State => "state",
            Self::Network => "network",
            Self::Services => "services",
            Self::Running => "running",
            Self::Shutdown => "shutdown",
        }
    }
}

/// State of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Waits for those in `after`.
    Waiting,
    /// Its process runs.
    Started,
    /// It said or showed that it is ready.
    Ready,
    /// Its process ended; `detail` says how.
    Exited,
    /// It will be started again after a pause; `detail` says when.
    Backoff,
    /// It could not be started, or did not get ready; `detail` says why.
    Failed,
    /// It ended as it should, or was stopped.
    Stopped,
}

/// A limit of a service's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitKind {
    /// Memory: the kernel killed the service's processes.
    Memory,
    /// Processes: a fork was refused.
    Pids,
}

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// There was none before, or nothing keeps what it was.
    Unknown,
    /// Switched off in order.
    Clean,
    /// Started again in order.
    Reboot,
    /// Started again because a service did not get well.
    Health,
    /// The boot failed in init.
    BootFailed,
    /// The kernel panicked.
    Panic,
    /// The watchdog reset it.
    Watchdog,
    /// It ended without a word: power was lost, or somebody pressed reset.
    PowerLoss,
}

impl EndReason {
    /// The name, as it stands in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Clean => "clean",
            Self::Reboot => "reboot",
            Self::Health => "health",
            Self::BootFailed => "boot-failed",
            Self::Panic => "panic",
            Self::Watchdog => "watchdog",
            Self::PowerLoss => "power-loss",
        }
    }
}

/// What became of the state partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateNews {
    /// There was none: it was made.
    Made,
    /// Its file system is larger than before.
    Grown,
    /// It could not be mounted; a new file system took its place, as the image asks for.
    Recreated,
    /// It is mounted, and the image's paths with it.
    Mounted,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Init is alive.
    Boot {
        /// Image name.
        name: String,
        /// Image version.
        version: String,
        /// SHA-256 of machine.json, hexadecimal.
        machine: String,
        /// The image has a debug layer.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        debug: bool,
    },
    /// A phase begins.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// A layer is mapped through dm-verity and mounted.
    Layer {
        /// Name.
        name: String,
        /// Root hash that the kernel checks against.
        root_hash: String,
    },
    /// A layer was read from its first block to its last, as [`Command::ReadLayers`]
    /// asks; one event each, in their order.
    LayerRead {
        /// Name.
        name: String,
        /// Bytes that came.
        bytes: u64,
        /// What kept the rest from coming; empty if all came.
        error: String,
    },
    /// An attempt to write to `/` was made: `refused` must be true.
    RootWrite {
        /// The attempt failed with EROFS.
        refused: bool,
        /// What the kernel answered.
        detail: String,
    },
    /// The state partition.
    State {
        /// What became of it.
        news: StateNews,
        /// Its length.
        bytes: u64,
        /// For people.
        detail: String,
    },
    /// What [`Command::StateFile`] found.
    StateFile {
        /// The path that was asked for.
        path: String,
        /// Its length; none if there is no such file.
        bytes: Option<u64>,
        /// Whether it contains the text that was asked for.
        contains: bool,
        /// What kept it from being read; empty if nothing did.
        error: String,
    },
    /// An address was obtained or lost.
    Network {
        /// Interface.
        interface: String,
        /// Address with prefix length, or empty.
        address: String,
        /// For people.
        detail: String,
        /// It is a warning: the machine goes on with less than it should have.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        bad: bool,
    },
    /// The clock was adjusted: each step, and the first time that it was found right.
    Clock {
        /// Who told the time.
        server: String,
        /// What was added.
        microseconds: i64,
        /// At once, not by and by.
        step: bool,
    },
    /// What the machine learned of itself from outside the image; once a boot.
    Metadata {
        /// Sources that knew something, in the board's order.
        sources: Vec<MetadataSource>,
        /// What the cloud calls the machine, or empty.
        instance_id: String,
        /// Its name, or empty.
        hostname: String,
        /// Length of the user-data in bytes.
        user_data: u64,
        /// Names of the credentials.
        credentials: Vec<String>,
        /// How long it took.
        milliseconds: u64,
        /// What failed or was passed over, and why.
        detail: String,
    },
    /// A service changed state.
    Service {
        /// Name.
        name: String,
        /// New state.
        state: ServiceState,
        /// Process id, 0 if none.
        #[serde(default)]
        pid: i32,
        /// Why or how.
        #[serde(default)]
        detail: String,
    },
    /// A service met a limit of its cgroup.
    Limit {
        /// Service.
        service: String,
        /// Which limit.
        kind: LimitKind,
        /// How often since the last such event: processes killed, or forks refused.
        count: u64,
        /// The limit in bytes or processes; 0 if it was the machine's own memory that was short.
        limit: u64,
        /// The most that it used: bytes of memory, or 0 if unknown.
        #[serde(default)]
        peak: u64,
    },
    /// A service that was ready got unhealthy, or well again.
    Health {
        /// Service.
        service: String,
        /// Whether it is well.
        healthy: bool,
        /// What was seen, and what is done about it.
        detail: String,
    },
    /// How the machine's last life ended, as far as firmware, watchdog and kernel kept it.
    LastBoot {
        /// How.
        reason: EndReason,
        /// For people: the kernel's last words, say.
        detail: String,
        /// Boots in a row, this one not counted, that did not get healthy.
        unhealthy: u32,
        /// So long this boot waits before its services start, for that reason.
        pause_seconds: u64,
    },
    /// A watchdog is armed: without a sign of init within `seconds` the machine resets.
    Watchdog {
        /// What it is.
        device: String,
        /// Its time.
        seconds: u32,
    },
    /// A line of a service's output.
    Log {
        /// Service.
        service: String,
        /// `out`, `err`, or `notify` (status and stop messages of sd_notify).
        stream: String,
        /// Without its line end; invalid UTF-8 replaced.
        line: String,
    },
    /// A receiver of logs or metrics is reached, or is not.
    Sink {
        /// Its name.
        sink: String,
        /// Whether it takes what it is sent.
        up: bool,
        /// Why not, or where it is.
        detail: String,
    },
    /// Records of earlier boots wait on the state partition, and go first.
    Spool {
        /// So many.
        records: u64,
        /// So many more are known to be missing.
        lost: u64,
    },
    /// Records never reached a sink: the spool was full, or the sink refused them.
    LogLoss {
        /// The sink's name.
        sink: String,
        /// How many since the last such event.
        lost: u64,
        /// How many since the boot.
        total: u64,
    },
    /// Every service is ready.
    Ready {
        /// Resident memory of init, KiB.
        rss_kib: u64,
    },
    /// A piece of the answer to [`Command::Show`].
    Inside {
        /// The query's number.
        query: u32,
        /// The piece; few events are as large.
        item: Box<Item>,
    },
    /// Something failed.
    Error {
        /// Where.
        phase: Phase,
        /// What was tried, on what.
        what: String,
        /// What came back.
        why: String,
    },
    /// The machine goes down: `power-off`, `reboot`, `halt`.
    Shutdown {
        /// Which.
        kind: String,
        /// Who asked: `signal`, `power button`, `report channel`, …
        reason: String,
    },
    /// The last line: file systems are unmounted, buffers written.
    End {
        /// Nothing was left behind.
        clean: bool,
    },
}

/// What the harness may send over the report channel: one JSON line each,
/// such as `{"command":"power-off"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Stop everything and switch off.
    PowerOff,
    /// Stop everything and start again.
    Reboot,
    /// Read every layer whole, so that every block of it is checked.
    ReadLayers,
    /// Look at a file below one of the state's paths; [`Event::StateFile`] answers.
    StateFile {
        /// Absolute path.
        path: String,
        /// Text to look for.
        #[serde(default)]
        contains: String,
    },
    /// Tell what the machine looks like inside; [`Event::Inside`] answers.
    Show(Query),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phase_names_are_those_of_the_records() {
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
            let json = serde_json::to_value(phase).unwrap();
            assert_eq!(json, phase.name());
        }
    }

    #[test]
    fn reasons_are_called_as_in_the_records() {
        for reason in [
            EndReason::Unknown,
            EndReason::Clean,
            EndReason::Reboot,
            EndReason::Health,
            EndReason::BootFailed,
            EndReason::Panic,
            EndReason::Watchdog,
            EndReason::PowerLoss,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
