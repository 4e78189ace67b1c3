//! EC2's query API: what it checks of images.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use super::aws::{AwsRules, Image, Seen, Snapshot, State, Status};
use super::{Reply, Request};
use crate::lock::date;
use crate::remote::aws::xml::escape;
use crate::sources::uri::decode;

type Said = BTreeMap<String, String>;

/// An error as EC2 writes it.
pub(super) fn error(status: u16, code: &str) -> Reply {
    Reply::status(status).body(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>as the test has it</Message></Error></Errors><RequestID>r</RequestID></Response>"
    ))
}

/// Action and parameters of a form.
pub(super) fn read(request: &Request) -> Option<(String, Said)> {
    let kind = request.header("content-type");
    if request.method != "POST" || !kind.starts_with("application/x-www-form-urlencoded") {
        return None;
    }
    let text = std::str::from_utf8(&request.body).ok()?;
    let mut said = Said::new();
    for pair in text.split('&') {
        let (name, value) = pair.split_once('=')?;
        let plain = |text: &str| String::from_utf8(decode(text)?).ok();
        // Said twice is an error of EC2's, too.
        if said.insert(plain(name)?, plain(value)?).is_some() {
            return None;
        }
    }
    if said.remove("Version")? != "2016-11-15" {
        return None;
    }
    Some((said.remove("Action")?, said))
}

type Refusal = (u16, &'static str, &'static str);

pub(super) fn answer(state: &mut State, rules: &AwsRules, seen: &Seen) -> Reply {
    let done = match seen.action.as_str() {
        "DescribeSnapshots" => snapshots(state, seen),
        "DescribeImages" => images(state, seen),
        "RegisterImage" => register(state, rules, seen),
        "CopyImage" => copy(state, rules, seen),
        "ModifyImageAttribute" => share(state, seen),
        "EnableImageDeprecation" | "DisableImageDeprecation" => deprecate(state, seen),
        _ => Err((400, "InvalidAction", "an action that EC2 does not have")),
    };
    match done {
        Ok(inside) => {
            let action = &seen.action;
            Reply::status(200).body(format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\n  <requestId>r</requestId>\n  {inside}\n</{action}Response>"
            ))
        }
        Err((status, code, why)) => {
            if !why.is_empty() {
                state.complain(format!("{}: {why}", seen.action));
            }
            error(status, code)
        }
    }
}

/// Whether something own fits the one filter that is asked with.
fn fits(said: &Said, id: (&str, &str), name: Option<&str>, tags: &Said) -> bool {
    let get = |key: &str| said.get(key).map_or("", String::as_str);
    let (filter, value) = (get("Filter.1.Name"), get("Filter.1.Value.1"));
    match filter.strip_prefix("tag:") {
        Some(key) => tags.get(key).is_some_and(|tag| tag == value),
        None if filter == id.0 => value == id.1,
        None => filter == "name" && name == Some(value),
    }
}

fn check_question(said: &Said) -> Result<(), Refusal> {
    let own = said.get("Owner.1").is_some_and(|owner| owner == "self");
    if own && said.len() == 3 {
        return Ok(());
    }
    Err((
        400,
        "InvalidParameterValue",
        "a question about all the world's",
    ))
}

fn tag_set(tags: &Said) -> String {
    let item = |(key, value): (&String, &String)| {
        let (key, value) = (escape(key), escape(value));
        format!("<item><key>{key}</key><value>{value}</value></item>")
    };
    let items: String = tags.iter().map(item).collect();
    format!("<tagSet>{items}</tagSet>")
}

fn snapshots(state: &mut State, seen: &Seen) -> Result<String, Refusal> {
    check_question(&seen.parameters)?;
    let mut list = String::new();
    for (id, snapshot) in &mut state.snapshots {
        if snapshot.region != seen.region
            || !fits(&seen.parameters, ("snapshot-id", id), None, &snapshot.tags)
        {
            continue;
        }
        let status = match snapshot.status.look() {
            Status::Ready => "completed",
            Status::Failed => "error",
            Status::Open | Status::Pending(_) => "pending",
        };
        let (gib, tags) = (snapshot.gib, tag_set(&snapshot.tags));
        list.push_str(&format!(
            "<item><snapshotId>{id}</snapshotId><status>{status}</status><volumeSize>{gib}</volumeSize>{tags}</item>"
        ));
    }
    Ok(format!("<snapshotSet>{list}</snapshotSet>"))
}

fn images(state: &mut State, seen: &Seen) -> Result<String, Refusal> {
    check_question(&seen.parameters)?;
    let mut list = String::new();
    for (id, image) in &mut state.images {
        let name = image.said.get("Name").cloned().unwrap_or_default();
        if image.region != seen.region
            || !fits(&seen.parameters, ("image-id", id), Some(&name), &image.tags)
        {
            continue;
        }
        let status = match image.status.look() {
            Status::Ready => "available",
            Status::Failed => "failed",
            Status::Open | Status::Pending(_) => "pending",
        };
        let deprecated = image.deprecated.as_ref().map_or_else(String::new, |at| {
            format!("<deprecationTime>{at}</deprecationTime>")
        });
        let (snapshot, tags) = (&image.snapshot, tag_set(&image.tags));
        list.push_str(&format!(
            "<item><imageId>{id}</imageId><name>{name}</name><imageState>{status}</imageState><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs><snapshotId>{snapshot}</snapshotId></ebs></item></blockDeviceMapping>{deprecated}{tags}</item>"
        ));
    }
    Ok(format!("<imagesSet>{list}</imagesSet>"))
}

/// The tags of one kind of resource; they are taken out.
fn take_tags(said: &mut Said, kind: &str) -> Said {
    let mut tags = Said::new();
    for at in 1..=2 {
        let prefix = format!("TagSpecification.{at}");
        if said
            .get(&format!("{prefix}.ResourceType"))
            .map(String::as_str)
            != Some(kind)
        {
            continue;
        }
        said.remove(&format!("{prefix}.ResourceType"));
        for n in 1..=50 {
            let key = said.remove(&format!("{prefix}.Tag.{n}.Key"));
            let value = said.remove(&format!("{prefix}.Tag.{n}.Value"));
            tags.extend(key.zip(value));
        }
    }
    tags
}

/// What `RegisterImage` may say, and must.
const REGISTER: &[(&str, &[&str])] = &[
    ("Architecture", &["x86_64", "arm64"]),
    ("BlockDeviceMapping.1.DeviceName", &["/dev/xvda"]),
    ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", &["true"]),
    ("BlockDeviceMapping.1.Ebs.VolumeType", &["gp3"]),
    ("BootMode", &["uefi", "uefi-preferred"]),
    ("EnaSupport", &["true"]),
    ("ImdsSupport", &["v2.0"]),
    ("RootDeviceName", &["/dev/xvda"]),
    ("VirtualizationType", &["hvm"]),
];

fn check_name(state: &State, region: &str, name: &str) -> Result<(), Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c);
    if !(3..=128).contains(&name.len()) || !name.chars().all(plain) {
        return Err((400, "InvalidAMIName.Malformed", "a name that is none"));
    }
    let taken = state.images.values().any(|image| {
        image.region == region && image.said.get("Name").is_some_and(|taken| taken == name)
    });
    if taken {
        // Not the client's fault: an answer may have been lost.
        return Err((400, "InvalidAMIName.Duplicate", ""));
    }
    Ok(())
}

fn register(state: &mut State, rules: &AwsRules, seen: &Seen) -> Result<String, Refusal> {
    let mut said = seen.parameters.clone();
    let tags = take_tags(&mut said, "image");
    let get = |name: &str| said.get(name).map_or("", String::as_str);
    check_name(state, &seen.region, get("Name"))?;
    let wrong = |why| Err((400, "InvalidParameterValue", why));
    for (name, values) in REGISTER {
        if !values.contains(&get(name)) {
            return wrong("a value that EC2 or we do not want");
        }
    }
    let free = [
        "BlockDeviceMapping.1.Ebs.SnapshotId",
        "Description",
        "Name",
        "TpmSupport",
    ];
    let known = |name: &str| free.contains(&name) || REGISTER.iter().any(|(n, _)| *n == name);
    if !said.keys().all(|name| known(name)) {
        return Err((
            400,
            "UnknownParameter",
            "a parameter that EC2 does not have",
        ));
    }
    if !["", "v2.0"].contains(&get("TpmSupport"))
        || get("TpmSupport") == "v2.0" && get("BootMode") != "uefi"
    {
        return wrong("a TPM without UEFI");
    }
    let snapshot = get("BlockDeviceMapping.1.Ebs.SnapshotId").to_owned();
    match state.snapshots.get(&snapshot) {
        Some(found) if found.region == seen.region && found.status == Status::Ready => {}
        Some(_) => return Err((400, "IncorrectState", "an image of an unfinished snapshot")),
        None => return Err((400, "InvalidSnapshot.NotFound", "an image of no snapshot")),
    }
    let id = state.id("ami");
    let image = Image {
        region: seen.region.clone(),
        said,
        tags,
        snapshot,
        status: pending(rules),
        shared: BTreeSet::new(),
        deprecated: None,
    };
    state.images.insert(id.clone(), image);
    Ok(format!("<imageId>{id}</imageId>"))
}

fn pending(rules: &AwsRules) -> Status {
    match rules.pending {
        0 => Status::Ready,
        looks => Status::Pending(looks),
    }
}

fn copy(state: &mut State, rules: &AwsRules, seen: &Seen) -> Result<String, Refusal> {
    let mut said = seen.parameters.clone();
    let all = format!("{said:?}");
    let tags = take_tags(&mut said, "image");
    let of_snapshot = take_tags(&mut said, "snapshot");
    let get = |name: &str| said.get(name).map_or("", String::as_str);
    let token = get("ClientToken").to_owned();
    if token.is_empty() || token.len() > 64 {
        return Err((400, "InvalidParameterValue", "a token of 1 to 64 bytes"));
    }
    let known = state.images.iter().find(|(_, image)| {
        image.region == seen.region && image.said.get("ClientToken") == Some(&token)
    });
    if let Some((id, image)) = known {
        if image.said.get("all") != Some(&all) {
            return Err((
                400,
                "IdempotentParameterMismatch",
                "a token used for something else",
            ));
        }
        return Ok(format!("<imageId>{id}</imageId>"));
    }
    check_name(state, &seen.region, get("Name"))?;
    let source = state.images.get(get("SourceImageId"));
    let source = source.filter(|image| image.region == get("SourceRegion"));
    let Some(source) = source else {
        return Err((400, "InvalidAMIID.NotFound", "a copy of nothing"));
    };
    if source.status != Status::Ready {
        return Err((400, "IncorrectState", "a copy of what is not there yet"));
    }
    let blocks = state.blocks(&source.snapshot);
    let gib = state.snapshots.get(&source.snapshot).map_or(1, |s| s.gib);
    let snapshot = state.id("snap");
    let copied = Snapshot {
        region: seen.region.clone(),
        gib,
        parent: None,
        begun: (snapshot.clone(), String::new()),
        tags: of_snapshot,
        blocks,
        settle: 0,
        status: Status::Ready,
    };
    state.snapshots.insert(snapshot.clone(), copied);
    said.insert("all".to_owned(), all);
    let id = state.id("ami");
    let image = Image {
        region: seen.region.clone(),
        said,
        tags,
        snapshot,
        status: pending(rules),
        shared: BTreeSet::new(),
        deprecated: None,
    };
    state.images.insert(id.clone(), image);
    Ok(format!("<imageId>{id}</imageId>"))
}

fn own<'a>(state: &'a mut State, seen: &Seen) -> Result<&'a mut Image, Refusal> {
    let id = seen.parameters.get("ImageId").map_or("", String::as_str);
    let image = state
        .images
        .get_mut(id)
        .filter(|image| image.region == seen.region);
    let image = image.ok_or((400, "InvalidAMIID.NotFound", "a change of no image"))?;
    if image.status == Status::Ready {
        return Ok(image);
    }
    Err((
        400,
        "InvalidAMIID.Unavailable",
        "a change of what is not there yet",
    ))
}

fn share(state: &mut State, seen: &Seen) -> Result<String, Refusal> {
    let get = |name: &str| seen.parameters.get(name).map_or("", String::as_str);
    if get("Attribute") != "launchPermission" {
        return Err((400, "InvalidParameterValue", "another attribute"));
    }
    let accounts: Vec<String> = (1..=64)
        .filter_map(|n| {
            seen.parameters
                .get(&format!("LaunchPermission.Add.{n}.UserId"))
                .cloned()
        })
        .collect();
    if accounts.is_empty() || accounts.len() + 2 != seen.parameters.len() {
        return Err((400, "InvalidParameterValue", "no accounts"));
    }
    own(state, seen)?.shared.extend(accounts);
    Ok("<return>true</return>".to_owned())
}

fn deprecate(state: &mut State, seen: &Seen) -> Result<String, Refusal> {
    let at = seen.parameters.get("DeprecateAt").cloned();
    if let Some(at) = &at {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let now = i64::try_from(now).unwrap_or_default();
        if date::parse_rfc3339(at).is_none_or(|at| at <= now) {
            return Err((400, "InvalidParameterValue", "an end that has passed"));
        }
    }
    own(state, seen)?.deprecated = at;
    Ok("<return>true</return>".to_owned())
}
