//! `machine.json`: all that the machine needs to know. It travels in the
//! initrd at [`MACHINE_PATH`]; nothing is trusted from the kernel command line.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::service::{
    Health, Kind, MachineHealth, Resources, Sandbox, Socket, StartLimit, is_default,
};
use super::telemetry::Telemetry;

/// Where init finds it in the initrd.
pub const MACHINE_PATH: &str = "/machine.json";
/// Folder in the initrd with uncompressed kernel modules, and [`MODULES_LIST`].
pub const MODULES_DIR: &str = "/modules";
/// File names of [`MODULES_DIR`] in the order of loading, one a line; a line may go on with module parameters after a space.
pub const MODULES_LIST: &str = "/modules/list";
/// The same for those that no service waits for: they are loaded beside the start of the services, before the machine is ready.
pub const MODULES_LATE: &str = "/modules/late";
/// Folder of each layer's file system that is stacked; what stands beside it (`lost+found`) is not.
pub const LAYER_ROOT: &str = "rootfs";
/// Milliseconds that all sources of metadata may take together, unless the image says otherwise.
pub const METADATA_TIMEOUT_MS: u64 = 20_000;
/// Folder with a folder of credentials for each service that asks for some.
pub const CREDENTIALS_DIR: &str = "/run/credentials";
/// Type of the state partition, in the order of its text: 54fce1b4-8ef4-8c5c-954b-c8e4db624db8.
///
/// Slipform's own, as that of layers. The Discoverable Partitions Specification's type for
/// `/var` promises a GUID made of the machine id, and tools would mount the whole as /var.
pub const STATE_TYPE: [u8; 16] = [
    0x54, 0xfc, 0xe1, 0xb4, 0x8e, 0xf4, 0x8c, 0x5c, 0x95, 0x4b, 0xc8, 0xe4, 0xdb, 0x62, 0x4d, 0xb8,
];
/// Name of the state partition, and label of its file system. A partition of the type with
/// another name is not the state: so a person can put an old one aside.
pub const STATE_NAME: &str = "slipform-state";
/// Version of the format.
pub const MACHINE_SCHEMA: u32 = 1;

/// What the machine is and does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// [`MACHINE_SCHEMA`].
    pub schema: u32,
    /// Image name; the default host name.
    pub name: String,
    /// Image version.
    pub version: String,
    /// Board name.
    pub board: String,
    /// Layers, bottom to top; the last is the generated one.
    pub layers: Vec<Layer>,
    /// `/proc/sys` settings, dotted keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// tmpfs mounts beyond /run, /tmp and /dev/shm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scratch: Vec<Scratch>,
    /// What persists; without it nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Services, already in an order that respects `after`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// Interfaces that are used, and how; without any, all wired ones with DHCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Time servers; without any, those that the cloud or DHCP names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub time_servers: Vec<IpAddr>,
    /// Where the machine learns who it is, in this order; nowhere if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<MetadataSource>,
    /// Milliseconds that these sources may take together; [`METADATA_TIMEOUT_MS`] without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_timeout_ms: Option<u64>,
    /// No clock of this machine may be earlier: seconds since 1970.
    pub clock_floor: i64,
    /// Reboot so many seconds after a kernel panic.
    pub panic_seconds: u32,
    /// The image has a debug layer: whoever looks at the machine must see that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub debug: bool,
    /// Watchdog, and what counts as a healthy boot.
    #[serde(default, skip_serializing_if = "MachineHealth::is_default")]
    pub health: MachineHealth,
    /// Where logs and metrics go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
}

/// How an interface is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// The kernel's name of it.
    pub name: String,
    /// It asks for an IPv4 lease.
    pub dhcp: bool,
    /// Addresses of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Network>,
    /// Routes of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<FixedRoute>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Largest packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// It is a VLAN of another interface, and made by init.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// It is a bond of other interfaces, and made by init.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<Bond>,
}

/// Several interfaces that are used as one (bonding, linux/if_bonding.h).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bond {
    /// Its members.
    pub links: Vec<String>,
    /// How they share the work.
    pub mode: BondMode,
}

/// How the members of a bond share the work, by the kernel's names and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum BondMode {
    /// One after the other.
    #[serde(rename = "balance-rr")]
    BalanceRr = 0,
    /// One works, the others wait.
    #[serde(rename = "active-backup")]
    ActiveBackup = 1,
    /// By the hash of addresses.
    #[serde(rename = "balance-xor")]
    BalanceXor = 2,
    /// All send everything.
    #[serde(rename = "broadcast")]
    Broadcast = 3,
    /// Link aggregation with the switch (LACP).
    #[serde(rename = "802.3ad")]
    Lacp = 4,
    /// By load, sending.
    #[serde(rename = "balance-tlb")]
    BalanceTlb = 5,
    /// By load, both ways.
    #[serde(rename = "balance-alb")]
    BalanceAlb = 6,
}

/// A tagged network on an interface (IEEE 802.1Q).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vlan {
    /// The interface that carries it.
    pub link: String,
    /// Its number, 1 to 4094.
    pub id: u16,
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Address.
    pub address: IpAddr,
    /// Length in bits.
    pub prefix: u8,
}

/// A route of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedRoute {
    /// Where to.
    pub to: Network,
    /// Through whom; without, it is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

/// Something outside the image that knows the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetadataSource {
    /// Amazon EC2's instance metadata, version 2.
    Ec2,
    /// Google Compute Engine's metadata server.
    Gce,
    /// Azure's instance metadata and wire server.
    Azure,
    /// OpenStack's metadata service.
    Openstack,
    /// A seed disk `cidata`, or the server that SMBIOS' serial number names.
    Nocloud,
    /// Credentials in SMBIOS' strings of type 11.
    Smbios,
    /// Credentials in QEMU's fw_cfg.
    FwCfg,
}

impl MetadataSource {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ec2,
        Self::Gce,
        Self::Azure,
        Self::Openstack,
        Self::Nocloud,
        Self::Smbios,
        Self::FwCfg,
    ];

    /// The name, as it stands in machine.json.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Gce => "gce",
            Self::Azure => "azure",
            Self::Openstack => "openstack",
            Self::Nocloud => "nocloud",
            Self::Smbios => "smbios",
            Self::FwCfg => "fw-cfg",
        }
    }
}

/// A field of the identity that a service finds in its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityField {
    /// What the cloud calls the machine.
    InstanceId,
    /// Its host name.
    Hostname,
    /// Where it stands.
    Region,
    /// Where in the region.
    Zone,
    /// What kind it is.
    InstanceType,
}

impl IdentityField {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::InstanceId,
        Self::Hostname,
        Self::Region,
        Self::Zone,
        Self::InstanceType,
    ];

    /// The name, as it stands in machine.json.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InstanceId => "instance-id",
            Self::Hostname => "hostname",
            Self::Region => "region",
            Self::Zone => "zone",
            Self::InstanceType => "instance-type",
        }
    }
}

/// One sealed layer: a partition with a read-only ext4 and its dm-verity tree behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Name.
    pub name: String,
    /// File system type for mount(2).
    pub filesystem: String,
    /// Root hash, 64 hexadecimal digits. The data partition's GUID is its first 128 bits, in GPT's text order.
    pub root_hash: String,
    /// Salt, hexadecimal.
    pub salt: String,
    /// Blocks of 4096 bytes that the file system takes.
    pub data_blocks: u64,
    /// Offset in bytes, from the partition's start, of the hash tree's first block (behind the verity superblock).
    pub hash_offset: u64,
}

/// A tmpfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scratch {
    /// Absolute path.
    pub path: String,
    /// Limit in bytes.
    pub size: u64,
    /// Mode of its root.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The state partition, made by init on the boot disk at first boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Least bytes.
    pub size: u64,
    /// What becomes of one that cannot be mounted.
    pub policy: StatePolicy,
    /// Version of what the services keep there; one that a newer version has written is refused.
    pub version: u32,
    /// Paths that are kept; none lies within another.
    pub paths: Vec<StatePath>,
    /// A disk of its own instead of a partition of the boot disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<StateDisk>,
}

/// Which disk is the state's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateDisk {
    /// The only one with this serial number.
    Serial(String),
    /// The only disk or partition, the boot disk's left out, whose partition name or ext4 label is this.
    Label(String),
}

/// What becomes of a state partition that cannot be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatePolicy {
    /// The boot ends with an error; nothing is written.
    Fail,
    /// A new file system is made, and reported.
    Recreate,
}

/// A path that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatePath {
    /// Absolute path of a folder of the image.
    pub path: String,
    /// Owner and group, set at every boot; without them those of the image's folder, at first use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
    /// Mode, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Most bytes of what is below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
}

impl StatePath {
    /// The number that its files bear on the state's file system to be counted together: of
    /// the path alone, so that it is the same in every version of an image (32 bits FNV-1a).
    #[must_use]
    pub fn project(&self) -> u32 {
        project_of(&self.path)
    }
}

/// [`StatePath::project`] of a path.
#[must_use]
pub fn project_of(path: &str) -> u32 {
    let mix = |sum: u32, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    // 0 is the number of all that belongs to no path.
    path.bytes().fold(0x811c_9dc5, mix).max(1)
}

/// When an ended service is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Whatever its status.
    Always,
    /// After a non-zero status or a signal.
    OnFailure,
    /// Never.
    Never,
}

/// How a service becomes ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// As soon as it runs.
    Started,
    /// `address:port` accepts.
    Tcp(String),
    /// `http://address:port/path` answers 2xx or 3xx.
    Http(String),
    /// A line of output contains this.
    Log(String),
    /// `READY=1` on `$NOTIFY_SOCKET`.
    Notify,
}

/// A supervised program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// Program (absolute) and arguments.
    pub exec: Vec<String>,
    /// Complete environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// Working directory.
    pub workdir: String,
    /// Restart policy.
    pub restart: Restart,
    /// Readiness.
    pub ready: Ready,
    /// Milliseconds until a service that is not ready counts as failed.
    pub ready_timeout_ms: u64,
    /// Services that must be ready first.
    #[serde(default)]
    pub after: Vec<String>,
    /// Ambient capability numbers (linux/capability.h).
    #[serde(default)]
    pub capabilities: Vec<u8>,
    /// setrlimit(2) resource number and value (soft and hard).
    #[serde(default)]
    pub limits: BTreeMap<u32, u64>,
    /// Milliseconds between the stop signal and SIGKILL.
    pub stop_timeout_ms: u64,
    /// Names of credentials that it needs: files in [`CREDENTIALS_DIR`]`/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
    /// Environment from the machine's identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identity_env: BTreeMap<String, IdentityField>,
    /// What kind of program it is.
    #[serde(default, skip_serializing_if = "Kind::is_daemon")]
    pub kind: Kind,
    /// Files with further environment, read at each start; later ones win, `env` wins over all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_files: Vec<String>,
    /// Programs that run, one after the other, before each start; with the service's own rights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_start: Vec<Vec<String>>,
    /// Number of the signal that asks it to stop; 0 is SIGTERM.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop_signal: i32,
    /// After how many starts in vain something else is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_limit: Option<StartLimit>,
    /// Limits of its cgroup.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// What it is kept from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sandbox: Sandbox,
    /// Sockets that init opens for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<Socket>,
    /// Milliseconds within which it must say `WATCHDOG=1`, again and again; 0: it need not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub watchdog_ms: u64,
    /// What must hold after it became ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The console is its terminal: standard streams and controlling tty. Only in an
    /// image with a debug layer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub console: bool,
}

impl Default for Service {
    /// Root's, without a program: to be filled in.
    fn default() -> Self {
        Self {
            name: String::new(),
            exec: Vec::new(),
            env: BTreeMap::new(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            workdir: "/".to_owned(),
            restart: Restart::OnFailure,
            ready: Ready::Started,
            ready_timeout_ms: 30_000,
            after: Vec::new(),
            capabilities: Vec::new(),
            limits: BTreeMap::new(),
            stop_timeout_ms: 10_000,
            credentials: Vec::new(),
            identity_env: BTreeMap::new(),
            kind: Kind::Daemon,
            env_files: Vec::new(),
            pre_start: Vec::new(),
            stop_signal: 0,
            start_limit: None,
            resources: Resources::default(),
            sandbox: Sandbox::default(),
            sockets: Vec::new(),
            watchdog_ms: 0,
            health: None,
            console: false,
        }
    }
}
