//! Interfaces, time and metadata as written.

use schemars::JsonSchema;
use serde::Deserialize;

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
    /// Makes it a bond of other interfaces, such as `{ links = ["eth0", "eth1"] }`.
    pub bond: Option<RawBond>,
}

/// Several interfaces that are used as one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawBond {
    /// Its members, 1 to 8; none of them is an `[[interface]]` itself.
    pub links: Vec<String>,
    /// `"active-backup"` (default), `"802.3ad"` (LACP), `"balance-rr"`, `"balance-xor"`, `"broadcast"`, `"balance-tlb"` or `"balance-alb"`.
    pub mode: Option<String>,
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
