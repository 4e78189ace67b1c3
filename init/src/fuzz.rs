//! Seeded mutation for the readers' tests.

use std::time::{Duration, Instant};

/// xorshift64*: the same numbers in every run.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// Hands mutations of `seed` to `try_one`, for `SLIPFORM_FUZZ_SECONDS` (1 if unset)
/// and 100 times at least. Most keep the seed's length, some are cut or longer.
pub(crate) fn mutate(seed: &[u8], mut try_one: impl FnMut(&[u8], &mut Random)) {
    let seconds = std::env::var("SLIPFORM_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs_f64(seconds.unwrap_or(1.0));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut round = 0;
    while round < 100 || Instant::now() < end {
        let mut bytes = seed.to_vec();
        for _ in 0..=random.below(8) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = [0, 0xff, 0x7f, 0x80, b'"', b'{'][random.below(6)],
                _ => {
                    let end = (at + 1 + random.below(8)).min(bytes.len());
                    let from = random.below(bytes.len() - (end - at) + 1);
                    bytes.copy_within(from..from + (end - at), at);
                }
            }
        }
        match random.below(8) {
            0 => bytes.truncate(random.below(bytes.len() + 1)),
            1 => {
                let from = random.below(bytes.len());
                let more = bytes[from..].to_vec();
                bytes.extend_from_slice(&more[..1 + random.below(more.len())]);
            }
            _ => {}
        }
        try_one(&bytes, &mut random);
        round += 1;
    }
}
