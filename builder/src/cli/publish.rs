//! `slipform publish`, `promote`, `rollback` and `revoke`.

use std::str::FromStr;

use serde_json::json;

use super::args::{Cli, Signing};
use super::key::must_sign;
use super::release_args::{Believing, Promote, Publish, Revoke, Rollback, Saying};
use super::{BadInput, Done, print, print_json, settings};
use crate::attest::{Signer, Trust};
use crate::base::bytes::human;
use crate::channel::{Kind, REVOKED};
use crate::pipeline::{
    CloudWish, Clouds, Door, PipelineError, ReadyToPublish, Settings, Wanted, load,
};
use crate::publish::cloud::{self, AwsTarget};
use crate::publish::{PublishError, Published};
use crate::remote::Remote;
use crate::spec::Image;

/// Where releases are, unless the command line says it.
const REMOTE: &str = "SLIPFORM_REMOTE";

/// Publishes what was tested.
pub(crate) fn run(cli: &Cli, verb: &Publish) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.dir)?;
    let places = Places::of(verb)?;
    let remote = settings.remote(&places.remote)?;
    let key = must_sign(&verb.signing)?;
    let trust = settings.trust(
        &verb.believing.trusted_key,
        Some(&image),
        Some(key.public()),
    )?;
    let door = match &verb.reason {
        Some(reason) if verb.force => Door::Forced(reason),
        _ => Door::Gate,
    };
    let ready = settings.attested(&image, &trust, door, &*key)?;
    if verb.dry_run {
        return dry_run(
            cli,
            &settings,
            verb,
            &places,
            (&*remote, &ready, &image, &trust),
        );
    }
    let (by, why) = said(&verb.saying)?;
    let kind = if verb.force {
        Kind::Forced
    } else {
        Kind::Publish
    };
    let wanted = Wanted {
        parameter: verb.clouding.ssm.as_deref(),
        ..wanted(&verb.channel, kind, &by, why)
    };
    let wish = places.wish(&image, verb);
    let published =
        settings.publish_with(&*remote, &ready, &wanted, wish.as_ref(), &trust, &*key)?;
    told(cli, &published, "published")
}

/// What `--to` names: the remote, and clouds.
struct Places {
    remote: String,
    clouds: Clouds,
}

impl Places {
    fn of(verb: &Publish) -> anyhow::Result<Self> {
        let (aws, others) = named(verb.to.iter(), "aws://");
        let (azure, others) = named(others, "azure://");
        let (gcp, stores) = named(others, "gcp://");
        let remote = match stores.as_slice() {
            [] => std::env::var(REMOTE).ok().filter(|uri| !uri.is_empty()),
            [one] => Some((*one).clone()),
            _ => {
                return Err(BadInput(
                    "--to names several remotes; name one, and any clouds beside it".to_owned(),
                )
                .into());
            }
        };
        let remote = remote.ok_or_else(|| {
            BadInput(format!(
                "nothing says where releases are recorded; name it with --to oci://…, s3://… or file:///…, or {REMOTE}"
            ))
        })?;
        let aws = once::<AwsTarget>(&aws, "AWS", "write its regions as aws://region,region")?;
        let clouds = Clouds {
            aws: aws
                .map(|target| target.shared(&verb.clouding.share))
                .transpose()
                .map_err(PipelineError::from)?,
            azure: once(&azure, "Azure", "name one container")?,
            gcp: once(&gcp, "Google", "name one project and bucket")?,
        };
        verb.clouding.must_fit(&clouds)?;
        parameter(verb.clouding.ssm.as_ref())?;
        Ok(Self { remote, clouds })
    }

    fn wish<'a>(&'a self, image: &'a Image, verb: &'a Publish) -> Option<CloudWish<'a>> {
        if self.clouds.is_empty() {
            return None;
        }
        Some(CloudWish {
            image,
            clouds: &self.clouds,
            boards: &verb.clouding.board,
            deprecate: verb.clouding.deprecate,
        })
    }
}

/// Those that begin with the scheme, and the others.
fn named<'a>(
    all: impl IntoIterator<Item = &'a String>,
    scheme: &str,
) -> (Vec<&'a String>, Vec<&'a String>) {
    all.into_iter().partition(|to| to.starts_with(scheme))
}

/// The one target that a cloud may have.
fn once<T>(named: &[&String], cloud: &str, remedy: &str) -> anyhow::Result<Option<T>>
where
    T: FromStr<Err = PublishError>,
{
    match named {
        [] => Ok(None),
        [one] => Ok(Some(one.parse().map_err(PipelineError::from)?)),
        _ => Err(BadInput(format!("--to names {cloud} twice; {remedy}")).into()),
    }
}

/// What publishing would do, and does not.
fn dry_run(
    cli: &Cli,
    settings: &Settings,
    verb: &Publish,
    places: &Places,
    (remote, ready, image, trust): (&dyn Remote, &ReadyToPublish, &Image, &Trust),
) -> anyhow::Result<Done> {
    let todo = settings.would_move(remote, ready)?;
    let clouds = match places.wish(image, verb) {
        Some(wish) => {
            let channel = (verb.channel.as_str(), verb.clouding.ssm.as_deref());
            settings.would_make(remote, ready, &wish, channel, trust)?
        }
        None => Vec::new(),
    };
    if cli.json {
        if clouds.is_empty() {
            return print_json(&todo);
        }
        return print_json(&json!({
            "bytes": todo.bytes, "missing": todo.missing, "clouds": clouds,
        }));
    }
    let mut text = format!(
        "would move {} of {} to {}",
        human(todo.missing),
        human(todo.bytes),
        remote.uri()
    );
    for cloud in &clouds {
        text.push_str(&format!(
            "\nwould send {} in blocks, and ask in this order:",
            human(cloud.bytes)
        ));
        for call in &cloud.calls {
            text.push_str(&format!("\n  {call}"));
        }
    }
    print(&text)
}

/// A release of one channel, in another.
pub(crate) fn promote(cli: &Cli, verb: &Promote) -> anyhow::Result<Done> {
    let acting = Acting::new(cli, &verb.remoting.remote, &verb.signing, &verb.believing)?;
    let (by, why) = said(&verb.saying)?;
    let wanted = Wanted {
        parameter: parameter(verb.ssm.as_ref())?,
        ..wanted(&verb.channel, Kind::Promote, &by, why)
    };
    let Acting {
        settings,
        remote,
        key,
        trust,
    } = &acting;
    let image = verb.image.parse()?;
    let published = settings.promote(&**remote, &image, &wanted, trust, &**key)?;
    told(cli, &published, "promoted")
}

/// An earlier release of the same channel.
pub(crate) fn rollback(cli: &Cli, verb: &Rollback) -> anyhow::Result<Done> {
    let acting = Acting::new(cli, &verb.remoting.remote, &verb.signing, &verb.believing)?;
    let (by, why) = said(&verb.saying)?;
    let wanted = Wanted {
        parameter: parameter(verb.ssm.as_ref())?,
        ..wanted(&verb.channel, Kind::Rollback, &by, why)
    };
    let Acting {
        settings,
        remote,
        key,
        trust,
    } = &acting;
    let to = verb.to.as_deref();
    let published = settings.rollback(&**remote, to, &wanted, trust, &**key)?;
    told(cli, &published, "rolled back")
}

/// A release that must not be used any more.
pub(crate) fn revoke(cli: &Cli, verb: &Revoke) -> anyhow::Result<Done> {
    let acting = Acting::new(cli, &verb.remoting.remote, &verb.signing, &verb.believing)?;
    let by = verb.by.clone().unwrap_or_else(who);
    let wanted = wanted(
        REVOKED,
        Kind::Revoke,
        &by,
        one_line("--reason", &verb.reason)?,
    );
    let Acting {
        settings,
        remote,
        key,
        trust,
    } = &acting;
    let image = verb.image.parse()?;
    let published = settings.revoke(&**remote, &image, &wanted, trust, &**key)?;
    told(cli, &published, "revoked")
}

/// A parameter's name that AWS takes.
fn parameter(name: Option<&String>) -> anyhow::Result<Option<&str>> {
    if let Some(name) = name {
        cloud::parameter_of(name, "x86_64").map_err(PipelineError::from)?;
    }
    Ok(name.map(String::as_str))
}

/// What a verb needs that changes a channel without a project at hand.
struct Acting {
    settings: Settings,
    remote: Box<dyn Remote>,
    key: Box<dyn Signer>,
    trust: Trust,
}

impl Acting {
    fn new(
        cli: &Cli,
        remote: &str,
        signing: &Signing,
        believing: &Believing,
    ) -> anyhow::Result<Self> {
        let settings = settings(cli)?;
        let key = must_sign(signing)?;
        Ok(Self {
            remote: settings.remote(remote)?,
            trust: settings.trust(&believing.trusted_key, None, Some(key.public()))?,
            settings,
            key,
        })
    }
}

fn wanted<'a>(channel: &'a str, kind: Kind, who: &'a str, why: &'a str) -> Wanted<'a> {
    Wanted {
        channel,
        kind,
        who,
        why,
        parameter: None,
    }
}

fn said(saying: &Saying) -> anyhow::Result<(String, &str)> {
    let by = saying.by.clone().unwrap_or_else(who);
    one_line("--by", &by)?;
    Ok((by, one_line("--why", &saying.why)?))
}

/// A text that `log` shows in one line, on terminals that it must not move about in.
fn one_line<'a>(option: &str, text: &'a str) -> Result<&'a str, BadInput> {
    if text.contains(char::is_control) {
        return Err(BadInput(format!(
            "{option} has a line break or another control character; write one line"
        )));
    }
    Ok(text)
}

/// Login and host, as far as they are known.
fn who() -> String {
    let user = ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    format!("{}@{host}", user.as_deref().unwrap_or("somebody"))
}

fn told(cli: &Cli, published: &Published, word: &str) -> anyhow::Result<Done> {
    if cli.json {
        return print_json(published);
    }
    let moved = if published.bytes > 0 {
        format!(
            ", moved {} of {}",
            human(published.moved),
            human(published.bytes)
        )
    } else {
        String::new()
    };
    let note = if published.unchanged {
        " (it said so already; nothing was added)"
    } else if published.taken_up {
        " (an interrupted run had written the record; it stands now)"
    } else {
        ""
    };
    let alone = if published.atomic {
        ""
    } else {
        "\n(this store cannot compare and swap: of two who publish at the very same moment both may be told so; `slipform log` shows who is in)"
    };
    let mut clouds = String::new();
    for made in &published.clouds {
        clouds.push_str(&format!(
            "\n{} in {} for {}",
            made.id, made.region, made.board
        ));
    }
    if published.cloud_moved > 0 {
        clouds.push_str(&format!(
            "\n{} in blocks sent, {} of the {} that the disks have",
            human(published.cloud_moved),
            published.cloud_changed,
            published.cloud_blocks
        ));
    }
    print(&format!(
        "{word} {} as {} number {} in {}{moved}{note}{alone}{clouds}",
        published.release, published.channel, published.sequence, published.remote
    ))
}
