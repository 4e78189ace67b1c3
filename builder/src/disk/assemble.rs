//! Sealed layers and a unified kernel image become a disk map.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::DiskError;
use super::bios::{self, Bios};
use super::esp::{self, Esp, EspInput};
use super::gpt::{self, Partition};
use super::map::{DiskMap, Extent, ExtentContent, MAP_SCHEMA};
use super::plan::{Plan, PlanInput, plan};
use crate::base::{Digest, MIB, guid};
use crate::store::Store;
use crate::uki::UkiBlob;
use crate::verity::Sealed;

/// What the board says about its disks; sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskFacts {
    /// 512 or 4096.
    pub sector_size: u32,
    /// Size of the ESP, a multiple of one MiB.
    pub esp_size: u64,
    /// Room behind the layers for updates on the machine.
    pub reserve: u64,
    /// Room at the end that init makes the state partition in.
    pub state: u64,
    /// The disk's size is a multiple of this, itself a multiple of one MiB.
    pub disk_multiple: u64,
    /// File in `\EFI\BOOT`: `BOOTX64.EFI`.
    pub boot_file: String,
}

impl Default for DiskFacts {
    /// A disk for x86-64 with an ESP of 64 MiB, rounded to whole MiB.
    fn default() -> Self {
        Self {
            sector_size: 512,
            esp_size: 64 * MIB,
            reserve: 0,
            state: 0,
            disk_multiple: MIB,
            boot_file: "BOOTX64.EFI".to_owned(),
        }
    }
}

/// What a disk is cast from.
#[derive(Debug, Clone, Copy)]
pub struct CastInput<'a> {
    /// The board's figures.
    pub facts: &'a DiskFacts,
    /// Layers, bottom to top, with their names.
    pub layers: &'a [(String, Sealed)],
    /// The boot entry.
    pub uki: UkiBlob,
    /// Digest of machine.json: the GUIDs of disk and ESP and the volume id are drawn from it.
    pub seed: Digest,
    /// It is to start by a BIOS, too.
    pub bios: Option<Bios<'a>>,
}

/// A disk, cast: everything that it consists of is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Where every byte comes from.
    pub map: DiskMap,
    /// The disk's identity; the store holds the map under this name.
    pub map_digest: Digest,
    /// Partitions of the layers, bottom to top.
    pub layers: Vec<LayerPartition>,
}

/// Where a layer lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPartition {
    /// Layer's name.
    pub name: String,
    /// Partition's GUID.
    pub guid: String,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes of the partition.
    pub size: u64,
}

/// Casts a disk: lays it out, makes its tables and its ESP, and puts them and
/// the map into the store. Nothing is copied that is a blob already.
///
/// # Errors
/// [`DiskError`] naming the figure, layer or image that does not fit.
pub fn cast(store: &Store, input: &CastInput<'_>) -> Result<Disk, DiskError> {
    refuse_same_layers(input.layers)?;
    let facts = input.facts;
    let sizes: Vec<u64> = input.layers.iter().map(|(_, sealed)| sealed.size).collect();
    let plan = plan(&PlanInput {
        sector_size: facts.sector_size,
        esp_size: facts.esp_size,
        layers: &sizes,
        reserve: facts.reserve,
        state: facts.state,
        disk_multiple: facts.disk_multiple,
    })?;
    let sector = u64::from(facts.sector_size);
    let mut extents = Vec::new();
    let esp = make_esp(input, &plan)?;
    let entry = plan.esp.start + esp.file_offset;
    let pieces = input
        .bios
        .map(|bios| bios::pieces(store, bios, facts.sector_size, (input.uki, entry)));
    let pieces = pieces.transpose()?;
    let mut tables = gpt::tables(
        facts.sector_size,
        plan.size / sector,
        guid::derive(&input.seed, "disk"),
        &partitions(input, &plan),
    )?;
    if let Some(pieces) = &pieces {
        tables.primary[..pieces.code.len()].copy_from_slice(&pieces.code);
    }
    add_bytes(store, &mut extents, 0, &tables.primary)?;
    if let Some(pieces) = &pieces {
        add_bytes(store, &mut extents, bios::PLACE.start, &pieces.image)?;
    }
    add_bytes(store, &mut extents, plan.esp.start, &esp.head)?;
    if input.uki.size > 0 {
        extents.push(blob(entry, input.uki.size, input.uki.digest, 0));
    }
    for (range, (_, sealed)) in plan.layers.iter().zip(input.layers) {
        extents.push(blob(range.start, sealed.size, sealed.blob, 0));
    }
    add_bytes(
        store,
        &mut extents,
        plan.size - tables.backup.len() as u64,
        &tables.backup,
    )?;
    let map = DiskMap {
        schema: MAP_SCHEMA,
        sector_size: facts.sector_size,
        size: plan.size,
        extents,
    };
    map.check()?;
    let map_digest = store.put(&map.to_json())?;
    let layers = input
        .layers
        .iter()
        .zip(&plan.layers)
        .map(|((name, sealed), range)| LayerPartition {
            name: name.clone(),
            guid: sealed.partition_guid().to_string(),
            offset: range.start,
            size: range.end - range.start,
        })
        .collect();
    Ok(Disk {
        map,
        map_digest,
        layers,
    })
}

fn partitions(input: &CastInput<'_>, plan: &Plan) -> Vec<Partition> {
    let sector = u64::from(input.facts.sector_size);
    let esp = Partition {
        type_guid: gpt::ESP_TYPE,
        guid: guid::derive(&input.seed, "esp"),
        first_lba: plan.esp.start / sector,
        last_lba: plan.esp.end / sector - 1,
        attributes: 0,
        name: "esp".to_owned(),
    };
    let layers = input
        .layers
        .iter()
        .zip(&plan.layers)
        .map(|((name, sealed), range)| Partition {
            type_guid: gpt::LAYER_TYPE,
            guid: sealed.partition_guid(),
            first_lba: range.start / sector,
            last_lba: range.end / sector - 1,
            attributes: gpt::LAYER_ATTRIBUTES,
            name: name.clone(),
        });
    // Last, so that the others' numbers are what they are without it.
    let bios = input.bios.map(|_| Partition {
        type_guid: gpt::BIOS_TYPE,
        guid: guid::derive(&input.seed, "bios"),
        first_lba: bios::PLACE.start / sector,
        last_lba: bios::PLACE.end / sector - 1,
        attributes: 0,
        name: "bios".to_owned(),
    });
    std::iter::once(esp).chain(layers).chain(bios).collect()
}

fn make_esp(input: &CastInput<'_>, plan: &Plan) -> Result<Esp, DiskError> {
    let id = guid::derive(&input.seed, "esp volume id").into_bytes();
    esp::write(&EspInput {
        sector_size: input.facts.sector_size,
        size: plan.esp.end - plan.esp.start,
        first_lba: plan.esp.start / u64::from(input.facts.sector_size),
        volume_id: u32::from_le_bytes([id[0], id[1], id[2], id[3]]),
        boot_file: &input.facts.boot_file,
        file_size: input.uki.size,
    })
}

/// Puts `bytes` into the store and adds extents for their runs of pages that
/// are not all zero.
fn add_bytes(
    store: &Store,
    extents: &mut Vec<Extent>,
    offset: u64,
    bytes: &[u8],
) -> Result<(), DiskError> {
    const PAGE: usize = 4096;
    let digest = store.put(bytes)?;
    let first = extents.len();
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let at = (index * PAGE) as u64;
        match extents[first..].last_mut() {
            Some(last) if last.end() == offset + at => last.length += page.len() as u64,
            _ => extents.push(blob(offset + at, page.len() as u64, digest, at)),
        }
    }
    Ok(())
}

const fn blob(offset: u64, length: u64, digest: Digest, from: u64) -> Extent {
    let content = ExtentContent::Blob {
        digest,
        offset: from,
    };
    Extent {
        offset,
        length,
        content,
    }
}

/// Init finds layers by GUID, and the GUID is the root hash's.
fn refuse_same_layers(layers: &[(String, Sealed)]) -> Result<(), DiskError> {
    let mut seen = HashMap::new();
    for (name, sealed) in layers {
        if let Some(first) = seen.insert(sealed.partition_guid(), name) {
            return Err(DiskError::SameLayer {
                first: first.clone(),
                second: name.clone(),
            });
        }
    }
    Ok(())
}
