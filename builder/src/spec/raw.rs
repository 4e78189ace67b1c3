//! `slipform.toml` and `layer.toml` as written. Strict: an unknown key is an
//! error. The doc comments here become the JSON schema (`slipform schema`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

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
    /// A layer that ships with slipform (`base`, `busybox`), or the path of a folder with a `layer.toml`.
    #[serde(rename = "use")]
    pub uses: Option<String>,
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
    /// Resource limits, such as `{ nofile = 65536 }`.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// Time between SIGTERM and SIGKILL when it is stopped. Default: `"10s"`.
    pub stop_timeout: Option<String>,
    /// Secrets that it needs, such as `"db-password"`: files in the folder `$CREDENTIALS_DIRECTORY`, readable by it alone, handed in from outside (SMBIOS, fw_cfg, a cloud's user-data). It starts once they are known, and never without.
    #[serde(default)]
    pub credentials: Vec<String>,
    /// Environment from the machine's identity, such as `{ NODE = "instance-id" }`: `instance-id`, `hostname`, `region`, `zone`, `instance-type`. It starts once they are known, and never without.
    #[serde(default)]
    pub identity_env: BTreeMap<String, String>,
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

/// A check from outside: one of `http`, `tcp`, `console`, `console-absent`, `service`, `log`, or several in `steps`.
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
    /// Steps, in order; the first that does not fit ends the test. Each has one of `http`, `tcp`, `console`, `console-absent`, `service`, `log`, `wait`, `reboot`, `power-cut`.
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
