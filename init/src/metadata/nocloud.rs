//! NoCloud (cloud-init's "NoCloud" data source): meta-data and user-data on a seed disk
//! ([`super::seed`]), or from a web server that SMBIOS' serial number names:
//! `ds=nocloud;s=http://192.0.2.1/seed/;h=name;i=id`.
//!
//! Of meta-data's YAML the flat `key: value` lines are read, and JSON; nothing more stands
//! there that matters to a machine without a package manager.

use std::net::SocketAddr;

use serde::Deserialize;

use super::dmi::Dmi;
use super::found::{self, Found, USER_DATA_MAX};
use super::http::{Answer, Request};
use super::seed::Files;
use super::source::{Question, Source, Step, unexpected};

/// Longest meta-data in bytes.
const META_DATA_MAX: usize = 64 * 1024;
/// The name of an instance that has none, as cloud-init calls it.
const NO_ID: &str = "nocloud";

/// What a seed disk says.
pub(super) fn of_files(files: Files) -> Found {
    let mut found = of_meta_data(&files.meta_data.unwrap_or_default());
    if let Some(data) = files.user_data {
        found.take_user_data(data);
    }
    found
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct MetaData {
    instance_id: Option<String>,
    local_hostname: Option<String>,
    hostname: Option<String>,
}

fn of_meta_data(bytes: &[u8]) -> Found {
    let mut odd = Vec::new();
    let data = if bytes.len() > META_DATA_MAX {
        odd.push(format!("nocloud: meta-data is above {META_DATA_MAX} bytes"));
        MetaData::default()
    } else if bytes.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice(bytes).unwrap_or_else(|error| {
            odd.push(format!("nocloud: meta-data: {error}"));
            MetaData::default()
        })
    } else {
        flat(&String::from_utf8_lossy(bytes))
    };
    let name = data.local_hostname.or(data.hostname);
    let id = data.instance_id.as_deref().and_then(found::text);
    Found {
        instance_id: Some(id.unwrap_or_else(|| NO_ID.to_owned())),
        hostname: name.as_deref().and_then(found::hostname),
        odd,
        ..Found::default()
    }
}

/// `key: value` at the beginning of a line.
fn flat(text: &str) -> MetaData {
    let mut data = MetaData::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.split(" #").next().unwrap_or_default().trim();
        let value = value.trim_matches(['"', '\'']).to_owned();
        match key {
            "instance-id" => data.instance_id = Some(value),
            "local-hostname" => data.local_hostname = Some(value),
            "hostname" => data.hostname = Some(value),
            _ => {}
        }
    }
    data
}

/// What a serial number says: `ds=nocloud`, `ds=nocloud-net`, and pairs behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Serial {
    seed: Option<String>,
    hostname: Option<String>,
    id: Option<String>,
}

fn serial(text: &str) -> Option<Serial> {
    let mut parts = text.trim().split(';');
    if !matches!(parts.next()?, "ds=nocloud" | "ds=nocloud-net") {
        return None;
    }
    let mut serial = Serial::default();
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = Some(value.to_owned());
        match key {
            "s" | "seedfrom" => serial.seed = value,
            "h" | "local-hostname" => serial.hostname = value,
            "i" | "instance-id" => serial.id = value,
            _ => {}
        }
    }
    Some(serial)
}

/// A seed on a web server.
#[derive(Debug, Default)]
pub(super) struct NoCloudNet {
    serial: Serial,
    server: Option<(SocketAddr, String)>,
    /// Known after the first answer.
    found: Option<Found>,
}

impl NoCloudNet {
    /// As the serial number wants it; `None` if it does not speak of NoCloud.
    pub(super) fn of(dmi: &Dmi) -> Option<NoCloudNet> {
        let serial = serial(&dmi.product_serial)?;
        let server = serial.seed.as_deref().and_then(server);
        Some(NoCloudNet {
            serial,
            server,
            found: None,
        })
    }

    fn ask(&self, document: &str, limit: usize) -> Step {
        match &self.server {
            Some((to, path)) => Step::Ask(Question {
                to: *to,
                request: Request::get(format!("{path}{document}")),
                limit,
            }),
            None => Step::Absent("no server".into()),
        }
    }

    /// What the serial number itself says goes before what lies on the server.
    fn done(&self, mut found: Found) -> Step {
        let serial = &self.serial;
        if let Some(id) = serial.id.as_deref().and_then(found::text) {
            found.instance_id = Some(id);
        }
        if let Some(name) = serial.hostname.as_deref().and_then(found::hostname) {
            found.hostname = Some(name);
        }
        Step::Done(found)
    }
}

/// `http://address[:port]/path/` with a numeric address: before there is a network there
/// is no name server.
fn server(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let address = host
        .parse()
        .or_else(|_| format!("{host}:80").parse())
        .ok()?;
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then(|| (address, format!("/{path}")))
}

impl Source for NoCloudNet {
    fn fits(&self, dmi: &Dmi) -> bool {
        serial(&dmi.product_serial).is_some()
    }

    fn begin(&mut self) -> Step {
        match (&self.serial.seed, &self.server) {
            (None, _) => self.done(of_meta_data(b"")),
            (Some(seed), None) => Step::Absent(format!(
                "s={seed:?} is not http://address/path with a numeric address"
            )),
            (Some(_), Some(_)) => self.ask("meta-data", META_DATA_MAX),
        }
    }

    fn answer(&mut self, answer: &Answer) -> Step {
        match (self.found.take(), answer.status) {
            (None, 200) => {
                self.found = Some(of_meta_data(&answer.body));
                self.ask("user-data", USER_DATA_MAX)
            }
            (None, _) => Step::Absent(unexpected("meta-data", answer)),
            (Some(mut found), 200) => {
                found.take_user_data(answer.body.clone());
                self.done(found)
            }
            (Some(mut found), status) => {
                if status != 404 {
                    found.note(format!("nocloud: user-data: status {status}"));
                }
                self.done(found)
            }
        }
    }

    fn silence(&mut self, why: String) -> Step {
        match self.found.take() {
            Some(mut found) => {
                found.note(format!("nocloud: user-data: {why}"));
                self.done(found)
            }
            None => Step::Absent(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn meta_data_as_yaml_and_json() {
        let yaml = b"# c\ninstance-id: \"i-1\" # x\nlocal-hostname: web\nnetwork-interfaces: |\n  hostname: no\n";
        let json = br#"{"instance-id":"i-1","local-hostname":"web","x":[1]}"#;
        for text in [&yaml[..], json] {
            let found = of_meta_data(text);
            assert_eq!(found.instance_id.as_deref(), Some("i-1"));
            assert_eq!(found.hostname.as_deref(), Some("web"));
            fuzz(&[text], |bytes, _| {
                of_meta_data(bytes);
            });
        }
        assert_eq!(of_meta_data(b"").instance_id.as_deref(), Some(NO_ID));
        assert_eq!(of_meta_data(b"{").odd.len(), 1);
        assert_eq!(of_meta_data(&[b'a'; META_DATA_MAX + 1]).odd.len(), 1);
        assert_eq!(of_meta_data(b"hostname: a b\n").hostname, None);
    }

    fn dmi(serial: &str) -> Dmi {
        Dmi {
            product_serial: serial.into(),
            ..Dmi::default()
        }
    }

    #[test]
    fn a_serial_number_names_the_server() {
        assert!(NoCloudNet::of(&dmi("VMware-1")).is_none());
        let mut source =
            NoCloudNet::of(&dmi("ds=nocloud-net;s=http://192.0.2.1:8000/a/;h=web")).unwrap();
        let Step::Ask(question) = source.begin() else {
            panic!("asks nobody")
        };
        assert_eq!(question.to, "192.0.2.1:8000".parse().unwrap());
        assert_eq!(question.request.path(), "/a/meta-data");
        source.answer(&Answer::of(
            200,
            &[],
            "instance-id: i-2\nlocal-hostname: other\n",
        ));
        let Step::Done(found) = source.answer(&Answer::of(200, &[], "x")) else {
            panic!("not done")
        };
        assert_eq!(found.hostname.as_deref(), Some("web"));
        assert_eq!(found.instance_id.as_deref(), Some("i-2"));
    }

    #[test]
    fn a_serial_number_alone_is_an_identity() {
        let mut source = NoCloudNet::of(&dmi("ds=nocloud;i=i-9;h=web\n")).unwrap();
        let Step::Done(found) = source.begin() else {
            panic!("not done")
        };
        assert_eq!(found.instance_id.as_deref(), Some("i-9"));
        for bad in [
            "https://192.0.2.1/",
            "http://example.org/",
            "http://192.0.2.1",
            "file:///x",
            "http://192.0.2.1/a b",
        ] {
            let mut source = NoCloudNet::of(&dmi(&format!("ds=nocloud;s={bad}"))).unwrap();
            assert!(matches!(source.begin(), Step::Absent(_)), "{bad}");
        }
    }
}
