//! `slipform publish`, `promote`, `rollback` and `revoke`.

use super::args::{Cli, Signing};
use super::key::must_sign;
use super::release_args::{Believing, Promote, Publish, Revoke, Rollback, Saying};
use super::{BadInput, Done, print, print_json, settings};
use crate::attest::{Signer, Trust};
use crate::base::bytes::human;
use crate::channel::{Kind, REVOKED};
use crate::pipeline::{Door, Settings, Wanted, load};
use crate::publish::Published;
use crate::remote::Remote;

/// Publishes what was tested.
pub(crate) fn run(cli: &Cli, verb: &Publish) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.dir)?;
    let remote = settings.remote(&verb.remoting.remote)?;
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
        let todo = settings.would_move(&*remote, &ready)?;
        if cli.json {
            return print_json(&todo);
        }
        return print(&format!(
            "would move {} of {} to {}",
            human(todo.missing),
            human(todo.bytes),
            remote.uri()
        ));
    }
    let (by, why) = said(&verb.saying)?;
    let kind = if verb.force {
        Kind::Forced
    } else {
        Kind::Publish
    };
    let wanted = wanted(&verb.channel, kind, &by, why);
    let published = settings.publish(&*remote, &ready, &wanted, &trust, &*key)?;
    told(cli, &published, "published")
}

/// A release of one channel, in another.
pub(crate) fn promote(cli: &Cli, verb: &Promote) -> anyhow::Result<Done> {
    let acting = Acting::new(cli, &verb.remoting.remote, &verb.signing, &verb.believing)?;
    let (by, why) = said(&verb.saying)?;
    let wanted = wanted(&verb.channel, Kind::Promote, &by, why);
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
    let wanted = wanted(&verb.channel, Kind::Rollback, &by, why);
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
    print(&format!(
        "{word} {} as {} number {} in {}{moved}{note}{alone}",
        published.release, published.channel, published.sequence, published.remote
    ))
}
