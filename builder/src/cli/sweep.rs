//! The sweeps of `slipform test`: `--tamper`, `--power-cut`, `--condition`.

use anyhow::Context;
use clap::Args;
use slipform_qemu_tests::sweep::Condition;

use super::BadInput;
use crate::pipeline::SweepRequest;

/// Further boots of the image, each with one thing changed.
#[derive(Debug, Args)]
pub struct Sweeping {
    /// Flip one byte in each region of the disk and boot each time: what notices?
    #[arg(long)]
    pub tamper: bool,
    /// Only regions whose names contain one of these texts.
    #[arg(long, value_delimiter = ';', value_name = "TEXT", requires = "tamper")]
    pub region: Vec<String>,
    /// Pull the plug at N moments between power-on and after ready, and boot again.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub power_cut: usize,
    /// Boot other machines: low-memory, no-network, slow-disk, wrong-clock, larger-disk, 512e, cpus=1, cpus=4, no-rdrand, or all.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub condition: Vec<String>,
    /// What chooses bytes and moments; the one that is printed if none is given.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Machines at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
}

/// More boots than anybody waits for.
const MAX_CUTS: usize = 10_000;

impl Sweeping {
    /// What is asked for, with a seed of its own if none was given.
    pub(crate) fn request(&self) -> anyhow::Result<SweepRequest> {
        if self.power_cut > MAX_CUTS {
            let text = format!(
                "--power-cut {} is too much: at most {MAX_CUTS}; run it again with another --seed",
                self.power_cut
            );
            return Err(BadInput(text).into());
        }
        let conditions =
            Condition::parse_all(&self.condition).map_err(|error| BadInput(error.to_string()))?;
        Ok(SweepRequest {
            tamper: self.tamper.then(|| self.region.clone()),
            power_cuts: self.power_cut,
            conditions,
            seed: self.seed.map_or_else(fresh, Ok)?,
            jobs: usize::from(self.jobs),
            ready_seconds: None,
        })
    }
}

/// A seed that is short enough to be typed again; never 0, which stands for none.
fn fresh() -> anyhow::Result<u64> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("the clock stands before 1970; give --seed")?;
    Ok(1 + u64::from(now.subsec_nanos()) % 999_983)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweeping() -> Sweeping {
        Sweeping {
            tamper: true,
            region: vec!["GPT".to_owned()],
            power_cut: 3,
            condition: vec!["512e".to_owned()],
            seed: Some(7),
            jobs: 2,
        }
    }

    #[test]
    fn the_request_is_what_was_asked_for() {
        let request = sweeping().request().unwrap();
        assert_eq!(request.tamper, Some(vec!["GPT".to_owned()]));
        assert_eq!((request.power_cuts, request.seed, request.jobs), (3, 7, 2));
        assert_eq!(request.conditions, [Condition::Emulated512]);
        let none = Sweeping {
            tamper: false,
            power_cut: 0,
            condition: Vec::new(),
            seed: None,
            ..sweeping()
        };
        let request = none.request().unwrap();
        assert!(request.is_empty() && request.seed != 0);
    }

    #[test]
    fn what_cannot_be_is_bad_input() {
        let wrong = Sweeping {
            condition: vec!["dry-sea".to_owned()],
            ..sweeping()
        };
        let error = wrong.request().unwrap_err();
        assert!(error.is::<BadInput>(), "{error}");
        let many = Sweeping {
            power_cut: 10_001,
            ..sweeping()
        };
        assert!(many.request().unwrap_err().is::<BadInput>());
    }
}
