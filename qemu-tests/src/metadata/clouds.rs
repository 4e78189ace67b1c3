//! What each cloud answers, by its own documentation: methods, paths, headers that must be
//! there, forms. Pure.

use serde_json::json;

use super::{Metadata, MetadataSource};

/// The token of every EC2 session.
const TOKEN: &str = "AQAEAEmulatedTokenEmulatedTokenEmulatedToken==";

/// Where Azure's wire server answers.
const WIRE_SERVER: &str = "168.63.129.16";
/// Incarnation, container and instance of every goal state.
const GOAL: [&str; 3] = [
    "1",
    "a5f2e5d3-6f0c-4f0e-9f5a-0d6a1f2b3c4d",
    "b7c9d1e3.emulated_IN_0",
];

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
    /// The cloud knows now that the machine is ready.
    pub(super) is_reported: bool,
}

impl Answer {
    pub(super) fn of(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_owned(),
            is_reported: false,
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

/// Instance metadata, and beside it the wire server, which lives at an address of its own.
fn azure(metadata: &Metadata, request: &Request) -> Answer {
    if request.header("host") == Some(WIRE_SERVER) {
        return wire_server(request);
    }
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

/// The goal state, and the health report that must be of that very goal state (as the
/// Azure Linux agent speaks them). Without `Ready` Azure holds the machine for broken.
fn wire_server(request: &Request) -> Answer {
    if request.header("x-ms-version") != Some("2012-11-30") {
        return Answer::of(400, "x-ms-version is missing or not known");
    }
    let query: Vec<&str> = request.query.split('&').collect();
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/machine/" | "/machine") if query.contains(&"comp=goalstate") => {
            Answer::of(200, &goal_state())
        }
        ("POST", "/machine/" | "/machine") if query.contains(&"comp=health") => {
            let kind = request.header("content-type").unwrap_or_default();
            let [incarnation, container, instance] = GOAL;
            let wanted = [
                format!("<GoalStateIncarnation>{incarnation}</GoalStateIncarnation>"),
                format!("<ContainerId>{container}</ContainerId>"),
                format!("<InstanceId>{instance}</InstanceId>"),
                "<State>Ready</State>".to_owned(),
            ];
            let fits = wanted.iter().all(|part| request.body.contains(part));
            match kind.starts_with("text/xml") && fits {
                true => Answer {
                    is_reported: true,
                    ..Answer::of(200, "")
                },
                false => Answer::of(400, "no health report of this goal state"),
            }
        }
        _ => Answer::of(404, "Not Found"),
    }
}

fn goal_state() -> String {
    let [incarnation, container, instance] = GOAL;
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <GoalState xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:noNamespaceSchemaLocation=\"goalstate10.xsd\">\n\
         \x20 <Version>2012-11-30</Version>\n\
         \x20 <Incarnation>{incarnation}</Incarnation>\n\
         \x20 <Machine>\n    <ExpectedState>Started</ExpectedState>\n\
         \x20   <StopRolesDeadlineHint>300000</StopRolesDeadlineHint>\n  </Machine>\n\
         \x20 <Container>\n    <ContainerId>{container}</ContainerId>\n\
         \x20   <RoleInstanceList>\n      <RoleInstance>\n\
         \x20       <InstanceId>{instance}</InstanceId>\n        <State>Started</State>\n\
         \x20     </RoleInstance>\n    </RoleInstanceList>\n  </Container>\n</GoalState>\n"
    )
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
    fn azure_is_told_only_by_a_report_of_its_own_goal_state() {
        let azure = Metadata::of(MetadataSource::Azure);
        let ask = |text: &str| answer(&azure, &Request::parse(text.as_bytes()).unwrap());
        let head = "Host: 168.63.129.16\r\nx-ms-version: 2012-11-30\r\n";
        let goal = ask(&format!(
            "GET /machine/?comp=goalstate HTTP/1.1\r\n{head}\r\n"
        ));
        assert!((goal.status, goal.is_reported) == (200, false) && goal.body.contains(GOAL[1]));
        let report = |incarnation: &str, state: &str, head: &str| {
            let body = format!(
                "<GoalStateIncarnation>{incarnation}</GoalStateIncarnation><ContainerId>{}</ContainerId><InstanceId>{}</InstanceId><State>{state}</State>",
                GOAL[1], GOAL[2]
            );
            let length = body.len();
            let answer = ask(&format!(
                "POST /machine?comp=health HTTP/1.1\r\n{head}Content-Type: text/xml; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            (answer.status, answer.is_reported)
        };
        assert_eq!(report("1", "Ready", head), (200, true));
        assert_eq!(report("2", "Ready", head), (400, false));
        assert_eq!(report("1", "NotReady", head), (400, false));
        assert_eq!(
            report("1", "Ready", "Host: 168.63.129.16\r\n"),
            (400, false)
        );
        // The metadata service knows nothing of it.
        assert_eq!(report("1", "Ready", "Metadata: true\r\n").0, 400);
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
