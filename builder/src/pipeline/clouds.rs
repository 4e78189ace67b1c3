//! Releases become images of clouds, and their parameter follows the channel.

use crate::attest::{Attested, AttestedImage, Trust};
use crate::base::Digest;
use crate::board::Board;
use crate::channel::{self, CloudImage, Entry, History, Record, RecordImage};
use crate::disk::DiskMap;
use crate::output;
use crate::publish::cloud::{
    self, AWS, AZURE, Ami, AwsTarget, AzureTarget, Casting, DryRun, GCP, GceImage, GcpTarget, Made,
    PageBlob, Parent,
};
use crate::publish::{self, PublishError, Published};
use crate::remote::aws::Aws;
use crate::remote::aws::ec2::BootMode;
use crate::remote::azure::PageBlobs;
use crate::remote::gcp::Gcp;
use crate::remote::{Remote, RemoteOptions};
use crate::sources::Host;
use crate::spec::Image;
use crate::store::Manifest;

use super::image::MAP_TYPE;
use super::{Finding, PipelineError, ReadyToPublish, Settings};

/// What the names of boards for clouds begin with.
const AWS_BOARDS: &str = "aws-";
const AZURE_BOARDS: &str = "azure-";
const GCP_BOARDS: &str = "gcp-";
/// Records of a channel in which a parent is looked for, and older images to deprecate.
const LOOKED_AT: usize = 50;

/// Where to.
#[derive(Debug, Clone, Default)]
pub struct Clouds {
    /// Regions of AWS.
    pub aws: Option<AwsTarget>,
    /// A container of Azure's.
    pub azure: Option<AzureTarget>,
    /// A project and bucket of Google's.
    pub gcp: Option<GcpTarget>,
}

impl Clouds {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.aws.is_none() && self.azure.is_none() && self.gcp.is_none()
    }
}

/// What a release is to become in clouds.
#[derive(Debug, Clone, Copy)]
pub struct CloudWish<'a> {
    /// The specification.
    pub image: &'a Image,
    /// Where to, and for whom.
    pub clouds: &'a Clouds,
    /// The boards; those for the cloud when none is named.
    pub boards: &'a [String],
    /// Seconds after which images that no channel names any more are deprecated.
    pub deprecate: Option<i64>,
}

/// A release on its way to clouds.
struct Going<'a> {
    remote: &'a dyn Remote,
    ready: &'a ReadyToPublish,
    wish: &'a CloudWish<'a>,
    history: &'a [Entry],
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct CloudsMade {
    pub(super) images: Vec<CloudImage>,
    pub(super) moved: u64,
    pub(super) blocks: (usize, usize),
}

impl CloudsMade {
    fn add(&mut self, made: Made) {
        self.images.extend(made.images);
        self.moved += made.moved;
        self.blocks.0 += made.blocks.0;
        self.blocks.1 += made.blocks.1;
    }
}

impl CloudWish<'_> {
    /// The images that go to the cloud, with their boards.
    fn choose<'r>(
        &self,
        attested: &'r Attested,
        prefix: &str,
    ) -> Result<Vec<(&'r AttestedImage, Board)>, PipelineError> {
        let named = |board: &str| match self.boards {
            [] => board.starts_with(prefix),
            boards => boards.iter().any(|named| named == board),
        };
        let all = || attested.images().iter().map(AttestedImage::board);
        let missing = self.boards.iter().find(|named| all().all(|b| b != *named));
        let chosen: Vec<_> = attested
            .images()
            .iter()
            .filter(|image| named(image.board()))
            .collect();
        if missing.is_some() || chosen.is_empty() {
            return Err(PublishError::NoCloudBoard {
                wanted: missing.map_or_else(|| format!("{prefix}…"), Clone::clone),
                boards: all().collect::<Vec<_>>().join(", "),
            }
            .into());
        }
        chosen
            .into_iter()
            .map(|image| Ok((image, Board::find(image.board(), &self.image.dir)?)))
            .collect()
    }
}

/// A container, by what the host says of the account.
fn azure(target: &AzureTarget, host: &Host) -> Result<PageBlobs, PublishError> {
    let options = RemoteOptions::default();
    Ok(PageBlobs::open(
        &target.account,
        &target.container,
        host,
        options,
    )?)
}

/// A project, by what the host says of it.
fn gcp(target: &GcpTarget, host: &Host) -> Result<Gcp, PublishError> {
    let options = RemoteOptions::default();
    Ok(Gcp::open(&target.project, host, options)?)
}

/// The service, by what the host says of it.
pub(super) fn aws() -> Result<Aws, PublishError> {
    Ok(Aws::open(&Host::real(), RemoteOptions::default())?)
}

impl Settings {
    /// Makes the images, or finds them.
    pub(super) fn make_clouds(
        &self,
        remote: &dyn Remote,
        ready: &ReadyToPublish,
        wish: &CloudWish<'_>,
        history: &[Entry],
    ) -> Result<CloudsMade, PipelineError> {
        let mut all = CloudsMade::default();
        let going = Going {
            remote,
            ready,
            wish,
            history,
        };
        if let Some(target) = &wish.clouds.aws {
            let aws = aws()?;
            let ami = self.ami(&aws, target);
            self.each(&going, (AWS, AWS_BOARDS, target.home()), |casting| {
                all.add(ami.make(casting)?);
                Ok(())
            })?;
        }
        if let Some(target) = &wish.clouds.azure {
            let blobs = azure(target, &Host::real())?;
            let page_blob = self.page_blob(&blobs, target);
            self.each(&going, (AZURE, AZURE_BOARDS, &target.account), |casting| {
                let footer = self.footer(casting.image.image(), casting.disk)?;
                all.add(page_blob.make(casting, &footer)?);
                Ok(())
            })?;
        }
        if let Some(target) = &wish.clouds.gcp {
            let gcp = gcp(target, &Host::real())?;
            let gce = self.gce_image(&gcp, target);
            self.each(&going, (GCP, GCP_BOARDS, &target.project), |casting| {
                all.add(gce.make(casting)?);
                Ok(())
            })?;
        }
        let place = |made: &CloudImage| {
            (
                made.provider.clone(),
                made.board.clone(),
                made.region.clone(),
            )
        };
        all.images.sort_by_key(place);
        Ok(all)
    }

    fn ami<'a>(&'a self, aws: &'a Aws, target: &'a AwsTarget) -> Ami<'a> {
        Ami {
            store: &self.store,
            aws,
            target,
            progress: &*self.progress,
        }
    }

    fn footer(&self, image: &Digest, disk: &DiskMap) -> Result<[u8; cloud::FOOTER], PublishError> {
        output::fixed_footer(&self.store, disk).map_err(|source| PublishError::Disk {
            image: *image,
            source,
        })
    }

    fn page_blob<'a>(&'a self, blobs: &'a PageBlobs, target: &'a AzureTarget) -> PageBlob<'a> {
        PageBlob {
            store: &self.store,
            blobs,
            target,
            progress: &*self.progress,
        }
    }

    fn gce_image<'a>(&'a self, gcp: &'a Gcp, target: &'a GcpTarget) -> GceImage<'a> {
        GceImage {
            store: &self.store,
            gcp,
            target,
            progress: &*self.progress,
        }
    }

    /// Every call that publishing to the cloud would make, sent to nobody there. The
    /// channel's history is read from the remote, for the parent.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn would_make(
        &self,
        remote: &dyn Remote,
        ready: &ReadyToPublish,
        wish: &CloudWish<'_>,
        (channel, parameter): (&str, Option<&str>),
        trust: &Trust,
    ) -> Result<Vec<DryRun>, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let history = known(remote, channel, trust);
        let so_far = of_channel(remote, channel, trust)?;
        let parameter = parameter.or(so_far.as_deref());
        // Keys are looked for when something is signed.
        let nobody = Host::fake(
            "/nonexistent",
            &[
                ("AWS_ACCESS_KEY_ID", "-"),
                ("AWS_SECRET_ACCESS_KEY", "-"),
                ("AZURE_STORAGE_KEY", ""),
                ("AZURE_STORAGE_SAS_TOKEN", "sig"),
                ("CLOUDSDK_AUTH_ACCESS_TOKEN", "-"),
            ],
        );
        let mut all = Vec::new();
        let going = Going {
            remote,
            ready,
            wish,
            history: &history,
        };
        if let Some(target) = &wish.clouds.aws {
            let aws = Aws::open(&nobody, RemoteOptions::default()).map_err(PublishError::from)?;
            let ami = self.ami(&aws, target);
            self.each(&going, (AWS, AWS_BOARDS, target.home()), |casting| {
                all.push(cloud::dry_run(&ami, casting, parameter)?);
                Ok(())
            })?;
        }
        if let Some(target) = &wish.clouds.azure {
            let blobs = azure(target, &nobody)?;
            let page_blob = self.page_blob(&blobs, target);
            self.each(&going, (AZURE, AZURE_BOARDS, &target.account), |casting| {
                let footer = self.footer(casting.image.image(), casting.disk)?;
                all.push(page_blob.dry_run(casting, &footer)?);
                Ok(())
            })?;
        }
        if let Some(target) = &wish.clouds.gcp {
            let gcp = gcp(target, &nobody)?;
            let gce = self.gce_image(&gcp, target);
            self.each(&going, (GCP, GCP_BOARDS, &target.project), |casting| {
                all.push(gce.dry_run(casting)?);
                Ok(())
            })?;
        }
        Ok(all)
    }

    /// Hands each image that goes to a cloud to `cast`, with the parent of its board there.
    fn each(
        &self,
        going: &Going<'_>,
        (provider, boards, region): (&str, &str, &str),
        mut cast: impl FnMut(&Casting<'_>) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        for (image, board) in going.wish.choose(&going.ready.attested, boards)? {
            let disk = self.disk_map(image.image())?;
            let place = (provider, region, image.board());
            let parent = match provider {
                // All of a disk goes there as one object.
                GCP => None,
                _ => self.parent(going.remote, place, going.history),
            };
            cast(&Casting {
                image,
                release: &going.ready.release,
                arch: board.arch.name(),
                boot: match board.firmware.has_bios() {
                    // Types without UEFI take it as well.
                    true => BootMode::UefiPreferred,
                    false => BootMode::Uefi,
                },
                disk: &disk,
                parent: parent.as_ref(),
            })?;
        }
        Ok(())
    }

    /// The newest snapshot of the board in the region whose disk is known, if there is one:
    /// without it all of the disk is sent, so that nothing here is a failure.
    fn parent(
        &self,
        remote: &dyn Remote,
        (provider, region, board): (&str, &str, &str),
        history: &[Entry],
    ) -> Option<Parent> {
        history.iter().take(LOOKED_AT).find_map(|entry| {
            let record = &entry.record;
            let made = record.clouds.iter().find(|made| {
                made.provider == provider && made.region == region && made.board == board
            })?;
            let image = record.images.iter().find(|image| image.board == board)?;
            Some(Parent {
                snapshot: made.snapshot.clone()?,
                disk: self.known_disk(remote, &image.image)?,
            })
        })
    }

    /// An image's disk map, from the store or the remote.
    fn known_disk(&self, remote: &dyn Remote, image: &Digest) -> Option<DiskMap> {
        if let Ok(disk) = self.disk_map(image) {
            return Some(disk);
        }
        let document = publish::document(remote, image, "an image").ok()?;
        let manifest = Manifest::parse(&document.bytes).ok()?;
        let map = manifest.layers.iter().find(|part| {
            part.media_type == MAP_TYPE && part.size <= crate::store::DOCUMENT_LIMIT
        })?;
        publish::fetch_blob(&self.store, remote, &map.digest, map.size).ok()?;
        DiskMap::from_json(&self.store.read(&map.digest).ok()?).ok()
    }

    /// Reads a release's images in clouds back; its disks are in the store.
    pub(super) fn verify_clouds(&self, record: &Record) -> Result<Vec<Finding>, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        if record.clouds.is_empty() {
            return Err(PublishError::NoCloud(record.release).into());
        }
        let mut findings = Vec::new();
        for made in &record.clouds {
            let image = record.images.iter().find(|image| image.board == made.board);
            let subject = format!("{} in {} for {}", made.id, made.region, made.board);
            let wrong = match image {
                Some(RecordImage { image, .. }) => self.verify_cloud(made, image)?,
                None => Some("the release has no image for that board".to_owned()),
            };
            findings.push(Finding {
                good: wrong.is_none(),
                text: match wrong {
                    None => format!("every block of {subject} is the disk's"),
                    Some(wrong) => format!("{subject}: {wrong}"),
                },
            });
        }
        Ok(findings)
    }

    /// What is wrong with an image in a cloud; only its own cloud's keys are needed.
    fn verify_cloud(
        &self,
        made: &CloudImage,
        image: &Digest,
    ) -> Result<Option<String>, PipelineError> {
        let disk = self.disk_map(image)?;
        let of = (image, &disk);
        match made.provider.as_str() {
            AWS => {
                let aws = aws()?;
                let wrong = cloud::verify(&self.store, &aws, made, of, &*self.progress)?;
                Ok(wrong)
            }
            AZURE => {
                let Ok(target) = AzureTarget::of_blob(&made.region, &made.id) else {
                    return Ok(Some("its address names no container of Azure's".to_owned()));
                };
                let blobs = azure(&target, &Host::real())?;
                let footer = self.footer(image, &disk)?;
                let page_blob = self.page_blob(&blobs, &target);
                Ok(page_blob.verify(made, of, &footer)?)
            }
            GCP => {
                let of_disk = made.snapshot.as_deref().unwrap_or_default();
                let bucket = of_disk.strip_prefix("gs://").unwrap_or_default();
                let bucket = bucket.split('/').next().unwrap_or_default();
                let target = format!("gcp://{}/{bucket}", made.region).parse::<GcpTarget>();
                let Ok(target) = target else {
                    return Ok(Some("its record names no bucket of Google's".to_owned()));
                };
                let gcp = gcp(&target, &Host::real())?;
                Ok(self.gce_image(&gcp, &target).verify(made, of)?)
            }
            other => Ok(Some(format!(
                "nothing here reads images of {other} back; a newer slipform may"
            ))),
        }
    }

    /// The channel has its record; now the parameter names what it names.
    ///
    /// Only what a channel's record says counts: a parameter that could not be switched is
    /// switched by doing it again, and nobody has to know what was cut off.
    pub(super) fn follow(&self, published: &Published) -> Result<(), PublishError> {
        let Some(parameter) = published.parameter.as_deref() else {
            return Ok(());
        };
        if published.clouds.iter().all(|made| made.provider != AWS) {
            self.progress.note(&format!(
                "{parameter} names no image of this release, for it has none: it is as it was; publish with --to aws://…"
            ));
            return Ok(());
        }
        let failed = |error: PublishError| PublishError::NotSwitched {
            channel: published.channel.clone(),
            parameter: parameter.to_owned(),
            error: error.to_string(),
        };
        let switched = aws().and_then(|aws| {
            // What was deprecated is in use again.
            cloud::deprecate(&aws, &[], &published.clouds, 0)?;
            cloud::switch(&aws, parameter, &published.clouds)
        });
        let count = switched.map_err(failed)?;
        self.progress
            .note(&format!("{parameter}: switched in {count} regions"));
        Ok(())
    }

    /// Deprecates images of the channel's older releases that no channel names any more.
    pub(super) fn deprecate_older(
        &self,
        remote: &dyn Remote,
        trust: &Trust,
        published: &Published,
        at: i64,
    ) -> Result<(), PipelineError> {
        let heads = self.channels(remote, trust)?;
        let used = |image: &CloudImage| {
            let named = heads.iter().flat_map(|head| &head.record.clouds);
            named
                .chain(&published.clouds)
                .any(|used| used.id == image.id)
        };
        let history = known(remote, &published.channel, trust);
        let mut old: Vec<CloudImage> = history
            .iter()
            .take(LOOKED_AT)
            .flat_map(|entry| entry.record.clouds.iter().cloned())
            .filter(|image| !used(image))
            .collect();
        old.sort_by(|a, b| a.id.cmp(&b.id));
        old.dedup_by(|a, b| a.id == b.id);
        let count = cloud::deprecate(&aws()?, &old, &[], at)?;
        self.progress
            .note(&format!("{count} older images deprecated"));
        Ok(())
    }
}

/// A channel's records, newest first; none for a channel that is not there yet.
pub(super) fn known(remote: &dyn Remote, channel: &str, trust: &Trust) -> Vec<Entry> {
    History::read(remote, channel, trust.keys()).map_or_else(|_| Vec::new(), |h| h.entries)
}

/// The parameter that a channel has had so far.
pub(super) fn of_channel(
    remote: &dyn Remote,
    channel: &str,
    trust: &Trust,
) -> Result<Option<String>, PublishError> {
    let head = channel::head(remote, channel, trust.keys())?;
    Ok(head.and_then(|head| head.record.parameter))
}
