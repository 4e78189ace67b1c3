//! `index.json`: the manifests that have a name (image-layout.md, "index.json file").

use std::fs::{self, File};
use std::io::{self, Read};

use rustix::fs::FlockOperation;

use super::guard::wait;
use super::oci::{DOCUMENT_LIMIT, Descriptor, Index, KEPT_WITH, Manifest, REF_NAME};
use super::{Store, StoreError};
use crate::base::Digest;
use crate::base::fs::At;
use crate::base::progress::Quiet;

impl Store {
    /// Puts a manifest as a blob, with the empty configuration if it has that one; name it by [`Store::tag`] to keep it.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Full`].
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<Descriptor, StoreError> {
        if manifest.config == Descriptor::empty() {
            self.put(b"{}")?;
        }
        let bytes = manifest.to_bytes()?;
        let digest = self.put(&bytes)?;
        let mut descriptor = Descriptor::new(&manifest.media_type, digest, bytes.len() as u64);
        descriptor.artifact_type.clone_from(&manifest.artifact_type);
        Ok(descriptor)
    }

    /// Reads a manifest, verified.
    ///
    /// # Errors
    /// As [`Store::read_at_most`]; [`StoreError::Malformed`].
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, StoreError> {
        Manifest::parse(&self.read_at_most(digest, "manifest", DOCUMENT_LIMIT)?)
    }

    /// The whole index.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Malformed`].
    pub fn index(&self) -> Result<Index, StoreError> {
        let path = self.root().join("index.json");
        let mut bytes = Vec::new();
        File::open(&path)
            .at("open", &path)?
            .take(DOCUMENT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .at("read", &path)?;
        Index::parse(&bytes).map_err(|error| StoreError::Malformed {
            what: path.display().to_string(),
            why: format!(
                "{error}; move the file away to start a new one (named images are then no longer kept)"
            ),
        })
    }

    /// Names a manifest; what had the name before has it no more.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Missing`] when the manifest's blob is
    /// not there, [`StoreError::Fs`], [`StoreError::Malformed`].
    pub fn tag(&self, name: &str, manifest: &Descriptor) -> Result<(), StoreError> {
        self.tag_if(name, manifest, |_| true).map(|_| ())
    }

    /// As [`Store::tag`], but the name is kept only as long as something else keeps
    /// `subject`: collecting drops it, and what it names, together with its subject.
    ///
    /// # Errors
    /// As [`Store::tag`].
    pub fn tag_beside(
        &self,
        name: &str,
        manifest: &Descriptor,
        subject: &Digest,
    ) -> Result<(), StoreError> {
        let entry = manifest.clone().with(KEPT_WITH, subject.to_string());
        self.tag(name, &entry)
    }

    /// As [`Store::tag`], if `fits` agrees with what has the name at that
    /// moment: nobody else can change the index in between. Says whether it did.
    ///
    /// # Errors
    /// As [`Store::tag`].
    pub fn tag_if(
        &self,
        name: &str,
        manifest: &Descriptor,
        fits: impl FnOnce(Option<&Descriptor>) -> bool,
    ) -> Result<bool, StoreError> {
        check_name(name)?;
        if !self.has(&manifest.digest) {
            return Err(StoreError::Missing(manifest.digest));
        }
        let entry = manifest.clone().with(REF_NAME, name);
        let mut fitted = false;
        self.change_index(|manifests| {
            fitted = fits(manifests.iter().find(|old| has_name(old, name)));
            if fitted {
                manifests.retain(|old| !has_name(old, name));
                manifests.push(entry);
            }
        })?;
        Ok(fitted)
    }

    /// Lists a manifest without a name, as referrers are: who reads the layout finds it then.
    ///
    /// # Errors
    /// As [`Store::tag`].
    pub fn list(&self, manifest: &Descriptor) -> Result<(), StoreError> {
        if !self.has(&manifest.digest) {
            return Err(StoreError::Missing(manifest.digest));
        }
        self.change_index(|manifests| {
            if !manifests.iter().any(|old| old.digest == manifest.digest) {
                manifests.push(manifest.clone());
            }
        })
    }

    /// Takes a name away; the blobs stay until they are collected.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Malformed`].
    pub fn untag(&self, name: &str) -> Result<(), StoreError> {
        self.change_index(|manifests| manifests.retain(|old| !has_name(old, name)))
    }

    /// The manifest with that name.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Malformed`].
    pub fn tagged(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        let index = self.index()?;
        Ok(index.manifests.into_iter().find(|d| has_name(d, name)))
    }

    /// Drops the entries that `stays` does not want; says how many.
    pub(super) fn prune_index(
        &self,
        stays: impl Fn(&Descriptor) -> bool,
    ) -> Result<usize, StoreError> {
        let mut dropped = 0;
        self.change_index(|manifests| {
            let before = manifests.len();
            manifests.retain(&stays);
            dropped = before - manifests.len();
        })?;
        Ok(dropped)
    }

    pub(super) fn ensure_index(&self) -> Result<(), StoreError> {
        if self.root().join("index.json").exists() {
            return Ok(());
        }
        self.change_index(|_| ())
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), StoreError> {
        let path = self.root().join("index.json");
        let _lock = wait(
            &self.root().join("index.lock"),
            [
                FlockOperation::NonBlockingLockExclusive,
                FlockOperation::LockExclusive,
            ],
            &Quiet,
        )?;
        let old = match fs::metadata(&path) {
            Ok(_) => Some(self.index()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Err(error).at("stat", &path)?,
        };
        let mut index = old.clone().unwrap_or_default();
        change(&mut index.manifests);
        index
            .manifests
            .sort_by_cached_key(|d| (d.annotations.get(REF_NAME).cloned(), d.digest));
        if old.as_ref() == Some(&index) {
            return Ok(());
        }
        self.replace(&path, &index.to_bytes()?, true)
    }
}

fn has_name(descriptor: &Descriptor, name: &str) -> bool {
    descriptor.annotations.get(REF_NAME).map(String::as_str) == Some(name)
}

/// The grammar of annotations.md: alphanumeric components, separated by single
/// `-._:@+` (or `--`), with `/` between paths.
fn check_name(name: &str) -> Result<(), StoreError> {
    let word = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let good = word(bytes.first())
        && word(bytes.last())
        && bytes.len() <= 255
        && bytes.windows(2).all(|pair| {
            let known = |c: u8| c.is_ascii_alphanumeric() || b"-._:@+/".contains(&c);
            known(pair[0])
                && known(pair[1])
                && (word(Some(&pair[0])) || word(Some(&pair[1])) || pair == b"--")
        });
    if good {
        Ok(())
    } else {
        Err(StoreError::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let put = |kind: &str| {
            store
                .put_manifest(&Manifest::artifact(kind, Descriptor::empty(), Vec::new()))
                .unwrap()
        };
        let (one, two) = (put("a/one"), put("a/two"));
        store.tag("hello", &one).unwrap();
        store.tag("redis:1.0", &one).unwrap();
        store.tag("hello", &two).unwrap();
        assert_eq!(store.tagged("hello").unwrap().unwrap().digest, two.digest);
        let other = Store::open(folder.path()).unwrap();
        assert_eq!(other.index().unwrap().manifests.len(), 2);
        other.untag("hello").unwrap();
        assert_eq!(store.tagged("hello").unwrap(), None);
        let kept = store.tagged("redis:1.0").unwrap().unwrap();
        assert_eq!(
            store.manifest(&kept.digest).unwrap().artifact_type,
            Some("a/one".to_owned())
        );
    }

    #[test]
    fn an_empty_store_is_a_layout() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("oci-layout")).unwrap(),
            r#"{"imageLayoutVersion":"1.0.0"}"#
        );
        assert_eq!(
            fs::read_to_string(folder.path().join("index.json")).unwrap(),
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#
        );
    }

    #[test]
    fn refuses_another_layout_and_a_broken_index() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap();
        fs::write(folder.path().join("index.json"), "{").unwrap();
        let store = Store::open(folder.path()).unwrap();
        let error = store.index().unwrap_err().to_string();
        assert!(error.contains("index.json"), "{error}");
        fs::write(
            folder.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"2.0.0"}"#,
        )
        .unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("1.0.0"), "{error}");
    }

    #[test]
    fn names_that_the_specification_does_not_allow() {
        for good in ["a", "hello", "hello:1.0", "a/b@c+d", "a--b", "A.b_c"] {
            check_name(good).unwrap();
        }
        let long = "a".repeat(256);
        for bad in [
            "", ".", "-a", "a-", "a..b", "a/../b", "/a", "a b", "é", "a\nb", &long,
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tag_needs_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let nowhere = Descriptor::new("x/y", Digest::of("nowhere"), 3);
        assert!(matches!(
            store.tag("x", &nowhere),
            Err(StoreError::Missing(_))
        ));
    }
}
