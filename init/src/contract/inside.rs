//! Seeing inside a machine that has no shell: what may be asked over the report channel
//! ([`Query`], part of [`super::event::Command::Show`]), and what init answers ([`Item`], each
//! an [`super::event::Event::Inside`] of its own, so that no line gets long).
//!
//! ```text
//! {"command":"show","id":1,"sections":["services","log"],"service":"web","lines":20}
//!     -> machine, service…, log…, end          and with "follow": log… until it is ended
//! {"command":"show","id":1}                    ends it
//! ```
//! Only the machine's report port can ask, and nothing that is asked changes the machine.

use serde::{Deserialize, Serialize};

use super::event::{Phase, ServiceState};
use super::service::is_default;

/// Bytes of the latest log lines that a machine keeps where it can be asked; a machine
/// without a report port keeps none.
pub const RECENT_BYTES: usize = 256 * 1024;
/// Queries that init works on at a time; it answers others with an end that says so.
pub const MAX_QUERIES: usize = 4;

/// A part of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// [`Item::Service`]s and [`Item::State`]s, in the order of machine.json.
    Services,
    /// [`Item::Memory`].
    Memory,
    /// [`Item::Mount`]s, in the order in which they were made.
    Mounts,
    /// [`Item::Interface`]s, [`Item::Route`]s, [`Item::Dns`].
    Network,
    /// [`Item::Log`] lines, oldest first.
    Log,
}

impl Section {
    /// All of them, in the order of an answer.
    pub const ALL: [Self; 5] = [
        Self::Services,
        Self::Memory,
        Self::Mounts,
        Self::Network,
        Self::Log,
    ];
}

/// A question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Comes back with each item. A query with the number of one that is being answered
    /// takes its place.
    pub id: u32,
    /// What is asked for; nothing but the end without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
    /// Only services and log lines of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The latest log lines, at most; 0 is all that are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lines: u32,
    /// Go on with log lines as they come.
    #[serde(default, skip_serializing_if = "is_default")]
    pub follow: bool,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    /// The first of every answer but that to an empty query.
    Machine(MachineSeen),
    /// A service.
    Service(ServiceSeen),
    /// A path of the state; none of them if a service's name was asked for.
    State(StateSeen),
    /// Memory.
    Memory(MemorySeen),
    /// A mount.
    Mount(MountSeen),
    /// A network interface.
    Interface(InterfaceSeen),
    /// A route.
    Route(RouteSeen),
    /// Name resolution.
    Dns(DnsSeen),
    /// A line of the log.
    Log(LogSeen),
    /// So many log lines were overwritten before they could be told.
    Lost(u64),
    /// The answer is whole, or why it is not. Lines that are followed come behind it.
    End(String),
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineSeen {
    /// Image name.
    pub image: String,
    /// Image version.
    pub version: String,
    /// SHA-256 of machine.json.
    pub machine: String,
    /// Host name.
    pub host: String,
    /// The image has a debug layer.
    pub debug: bool,
    /// The last phase that began.
    pub phase: Phase,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// Load over a minute.
    pub load: Option<f64>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSeen {
    /// Name.
    pub name: String,
    /// State.
    pub state: ServiceState,
    /// Process id, while it has a process.
    pub pid: Option<i32>,
    /// Milliseconds since that process was started.
    pub uptime_ms: Option<u64>,
    /// How often it was started again.
    pub restarts: u64,
    /// Bytes of memory of its cgroup.
    pub memory: Option<u64>,
    /// Limit of that, if it has one.
    pub memory_limit: Option<u64>,
    /// Milliseconds of processor time of its cgroup, over all starts.
    pub cpu_ms: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Its last `STATUS=` of sd_notify, or empty.
    pub status: String,
    /// Why it is in this state, or empty.
    pub detail: String,
}

/// A path that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StateSeen {
    /// The path.
    pub path: String,
    /// The most bytes that it may hold, as the image has it.
    pub quota: Option<u64>,
    /// Bytes of what is below it; only of a path with a quota that holds.
    pub used: Option<u64>,
    /// Bytes that are left for programs: of the quota, or of the state's file system.
    pub available: Option<u64>,
}

/// Memory in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySeen {
    /// All of it.
    pub total: u64,
    /// What programs could get.
    pub available: u64,
    /// What files in memory take: page cache and tmpfs.
    pub cached: u64,
    /// What tmpfs and shared memory take of that.
    pub shared: u64,
    /// The kernel's own.
    pub slab: u64,
    /// Resident memory of init.
    pub init: u64,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSeen {
    /// Where.
    pub target: String,
    /// What: a device, or the file system's own word.
    pub source: String,
    /// File system type.
    pub filesystem: String,
    /// Options of the mount.
    pub options: String,
    /// Bytes that it can hold; none for what has no size.
    pub size: Option<u64>,
    /// Bytes that are left for programs.
    pub available: Option<u64>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSeen {
    /// Name.
    pub name: String,
    /// `up`, `down`, …: operational state of RFC 2863 as sysfs tells it.
    pub state: String,
    /// Hardware address.
    pub mac: String,
    /// Largest packet.
    pub mtu: u32,
    /// Addresses with the length of their network's prefix.
    pub addresses: Vec<String>,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSeen {
    /// Network with its prefix length, or `default`.
    pub to: String,
    /// Through whom; none on the link.
    pub via: Option<String>,
    /// Interface.
    pub interface: String,
    /// The less, the better.
    pub metric: u32,
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSeen {
    /// Servers in their order.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSeen {
    /// Microseconds since 1970, by the machine's clock of now.
    pub time: u64,
    /// The service, `slipform` for init's own, `kernel`.
    pub service: String,
    /// `out`, `err`, `notify`, `event`, `kernel`.
    pub stream: String,
    /// `emerg` to `debug`.
    pub severity: String,
    /// The line.
    pub line: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::event::{Command, Event, Record};

    #[test]
    fn a_question_is_written_as_the_head_says() {
        let text =
            r#"{"command":"show","id":1,"sections":["services","log"],"service":"web","lines":20}"#;
        let query = Query {
            id: 1,
            sections: vec![Section::Services, Section::Log],
            service: Some("web".to_owned()),
            lines: 20,
            follow: false,
        };
        assert_eq!(
            serde_json::to_string(&Command::Show(query.clone())).unwrap(),
            text
        );
        assert_eq!(
            serde_json::from_str::<Command>(text).unwrap(),
            Command::Show(query)
        );
        let end: Command = serde_json::from_str(r#"{"command":"show","id":7}"#).unwrap();
        assert_eq!(
            end,
            Command::Show(Query {
                id: 7,
                ..Query::default()
            })
        );
        for bad in [
            r#"{"command":"show"}"#,
            r#"{"command":"show","id":-1}"#,
            r#"{"command":"show","id":1,"sections":["secrets"]}"#,
            r#"{"command":"show","id":1,"then":"reboot"}"#,
        ] {
            assert!(serde_json::from_str::<Command>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_item_travels_as_a_record() {
        let record = Record {
            t: 5,
            event: Event::Inside {
                query: 3,
                item: Box::new(Item::End(String::new())),
            },
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"t":5,"event":"inside","query":3,"item":{"end":""}}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}
