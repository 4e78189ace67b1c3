//! What each cloud answers, by its own documentation: methods, paths, headers that must be
//! there, forms. Pure.

use serde_json::json;

use super::{Metadata, MetadataSource};

/// The token of every EC2 session.
const TOKEN: &str = "AQAEAEmulatedTokenEmulatedTokenEmulatedToken==";

/// A request, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    method: String,
    /// Without the query.
    path: String,
    query: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    /// As soon as it is complete.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(Some(0), |(_, value)| value.parse().ok())?;
        let body = bytes.get(end + 4..(end + 4).checked_add(length)?)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Some(Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: String::from_utf8_lossy(body).into_owned(),
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Status, headers, body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
}

impl Answer {
    pub(super) fn of(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_owned(),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut text = format!(
            "HTTP/1.1 {} Emulated\r\nContent-Length: {}\r\nConnection: close\r\n",
            self.status,
            self.body.len()
        );
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(&self.body);
        text.into_bytes()
    }
}

/// The answer of this cloud.
pub(super) fn answer(metadata: &Metadata, request: &Request) -> Answer {
    match metadata.source {
        MetadataSource::Ec2 => ec2(metadata, request),
        MetadataSource::Gce => gce(metadata, request),
        MetadataSource::Azure => azure(metadata, request),
        MetadataSource::Openstack => openstack(metadata, request),
        MetadataSource::Nocloud | MetadataSource::Smbios | MetadataSource::FwCfg => {
            Answer::of(404, "")
        }
    }
}

fn maybe(text: Option<String>) -> Answer {
    text.map_or_else(
        || Answer::of(404, "Not Found"),
        |text| Answer::of(200, &text),
    )
}

fn ec2(metadata: &Metadata, request: &Request) -> Answer {
    if request.path == "/latest/api/token" {
        let seconds = request.header("x-aws-ec2-metadata-token-ttl-seconds");
        let seconds = seconds.and_then(|text| text.parse::<u32>().ok());
        return match (request.method.as_str(), seconds) {
            // A request that came through a proxy gets none.
            ("PUT", _) if request.header("x-forwarded-for").is_some() => Answer::of(403, ""),
            ("PUT", Some(1..=21_600)) => Answer::of(200, TOKEN),
            ("PUT", _) => Answer::of(400, "Bad Request"),
            _ => Answer::of(405, "Method Not Allowed"),
        };
    }
    if request.header("x-aws-ec2-metadata-token") != Some(TOKEN) {
        return Answer::of(401, "Unauthorized");
    }
    let zone = "eu-central-1a";
    match request.path.as_str() {
        "/latest/meta-data/instance-id" => Answer::of(200, &metadata.instance_id),
        "/latest/meta-data/local-hostname" | "/latest/meta-data/hostname" => {
            Answer::of(200, &metadata.hostname)
        }
        "/latest/meta-data/placement/availability-zone" => Answer::of(200, zone),
        "/latest/meta-data/instance-type" => Answer::of(200, "m7i.large"),
        "/latest/dynamic/instance-identity/document" => {
            let document = json!({
                "accountId": "123456789012", "architecture": "x86_64",
                "availabilityZone": zone, "region": "eu-central-1",
                "imageId": "ami-0123456789abcdef0", "instanceId": metadata.instance_id,
                "instanceType": "m7i.large", "privateIp": "169.254.2.15",
                "version": "2017-09-30",
            });
            Answer::of(200, &document.to_string())
        }
        "/latest/user-data" => maybe(metadata.user_data()),
        _ => Answer::of(404, "Not Found"),
    }
}

fn gce(metadata: &Metadata, request: &Request) -> Answer {
    if request.header("metadata-flavor") != Some("Google")
        || request.header("x-forwarded-for").is_some()
    {
        return Answer::of(403, "Missing Metadata-Flavor:Google header.");
    }
    let mut answer = match request.path.as_str() {
        "/computeMetadata/v1/instance/" if request.query.contains("recursive=true") => {
            // Ids of instances are numbers.
            let id = metadata.instance_id.bytes().fold(7_u64, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(byte))
            });
            let mut tree = json!({
                "id": metadata.instance_id.parse().unwrap_or(id),
                "hostname": metadata.hostname, "attributes": {},
                "zone": "projects/123456789012/zones/europe-west3-a",
                "machineType": "projects/123456789012/machineTypes/e2-small",
            });
            if let Some(data) = metadata.user_data() {
                tree["attributes"]["user-data"] = data.into();
            }
            Answer::of(200, &tree.to_string())
        }
        "/computeMetadata/v1/instance/hostname" => Answer::of(200, &metadata.hostname),
        "/computeMetadata/v1/instance/attributes/user-data" => maybe(metadata.user_data()),
        _ => Answer::of(404, ""),
    };
    answer.headers = vec![
        ("Metadata-Flavor", "Google"),
        ("Server", "Metadata Server for VM"),
    ];
    answer
}

/// Instance metadata alone: the wire server's address lies outside the emulated network.
fn azure(metadata: &Metadata, request: &Request) -> Answer {
    if request.header("metadata") != Some("true") || request.header("x-forwarded-for").is_some() {
        return Answer::of(
            400,
            r#"{"error":"Bad request. Required metadata header not specified"}"#,
        );
    }
    if !request.query.contains("api-version=") {
        return Answer::of(
            400,
            r#"{"error":"Bad request. api-version was not specified"}"#,
        );
    }
    match request.path.as_str() {
        "/metadata/instance/compute" => {
            let data = metadata.user_data().unwrap_or_default();
            let compute = json!({
                "vmId": metadata.instance_id, "name": metadata.hostname,
                "location": "germanywestcentral", "zone": "1", "vmSize": "Standard_B1s",
                "userData": base64(data.as_bytes()),
                "osProfile": { "computerName": metadata.hostname },
            });
            Answer::of(200, &compute.to_string())
        }
        _ => Answer::of(404, r#"{"error":"Not found"}"#),
    }
}

fn openstack(metadata: &Metadata, request: &Request) -> Answer {
    match request.path.as_str() {
        "/openstack/latest/meta_data.json" => {
            let data = json!({
                "uuid": metadata.instance_id, "name": metadata.hostname,
                "hostname": metadata.hostname, "availability_zone": "nova",
            });
            Answer::of(200, &data.to_string())
        }
        "/openstack/latest/user_data" => maybe(metadata.user_data()),
        _ => Answer::of(404, "Not Found"),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= three.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(metadata: &Metadata, head: &str) -> (u16, String) {
        let request = format!("{head}\r\n\r\n");
        let answer = answer(metadata, &Request::parse(request.as_bytes()).unwrap());
        (answer.status, answer.body)
    }

    #[test]
    fn ec2_wants_its_token() {
        let metadata = Metadata::of(MetadataSource::Ec2);
        let id = "GET /latest/meta-data/instance-id HTTP/1.1";
        assert_eq!(get(&metadata, id).0, 401);
        assert_eq!(get(&metadata, "GET /latest/api/token HTTP/1.1").0, 405);
        assert_eq!(get(&metadata, "PUT /latest/api/token HTTP/1.1").0, 400);
        let token = get(
            &metadata,
            "PUT /latest/api/token HTTP/1.1\r\nX-AWS-EC2-Metadata-Token-TTL-Seconds: 60",
        );
        assert_eq!(token.0, 200);
        let with = format!("{id}\r\nX-aws-ec2-metadata-token: {}", token.1);
        assert_eq!(get(&metadata, &with), (200, metadata.instance_id.clone()));
        let none = with.replace("meta-data/instance-id", "user-data");
        assert_eq!(get(&metadata, &none).0, 404);
    }

    #[test]
    fn the_others_want_their_headers() {
        let tree = "GET /computeMetadata/v1/instance/?recursive=true HTTP/1.1";
        let google = Metadata::of(MetadataSource::Gce);
        assert_eq!(get(&google, tree).0, 403);
        assert_eq!(
            get(&google, &format!("{tree}\r\nMetadata-Flavor: Google")).0,
            200
        );
        let azure = Metadata::of(MetadataSource::Azure);
        let compute = "GET /metadata/instance/compute?api-version=2021-01-01 HTTP/1.1";
        assert_eq!(get(&azure, compute).0, 400);
        assert_eq!(get(&azure, &format!("{compute}\r\nMetadata: true")).0, 200);
        let open = Metadata::of(MetadataSource::Openstack);
        assert_eq!(
            get(&open, "GET /openstack/latest/meta_data.json HTTP/1.1").0,
            200
        );
    }

    #[test]
    fn base64_by_the_standards_vectors() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_request_is_complete_with_its_body() {
        let text = b"POST /x?y HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..text.len() {
            assert_eq!(Request::parse(&text[..cut]), None);
        }
        let request = Request::parse(text).unwrap();
        assert_eq!(
            (
                request.path.as_str(),
                request.query.as_str(),
                request.body.as_str()
            ),
            ("/x", "y", "abc")
        );
    }
}
