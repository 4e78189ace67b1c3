//! `slipform lock` and `slipform fetch`.

use super::args::{Cli, Fetch, Lock};
use super::{Done, print, print_json, settings};
use crate::base::bytes::human;
use crate::pipeline::{Locking, changes, load};

/// Writes, moves or checks the lock.
pub(crate) fn run(cli: &Cli, verb: &Lock) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.dir)?;
    if verb.check {
        return check(cli, &settings, &image);
    }
    let locking = match &verb.update {
        None => Locking::IfNeeded,
        Some(packages) if packages.is_empty() => Locking::UpdateAll,
        Some(packages) => Locking::Update(packages.clone()),
    };
    let before = settings.read_lock(&image).ok().flatten();
    let lock = settings.lock(&image, &locking)?;
    let changes = changes(before.as_ref(), &lock);
    if cli.json {
        let packages: usize = lock.packages().count();
        return print_json(
            &serde_json::json!({ "lock": settings.lock_path(&image), "packages": packages, "changes": changes }),
        );
    }
    let mut text = String::new();
    for change in &changes {
        text.push_str(&format!("{change}\n"));
    }
    text.push_str(&format!(
        "{}: {} packages, {} changed\n",
        settings.lock_path(&image).display(),
        lock.packages().count(),
        changes.len()
    ));
    print(&text)
}

fn check(
    cli: &Cli,
    settings: &crate::pipeline::Settings,
    image: &crate::spec::Image,
) -> anyhow::Result<Done> {
    let newer = settings.check_lock(image)?;
    if cli.json {
        print_json(&serde_json::json!({ "newer": newer }))?;
    } else if newer.is_empty() {
        print("everything is at its newest")?;
    } else {
        let mut text = String::new();
        for item in &newer {
            text.push_str(&format!("{item}\n"));
        }
        print(&format!("{text}move with: slipform lock --update [PKG…]"))?;
    }
    Ok(if newer.is_empty() {
        Done::Good
    } else {
        Done::Found
    })
}

/// Everything that the lock names, into the store.
pub(crate) fn fetch(cli: &Cli, verb: &Fetch) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.dir)?;
    let remote = verb.to.as_deref().map(|to| settings.remote(to));
    let remote = remote.transpose()?;
    let lock = settings.lock(&image, &Locking::IfNeeded)?;
    let fetched = settings.healed(|| settings.fetch_all(&image, &lock))?;
    let copied = remote
        .map(|remote| settings.healed(|| settings.copy_inputs(&image, &lock, &*remote)))
        .transpose()?;
    if cli.json {
        let mut json = serde_json::to_value(fetched)?;
        if let Some(copied) = &copied {
            json["to"] = serde_json::to_value(copied)?;
        }
        return print_json(&json);
    }
    let mut text = format!(
        "{} packages in the store, {} fetched",
        fetched.packages, fetched.fetched
    );
    if let Some(copied) = copied {
        text.push_str(&format!(
            "\n{} inputs at {}, {} sent ({})",
            copied.inputs,
            copied.remote,
            copied.moved,
            human(copied.bytes)
        ));
    }
    print(&text)
}
