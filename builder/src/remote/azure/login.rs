//! Who asks: SharedKey ("Authorize with Shared Key") or a shared access signature.

use ureq::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE,
};

use crate::base::base64;
use crate::lock::date;
use crate::remote::RemoteError;
use crate::remote::aws::hmac;
use crate::remote::http::Call;
use crate::sources::Host;
use crate::sources::uri::{Uri, decode};

const DATE: HeaderName = HeaderName::from_static("x-ms-date");
const VERSION: HeaderName = HeaderName::from_static("x-ms-version");
pub(super) const MD5: HeaderName = HeaderName::from_static("content-md5");
/// The version of the service that is spoken.
const SPOKEN: &str = "2021-12-02";

/// What opens an account.
#[derive(Clone)]
enum Secret {
    Key(Vec<u8>),
    /// The query of a shared access signature, without `?`.
    Signature(String),
}

/// An account, its address, and what opens it.
#[derive(Clone)]
pub(in crate::remote) struct Login {
    account: String,
    pub(super) endpoint: Uri,
    secret: Secret,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// From `AZURE_STORAGE_CONNECTION_STRING`, else `AZURE_STORAGE_KEY` or
    /// `AZURE_STORAGE_SAS_TOKEN`, as Azure's command line has them.
    pub(super) fn load(host: &Host, account: &str) -> Result<Self, RemoteError> {
        let wrong = |why: &str| RemoteError::Login {
            path: "AZURE_STORAGE_…".into(),
            why: format!(
                "{why}; set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"
            ),
        };
        let text = host.var("AZURE_STORAGE_CONNECTION_STRING").unwrap_or("");
        let said = |name: &str| {
            let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            let mut named = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            named.next().map(|(_, value)| value.trim())
        };
        if said("AccountName").is_some_and(|named| named != account) {
            return Err(wrong("the connection string is another account's"));
        }
        let key = said("AccountKey").or_else(|| host.var("AZURE_STORAGE_KEY"));
        let sas = said("SharedAccessSignature").or_else(|| host.var("AZURE_STORAGE_SAS_TOKEN"));
        let secret = match (key, sas) {
            (Some(key), _) => {
                Secret::Key(base64::decode(key).ok_or_else(|| wrong("the key is no base64"))?)
            }
            (None, Some(sas)) if sas.bytes().all(|b| b.is_ascii_graphic()) => {
                Secret::Signature(sas.trim_start_matches('?').to_owned())
            }
            _ => return Err(wrong("nothing opens the account")),
        };
        let endpoint = match said("BlobEndpoint") {
            Some(endpoint) => endpoint.to_owned(),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        let mut endpoint = Uri::parse(endpoint.trim_end_matches('/'))?;
        endpoint.path = endpoint.path.trim_end_matches('/').to_owned();
        endpoint.login = None;
        Ok(Self {
            account: account.to_owned(),
            endpoint,
            secret,
        })
    }

    /// An address with what opens it, for the service itself to read from.
    pub(super) fn opened(&self, uri: &Uri) -> String {
        match &self.secret {
            Secret::Key(_) => uri.public(),
            Secret::Signature(sas) => format!("{}?{sas}", uri.public()),
        }
    }

    /// Makes a call the account's: the headers that it is sent with.
    pub(super) fn sign(&self, call: &mut Call<'_>, now: i64) -> Vec<(HeaderName, String)> {
        let mut added = vec![
            (DATE, date::format(now).replace("UTC", "GMT")),
            (VERSION, SPOKEN.to_owned()),
        ];
        match &self.secret {
            Secret::Signature(sas) => {
                let sign = if call.uri.path.contains('?') {
                    '&'
                } else {
                    '?'
                };
                call.uri.path.push_str(&format!("{sign}{sas}"));
            }
            Secret::Key(key) => {
                let text = self.text(call, &added);
                let signature = base64::encode(&hmac(key, text.as_bytes()));
                let value = format!("SharedKey {}:{signature}", self.account);
                added.push((AUTHORIZATION, value));
            }
        }
        added
    }

    /// What is signed.
    fn text(&self, call: &Call<'_>, added: &[(HeaderName, String)]) -> String {
        let headers = || call.headers.iter().chain(added);
        let get = |name: &HeaderName| {
            let mut found = headers().filter(|(key, _)| key == name);
            found.next().map_or("", |(_, value)| value.as_str())
        };
        let length = call.payload.length();
        let length = if length == 0 {
            String::new()
        } else {
            length.to_string()
        };
        let mut text = format!("{}\n\n\n{length}\n", call.method);
        debug_assert!(get(&CONTENT_LENGTH).is_empty());
        for name in [&MD5, &CONTENT_TYPE] {
            text.push_str(&format!("{}\n", get(name)));
        }
        // The date stands in a header of its own.
        text.push('\n');
        for name in [
            &IF_MODIFIED_SINCE,
            &IF_MATCH,
            &IF_NONE_MATCH,
            &IF_UNMODIFIED_SINCE,
            &RANGE,
        ] {
            text.push_str(&format!("{}\n", get(name)));
        }
        let mut own: Vec<_> = headers()
            .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
            .collect();
        own.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        for (name, value) in own {
            text.push_str(&format!("{name}:{}\n", value.trim()));
        }
        let (path, query) = call
            .uri
            .path
            .split_once('?')
            .unwrap_or((&call.uri.path, ""));
        text.push_str(&format!("/{}{path}", self.account));
        let mut pairs: Vec<_> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        pairs.sort_unstable();
        for (name, value) in pairs {
            let value = decode(value).unwrap_or_default();
            text.push_str(&format!("\n{name}:{}", String::from_utf8_lossy(&value)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_opened_as_azures_tools_do() {
        let load = |env: &[(&str, &str)]| Login::load(&Host::fake("/nowhere", env), "acc");
        let emulator = "DefaultEndpointsProtocol=http;AccountName=acc;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:10000/acc;";
        let found = load(&[("AZURE_STORAGE_CONNECTION_STRING", emulator)]).unwrap();
        assert_eq!(found.endpoint.public(), "http://127.0.0.1:10000/acc");
        assert!(!format!("{found:?}").contains("key"));
        let found = load(&[("AZURE_STORAGE_KEY", "a2V5")]).unwrap();
        assert_eq!(found.endpoint.host, "acc.blob.core.windows.net");
        let found = load(&[("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=x")]).unwrap();
        let blob = Uri::parse("https://acc.blob.core.windows.net/c/b").unwrap();
        assert!(found.opened(&blob).ends_with("/c/b?sv=1&sig=x"));
        for (env, word) in [
            (&[][..], "nothing opens"),
            (&[("AZURE_STORAGE_KEY", "!")], "no base64"),
            (
                &[(
                    "AZURE_STORAGE_CONNECTION_STRING",
                    "AccountName=b;AccountKey=a2V5",
                )],
                "another account",
            ),
        ] {
            let error = load(env).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
