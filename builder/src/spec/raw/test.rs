//! Tests and allowances as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

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
    /// How its server does: `good` (default), `slow`, `late`, `unauthorized` (401: EC2's first token, or everything), `busy` (every second 429), `failing` (500), `malformed`, `huge` (10 MB), `silent`.
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
