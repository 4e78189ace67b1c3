//! Layers that came with the initrd, into memory: a machine that started over the network
//! has no disk to look at.
//!
//! Each lies as a file named by the first 128 bits of its root hash, and becomes a loop
//! device; dm-verity checks every block of it as it does on a disk. The file is deleted
//! with the rest of the initrd, and lives on below its device.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use slipform_init::contract::event::Phase;
use slipform_init::contract::machine::Layer;

use super::disk::{BootDisk, Partition};
use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::block;

/// Where they lie in the initrd.
const FOLDER: &str = "/carried";
/// Digits of a root hash that name one.
const DIGITS: usize = 32;

/// The layers in memory, if that is where they are; all of them, or it is an error.
pub(super) fn find(layers: &[Layer], report: &mut Reporter) -> Result<Option<BootDisk>, BootError> {
    if !Path::new(FOLDER).is_dir() {
        return Ok(None);
    }
    let partitions = layers
        .iter()
        .map(|layer| {
            let path = path_of(layer);
            attach(&path).map_err(|error| {
                let what = format!(
                    "find layer {} as {} (is the module loop loaded?)",
                    layer.name,
                    path.display()
                );
                BootError::new(Phase::Disk, what, error)
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    report.note(&format!("disk: {} layers in memory", layers.len()));
    Ok(Some(BootDisk {
        name: super::disk::MEMORY.to_owned(),
        partitions,
    }))
}

fn path_of(layer: &Layer) -> PathBuf {
    let name = layer.root_hash.get(..DIGITS).unwrap_or_default();
    Path::new(FOLDER).join(name)
}

fn attach(path: &Path) -> io::Result<Partition> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let number = block::attach(&file)?;
    Ok(Partition {
        device: format!("{}:{number}", block::LOOP_MAJOR),
        path: format!("/dev/loop{number}").into(),
        start: 0,
        bytes,
    })
}
