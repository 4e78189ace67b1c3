//! Parameters of AWS Systems Manager: names that machines' templates look up when they
//! start, so that one write switches what starts next.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Aws, AwsCall, Service};
use crate::remote::RemoteError;

/// Longest name of a parameter, and deepest.
const LONGEST: usize = 1011;
const DEEPEST: usize = 15;

/// `GetParameter`.
#[must_use]
pub fn get_parameter(region: &str, name: &str) -> AwsCall {
    call(region, "GetParameter", &[("Name", name.into())])
}

/// `PutParameter`: the name of an image from now on. The service looks that it is one.
#[must_use]
pub fn put_image(region: &str, name: &str, image: &str) -> AwsCall {
    call(
        region,
        "PutParameter",
        &[
            ("Name", name.into()),
            ("Value", image.into()),
            ("Type", "String".into()),
            ("DataType", "aws:ec2:image".into()),
            ("Overwrite", true.into()),
        ],
    )
}

fn call(region: &str, action: &'static str, said: &[(&str, Value)]) -> AwsCall {
    let said: Map<String, Value> = said
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let mut call = AwsCall::json(Service::Ssm, region, action, "/", said);
    let target = ureq::http::header::HeaderName::from_static("x-amz-target");
    let headers = &mut call.shape.headers;
    headers.push((target, format!("AmazonSSM.{action}")));
    call
}

/// Why a text is no name of a parameter, if it is none ("Creating Parameter Store
/// parameters", constraints).
#[must_use]
pub fn wrong_name(name: &str) -> Option<&'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-/".contains(&b);
    let first = name.trim_start_matches('/').to_ascii_lowercase();
    if !name.starts_with('/') || name.ends_with('/') || name.contains("//") {
        Some("it begins with / and has a name after each")
    } else if !name.bytes().all(plain) || name.len() > LONGEST {
        Some("it has letters, digits and _ . - / only, at most 1011")
    } else if name.matches('/').count() > DEEPEST {
        Some("it is deeper than 15 levels")
    } else if first.starts_with("aws") || first.starts_with("ssm") {
        Some("names that begin with aws or ssm belong to AWS")
    } else {
        None
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    parameter: Parameter,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    value: String,
}

impl Aws {
    /// What a parameter names now; nothing when there is none.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn parameter(&self, region: &str, name: &str) -> Result<Option<String>, RemoteError> {
        match self.read::<Got>(&get_parameter(region, name)) {
            Ok(got) => Ok(Some(got.parameter.value)),
            Err(error) if error.code() == "ParameterNotFound" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets a parameter name an image. The service checks that it is one after it has answered.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn name_image(&self, region: &str, name: &str, image: &str) -> Result<(), RemoteError> {
        self.ask(&put_image(region, name, image)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_anything_is_sent() {
        for good in ["/myapp/stable", "/a", "/A/b_c.d-e/1"] {
            assert_eq!(wrong_name(good), None, "{good}");
        }
        let deep = "/a".repeat(16);
        for bad in [
            "", "/", "stable", "/a/", "/a//b", "/a b", "/aws/x", "/SSM", &deep,
        ] {
            assert!(wrong_name(bad).is_some(), "{bad}");
        }
    }
}
