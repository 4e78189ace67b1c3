//! Mounts the layers read-only and stacks them with overlayfs.
//!
//! The overlay has lower layers only: there is no upper folder, so nothing can be
//! written. Each layer is mounted below a short path, which keeps the option text of
//! 60 layers in 850 bytes; mount(2) takes a page. (The newer fsconfig(2) with
//! `lowerdir+` would need kernel 6.8 and gain nothing.)

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::LAYER_ROOT;
use slipform_init::contract::machine::Layer;

use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::mount::{self, Mount, NO_DEV, READ_ONLY};
use crate::turn::Report;

const NEW_ROOT: &str = "/root";
const FOLDER: &str = "/l";

/// Mounts everything and returns where the new root is.
pub(crate) fn mount(
    layers: &[Layer],
    devices: &[PathBuf],
    report: &mut Reporter,
) -> Result<PathBuf, BootError> {
    for (index, (layer, device)) in layers.iter().zip(devices).enumerate() {
        mount_layer(&mount_point(index), layer, device).map_err(|error| {
            let what = format!(
                "mount layer {} ({}) from {}",
                layer.name,
                layer.filesystem,
                device.display()
            );
            BootError::new(Phase::Stack, what, error)
        })?;
        report.event(Event::Layer {
            name: layer.name.clone(),
            root_hash: layer.root_hash.clone(),
        });
    }
    let count = layers.len();
    stack(count).map_err(|error| {
        BootError::new(
            Phase::Stack,
            format!("stack {count} layers with overlayfs"),
            error,
        )
    })?;
    Ok(PathBuf::from(NEW_ROOT))
}

fn mount_point(index: usize) -> String {
    format!("{FOLDER}/{index}")
}

fn mount_layer(target: &str, layer: &Layer, device: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let source = device.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    Mount {
        source,
        target,
        kind: &layer.filesystem,
        flags: READ_ONLY | NO_DEV,
        options: "",
    }
    .mount()?;
    // The mount read the superblock through dm-verity; this reads the root folder's blocks as well.
    for entry in fs::read_dir(target)? {
        entry?;
    }
    Ok(())
}

fn stack(count: usize) -> io::Result<()> {
    fs::create_dir_all(NEW_ROOT)?;
    if count == 1 {
        // Overlayfs wants two; one is a root as it is.
        return mount::move_to(Path::new(&mount_point(0)), Path::new(NEW_ROOT));
    }
    let options = options(count);
    Mount {
        source: "slipform",
        target: NEW_ROOT,
        kind: "overlay",
        flags: READ_ONLY | NO_DEV,
        options: &options,
    }
    .mount()?;
    // The overlay holds the layers itself; nobody else needs to see them.
    (0..count).try_for_each(|index| mount::detach(Path::new(&mount_point(index))))
}

/// Top layer first. Nothing in a layer may redirect a look-up into another.
fn options(count: usize) -> String {
    let lower: Vec<String> = (0..count)
        .rev()
        .map(|index| format!("{}/{LAYER_ROOT}", mount_point(index)))
        .collect();
    format!(
        "lowerdir={},redirect_dir=nofollow,metacopy=off,index=off",
        lower.join(":")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_layer_comes_first() {
        assert_eq!(
            options(3),
            "lowerdir=/l/2/rootfs:/l/1/rootfs:/l/0/rootfs,redirect_dir=nofollow,metacopy=off,index=off"
        );
    }

    #[test]
    fn sixty_layers_fit_into_a_page() {
        assert!(options(60).len() < 4096);
    }
}
