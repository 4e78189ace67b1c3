//! `aws://eu-central-1,us-east-1`.

use std::fmt;
use std::str::FromStr;

use crate::publish::PublishError;
use crate::remote::aws::is_region;

/// Most regions and accounts that one release goes to.
const MOST: usize = 64;

/// Regions of AWS, and who may use the image there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AwsTarget {
    /// The first takes the blocks, the others copy from it.
    pub regions: Vec<String>,
    /// Accounts that may start it.
    pub share: Vec<String>,
}

impl AwsTarget {
    /// The region that takes the blocks.
    #[must_use]
    pub fn home(&self) -> &str {
        self.regions.first().map_or("", String::as_str)
    }

    /// With accounts that may start it.
    ///
    /// # Errors
    /// [`PublishError::Target`].
    pub fn shared(mut self, accounts: &[String]) -> Result<Self, PublishError> {
        if let Some(wrong) = accounts.iter().find(|account| !is_account(account)) {
            return Err(target(wrong, "an account of AWS is 12 digits"));
        }
        self.share = accounts.to_vec();
        self.share.sort();
        self.share.dedup();
        Ok(self)
    }
}

/// Whether a text is the number of an account.
#[must_use]
pub fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

pub(super) fn target(text: &str, why: &'static str) -> PublishError {
    PublishError::Target {
        text: text.chars().take(100).collect(),
        why,
    }
}

impl FromStr for AwsTarget {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let wrong = |why| target(text, why);
        let list = text
            .strip_prefix("aws://")
            .ok_or_else(|| wrong("write aws://region[,region…]"))?;
        let mut regions: Vec<String> = Vec::new();
        for region in list.split(',') {
            if !is_region(region) {
                return Err(wrong(
                    "each region is one of AWS's names, such as eu-central-1, with nothing after it",
                ));
            }
            if !regions.iter().any(|known| known == region) {
                regions.push(region.to_owned());
            }
        }
        if regions.len() > MOST {
            return Err(wrong("at most 64 regions"));
        }
        Ok(Self {
            regions,
            share: Vec::new(),
        })
    }
}

impl fmt::Display for AwsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "aws://{}", self.regions.join(","))
    }
}

/// A container of Azure's storage: `azure://account/container`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureTarget {
    /// The storage account.
    pub account: String,
    /// The container in it.
    pub container: String,
}

impl AzureTarget {
    /// The container of a blob that a record names by account and address.
    ///
    /// # Errors
    /// [`PublishError::Target`] for an address that names none.
    pub fn of_blob(account: &str, address: &str) -> Result<Self, PublishError> {
        let mut parts = address.rsplit('/');
        let container = parts.nth(1).unwrap_or_default();
        format!("azure://{account}/{container}").parse()
    }
}

impl FromStr for AzureTarget {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let wrong = |why| target(text, why);
        let rest = text
            .strip_prefix("azure://")
            .ok_or_else(|| wrong("write azure://account/container"))?;
        let (account, container) = rest
            .split_once('/')
            .ok_or_else(|| wrong("write azure://account/container"))?;
        let letters = |text: &str| {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            text.bytes().all(fits)
        };
        if !(3..=24).contains(&account.len()) || !letters(account) {
            return Err(wrong(
                "an account has 3 to 24 lower case letters and digits",
            ));
        }
        let edges = container.starts_with('-') || container.ends_with('-');
        if !(3..=63).contains(&container.len())
            || edges
            || container.contains("--")
            || !letters(&container.replace('-', ""))
        {
            return Err(wrong(
                "a container has 3 to 63 lower case letters, digits and single - between them",
            ));
        }
        Ok(Self {
            account: account.to_owned(),
            container: container.to_owned(),
        })
    }
}

impl fmt::Display for AzureTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "azure://{}/{}", self.account, self.container)
    }
}

/// A project of Google's, and a bucket for its disks: `gcp://project/bucket[/prefix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcpTarget {
    /// The project.
    pub project: String,
    /// The bucket.
    pub bucket: String,
    /// What names of objects begin with: nothing, or folders that end with `/`.
    pub prefix: String,
}

impl FromStr for GcpTarget {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let wrong = |why| target(text, why);
        let rest = text.strip_prefix("gcp://").and_then(|r| r.split_once('/'));
        let (project, rest) = rest.ok_or_else(|| wrong("write gcp://project/bucket[/prefix]"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |text: &str, signs: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            let edges = text.starts_with(plain) && text.ends_with(plain);
            edges && text.chars().all(|c| plain(c) || signs.contains(c))
        };
        if !(6..=63).contains(&project.len())
            || !project.starts_with(|c: char| c.is_ascii_lowercase())
            || !fits(project, "-.:")
        {
            return Err(wrong(
                "a project's id has 6 to 63 lower case letters, digits and -, and begins with a letter",
            ));
        }
        if !(3..=222).contains(&bucket.len()) || !fits(bucket, "-_.") {
            return Err(wrong(
                "a bucket has 3 to 222 lower case letters, digits, - _ and ., the first and last one a letter or digit",
            ));
        }
        let prefix = prefix.trim_end_matches('/');
        let part = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
        };
        if prefix.len() > 200 || !prefix.is_empty() && !prefix.split('/').all(part) {
            return Err(wrong(
                "a prefix has up to 200 letters, digits, - _ . and / between them",
            ));
        }
        let slash = if prefix.is_empty() { "" } else { "/" };
        Ok(Self {
            project: project.to_owned(),
            bucket: bucket.to_owned(),
            prefix: format!("{prefix}{slash}"),
        })
    }
}

impl fmt::Display for GcpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix.trim_end_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(f, "gcp://{}/{}{slash}{prefix}", self.project, self.bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_read_in_order_each_once() {
        let read = |text: &str| text.parse::<AwsTarget>();
        let target = read("aws://eu-central-1,us-east-1,eu-central-1").unwrap();
        assert_eq!(target.regions, ["eu-central-1", "us-east-1"]);
        assert_eq!(target.to_string(), "aws://eu-central-1,us-east-1");
        for bad in [
            "aws://",
            "aws://eu-central-1/",
            "aws://eu-central-1,",
            "aws://eu-central-1, us-east-1",
            "aws://user@eu-central-1",
            "aws://x",
            "s3://bucket",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let shared = target.shared(&["123456789012".to_owned()]).unwrap();
        let error = shared.shared(&["all".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("12 digits"), "{error}");
    }

    #[test]
    fn projects_and_buckets_are_named_as_google_wants() {
        let read = |text: &str| text.parse::<GcpTarget>();
        for good in ["gcp://my-project/images", "gcp://my-project/images/a/b-1"] {
            assert_eq!(read(good).unwrap().to_string(), good);
        }
        assert_eq!(read("gcp://my-project/images/a/").unwrap().prefix, "a/");
        for bad in [
            "gcp://my-project",
            "gcp://my-project/",
            "gcp://proj/images",
            "gcp://My-project/images",
            "gcp://my-project/Images",
            "gcp://my-project/images/../x",
            "gcp://my-project/images//x",
            "gcp://my-project/images/a b",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn containers_are_named_as_azure_wants() {
        let read = |text: &str| text.parse::<AzureTarget>();
        let good = "azure://acc0unt/my-images";
        assert_eq!(read(good).unwrap().to_string(), good);
        let of_blob = |address: &str| AzureTarget::of_blob("acc0unt", address);
        let address = "https://acc0unt.blob.core.windows.net/my-images/web-1.vhd";
        assert_eq!(of_blob(address).unwrap().to_string(), good);
        assert!(of_blob("web-1.vhd").is_err() && of_blob("").is_err());
        for bad in [
            "azure://acc",
            "azure://Acc/images",
            "azure://account/im",
            "azure://account/-images",
            "azure://account/my--images",
            "azure://account/images/x",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
