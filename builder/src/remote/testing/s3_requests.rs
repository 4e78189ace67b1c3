//! Signatures as the store reads them: from the request as it came, and not by
//! the client's code.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Request;
use crate::base::Digest;
use crate::lock::date;
use crate::remote::aws::hmac;
use crate::sources::uri::decode;

/// The key of the object that a request is about; empty for the bucket itself.
pub(super) fn keyed(request: &Request) -> Option<String> {
    let rest = request.path().strip_prefix("/bucket")?;
    let key = if rest.is_empty() {
        rest
    } else {
        rest.strip_prefix('/')?
    };
    String::from_utf8(decode(key)?).ok()
}

/// Whether a request is signed by the keys, now, over all that matters; for which service
/// and region.
pub(super) fn is_signed(
    request: &Request,
    id: &str,
    secret: &str,
) -> Result<(String, String), &'static str> {
    let given = request.header("authorization");
    let given = given
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .ok_or("AccessDenied")?;
    let part = |name: &str| {
        given
            .split(", ")
            .find_map(|part| part.strip_prefix(name))
            .ok_or("AuthorizationHeaderMalformed")
    };
    let time = request.header("x-amz-date");
    check_time(time)?;
    let credential: Vec<_> = part("Credential=")?.split('/').collect();
    let [key, day, region, service, "aws4_request"] = credential.as_slice() else {
        return Err("AuthorizationHeaderMalformed");
    };
    if *key != id {
        return Err("InvalidAccessKeyId");
    }
    if !time.starts_with(day) {
        return Err("AuthorizationHeaderMalformed");
    }
    let names: Vec<_> = part("SignedHeaders=")?.split(';').collect();
    let must = request.head.headers.keys().filter(|name| {
        name.starts_with("x-amz-")
            || ["host", "content-type", "if-match", "if-none-match", "range"]
                .contains(&name.as_str())
    });
    for name in must {
        if !names.contains(&name.as_str()) {
            return Err("AccessDenied");
        }
    }
    if !names.is_sorted() {
        return Err("SignatureDoesNotMatch");
    }
    let mut canonical = format!(
        "{}\n{}\n{}\n",
        request.method,
        request.path(),
        query(request)
    );
    for name in &names {
        canonical.push_str(&format!("{name}:{}\n", request.header(name)));
    }
    canonical.push_str(&format!(
        "\n{}\n{}",
        names.join(";"),
        request.header("x-amz-content-sha256")
    ));
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{day}/{region}/{service}/aws4_request\n{}",
        Digest::of(canonical).hex()
    );
    let first = format!("AWS4{secret}");
    let key = [*day, region, service, "aws4_request"]
        .iter()
        .fold(first.into_bytes(), |key, part| {
            hmac(&key, part.as_bytes()).to_vec()
        });
    if part("Signature=")? == Digest::from_bytes(hmac(&key, text.as_bytes())).hex() {
        Ok(((*service).to_owned(), (*region).to_owned()))
    } else {
        Err("SignatureDoesNotMatch")
    }
}

/// The query, each pair with `=`, sorted by name.
fn query(request: &Request) -> String {
    let Some((_, query)) = request.target.split_once('?') else {
        return String::new();
    };
    let mut pairs: Vec<(&str, &str)> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

/// Not more than a quarter of an hour from now.
fn check_time(time: &str) -> Result<(), &'static str> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or_default();
    let near = (now - 900..=now + 900)
        .step_by(1)
        .any(|at| date::compact(at) == time);
    if near {
        Ok(())
    } else {
        Err("RequestTimeTooSkewed")
    }
}
