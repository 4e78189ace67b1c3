//! Operations on finished images: bytes flipped, parts taken out, boot entries of
//! other parts. Only the test's own copies are touched.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ext4_view::Ext4;
use slipform::disk::{self, CastInput, DiskFacts, PartitionInfo, inspect};
use slipform::filesystem::Initrd;
use slipform::output::{self, Artifact, OutputFormat};
use slipform::uki::{Source, UkiInput, assemble};
use slipform::verity::Sealed;
use slipform_init::contract::machine::{LAYER_ROOT, MACHINE_PATH, Machine};
use slipform_qemu_tests::{BootPath, Plan};

use super::lab::settings;
use super::project::Subject;

/// Blocks of file systems and hash trees.
const BLOCK: usize = 4096;

/// Flips a bit in the first block of a file, on the partition of `layer`.
pub(crate) fn flip_in_file(disk: &Path, layer: &str, path: &str) {
    let (offset, bytes) = partition(disk, layer);
    let start = block_of(&bytes, path);
    // In the middle of what the block holds: all of it is the file's.
    let content = bytes[start..start + BLOCK]
        .iter()
        .rposition(|byte| *byte != 0);
    let at = start + content.expect("a block that is not empty") / 2;
    let file = File::options()
        .write(true)
        .open(disk)
        .expect("the disk opens");
    file.write_all_at(&[bytes[at] ^ 1], offset + at as u64)
        .expect("the disk is written");
}

/// Overwrites the partition of `layer` with zeros.
pub(crate) fn zero_layer(disk: &Path, layer: &str) {
    let (offset, bytes) = partition(disk, layer);
    let file = File::options()
        .write(true)
        .open(disk)
        .expect("the disk opens");
    file.write_all_at(&vec![0; bytes.len()], offset)
        .expect("the disk is written");
}

/// Overwrites the first place of the ESP, at a multiple of `step`, that begins with `what`.
pub(crate) fn damage_esp(disk: &Path, step: usize, what: &[u8], with: &[u8]) {
    let (offset, bytes) = found(disk, "the ESP", |part| part.kind == "esp");
    let at = (0..bytes.len())
        .step_by(step)
        .find(|at| bytes[*at..].starts_with(what))
        .expect("something to damage");
    let file = File::options()
        .write(true)
        .open(disk)
        .expect("the disk opens");
    file.write_all_at(with, offset + at as u64)
        .expect("the disk is written");
}

/// Where a layer's partition begins, and its bytes.
fn partition(disk: &Path, layer: &str) -> (u64, Vec<u8>) {
    found(disk, layer, |part| part.name == layer)
}

fn found(disk: &Path, what: &str, is: impl Fn(&PartitionInfo) -> bool) -> (u64, Vec<u8>) {
    let mut file = File::open(disk).expect("the disk opens");
    let info = inspect(&mut file).expect("the disk can be read");
    let found = info.partitions.iter().find(|part| is(part));
    let found = found.unwrap_or_else(|| panic!("no {what} in {:?}", info.partitions));
    let mut bytes = vec![0; usize::try_from(found.size).expect("a small layer")];
    file.read_exact_at(&mut bytes, found.offset)
        .expect("the layer can be read");
    (found.offset, bytes)
}

/// Offset of the block that holds the beginning of a file: found by its content, which
/// an independent reader gives.
fn block_of(layer: &[u8], path: &str) -> usize {
    let reader = Ext4::load(Box::new(layer.to_vec())).expect("a file system");
    let path = format!("/{LAYER_ROOT}{path}");
    let content = reader.read(path.as_str()).expect("the file can be read");
    let mut first = content[..content.len().min(BLOCK)].to_vec();
    first.resize(BLOCK, 0);
    let found: Vec<usize> = (0..layer.len())
        .step_by(BLOCK)
        .filter(|start| layer.get(*start..start + BLOCK) == Some(&first))
        .collect();
    assert_eq!(
        found.len(),
        1,
        "{path}: its first block must be the only such one"
    );
    found[0]
}

/// What a boot entry is made of, to be changed.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) cmdline: String,
    /// Archives in their order; the last one has machine.json.
    pub(crate) initrds: Vec<Vec<u8>>,
    pub(crate) layers: Vec<(String, Sealed)>,
}

impl Parts {
    /// As they are in a healthy image.
    pub(crate) fn of(subject: &Subject) -> Self {
        let cast = &subject.cast;
        let read = |digest| settings().store().read(digest).expect("a blob");
        Self {
            cmdline: cast.cmdline.clone(),
            initrds: vec![
                read(&cast.parts.initrd),
                machine_archive(&read(&cast.machine)),
            ],
            layers: cast.layers.clone(),
        }
    }

    /// Another machine.json.
    pub(crate) fn with_machine(mut self, machine: &[u8]) -> Self {
        self.initrds.pop();
        self.initrds.push(machine_archive(machine));
        self
    }

    /// For `-kernel` and `-initrd`; the disk stays what it is.
    pub(crate) fn direct(&self, plan: &mut Plan, folder: &Path) {
        let path = folder.join("changed-initrd");
        fs::write(&path, self.initrds.concat()).expect("the initrd is written");
        let BootPath::Direct {
            initrd, cmdline, ..
        } = &mut plan.boot
        else {
            panic!("the plan boots by firmware");
        };
        *initrd = path;
        cmdline.clone_from(&self.cmdline);
    }

    /// A disk of these parts.
    pub(crate) fn disk(&self, subject: &Subject) -> Artifact {
        let store = settings().store();
        let parts = &subject.cast.parts;
        let stored = |digest| Source::Blob {
            digest,
            offset: 0,
            size: store.size(&digest).expect("a blob"),
        };
        let initrds: Vec<_> = self
            .initrds
            .iter()
            .map(|bytes| Source::Bytes(bytes))
            .collect();
        let uki = assemble(
            store,
            &UkiInput {
                stub: stored(parts.stub),
                kernel: stored(parts.kernel),
                cmdline: &self.cmdline,
                osrel: "ID=slipform\n",
                uname: &parts.release,
                initrds: &initrds,
            },
        );
        let disk = disk::cast(
            store,
            &CastInput {
                bios: None,
                facts: &DiskFacts::default(),
                layers: &self.layers,
                uki: uki.expect("a boot entry"),
                seed: subject.cast.machine,
            },
        );
        let path = subject.folder.path().join("changed.raw");
        output::write(OutputFormat::Raw, &disk.expect("a disk").map, store, &path)
            .expect("the disk is written")
    }
}

/// The machine.json of a healthy image, changed.
pub(crate) fn machine(subject: &Subject, change: impl FnOnce(&mut Machine)) -> Vec<u8> {
    let bytes = settings()
        .store()
        .read(&subject.cast.machine)
        .expect("machine.json");
    let mut machine = serde_json::from_slice(&bytes).expect("a machine");
    change(&mut machine);
    serde_json::to_vec(&machine).expect("JSON")
}

/// An archive with machine.json alone.
fn machine_archive(machine: &[u8]) -> Vec<u8> {
    archive(&[(MACHINE_PATH, 0o644, machine)])
}

/// An archive of files: path, mode, content.
pub(crate) fn archive(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Initrd::new(Vec::new());
    for (path, mode, content) in files {
        archive
            .file(path, *mode, content)
            .expect("a file in the archive");
    }
    archive.finish().expect("an archive")
}
