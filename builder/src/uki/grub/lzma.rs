//! A raw LZMA stream that says everything literally.
//!
//! GRUB's decompressor takes nothing else (LZMA SDK, lzma-specification.txt; lc = 3, lp = 0,
//! pb = 2, no header, no end marker). Matches would save a few KiB once; without them no
//! encoder's choices, which change with its versions, are part of a disk's identity.

/// Context bits.
const LITERAL_BITS: u32 = 3;
/// A byte's position counts modulo this.
const POSITIONS: usize = 4;
/// Half, of 11 bits.
const EVEN: u16 = 1 << 10;

/// Compresses `bytes`.
pub(super) fn literals(bytes: &[u8]) -> Vec<u8> {
    let mut coder = Coder::new(bytes.len());
    let mut matches = [EVEN; POSITIONS];
    let mut literals = vec![[EVEN; 256]; 1 << LITERAL_BITS];
    let mut before = 0_u8;
    for (at, byte) in bytes.iter().enumerate() {
        coder.bit(&mut matches[at % POSITIONS], false);
        let tree = &mut literals[usize::from(before >> (8 - LITERAL_BITS))];
        let mut node = 1;
        for bit in (0..8).rev() {
            let is_set = byte >> bit & 1 == 1;
            coder.bit(&mut tree[node], is_set);
            node = node << 1 | usize::from(is_set);
        }
        before = *byte;
    }
    coder.finish()
}

/// The range coder.
struct Coder {
    low: u64,
    range: u32,
    /// The byte that a carry may still reach, and how many bytes wait, it among them.
    cache: u8,
    waiting: u64,
    out: Vec<u8>,
}

impl Coder {
    fn new(expected: usize) -> Self {
        Self {
            low: 0,
            range: u32::MAX,
            cache: 0,
            waiting: 1,
            out: Vec::with_capacity(expected),
        }
    }

    fn bit(&mut self, even: &mut u16, is_set: bool) {
        let bound = (self.range >> 11) * u32::from(*even);
        if is_set {
            self.low += u64::from(bound);
            self.range -= bound;
            *even -= *even >> 5;
        } else {
            self.range = bound;
            *even += ((1 << 11) - *even) >> 5;
        }
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.shift();
        }
    }

    fn shift(&mut self) {
        let carry = (self.low >> 32) as u8;
        if self.low < 0xff00_0000 || carry == 1 {
            let mut byte = self.cache;
            for _ in 0..self.waiting {
                self.out.push(byte.wrapping_add(carry));
                byte = 0xff;
            }
            self.waiting = 0;
            self.cache = (self.low >> 24) as u8;
        }
        self.waiting += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        self.out
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// What another implementation reads of it.
    fn read_back(packed: &[u8], length: usize) -> Vec<u8> {
        let mut reader =
            lzma_rust2::LzmaReader::new(packed, length as u64, 3, 0, 2, 1 << 16, None).unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn another_decoder_reads_the_same_bytes() {
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let random: Vec<u8> = (0..100_000).map(|_| noise()).collect();
        // Long runs of one bit are what carries travel through.
        for bytes in [&b"a"[..], &[0xff; 70_000], &[0; 5000], &random] {
            let packed = literals(bytes);
            assert_eq!(read_back(&packed, bytes.len()), bytes);
        }
        assert!(literals(&[0; 5000]).len() < 500);
    }
}
