//! An image of a machine for AWS (AMI): registration of a snapshot, copies, launch permissions.
//!
//! Every step looks first for what an earlier run left, by a name or token that stands for
//! exactly this image: whatever was cut off, running it again ends with one image.

use super::blocks::LARGEST;
use super::{AWS, AwsTarget, wait};
use crate::attest::AttestedImage;
use crate::base::{Digest, Progress};
use crate::channel::CloudImage;
use crate::disk::DiskMap;
use crate::publish::{PublishError, Release};
use crate::remote::aws::ec2::{self, BootMode, Image, Registration, State, tag};
use crate::remote::aws::{Aws, AwsCall, ebs};
use crate::store::Store;

const GIB: u64 = 1 << 30;
/// How often something is looked for that the service says is there.
pub(super) const GLANCES: u32 = 12;
/// Longest of the three parts of an image's name, which has 128 characters at most.
const LONGEST: usize = 36;

/// Tags that tell what is what. Their values are digests or plain names.
pub(super) const IMAGE: &str = "slipform:image";
pub(super) const DISK: &str = "slipform:disk";

/// The snapshot that most of the disk may be in already.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its id, in the same region.
    pub snapshot: String,
    /// The disk that it was made of.
    pub disk: DiskMap,
}

/// An image on its way.
#[derive(Debug, Clone)]
pub struct Casting<'a> {
    /// What came through the gate.
    pub image: &'a AttestedImage,
    /// The release that it belongs to.
    pub release: &'a Release,
    /// Its board's architecture: `x86_64`, `aarch64`.
    pub arch: &'a str,
    /// How its board starts.
    pub boot: BootMode,
    /// Its disk.
    pub disk: &'a DiskMap,
    /// An earlier image of the same board.
    pub parent: Option<&'a Parent>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// One for each region.
    pub images: Vec<CloudImage>,
    /// Bytes of blocks that were sent.
    pub moved: u64,
    /// Blocks that the disk has, and those of them that the parent had not.
    pub blocks: (usize, usize),
}

/// Makes images in AWS.
#[derive(Debug)]
pub struct Ami<'a> {
    /// Where the disk is.
    pub store: &'a Store,
    /// The service.
    pub aws: &'a Aws,
    /// Where to, and for whom.
    pub target: &'a AwsTarget,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// The names and sizes of an image: all that its calls have in common.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) tags: ec2::Tags,
    pub(super) gib: u64,
    pub(super) arch: &'static str,
}

impl Names {
    pub(super) fn of(casting: &Casting<'_>) -> Result<Self, PublishError> {
        let image = *casting.image.image();
        let unfit = |why: String| PublishError::Unfit { image, why };
        let arch = match casting.arch {
            "x86_64" => "x86_64",
            "aarch64" => "arm64",
            other => {
                return Err(unfit(format!(
                    "AWS has no machines of architecture {other}; choose a board of x86_64 or aarch64"
                )));
            }
        };
        let disk = casting.disk;
        if disk.sector_size != 512 {
            return Err(unfit(format!(
                "its disk has sectors of {} bytes, EBS has 512; choose a board with sector-size = 512",
                disk.sector_size
            )));
        }
        if disk.size == 0 || disk.size > LARGEST {
            return Err(unfit(format!(
                "its disk has {} bytes, EBS takes 1 byte to 64 TiB",
                disk.size
            )));
        }
        let release = casting.release;
        let board = casting.image.board();
        let name = plain_name(casting);
        let full = [
            (
                "Name",
                tidy(&format!("{} {}", release.name, release.version)),
            ),
            (IMAGE, image.to_string()),
            ("slipform:release", release.digest.to_string()),
            (DISK, disk.digest().to_string()),
            ("slipform:name", tidy(&release.name)),
            ("slipform:version", tidy(&release.version)),
            ("slipform:board", board.to_owned()),
        ];
        Ok(Self {
            description: format!("{name}, image {image}"),
            name,
            tags: full.map(|(key, value)| (key.to_owned(), value)).to_vec(),
            gib: disk.size.div_ceil(GIB),
            arch,
        })
    }

    /// `StartSnapshot`, with a token that stands for all of it and for the `attempt`.
    pub(super) fn start(
        &self,
        region: &str,
        parent: Option<&str>,
        attempt: u32,
    ) -> (AwsCall, String) {
        let call = |token: &str| {
            let new = ebs::NewSnapshot {
                gib: self.gib,
                parent,
                description: &self.description,
                tags: &self.tags,
                token,
            };
            ebs::start_snapshot(region, &new)
        };
        let token = token(&call(""), attempt);
        (call(&token), token)
    }

    pub(super) fn register(&self, region: &str, snapshot: &str, boot: BootMode) -> AwsCall {
        let new = Registration {
            name: &self.name,
            description: &self.description,
            architecture: self.arch,
            boot,
            snapshot,
            tags: &self.tags,
        };
        ec2::register_image(region, &new)
    }

    /// `CopyImage`, with a token that stands for all of it.
    pub(super) fn copy(&self, region: &str, from: (&str, &str)) -> AwsCall {
        let new = (self.name.as_str(), self.description.as_str());
        let call = |token: &str| ec2::copy_image(region, from, new, &self.tags, token);
        call(&token(&call(""), 0))
    }
}

fn token(call: &AwsCall, attempt: u32) -> String {
    Digest::of(format!("{} {attempt}", call.digest())).hex()
}

/// What an image is called: release, version, board, and its digest in short.
pub(super) fn plain_name(casting: &Casting<'_>) -> String {
    let release = casting.release;
    let parts = [&release.name, &release.version, casting.image.board()];
    let short = casting.image.image().short();
    format!("{}-{short}", parts.map(plain).join("-"))
}

/// A tag's value: what all of AWS's services take.
fn tidy(text: &str) -> String {
    let fits = |c: char| {
        if c.is_ascii_alphanumeric() || " +-=._:/@".contains(c) {
            c
        } else {
            '-'
        }
    };
    text.chars().map(fits).collect()
}

/// A part of an image's name: EC2 takes letters, digits and a few signs.
fn plain(text: &(impl AsRef<str> + ?Sized)) -> String {
    let fits = |c: char| {
        if c.is_ascii_alphanumeric() || ".-_".contains(c) {
            c
        } else {
            '-'
        }
    };
    text.as_ref().chars().take(LONGEST).map(fits).collect()
}

impl Ami<'_> {
    /// Makes the image in every region, or finds it.
    ///
    /// # Errors
    /// [`PublishError`]; doing it again goes on.
    pub fn make(&self, casting: &Casting<'_>) -> Result<Made, PublishError> {
        let names = Names::of(casting)?;
        let image = casting.image.image();
        let home = self.target.home();
        let mut made = Made {
            images: Vec::new(),
            moved: 0,
            blocks: (0, 0),
        };
        let first = match self.find(home, &names, image)? {
            Some(found) => found.id,
            None => {
                let snapshot = self.snapshot(casting, &names, &mut made)?;
                self.register(home, &snapshot, casting, &names)?
            }
        };
        let first = self.available(home, &first)?;
        self.progress.note(&format!("{} in {home}", first.id));
        // All copies are begun before any is waited for.
        let mut copies = Vec::new();
        for region in &self.target.regions[1..] {
            copies.push(match self.find(region, &names, image)? {
                Some(found) => found.id,
                None => self.aws.new_image(&names.copy(region, (home, &first.id)))?,
            });
        }
        let mut all = vec![first];
        for (region, copy) in self.target.regions[1..].iter().zip(copies) {
            all.push(self.available(region, &copy)?);
            self.progress.note(&format!("{copy} in {region}"));
        }
        for (region, found) in self.target.regions.iter().zip(all) {
            if !self.target.share.is_empty() {
                let share = ec2::share_image(region, &found.id, &self.target.share);
                self.aws.change(&share)?;
            }
            made.images.push(CloudImage {
                provider: AWS.to_owned(),
                region: region.clone(),
                board: casting.image.board().to_owned(),
                arch: names.arch.to_owned(),
                id: found.id,
                snapshot: found.snapshot,
            });
        }
        Ok(made)
    }

    /// The image of that name, if it is made of this very image.
    fn find(
        &self,
        region: &str,
        names: &Names,
        image: &Digest,
    ) -> Result<Option<Image>, PublishError> {
        let look = ec2::describe_images(region, "name", &names.name);
        let Some(found) = self.aws.images(&look)?.into_iter().next() else {
            return Ok(None);
        };
        if tag(&found.tags, IMAGE) != Some(&image.to_string()) {
            return Err(PublishError::CloudName {
                name: names.name.clone(),
                region: region.to_owned(),
                id: found.id,
                image: *image,
            });
        }
        Ok(Some(found))
    }

    /// Waits until an image can be used.
    fn available(&self, region: &str, id: &str) -> Result<Image, PublishError> {
        let what = format!("image {id} in {region}");
        let look = ec2::describe_images(region, "image-id", id);
        wait(self.aws.pause(), &what, super::LOOKS, || {
            let found = self.aws.images(&look)?.into_iter().next();
            match found {
                // Not every server knows at once what another has made.
                None => Ok(None),
                Some(found) => match found.state {
                    State::Ready => Ok(Some(found)),
                    State::Pending => Ok(None),
                    State::Failed => Err(failed(&what, &found.message)),
                },
            }
        })
    }

    fn register(
        &self,
        region: &str,
        snapshot: &str,
        casting: &Casting<'_>,
        names: &Names,
    ) -> Result<String, PublishError> {
        let call = names.register(region, snapshot, casting.boot);
        match self.aws.new_image(&call) {
            Ok(id) => Ok(id),
            // An attempt whose answer was lost, or another publisher of the same image.
            Err(error) if error.code() == "InvalidAMIName.Duplicate" => {
                let image = casting.image.image();
                let what = format!("image {} in {region}", names.name);
                wait(self.aws.pause(), &what, GLANCES, || {
                    self.find(region, names, image)
                })
                .map(|found| found.id)
            }
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn failed(what: &str, said: &str) -> PublishError {
    PublishError::CloudFailed {
        what: what.to_owned(),
        said: if said.is_empty() {
            String::new()
        } else {
            format!(" {said}")
        },
    }
}
