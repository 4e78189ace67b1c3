//! Services and health as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// A supervised program.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawService {
    /// Name, unique in the image.
    pub name: String,
    /// Program (absolute path) and its arguments. No shell is involved.
    pub exec: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User to run as. Default: `root`.
    pub user: Option<String>,
    /// Group to run as. Default: the user's.
    pub group: Option<String>,
    /// Further groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Working directory. Default: `/`.
    pub workdir: Option<String>,
    /// `always`, `on-failure` (default) or `never`.
    pub restart: Option<RawRestart>,
    /// How it shows that it is ready. Default: as soon as it runs.
    pub ready: Option<RawReady>,
    /// Services that must be ready before this one starts.
    #[serde(default)]
    pub after: Vec<String>,
    /// Capabilities it keeps, such as `"CAP_NET_BIND_SERVICE"`; all others are dropped unless it runs as root.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Limits of each of its processes by setrlimit(2), such as `{ nofile = 65536 }`.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// Limits of all its processes together, by its cgroup.
    #[serde(default)]
    pub resources: RawResources,
    /// Time between the stop signal and SIGKILL when it is stopped. Default: `"10s"`.
    pub stop_timeout: Option<String>,
    /// Secrets that it needs, such as `"db-password"`: files in the folder `$CREDENTIALS_DIRECTORY`, readable by it alone, handed in from outside (SMBIOS, fw_cfg, a cloud's user-data). It starts once they are known, and never without.
    #[serde(default)]
    pub credentials: Vec<String>,
    /// Environment from the machine's identity, such as `{ NODE = "instance-id" }`: `instance-id`, `hostname`, `region`, `zone`, `instance-type`. It starts once they are known, and never without.
    #[serde(default)]
    pub identity_env: BTreeMap<String, String>,
    /// Signal that asks it to stop, such as `"SIGINT"`. Default: `"SIGTERM"`.
    pub stop_signal: Option<String>,
    /// `daemon` (default): runs as long as the machine. `oneshot`: does its work and ends; those `after` it wait for a good end.
    #[serde(rename = "type")]
    pub kind: Option<RawKind>,
    /// Makes it a timer: it runs at the start and again every so often, such as `"1h"`. The next run is the retry of one that failed.
    pub every: Option<String>,
    /// Programs (absolute path and arguments) that run before each start, one after the other, with the service's rights.
    #[serde(default)]
    pub pre_start: Vec<Vec<String>>,
    /// Files in the machine with `NAME=value` lines, read at each start; `env` wins over them.
    #[serde(default)]
    pub env_file: Vec<String>,
    /// What is done when it ends again and again. Default: it is started again for ever, with pauses up to ten seconds.
    pub start_limit: Option<RawStartLimit>,
    /// What it is kept from.
    #[serde(default)]
    pub sandbox: RawSandbox,
    /// Sockets that init opens before the first start and keeps over restarts (`LISTEN_FDS`), from descriptor 3 on.
    #[serde(default)]
    pub sockets: Vec<RawSocket>,
    /// Time within which it must say `WATCHDOG=1` over sd_notify, again and again, once it is ready.
    pub watchdog: Option<String>,
    /// A probe that must hold once it is ready.
    pub health: Option<RawHealth>,
}

/// What kind of program a service is.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawKind {
    /// Runs as long as the machine.
    Daemon,
    /// Does its work and ends.
    Oneshot,
}

/// What is done about a service that does not get well.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawThen {
    /// It stays down; the others go on.
    GiveUp,
    /// The machine starts again.
    Reboot,
}

/// When starting a service again is in vain.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawStartLimit {
    /// Ends in a row without ten seconds of health before them.
    pub starts: u32,
    /// `give-up` or `reboot`.
    pub then: RawThen,
}

/// Limits of a service's cgroup.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawResources {
    /// Memory, such as `"256MiB"`; a service that takes more is killed, and the figures are reported.
    pub memory: Option<String>,
    /// Processor time, such as `"50%"` of one processor or `"200%"` for two.
    pub cpu: Option<String>,
    /// Processes and threads. Default: a quarter of what the kernel can have.
    pub pids: Option<u64>,
    /// Bytes a second read from each disk, such as `"10MiB"`.
    pub read: Option<String>,
    /// Bytes a second written to each disk.
    pub write: Option<String>,
    /// Reads a second from each disk.
    pub read_ops: Option<u64>,
    /// Writes a second to each disk.
    pub write_ops: Option<u64>,
}

/// What a service is kept from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawSandbox {
    /// A `/tmp` of its own, empty at each start. Default: `false`.
    #[serde(default)]
    pub private_tmp: bool,
    /// Everything is read-only but `/dev`, `/proc`, a private `/tmp` and what is `writable`. Default: `false`.
    #[serde(default)]
    pub read_only: bool,
    /// Absolute paths that stay writable; they must be there when it starts.
    #[serde(default)]
    pub writable: Vec<String>,
    /// The system call filter, which refuses mounts, modules, namespaces, keys, kexec, clocks, io_uring and other architectures unless a capability allows them. Default: `true`.
    pub seccomp: Option<bool>,
}

/// A socket that init opens: one of `tcp`, `udp` and `unix`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawSocket {
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
    /// `"address:port"` of a stream.
    pub tcp: Option<String>,
    /// `"address:port"` for datagrams.
    pub udp: Option<String>,
    /// Absolute path of a stream socket; it belongs to the service's user.
    pub unix: Option<String>,
}

/// What must hold once a service is ready: one of `tcp` and `http`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawHealth {
    /// `"address:port"` that must accept a connection.
    pub tcp: Option<String>,
    /// `"http://address:port/path"` that must answer 2xx or 3xx.
    pub http: Option<String>,
    /// Time between two probes. Default: `"10s"`.
    pub interval: Option<String>,
    /// How long an answer may take. Default: `"5s"`.
    pub timeout: Option<String>,
    /// Probes that fail in a row before the service is restarted. Default: 3.
    pub failures: Option<u32>,
    /// Restarts that are borne `within` a time before `then` is done. Default: 3.
    pub restarts: Option<u32>,
    /// That time. Default: `"1h"`.
    pub within: Option<String>,
    /// What is done when restarts do not help: `reboot` (default) or `give-up`.
    pub then: Option<RawThen>,
}

/// `[health]`: the machine's own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawMachineHealth {
    /// Time without a sign of init after which the watchdog resets the machine, from `"5s"` to `"10min"`; `"0s"`: no watchdog. Default: `"30s"`.
    pub watchdog: Option<String>,
    /// Time after a kernel panic until the machine starts again. Default: `"10s"`.
    pub panic: Option<String>,
    /// Boots in a row without health after which the machine waits longer and longer before it goes on. Default: 3.
    pub boots: Option<u32>,
    /// How long all services must have been ready for a boot to count as healthy. Default: `"60s"`.
    pub healthy_after: Option<String>,
}

/// Restart policy.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawRestart {
    /// Whatever its status.
    Always,
    /// After a failure.
    OnFailure,
    /// Never.
    Never,
}

/// Readiness: one of `tcp`, `http`, `log`, `notify`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawReady {
    /// `"address:port"` that must accept a connection.
    pub tcp: Option<String>,
    /// `"http://address:port/path"` that must answer 2xx or 3xx.
    pub http: Option<String>,
    /// Text that a line of output must contain.
    pub log: Option<String>,
    /// It tells over sd_notify (`READY=1`).
    #[serde(default)]
    pub notify: bool,
    /// How long it may take on real hardware. Default: `"30s"`.
    pub timeout: Option<String>,
}
