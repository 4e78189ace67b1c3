//! The packages of all archives in one compact table.
//!
//! Debian's main index has 69,000 paragraphs in 57 MB; kept are the few fields
//! that resolution reads, their text in one buffer, their names as numbers.
//!
//! A name's number is the order in which it was first met. apt counts the same
//! way and decides by it between providers that are otherwise equal, so it is
//! kept to decide as apt does.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use super::deb822::{Deb822Error, Paragraphs, fields};
use super::{relation, version};
use crate::base::Digest;

/// Most text kept, in bytes: positions in it are 32 bits wide.
const MAX_TEXT: usize = 1 << 30;

/// The number of a package name, real or virtual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(u32);

/// The number of a package in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageId(u32);

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The archive of this number, in the order in which they were added.
    Suite(u16),
    /// A local file of a layer; never chosen unless that layer brings it.
    Local,
    /// Already in a layer that was not resolved here; never chosen.
    Present,
}

/// A text in the table's buffer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    start: u32,
    length: u32,
}

/// One package.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Its name.
    pub name: NameId,
    /// `Version`.
    pub version: Span,
    /// Whether its architecture is `all`.
    pub all: bool,
    /// Where it comes from.
    pub origin: Origin,
    /// `Filename`, below the archive's base URI.
    pub path: Span,
    /// `Size`.
    pub size: u64,
    /// `SHA256`.
    pub sha256: Digest,
    /// `Pre-Depends`.
    pub pre_depends: Span,
    /// `Depends`.
    pub depends: Span,
    /// `Conflicts`.
    pub conflicts: Span,
    /// `Breaks`.
    pub breaks: Span,
    /// `Provides`.
    pub provides: Span,
    /// `Priority` as a number, `required` being 1; 0 when not given.
    pub priority: u8,
    /// `Essential: yes`.
    pub essential: bool,
    /// `Protected: yes` or `Important: yes`.
    pub important: bool,
}

/// A package that provides a name.
#[derive(Debug, Clone, Copy)]
pub struct Provider {
    /// The package.
    pub package: PackageId,
    /// The version that it provides.
    pub version: Option<Span>,
}

/// The table.
#[derive(Debug)]
pub struct Index {
    arch: String,
    text: String,
    packages: Vec<Package>,
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, NameId>,
    by_name: Vec<Vec<PackageId>>,
    providers: HashMap<NameId, Vec<Provider>>,
}

/// The fields of a paragraph that are of interest.
#[derive(Debug, Default)]
struct Record<'a> {
    package: &'a str,
    version: &'a str,
    architecture: &'a str,
    filename: &'a str,
    size: &'a str,
    sha256: &'a str,
    priority: &'a str,
    essential: &'a str,
    important: &'a str,
    protected: &'a str,
    pre_depends: &'a str,
    depends: &'a str,
    conflicts: &'a str,
    breaks: &'a str,
    recommends: &'a str,
    suggests: &'a str,
    replaces: &'a str,
    enhances: &'a str,
    provides: &'a str,
}

impl Index {
    /// An empty table for one architecture.
    #[must_use]
    pub fn new(arch: &str) -> Self {
        Self {
            arch: arch.to_owned(),
            text: String::new(),
            packages: Vec::new(),
            names: Vec::new(),
            ids: HashMap::new(),
            by_name: Vec::new(),
            providers: HashMap::new(),
        }
    }

    /// Adds the packages of a `Packages` file (unpacked) from archive `suite`.
    /// Those of other architectures are passed over.
    ///
    /// # Errors
    /// [`Deb822Error`]: the stream breaks off, or a package lacks what locking needs.
    pub fn add_packages(&mut self, input: impl BufRead, suite: u16) -> Result<(), Deb822Error> {
        let mut paragraphs = Paragraphs::new(input);
        while let Some(paragraph) = paragraphs.read()? {
            let record = Record::read(paragraph)?;
            if record.architecture == self.arch || record.architecture == "all" {
                self.add(&record, Origin::Suite(suite))?;
            }
        }
        Ok(())
    }

    /// Adds a single package by its control paragraph: a local file (with its size
    /// and digest), or one that is present already (size 0).
    ///
    /// # Errors
    /// [`Deb822Error`] when the paragraph lacks what is needed or is of another architecture.
    pub fn add_control(
        &mut self,
        control: &[u8],
        origin: Origin,
        path: &str,
        size: u64,
        sha256: &Digest,
    ) -> Result<PackageId, Deb822Error> {
        let (size, hex) = (size.to_string(), sha256.hex());
        let mut record = Record::read(control)?;
        if record.architecture != self.arch && record.architecture != "all" {
            let problem = format!(
                "it is for '{}', the image for '{}'",
                record.architecture, self.arch
            );
            return Err(record.error("Architecture", problem));
        }
        (record.filename, record.size, record.sha256) = (path, &size, &hex);
        self.add(&record, origin)
    }

    fn add(&mut self, record: &Record<'_>, origin: Origin) -> Result<PackageId, Deb822Error> {
        record.check()?;
        let name = self.intern(record.package);
        for field in record.met() {
            self.meet(field);
        }
        let mut keep = |text: &str| self.keep(text, record);
        let package = Package {
            name,
            version: keep(record.version)?,
            all: record.architecture == "all",
            origin,
            path: keep(record.filename)?,
            size: record.parse_size()?,
            sha256: Digest::from_hex(record.sha256)
                .map_err(|error| record.error("SHA256", error.to_string()))?,
            pre_depends: keep(record.pre_depends)?,
            depends: keep(record.depends)?,
            conflicts: keep(record.conflicts)?,
            breaks: keep(record.breaks)?,
            provides: keep(record.provides)?,
            priority: match record.priority {
                "" => 0,
                "required" => 1,
                "important" => 2,
                "standard" => 3,
                "optional" => 4,
                _ => 5,
            },
            essential: record.essential == "yes",
            important: record.important == "yes" || record.protected == "yes",
        };
        let id = u32::try_from(self.packages.len())
            .map(PackageId)
            .map_err(|_| record.error("Package", "there are too many packages".to_owned()))?;
        self.packages.push(package);
        self.by_name[name.0 as usize].push(id);
        self.add_provides(id, package.provides);
        Ok(id)
    }

    /// Entries that are no relation provide nothing.
    fn add_provides(&mut self, package: PackageId, provides: Span) {
        let arch = std::mem::take(&mut self.arch);
        let text = std::mem::take(&mut self.text);
        for group in relation::groups(span(&text, provides), &arch).flatten() {
            for provided in group {
                let version = provided.version.map(|(_, version)| within(&text, version));
                let name = self.intern(provided.name);
                self.providers
                    .entry(name)
                    .or_default()
                    .push(Provider { package, version });
            }
        }
        self.text = text;
        self.arch = arch;
    }

    fn keep(&mut self, text: &str, record: &Record<'_>) -> Result<Span, Deb822Error> {
        if self.text.len() + text.len() > MAX_TEXT {
            return Err(record.error("Package", "the indexes are too large".to_owned()));
        }
        // Both fit in 32 bits by the check above.
        #[expect(clippy::cast_possible_truncation)]
        let span = Span {
            start: self.text.len() as u32,
            length: text.len() as u32,
        };
        self.text.push_str(text);
        Ok(span)
    }

    /// The number of a name, a new one if it has none.
    fn intern(&mut self, name: &str) -> NameId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        #[expect(clippy::cast_possible_truncation)] // bounded by MAX_TEXT and the files' sizes
        let id = NameId(self.names.len() as u32);
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.ids.insert(name, id);
        self.by_name.push(Vec::new());
        id
    }

    /// Numbers the names in a relation field. One with a qualifier is another
    /// package to apt, and gets no number.
    fn meet(&mut self, field: &str) {
        for text in field.split([',', '|']) {
            let text = text.trim_start();
            let end = text
                .find(|c: char| c.is_ascii_whitespace() || "([<".contains(c))
                .unwrap_or(text.len());
            let name = &text[..end];
            if !name.is_empty() && !name.contains(':') {
                self.intern(name);
            }
        }
    }

    /// The architecture.
    #[must_use]
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// How many packages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// A package.
    #[must_use]
    pub fn package(&self, id: PackageId) -> &Package {
        &self.packages[id.0 as usize]
    }

    /// A text of a package of this table.
    #[must_use]
    pub fn text(&self, text: Span) -> &str {
        span(&self.text, text)
    }

    /// The number of a name that was met.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NameId> {
        self.ids.get(name).copied()
    }

    /// The name of a number.
    #[must_use]
    pub fn name(&self, id: NameId) -> &str {
        &self.names[id.0 as usize]
    }

    /// The name of a package.
    #[must_use]
    pub fn name_of(&self, id: PackageId) -> &str {
        self.name(self.package(id).name)
    }

    /// The version of a package.
    #[must_use]
    pub fn version_of(&self, id: PackageId) -> &str {
        self.text(self.package(id).version)
    }

    /// All versions of a name, in the order in which they were added.
    #[must_use]
    pub fn versions(&self, name: NameId) -> &[PackageId] {
        &self.by_name[name.0 as usize]
    }

    /// All packages that provide a name.
    #[must_use]
    pub fn providers(&self, name: NameId) -> &[Provider] {
        self.providers.get(&name).map_or(&[], Vec::as_slice)
    }

    /// Names that a real or virtual package of an archive has.
    pub fn known_names(&self) -> impl Iterator<Item = &str> {
        self.names
            .iter()
            .zip(&self.by_name)
            .filter(|(_, versions)| !versions.is_empty())
            .map(|(name, _)| &**name)
    }
}

impl<'a> Record<'a> {
    fn read(paragraph: &'a [u8]) -> Result<Self, Deb822Error> {
        let mut record = Self::default();
        for (name, value) in fields(paragraph) {
            let place = match name {
                b"Package" => &mut record.package,
                b"Version" => &mut record.version,
                b"Architecture" => &mut record.architecture,
                b"Filename" => &mut record.filename,
                b"Size" => &mut record.size,
                b"SHA256" => &mut record.sha256,
                b"Priority" => &mut record.priority,
                b"Essential" => &mut record.essential,
                b"Important" => &mut record.important,
                b"Protected" => &mut record.protected,
                b"Pre-Depends" => &mut record.pre_depends,
                b"Depends" => &mut record.depends,
                b"Conflicts" => &mut record.conflicts,
                b"Breaks" => &mut record.breaks,
                b"Recommends" => &mut record.recommends,
                b"Suggests" => &mut record.suggests,
                b"Replaces" => &mut record.replaces,
                b"Enhances" => &mut record.enhances,
                b"Provides" => &mut record.provides,
                _ => continue,
            };
            let Ok(value) = std::str::from_utf8(value) else {
                return Err(record.error("a field", "it is not UTF-8".to_owned()));
            };
            *place = value;
        }
        Ok(record)
    }

    /// The relation fields in the order in which apt reads them.
    fn met(&self) -> [&'a str; 9] {
        [
            self.pre_depends,
            self.depends,
            self.conflicts,
            self.breaks,
            self.recommends,
            self.suggests,
            self.replaces,
            self.enhances,
            self.provides,
        ]
    }

    /// Name, version and path end in the lock and in paths: nothing odd may get there.
    fn check(&self) -> Result<(), Deb822Error> {
        if !relation::is_name(self.package) {
            return Err(self.error("Package", format!("'{}' is no name", self.package)));
        }
        if !version::is_valid(self.version) {
            return Err(self.error("Version", format!("'{}' is no version", self.version)));
        }
        if !is_clean_path(self.filename) {
            let problem = format!("'{}' is no path below the archive", self.filename);
            return Err(self.error("Filename", problem));
        }
        Ok(())
    }

    fn parse_size(&self) -> Result<u64, Deb822Error> {
        self.size
            .parse()
            .map_err(|_| self.error("Size", format!("'{}' is no size in bytes", self.size)))
    }

    fn error(&self, what: &'static str, problem: String) -> Deb822Error {
        Deb822Error::Field {
            what,
            paragraph: match self.package {
                "" => "a package without a name".to_owned(),
                name => name.chars().take(128).collect(),
            },
            problem,
        }
    }
}

/// Whether a path is relative, without `..` and without characters that have no
/// place in a URI's path as it stands.
#[must_use]
pub(crate) fn is_clean_path(path: &str) -> bool {
    (1..=1024).contains(&path.len())
        && !path.starts_with('/')
        && path.split('/').all(|part| part != "..")
        && path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"?#\\\"<>".contains(&b))
}

fn span(text: &str, span: Span) -> &str {
    let start = span.start as usize;
    &text[start..start + span.length as usize]
}

/// The place of `part`, which lies in `text`.
fn within(text: &str, part: &str) -> Span {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    #[expect(clippy::cast_possible_truncation)] // the text is bounded by MAX_TEXT
    Span {
        start: start as u32,
        length: part.len() as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paragraph(extra: &str) -> String {
        format!(
            "Package: a\nVersion: 1:2-3\nArchitecture: amd64\nFilename: pool/a.deb\nSize: 5\nSHA256: {}\n{extra}\n",
            "0".repeat(64)
        )
    }

    fn read(text: &str) -> Result<Index, Deb822Error> {
        let mut index = Index::new("amd64");
        index.add_packages(text.as_bytes(), 0)?;
        Ok(index)
    }

    #[test]
    fn keeps_what_resolution_needs() {
        let foreign = paragraph("").replace("amd64", "i386");
        let text = paragraph(
            "Priority: required\nDepends: b (>= 1),\n c\nProvides: v (= 7), w\nRecommends: z:any, y\n",
        );
        let index = read(&format!("{foreign}\n{text}")).unwrap();
        assert_eq!(index.len(), 1);
        let id = index.versions(index.find("a").unwrap())[0];
        let package = index.package(id);
        assert_eq!(index.text(package.depends), "b (>= 1),\n c");
        assert_eq!(
            (index.version_of(id), package.size, package.priority),
            ("1:2-3", 5, 1)
        );
        let provider = index.providers(index.find("v").unwrap())[0];
        assert_eq!(
            provider.version.map(|version| index.text(version)),
            Some("7")
        );
        assert!(
            index.providers(index.find("w").unwrap())[0]
                .version
                .is_none()
        );
        assert!(index.find("z").is_none() && index.find("y").is_some());
        assert_eq!(index.known_names().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn refuses_packages_that_cannot_be_locked() {
        for (from, to) in [
            ("Package: a", "Package: ../a"),
            ("Version: 1:2-3", "Version: 1 2"),
            ("Filename: pool", "Filename: ../pool"),
            ("Filename: pool", "Filename: /pool"),
            ("Filename: pool/a.deb", "X: y"),
            ("Size: 5", "Size: -5"),
            ("SHA256: 00", "SHA256: zz"),
            ("Version: 1:2-3", "X: y"),
        ] {
            assert!(read(&paragraph("").replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
