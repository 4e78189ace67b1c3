//! A toy reader with planted bugs.

use std::time::Duration;

use crate::run::{Blind, Feedback, Limits, run};
use crate::{Patch, Random, framed, frames, patches};

const MAGIC: &[u8; 3] = b"\xd5L\x1f";
const SEED: &[u8] = b"a seed that is far from it";

fn limits(most: u64) -> Limits {
    Limits {
        time: Duration::from_secs(3600),
        least: 0,
        most,
        hang: Duration::from_millis(500),
        last: None,
    }
}

/// How far into the magic it comes. With coverage each step is a count more.
#[inline(never)]
fn depth(bytes: &[u8]) -> usize {
    let mut depth = 0;
    for (byte, want) in bytes.iter().zip(MAGIC) {
        if byte != want {
            break;
        }
        depth += 1;
    }
    depth
}

/// Counts by hand what the compiler would.
struct ByHand<'a> {
    depth: &'a std::cell::Cell<usize>,
    best: usize,
}

impl Feedback for ByHand<'_> {
    fn begin(&mut self, _input: &[u8]) {
        self.depth.set(0);
    }

    fn is_new(&mut self) -> bool {
        let is_new = self.depth.get() > self.best;
        self.best = self.best.max(self.depth.get());
        is_new
    }

    fn reached(&self) -> usize {
        self.best
    }
}

const ENOUGH: u64 = 200_000;

#[test]
fn feedback_leads_behind_a_magic_that_blind_mutation_misses() {
    let last = std::cell::Cell::new(0);
    let mut found = false;
    let check = |bytes: &[u8], _: &mut Random| {
        last.set(depth(bytes));
        found |= last.get() == MAGIC.len();
    };
    let mut by_hand = ByHand {
        depth: &last,
        best: 0,
    };
    let outcome = run(&[SEED], &limits(ENOUGH), &mut by_hand, check);
    assert!(
        found,
        "the best of {} was {}",
        outcome.executions, outcome.reached
    );
    assert_eq!(
        (outcome.corpus, outcome.reached),
        (1 + MAGIC.len(), MAGIC.len())
    );

    let mut found = false;
    let check = |bytes: &[u8], _: &mut Random| found |= depth(bytes) == MAGIC.len();
    let outcome = run(&[SEED], &limits(ENOUGH), &mut Blind, check);
    assert!(!found && outcome.corpus == 1);
}

#[test]
fn blind_mutation_finds_what_lies_open() {
    let mut found = [false; 4];
    let check = |bytes: &[u8], _: &mut Random| {
        found[0] |= bytes.starts_with(b"\xff");
        found[1] |= bytes.len() > 2 * SEED.len();
        found[2] |= bytes.windows(4).any(|four| four == u32::MAX.to_be_bytes());
        // A piece of each seed.
        found[3] |= bytes.windows(8).any(|text| text == b"far from")
            && bytes.windows(8).any(|text| text == b"somewhat");
    };
    run(
        &[SEED, b"somewhat different"],
        &limits(20_000),
        &mut Blind,
        check,
    );
    assert_eq!(found, [true; 4]);
}

#[test]
fn every_run_is_the_same_and_each_input_has_its_numbers() {
    let one = || {
        let mut all = Vec::new();
        let check = |bytes: &[u8], random: &mut Random| {
            let bits = random.bits();
            assert_eq!(Random::of(bytes).bits(), bits);
            all.push((bytes.to_vec(), bits));
        };
        run(&[SEED, b""], &limits(1000), &mut Blind, check);
        all
    };
    let all = one();
    assert_eq!((all[0].0.as_slice(), all[1].0.as_slice()), (SEED, &b""[..]));
    assert_eq!(all.len(), 1002);
    assert!(all == one());
}

#[test]
fn forms_are_read_back() {
    let pieces: [&[u8]; 3] = [b"one", b"", b"three"];
    let bytes = framed(&pieces);
    assert!(frames(&bytes).eq(pieces));
    assert!(frames(&bytes[..bytes.len() - 3]).eq([&b"one"[..], b"", b"th"]));
    assert_eq!((frames(b"").count(), frames(b"\xff").count()), (0, 0));
    let patch = Patch {
        at: 0x0102_0304,
        width: 4,
        value: *b"abcdefgh",
    };
    let bytes = [patch.to_bytes().as_slice(), b"cut off"].concat();
    assert!(patches(&bytes).eq([patch]));
}

/// The planted bugs of `tests/planted.rs`, which compiles this file with counters.
mod planted {
    use super::*;

    #[cfg(fuzz_coverage)]
    #[test]
    #[ignore = "must fail, as a bug is planted: tests/planted.rs runs it and looks how"]
    fn behind_a_magic() {
        let mut counters = crate::coverage::take();
        run(&[SEED], &limits(ENOUGH), &mut *counters, |bytes, _| {
            assert!(depth(bytes) < MAGIC.len(), "behind the magic");
        });
    }

    #[test]
    #[ignore = "must fail, as a bug is planted: tests/planted.rs runs it and looks how"]
    fn in_the_open() {
        run(&[SEED], &limits(ENOUGH), &mut Blind, |bytes, _| {
            assert_ne!(bytes.first(), Some(&0xff), "in the open");
        });
    }

    #[test]
    #[ignore = "must fail, as a bug is planted: tests/planted.rs runs it and looks how"]
    fn without_end() {
        run(&[SEED], &limits(ENOUGH), &mut Blind, |bytes, _| {
            while bytes.first() == Some(&0xff) {
                std::thread::yield_now();
            }
        });
    }

    #[cfg(fuzz_coverage)]
    #[test]
    #[ignore = "must fail, as a bug is planted: tests/planted.rs runs it and looks how"]
    fn without_bound() {
        let mut counters = crate::coverage::take();
        run(&[SEED], &limits(ENOUGH), &mut *counters, |bytes, _| {
            if bytes.first() == Some(&0xff) {
                drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 30)));
            }
        });
    }
}
