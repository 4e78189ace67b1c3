//! The regions of a small disk, and a plan for it.

use std::io::Cursor;

use super::reads::Reads;
use super::region::regions;
use super::source::Source;
pub(crate) use super::testing_disk::{ESP, LAYER, ROOT_HASH, SECTORS, disk};
use crate::plan::{Check, HttpProbe, Plan, Probe, testing};

const SECTOR: usize = 512;

/// A plan with a check by network and one of the console.
pub(crate) fn plan() -> Plan {
    Plan {
        layers: vec![("base".into(), ROOT_HASH.into())],
        checks: vec![
            Check::new(
                "serves the page",
                Probe::Http(HttpProbe {
                    port: 8080,
                    ..HttpProbe::default()
                }),
            ),
            Check::new(
                "says hello",
                Probe::Console {
                    matches: "hello".into(),
                },
            ),
        ],
        ..testing::plan()
    }
}

/// What a boot reads of it.
pub(crate) fn reads() -> Reads {
    let mut reads = Reads::default();
    reads.add(LAYER as u64, 6 * 4096);
    reads
}

fn list(disk: Vec<u8>) -> Result<Vec<String>, super::SweepError> {
    let mut cursor = Cursor::new(disk);
    let mut source = Source::new(&mut cursor, 512)?;
    let layers = vec![("base".to_owned(), ROOT_HASH.to_owned())];
    let regions = regions(&mut source, &layers, &reads(), 1)?;
    Ok(regions
        .iter()
        .map(|region| format!("{}: {}+{}", region.name, region.offset, region.length))
        .collect())
}

#[test]
fn the_regions_of_a_small_disk() {
    let list = list(disk()).expect("regions");
    let golden = include_str!("golden_regions.txt");
    assert_eq!(list.join("\n"), golden.trim_end(), "{}", list.join("\n"));
}

#[test]
fn regions_lie_on_the_disk_and_have_names_of_their_own() {
    let mut cursor = Cursor::new(disk());
    let mut source = Source::new(&mut cursor, 512).expect("a source");
    let layers = vec![("base".to_owned(), ROOT_HASH.to_owned())];
    let regions = regions(&mut source, &layers, &reads(), 7).expect("regions");
    let mut names = std::collections::BTreeSet::new();
    for region in &regions {
        assert!(names.insert(region.name.clone()), "{}", region.name);
        let end = region.offset + region.length;
        assert!(
            region.length > 0 && end <= (SECTORS * SECTOR) as u64,
            "{region:?}"
        );
    }
}

/// A disk is input: whatever its bytes are, they give regions or a clear error.
#[test]
fn damaged_structures_are_errors_and_never_panic() {
    let whole = disk();
    // Structures lie in the first two thirds, most at the beginning of something.
    let length = whole.len() as u64 * 2 / 3;
    let places = [
        0,
        SECTOR,
        1024,
        ESP,
        ESP + 13 * SECTOR,
        LAYER + 1024,
        LAYER + 4096,
    ];
    let seeds = places.map(|place| {
        let patch = slipform_fuzz::Patch {
            at: place as u64,
            width: 4,
            value: [0xff; 8],
        };
        patch.to_bytes()
    });
    slipform_fuzz::fuzz(&seeds, |input, _| {
        let mut damaged = whole.clone();
        for patch in slipform_fuzz::patches(input).take(16) {
            let at = (patch.at % length) as usize;
            damaged[at..at + patch.width].copy_from_slice(&patch.value[..patch.width]);
        }
        let _ = list(damaged);
    });
    for length in [0, 511, 1024, 4096, ESP + 600, LAYER + 2000] {
        assert!(list(whole[..length].to_vec()).is_err(), "{length}");
    }
}
