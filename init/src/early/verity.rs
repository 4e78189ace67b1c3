//! Maps every layer through dm-verity.
//!
//! Table format: kernel documentation, `admin-guide/device-mapper/verity.rst`,
//! version 1, SHA-256, blocks of 4096 bytes, data and hash tree in one partition.
//! No option is set: a corrupted block is an I/O error for whoever reads it, and a line
//! in the kernel's log that [`crate::report::kmsg`] turns into an event. All-zero blocks
//! are checked like all others.
//!
//! verity wants a device that begins with the data: on a CD, which has no partitions,
//! dm-linear cuts it out.

use std::path::PathBuf;

use slipform_init::contract::event::Phase;
use slipform_init::contract::machine::Layer;

use super::disk::Partition;
use crate::error::BootError;
use crate::sys::dm::{Control, Device};

/// Bytes of a data or hash block.
const BLOCK: u64 = 4096;

/// Makes the mapped devices, in the order of the layers, and returns their paths.
pub(crate) fn map(layers: &[Layer], partitions: &[Partition]) -> Result<Vec<PathBuf>, BootError> {
    let failed = |error| {
        BootError::new(
            Phase::Verity,
            "open /dev/mapper/control (is the module dm-mod loaded?)",
            error,
        )
    };
    let control = Control::open().map_err(failed)?;
    let numbered = layers.iter().zip(partitions).enumerate();
    numbered
        .map(|(index, (layer, partition))| map_one(&control, index, layer, partition))
        .collect()
}

fn map_one(
    control: &Control,
    index: usize,
    layer: &Layer,
    partition: &Partition,
) -> Result<PathBuf, BootError> {
    let failed = |error| {
        let what = format!(
            "map layer {} on {} through dm-verity",
            layer.name,
            partition.path.display()
        );
        BootError::new(Phase::Verity, what, error)
    };
    if layer.hash_offset >= partition.bytes {
        let why = format!(
            "the partition has {} bytes, the hash tree begins at {}",
            partition.bytes, layer.hash_offset
        );
        return Err(failed(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            why,
        )));
    }
    let below = if partition.start == 0 {
        partition.device.clone()
    } else {
        let linear = Device {
            name: &format!("slipform-{index}-part"),
            uuid: &format!("SLIPFORM-LINEAR-{index}-{}", layer.root_hash),
            sectors: partition.bytes / 512,
            target: "linear",
            parameters: &format!("{} {}", partition.device, partition.start / 512),
        };
        let minor = control.create(&linear).map_err(failed)?;
        format!("/dev/dm-{minor}")
    };
    let device = Device {
        name: &format!("slipform-{index}"),
        // With the index: two layers may have the same content.
        uuid: &format!("SLIPFORM-VERITY-{index}-{}", layer.root_hash),
        sectors: layer.data_blocks * (BLOCK / 512),
        target: "verity",
        parameters: &parameters(layer, &below),
    };
    let minor = control.create(&device).map_err(failed)?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn parameters(layer: &Layer, device: &str) -> String {
    let salt = if layer.salt.is_empty() {
        "-"
    } else {
        &layer.salt
    };
    format!(
        "1 {device} {device} {BLOCK} {BLOCK} {} {} sha256 {} {salt}",
        layer.data_blocks,
        layer.hash_offset / BLOCK,
        layer.root_hash,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_kernel() {
        let mut layer = Layer {
            name: "base".to_owned(),
            filesystem: "ext4".to_owned(),
            root_hash: "ab".repeat(32),
            salt: "0102".to_owned(),
            data_blocks: 16,
            hash_offset: 17 * 4096,
        };
        let hash = "ab".repeat(32);
        assert_eq!(
            parameters(&layer, "254:2"),
            format!("1 254:2 254:2 4096 4096 16 17 sha256 {hash} 0102")
        );
        layer.salt.clear();
        assert!(parameters(&layer, "254:2").ends_with(&format!("{hash} -")));
    }
}
