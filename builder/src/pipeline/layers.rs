//! Each layer becomes a sealed file system, or is found to be one already.
//!
//! A layer's key is made of its own inputs and of those facts of the layers
//! below that it read ([`crate::tree::Below`] remembers them). So it is found
//! again, although something else below it changed:
//!
//! ```text
//! own inputs + layers below, whole -> facts    quick: nothing below changed, nothing is read
//! own inputs                       -> facts    what this layer asked last time; asked again
//! own inputs + facts               -> sealed   the answers are the same: the layer is the same
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{PipelineError, Settings, blob, cargo, output, packages, value};
use crate::base::Digest;
use crate::filesystem::ext4::{self, Ext4Options};
use crate::layers::{self, CollectInput, Kind, UnpackedDeb, content};
use crate::lock::LockFile;
use crate::spec::{Image, LayerSpec};
use crate::store::{Output, Outputs, StatCache, Step, StepLog, StepState};
use crate::tree::generated::{self, Accounts, GenerateInput};
use crate::tree::{self, Below, Facts, Tree, TreeError, listing};
use crate::verity::{self, Sealed};

/// Changes when a layer's bytes change for the same inputs.
const FORMAT: &str = "layer 1";
/// The folder of a layer's file system that is stacked, so that `lost+found` is not.
const ROOT: &str = slipform_init::contract::machine::LAYER_ROOT;
/// Name of the input that stands for the user's own files.
const FILES: &str = "files";
/// Name of the topmost layer.
const GENERATED: &str = "generated";

/// All layers of an image, bottom to top, the generated one last.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) layers: Vec<(String, Sealed)>,
    pub(super) accounts: Accounts,
}

/// A layer of the image with what it is made of.
struct Inputs<'a> {
    spec: &'a LayerSpec,
    packages: Vec<UnpackedDeb>,
    built: Option<PathBuf>,
    /// The user's own, as they were looked at once.
    user: Vec<layers::Entry>,
    /// Named digests of all that it reads of its own.
    own: Vec<(String, Digest)>,
}

/// A layer made or found.
struct Made {
    sealed: Sealed,
    listing: Digest,
}

/// Makes or finds every layer of `image`.
pub(super) fn stack(
    settings: &Settings,
    image: &Image,
    lock: &LockFile,
) -> Result<Stack, PipelineError> {
    let work = Work::new(settings, image, lock)?;
    let mut made: Vec<Made> = Vec::new();
    for index in 0..work.inputs.len() {
        made.push(work.layer(index, &made)?);
    }
    let top = work.generated(&made)?;
    work.stats.save()?;
    let names = image
        .layers
        .iter()
        .map(|layer| layer.name.clone())
        .chain([GENERATED.to_owned()]);
    let layers = names
        .zip(made.into_iter().chain([top]).map(|m| m.sealed))
        .collect();
    Ok(Stack {
        layers,
        accounts: work.accounts,
    })
}

/// What is in an image's layers, and where it came from.
#[derive(Debug)]
pub(super) struct Anatomy {
    /// Name and tree of each layer, bottom to top, the generated one last.
    pub(super) trees: Vec<(String, Tree)>,
    /// The packages of each layer, unpacked.
    pub(super) packages: Vec<(String, Vec<UnpackedDeb>)>,
    /// Digests of the user's own files, by layer.
    pub(super) files: Vec<(String, Digest)>,
}

/// Takes the layers of `image` apart again; nothing is sealed or stored.
pub(super) fn anatomy(
    settings: &Settings,
    image: &Image,
    lock: &LockFile,
) -> Result<Anatomy, PipelineError> {
    let work = Work::new(settings, image, lock)?;
    let trees = work.trees()?;
    let top = work.generated_tree(&trees)?;
    let names = image.layers.iter().map(|layer| layer.name.clone());
    let files = work.inputs.iter().filter_map(|inputs| {
        let (_, digest) = inputs.own.iter().find(|(name, _)| name == FILES)?;
        Some((inputs.spec.name.clone(), *digest))
    });
    Ok(Anatomy {
        files: files.collect(),
        trees: names
            .chain([GENERATED.to_owned()])
            .zip(trees.into_iter().chain([top]))
            .collect(),
        packages: work
            .inputs
            .iter()
            .map(|inputs| (inputs.spec.name.clone(), inputs.packages.clone()))
            .collect(),
    })
}

/// What all layers of one build share.
struct Work<'a> {
    settings: &'a Settings,
    image: &'a Image,
    accounts: Accounts,
    stats: StatCache,
    inputs: Vec<Inputs<'a>>,
}

impl<'a> Work<'a> {
    fn new(
        settings: &'a Settings,
        image: &'a Image,
        lock: &LockFile,
    ) -> Result<Self, PipelineError> {
        let stats = StatCache::load(&settings.store, &image.dir.to_string_lossy());
        let mut inputs = Vec::new();
        for spec in &image.layers {
            let locked = lock.layers.iter().find(|layer| layer.name == spec.name);
            let mut packages = Vec::new();
            for package in locked
                .map(|layer| layer.packages.as_slice())
                .unwrap_or_default()
            {
                packages.push(packages::unpack(settings, &package.sha256)?);
            }
            let built = spec
                .cargo
                .as_ref()
                .map(|rule| cargo::build(&settings.store, spec, rule, settings.offline));
            inputs.push(Inputs {
                spec,
                packages,
                built: built.transpose()?,
                user: Vec::new(),
                own: Vec::new(),
            });
        }
        let accounts = accounts(image, &inputs)?;
        let mut work = Self {
            settings,
            image,
            accounts,
            stats,
            inputs,
        };
        for index in 0..work.inputs.len() {
            let user = work.with_input(&work.inputs[index], layers::user_entries)?;
            let own = own_inputs(&work.inputs[index], &user);
            (work.inputs[index].user, work.inputs[index].own) = (user, own);
        }
        Ok(work)
    }

    fn with_input<T>(&self, inputs: &Inputs<'_>, gather: impl Fn(&CollectInput<'_>) -> T) -> T {
        gather(&CollectInput {
            spec: inputs.spec,
            packages: &inputs.packages,
            store: &self.settings.store,
            digest_of: &|path, meta| self.stats.digest_seen(path, meta),
            ids: &|owner| self.accounts.ids(owner),
            built: inputs.built.as_deref(),
        })
    }

    fn subject(&self, name: &str) -> String {
        format!("{name} of {}", self.image.dir.display())
    }

    /// Makes or finds one layer; `below` are those under it.
    fn layer(&self, index: usize, below: &[Made]) -> Result<Made, PipelineError> {
        let inputs = &self.inputs[index];
        let name = &inputs.spec.name;
        let step = |kind: &str| {
            inputs
                .own
                .iter()
                .fold(Step::new(kind, self.subject(name)), |s, (n, d)| {
                    s.input(n, *d)
                })
        };
        let store = &self.settings.store;
        let quiet = StepLog::default();
        let quick = step("layer, nothing below changed").value(
            "below",
            below
                .iter()
                .map(|m| m.listing.to_string())
                .collect::<String>(),
        );
        let asked = step("layer, what it asks of those below");
        let keyed = |facts: Digest| step(FORMAT).input("layers below", facts);

        let mut facts = match store.step(&quick, &quiet) {
            StepState::Hit(outputs) => Some(blob(&outputs, "facts")?),
            StepState::Miss { .. } => None,
        };
        let trees = if facts.is_none() {
            self.listings(below)?
        } else {
            Vec::new()
        };
        let view = Below::new(&self.named(&trees));
        if facts.is_none() {
            let why = match store.step(&asked, &quiet) {
                StepState::Hit(outputs) => {
                    let digest = blob(&outputs, "facts")?;
                    let answers: Option<Facts> = serde_json::from_slice(&store.read(&digest)?).ok();
                    facts = answers
                        .filter(|answers| view.still_true(answers))
                        .map(|_| digest);
                    vec!["layers below".to_owned()]
                }
                StepState::Miss { changed } => changed,
            };
            if facts.is_none() {
                self.settings.steps.missed(&step(FORMAT), why);
            }
        }
        if let Some(digest) = facts
            && let StepState::Hit(outputs) = store.step(&keyed(digest), &self.settings.steps)
        {
            store.record(
                &quick,
                &Outputs::from([("facts".to_owned(), Output::Blob(digest))]),
            )?;
            return made(&outputs);
        }
        self.settings
            .may_make(&step(FORMAT), vec!["its inputs".to_owned()])?;
        let trees = if trees.is_empty() && !below.is_empty() {
            self.listings(below)?
        } else {
            trees
        };
        let view = Below::new(&self.named(&trees));
        let tree = self.tree(inputs, &view)?;
        let outputs = self.seal(name, &tree)?;
        let answers = serde_json::to_vec(&view.facts())
            .map_err(|e| PipelineError::Internal(e.to_string()))?;
        let facts = store.put(&answers)?;
        let known = Outputs::from([("facts".to_owned(), Output::Blob(facts))]);
        store.record(&keyed(facts), &outputs)?;
        store.record(&asked, &known)?;
        store.record(&quick, &known)?;
        made(&outputs)
    }

    /// The tree of one layer with where its files' bytes are.
    fn tree(&self, inputs: &Inputs<'_>, below: &Below<'_>) -> Result<Tree, PipelineError> {
        let entries = self.with_input(inputs, |input| {
            layers::collect_with(input, inputs.user.clone())
        })?;
        let built =
            tree::build(entries, &inputs.spec.remove, below).map_err(|error| match error {
                // These name the layer themselves.
                TreeError::Layers(error) => PipelineError::Layers(error),
                error => PipelineError::Layer {
                    layer: inputs.spec.name.clone(),
                    error,
                },
            })?;
        for note in &built.notes {
            self.settings
                .progress
                .note(&format!("layer {}: {note}", inputs.spec.name));
        }
        Ok(built.tree)
    }

    /// The topmost layer: what depends on the whole stack.
    fn generated(&self, below: &[Made]) -> Result<Made, PipelineError> {
        let rules = self
            .inputs
            .iter()
            .map(|i| format!("{:?}{:?}", i.spec.users, i.spec.groups))
            .collect::<String>();
        let stack: String = below.iter().map(|m| m.sealed.root_hex()).collect();
        let step = Step::new("generated layer 1", self.subject(GENERATED))
            .value("layers below", stack)
            .value("users and groups", rules)
            .value(
                "name and version",
                format!("{} {}", self.image.name, self.image.version),
            )
            .value("scratch", format!("{:?}", self.image.scratch));
        let paths = self.image.state.iter().flat_map(|state| &state.paths);
        let paths: Vec<&str> = paths.map(|path| path.path.as_str()).collect();
        let step = match paths.as_slice() {
            [] => step,
            paths => step.value("state", format!("{paths:?}")),
        };
        let outputs = self.settings.step(&step, || {
            let tree = self.generated_tree(&self.trees()?)?;
            self.seal(GENERATED, &tree)
        })?;
        made(&outputs)
    }

    /// The trees of all layers but the generated one, with where their files' bytes
    /// are, which listings do not have.
    fn trees(&self) -> Result<Vec<Tree>, PipelineError> {
        let mut trees: Vec<Tree> = Vec::new();
        for inputs in &self.inputs {
            let tree = self.tree(inputs, &Below::new(&self.named(&trees)))?;
            trees.push(tree);
        }
        Ok(trees)
    }

    fn generated_tree(&self, trees: &[Tree]) -> Result<Tree, PipelineError> {
        let view = Below::new(&self.named(trees));
        let store = &self.settings.store;
        let built = generated::generate(&GenerateInput {
            below: &view,
            accounts: &self.accounts,
            read: &|what, offset, length| content::read_range(what, store, offset, length),
            name: &self.image.name,
            version: &self.image.version,
            scratch: &self.image.scratch,
            state: self.image.state.as_ref(),
        })?;
        Ok(built.tree)
    }

    /// Writes, hashes and stores a tree.
    fn seal(&self, name: &str, tree: &Tree) -> Result<Outputs, PipelineError> {
        let store = &self.settings.store;
        let files = |kind: &Kind| {
            if let Kind::File(content) = kind {
                content.size
            } else {
                0
            }
        };
        let total = tree.nodes.values().map(|node| files(&node.kind)).sum();
        let task = self
            .settings
            .progress
            .begin(&format!("layer {name}"), Some(total));
        let text = listing::write(tree);
        // Same files, same file system: UUID, hash seed and salt are drawn from the listing.
        let seed = Digest::of(&text);
        let image = ext4::write(
            store,
            tree,
            &Ext4Options {
                seed,
                label: name,
                root: ROOT,
            },
            &|content| {
                task.advance(content.size);
                content::open_unhashed(content, store)
                    .map(|reader| Box::new(reader) as Box<dyn std::io::Read>)
                    .map_err(std::io::Error::other)
            },
        )?;
        let sealed = verity::seal(store, image, &seed)?;
        Ok(Outputs::from([
            ("blob".to_owned(), Output::Blob(sealed.blob)),
            ("sealed".to_owned(), output(&sealed)?),
            (
                "listing".to_owned(),
                Output::Blob(store.put(text.as_bytes())?),
            ),
        ]))
    }

    fn listings(&self, made: &[Made]) -> Result<Vec<Tree>, PipelineError> {
        made.iter()
            .map(|layer| {
                let bytes = self.settings.store.read(&layer.listing)?;
                Ok(listing::read(&String::from_utf8_lossy(&bytes))?)
            })
            .collect()
    }

    fn named<'b>(&'b self, trees: &'b [Tree]) -> Vec<(&'b str, &'b Tree)> {
        self.inputs
            .iter()
            .map(|i| i.spec.name.as_str())
            .zip(trees)
            .collect()
    }
}

fn made(outputs: &Outputs) -> Result<Made, PipelineError> {
    Ok(Made {
        sealed: value(outputs, "sealed")?,
        listing: blob(outputs, "listing")?,
    })
}

/// All users and groups of the image: Debian's, the packages', the user's.
fn accounts(image: &Image, inputs: &[Inputs<'_>]) -> Result<Accounts, PipelineError> {
    Ok(Accounts::new(
        &image.layers,
        inputs.iter().flat_map(|i| &i.packages),
    )?)
}

/// Digests of all that a layer reads of its own: rules, packages, files.
fn own_inputs(inputs: &Inputs<'_>, user: &[layers::Entry]) -> Vec<(String, Digest)> {
    let packages: Vec<String> = inputs
        .packages
        .iter()
        .map(|package| package.tar.to_string())
        .collect();
    // The folder is not an input, what is in it is.
    let rules = LayerSpec {
        dir: PathBuf::new(),
        ..inputs.spec.clone()
    };
    let mut files = String::new();
    for entry in user {
        add_file(&mut files, entry);
    }
    vec![
        ("rules".to_owned(), Digest::of(format!("{rules:?}"))),
        ("packages".to_owned(), Digest::of(packages.join("\n"))),
        (FILES.to_owned(), Digest::of(files)),
    ]
}

/// A file of the user's as a line: everything of it that enters the image.
fn add_file(text: &mut String, entry: &layers::Entry) {
    let layers::Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    } = &entry.meta;
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{}\0{mode:o} {uid} {gid} {mtime} {xattrs:?} ",
        entry.path
    );
    let _ = match &entry.kind {
        Kind::File(content) => match content.digest {
            Some(digest) => writeln!(text, "file {} {digest}", content.size),
            None => writeln!(text, "file {}", content.size),
        },
        other => writeln!(text, "{other:?}"),
    };
}
