//! The seam through which resolution reads package archives. `sources`
//! implements it over HTTP; tests over a folder.

/// One archive suite to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteSource {
    /// Name in the lock: `trixie`, `trixie-updates`, `trixie-security`, or an `[[apt]]` name.
    pub name: String,
    /// Where its base URI comes from.
    pub base: Base,
    /// Folder below `dists/`.
    pub dist: String,
    /// Components, such as `main`.
    pub components: Vec<String>,
}

/// Where an archive's base URI comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// Debian's main archive, at the mirror found at run time.
    Debian,
    /// Debian's security archive, at the mirror found at run time.
    DebianSecurity,
    /// A URI that the user wrote.
    Uri(String),
}

/// Reads files of archives.
pub trait Archive {
    /// The whole file at `path` below the archive's base URI (`dists/trixie/InRelease`),
    /// refused beyond `limit` bytes. `None` when the archive does not have it.
    ///
    /// # Errors
    /// A text for people: what was asked of whom, what came back, what to do.
    fn read(&self, suite: &SuiteSource, path: &str, limit: u64) -> Result<Option<Vec<u8>>, String>;
}
