//! Raw to checked: one layer.

use std::path::{Component, Path, PathBuf};

use crate::base::toml as toml_text;

use super::check::Source;
use super::image::{
    BaseUse, CargoRule, ContainerPlace, ContainerRule, DirRule, FileRule, GroupRule, LayerSpec,
    SymlinkRule, TarRule, UserRule,
};
use super::raw::{RawDir, RawFile, RawLayer, RawUser};
use super::{SpecError, load, values};

/// Checks a `[[layer]]`; follows `use` (one step: a used layer uses no other).
pub(super) fn check(
    raw: RawLayer,
    start: usize,
    source: &Source<'_>,
    dir: &Path,
) -> Result<LayerSpec, SpecError> {
    let Some(wanted) = raw.uses.clone() else {
        let name = raw.name.clone().ok_or_else(|| {
            source.at(
                start,
                "this layer has neither 'name' nor 'use'; add one".to_owned(),
            )
        })?;
        return own(raw, name, dir).map_err(|m| source.at(start, m));
    };
    let is_remote = wanted.contains("://");
    let bare = RawLayer {
        uses: raw.uses.clone(),
        name: raw.name.clone(),
        keys: if is_remote {
            raw.keys.clone()
        } else {
            Vec::new()
        },
        ..RawLayer::default()
    };
    if format!("{bare:?}") != format!("{raw:?}") {
        let takes = if is_remote {
            "'name' and 'keys'"
        } else {
            "'name'"
        };
        return Err(source.at(start, format!("a layer with use = \"{wanted}\" takes only {takes} beside it; put the rest into a layer of its own above it")));
    }
    if is_remote {
        return published(&wanted, raw, dir).map_err(|m| source.at(start, m));
    }
    let used = load::used(&wanted, dir).map_err(|m| source.at(start, m))?;
    let inner: RawLayer = toml_text::parse(&used.text, &used.file).map_err(SpecError::Parse)?;
    let inside = Source {
        file: &used.file,
        text: &used.text,
    };
    if inner.uses.is_some() {
        return Err(inside.at(
            0,
            "a layer.toml cannot 'use' another layer; name both in the image".to_owned(),
        ));
    }
    let name = raw.name.or_else(|| inner.name.clone()).unwrap_or(used.name);
    let inner = RawLayer {
        version: None,
        boards: Vec::new(),
        ..inner
    };
    own(inner, name, &used.folder).map_err(|m| inside.at(0, m))
}

/// A `layer.toml` for itself: the layer, and the version that it is published as.
pub(super) fn alone(
    mut raw: RawLayer,
    source: &Source<'_>,
    dir: &Path,
) -> Result<(LayerSpec, String), SpecError> {
    if raw.uses.is_some() {
        return Err(source.at(
            0,
            "a layer.toml cannot 'use' another layer; a base is one layer".to_owned(),
        ));
    }
    if raw.debug {
        return Err(source.near(
            "debug",
            "a debug layer cannot be published as a base: images on it would not show that they have one; name its folder in 'use'".to_owned(),
        ));
    }
    if raw.tar.is_some() {
        return Err(source.near(
            "tar",
            "a layer with `tar` cannot be published as a base; name its folder in 'use', or bring its files as a package (`debs`)".to_owned(),
        ));
    }
    if raw.oci.is_some() {
        return Err(source.near(
            "oci",
            "a layer with `oci` cannot be published as a base; name its folder in 'use'".to_owned(),
        ));
    }
    let version = raw.version.take().unwrap_or_else(|| "0".to_owned());
    values::version(&version).map_err(|m| source.near("version", m))?;
    let folder = dir.file_name().and_then(|name| name.to_str());
    let name = raw.name.clone();
    let name = name.unwrap_or_else(|| folder.unwrap_or("base").to_owned());
    let layer = own(raw, name, dir).map_err(|m| source.at(0, m))?;
    Ok((layer, version))
}

/// `use = "oci://…"`: what it is called where.
fn published(wanted: &str, raw: RawLayer, dir: &Path) -> Result<LayerSpec, String> {
    let (remote, release) = split(wanted)?;
    let last = remote.rsplit('/').next().unwrap_or_default();
    let name = raw.name.unwrap_or_else(|| last.to_owned());
    values::name(&name).map_err(|m| format!("layer name: {m}; give it a 'name' beside 'use'"))?;
    Ok(LayerSpec {
        name,
        dir: dir.to_owned(),
        base: Some(BaseUse {
            written: wanted.to_owned(),
            keys: raw.keys.iter().map(|key| dir.join(key)).collect(),
            remote,
            release,
        }),
        ..LayerSpec::default()
    })
}

/// Remote and release of `oci://host/repository:channel` or `…@sha256:…`.
fn split(wanted: &str) -> Result<(String, String), String> {
    let known = ["oci://", "s3://", "file:///"];
    if !known.iter().any(|scheme| wanted.starts_with(scheme)) {
        return Err(format!(
            "use = \"{wanted}\": a published base lies at oci://host/repository, s3://bucket/prefix or file:///folder, and a channel or a digest follows"
        ));
    }
    let missing = || {
        format!(
            "use = \"{wanted}\" does not say which release: put a channel (`:stable`) or a digest (`@sha256:…`) behind it"
        )
    };
    let parted = wanted.split_once("@sha256:").map_or_else(
        || {
            let path = wanted.rfind('/').unwrap_or_default();
            let colon = path + wanted[path..].find(':')?;
            Some((&wanted[..colon], wanted[colon + 1..].to_owned()))
        },
        |(remote, hex)| Some((remote, format!("sha256:{hex}"))),
    );
    let (remote, release) = parted.ok_or_else(missing)?;
    if release.is_empty() || remote.ends_with('/') {
        return Err(missing());
    }
    Ok((remote.to_owned(), release))
}

fn own(raw: RawLayer, name: String, dir: &Path) -> Result<LayerSpec, String> {
    values::name(&name).map_err(|m| format!("layer name: {m}"))?;
    if raw.version.is_some() {
        return Err("'version' is for a layer.toml that is published as a base; an image has one version, at its top".to_owned());
    }
    if !raw.boards.is_empty() {
        return Err("'boards' is for a layer.toml that is published as a base; an image has boards at its top".to_owned());
    }
    if !raw.keys.is_empty() {
        return Err("'keys' is for a layer with use = \"oci://…\", which they check; the image's own are in [gate]".to_owned());
    }
    if raw.tar.is_some() && raw.oci.is_some() {
        return Err("a layer has `tar` or `oci`, not both; make two layers of it".to_owned());
    }
    if let Some(program) = raw.console.first() {
        if !raw.debug {
            return Err("'console' is for a layer that says `debug = true`; say so, or make the program a [[service]]".to_owned());
        }
        values::guest_path(program).map_err(|m| format!("console: {m}"))?;
    }
    for pattern in raw.exclude.iter().chain(&raw.remove) {
        if !pattern.starts_with('/') {
            return Err(format!(
                "'{pattern}' must be an absolute path or glob in the image, such as /usr/share/doc/**"
            ));
        }
        globset::Glob::new(pattern).map_err(|error| format!("'{pattern}' is no glob: {error}"))?;
    }
    Ok(LayerSpec {
        dir: dir.to_owned(),
        packages: raw.packages,
        debs: raw
            .debs
            .iter()
            .map(|deb| inside(dir, deb))
            .collect::<Result<_, _>>()?,
        tar: raw.tar.map(|path| tar(path, dir)).transpose()?,
        oci: raw.oci.map(|image| container(image, dir)).transpose()?,
        without: raw.without,
        docs: raw.docs,
        files: raw.files.into_iter().map(file).collect::<Result<_, _>>()?,
        dirs: raw
            .dirs
            .into_iter()
            .map(|dir| folder(&dir))
            .collect::<Result<_, _>>()?,
        symlinks: raw
            .symlinks
            .into_iter()
            .map(|link| {
                if link.target.is_empty() || link.target.len() > 4095 || link.target.contains('\0')
                {
                    return Err(format!(
                        "symlink {}: the target must have 1 to 4095 characters",
                        link.path
                    ));
                }
                Ok(SymlinkRule {
                    path: values::guest_path(&link.path)?,
                    target: link.target,
                })
            })
            .collect::<Result<_, _>>()?,
        users: raw.users.into_iter().map(user).collect::<Result<_, _>>()?,
        groups: raw
            .groups
            .into_iter()
            .map(|group| {
                values::name(&group.name).map(|()| GroupRule {
                    name: group.name,
                    gid: group.gid,
                })
            })
            .collect::<Result<_, _>>()?,
        exclude: raw.exclude,
        remove: raw.remove,
        cargo: raw
            .cargo
            .map(|rule| cargo(rule.path, rule.bin, dir))
            .transpose()?,
        base: None,
        debug: raw.debug,
        console: raw.console,
        name,
    })
}

fn file(raw: RawFile) -> Result<FileRule, String> {
    if raw.from.is_empty() {
        return Err("files: 'from' is empty; name a file, a folder or a glob".to_owned());
    }
    let trailing = if raw.to.len() > 1 && raw.to.ends_with('/') {
        "/"
    } else {
        ""
    };
    Ok(FileRule {
        to: values::guest_path(&raw.to)? + trailing,
        mode: raw.mode.as_deref().map(values::mode).transpose()?,
        owner: raw.owner.as_deref().map(values::owner).transpose()?,
        from: raw.from,
    })
}

fn folder(raw: &RawDir) -> Result<DirRule, String> {
    Ok(DirRule {
        path: values::guest_path(&raw.path)?,
        mode: raw.mode.as_deref().map(values::mode).transpose()?,
        owner: raw.owner.as_deref().map(values::owner).transpose()?,
    })
}

fn user(raw: RawUser) -> Result<UserRule, String> {
    values::name(&raw.name).map_err(|m| format!("user: {m}"))?;
    let plain = |text: &str| text.starts_with('/') && !text.contains([':', '\n', '\0']);
    let home = raw.home.unwrap_or_else(|| "/nonexistent".to_owned());
    let shell = raw.shell.unwrap_or_else(|| "/usr/sbin/nologin".to_owned());
    if let Some(bad) = [&home, &shell].into_iter().find(|text| !plain(text)) {
        return Err(format!(
            "user {}: '{bad}' must be an absolute path without ':'",
            raw.name
        ));
    }
    for group in raw.groups.iter().chain(&raw.group) {
        values::name(group).map_err(|m| format!("user {}: group: {m}", raw.name))?;
    }
    Ok(UserRule {
        name: raw.name,
        uid: raw.uid,
        group: raw.group,
        home,
        shell,
        groups: raw.groups,
    })
}

fn cargo(path: Option<String>, bin: String, dir: &Path) -> Result<CargoRule, String> {
    if bin.is_empty()
        || !bin
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        return Err(format!("cargo.bin: '{bin}' is no binary's name"));
    }
    let path = path.unwrap_or_else(|| ".".to_owned());
    let folder = inside(dir, &path)?;
    if !folder.join("Cargo.toml").is_file() {
        return Err(format!(
            "cargo.path: there is no Cargo.toml in '{path}'; name the package's folder"
        ));
    }
    Ok(CargoRule { path, bin })
}

fn tar(written: String, dir: &Path) -> Result<TarRule, String> {
    let path = inside(dir, &written).map_err(|m| format!("tar: {m}"))?;
    if !path.is_file() {
        return Err(format!(
            "tar: '{written}' is no file; name an archive, or bring a folder by `files`"
        ));
    }
    Ok(TarRule { written, path })
}

/// The rule of `oci://host/repository:tag`, `…@sha256:…`, or of a file or folder below
/// `dir`, with `:NAME` behind it where it holds several images.
///
/// # Errors
/// A text that says what is wrong with it, and the remedy.
pub fn container(written: String, dir: &Path) -> Result<ContainerRule, String> {
    let place = if written.starts_with("oci://") {
        registry(&written)?
    } else if written.contains("://") {
        return Err(format!(
            "oci = \"{written}\": a container image lies at oci://host/repository, or in a folder or an archive beside this file"
        ));
    } else {
        // A name may have a colon of its own, as those of `docker save` do.
        let named = written.match_indices(':').find_map(|(colon, _)| {
            let path = inside(dir, &written[..colon]).ok()?;
            Some((path, written[colon + 1..].to_owned()))
        });
        match (inside(dir, &written), named) {
            (Ok(path), _) => ContainerPlace::Local { path, tag: None },
            (Err(_), Some((path, tag))) => ContainerPlace::Local {
                path,
                tag: Some(tag),
            },
            (Err(message), None) => return Err(format!("oci: {message}")),
        }
    };
    Ok(ContainerRule { written, place })
}

/// Remote and tag or digest; of both the digest counts.
fn registry(written: &str) -> Result<ContainerPlace, String> {
    let missing = || {
        format!(
            "oci = \"{written}\" does not say which image: put a tag (`:1.4`) or a digest (`@sha256:…`) behind it"
        )
    };
    let tagged = |text: &str| {
        let name = text.rfind('/').unwrap_or_default();
        text[name..].find(':').map(|colon| name + colon)
    };
    let (remote, reference) = match written.split_once('@') {
        Some((image, digest)) => {
            digest
                .parse::<crate::base::Digest>()
                .map_err(|error| format!("oci = \"{written}\": {error}"))?;
            (&image[..tagged(image).unwrap_or(image.len())], digest)
        }
        None => {
            let colon = tagged(written).ok_or_else(missing)?;
            (&written[..colon], &written[colon + 1..])
        }
    };
    if reference.is_empty() || remote.ends_with('/') {
        return Err(missing());
    }
    Ok(ContainerPlace::Registry {
        remote: remote.to_owned(),
        reference: reference.to_owned(),
    })
}

/// `path` below `dir`; refuses what leaves it by `..`, absolutely, or through a symbolic link.
pub(super) fn inside(dir: &Path, path: &str) -> Result<PathBuf, String> {
    let relative = Path::new(path);
    let climbs = relative
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || climbs {
        return Err(format!(
            "'{path}' leaves the folder of the specification; name a path below it, without '..'"
        ));
    }
    let full = dir.join(relative);
    match full.canonicalize() {
        Ok(real) if real.starts_with(dir) => Ok(full),
        Ok(_) => Err(format!(
            "'{path}' leads out of the folder of the specification through a symbolic link; copy the file there"
        )),
        Err(error) => Err(format!("'{path}' cannot be found: {error}; check the name")),
    }
}
