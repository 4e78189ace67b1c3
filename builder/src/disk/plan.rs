//! Sizes become offsets: pure arithmetic.

use std::ops::Range;

use super::DiskError;
use super::gpt;
use crate::base::{MIB, align_up};

/// Most layers on one disk.
pub const MAX_LAYERS: usize = 60;

/// Largest ESP: beyond this its tables alone would take megabytes for nothing.
const MAX_ESP: u64 = 16 << 30;

/// What a plan needs to know; all sizes in bytes.
#[derive(Debug, Clone)]
pub struct PlanInput<'a> {
    /// 512 or 4096.
    pub sector_size: u32,
    /// Size of the ESP.
    pub esp_size: u64,
    /// Sizes of the layers, bottom to top.
    pub layers: &'a [u64],
    /// Room behind the layers.
    pub reserve: u64,
    /// Room at the end that init makes the state partition in.
    pub state: u64,
    /// The disk's size is a multiple of this; at least one MiB.
    pub disk_multiple: u64,
}

/// Where everything lies, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The ESP.
    pub esp: Range<u64>,
    /// The layers' partitions, in order.
    pub layers: Vec<Range<u64>>,
    /// The whole disk.
    pub size: u64,
}

/// Lays out a disk: every partition starts at a whole MiB, the ESP first, so
/// that a boot entry of another size moves nothing.
///
/// # Errors
/// [`DiskError::Fact`] for a figure of the board that cannot work,
/// [`DiskError::TooManyLayers`].
pub fn plan(input: &PlanInput<'_>) -> Result<Plan, DiskError> {
    let fact = |key, value, rule: &str| {
        Err(DiskError::Fact {
            key,
            value,
            rule: rule.to_owned(),
        })
    };
    if !matches!(input.sector_size, 512 | 4096) {
        return fact(
            "sector_size",
            u64::from(input.sector_size),
            "it must be 512 or 4096",
        );
    }
    if input.layers.len() > MAX_LAYERS {
        return Err(DiskError::TooManyLayers(input.layers.len()));
    }
    const LIMIT: u64 = 1 << 50;
    for (key, value) in [
        ("esp_size", input.esp_size),
        ("reserve", input.reserve),
        ("state", input.state),
        ("disk_multiple", input.disk_multiple),
    ] {
        if value > LIMIT {
            return fact(key, value, "it must be one pebibyte at most");
        }
    }
    if input.esp_size == 0 || !input.esp_size.is_multiple_of(MIB) {
        return fact(
            "esp_size",
            input.esp_size,
            "it must be a multiple of one MiB (1048576)",
        );
    }
    if input.esp_size > MAX_ESP {
        return fact("esp_size", input.esp_size, "it must be 16 GiB at most");
    }
    if input.disk_multiple == 0 || !input.disk_multiple.is_multiple_of(MIB) {
        return fact(
            "disk_multiple",
            input.disk_multiple,
            "it must be a multiple of one MiB (1048576)",
        );
    }
    let esp = MIB..MIB + input.esp_size;
    let mut end = esp.end;
    let mut layers = Vec::with_capacity(input.layers.len());
    for size in input.layers {
        if *size > LIMIT {
            return fact("layer", *size, "it must have one pebibyte at most");
        }
        let start = align_up(end, MIB);
        end = start + align_up(*size, u64::from(input.sector_size));
        layers.push(start..end);
    }
    let end = align_up(end, MIB) + align_up(input.reserve, MIB) + align_up(input.state, MIB);
    let size = align_up(
        end + gpt::backup_size(input.sector_size),
        input.disk_multiple,
    );
    Ok(Plan { esp, layers, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(layers: &[u64]) -> PlanInput<'_> {
        PlanInput {
            sector_size: 512,
            esp_size: 64 * MIB,
            layers,
            reserve: 0,
            state: 0,
            disk_multiple: MIB,
        }
    }

    #[test]
    fn partitions_follow_one_another_at_whole_mebibytes() {
        let plan = plan(&input(&[MIB, MIB + 4096, 4096])).unwrap();
        assert_eq!(plan.esp, MIB..65 * MIB);
        assert_eq!(
            plan.layers,
            [
                65 * MIB..66 * MIB,
                66 * MIB..67 * MIB + 4096,
                68 * MIB..68 * MIB + 4096
            ]
        );
        assert_eq!(plan.size, 70 * MIB);
    }

    #[test]
    fn the_disk_is_rounded_and_has_its_reserve() {
        let mut board = input(&[4096]);
        board.reserve = 100 * MIB;
        board.disk_multiple = 1024 * MIB;
        assert_eq!(plan(&board).unwrap().size, 1024 * MIB);
    }

    #[test]
    fn room_for_the_state_makes_the_disk_longer_and_moves_nothing() {
        let (mut board, layers) = (input(&[]), [MIB + 4096, 4096]);
        board.layers = &layers;
        let without = plan(&board).unwrap();
        board.state = 64 * MIB;
        let with = plan(&board).unwrap();
        assert_eq!(with.size, without.size + 64 * MIB);
        assert_eq!((with.esp, with.layers), (without.esp, without.layers));
        board.state = u64::MAX;
        assert!(plan(&board).unwrap_err().to_string().contains("state"));
    }

    #[test]
    fn figures_that_cannot_work_are_named() {
        type Change = fn(&mut PlanInput<'_>);
        let changes: [(Change, &str); 5] = [
            (|board| board.sector_size = 1024, "sector_size = 1024"),
            (|board| board.esp_size = 5, "esp_size = 5"),
            (|board| board.disk_multiple = 0, "disk_multiple = 0"),
            (|board| board.reserve = u64::MAX, "reserve"),
            (|board| board.layers = &[u64::MAX], "layer"),
        ];
        for (change, text) in changes {
            let mut board = input(&[]);
            change(&mut board);
            let error = plan(&board).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(plan(&input(&[4096; 61])).is_err());
    }
}
