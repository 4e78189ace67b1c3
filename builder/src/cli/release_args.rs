//! The grammar of the verbs that publish, and of those that bring releases back.

use std::path::PathBuf;

use clap::Args;

use super::BadInput;
use super::args::Signing;
use crate::pipeline::Clouds;

/// Where releases are.
#[derive(Debug, Args)]
pub struct Remoting {
    /// `oci://host/repository`, `s3://bucket/prefix` or `file:///folder`.
    #[arg(
        long,
        visible_alias = "to",
        value_name = "URI",
        env = "SLIPFORM_REMOTE"
    )]
    pub remote: String,
}

/// As [`Remoting`], for a verb whose `--to` means something else.
#[derive(Debug, Args)]
pub struct PlainRemoting {
    /// `oci://host/repository`, `s3://bucket/prefix` or `file:///folder`.
    #[arg(long, value_name = "URI", env = "SLIPFORM_REMOTE")]
    pub remote: String,
}

/// Whose signatures count.
#[derive(Debug, Args)]
pub struct Trusting {
    /// Public keys that are trusted; otherwise those of SLIPFORM_TRUSTED_KEYS and `trusted-keys` in config.toml, else your own.
    #[arg(long, value_name = "PUB")]
    pub key: Vec<PathBuf>,
}

/// Whose signatures count, for verbs whose `--key` is the key that they sign with.
#[derive(Debug, Args)]
pub struct Believing {
    /// Public keys that are trusted; otherwise those of SLIPFORM_TRUSTED_KEYS and `trusted-keys` in config.toml, else the one that signs.
    #[arg(long, value_name = "PUB")]
    pub trusted_key: Vec<PathBuf>,
}

/// What a record says of who made it.
#[derive(Debug, Args)]
pub struct Saying {
    /// Who does this; your login and this host's name by default.
    #[arg(long, value_name = "NAME", env = "SLIPFORM_BY")]
    pub by: Option<String>,
    /// Why, for `slipform log`.
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "")]
    pub why: String,
}

/// Images in clouds.
#[derive(Debug, Args)]
pub struct Clouding {
    /// Accounts of AWS that may start the images: 12 digits each.
    #[arg(long, value_delimiter = ',', value_name = "ACCOUNT")]
    pub share: Vec<String>,
    /// Parameter of Systems Manager that names the channel's image from now on, in each region: `/myapp/stable`; `{arch}` in it stands for x86_64 or arm64.
    #[arg(long, value_name = "PARAMETER")]
    pub ssm: Option<String>,
    /// Boards to make images of; those named after the cloud, aws-…, azure-… or gcp-…, by default.
    #[arg(long, value_delimiter = ',', value_name = "BOARD")]
    pub board: Vec<String>,
    /// Deprecate the channel's older images in AWS that no channel names any more, after this time: `30d`.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub deprecate: Option<i64>,
}

impl Clouding {
    /// Refuses what nothing that is published to would heed.
    pub(crate) fn must_fit(&self, clouds: &Clouds) -> Result<(), BadInput> {
        let only_aws = [
            ("--share", !self.share.is_empty()),
            ("--ssm", self.ssm.is_some()),
            ("--deprecate", self.deprecate.is_some()),
        ];
        let needs = |option: &str, what: &str| {
            Err(BadInput(format!(
                "{option} is about images in {what}; add --to aws://region"
            )))
        };
        match only_aws.iter().find(|(_, given)| *given) {
            Some((option, _)) if clouds.aws.is_none() => needs(option, "AWS"),
            _ if clouds.is_empty() && !self.board.is_empty() => needs("--board", "a cloud"),
            _ => Ok(()),
        }
    }
}

/// A time such as `30d`, of at least an hour: the service takes none that has passed.
fn seconds(text: &str) -> Result<i64, String> {
    let seconds = crate::spec::age(text)?.as_secs();
    if seconds < 3600 {
        return Err("at least 1h".to_owned());
    }
    i64::try_from(seconds).map_err(|error| error.to_string())
}

/// `slipform publish`.
#[derive(Debug, Args)]
pub struct Publish {
    /// Folder with slipform.toml; or with a layer.toml alone, which is published as a base.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Where releases are recorded: `oci://host/repository`, `s3://bucket/prefix` or `file:///folder`, else SLIPFORM_REMOTE; and clouds that get images: `aws://region[,region…]`, `azure://account/container`, `gcp://project/bucket[/prefix]`. Can be given several times.
    #[arg(long, visible_alias = "remote", value_name = "URI")]
    pub to: Vec<String>,
    /// Images in clouds.
    #[command(flatten)]
    pub clouding: Clouding,
    /// The channel.
    #[arg(long, default_value = "candidate")]
    pub channel: String,
    /// Publish although the gate says no.
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// Why it is forced; `log` and `pull` show it for ever.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Say what would move, and move nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Who and why.
    #[command(flatten)]
    pub saying: Saying,
    /// The key.
    #[command(flatten)]
    pub signing: Signing,
    /// Trusted keys.
    #[command(flatten)]
    pub believing: Believing,
}

/// `slipform log`.
#[derive(Debug, Args)]
pub struct Log {
    /// The channel.
    pub channel: String,
    /// Where it is.
    #[command(flatten)]
    pub remoting: Remoting,
    /// Trusted keys; without any, signatures are not checked, and the log says so.
    #[command(flatten)]
    pub trusting: Trusting,
}

/// `slipform channels`.
#[derive(Debug, Args)]
pub struct Channels {
    /// Where they are.
    #[command(flatten)]
    pub remoting: Remoting,
    /// Trusted keys; without any, signatures are not checked.
    #[command(flatten)]
    pub trusting: Trusting,
}

/// `slipform promote`.
#[derive(Debug, Args)]
pub struct Promote {
    /// The release: a channel, `channel@number`, or a digest.
    pub image: String,
    /// The channel that is to name it.
    pub channel: String,
    /// Parameter of Systems Manager that names the channel's image from now on; otherwise the one that the channel has.
    #[arg(long, value_name = "PARAMETER")]
    pub ssm: Option<String>,
    /// Where both are.
    #[command(flatten)]
    pub remoting: Remoting,
    /// Who and why.
    #[command(flatten)]
    pub saying: Saying,
    /// The key.
    #[command(flatten)]
    pub signing: Signing,
    /// Trusted keys.
    #[command(flatten)]
    pub believing: Believing,
}

/// `slipform rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// The channel.
    pub channel: String,
    /// The earlier release: its number in the channel or a digest; the one before by default.
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<String>,
    /// Parameter of Systems Manager that names the channel's image from now on; otherwise the one that the channel has.
    #[arg(long, value_name = "PARAMETER")]
    pub ssm: Option<String>,
    /// Where it is.
    #[command(flatten)]
    pub remoting: PlainRemoting,
    /// Who and why.
    #[command(flatten)]
    pub saying: Saying,
    /// The key.
    #[command(flatten)]
    pub signing: Signing,
    /// Trusted keys.
    #[command(flatten)]
    pub believing: Believing,
}

/// `slipform revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The release: a channel, `channel@number`, or a digest.
    pub image: String,
    /// Why; whoever pulls it is told.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Where it is.
    #[command(flatten)]
    pub remoting: Remoting,
    /// Who does this; your login and this host's name by default.
    #[arg(long, value_name = "NAME", env = "SLIPFORM_BY")]
    pub by: Option<String>,
    /// The key.
    #[command(flatten)]
    pub signing: Signing,
    /// Trusted keys.
    #[command(flatten)]
    pub believing: Believing,
}

/// `slipform pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The release: a channel, `channel@number`, or a digest.
    pub image: String,
    /// Where it is.
    #[command(flatten)]
    pub remoting: Remoting,
    /// The board, if the release is for several.
    #[arg(long)]
    pub board: Option<String>,
    /// Formats to write.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "raw",
        value_name = "FORMAT"
    )]
    pub format: Vec<crate::output::OutputFormat>,
    /// Folder for the images.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Trusted keys.
    #[command(flatten)]
    pub trusting: Trusting,
}

/// `slipform verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The release: a channel, `channel@number`, or a digest.
    pub image: String,
    /// Where it is.
    #[command(flatten)]
    pub remoting: Remoting,
    /// Build it again from its sources and lock, and compare.
    #[arg(long)]
    pub rebuild: bool,
    /// Read its images in clouds back, every block, and compare.
    #[arg(long)]
    pub clouds: bool,
    /// Trusted keys.
    #[command(flatten)]
    pub trusting: Trusting,
}

/// `slipform checkout`.
#[derive(Debug, Args)]
pub struct Checkout {
    /// The release: a channel, `channel@number`, or a digest.
    pub image: String,
    /// Folder to make.
    pub dir: PathBuf,
    /// Where it is.
    #[command(flatten)]
    pub remoting: Remoting,
    /// Trusted keys.
    #[command(flatten)]
    pub trusting: Trusting,
}
