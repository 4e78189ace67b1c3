//! An archive's `InRelease`: who signed it, what it is, until when it holds, and
//! the digests of its indexes.
//! Format: <https://wiki.debian.org/DebianRepository/Format>, "Release files".

use std::collections::BTreeMap;

use slipform_openpgp::{Keyring, Moment, verify_clearsigned};

use super::archive::SuiteSource;
use super::error::LockError;
use super::{date, deb822};
use crate::base::Digest;

/// Longest InRelease, in bytes. Debian's longest has about 250 KB.
pub const MAX_INRELEASE: u64 = 2 * 1024 * 1024;
/// How far a Release's date may lie ahead of the host's clock, in seconds.
const SLACK: i64 = 24 * 60 * 60;

/// A Release whose signature, name and age have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// `Suite`, such as `stable`; empty if it has none.
    pub suite: String,
    /// `Codename`, such as `trixie`; empty if it has none.
    pub codename: String,
    /// `Date`, in seconds since 1970.
    pub date: i64,
    /// `Valid-Until`, in seconds since 1970.
    pub valid_until: Option<i64>,
    /// Size and digest of each index, by its path below `dists/<suite>/`.
    pub files: BTreeMap<String, IndexFile>,
    /// Whether indexes can be asked for by their digest.
    pub by_hash: bool,
    /// Whether packages of architecture `all` stand in indexes of their own only.
    pub separate_all: bool,
    /// How much apt would prefer this archive: 500, or 100 or 1 for archives that
    /// say `NotAutomatic` (apt_preferences(5), "Default Priority Assignments").
    pub priority: u32,
    /// Fingerprints of the accepted keys that signed it.
    pub signers: Vec<String>,
    /// Digest of the InRelease as fetched.
    pub digest: Digest,
}

/// One index as the Release promises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexFile {
    /// Bytes.
    pub size: u64,
    /// Of the file.
    pub sha256: Digest,
}

/// When a Release is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Now, in seconds since 1970.
    pub now: i64,
    /// Takes Releases whose `Valid-Until` has passed, and keys that have expired since.
    pub allow_expired: bool,
}

impl Release {
    /// Checks an InRelease: signature, suite, age, and its fields.
    ///
    /// # Errors
    /// [`LockError::Signature`], [`LockError::WrongSuite`], [`LockError::Expired`],
    /// [`LockError::FromFuture`] or [`LockError::Release`].
    pub fn check(
        bytes: &[u8],
        source: &SuiteSource,
        keyring: &Keyring,
        clock: Clock,
    ) -> Result<Self, LockError> {
        let moment = if clock.allow_expired {
            Moment::WhenSigned
        } else {
            Moment::At(clock.now)
        };
        let verified =
            verify_clearsigned(bytes, keyring, moment).map_err(|error| LockError::Signature {
                suite: source.name.clone(),
                source: error,
            })?;
        let mut release = Self::parse(&verified.text).map_err(|problem| LockError::Release {
            suite: source.name.clone(),
            problem,
        })?;
        release.signers = verified.signers.into_iter().map(|s| s.key).collect();
        release.digest = Digest::of(bytes);
        release.check_name(source)?;
        release.check_age(source, clock)?;
        Ok(release)
    }

    /// Reads the fields of a Release's text; nothing is checked but their form.
    fn parse(text: &str) -> Result<Self, String> {
        let field = |name: &'static str| deb822::field(text.as_bytes(), name);
        let yes = |name| field(name).is_some_and(|value| value.eq_ignore_ascii_case("yes"));
        let time = |name: &'static str| match field(name) {
            Some(value) => date::parse(value)
                .map(Some)
                .ok_or_else(|| format!("its {name} '{value}' is no date")),
            None => Ok(None),
        };
        let files = field("SHA256").ok_or("it has no SHA256 digests")?;
        let has_all = field("Architectures")
            .is_some_and(|list| list.split_ascii_whitespace().any(|arch| arch == "all"));
        let all_elsewhere = field("No-Support-for-Architecture-all")
            .is_some_and(|list| list.split_ascii_whitespace().any(|what| what == "Packages"));
        Ok(Self {
            suite: field("Suite").unwrap_or_default().to_owned(),
            codename: field("Codename").unwrap_or_default().to_owned(),
            date: time("Date")?.ok_or("it has no Date")?,
            valid_until: time("Valid-Until")?,
            files: parse_files(files)?,
            by_hash: yes("Acquire-By-Hash"),
            separate_all: has_all && !all_elsewhere,
            priority: match (yes("NotAutomatic"), yes("ButAutomaticUpgrades")) {
                (false, _) => 500,
                (true, true) => 100,
                (true, false) => 1,
            },
            signers: Vec::new(),
            digest: Digest::from_bytes([0; 32]),
        })
    }

    fn check_name(&self, source: &SuiteSource) -> Result<(), LockError> {
        // `trixie/updates` was the form of security suites up to Debian 10.
        let wanted = source.dist.trim_end_matches('/');
        if [&self.suite, &self.codename]
            .iter()
            .any(|name| *name == wanted)
        {
            return Ok(());
        }
        Err(LockError::WrongSuite {
            suite: source.name.clone(),
            wanted: wanted.to_owned(),
            found: format!("suite '{}', codename '{}'", self.suite, self.codename),
        })
    }

    fn check_age(&self, source: &SuiteSource, clock: Clock) -> Result<(), LockError> {
        if self.date > clock.now.saturating_add(SLACK) {
            return Err(LockError::FromFuture {
                suite: source.name.clone(),
                date: date::format(self.date),
                now: date::format(clock.now),
            });
        }
        match self.valid_until {
            Some(until) if until < clock.now && !clock.allow_expired => Err(LockError::Expired {
                suite: source.name.clone(),
                until: date::format(until),
                now: date::format(clock.now),
            }),
            _ => Ok(()),
        }
    }
}

/// Lines of digest, size and path.
fn parse_files(text: &str) -> Result<BTreeMap<String, IndexFile>, String> {
    let mut files = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_ascii_whitespace();
        let (Some(hex), Some(size), Some(path), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("'{line}' is no digest, size and path"));
        };
        let sha256 = Digest::from_hex(hex).map_err(|error| error.to_string())?;
        let size = size
            .parse()
            .map_err(|_| format!("'{size}' is no size in bytes"))?;
        files.insert(path.to_owned(), IndexFile { size, sha256 });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use slipform_openpgp::testing::{TestKey, With};

    use super::super::archive::Base;
    use super::*;

    const NOW: i64 = 1_789_199_741 + 3600;
    const TEXT: &str = "Suite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nValid-Until: Sat, 19 Sep 2026 07:55:41 UTC\nAcquire-By-Hash: yes\nNo-Support-for-Architecture-all: Packages\nArchitectures: all amd64\nSHA256:\n e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n";

    fn check(text: &str, dist: &str, clock: Clock) -> Result<Release, LockError> {
        let key = TestKey::new(7, 1_700_000_000);
        let signed = key.clearsign(text, With::Subkey, u32::try_from(NOW - 60).unwrap());
        let source = SuiteSource {
            name: dist.to_owned(),
            base: Base::Debian,
            dist: dist.to_owned(),
            components: vec!["main".to_owned()],
        };
        let keyring = Keyring::from_armored(key.public().as_bytes()).unwrap();
        Release::check(signed.as_bytes(), &source, &keyring, clock)
    }

    fn at(now: i64) -> Clock {
        Clock {
            now,
            allow_expired: false,
        }
    }

    #[test]
    fn reads_a_good_one() {
        let release = check(TEXT, "trixie", at(NOW)).unwrap();
        assert_eq!(
            (release.suite.as_str(), release.date),
            ("stable", NOW - 3600)
        );
        assert!(release.by_hash && !release.separate_all);
        assert_eq!(release.priority, 500);
        assert_eq!(release.files["main/binary-amd64/Packages"].size, 0);
        assert!(check(TEXT, "stable", at(NOW)).is_ok());
        let backports = format!("NotAutomatic: yes\nButAutomaticUpgrades: yes\n{TEXT}");
        assert_eq!(check(&backports, "trixie", at(NOW)).unwrap().priority, 100);
    }

    #[test]
    fn refuses_the_wrong_suite() {
        let error = check(TEXT, "bookworm", at(NOW)).unwrap_err();
        assert!(matches!(&error, LockError::WrongSuite { .. }), "{error}");
    }

    #[test]
    fn refuses_an_expired_one_unless_told() {
        let late = NOW + 8 * 86_400;
        let error = check(TEXT, "trixie", at(late)).unwrap_err();
        assert!(matches!(&error, LockError::Expired { .. }), "{error}");
        let told = Clock {
            now: late,
            allow_expired: true,
        };
        assert!(check(TEXT, "trixie", told).is_ok());
    }

    #[test]
    fn refuses_one_from_the_future() {
        let text = TEXT.replace("2026", "2027");
        let error = check(&text, "trixie", at(NOW)).unwrap_err();
        assert!(matches!(&error, LockError::FromFuture { .. }), "{error}");
    }

    #[test]
    fn refuses_fields_that_make_no_sense() {
        for (from, to) in [
            ("Date: Sat, 12 Sep", "Date: some day"),
            ("Date:", "Data:"),
            ("SHA256:", "SHA1:"),
            (" 0 main", " -1 main"),
            (" 0 main", " main"),
            ("e3b0", "zzzz"),
        ] {
            let error = check(&TEXT.replacen(from, to, 1), "trixie", at(NOW)).unwrap_err();
            assert!(matches!(&error, LockError::Release { .. }), "{to}: {error}");
        }
    }

    #[test]
    fn mutated_releases_never_panic() {
        slipform_fuzz::fuzz(&[TEXT.as_bytes()], |bytes, _| {
            let _ = Release::parse(&String::from_utf8_lossy(bytes));
        });
    }
}
