//! What a source knows, checked: everything here came from outside the image and is
//! held to rules before it reaches a file, a name or an environment.

use std::collections::BTreeMap;

use serde::Deserialize;
use slipform_init::contract::machine::IdentityField;

use super::base64;
use crate::net;

/// Longest user-data in bytes: the clouds' own limits are 16 to 256 KiB.
pub(super) const USER_DATA_MAX: usize = 256 * 1024;
/// Longest credential, and all of them together, in bytes (systemd's limit is the same).
pub(super) const CREDENTIALS_MAX: usize = 1 << 20;
/// Most credentials.
const COUNT_MAX: usize = 128;
/// Longest name of a credential (a file name).
const NAME_MAX: usize = 255;
/// Longest value of a text field, in bytes.
const TEXT_MAX: usize = 255;
/// Longest host name that the kernel takes (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;
/// In user-data that is JSON: the list of credentials, as systemd's `systemd-imdsd` reads it.
const USER_DATA_KEY: &str = "systemd.credentials";

/// What is known of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// What the cloud calls it.
    pub(crate) instance_id: Option<String>,
    /// Its name.
    pub(crate) hostname: Option<String>,
    /// Where it stands.
    pub(crate) region: Option<String>,
    /// Where in the region.
    pub(crate) zone: Option<String>,
    /// What kind it is.
    pub(crate) instance_type: Option<String>,
    /// Data for whoever reads it; never executed.
    pub(crate) user_data: Option<Vec<u8>>,
    /// Secrets by name.
    pub(crate) credentials: BTreeMap<String, Vec<u8>>,
    /// What was passed over, and why; for the report.
    pub(crate) odd: Vec<String>,
}

impl Found {
    /// Takes over what `other`, a later source, knows and this one does not.
    pub(super) fn add(&mut self, other: Found) {
        let fields = [
            (&mut self.instance_id, other.instance_id),
            (&mut self.hostname, other.hostname),
            (&mut self.region, other.region),
            (&mut self.zone, other.zone),
            (&mut self.instance_type, other.instance_type),
        ];
        for (own, theirs) in fields {
            if own.is_none() {
                *own = theirs;
            }
        }
        if self.user_data.is_none() {
            self.user_data = other.user_data;
        }
        for (name, value) in other.credentials {
            if !self.credentials.contains_key(&name) {
                self.credential(&name, value);
            }
        }
        self.odd.extend(other.odd);
        self.odd.truncate(COUNT_MAX);
    }

    /// Nothing at all is known.
    pub(super) fn is_empty(&self) -> bool {
        self.instance_id.is_none()
            && self.hostname.is_none()
            && self.user_data.is_none()
            && self.credentials.is_empty()
    }

    /// The value of a field that a service asks for in its environment.
    pub(crate) fn field(&self, field: IdentityField) -> Option<&str> {
        match field {
            IdentityField::InstanceId => self.instance_id.as_deref(),
            IdentityField::Hostname => self.hostname.as_deref(),
            IdentityField::Region => self.region.as_deref(),
            IdentityField::Zone => self.zone.as_deref(),
            IdentityField::InstanceType => self.instance_type.as_deref(),
        }
    }

    /// Adds a credential, unless its name is no file name, it is too much, or it is there.
    pub(super) fn credential(&mut self, name: &str, value: Vec<u8>) {
        let total: usize = self.credentials.values().map(Vec::len).sum();
        let why = if !is_name(name) {
            "its name must be 1 to 255 letters, digits, '.', '_' or '-', and not begin with '.'"
        } else if self.credentials.contains_key(name) {
            "it came twice; the first counts"
        } else if self.credentials.len() >= COUNT_MAX || total + value.len() > CREDENTIALS_MAX {
            "it is too much: at most 128 credentials and 1 MiB together"
        } else {
            self.credentials.insert(name.to_owned(), value);
            return;
        };
        let name: String = name.chars().take(40).collect();
        self.note(format!("credential {name:?} passed over: {why}"));
    }

    /// Takes user-data, and the credentials in it.
    pub(super) fn take_user_data(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if bytes.len() > USER_DATA_MAX {
            self.note(format!(
                "user-data passed over: above {USER_DATA_MAX} bytes"
            ));
            return;
        }
        if bytes.trim_ascii_start().starts_with(b"{") {
            match serde_json::from_slice::<Carrier>(&bytes) {
                Ok(carrier) => carrier.add_to(self),
                Err(error) => self.note(format!(
                    "user-data looks like JSON with credentials and is not: {error}"
                )),
            }
        }
        self.user_data = Some(bytes);
    }

    /// A line for the report.
    pub(super) fn note(&mut self, text: String) {
        if self.odd.len() < COUNT_MAX {
            self.odd.push(text);
        }
    }
}

/// JSON user-data that carries credentials; whatever else it has is not looked at.
#[derive(Deserialize)]
struct Carrier {
    #[serde(rename = "systemd.credentials", default)]
    credentials: Vec<Carried>,
}

#[derive(Deserialize)]
struct Carried {
    name: String,
    text: Option<String>,
    data: Option<String>,
}

impl Carrier {
    fn add_to(self, found: &mut Found) {
        for Carried { name, text, data } in self.credentials {
            match (text, data) {
                (Some(text), None) => found.credential(&name, text.into_bytes()),
                (None, Some(data)) => match base64::decode(data.as_bytes()) {
                    Some(bytes) => found.credential(&name, bytes),
                    None => found.note(format!("{USER_DATA_KEY}: a `data` is no base64")),
                },
                _ => found.note(format!(
                    "{USER_DATA_KEY}: each has either `text` or `data` (base64)"
                )),
            }
        }
    }
}

/// A credential's name: a plain file name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// A value for a file, a line or an environment: printable, without blanks.
pub(super) fn text(value: &str) -> Option<String> {
    let value = value.trim();
    let plain = value.bytes().all(|byte| byte.is_ascii_graphic());
    ((1..=TEXT_MAX).contains(&value.len()) && plain).then(|| value.to_owned())
}

/// A host name: a domain name, cut behind a whole label where the kernel's limit wants it.
pub(super) fn hostname(value: &str) -> Option<String> {
    let value = value.trim().trim_end_matches('.');
    if !net::is_domain(value) {
        return None;
    }
    let mut name = value;
    while name.len() > HOSTNAME_MAX {
        name = name.rsplit_once('.')?.0;
    }
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn the_first_source_wins_field_by_field() {
        let mut first = Found {
            hostname: Some("a".into()),
            ..Found::default()
        };
        first.credential("x", b"1".to_vec());
        let mut second = Found {
            hostname: Some("b".into()),
            zone: Some("z".into()),
            ..Found::default()
        };
        second.credential("x", b"2".to_vec());
        second.credential("y", b"3".to_vec());
        first.add(second);
        assert_eq!(first.hostname.as_deref(), Some("a"));
        assert_eq!(first.field(IdentityField::Zone), Some("z"));
        assert_eq!(first.credentials["x"], b"1");
        assert_eq!(first.credentials["y"], b"3");
    }

    #[test]
    fn what_is_no_file_name_or_too_much_is_passed_over() {
        let mut found = Found::default();
        for bad in ["", ".", "..", "a/b", "../x", "a\0b", "ä", &"n".repeat(256)] {
            found.credential(bad, vec![1]);
        }
        found.credential("big", vec![0; CREDENTIALS_MAX + 1]);
        assert!(found.credentials.is_empty());
        assert_eq!(found.odd.len(), 9);
        for number in 0..300 {
            found.credential(&format!("n{number}"), vec![1]);
        }
        assert_eq!(found.credentials.len(), COUNT_MAX);
        assert_eq!(found.odd.len(), COUNT_MAX);
    }

    #[test]
    fn user_data_is_kept_as_it_is_and_may_carry_credentials() {
        let mut found = Found::default();
        let json = br#" {"other":[1,{}],"systemd.credentials":[{"name":"a","text":"x"},
            {"name":"b","data":"AAE="},{"name":"c"},{"name":"d","data":"!"}]}"#;
        found.take_user_data(json.to_vec());
        assert_eq!(found.user_data.as_deref(), Some(&json[..]));
        assert_eq!(found.credentials["a"], b"x");
        assert_eq!(found.credentials["b"], [0, 1]);
        assert_eq!((found.credentials.len(), found.odd.len()), (2, 2));
        let mut plain = Found::default();
        plain.take_user_data(b"#!/bin/sh\nrm -rf /\n".to_vec());
        assert!(plain.odd.is_empty() && plain.credentials.is_empty());
        let mut huge = Found::default();
        huge.take_user_data(vec![b'x'; USER_DATA_MAX + 1]);
        assert_eq!((huge.user_data, huge.odd.len()), (None, 1));
        fuzz(&[json], |bytes, _| {
            Found::default().take_user_data(bytes.to_vec());
        });
    }

    #[test]
    fn texts_and_names() {
        assert_eq!(text(" i-0abc\n").as_deref(), Some("i-0abc"));
        for bad in ["", "a b", "a\nb", "ä", &"x".repeat(256)] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
        assert_eq!(hostname("web.example.").as_deref(), Some("web.example"));
        let long = format!("{}.{}.org", "a".repeat(40), "b".repeat(40));
        assert_eq!(hostname(&long).as_deref(), Some(&"a".repeat(40)[..]));
        for bad in ["", "a_b!", "-a", "a b", "a\nb", "x..y"] {
            assert_eq!(hostname(bad), None, "{bad:?}");
        }
    }
}
