//! `slipform publish`, `promote`, `rollback` and `revoke`.

use super::args::Cli;
use super::key::must_sign;
use super::release_args::{Promote, Publish, Revoke, Rollback, Saying};
use super::{Done, print, print_json, settings};
use crate::base::bytes::human;
use crate::channel::Kind;
use crate::pipeline::{Door, Wanted, load};
use crate::publish::Published;

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
    let (by, why) = said(&verb.saying);
    let wanted = Wanted {
        channel: &verb.channel,
        kind: if verb.force {
            Kind::Forced
        } else {
            Kind::Publish
        },
        who: &by,
        why,
    };
    let published = settings.publish(&*remote, &ready, &wanted, &trust, &*key)?;
    told(cli, &published, "published")
}

/// A release of one channel, in another.
pub(crate) fn promote(cli: &Cli, verb: &Promote) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let remote = settings.remote(&verb.remoting.remote)?;
    let key = must_sign(&verb.signing)?;
    let trust = settings.trust(&verb.believing.trusted_key, None, Some(key.public()))?;
    let (by, why) = said(&verb.saying);
    let wanted = Wanted {
        channel: &verb.channel,
        kind: Kind::Promote,
        who: &by,
        why,
    };
    let published = settings.promote(&*remote, &verb.image.parse()?, &wanted, &trust, &*key)?;
    told(cli, &published, "promoted")
}

/// An earlier release of the same channel.
pub(crate) fn rollback(cli: &Cli, verb: &Rollback) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let remote = settings.remote(&verb.remoting.remote)?;
    let key = must_sign(&verb.signing)?;
    let trust = settings.trust(&verb.believing.trusted_key, None, Some(key.public()))?;
    let (by, why) = said(&verb.saying);
    let wanted = Wanted {
        channel: &verb.channel,
        kind: Kind::Rollback,
        who: &by,
        why,
    };
    let published = settings.rollback(&*remote, verb.to.as_deref(), &wanted, &trust, &*key)?;
    told(cli, &published, "rolled back")
}

/// A release that must not be used any more.
pub(crate) fn revoke(cli: &Cli, verb: &Revoke) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let remote = settings.remote(&verb.remoting.remote)?;
    let key = must_sign(&verb.signing)?;
    let trust = settings.trust(&verb.believing.trusted_key, None, Some(key.public()))?;
    let by = verb.by.clone().unwrap_or_else(who);
    let wanted = Wanted {
        channel: crate::channel::REVOKED,
        kind: Kind::Revoke,
        who: &by,
        why: &verb.reason,
    };
    let published = settings.revoke(&*remote, &verb.image.parse()?, &wanted, &trust, &*key)?;
    told(cli, &published, "revoked")
}

fn said(saying: &Saying) -> (String, &str) {
    (saying.by.clone().unwrap_or_else(who), &saying.why)
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
    let taken_up = if published.taken_up {
        " (an interrupted run had written the record; it stands now)"
    } else {
        ""
    };
    print(&format!(
        "{word} {} as {} number {} in {}{moved}{taken_up}",
        published.release, published.channel, published.sequence, published.remote
    ))
}
