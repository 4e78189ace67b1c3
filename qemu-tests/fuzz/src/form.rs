//! Forms of inputs that are more than one piece of bytes.

/// Several pieces as one input: each with its length in front (16 bits, big endian).
///
/// # Panics
/// If a piece is longer than 65535 bytes.
pub fn framed<S: AsRef<[u8]>>(pieces: &[S]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let piece = piece.as_ref();
        let length = u16::try_from(piece.len()).expect("a piece of at most 65535 bytes");
        bytes.extend(length.to_be_bytes());
        bytes.extend_from_slice(piece);
    }
    bytes
}

/// The pieces of any input; of one that is cut off, what there is.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let piece;
        (piece, rest) = behind.split_at(length.min(behind.len()));
        Some(piece)
    })
}

/// One change to something too large to be an input itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Where, as the input says; take it modulo what there is.
    pub at: u64,
    /// How many bytes there.
    pub width: usize,
    /// What they become, the first ones of it.
    pub value: [u8; 8],
}

/// Bytes of an input that are a patch.
const PATCH: usize = 13;

/// Every whole patch of an input: four bytes for the place, one for the width, eight for
/// the value. [`Patch::to_bytes`] is the way back.
pub fn patches(bytes: &[u8]) -> impl Iterator<Item = Patch> {
    bytes.as_chunks::<PATCH>().0.iter().map(|bytes| {
        let [a, b, c, d, width, value @ ..] = *bytes;
        Patch {
            at: u32::from_be_bytes([a, b, c, d]).into(),
            width: 1 << (width % 4),
            value,
        }
    })
}

impl Patch {
    /// As [`patches`] reads it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PATCH] {
        let mut bytes = [0; PATCH];
        bytes[..4].copy_from_slice(&(self.at as u32).to_be_bytes());
        bytes[4] = self.width.trailing_zeros() as u8;
        bytes[5..].copy_from_slice(&self.value);
        bytes
    }
}
