//! Microsoft Azure: instance metadata ("Azure Instance Metadata Service"), then the
//! report that the machine is provisioned, without which Azure kills it after 20
//! minutes (the wire server's goal state and health report, as the Azure Linux agent
//! and cloud-init speak them).
//!
//! ```text
//! GET instance -> GET goal state (168.63.129.16) -> POST health Ready -> done
//! ```
//! A report that fails is noted: the machine knows who it is all the same.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

use super::base64;
use super::dmi::Dmi;
use super::found::{self, Found};
use super::http::{Answer, Request};
use super::source::{LINK_LOCAL, Question, Source, Step, addr, unexpected};

/// The chassis' asset tag of every Azure machine.
const ASSET_TAG: &str = "7783-7084-3265-9085-8269-3286-77";
const WIRE_SERVER: SocketAddr = addr(Ipv4Addr::new(168, 63, 129, 16));
const COMPUTE: &str = "/metadata/instance/compute?api-version=2021-01-01&format=json";
const GOAL_STATE: &str = "/machine/?comp=goalstate";
const HEALTH: &str = "/machine?comp=health";
const VERSION: &str = "2012-11-30";
const COMPUTE_MAX: usize = 512 * 1024;
const GOAL_STATE_MAX: usize = 64 * 1024;

#[derive(Debug, PartialEq, Eq)]
enum At {
    Compute,
    GoalState,
    Health,
}

/// The state of the conversation.
#[derive(Debug)]
pub(super) struct Azure {
    at: At,
    found: Found,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compute {
    vm_id: String,
    name: Option<String>,
    location: Option<String>,
    zone: Option<String>,
    vm_size: Option<String>,
    user_data: Option<String>,
    os_profile: Option<OsProfile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OsProfile {
    computer_name: Option<String>,
}

impl Azure {
    /// At its beginning.
    pub(super) fn new() -> Azure {
        Azure {
            at: At::Compute,
            found: Found::default(),
        }
    }

    fn compute(&mut self, answer: &Answer) -> Step {
        if answer.status != 200 {
            return Step::Absent(unexpected("instance", answer));
        }
        let compute: Compute = match serde_json::from_slice(&answer.body) {
            Ok(compute) => compute,
            Err(error) => return Step::Absent(format!("instance: {error}")),
        };
        let Some(id) = found::text(&compute.vm_id) else {
            return Step::Absent("instance: vmId is no plain text".into());
        };
        let text = |value: Option<String>| value.as_deref().and_then(found::text);
        let named = compute.os_profile.and_then(|profile| profile.computer_name);
        let named = named.filter(|name| !name.is_empty()).or(compute.name);
        self.found = Found {
            instance_id: Some(id),
            hostname: named.as_deref().and_then(found::hostname),
            region: text(compute.location),
            zone: text(compute.zone),
            instance_type: text(compute.vm_size),
            ..Found::default()
        };
        match compute
            .user_data
            .map(|data| base64::decode(data.as_bytes()))
        {
            Some(Some(bytes)) => self.found.take_user_data(bytes),
            Some(None) => self.found.note("azure: userData is no base64".into()),
            None => {}
        }
        self.at = At::GoalState;
        let request = Request::get(GOAL_STATE).header("x-ms-version", VERSION);
        wire(request, GOAL_STATE_MAX)
    }

    fn goal_state(&mut self, answer: &Answer) -> Step {
        let ids = answer
            .text()
            .filter(|_| answer.status == 200)
            .and_then(|xml| {
                Some([
                    element(xml, "Incarnation")?,
                    element(xml, "ContainerId")?,
                    element(xml, "InstanceId")?,
                ])
            });
        let Some(ids) = ids else {
            return self.without_report(&unexpected("goal state", answer));
        };
        self.at = At::Health;
        let request = Request::new("POST", HEALTH)
            .header("x-ms-version", VERSION)
            .header("x-ms-agent-name", "slipform-init")
            .header("Content-Type", "text/xml; charset=utf-8")
            .body(ready(ids).into_bytes());
        wire(request, 4096)
    }

    fn without_report(&mut self, why: &str) -> Step {
        self.found
            .note(format!("azure: not reported as ready: {why}"));
        Step::Done(std::mem::take(&mut self.found))
    }
}

impl Source for Azure {
    fn fits(&self, dmi: &Dmi) -> bool {
        dmi.chassis_asset_tag == ASSET_TAG
    }

    fn begin(&mut self) -> Step {
        Step::Ask(Question {
            to: LINK_LOCAL,
            request: Request::get(COMPUTE).header("Metadata", "true"),
            limit: COMPUTE_MAX,
        })
    }

    fn answer(&mut self, answer: &Answer) -> Step {
        match self.at {
            At::Compute => self.compute(answer),
            At::GoalState => self.goal_state(answer),
            At::Health if matches!(answer.status, 200..=299) => {
                Step::Done(std::mem::take(&mut self.found))
            }
            At::Health => self.without_report(&unexpected("health", answer)),
        }
    }

    fn silence(&mut self, why: String) -> Step {
        match self.at {
            At::Compute => Step::Absent(why),
            _ => self.without_report(&why),
        }
    }
}

fn wire(request: Request, limit: usize) -> Step {
    Step::Ask(Question {
        to: WIRE_SERVER,
        request,
        limit,
    })
}

/// The text of the first `<name>` without attributes: letters, digits and what ids
/// have, so that it can stand in XML again.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.{}".contains(&byte);
    ((1..=128).contains(&text.len()) && text.bytes().all(plain)).then_some(text)
}

fn ready([incarnation, container, instance]: [&str; 3]) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <Health xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">\
         <GoalStateIncarnation>{incarnation}</GoalStateIncarnation>\
         <Container><ContainerId>{container}</ContainerId>\
         <RoleInstanceList><Role><InstanceId>{instance}</InstanceId>\
         <Health><State>Ready</State></Health>\
         </Role></RoleInstanceList></Container></Health>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    const JSON: &str = r#"{"vmId":"02aab8a4-74ef","name":"n","location":"westeurope","zone":"1","vmSize":"Standard_B1s","userData":"aGk=","osProfile":{"computerName":"web1"},"tagsList":[]}"#;
    const GOAL: &str = "<GoalState><Version>x</Version><Incarnation>1</Incarnation><Container><ContainerId>c-1</ContainerId><RoleInstanceList><RoleInstance><InstanceId>i-1.n</InstanceId></RoleInstance></RoleInstanceList></Container></GoalState>";

    #[test]
    fn the_machine_is_known_and_reported_ready() {
        let mut azure = Azure::new();
        azure.begin();
        let step = azure.answer(&Answer::of(200, &[], JSON));
        assert!(format!("{step:?}").contains("goalstate"));
        let Step::Ask(question) = azure.answer(&Answer::of(200, &[], GOAL)) else {
            panic!("no report")
        };
        assert_eq!(question.to, WIRE_SERVER);
        let body = ready(["1", "c-1", "i-1.n"]);
        let want = Request::new("POST", HEALTH)
            .header("x-ms-version", VERSION)
            .header("x-ms-agent-name", "slipform-init")
            .header("Content-Type", "text/xml; charset=utf-8")
            .body(body.into_bytes());
        assert_eq!(question.request, want);
        let Step::Done(found) = azure.answer(&Answer::of(200, &[], "")) else {
            panic!("not done")
        };
        assert_eq!(found.hostname.as_deref(), Some("web1"));
        assert_eq!(found.user_data.as_deref(), Some(&b"hi"[..]));
        assert_eq!(found.region.as_deref(), Some("westeurope"));
        assert!(found.odd.is_empty());
    }

    #[test]
    fn a_wire_server_that_is_silent_or_odd_costs_the_report_alone() {
        for odd in [
            Answer::of(404, &[], ""),
            Answer::of(200, &[], "<GoalState/>"),
            Answer::of(200, &[], &GOAL.replace("c-1", "<x>")),
        ] {
            let mut azure = Azure::new();
            azure.answer(&Answer::of(200, &[], JSON));
            let Step::Done(found) = azure.answer(&odd) else {
                panic!("not done: {odd:?}")
            };
            assert_eq!((found.odd.len(), found.instance_id.is_some()), (1, true));
        }
        let mut azure = Azure::new();
        assert!(matches!(azure.silence("x".into()), Step::Absent(_)));
        azure.answer(&Answer::of(200, &[], JSON));
        assert!(matches!(azure.silence("x".into()), Step::Done(_)));
        fuzz(&[JSON.as_bytes()], |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            Azure::new().answer(&Answer::of(200, &[], &text));
        });
        fuzz(&[GOAL.as_bytes()], |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            let mut azure = Azure::new();
            azure.at = At::GoalState;
            azure.answer(&Answer::of(200, &[], &text));
        });
    }
}
