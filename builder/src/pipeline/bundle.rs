//! What a release was built from: gathered into the store when it is published,
//! laid out again by `checkout` and `verify --rebuild`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use globset::GlobMatcher;

use super::locking::LOCK_FILE;
use super::{PipelineError, Settings};
use crate::base::Digest;
use crate::base::fs::At;
use crate::board::{BOARDS_DIR, SHIPPED, VENDOR_DIR};
use crate::layers;
use crate::lock::Locks;
use crate::publish::{Kept, KeptKind, Sources};
use crate::spec::{ContainerPlace, Image, LAYER_FILE, SHIPPED_LAYERS, SPEC_FILE};
use crate::store::Store;

/// Folders of a cargo package that are not its source.
const NOT_SOURCE: &[&str] = &["target", ".git"];

impl Settings {
    /// Gathers everything of the user's that `image` is built from, and what ships
    /// with this slipform and goes into it: another version may ship other layers.
    ///
    /// # Errors
    /// [`PipelineError::Fs`], [`PipelineError::Store`], [`PipelineError::Publish`].
    pub fn gather(&self, image: &Image, locks: &Locks) -> Result<Sources, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let mut inits = Vec::new();
        for lock in locks.parts() {
            let init = self.init(lock)?;
            inits.push((self.store.put(&init)?, init.len() as u64));
        }
        let root = common_root(image);
        let mut gather = Gather {
            store: &self.store,
            root: &root,
            kept: BTreeMap::new(),
        };
        gather.image(image)?;
        let files = gather
            .kept
            .into_iter()
            .map(|(path, kind)| Kept { path, kind })
            .collect();
        let project = relative(&image.dir, &root);
        Ok(Sources::new(&inits, project, files)?)
    }

    /// Lays out what was gathered below `folder`, which must be empty or not there yet;
    /// returns the folder of the specification.
    ///
    /// # Errors
    /// [`PipelineError::NotEmpty`], [`PipelineError::Fs`], [`PipelineError::Store`].
    pub fn lay_out(&self, sources: &Sources, folder: &Path) -> Result<PathBuf, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(PipelineError::NotEmpty(folder.to_owned()));
        }
        fs::create_dir_all(folder).at("create", folder)?;
        // Links last: nothing is ever written through one.
        let is_link = |kept: &&Kept| matches!(kept.kind, KeptKind::Link { .. });
        let (links, others): (Vec<_>, Vec<_>) = sources.files.iter().partition(is_link);
        for kept in others.into_iter().chain(links) {
            lay_out(&self.store, kept, folder)?;
        }
        Ok(folder.join(&sources.project))
    }
}

/// A file's bytes in the store, put there if they are not: digest and size.
pub(super) fn stored(store: &Store, path: &Path) -> Result<(Digest, u64), PipelineError> {
    let mut file = fs::File::open(path).at("open", path)?;
    let (digest, size) = Digest::of_reader(&mut file).at("read", path)?;
    if store.size(&digest) != Some(size) {
        let mut file = fs::File::open(path).at("open", path)?;
        let mut writer = store.writer()?;
        std::io::copy(&mut file, &mut writer).at("read", path)?;
        writer.finish_as(&digest, &path.display().to_string())?;
    }
    Ok((digest, size))
}

fn lay_out(store: &Store, kept: &Kept, folder: &Path) -> Result<(), PipelineError> {
    let path = folder.join(&kept.path);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).at("create", parent)?;
    match &kept.kind {
        KeptKind::Folder => fs::create_dir_all(&path).at("create", &path)?,
        KeptKind::Link { target } => {
            std::os::unix::fs::symlink(target, &path).at("link", &path)?;
        }
        KeptKind::File {
            digest, executable, ..
        } => {
            let mut file = fs::File::create_new(&path).at("create", &path)?;
            store.copy_verified(digest, &mut file)?;
            file.flush().at("write", &path)?;
            let mode = if *executable { 0o755 } else { 0o644 };
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(&path, permissions).at("set the mode of", &path)?;
        }
    }
    Ok(())
}

/// The deepest folder above all that the image names.
fn common_root(image: &Image) -> PathBuf {
    let mut root = image.dir.clone();
    if image.base {
        // Its folder's name is its own, too.
        root.pop();
    }
    for layer in &image.layers {
        while !layer.dir.starts_with(&root) && root.pop() {}
    }
    root
}

fn relative(path: &Path, root: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.to_string_lossy().into_owned()
}

struct Gather<'a> {
    store: &'a Store,
    root: &'a Path,
    kept: BTreeMap<String, KeptKind>,
}

impl Gather<'_> {
    fn image(&mut self, image: &Image) -> Result<(), PipelineError> {
        let spec = if image.base { LAYER_FILE } else { SPEC_FILE };
        self.file(&image.dir.join(spec))?;
        self.file(&image.dir.join(LOCK_FILE))?;
        let bases = image.layers.iter().filter_map(|layer| layer.base.as_ref());
        let keys = bases.flat_map(|base| &base.keys).chain(&image.gate.keys);
        for key in image.apt.iter().map(|apt| &apt.key).chain(keys) {
            self.file(key)?;
        }
        let vendor = image.dir.join(VENDOR_DIR);
        for (name, text) in SHIPPED_LAYERS {
            let path = vendor.join("layers").join(name).join(LAYER_FILE);
            self.text(&path, text)?;
        }
        for name in &image.boards {
            let own = image.dir.join(BOARDS_DIR).join(format!("{name}.toml"));
            if own.is_file() {
                self.file(&own)?;
            } else if let Some((_, text)) = SHIPPED.iter().find(|(shipped, _)| shipped == name) {
                let path = vendor.join(BOARDS_DIR).join(format!("{name}.toml"));
                self.text(&path, text)?;
            }
        }
        for layer in &image.layers {
            let own = layer.dir.join(LAYER_FILE);
            if layer.dir != image.dir && own.is_file() {
                self.file(&own)?;
            }
            for archive in layer
                .debs
                .iter()
                .chain(layer.tar.iter().map(|tar| &tar.path))
            {
                self.file(archive)?;
            }
            if let Some(ContainerPlace::Local { path, .. }) =
                layer.oci.as_ref().map(|rule| &rule.place)
            {
                if path.is_dir() {
                    self.all(path, None, &[])?;
                } else {
                    self.file(path)?;
                }
            }
            for rule in &layer.files {
                self.rule(&layer.dir, &rule.from)?;
            }
            if let Some(cargo) = &layer.cargo {
                self.all(&layer.dir.join(&cargo.path), None, NOT_SOURCE)?;
            }
        }
        Ok(())
    }

    /// What `from` of a rule names: a file, a folder with all in it, or what a glob finds.
    fn rule(&mut self, dir: &Path, from: &str) -> Result<(), PipelineError> {
        let named = dir.join(from);
        if named.is_file() {
            return self.file(&named);
        }
        if named.is_dir() {
            return self.all(&named, None, &[]);
        }
        let fixed: PathBuf = Path::new(from)
            .components()
            .take_while(|part| {
                let text = part.as_os_str().to_string_lossy();
                !text.contains(['*', '?', '[', '{', '\\'])
            })
            .collect();
        // A glob that is none was refused when the image was cast.
        let Ok(glob) = layers::glob(from) else {
            return Ok(());
        };
        let glob = (glob.compile_matcher(), dir);
        self.all(&dir.join(fixed), Some(&glob), &[])
    }

    /// Everything below a folder; with a glob (over paths below its folder), what fits
    /// and what lies below what fits.
    fn all(
        &mut self,
        folder: &Path,
        glob: Option<&(GlobMatcher, &Path)>,
        except: &[&str],
    ) -> Result<(), PipelineError> {
        let mut folders = vec![(folder.to_owned(), glob.is_none())];
        while let Some((folder, taken)) = folders.pop() {
            let mut empty = true;
            for entry in fs::read_dir(&folder).at("list", &folder)? {
                let path = entry.at("list", &folder)?.path();
                empty = false;
                let name = path.file_name().unwrap_or_default();
                if except.iter().any(|other| name == *other) {
                    continue;
                }
                let fits = taken
                    || glob.is_some_and(|(glob, base)| {
                        glob.is_match(path.strip_prefix(base).unwrap_or(&path))
                    });
                let found = fs::symlink_metadata(&path).at("inspect", &path)?;
                if found.is_dir() {
                    folders.push((path, fits));
                } else if fits && found.is_symlink() {
                    let target = fs::read_link(&path).at("read the link", &path)?;
                    let target = target.to_string_lossy().into_owned();
                    self.keep(&path, KeptKind::Link { target });
                } else if fits && found.is_file() {
                    self.file(&path)?;
                }
            }
            if empty && taken {
                self.keep(&folder, KeptKind::Folder);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), PipelineError> {
        let meta = fs::metadata(path).at("inspect", path)?;
        let (digest, size) = stored(self.store, path)?;
        let executable = meta.permissions().mode() & 0o111 != 0;
        self.keep(
            path,
            KeptKind::File {
                digest,
                size,
                executable,
            },
        );
        Ok(())
    }

    fn text(&mut self, path: &Path, text: &str) -> Result<(), PipelineError> {
        let kind = KeptKind::File {
            digest: self.store.put(text.as_bytes())?,
            size: text.len() as u64,
            executable: false,
        };
        self.keep(path, kind);
        Ok(())
    }

    fn keep(&mut self, path: &Path, kind: KeptKind) {
        self.kept.insert(relative(path, self.root), kind);
    }
}
