//! Seeded mutation for readers, under plain `cargo test`.

use std::time::{Duration, Instant};

/// Feeds mutations of `seed` to `reader` for as long as `SLIPFORM_FUZZ_SECONDS`
/// says (one second if it says nothing). The sequence is the same in every run.
pub(crate) fn mutate(seed: &[u8], mut reader: impl FnMut(&[u8])) {
    let seconds = std::env::var("SLIPFORM_FUZZ_SECONDS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1.0);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    reader(seed);
    while Instant::now() < end {
        for _ in 0..64 {
            let mut bytes = seed.to_vec();
            for _ in 0..=random.below(4) {
                change(&mut bytes, &mut random);
            }
            reader(&bytes);
        }
    }
}

fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    const SPECIAL: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b'/', b'%', b'\\'];
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(17)).min(bytes.len());
    match random.below(5) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = SPECIAL[random.below(SPECIAL.len())],
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        _ => {
            let copy = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
    }
}

/// xorshift64*, enough to spread mutations.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        (value as usize) % limit.max(1)
    }
}
