//! Releases go to a remote and its channels, and from channel to channel.

use std::path::PathBuf;

use serde::Serialize;

use super::clouds::{CloudWish, CloudsMade, known, of_channel};
use super::{PipelineError, ReadyToPublish, Settings, gate, now};
use crate::attest::{
    Attested, Candidate, Policy, PublicKey, Signer, TRUSTED_KEYS, Trust, TrustSources,
};
use crate::base::Digest;
use crate::channel::{self, Entry, History, Kind, Revocations};
use crate::publish::{self, Ends, PublishError, Published, Reference, Request};
use crate::remote::{self, Remote};
use crate::sources::{Host, UserConfig};
use crate::spec::Image;

/// What a new record says.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The channel.
    pub channel: &'a str,
    /// What is done.
    pub kind: Kind,
    /// By whom.
    pub who: &'a str,
    /// Why.
    pub why: &'a str,
    /// The parameter in clouds that is to name the channel's newest release; otherwise the
    /// one that the channel has had so far.
    pub parameter: Option<&'a str>,
}

/// What publishing would move.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct WouldMove {
    /// Bytes of the release.
    pub bytes: u64,
    /// Bytes that are not there yet.
    pub missing: u64,
}

impl Settings {
    /// Opens a remote by its URI.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn remote(&self, uri: &str) -> Result<Box<dyn Remote>, PipelineError> {
        Ok(remote::open(uri, &Host::real()).map_err(PublishError::from)?)
    }

    /// Whose signatures count: `given`, the environment's, the specification's, the
    /// user's configuration's; where none of these says anything the user's own key,
    /// or that of who signs now.
    ///
    /// # Errors
    /// [`PipelineError::Publish`] for a file that is no key.
    pub fn trust(
        &self,
        given: &[PathBuf],
        image: Option<&Image>,
        signer: Option<&PublicKey>,
    ) -> Result<Trust, PipelineError> {
        let environment = std::env::var(TRUSTED_KEYS).ok();
        let host = Host::real();
        let configured = UserConfig::load(&host)?.trusted_keys;
        let own = host.config_folder().map(|dir| dir.join("key.pub"));
        let trust = Trust::load(&TrustSources {
            spec: image.map_or(&[], |image| &image.gate.keys),
            given,
            environment: environment.as_deref(),
            configured: &configured,
            own: own.as_deref().filter(|_| signer.is_none()),
        })
        .map_err(PublishError::from)?;
        Ok(match signer {
            Some(signer) if trust.keys().is_empty() => Trust::new(vec![signer.clone()]),
            _ => trust,
        })
    }

    /// How much publishing would move.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn would_move(
        &self,
        remote: &dyn Remote,
        ready: &ReadyToPublish,
    ) -> Result<WouldMove, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let shipment =
            publish::shipment(&self.store, &ready.attested, &ready.release, &ready.sources)?;
        let plan = remote::plan_upload(remote, &shipment.pieces()).map_err(PublishError::from)?;
        Ok(WouldMove {
            bytes: shipment.bytes(),
            missing: plan.bytes(),
        })
    }

    /// Publishes what came through the gate, with the sources that it was built from.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn publish(
        &self,
        remote: &dyn Remote,
        ready: &ReadyToPublish,
        wanted: &Wanted<'_>,
        trust: &Trust,
        signer: &dyn Signer,
    ) -> Result<Published, PipelineError> {
        self.publish_with(remote, ready, wanted, None, trust, signer)
    }

    /// As [`Settings::publish`], with images in a cloud, which the record then names. They
    /// are made first; the parameter is switched last.
    ///
    /// # Errors
    /// [`PipelineError::Publish`]; doing it again goes on.
    pub fn publish_with(
        &self,
        remote: &dyn Remote,
        ready: &ReadyToPublish,
        wanted: &Wanted<'_>,
        wish: Option<&CloudWish<'_>>,
        trust: &Trust,
        signer: &dyn Signer,
    ) -> Result<Published, PipelineError> {
        signs_for(trust, signer)?;
        let _guard = self.store.shared(&*self.progress)?;
        let names = ready.attested.images().iter().map(|image| *image.image());
        Revocations::read(remote, trusted(trust, "revocations")?)
            .and_then(|revoked| revoked.check(names.chain([ready.release.digest])))
            .map_err(PublishError::from)?;
        let so_far = of_channel(remote, wanted.channel, trust)?;
        let history = known(remote, wanted.channel, trust);
        let clouds = match wish {
            Some(wish) => self.make_clouds(remote, ready, wish, &history)?,
            None => CloudsMade::default(),
        };
        let ends = Ends {
            store: &self.store,
            remote,
            signer,
            progress: &*self.progress,
        };
        let request = Request {
            clouds: &clouds.images,
            parameter: wanted.parameter.or(so_far.as_deref()),
            ..request(wanted, None)?
        };
        let published = publish::publish(
            &ends,
            &ready.attested,
            &ready.release,
            &ready.sources,
            &request,
        )?;
        let published = Published {
            cloud_moved: clouds.moved,
            cloud_blocks: clouds.blocks.0,
            cloud_changed: clouds.blocks.1,
            ..published
        };
        self.follow(&published)?;
        if let Some(after) = wish.and_then(|wish| wish.deprecate) {
            self.deprecate_older(remote, trust, &published, now()?.saturating_add(after))?;
        }
        Ok(published)
    }

    /// A channel's history.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn history(
        &self,
        remote: &dyn Remote,
        channel: &str,
        trust: &Trust,
    ) -> Result<History, PipelineError> {
        Ok(History::read(remote, channel, trust.keys()).map_err(PublishError::from)?)
    }

    /// The newest record of every channel.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn channels(
        &self,
        remote: &dyn Remote,
        trust: &Trust,
    ) -> Result<Vec<Entry>, PipelineError> {
        let mut heads = Vec::new();
        for name in channel::channels(remote).map_err(PublishError::from)? {
            heads.extend(channel::head(remote, &name, trust.keys()).map_err(PublishError::from)?);
        }
        Ok(heads)
    }

    /// Lets a channel name a release that is on the remote, through the gate again.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn promote(
        &self,
        remote: &dyn Remote,
        reference: &Reference,
        wanted: &Wanted<'_>,
        trust: &Trust,
        signer: &dyn Signer,
    ) -> Result<Published, PipelineError> {
        let entry = publish::resolve(remote, reference, trusted(trust, "the release")?)?;
        self.repeat(remote, &entry, wanted, trust, signer, None)
    }

    /// Lets a channel name an earlier release of its own again, through the gate again.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn rollback(
        &self,
        remote: &dyn Remote,
        to: Option<&str>,
        wanted: &Wanted<'_>,
        trust: &Trust,
        signer: &dyn Signer,
    ) -> Result<Published, PipelineError> {
        let keys = trusted(trust, "the channel")?;
        let history = History::read(remote, wanted.channel, keys).map_err(PublishError::from)?;
        let entry = match to {
            Some(to) => history.find(to).map_err(PublishError::from)?,
            None => history
                .previous()
                .ok_or_else(|| PublishError::NoEarlier(wanted.channel.to_owned()))?,
        };
        let after = history.head().map(|head| head.digest);
        self.repeat(remote, entry, wanted, trust, signer, after)
    }

    fn repeat(
        &self,
        remote: &dyn Remote,
        entry: &Entry,
        wanted: &Wanted<'_>,
        trust: &Trust,
        signer: &dyn Signer,
        after: Option<Digest>,
    ) -> Result<Published, PipelineError> {
        signs_for(trust, signer)?;
        let attested = self.again(remote, entry, trust)?;
        if wanted.parameter.is_some() && entry.record.clouds.is_empty() {
            return Err(PublishError::NoCloud(entry.record.release).into());
        }
        let so_far = of_channel(remote, wanted.channel, trust)?;
        let request = Request {
            parameter: wanted.parameter.or(so_far.as_deref()),
            ..request(wanted, after)?
        };
        let published = publish::repeat(remote, &attested, entry, &request, signer)?;
        self.follow(&published)?;
        Ok(published)
    }

    /// A release of the remote through the gate once more, as of the day on which it
    /// came through first: age is a question for publishing, not for going back.
    pub(super) fn again(
        &self,
        remote: &dyn Remote,
        entry: &Entry,
        trust: &Trust,
    ) -> Result<Attested, PipelineError> {
        let record = &entry.record;
        let keys = trusted(trust, "the attestations")?;
        Revocations::read(remote, keys)
            .and_then(|revoked| revoked.check(record.names()))
            .map_err(PublishError::from)?;
        let mut images = Vec::new();
        for image in &record.images {
            images.push(Candidate {
                board: image.board.clone(),
                image: image.image,
                plan: image.plan,
                checks: image.checks.clone(),
                attestations: publish::attestations(remote, image, keys)?,
            });
        }
        let as_then = Policy {
            max_age: i64::MAX,
            accept_debug: true,
        };
        gate::through(
            images,
            trust,
            &as_then,
            record.published,
            record.forced.as_deref(),
        )
    }

    /// Records that a release must not be used any more.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn revoke(
        &self,
        remote: &dyn Remote,
        reference: &Reference,
        wanted: &Wanted<'_>,
        trust: &Trust,
        signer: &dyn Signer,
    ) -> Result<Published, PipelineError> {
        signs_for(trust, signer)?;
        let entry = publish::resolve(remote, reference, trusted(trust, "the release")?)?;
        for made in &entry.record.clouds {
            self.progress.note(&format!(
                "{} in {} stays where it is: deregister it when no machine needs it",
                made.id, made.region
            ));
        }
        Ok(publish::revoke(
            remote,
            &entry,
            &request(wanted, None)?,
            signer,
        )?)
    }
}

/// Whether a remote is reached over the network.
pub(super) fn is_network(uri: &str) -> bool {
    !uri.starts_with("file:")
}

/// A record by a key that its readers do not trust breaks their channel.
fn signs_for(trust: &Trust, signer: &dyn Signer) -> Result<(), PublishError> {
    if trust.keys().contains(signer.public()) {
        return Ok(());
    }
    Err(PublishError::Signer(signer.public().id()))
}

/// Keys to check with; none is an error for what must be proven.
pub(super) fn trusted<'a>(trust: &'a Trust, what: &str) -> Result<&'a [PublicKey], PublishError> {
    if trust.keys().is_empty() {
        return Err(PublishError::NoKey(what.to_owned()));
    }
    Ok(trust.keys())
}

fn request<'a>(wanted: &Wanted<'a>, after: Option<Digest>) -> Result<Request<'a>, PipelineError> {
    Ok(Request {
        channel: wanted.channel,
        kind: wanted.kind,
        who: wanted.who,
        why: wanted.why,
        now: now()?,
        after,
        clouds: &[],
        parameter: None,
    })
}
