//! `slipform.toml` and `layer.toml` as written. Strict: an unknown key is an
//! error. The doc comments here become the JSON schema (`slipform schema`).

mod network;
mod service;
mod state;
mod telemetry;
mod test;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

pub use network::*;
pub use service::*;
pub use state::*;
pub use telemetry::*;
pub use test::*;

/// An image: layers stacked bottom to top, services, and the checks that it must pass before it counts as built.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawImage {
    /// Name of the image; also the host name. Lower-case letters, digits and `-`.
    pub name: String,
    /// Your own version of the image.
    pub version: String,
    /// Boards (targets) to cast for: shipped ones, or `boards/NAME.toml` beside this file. Those of several architectures make one release; packages are locked for each. Default: `["qemu-x86_64"]`.
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
    /// A layer that ships with slipform (`base`, `busybox`, `debug`), the path of a folder with a `layer.toml`, or a published base: `oci://host/repository:channel` or `…@sha256:…`, also `s3://` and `file:///`.
    #[serde(rename = "use")]
    pub uses: Option<String>,
    /// Files beside this one with the public keys that a published base must be signed by; otherwise those of `[gate]`, SLIPFORM_TRUSTED_KEYS and `trusted-keys` in the user's configuration.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Only in a `layer.toml`: the version under which `slipform publish` publishes the layer as a base. Default: `"0"`.
    pub version: Option<String>,
    /// Only in a `layer.toml`: the boards that the layer is tested on and published for as a base; images for their architectures are built on it. Default: `["qemu-x86_64"]`.
    #[serde(default)]
    pub boards: Vec<String>,
    /// Name of a layer made here; unique in the image.
    pub name: Option<String>,
    /// Debian packages: `"redis-server"`, `"redis-server (>= 7)"`, `"redis-server=5:7.0.15-1"`. Their scripts are never run.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Local `.deb` files.
    #[serde(default)]
    pub debs: Vec<String>,
    /// A tar beside this file, plain or compressed by gzip, xz or zstd, whose files the layer brings with their owners and modes; device nodes are left out. Users that it needs are listed in `users`.
    pub tar: Option<String>,
    /// A container image whose files the layer brings: `oci://host/repository:tag` (or `…@sha256:…`), or beside this file a folder with an OCI layout or an archive (OCI, or of `docker save`), with `:NAME` behind it where that has several. Users that it needs are listed in `users`.
    pub oci: Option<String>,
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
    /// A Rust program built by cargo into `/usr/bin`; for Arm's boards a static one, with the target `aarch64-unknown-linux-musl`.
    pub cargo: Option<RawCargo>,
    /// It is for debugging: the machine says so at boot, the attestation bears it, and the gate refuses the image unless `[gate]` has `accept-debug`. Default: `false`.
    #[serde(default)]
    pub debug: bool,
    /// Only with `debug`: a program (absolute path) and its arguments that get the console as their terminal, as root and started again whenever they end; a shell.
    #[serde(default)]
    pub console: Vec<String>,
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
    /// Debian packages with firmware for devices, of which goes along what the board's modules may ask for, and with microcode for the processor: `"firmware-bnx2x"`, `"intel-microcode"`. Not all of it is free software: with this key, Debian's component `non-free-firmware` is read, too.
    #[serde(default)]
    pub firmware: Vec<String>,
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
