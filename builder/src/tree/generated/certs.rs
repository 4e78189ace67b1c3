//! The bundle of certificate authorities, as update-ca-certificates(8) makes
//! it: all `*.crt` below `/usr/share/ca-certificates` and then below
//! `/usr/local/share/ca-certificates`, in order of their paths. Both come from any layer.

use slipform_init::contract::telemetry::CERTIFICATES as BUNDLE;

use super::{Entry, GenerateInput, TreeError, file};

const FOLDERS: [&str; 2] = [
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// The bundle, when there are certificates and no layer brings a bundle of its own.
pub(super) fn entries(input: &GenerateInput<'_>) -> Result<Vec<Entry>, TreeError> {
    if input.exists(BUNDLE) {
        return Ok(Vec::new());
    }
    let mut bundle = String::new();
    for folder in FOLDERS {
        let pattern = format!("{folder}/**/*.crt");
        let bad = |problem: String| TreeError::Input {
            path: folder.trim_start_matches('/').to_owned(),
            problem,
        };
        for path in input.below.glob(&pattern).map_err(bad)? {
            let Some(text) = input.text(&path)? else {
                continue;
            };
            if !text.contains(BEGIN) {
                return Err(TreeError::Input {
                    path,
                    problem: "is no certificate in PEM form; convert it (openssl x509 -inform der), or give it another ending than .crt".into(),
                });
            }
            bundle.push_str(text.trim_end());
            bundle.push('\n');
        }
    }
    if bundle.is_empty() {
        return match input.tls {
            true => Err(TreeError::NoCertificates),
            false => Ok(Vec::new()),
        };
    }
    Ok(vec![file(BUNDLE, 0o644, 0, bundle)])
}
