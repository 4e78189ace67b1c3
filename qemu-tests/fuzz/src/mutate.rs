//! Changes inputs.

use crate::Random;

/// Bytes that mean something to readers of text or of numbers.
const BYTES: &[u8] = b"\0\x01\x7f\x80\xff\n\r\t \"'\\/%.,:;=|&#@*-+_0149aAxz[]{}()<>~\x1b\xc3\xe2";
/// Numbers at whose edges readers go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX >> 1,
    u64::MAX - 1,
    u64::MAX,
];
/// The same as text.
const TEXTS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "00",
    "255",
    "256",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e999",
];
/// Longest piece that is copied, moved or taken away; now and then a longer one.
const PIECE: usize = 32;

/// One mutant of `corpus` in `bytes`, at most `longest` bytes long.
pub(crate) fn mutant(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], longest: usize, random: &mut Random) {
    // The newer, the more promising: it is there because it reached something.
    let chosen = random.below(corpus.len()).max(random.below(corpus.len()));
    bytes.clear();
    bytes.extend_from_slice(&corpus[chosen]);
    if corpus.len() > 1 && random.once_in(16) {
        cross(bytes, pick(corpus, random), random);
    }
    let most = 1 << random.below(4);
    for _ in 0..=random.below(most) {
        change(bytes, corpus, random);
    }
    bytes.truncate(longest);
}

fn pick<'a>(corpus: &'a [Vec<u8>], random: &mut Random) -> &'a [u8] {
    &corpus[random.below(corpus.len())]
}

/// The beginning of one, the end of the other.
fn cross(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    bytes.truncate(random.below(bytes.len() + 1));
    bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
}

/// A piece of something `length` bytes long: where it begins and ends.
fn piece(length: usize, random: &mut Random) -> (usize, usize) {
    let from = random.below(length + 1);
    let most = if random.once_in(16) { length } else { PIECE };
    (from, (from + 1 + random.below(most)).min(length))
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.splice(at..at, what.iter().copied());
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    if bytes.is_empty() {
        bytes.extend((0..=random.below(8)).map(|_| random.byte()));
        return;
    }
    let at = random.below(bytes.len());
    match random.below(14) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.byte(),
        3 | 4 => bytes[at] = BYTES[random.below(BYTES.len())],
        5 | 6 => number(bytes, at, random),
        7 => digits(bytes, at, random),
        8 => {
            let (from, end) = piece(bytes.len(), random);
            let to = random.below(bytes.len() - (end - from) + 1);
            bytes.copy_within(from..end, to);
        }
        9 => {
            let (from, end) = piece(bytes.len(), random);
            let what = bytes[from..end].to_vec();
            let times = 1 + usize::from(random.once_in(16)) * random.below(16);
            insert(bytes, at, &what.repeat(times));
        }
        10 => {
            let (from, end) = piece(bytes.len(), random);
            bytes.drain(from..end);
        }
        11 if random.once_in(3) => bytes.truncate(at),
        11 => {
            let byte = [random.byte(), BYTES[random.below(BYTES.len())]][random.below(2)];
            insert(bytes, at, &[byte; PIECE][..=random.below(4)]);
        }
        12 => {
            let other = pick(corpus, random);
            let (from, end) = piece(other.len(), random);
            insert(bytes, at, &other[from..end]);
        }
        _ => {
            // The same place in another one: where it has a form, the same field.
            let other = pick(corpus, random);
            let end = (at + 1 + random.below(PIECE)).min(bytes.len());
            if let Some(what) = other.get(at..end) {
                bytes[at..end].copy_from_slice(what);
            }
        }
    }
}

/// A number of 1, 2, 4 or 8 bytes in either order: another one, or a near one.
fn number(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = 1 << random.below(4);
    let Some(field) = bytes.get_mut(at..at + width) else {
        return;
    };
    let big = random.once_in(2);
    let mut value = [0; 8];
    value[..width].copy_from_slice(field);
    if big {
        value[..width].reverse();
    }
    let old = u64::from_le_bytes(value);
    let near = random.below(33) as u64;
    let new = match random.below(3) {
        0 => NUMBERS[random.below(NUMBERS.len())],
        1 => old.wrapping_add(near),
        _ => old.wrapping_sub(near),
    };
    value = new.to_le_bytes();
    if big {
        value[..width].reverse();
    }
    field.copy_from_slice(&value[..width]);
}

/// The decimal number around `at`, or a new one there.
fn digits(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let from = at - bytes[..at].iter().rev().take_while(|b| is_digit(b)).count();
    let end = at + bytes[at..].iter().take_while(|b| is_digit(b)).count();
    let text = TEXTS[random.below(TEXTS.len())];
    bytes.splice(from..end, text.bytes());
}
