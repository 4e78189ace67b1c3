//! An image of Google's Compute Engine: the disk as a tar goes to a bucket, and an image is
//! made of that.
//!
//! Both are found by their names and by what they say that they are of: whatever was cut off,
//! running it again ends with one object and one image.

use std::fs::File;
use std::io::Read;

use super::ami::{Casting, GLANCES, Made, failed, plain_name};
use super::dry::{CloudCall, DryRun};
use super::target::GcpTarget;
use super::{GCP, LOOKS, wait};
use crate::base::bytes::human;
use crate::base::progress::Task;
use crate::base::{Digest, Progress};
use crate::channel::CloudImage;
use crate::disk::DiskMap;
use crate::output::{self, OutputFormat};
use crate::publish::PublishError;
use crate::remote::gcp::{
    Gcp, GcpCall, Image, NewImage, NewObject, begin_upload, get_image, get_object, insert_image,
};
use crate::store::Store;

/// Disks are whole GiB there.
const GIB: u64 = 1 << 30;
/// Longest name of an image, a family or a label's value.
const LONGEST: usize = 63;
/// Bytes that are summed at a time.
const CHUNK: usize = 1 << 20;

/// Makes images in Compute Engine.
#[derive(Debug)]
pub struct GceImage<'a> {
    /// Where the disk is.
    pub store: &'a Store,
    /// The service.
    pub gcp: &'a Gcp,
    /// Project and bucket.
    pub target: &'a GcpTarget,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// The names of an image on its way.
struct Names {
    image: String,
    object: String,
    family: String,
    description: String,
    label: String,
    arch: &'static str,
}

/// The disk as it is sent; the file goes with it.
struct Tar {
    _folder: tempfile::TempDir,
    file: File,
    size: u64,
    sum: u32,
}

impl Names {
    fn of(casting: &Casting<'_>, target: &GcpTarget) -> Result<Self, PublishError> {
        let image = casting.image.image();
        let unfit = |why: String| PublishError::Unfit { image: *image, why };
        let arch = match casting.arch {
            "x86_64" => "X86_64",
            "aarch64" => "ARM64",
            other => {
                return Err(unfit(format!(
                    "Google has no machines of architecture {other}; choose a board of x86_64 or aarch64"
                )));
            }
        };
        let disk = casting.disk;
        if disk.sector_size != 512 || disk.size == 0 || !disk.size.is_multiple_of(GIB) {
            return Err(unfit(format!(
                "its disk has {} bytes in sectors of {}, Google takes whole GiB in sectors of 512; choose a board with disk-multiple = \"1GiB\" and sector-size = 512",
                disk.size, disk.sector_size
            )));
        }
        let plain = plain_name(casting);
        let release = casting.release;
        // The digest in short ends the name, whatever is cut off before it.
        let short = image.short();
        let front = plain.strip_suffix(&short).unwrap_or(&plain);
        let front = name(front, LONGEST - 1 - short.len());
        Ok(Self {
            image: format!("{front}-{short}"),
            object: format!("{}{plain}.tar.gz", target.prefix),
            family: name(
                &format!("{}-{}", release.name, casting.image.board()),
                LONGEST,
            ),
            description: format!("{plain}, image {image}"),
            label: label(image),
            arch,
        })
    }

    fn insert(&self, target: &GcpTarget) -> GcpCall {
        insert_image(&NewImage {
            project: &target.project,
            name: &self.image,
            description: &self.description,
            family: &self.family,
            architecture: self.arch,
            label: &self.label,
            source: (&target.bucket, &self.object),
        })
    }

    fn object<'a>(&'a self, target: &'a GcpTarget, image: &Digest, tar: &Tar) -> NewObject<'a> {
        NewObject {
            bucket: &target.bucket,
            name: &self.object,
            image: image.to_string(),
            size: tar.size,
            sum: tar.sum,
        }
    }
}

/// As much of a digest as a label's value holds.
fn label(image: &Digest) -> String {
    image.hex().chars().take(LONGEST).collect()
}

/// Lower case letters, digits and single -, a letter first and no - last.
fn name(text: &str, most: usize) -> String {
    let mut name = String::new();
    for c in text.chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() && !name.is_empty() {
            name.push(c);
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
    }
    name.truncate(most);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "image" } else { name }.to_owned()
}

impl GceImage<'_> {
    /// Makes the image, or finds it.
    ///
    /// # Errors
    /// [`PublishError`]; doing it again goes on.
    pub fn make(&self, casting: &Casting<'_>) -> Result<Made, PublishError> {
        let names = Names::of(casting, self.target)?;
        let mut made = Made {
            images: vec![self.image(casting, &names)],
            moved: 0,
            blocks: (0, 0),
        };
        if self.find(casting, &names)?.is_none() {
            self.send(casting, &names, &mut made)?;
            let operation = self.gcp.insert(&names.insert(self.target))?;
            if let Some(operation) = operation {
                self.done(&names, &operation)?;
            }
        }
        self.ready(casting, &names)?;
        self.progress
            .note(&format!("{} in {}", names.image, self.target.project));
        Ok(made)
    }

    fn image(&self, casting: &Casting<'_>, names: &Names) -> CloudImage {
        CloudImage {
            provider: GCP.to_owned(),
            region: self.target.project.clone(),
            board: casting.image.board().to_owned(),
            arch: names.arch.to_owned(),
            id: names.image.clone(),
            snapshot: Some(format!("gs://{}/{}", self.target.bucket, names.object)),
        }
    }

    fn taken(&self, casting: &Casting<'_>, name: &str, by: &str) -> PublishError {
        PublishError::CloudName {
            name: name.to_owned(),
            region: self.target.to_string(),
            id: by.to_owned(),
            image: *casting.image.image(),
        }
    }

    /// The image of that name, if it is made of this very image.
    fn find(&self, casting: &Casting<'_>, names: &Names) -> Result<Option<Image>, PublishError> {
        let found = self.gcp.image(&self.target.project, &names.image)?;
        match &found {
            Some(there) if there.label.as_deref() != Some(&names.label) => {
                Err(self.taken(casting, &names.image, "another image"))
            }
            _ => Ok(found),
        }
    }

    /// Sends the disk, unless it is there.
    fn send(
        &self,
        casting: &Casting<'_>,
        names: &Names,
        made: &mut Made,
    ) -> Result<(), PublishError> {
        let image = casting.image.image();
        let there = || self.gcp.object(&self.target.bucket, &names.object);
        let found = there()?;
        let tar = self.cast(image, casting.disk)?;
        let new = names.object(self.target, image, &tar);
        let found = match found {
            Some(found) => found,
            None => {
                self.progress.note(&format!(
                    "{}: {} to send to {}",
                    names.object,
                    human(tar.size),
                    self.target
                ));
                let task = self
                    .progress
                    .begin(&format!("send {}", names.object), Some(tar.size));
                let sent = |count| Task::advance(&*task, count);
                if self.gcp.upload(&new, &tar.file, &sent)? {
                    made.moved += tar.size;
                }
                // Not every server knows at once what another has taken.
                let what = format!("object {} in {}", names.object, self.target);
                wait(self.gcp.pause(), &what, GLANCES, || Ok(there()?))?
            }
        };
        if found.image.as_deref() != Some(&new.image) {
            return Err(self.taken(casting, &names.object, "another object"));
        }
        if (found.size, found.sum) != (tar.size, Some(tar.sum)) {
            // What is there is of this image, and not what it should be: the next run sends it.
            self.gcp.remove_object(&self.target.bucket, &names.object)?;
            let what = format!("object {} in {}", names.object, self.target);
            return Err(failed(&what, " its sum is not that of what was sent"));
        }
        Ok(())
    }

    /// Casts the tar that is sent, beside the store.
    fn cast(&self, image: &Digest, disk: &DiskMap) -> Result<Tar, PublishError> {
        let unreadable = |source| PublishError::Disk {
            image: *image,
            source,
        };
        let folder = tempfile::Builder::new()
            .prefix("gcp-")
            .tempdir_in(self.store.tmp())
            .map_err(unreadable)?;
        let path = folder.path().join("disk.tar.gz");
        output::write_told(
            OutputFormat::GcpTar,
            disk,
            (self.store, self.progress),
            &path,
        )
        .map_err(|error| unreadable(std::io::Error::other(error)))?;
        let mut file = File::open(&path).map_err(unreadable)?;
        let (size, sum) = sum(&mut file).map_err(unreadable)?;
        Ok(Tar {
            _folder: folder,
            file,
            size,
            sum,
        })
    }

    /// Waits until an operation has ended.
    fn done(&self, names: &Names, operation: &str) -> Result<(), PublishError> {
        let project = &self.target.project;
        let what = format!("image {} in {}", names.image, self.target);
        let ended = wait(self.gcp.pause(), &what, LOOKS, || {
            Ok(self.gcp.operation(project, operation)?)
        })?;
        ended.map_err(|said| failed(&what, &format!(" {said}")))
    }

    /// Waits until the image can be used.
    fn ready(&self, casting: &Casting<'_>, names: &Names) -> Result<(), PublishError> {
        let what = format!("image {} in {}", names.image, self.target);
        wait(self.gcp.pause(), &what, LOOKS, || {
            match self.find(casting, names)? {
                None => Ok(None),
                Some(there) => match there.status.as_str() {
                    "READY" => Ok(Some(())),
                    "PENDING" => Ok(None),
                    other => Err(failed(&what, &format!(" it is {other}"))),
                },
            }
        })
    }

    /// What is wrong with an image, if anything is. Nobody can read an image itself: what it
    /// was made of is compared, by the sum that the service counted.
    ///
    /// # Errors
    /// [`PublishError`] for what keeps it from being compared.
    pub fn verify(
        &self,
        made: &CloudImage,
        (image, disk): (&Digest, &DiskMap),
    ) -> Result<Option<String>, PublishError> {
        let wrong = |why: &str| Ok(Some(why.to_owned()));
        let Some(there) = self.gcp.image(&self.target.project, &made.id)? else {
            return wrong("it is not there any more");
        };
        if there.label != Some(label(image)) {
            return wrong("its label names another image");
        }
        if there.status != "READY" {
            return Ok(Some(format!("it is {}, not READY", there.status)));
        }
        if there.architecture != made.arch {
            return Ok(Some(format!("it is for {}", there.architecture)));
        }
        let object = made.snapshot.as_deref().unwrap_or_default();
        let bucket = format!("gs://{}/", self.target.bucket);
        let Some(object) = object.strip_prefix(&bucket) else {
            return wrong("the record does not name what it was made of");
        };
        let Some(found) = self.gcp.object(&self.target.bucket, object)? else {
            return wrong("the tar that it was made of is not there any more");
        };
        let tar = self.cast(image, disk)?;
        if (found.size, found.sum) != (tar.size, Some(tar.sum)) {
            return wrong("the tar that it was made of is not the disk's");
        }
        Ok(None)
    }

    /// All calls of [`GceImage::make`] where nothing is there yet: lines for people.
    ///
    /// # Errors
    /// [`PublishError`] for a disk that cannot be read, or is none for Google.
    pub fn dry_run(&self, casting: &Casting<'_>) -> Result<DryRun, PublishError> {
        let names = Names::of(casting, self.target)?;
        let (image, disk) = (casting.image.image(), casting.disk);
        let tar = self.cast(image, disk)?;
        let project = &self.target.project;
        let begin = begin_upload(&names.object(self.target, image, &tar));
        let calls = [
            get_image(project, &names.image).to_string(),
            get_object(&self.target.bucket, &names.object).to_string(),
            begin.to_string(),
            format!("storage part of {}: bytes 0-{}", names.object, tar.size - 1),
            get_object(&self.target.bucket, &names.object).to_string(),
            names.insert(self.target).to_string(),
            crate::remote::gcp::get_operation(project, "operation-…").to_string(),
            get_image(project, &names.image).to_string(),
        ];
        Ok(DryRun {
            blocks: 0,
            bytes: tar.size,
            calls: calls.into_iter().map(CloudCall::Line).collect(),
        })
    }
}

/// Size and CRC-32C of a file.
fn sum(file: &mut File) -> std::io::Result<(u64, u32)> {
    let (mut size, mut sum) = (0, 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok((size, sum)),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sum = crc32c::crc32c_append(sum, &buffer[..count]);
        size += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_google_wants_them() {
        for (text, wanted) in [
            ("web-1.0~rc1-gcp-x86_64-", "web-1-0-rc1-gcp-x86-64"),
            ("9Lives", "lives"),
            ("--", "image"),
            ("ä", "image"),
        ] {
            assert_eq!(name(text, LONGEST), wanted);
        }
        assert_eq!(name(&"a-".repeat(50), 10), "a-a-a-a-a");
        assert_eq!(label(&Digest::of("x")).len(), 63);
    }
}
