//! Signature Version 4 (AWS, "Authenticating Requests (AWS Signature Version 4)").
//!
//! Every header is signed, and the digest of every body: what arrives changed
//! on the way is refused there.

use sha2::{Digest as _, Sha256};
use ureq::http::header::{AUTHORIZATION, HeaderName};

use super::profile::Keys;
use crate::base::Digest;
use crate::lock::date;
use crate::remote::http::Call;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Length of a block of SHA-256, in bytes.
const BLOCK: usize = 64;

/// What stands for the digest of a body that carries a signed digest of another kind.
pub(in crate::remote) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// What a signature is good for.
#[derive(Debug, Clone, Copy)]
pub(in crate::remote) struct Scope<'a> {
    /// `s3`, `ec2`, …
    pub(in crate::remote) service: &'a str,
    pub(in crate::remote) region: &'a str,
    /// Seconds since 1970.
    pub(in crate::remote) now: i64,
}

/// The headers that make a request the keys' owner's. `content` is the SHA-256 of its
/// body in hexadecimal, or [`UNSIGNED`].
pub(in crate::remote) fn sign(
    call: &Call<'_>,
    keys: &Keys,
    scope: &Scope<'_>,
    content: &str,
) -> Vec<(HeaderName, String)> {
    let Scope {
        service,
        region,
        now,
    } = *scope;
    let time = date::compact(now);
    let day = time.split('T').next().unwrap_or_default();
    let mut added = vec![(DATE, time.clone()), (CONTENT, content.to_owned())];
    added.extend(keys.token.clone().map(|token| (TOKEN, token)));

    let mut headers: Vec<(&str, String)> = call
        .headers
        .iter()
        .chain(&added)
        .map(|(name, value)| (name.as_str(), squeeze(value)))
        .collect();
    headers.push(("host", call.uri.authority()));
    headers.sort();
    let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();

    let (path, query) = call
        .uri
        .path
        .split_once('?')
        .unwrap_or((&call.uri.path, ""));
    let mut query: Vec<_> = query.split('&').collect();
    query.sort_unstable();
    let canonical = format!(
        "{}\n{path}\n{}\n{lines}\n{names}\n{}",
        call.method,
        query.join("&"),
        content
    );
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        Digest::of(canonical).hex()
    );

    let mut key = hmac(format!("AWS4{}", keys.secret).as_bytes(), day.as_bytes());
    for part in [region, service, "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    let signature = Digest::from_bytes(hmac(&key, text.as_bytes())).hex();
    added.push((
        AUTHORIZATION,
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            keys.id
        ),
    ));
    added
}

/// Without spaces at the ends, and single ones between.
fn squeeze(value: &str) -> String {
    let words: Vec<_> = value.split(' ').filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// HMAC-SHA256 (RFC 2104).
pub(in crate::remote) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let hash = |pad: u8, message: &[u8]| -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(block.map(|byte| byte ^ pad));
        hasher.update(message);
        hasher.finalize().into()
    };
    hash(0x5c, &hash(0x36, message))
}

#[cfg(test)]
mod tests {
    use ureq::http::Method;
    use ureq::http::header::RANGE;

    use super::*;
    use crate::sources::uri::Uri;

    #[test]
    fn rfc_4231() {
        for (key, message, expected) in [
            (
                vec![0x0b; 20],
                "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                vec![0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            let found = Digest::from_bytes(hmac(&key, message.as_bytes())).hex();
            assert_eq!(found, expected);
        }
    }

    /// The examples of AWS's documentation ("Signature Calculations for the
    /// Authorization Header").
    #[test]
    fn awss_own_examples() {
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let at = |path: &str| {
            Uri::parse(&format!("https://examplebucket.s3.amazonaws.com{path}")).unwrap()
        };
        for (call, signature) in [
            (
                Call::new(Method::GET, at("/test.txt")).with(RANGE, "bytes=0-9"),
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                Call::new(Method::GET, at("/?lifecycle=")),
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                Call::new(Method::GET, at("/?prefix=J&max-keys=2")),
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let scope = Scope {
                service: "s3",
                region: "us-east-1",
                now: 1_369_353_600,
            };
            let headers = sign(&call, &keys, &scope, &Digest::of("").hex());
            let (_, value) = headers.last().unwrap();
            assert!(value.ends_with(signature), "{value}");
        }
    }
}
