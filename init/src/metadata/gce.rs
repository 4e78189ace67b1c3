//! Google Compute Engine ("About VM metadata"): one question for the whole tree, with a
//! header that a browser or a tricked service does not send, and one in the answer.

use serde::Deserialize;

use super::dmi::Dmi;
use super::found::{self, Found};
use super::http::{Answer, Request};
use super::source::{LINK_LOCAL, Question, Source, Step, unexpected};

/// Attributes of an instance may have 512 KiB together.
const TREE_MAX: usize = 1 << 20;
const TREE: &str = "/computeMetadata/v1/instance/?recursive=true&alt=json";

/// One question.
#[derive(Debug)]
pub(super) struct Gce;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    id: u64,
    hostname: Option<String>,
    zone: Option<String>,
    machine_type: Option<String>,
    #[serde(default)]
    attributes: Attributes,
}

#[derive(Deserialize, Default)]
struct Attributes {
    #[serde(rename = "user-data")]
    user_data: Option<String>,
}

impl Source for Gce {
    fn fits(&self, dmi: &Dmi) -> bool {
        dmi.product_name == "Google Compute Engine"
    }

    fn begin(&mut self) -> Step {
        Step::Ask(Question {
            to: LINK_LOCAL,
            request: Request::get(TREE).header("Metadata-Flavor", "Google"),
            limit: TREE_MAX,
        })
    }

    fn answer(&mut self, answer: &Answer) -> Step {
        if answer.status != 200 {
            return Step::Absent(unexpected("instance", answer));
        }
        if answer.header("metadata-flavor") != Some("Google") {
            return Step::Absent("the answer lacks Metadata-Flavor: Google".into());
        }
        let instance: Instance = match serde_json::from_slice(&answer.body) {
            Ok(instance) => instance,
            Err(error) => return Step::Absent(format!("instance: {error}")),
        };
        // Zones and types come as paths: projects/1/zones/europe-west1-b.
        let last = |path: Option<String>| found::text(path?.rsplit('/').next()?);
        let mut found = Found {
            instance_id: Some(instance.id.to_string()),
            hostname: instance.hostname.as_deref().and_then(found::hostname),
            zone: last(instance.zone),
            instance_type: last(instance.machine_type),
            ..Found::default()
        };
        found.region = found
            .zone
            .as_deref()
            .and_then(|zone| Some(zone.rsplit_once('-')?.0.to_owned()));
        if let Some(data) = instance.attributes.user_data {
            found.take_user_data(data.into_bytes());
        }
        Step::Done(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    const TREE: &str = r#"{"id":4711,"hostname":"web.c.p.internal","zone":"projects/1/zones/europe-west1-b","machineType":"projects/1/machineTypes/e2-micro","attributes":{"user-data":"hi","ssh-keys":"x"},"disks":[{"a":1}]}"#;
    const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");

    #[test]
    fn one_answer_tells_all() {
        let Step::Done(found) = Gce.answer(&Answer::of(200, &[FLAVOR], TREE)) else {
            panic!("not done")
        };
        assert_eq!(found.instance_id.as_deref(), Some("4711"));
        assert_eq!(found.hostname.as_deref(), Some("web.c.p.internal"));
        assert_eq!(found.zone.as_deref(), Some("europe-west1-b"));
        assert_eq!(found.region.as_deref(), Some("europe-west1"));
        assert_eq!(found.instance_type.as_deref(), Some("e2-micro"));
        assert_eq!(found.user_data.as_deref(), Some(&b"hi"[..]));
    }

    #[test]
    fn what_is_not_google_is_not_believed() {
        for answer in [
            Answer::of(200, &[], TREE),
            Answer::of(200, &[("metadata-flavor", "other")], TREE),
            Answer::of(404, &[FLAVOR], TREE),
            Answer::of(301, &[FLAVOR, ("location", "/")], ""),
            Answer::of(200, &[FLAVOR], "{}"),
            Answer::of(200, &[FLAVOR], &"[".repeat(100_000)),
        ] {
            assert!(matches!(Gce.answer(&answer), Step::Absent(_)), "{answer:?}");
        }
        fuzz(&[TREE.as_bytes()], |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            Gce.answer(&Answer::of(200, &[FLAVOR], &text));
        });
    }
}
