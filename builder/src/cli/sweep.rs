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
}

/// More boots than anybody waits for.
const MAX_CUTS: usize = 10_000;

impl Sweeping {
    /// What is asked for, with a seed of its own if none was given; none if it is nothing.
    pub(crate) fn request(
        &self,
        seed: Option<u64>,
        jobs: u16,
    ) -> anyhow::Result<Option<SweepRequest>> {
        if self.power_cut > MAX_CUTS {
            let text = format!(
                "--power-cut {} is too much: at most {MAX_CUTS}; run it again with another --seed",
                self.power_cut
            );
            return Err(BadInput(text).into());
        }
        let conditions =
            Condition::parse_all(&self.condition).map_err(|error| BadInput(error.to_string()))?;
        let mut request = SweepRequest {
            tamper: self.tamper.then(|| self.region.clone()),
            power_cuts: self.power_cut,
            conditions,
            seed: 0,
            jobs: usize::from(jobs),
            ready_seconds: None,
        };
        if request.is_empty() {
            return Ok(None);
        }
        request.seed = seed.map_or_else(fresh, Ok)?;
        Ok(Some(request))
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
        }
    }

    #[test]
    fn the_request_is_what_was_asked_for() {
        let request = sweeping().request(Some(7), 3).unwrap().unwrap();
        assert_eq!(request.tamper, Some(vec!["GPT".to_owned()]));
        assert_eq!((request.power_cuts, request.seed, request.jobs), (3, 7, 3));
        assert_eq!(request.conditions, [Condition::Emulated512]);
        let fresh = sweeping().request(None, 1).unwrap().unwrap();
        assert_ne!(fresh.seed, 0);
        let none = Sweeping {
            tamper: false,
            power_cut: 0,
            condition: Vec::new(),
            ..sweeping()
        };
        assert!(none.request(Some(7), 1).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_is_bad_input() {
        let wrong = Sweeping {
            condition: vec!["dry-sea".to_owned()],
            ..sweeping()
        };
        let error = wrong.request(None, 1).unwrap_err();
        assert!(error.is::<BadInput>(), "{error}");
        let many = Sweeping {
            power_cut: 10_001,
            ..sweeping()
        };
        assert!(many.request(None, 1).unwrap_err().is::<BadInput>());
    }
}
