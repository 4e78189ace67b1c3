//! The checked specification of an image. Everything here has been validated:
//! names are well-formed, references resolve, guest paths are absolute and clean.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipform_init::contract::machine::{IdentityField, Interface, MetadataSource};
use slipform_init::contract::machine::{StateDisk, StatePolicy};
use slipform_init::contract::service as contract;
use slipform_init::contract::telemetry::Telemetry;
use slipform_qemu_tests::{Allowance, Check};

/// One image, ready to be locked and cast.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name, also the default host name.
    pub name: String,
    /// The user's version.
    pub version: String,
    /// Folder of `slipform.toml`; the lock lies beside it.
    pub dir: PathBuf,
    /// Names of the boards to cast for; never empty.
    pub boards: Vec<String>,
    /// Debian suite, `trixie` by default.
    pub suite: String,
    /// Further package sources.
    pub apt: Vec<AptSource>,
    /// Layers, bottom to top; never empty; names are unique.
    pub layers: Vec<LayerSpec>,
    /// Services in the order of the file.
    pub services: Vec<ServiceSpec>,
    /// Boot checks of the user.
    pub tests: Vec<Check>,
    /// Findings that may pass for a time.
    pub allowances: Vec<Allowance>,
    /// Kernel arguments and modules beyond the board's.
    pub kernel: KernelSpec,
    /// `/proc/sys` keys (dotted) and values.
    pub sysctl: BTreeMap<String, String>,
    /// tmpfs mounts.
    pub scratch: Vec<ScratchSpec>,
    /// What persists.
    pub state: Option<StateSpec>,
    /// What publishing insists on.
    pub gate: GateSpec,
    /// Where the machine learns who it is.
    pub metadata: MetadataSpec,
    /// Interfaces that are used; empty: all wired ones, with DHCP.
    pub interfaces: Vec<Interface>,
    /// Time servers; empty: the cloud's or DHCP's.
    pub time_servers: Vec<IpAddr>,
    /// There is no image specification, only one layer's: this is the smallest image on it,
    /// and what is published is that layer, for others to build on.
    pub base: bool,
    /// Watchdog, and what counts as a healthy boot.
    pub health: contract::MachineHealth,
    /// Seconds from a kernel panic to the next start.
    pub panic_seconds: u32,
    /// Where logs and metrics go, as the machine is told; none if the image says nothing of it.
    pub telemetry: Option<Telemetry>,
}

/// `[metadata]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataSpec {
    /// Instead of the board's sources.
    pub sources: Option<Vec<MetadataSource>>,
    /// For all of them together.
    pub timeout: Option<Duration>,
}

/// A layer that was published: `use = "oci://host/repository:channel"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUse {
    /// As written.
    pub written: String,
    /// The remote: `oci://host/repository`.
    pub remote: String,
    /// Channel, `channel@number`, or digest.
    pub release: String,
    /// Files with the public keys that it must be signed by; empty for the image's.
    pub keys: Vec<PathBuf>,
}

/// `[gate]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateSpec {
    /// Oldest boot test that counts.
    pub max_age: Duration,
    /// Images with a debug layer pass.
    pub accept_debug: bool,
    /// Files with the public keys whose signatures count.
    pub keys: Vec<PathBuf>,
}

impl Default for GateSpec {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(30 * 86_400),
            accept_debug: false,
            keys: Vec::new(),
        }
    }
}

/// `[[apt]]`: a further package source, trusted by its own key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptSource {
    /// Name in the lock and in messages.
    pub name: String,
    /// Base URI of the archive.
    pub uri: String,
    /// Suite below `dists/`.
    pub suite: String,
    /// Components, `main` by default.
    pub components: Vec<String>,
    /// Path of the public key (armoured or binary).
    pub key: PathBuf,
}

/// Name of the service that runs the program to which a debug layer gives the console.
pub const CONSOLE_SERVICE: &str = "debug-console";

impl Image {
    /// Whether a layer is for debugging.
    #[must_use]
    pub fn is_debug(&self) -> bool {
        self.layers.iter().any(|layer| layer.debug)
    }
}

/// One layer as written, its own folder resolved.
#[derive(Debug, Clone, Default)]
pub struct LayerSpec {
    /// Unique in the image.
    pub name: String,
    /// Folder that relative `from` paths start at.
    pub dir: PathBuf,
    /// Debian packages in relation syntax: `redis-server`, `redis-server (>= 7)`, or `name=version`.
    pub packages: Vec<String>,
    /// Local `.deb` files.
    pub debs: Vec<PathBuf>,
    /// An archive of the user's whose files the layer brings.
    pub tar: Option<TarRule>,
    /// A container image whose files the layer brings.
    pub oci: Option<ContainerRule>,
    /// Packages that resolution treats as present.
    pub without: Vec<String>,
    /// Keeps `/usr/share/doc` and its like, which are left out otherwise.
    pub docs: bool,
    /// Files, folders and globs from the host.
    pub files: Vec<FileRule>,
    /// Empty folders.
    pub dirs: Vec<DirRule>,
    /// Symbolic links.
    pub symlinks: Vec<SymlinkRule>,
    /// Users to add to passwd.
    pub users: Vec<UserRule>,
    /// Groups to add.
    pub groups: Vec<GroupRule>,
    /// Globs of guest paths that this layer does not bring (`/usr/share/doc/**`).
    pub exclude: Vec<String>,
    /// Guest paths (or globs) of lower layers to hide; one that hits nothing is an error.
    pub remove: Vec<String>,
    /// A Rust program that cargo builds into this layer.
    pub cargo: Option<CargoRule>,
    /// It is a published base, and nothing else of the above is set.
    pub base: Option<BaseUse>,
    /// It is for debugging, and marks the image.
    pub debug: bool,
    /// The program that gets the console as its terminal; none if empty.
    pub console: Vec<String>,
}

/// `tar = "…"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarRule {
    /// As the specification names it, relative to the layer's folder.
    pub written: String,
    /// Where it is.
    pub path: PathBuf,
}

/// `oci = "…"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRule {
    /// As the specification names it.
    pub written: String,
    /// Where it is.
    pub place: ContainerPlace,
}

/// Where a container image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerPlace {
    /// In a registry.
    Registry {
        /// `oci://host/repository`.
        remote: String,
        /// A tag or a digest.
        reference: String,
    },
    /// In a folder (an OCI layout) or an archive.
    Local {
        /// Where that is.
        path: PathBuf,
        /// The image's name, where there are several.
        tag: Option<String>,
    },
}

/// Owner of an entry: numbers, or names looked up in the image's own users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Owner {
    /// Numeric ids.
    Ids(u32, u32),
    /// `user` and `group` by name.
    Names(String, String),
}

/// `files = [{ from, to, mode, owner }]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRule {
    /// Path relative to the layer's folder: a file, a folder or a glob.
    pub from: String,
    /// Absolute guest path. For a folder: where its content goes. For a glob, or with a trailing `/`: the folder that takes the files.
    pub to: String,
    /// Mode of files (octal in the file as a string); otherwise 0644, or 0755 when the host's file is executable.
    pub mode: Option<u32>,
    /// root:root unless given.
    pub owner: Option<Owner>,
}

/// `dirs = [{ path, mode, owner }]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirRule {
    /// Absolute guest path.
    pub path: String,
    /// 0755 unless given.
    pub mode: Option<u32>,
    /// root:root unless given.
    pub owner: Option<Owner>,
}

/// `symlinks = [{ path, target }]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymlinkRule {
    /// Absolute guest path of the link.
    pub path: String,
    /// What it says.
    pub target: String,
}

/// `users = [{ name, uid, group, gid, home, shell, groups }]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRule {
    /// Login name.
    pub name: String,
    /// Numeric id.
    pub uid: u32,
    /// Primary group; a group of the user's own name and id unless given.
    pub group: Option<String>,
    /// `/nonexistent` unless given.
    pub home: String,
    /// `/usr/sbin/nologin` unless given.
    pub shell: String,
    /// Supplementary groups.
    pub groups: Vec<String>,
}

/// `groups = [{ name, gid }]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    /// Group name.
    pub name: String,
    /// Numeric id.
    pub gid: u32,
}

/// `cargo = { path, bin }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CargoRule {
    /// Folder of the package's Cargo.toml, relative to the layer's.
    pub path: String,
    /// Binary to take; it becomes `/usr/bin/<bin>`.
    pub bin: String,
}

/// When a service is started again after it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whatever its status.
    Always,
    /// After a non-zero status or a signal.
    OnFailure,
    /// Never.
    Never,
}

/// How a service says that it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// As soon as it runs.
    Started,
    /// A TCP connection to `address:port` succeeds.
    Tcp(String),
    /// A GET on the `http://` URL answers 2xx or 3xx.
    Http(String),
    /// A line of its output contains the text.
    Log(String),
    /// `READY=1` over `sd_notify`.
    Notify,
}

/// `[[service]]`.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// Unique in the image.
    pub name: String,
    /// Program (absolute) and arguments.
    pub exec: Vec<String>,
    /// Environment; `PATH` and `HOME` have defaults.
    pub env: BTreeMap<String, String>,
    /// User name, `root` by default.
    pub user: String,
    /// Group name, the user's by default.
    pub group: Option<String>,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Working directory, `/` by default.
    pub workdir: String,
    /// Restart policy.
    pub restart: Restart,
    /// Readiness.
    pub ready: Ready,
    /// How long readiness may take, at the speed of real hardware.
    pub ready_timeout: Duration,
    /// Services that must be ready first.
    pub after: Vec<String>,
    /// Ambient capabilities, as `CAP_NET_BIND_SERVICE`.
    pub capabilities: Vec<String>,
    /// Resource limits by name (`nofile`, `nproc`, `core`, `memlock`, `stack`, …).
    pub limits: BTreeMap<String, u64>,
    /// Grace time between the stop signal and SIGKILL.
    pub stop_timeout: Duration,
    /// Names of the secrets that it needs.
    pub credentials: Vec<String>,
    /// Environment from the machine's identity.
    pub identity_env: BTreeMap<String, IdentityField>,
    /// Number of the stop signal; 0 is SIGTERM.
    pub stop_signal: i32,
    /// Daemon, oneshot or timer.
    pub kind: contract::Kind,
    /// Programs before each start.
    pub pre_start: Vec<Vec<String>>,
    /// Files with environment.
    pub env_files: Vec<String>,
    /// When starting again is in vain.
    pub start_limit: Option<contract::StartLimit>,
    /// Limits of its cgroup.
    pub resources: contract::Resources,
    /// What it is kept from.
    pub sandbox: contract::Sandbox,
    /// Sockets that init opens for it.
    pub sockets: Vec<contract::Socket>,
    /// Time within which it must say that it lives; none: it need not.
    pub watchdog: Option<Duration>,
    /// What must hold once it is ready.
    pub health: Option<contract::Health>,
}

/// `[kernel]`.
#[derive(Debug, Clone, Default)]
pub struct KernelSpec {
    /// Words appended to the board's command line.
    pub args: Vec<String>,
    /// Module names beyond the board's, loaded by init.
    pub modules: Vec<String>,
    /// Packages with firmware and microcode.
    pub firmware: Vec<String>,
}

/// `scratch = [{ path, size, mode, owner }]`: a tmpfs.
#[derive(Debug, Clone)]
pub struct ScratchSpec {
    /// Absolute guest path; made in the image if it is not there.
    pub path: String,
    /// Size limit in bytes.
    pub size: u64,
    /// Mode of its root.
    pub mode: u32,
    /// Owner of its root.
    pub owner: Option<Owner>,
}

/// `[state]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpec {
    /// Least bytes, whole MiB.
    pub size: u64,
    /// What becomes of one that cannot be mounted.
    pub policy: StatePolicy,
    /// Version of what is kept.
    pub version: u32,
    /// At least one; none lies within another.
    pub paths: Vec<StatePathSpec>,
    /// A disk of its own.
    pub disk: Option<StateDisk>,
}

/// A folder that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePathSpec {
    /// Absolute guest path; made in the image if it is not there.
    pub path: String,
    /// As in the layers unless given.
    pub owner: Option<Owner>,
    /// As in the layers unless given.
    pub mode: Option<u32>,
    /// Most bytes below it.
    pub quota: Option<u64>,
}
