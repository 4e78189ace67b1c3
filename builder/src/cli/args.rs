//! The command line's grammar and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::export::Export;
use super::flash::Flash;
use super::inside::{Logs, Ps};
use super::release_args::{
    Channels, Checkout, Log, Promote, Publish, Pull, Revoke, Rollback, Verify,
};
use super::sweep::Sweeping;
use crate::pipeline::CacheMode;

/// Casts bootable, minimal, immutable OS images, and boots them before anybody else does.
#[derive(Debug, Parser)]
#[command(
    name = "slipform",
    version,
    after_help = "Example: slipform new myapp && cd myapp && slipform test\n\nExit codes: 0 good, 1 the operation failed, 2 the input is wrong, 3 the image failed its boot test."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Print one JSON object on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on stderr.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Use no network at all.
    #[arg(long, global = true)]
    pub offline: bool,
    /// Base URI of a Debian mirror.
    #[arg(long, global = true, value_name = "URI")]
    pub mirror: Option<String>,
    /// Folder of the store.
    #[arg(long, global = true, value_name = "DIR", env = "SLIPFORM_STORE")]
    pub store: Option<PathBuf>,
    /// Store of the team's that `slipform fetch --to` filled, asked before any mirror: `oci://host/repository`, `s3://bucket/prefix` or `file:///folder`.
    #[arg(
        long,
        global = true,
        value_name = "URI",
        value_delimiter = ',',
        env = "SLIPFORM_SOURCES"
    )]
    pub sources: Vec<String>,
    /// Cache that many machines share, for built layers and fetched packages: `oci://host/repository`, `s3://bucket/prefix` or `file:///folder`. Never trusted for an attestation.
    #[arg(long, global = true, value_name = "URI", env = "SLIPFORM_CACHE")]
    pub cache: Option<String>,
    /// Whether this machine only takes from the cache, or also gives to it.
    #[arg(
        long,
        global = true,
        value_name = "MODE",
        default_value = "read",
        env = "SLIPFORM_CACHE_MODE"
    )]
    pub cache_mode: CacheMode,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a new project that boots at once.
    #[command(after_help = "Example: slipform new myapp")]
    New(New),
    /// Resolve packages and write slipform.lock.
    #[command(
        after_help = "Examples:\n  slipform lock                          lock what is not locked yet\n  slipform lock --update redis-server    move one package to the newest\n  slipform lock --check                  what is newer, and what of it is security"
    )]
    Lock(Lock),
    /// Put everything that the lock names into the store.
    #[command(
        after_help = "Examples:\n  slipform fetch && slipform build --offline\n  slipform fetch --to oci://registry.example.com/inputs          copy it all to the team's own store\n  slipform build --sources oci://registry.example.com/inputs     and build from there, whatever becomes of the mirror"
    )]
    Fetch(Fetch),
    /// Cast the image.
    #[command(
        after_help = "Examples:\n  slipform build --format raw,qcow2 --explain\n  slipform build --cache s3://bucket/cache --cache-mode read-write     what is built here, other machines need not build"
    )]
    Build(Build),
    /// Boot the image for a person; Ctrl-] ends it.
    #[command(
        after_help = "Example: slipform run --publish 8080:8080\n\n`slipform ps` and `slipform logs` look into it from another terminal."
    )]
    Run(Run),
    /// Look into a machine that `slipform run` runs: its services, memory, mounts, network.
    #[command(
        after_help = "Examples:\n  slipform ps                        the services of the one machine that runs\n  slipform ps hello --all            everything, of the machine whose image is hello\n  slipform ps 4711 --json            everything for programs, of the machine with that id"
    )]
    Ps(Ps),
    /// Print the latest log lines of a machine that `slipform run` runs.
    #[command(
        after_help = "Examples:\n  slipform logs --service web --lines 20\n  slipform logs hello --follow\n\nLines of init have the service `slipform`, the kernel's `kernel`. With --json, one object a line."
    )]
    Logs(Logs),
    /// Cast the image, boot it and check it.
    #[command(
        after_help = "Examples:\n  slipform test layers/images/hello\n  slipform test --repeat 5 --jobs 2 --junit junit.xml\n  slipform test --shard 1/3 --report part-1       one runner of three\n  slipform test --image out/hello-0.1.0-qemu-x86_64.qcow2\n  slipform test --tamper --power-cut 10 --seed 7 --jobs 2\n  slipform test --condition low-memory,512e"
    )]
    Test(Test),
    /// Work with reports of boot tests.
    #[command(after_help = "Example: slipform report merge part-1 part-2 part-3 --out whole")]
    Report(Report),
    /// Say what is in an image: a file of any format, or a digest of the store.
    #[command(after_help = "Example: slipform inspect out/myapp-0.1.0-qemu-x86_64.raw")]
    Inspect(Inspect),
    /// Say what differs between two images: packages, services, files, sizes.
    #[command(
        after_help = "Examples:\n  slipform diff out/myapp-0.1.0-qemu-x86_64.raw out/myapp-0.2.0-qemu-x86_64.raw\n  slipform diff sha256:… sha256:… --all\n\nExit codes: 0 the same, 1 different, 2 one of them cannot be read."
    )]
    Diff(Diff),
    /// Write an image in another format: for a cloud, a hypervisor, or to send it.
    #[command(
        after_help = "Examples:\n  slipform export out/myapp-0.1.0-azure-x86_64.raw --format vhd\n  slipform export sha256:… --format ova --output myapp.ova\n\nEvery format holds the very same disk, which is read back before the file gets its name."
    )]
    Export(Export),
    /// Write an image onto a disk of this host, and read it back.
    #[command(
        after_help = "Examples:\n  slipform flash out/myapp-0.1.0-generic-x86_64.raw /dev/sdX\n  slipform flash sha256:… disk.img --file --yes\n\nShows what is on the disk and asks. A disk that is mounted, swap, or part of LVM, RAID or encryption is refused."
    )]
    Flash(Flash),
    /// Make or show the key that attestations are signed with.
    #[command(
        after_help = "Examples:\n  slipform key new                     ask for a passphrase, write key.pem and key.pub\n  slipform key new --out release.pem --no-passphrase\n  slipform key show > release.pub"
    )]
    Key(Key),
    /// Publish an image that passed its boot test.
    #[command(
        after_help = "Examples:\n  slipform publish --to oci://registry.example.com/hello\n  slipform publish layers/base --to oci://registry.example.com/base --channel stable    (a base, for `use`)\n  slipform publish --to file:///srv/images --channel candidate --why 'new page'\n  slipform publish --to file:///srv/images --to aws://eu-central-1,us-east-1 --ssm /myapp/stable --dry-run\n\nOnly what was tested as it is now is published; --force needs a --reason, which stays with it."
    )]
    Publish(Publish),
    /// Print a channel's history, newest first.
    #[command(after_help = "Example: slipform log stable --remote file:///srv/images")]
    Log(Log),
    /// List the channels of a remote and what they name.
    #[command(after_help = "Example: slipform channels --remote file:///srv/images")]
    Channels(Channels),
    /// Let a channel name a release that was published before.
    #[command(
        after_help = "Example: slipform promote candidate stable --remote oci://registry.example.com/hello\n\nWhere the release has images in a cloud, the channel's parameter (--ssm) follows."
    )]
    Promote(Promote),
    /// Let a channel name its earlier release again.
    #[command(
        after_help = "Examples:\n  slipform rollback stable --why 'login broken'\n  slipform rollback stable --to 3"
    )]
    Rollback(Rollback),
    /// Say that a release must not be used any more.
    #[command(after_help = "Example: slipform revoke stable@3 --reason 'leaks its key'")]
    Revoke(Revoke),
    /// Bring a release here: verify all of it and cast its disk, bit for bit.
    #[command(
        after_help = "Example: slipform pull stable --remote file:///srv/images --format qcow2"
    )]
    Pull(Pull),
    /// Check a release; with --rebuild, build it again; with --clouds, read its images back.
    #[command(
        after_help = "Examples:\n  slipform verify stable --rebuild --key release.pub\n  slipform verify stable --clouds"
    )]
    Verify(Verify),
    /// Lay out what a release was built from, to branch from it.
    #[command(after_help = "Example: slipform checkout stable@3 hotfix")]
    Checkout(Checkout),
    /// Remove from the store what no project's last build or lock needs.
    #[command(after_help = "Example: slipform gc --dry-run")]
    Gc(Gc),
    /// Print the JSON schema of slipform.toml, layer.toml or a board.
    #[command(after_help = "Example: slipform schema image > slipform.schema.json")]
    Schema(Schema),
    /// Print completions for a shell.
    #[command(
        after_help = "Example: slipform completions bash > ~/.local/share/bash-completion/completions/slipform"
    )]
    Completions(Completions),
}

/// `slipform new`.
#[derive(Debug, Args)]
pub struct New {
    /// Folder to make; its name becomes the image's.
    pub dir: PathBuf,
    /// Run this container image: `oci://host/repository:tag`, an OCI layout's folder or an archive, `:NAME` behind it where it holds several. What is a file is copied into the folder.
    #[arg(long, value_name = "IMAGE")]
    pub from: Option<String>,
}

/// `slipform fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Folder with slipform.toml.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Also copy all of it to a store of the team's, for `--sources`; only what is missing there moves.
    #[arg(long, value_name = "URI")]
    pub to: Option<String>,
}

/// `slipform lock`.
#[derive(Debug, Args)]
pub struct Lock {
    /// Folder with slipform.toml.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Move these packages, or layers that are published bases, to the newest; all of them if none is named.
    #[arg(long, num_args = 0.., value_name = "PKG", conflicts_with = "check")]
    pub update: Option<Vec<String>>,
    /// Change nothing; say what is newer. Exit code 1 if anything is.
    #[arg(long)]
    pub check: bool,
}

/// What to cast, and how.
#[derive(Debug, Args)]
pub struct Casting {
    /// Folder with slipform.toml.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Boards to cast for, instead of those in slipform.toml.
    #[arg(long, value_delimiter = ',', value_name = "BOARD")]
    pub board: Vec<String>,
    /// Folder for the images; `out` beside slipform.toml by default.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Fail when slipform.lock is missing or stale.
    #[arg(long)]
    pub locked: bool,
}

/// `slipform build`.
#[derive(Debug, Args)]
pub struct Build {
    /// What to cast.
    #[command(flatten)]
    pub casting: Casting,
    /// Formats to write.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "raw",
        value_name = "FORMAT"
    )]
    pub format: Vec<crate::output::OutputFormat>,
    /// Say for each step whether it was done before, and if not, which input changed.
    #[arg(long)]
    pub explain: bool,
    /// Also compute each file's flat SHA-256.
    #[arg(long)]
    pub sum: bool,
}

/// Which emulator, and how it runs.
#[derive(Debug, Args)]
pub struct Emulating {
    /// `locked`: QEMU and firmware from the lock; `host`: the host's.
    #[arg(long, default_value = "locked", value_parser = ["locked", "host"])]
    pub qemu: String,
    /// `auto` probes whether KVM works, `tcg` never uses it, `kvm` insists.
    #[arg(long, default_value = "auto", value_parser = ["auto", "tcg", "kvm"], env = "SLIPFORM_ACCEL")]
    pub accel: String,
}

/// `slipform run`.
#[derive(Debug, Args)]
pub struct Run {
    /// What to cast.
    #[command(flatten)]
    pub casting: Casting,
    /// The emulator.
    #[command(flatten)]
    pub emulating: Emulating,
    /// Forward a port of this host (0: a free one) to one of the machine.
    #[arg(long, value_name = "HOST:GUEST", value_parser = port_pair)]
    pub publish: Vec<(u16, u16)>,
    /// Keep the machine's state in this file from run to run, also when the image changes; it is made if it is not there.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
}

/// `slipform test`.
#[derive(Debug, Args)]
pub struct Test {
    /// What to cast.
    #[command(flatten)]
    pub casting: Casting,
    /// The emulator.
    #[command(flatten)]
    pub emulating: Emulating,
    /// Start the kernel directly, without firmware: quicker, and no proof that the image boots.
    #[arg(long)]
    pub direct: bool,
    /// Folder for console, events and report, with a folder for each board if there are
    /// several; `out/boot-BOARD` by default.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Also write all verdicts as JUnit XML to this file.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Boot so many machines at once (boards, repeats and sweeps).
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Test each image so many times; what does not always pass is red, and called FLAKY if it passed once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repeat: u16,
    /// For whatever is chosen by chance; kept in the report. Sweeps make one of their own if none is given.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Test this raw or qcow2 file with the plan of the specification, instead of a disk written now.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Sign at once what a green run shows; otherwise `slipform publish` signs it.
    #[command(flatten)]
    pub signing: Signing,
    /// Make only part K of N of the user's checks, for `slipform report merge`.
    #[arg(long, value_name = "K/N", value_parser = shard, conflicts_with = "repeat")]
    pub shard: Option<(u32, u32)>,
    /// Further boots, once this one is green.
    #[command(flatten)]
    pub sweeping: Sweeping,
}

/// `slipform report`.
#[derive(Debug, Args)]
pub struct Report {
    /// What to do.
    #[command(subcommand)]
    pub verb: ReportVerb,
}

/// What to do with reports.
#[derive(Debug, Subcommand)]
pub enum ReportVerb {
    /// Make one report of the parts that `slipform test --shard` left; refuses a missing or foreign part.
    Merge(Merge),
}

/// `slipform report merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// The `--report` folders of all shards.
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Folder for the whole report.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// `slipform inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A file of any format that `export` writes, or `sha256:…` of the store.
    pub image: String,
}

/// `slipform diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The first image: a file of any format, `sha256:…` of the store (an image, or a release over several boards), or with --remote a channel, `channel@number` or digest.
    pub old: String,
    /// The second image.
    pub new: String,
    /// Where channels are looked up, for sides such as `stable` and `stable@3`.
    #[arg(long, value_name = "URI", env = "SLIPFORM_REMOTE")]
    pub remote: Option<String>,
    /// Public keys that are trusted for what a channel names.
    #[arg(long, value_name = "PUB")]
    pub key: Vec<PathBuf>,
    /// Print every file, not the first 200 of each image only.
    #[arg(long)]
    pub all: bool,
}

/// `slipform key`.
#[derive(Debug, Args)]
pub struct Key {
    /// What to do.
    #[command(subcommand)]
    pub verb: KeyVerb,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Make a new ECDSA P-256 key, encrypted by a passphrase.
    #[command(after_help = "Example: slipform key new --out release.pem")]
    New(KeyNew),
    /// Print a key's public half and its id.
    #[command(
        after_help = "Examples:\n  slipform key show release.pem\n  slipform key show --signer 'kms-sign my-key' --key kms.pub    does the signer work?"
    )]
    Show(KeyShow),
}

/// `slipform key new`.
#[derive(Debug, Args)]
pub struct KeyNew {
    /// File to write, its public half beside it as .pub; never over one that is there. Default: $XDG_CONFIG_HOME/slipform/key.pem, or ~/.config/slipform/key.pem.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write the key in the clear: whoever can read the file can sign.
    #[arg(long, conflicts_with = "passphrase_fd")]
    pub no_passphrase: bool,
    /// Read the passphrase from this file descriptor, not from SLIPFORM_PASSPHRASE or the terminal.
    #[arg(long, value_name = "N")]
    pub passphrase_fd: Option<u32>,
}

/// `slipform key show`.
#[derive(Debug, Args)]
pub struct KeyShow {
    /// Key file, private or public; your own by default.
    #[arg(conflicts_with = "key")]
    pub file: Option<PathBuf>,
    /// A signer, which is then asked for a signature: what comes must verify.
    #[command(flatten)]
    pub signing: Signing,
}

/// Who signs.
#[derive(Debug, Clone, Default, Args)]
pub struct Signing {
    /// Key file to sign with; with --signer, the public key of the signer. Your own key by default.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Shell command that signs, in front of a KMS or an HSM: bytes on its standard input, an ECDSA P-256 signature (DER, or base64 of it) on its standard output.
    #[arg(long, value_name = "COMMAND", requires = "key")]
    pub signer: Option<String>,
    /// Read the key's passphrase from this file descriptor, not from SLIPFORM_PASSPHRASE or the terminal.
    #[arg(long, value_name = "N")]
    pub passphrase_fd: Option<u32>,
}

/// `slipform gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// Remove nothing; say what would go.
    #[arg(long)]
    pub dry_run: bool,
}

/// `slipform schema`.
#[derive(Debug, Args)]
pub struct Schema {
    /// Which file's.
    #[arg(value_parser = ["image", "layer", "board"])]
    pub kind: String,
}

/// `slipform completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// Reads `K/N`.
fn shard(text: &str) -> Result<(u32, u32), String> {
    let pair = text
        .split_once('/')
        .and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    pair.filter(|(part, of)| (1..=*of).contains(part) && *of <= 1000)
        .ok_or_else(|| format!("'{text}' is no part; write K/N with K from 1 to N, such as 1/3"))
}

fn port_pair(text: &str) -> Result<(u16, u16), String> {
    let error = || format!("'{text}' is no pair of ports; write HOST:GUEST, such as 8080:80");
    let (host, guest) = text.split_once(':').ok_or_else(error)?;
    let guest: u16 = guest.parse().map_err(|_| error())?;
    if guest == 0 {
        return Err(error());
    }
    Ok((host.parse().map_err(|_| error())?, guest))
}
