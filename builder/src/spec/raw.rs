//! `slipform.toml` and `layer.toml` as written. Strict: an unknown key is an
//! error. The doc comments here become the JSON schema (`slipform schema`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

pub use super::raw_telemetry::{RawConsole, RawFormat, RawLogs, RawMetrics, RawSink};

/// An image: layers stacked bottom to top, services, and the checks that it must pass before it counts as built.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawImage {
    /// Name of the image; also the host name. Lower-case letters, digits and `-`.
    pub name: String,
    /// Your own version of the image.
    pub version: String,
    /// Boards (targets) to cast for: shipped ones, or `boards/NAME.toml` beside this file. Default: `["qemu-x86_64"]`.
    #[serde(default)]
    pub boards: Vec<String>,
    /// Debian suite that packages come from, with its updates and security. Default: `trixie`.
    pub suite: Option<String>,
    /// Further package sources.
    #[serde(default)]
    pub apt: Vec<RawApt>,
    /// Layers, bottom to top.
    #[serde(default)]
    #[schemars(with = "Vec<RawLayer>")]
    pub layer: Vec<Spanned<RawLayer>>,
    /// Programs that init starts and supervises.
    #[serde(default)]
    #[schemars(with = "Vec<RawService>")]
    pub service: Vec<Spanned<RawService>>,
    /// Checks from outside the machine; `slipform test` runs them.
    #[serde(default)]
    #[schemars(with = "Vec<RawTest>")]
    pub test: Vec<Spanned<RawTest>>,
    /// Findings of the built-in checks that are known and may pass for a time.
    #[serde(default)]
    #[schemars(with = "Vec<RawAllow>")]
    pub allow: Vec<Spanned<RawAllow>>,
    /// The kernel.
    #[serde(default)]
    pub kernel: RawKernel,
    /// `/proc/sys` settings, such as `"vm.overcommit_memory" = 1`.
    #[serde(default)]
    pub sysctl: BTreeMap<String, RawScalar>,
    /// Writable tmpfs folders, for apps that write where they were not told to.
    #[serde(default)]
    pub scratch: Vec<RawScratch>,
    /// What persists over reboots and power cuts. Without it nothing does.
    pub state: Option<RawState>,
    /// What `slipform publish` insists on.
    #[serde(default)]
    pub gate: RawGate,
    /// Where the machine learns who it is.
    #[serde(default)]
    pub metadata: RawMetadata,
    /// Network interfaces that are used, and how. Default: all wired ones, with DHCP.
    #[serde(default)]
    pub interface: Vec<RawInterface>,
    /// The clock.
    #[serde(default)]
    pub time: RawTime,
    /// Watchdog, panics, and what counts as a healthy boot.
    #[serde(default)]
    pub health: RawMachineHealth,
    /// Console and spool of the machine's logs.
    #[serde(default)]
    pub logs: RawLogs,
    /// Receivers that every log line is sent to.
    #[serde(default)]
    #[schemars(with = "Vec<RawSink>")]
    pub log: Vec<Spanned<RawSink>>,
    /// The machine's metrics.
    #[schemars(with = "Option<RawMetrics>")]
    pub metrics: Option<Spanned<RawMetrics>>,
}

/// A network interface.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawInterface {
    /// The kernel's name of it, such as `"eth0"`.
    pub name: String,
    /// Ask for an IPv4 lease. Default: `true` without `addresses`.
    pub dhcp: Option<bool>,
    /// Addresses with their prefixes, such as `"192.0.2.10/24"`; IPv6 as well.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Routes.
    #[serde(default)]
    pub routes: Vec<RawRoute>,
    /// Name servers, numeric; they go before those of leases.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Search domains.
    #[serde(default)]
    pub search: Vec<String>,
    /// Largest packet in bytes, 576 to 9216.
    pub mtu: Option<u16>,
    /// Makes it a VLAN of another interface, such as `{ link = "eth0", id = 10 }`.
    pub vlan: Option<RawVlan>,
}

/// A tagged network (IEEE 802.1Q).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawVlan {
    /// The interface that carries it.
    pub link: String,
    /// Its number, 1 to 4094.
    pub id: u16,
}

/// A route.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawRoute {
    /// Network, such as `"10.0.0.0/8"`; `"default"` for all of IPv4, `"::/0"` for all of IPv6.
    pub to: String,
    /// Router. Default: the network is on the link itself.
    pub via: Option<String>,
}

/// The clock.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawTime {
    /// Time servers (SNTP), numeric. Default: the cloud's own, else those that DHCP names.
    #[serde(default)]
    pub servers: Vec<String>,
}

/// Where the machine learns who it is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawMetadata {
    /// Sources in their order, such as `["smbios", "ec2"]`; `[]` for none. Default: the board's.
    pub sources: Option<Vec<String>>,
    /// How long all of them may take together on real hardware; only services with `credentials` or `identity-env` wait. Default: `"20s"`.
    pub timeout: Option<String>,
}

/// What `slipform publish` insists on.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawGate {
    /// Oldest boot test that counts, such as `"7d"` or `"12h"`. Default: `"30d"`.
    pub max_age: Option<String>,
    /// Let images with a debug layer pass. Default: `false`.
    #[serde(default)]
    pub accept_debug: bool,
    /// Files beside this one with the public keys whose signatures count, such as `["release.pub"]`.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// A further package source, trusted by its own key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawApt {
    /// Name of the source, as the lock shows it.
    pub name: String,
    /// Base URI of the archive.
    pub uri: String,
    /// Suite below `dists/`.
    pub suite: String,
    /// Components. Default: `["main"]`.
    #[serde(default)]
    pub components: Vec<String>,
    /// File with the archive's public key, beside this file.
    pub key: String,
}

/// A layer: either `use` of one that exists, or one made here.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawLayer {
    /// A layer that ships with slipform (`base`, `busybox`), the path of a folder with a `layer.toml`, or a published base: `oci://host/repository:channel` or `…@sha256:…`, also `s3://` and `file:///`.
    #[serde(rename = "use")]
    pub uses: Option<String>,
    /// Files beside this one with the public keys that a published base must be signed by; otherwise those of `[gate]`, SLIPFORM_TRUSTED_KEYS and `trusted-keys` in the user's configuration.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Only in a `layer.toml`: the version under which `slipform publish` publishes the layer as a base. Default: `"0"`.
    pub version: Option<String>,
    /// Name of a layer made here; unique in the image.
    pub name: Option<String>,
    /// Debian packages: `"redis-server"`, `"redis-server (>= 7)"`, `"redis-server=5:7.0.15-1"`. Their scripts are never run.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Local `.deb` files.
    #[serde(default)]
    pub debs: Vec<String>,
    /// Packages that count as present although they are not: cuts dependencies off.
    #[serde(default)]
    pub without: Vec<String>,
    /// Keep manuals and other documentation. Default: only copyright files are kept.
    #[serde(default)]
    pub docs: bool,
    /// Files, folders or globs of yours.
    #[serde(default)]
    pub files: Vec<RawFile>,
    /// Empty folders.
    #[serde(default)]
    pub dirs: Vec<RawDir>,
    /// Symbolic links.
    #[serde(default)]
    pub symlinks: Vec<RawSymlink>,
    /// Users to add.
    #[serde(default)]
    pub users: Vec<RawUser>,
    /// Groups to add.
    #[serde(default)]
    pub groups: Vec<RawGroup>,
    /// Globs of paths that this layer leaves out, such as `/usr/lib/x86_64-linux-gnu/gconv/**`.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Paths or globs of lower layers to hide. One that hits nothing is an error.
    #[serde(default)]
    pub remove: Vec<String>,
    /// A Rust program built by cargo into `/usr/bin`.
    pub cargo: Option<RawCargo>,
}

/// Files from beside the specification.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawFile {
    /// A file, a folder or a glob, relative to the layer's folder.
    pub from: String,
    /// Absolute path in the image. For a folder, where its content goes; for a glob or with a trailing `/`, the folder that takes the files.
    pub to: String,
    /// Mode in octal, such as `"0640"`. Default: 0755 for executables, else 0644.
    pub mode: Option<String>,
    /// `user:group`, by name or number. Default: `root:root`.
    pub owner: Option<String>,
}

/// An empty folder.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawDir {
    /// Absolute path in the image.
    pub path: String,
    /// Mode in octal. Default: `"0755"`.
    pub mode: Option<String>,
    /// `user:group`. Default: `root:root`.
    pub owner: Option<String>,
}

/// A symbolic link.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawSymlink {
    /// Absolute path of the link.
    pub path: String,
    /// What it points to.
    pub target: String,
}

/// A user.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawUser {
    /// Login name.
    pub name: String,
    /// Numeric id.
    pub uid: u32,
    /// Primary group by name. Default: a group of the user's name and id.
    pub group: Option<String>,
    /// Home folder. Default: `/nonexistent`.
    pub home: Option<String>,
    /// Shell. Default: `/usr/sbin/nologin`.
    pub shell: Option<String>,
    /// Further groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// A group.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawGroup {
    /// Group name.
    pub name: String,
    /// Numeric id.
    pub gid: u32,
}

/// A program built by cargo.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawCargo {
    /// Folder of the package's Cargo.toml, relative to the layer's folder. Default: the layer's folder.
    pub path: Option<String>,
    /// Name of the binary; it becomes `/usr/bin/NAME`.
    pub bin: String,
}

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

/// A check from outside: one of `http`, `tcp`, `console`, `console-absent`, `service`, `log`, `file`, or several in `steps`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawTest {
    /// A sentence, shown with the verdict.
    pub name: String,
    /// An HTTP request.
    pub http: Option<RawHttp>,
    /// A TCP conversation.
    pub tcp: Option<RawTcp>,
    /// A regular expression that a line of the console must match.
    pub console: Option<String>,
    /// A regular expression that no line of the console may match, from power-on to power-off.
    pub console_absent: Option<String>,
    /// The state that a service must be in.
    pub service: Option<RawServiceState>,
    /// A line that a service must print.
    pub log: Option<RawLog>,
    /// A file on the state partition.
    pub file: Option<RawStateFile>,
    /// Steps, in order; the first that does not fit ends the test. Each has one of `http`, `tcp`, `console`, `console-absent`, `service`, `log`, `file`, `wait`, `reboot`, `power-cut`.
    #[serde(default)]
    pub steps: Vec<RawStep>,
    /// How long each look may take to fit on real hardware. Default: `"10s"` for `http` and `tcp`, `"2s"` for the others, once all else is done.
    pub timeout: Option<String>,
    /// How often a request is tried again. Default: as often as fits into the time.
    pub retries: Option<u32>,
    /// Where the machine wakes up for this test: `"ec2"`, `"gce"`, `"azure"`, `"openstack"`, `"nocloud"`, `"smbios"`, `"fw-cfg"`, or a table that says more. Tests of one place share a boot. Default: in no cloud.
    pub metadata: Option<RawTestMetadata>,
}

/// An emulated cloud: its name, or what it tells.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RawTestMetadata {
    /// Its name alone.
    Name(String),
    /// What it tells.
    Table(RawCloud),
}

/// An emulated cloud.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawCloud {
    /// Its name, such as `"ec2"`.
    pub source: String,
    /// What it calls the machine. Default: `"i-0123456789abcdef0"`.
    pub instance_id: Option<String>,
    /// The name that it gives. Default: `"emulated.internal"`.
    pub hostname: Option<String>,
    /// User-data.
    pub user_data: Option<String>,
    /// Secrets by name; without `user-data`, which a cloud would carry them in.
    #[serde(default)]
    pub credentials: BTreeMap<String, String>,
    /// How its server does: `good` (default), `slow`, `late`, `unauthorized`, `busy`, `failing`, `malformed`, `huge`, `silent`.
    pub day: Option<String>,
}

/// A step of a check.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawStep {
    /// An HTTP request.
    pub http: Option<RawHttp>,
    /// A TCP conversation.
    pub tcp: Option<RawTcp>,
    /// A regular expression that a line of the console must match, since the last start.
    pub console: Option<String>,
    /// A regular expression that no line of the console has matched, since the last start.
    pub console_absent: Option<String>,
    /// The state that a service must be in.
    pub service: Option<RawServiceState>,
    /// A line that a service must have printed since the last start.
    pub log: Option<RawLog>,
    /// A file on the state partition.
    pub file: Option<RawStateFile>,
    /// So long nothing is done; longer where the machine is emulated slowly.
    pub wait: Option<String>,
    /// `true`: the machine is told to reboot, and must become ready again.
    #[serde(default)]
    pub reboot: bool,
    /// `true`: the machine loses its power at once, is started again on the disk as it is then, and must become ready.
    #[serde(default)]
    pub power_cut: bool,
}

/// A service and its state.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawServiceState {
    /// A service of this image.
    pub name: String,
    /// `waiting`, `started`, `ready` (default), `exited`, `backoff`, `failed` or `stopped`.
    pub state: Option<String>,
}

/// A line of a service's output.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawLog {
    /// A service of this image.
    pub service: String,
    /// A regular expression.
    pub matches: String,
}

/// A file or folder below one of `[state] paths`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawStateFile {
    /// Absolute path in the image.
    pub path: String,
    /// Whether it must be there. Default: `true`.
    pub exists: Option<bool>,
    /// Text that must be in it.
    pub contains: Option<String>,
}

/// A finding of a built-in check that the image may have for a time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawAllow {
    /// The check's name, as `slipform test` shows it, such as `"no kernel WARNING"`.
    pub check: String,
    /// Why.
    pub reason: String,
    /// The last day, such as `"2027-01-31"`; after it the test is red.
    pub expires: String,
}

/// An HTTP check.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawHttp {
    /// Port in the machine.
    pub port: u16,
    /// Method. Default: `GET`, or `POST` with a body.
    pub method: Option<String>,
    /// Path, with its query. Default: `/`.
    pub path: Option<String>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The request's body.
    pub body: Option<String>,
    /// Expected status. Default: 200.
    pub status: Option<u16>,
    /// Text that the answer's body must contain.
    pub contains: Option<String>,
    /// Values that the answer's JSON must have, such as `{ "users[0].name" = "ann" }`.
    #[serde(default)]
    pub json: BTreeMap<String, RawJson>,
}

/// A value in JSON.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RawJson {
    /// `true` or `false`.
    Truth(bool),
    /// A whole number.
    Number(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// An array.
    List(Vec<RawJson>),
}

/// A TCP check.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawTcp {
    /// Port in the machine.
    pub port: u16,
    /// Steps, in order.
    pub steps: Vec<RawTcpStep>,
}

/// One step of a TCP check.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawTcpStep {
    /// Sent as it is.
    #[serde(default)]
    pub send: String,
    /// What the answer must contain.
    #[serde(default)]
    pub expect: String,
}

/// `[kernel]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawKernel {
    /// Words added to the command line.
    #[serde(default)]
    pub args: Vec<String>,
    /// Modules that init loads beyond the board's.
    #[serde(default)]
    pub modules: Vec<String>,
}

/// A writable tmpfs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawScratch {
    /// Absolute path in the image.
    pub path: String,
    /// Size limit. Default: `"16MiB"`.
    pub size: Option<String>,
    /// Mode in octal. Default: `"0755"`.
    pub mode: Option<String>,
    /// `user:group`. Default: `root:root`.
    pub owner: Option<String>,
}

/// Folders that persist, on a partition of their own: the last on the boot disk, made and filled at the machine's first boot.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawState {
    /// Folders that are kept, such as `"/var/lib/app"` or `{ path = "/var/lib/app", owner = "app:app", mode = "0750" }`.
    pub paths: Vec<RawStatePath>,
    /// Least size; the image's disk gets so much longer. A larger disk gives all that it has. Default: `"64MiB"`.
    pub size: Option<String>,
    /// A disk of its own instead, such as `{ serial = "data" }`. A blank one is taken at first boot.
    pub disk: Option<RawStateDisk>,
    /// When the state cannot be mounted: `fail` (default) ends the boot with an error and touches nothing; `recreate` makes a new, empty one and reports it.
    pub policy: Option<RawStatePolicy>,
    /// Version of what your programs keep there; count it up when older ones cannot read it any more. An image with a lower version refuses the state. Default: 1.
    pub version: Option<u32>,
}

/// A folder that is kept: its path, or a table with more.
#[derive(Debug)]
pub struct RawStatePath {
    /// Absolute path in the image.
    pub path: String,
    /// `user:group`, set at every boot. Default: as in the layers, set at first use.
    pub owner: Option<String>,
    /// Mode in octal, set at every boot. Default: as in the layers, set at first use.
    pub mode: Option<String>,
}

/// [`RawStatePath`] as a table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawStateFolder {
    /// Absolute path in the image. What the image has in this folder is copied at first use.
    path: String,
    /// `user:group`, set at every boot. Default: as in the layers, set at first use.
    owner: Option<String>,
    /// Mode in octal, set at every boot. Default: as in the layers, set at first use.
    mode: Option<String>,
}

/// By hand: what serde derives for a choice forgets which key was wrong.
impl<'de> Deserialize<'de> for RawStatePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = RawStatePath;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "a path, or a table such as { path = \"/var/lib/app\", owner = \"app:app\" }",
                )
            }

            fn visit_str<E>(self, path: &str) -> Result<RawStatePath, E> {
                Ok(RawStatePath {
                    path: path.to_owned(),
                    owner: None,
                    mode: None,
                })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<RawStatePath, A::Error> {
                let table = serde::de::value::MapAccessDeserializer::new(map);
                let folder = RawStateFolder::deserialize(table)?;
                Ok(RawStatePath {
                    path: folder.path,
                    owner: folder.owner,
                    mode: folder.mode,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for RawStatePath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawStatePath".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let folder = generator.subschema_for::<RawStateFolder>();
        schemars::json_schema!({
            "description": "A folder that is kept: its path, or a table with more.",
            "anyOf": [{ "type": "string" }, folder],
        })
    }
}

/// A disk that holds the state and nothing else.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawStateDisk {
    /// Its serial number, as `lsblk -o SERIAL` shows it; 1 to 20 letters, digits, `-` or `_`.
    pub serial: String,
}

/// When the state cannot be mounted.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawStatePolicy {
    /// The boot ends with an error.
    Fail,
    /// A new one is made.
    Recreate,
}

/// A number, a truth value or a text.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RawScalar {
    /// A number.
    Number(i64),
    /// `true` is written as 1, `false` as 0.
    Truth(bool),
    /// Text.
    Text(String),
}
