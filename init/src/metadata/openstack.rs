//! OpenStack Nova ("Metadata service"): meta_data.json, then user_data.

use serde::Deserialize;

use super::dmi::Dmi;
use super::found::{self, Found, USER_DATA_MAX};
use super::http::{Answer, Request};
use super::source::{LINK_LOCAL, Question, Source, Step, unexpected};

const META_DATA: &str = "/openstack/latest/meta_data.json";
const USER_DATA: &str = "/openstack/latest/user_data";
const META_DATA_MAX: usize = 256 * 1024;

/// Two questions.
#[derive(Debug, Default)]
pub(super) struct OpenStack {
    /// Known after the first.
    found: Option<Found>,
}

#[derive(Deserialize)]
struct MetaData {
    uuid: String,
    hostname: Option<String>,
    name: Option<String>,
    availability_zone: Option<String>,
}

impl Source for OpenStack {
    fn fits(&self, dmi: &Dmi) -> bool {
        matches!(
            dmi.product_name.as_str(),
            "OpenStack Nova" | "OpenStack Compute"
        ) || matches!(
            dmi.chassis_asset_tag.as_str(),
            "OpenTelekomCloud"
                | "SAP CCloud VM"
                | "Huawei Cloud"
                | "OpenStack Nova"
                | "OpenStack Compute"
        )
    }

    fn begin(&mut self) -> Step {
        ask(META_DATA, META_DATA_MAX)
    }

    fn answer(&mut self, answer: &Answer) -> Step {
        if let Some(mut found) = self.found.take() {
            match answer.status {
                200 => found.take_user_data(answer.body.clone()),
                404 => {}
                status => found.note(format!("openstack: user_data: status {status}")),
            }
            return Step::Done(found);
        }
        if answer.status != 200 {
            return Step::Absent(unexpected("meta_data.json", answer));
        }
        let data: MetaData = match serde_json::from_slice(&answer.body) {
            Ok(data) => data,
            Err(error) => return Step::Absent(format!("meta_data.json: {error}")),
        };
        let Some(id) = found::text(&data.uuid) else {
            return Step::Absent("meta_data.json: uuid is no plain text".into());
        };
        let name = data.hostname.or(data.name);
        self.found = Some(Found {
            instance_id: Some(id),
            hostname: name.as_deref().and_then(found::hostname),
            zone: data.availability_zone.as_deref().and_then(found::text),
            ..Found::default()
        });
        ask(USER_DATA, USER_DATA_MAX)
    }

    fn silence(&mut self, why: String) -> Step {
        match self.found.take() {
            Some(mut found) => {
                found.note(format!("openstack: user_data: {why}"));
                Step::Done(found)
            }
            None => Step::Absent(why),
        }
    }
}

fn ask(path: &str, limit: usize) -> Step {
    Step::Ask(Question {
        to: LINK_LOCAL,
        request: Request::get(path),
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    const JSON: &str = r#"{"uuid":"83679162-1378-4288-a2d4-70e13ec132aa","name":"n","hostname":"n.novalocal","availability_zone":"nova","meta":{"a":"b"}}"#;

    #[test]
    fn meta_data_then_user_data() {
        let mut source = OpenStack::default();
        source.begin();
        let step = source.answer(&Answer::of(200, &[], JSON));
        assert!(format!("{step:?}").contains(USER_DATA));
        let Step::Done(found) = source.answer(&Answer::of(200, &[], "x")) else {
            panic!("not done")
        };
        assert_eq!(found.hostname.as_deref(), Some("n.novalocal"));
        assert_eq!(found.zone.as_deref(), Some("nova"));
        assert_eq!(found.user_data.as_deref(), Some(&b"x"[..]));
        fuzz(&[JSON.as_bytes()], |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            OpenStack::default().answer(&Answer::of(200, &[], &text));
        });
    }

    #[test]
    fn without_user_data_it_is_done_without_meta_data_it_is_absent() {
        let mut source = OpenStack::default();
        source.answer(&Answer::of(200, &[], JSON));
        assert!(matches!(
            source.answer(&Answer::of(404, &[], "")),
            Step::Done(_)
        ));
        let mut source = OpenStack::default();
        assert!(matches!(
            source.answer(&Answer::of(404, &[], "")),
            Step::Absent(_)
        ));
        assert!(matches!(source.silence("x".into()), Step::Absent(_)));
    }
}
