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

mod inputs;

use std::path::PathBuf;

use super::bases::{self, BaseFacts, BaseLayer};
use inputs::{accounts, own_inputs};

use super::locking::needs_tls;
use super::parts::architecture;
use super::{PipelineError, Settings, blob, cargo, output, packages, value};
use crate::base::Digest;
use crate::filesystem::ext4::{self, Ext4Options};
use crate::layers::{
    self, CollectInput, Kind, UnpackedContainer, UnpackedDeb, UnpackedTar, content,
};
use crate::lock::LockFile;
use crate::spec::{Image, LayerSpec};
use crate::store::{CAME_FROM, Descriptor, Output, Outputs, StatCache, Step, StepState};
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
    /// For an image that is a base: what its manifest carries for others.
    pub(super) base_parts: Vec<Descriptor>,
}

/// A layer of the image with what it is made of.
struct Inputs<'a> {
    spec: &'a LayerSpec,
    packages: Vec<UnpackedDeb>,
    built: Option<PathBuf>,
    /// Its `tar`, unpacked.
    tar: Option<UnpackedTar>,
    /// Its container, unpacked.
    container: Option<UnpackedContainer>,
    /// The user's own, as they were looked at once.
    user: Vec<layers::Entry>,
    /// Named digests of all that it reads of its own.
    own: Vec<(String, Digest)>,
    /// It was published, and is taken as it is.
    base: Option<BaseFacts>,
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
    let base_parts = match (work.inputs.first(), made.first()) {
        (Some(inputs), Some(made)) if image.base => {
            let base = BaseLayer {
                packages: &inputs.packages,
                user: &inputs.user,
                sealed: &made.sealed,
                listing: made.listing,
                accounts: &work.accounts,
            };
            settings.base_parts(image, lock, &base)?
        }
        _ => Vec::new(),
    };
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
        base_parts,
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
        let arch = architecture(image)?;
        let mut inputs = Vec::new();
        for spec in &image.layers {
            let locked = lock.layers.iter().find(|layer| layer.name == spec.name);
            if let Some((layer, base)) = locked.and_then(|l| Some((l, l.base.as_ref()?))) {
                let facts = settings.base_facts(base)?;
                bases::check_lock(image, layer, &facts)?;
                inputs.push(Inputs {
                    spec,
                    packages: bases::unpack(settings, &facts)?,
                    built: None,
                    tar: None,
                    container: None,
                    user: Vec::new(),
                    own: Vec::new(),
                    base: Some(facts),
                });
                continue;
            }
            let mut packages = Vec::new();
            for package in locked
                .map(|layer| layer.packages.as_slice())
                .unwrap_or_default()
            {
                packages.push(packages::unpack(settings, &package.sha256)?);
            }
            let tar = locked.and_then(|layer| Some((spec.tar.as_ref()?, layer.tar.as_ref()?)));
            let tar = tar.map(|(rule, tar)| settings.unpack_tar(rule, tar));
            let container =
                locked.and_then(|layer| Some((spec.oci.as_ref()?, layer.oci.as_ref()?)));
            let container = container.map(|(rule, c)| settings.unpack_container(rule, arch, c));
            let built = spec
                .cargo
                .as_ref()
                .map(|rule| cargo::build(&settings.store, spec, rule, (arch, settings.offline)));
            inputs.push(Inputs {
                spec,
                packages,
                built: built.transpose()?,
                tar: tar.transpose()?,
                container: container.transpose()?,
                user: Vec::new(),
                own: Vec::new(),
                base: None,
            });
        }
        let accounts = accounts(settings, image, &inputs)?;
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
            tar: inputs.tar.as_ref(),
            container: inputs.container.as_ref(),
        })
    }

    fn subject(&self, name: &str) -> String {
        format!("{name} of {}", self.image.dir.display())
    }

    /// Makes or finds one layer; `below` are those under it.
    fn layer(&self, index: usize, below: &[Made]) -> Result<Made, PipelineError> {
        let inputs = &self.inputs[index];
        if let Some(facts) = &inputs.base {
            return Ok(Made {
                sealed: facts.layer.clone(),
                listing: facts.listing,
            });
        }
        let (settings, store) = (self.settings, &self.settings.store);
        let steps = self.layer_steps(inputs, below);
        let mut why = match self.found(&steps, below)? {
            Found::Made(made) => return Ok(made),
            Found::No(why) => why,
        };
        if let Some(made) = self.cached(&steps)? {
            return Ok(made);
        }
        settings.steps.missed(&steps.made, why.clone());
        why.retain(|why| why.starts_with(CAME_FROM));
        if why.is_empty() {
            why.push("its inputs".to_owned());
        }
        settings.may_make(&steps.made, why)?;
        let trees = self.listings(below)?;
        let view = Below::new(&self.named(&trees));
        let tree = self.tree(inputs, &view)?;
        let outputs = self.seal(&inputs.spec.name, &tree)?;
        let answers = serde_json::to_vec(&view.facts())
            .map_err(|e| PipelineError::Internal(e.to_string()))?;
        let facts = store.put(&answers)?;
        store.record(&steps.keyed(facts), &outputs)?;
        store.record(&steps.asked, &known(facts))?;
        store.record(&steps.quick, &known(facts))?;
        settings.to_cache(&steps.shared, &with_facts(&outputs, facts));
        made(&outputs)
    }

    fn layer_steps(&self, inputs: &Inputs<'_>, below: &[Made]) -> LayerSteps {
        let step = |kind: &str| {
            let step = Step::new(kind, self.subject(&inputs.spec.name));
            let own = inputs.own.iter();
            own.fold(step, |step, (name, digest)| step.input(name, *digest))
        };
        let listings = below.iter().map(|m| m.listing.to_string());
        let listings = listings.collect::<String>();
        LayerSteps {
            quick: step("layer, nothing below changed").value("below", &listings),
            asked: step("layer, what it asks of those below"),
            made: step(FORMAT),
            shared: step(&format!("{FORMAT}, on these below")).value("below", &listings),
        }
    }

    /// Looks for a layer in the store.
    fn found(&self, steps: &LayerSteps, below: &[Made]) -> Result<Found, PipelineError> {
        let (settings, store) = (self.settings, &self.settings.store);
        let mut why = Vec::new();
        let (facts, from) = match settings.ask(&steps.quick) {
            (StepState::Hit(outputs), from) => (Some(blob(&outputs, "facts")?), from),
            (StepState::Miss { .. }, _) => match settings.ask(&steps.asked) {
                (StepState::Hit(outputs), from) => {
                    why.push("layers below".to_owned());
                    let digest = blob(&outputs, "facts")?;
                    let answers: Option<Facts> = serde_json::from_slice(&store.read(&digest)?).ok();
                    let trees = self.listings(below)?;
                    let view = Below::new(&self.named(&trees));
                    let same = answers.is_some_and(|answers| view.still_true(&answers));
                    (same.then_some(digest), from)
                }
                (StepState::Miss { changed }, _) => {
                    why = changed;
                    (None, None)
                }
            },
        };
        let Some(facts) = facts else {
            return Ok(Found::No(why));
        };
        let keyed = steps.keyed(facts);
        match settings.ask(&keyed) {
            (StepState::Hit(outputs), said_by) => {
                let from = from.or(said_by);
                settings.steps.found(&keyed, from.clone());
                store.record_from(&steps.quick, &known(facts), from.clone())?;
                if from.is_none() {
                    settings.to_cache(&steps.shared, &with_facts(&outputs, facts));
                }
                Ok(Found::Made(made(&outputs)?))
            }
            (StepState::Miss { changed }, _) => Ok(Found::No(changed)),
        }
    }

    /// Looks for a layer in the cache.
    fn cached(&self, steps: &LayerSteps) -> Result<Option<Made>, PipelineError> {
        let (settings, store) = (self.settings, &self.settings.store);
        let sound = |outputs: &Outputs| self.check_made(outputs);
        let Some((outputs, from)) = settings.take_cached(&steps.shared, &sound) else {
            return Ok(None);
        };
        let facts = blob(&outputs, "facts")?;
        settings.steps.found(&steps.made, Some(from.clone()));
        store.record_from(&steps.keyed(facts), &outputs, Some(from.clone()))?;
        for step in [&steps.asked, &steps.quick] {
            store.record_from(step, &known(facts), Some(from.clone()))?;
        }
        Ok(Some(made(&outputs)?))
    }

    /// Whether a cache's result can be a layer at all. That it is the right one nobody can
    /// see: that is why it is never attested.
    fn check_made(&self, outputs: &Outputs) -> Result<(), PipelineError> {
        let store = &self.settings.store;
        let made = made(outputs)?;
        let sealed = &made.sealed;
        if blob(outputs, "blob")? != sealed.blob
            || store.size(&sealed.blob) != Some(sealed.size)
            || !sealed.is_sound()
        {
            return Err(PipelineError::Store(super::damaged("sealed")));
        }
        listing::read(&String::from_utf8_lossy(&store.read(&made.listing)?))?;
        if outputs.contains_key("facts") {
            let facts = store.read(&blob(outputs, "facts")?)?;
            let read: Result<Facts, _> = serde_json::from_slice(&facts);
            read.map_err(|_| PipelineError::Store(super::damaged("facts")))?;
        }
        Ok(())
    }

    /// The tree of one layer with where its files' bytes are.
    fn tree(&self, inputs: &Inputs<'_>, below: &Below<'_>) -> Result<Tree, PipelineError> {
        if let Some(facts) = &inputs.base {
            return bases::tree(self.settings, facts);
        }
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
            .map(|i| match &i.base {
                Some(base) => format!("{:?}{:?}", base.users, base.groups),
                None => format!("{:?}{:?}", i.spec.users, i.spec.groups),
            })
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
        let step = match needs_tls(self.image) {
            false => step,
            true => step.value("tls", "certificates"),
        };
        let sound = |outputs: &Outputs| self.check_made(outputs);
        let outputs = self.settings.shared_step(&step, &sound, || {
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
            tls: needs_tls(self.image),
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

/// The steps under which a layer is found.
struct LayerSteps {
    quick: Step,
    asked: Step,
    /// Without what it asked of those below, which [`LayerSteps::keyed`] adds.
    made: Step,
    /// As it is shared with other machines: everything under one key.
    shared: Step,
}

impl LayerSteps {
    fn keyed(&self, facts: Digest) -> Step {
        self.made.clone().input("layers below", facts)
    }
}

/// What the store has of a layer.
enum Found {
    Made(Made),
    /// It must be made, because of this.
    No(Vec<String>),
}

fn known(facts: Digest) -> Outputs {
    Outputs::from([("facts".to_owned(), Output::Blob(facts))])
}

fn with_facts(outputs: &Outputs, facts: Digest) -> Outputs {
    let mut outputs = outputs.clone();
    outputs.extend(known(facts));
    outputs
}

fn made(outputs: &Outputs) -> Result<Made, PipelineError> {
    Ok(Made {
        sealed: value(outputs, "sealed")?,
        listing: blob(outputs, "listing")?,
    })
}
