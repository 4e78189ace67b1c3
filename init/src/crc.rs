//! Reflected 32 bit CRCs, by nibbles: 64 bytes of table for the few KiB that init sums.

/// IEEE 802.3, as partition tables have it.
pub(crate) const IEEE: Crc = Crc::of(0xedb8_8320);
/// Castagnoli, as ext4 has it.
pub(crate) const CASTAGNOLI: Crc = Crc::of(0x82f6_3b78);

/// What 16 nibbles do to a CRC of one polynomial.
pub(crate) struct Crc([u32; 16]);

impl Crc {
    const fn of(polynomial: u32) -> Self {
        let mut table = [0; 16];
        let mut index = 0;
        while index < 16 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 {
                    (value >> 1) ^ polynomial
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        Self(table)
    }

    /// Goes on from `start` (all ones at first); nothing is inverted at the end.
    pub(crate) fn update(&self, start: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(start, |crc, &byte| {
            let crc = crc ^ u32::from(byte);
            let crc = (crc >> 4) ^ self.0[(crc & 15) as usize];
            (crc >> 4) ^ self.0[(crc & 15) as usize]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values that catalogues of CRCs give.
    #[test]
    fn check_values() {
        assert_eq!(!IEEE.update(!0, b"123456789"), 0xcbf4_3926);
        assert_eq!(!CASTAGNOLI.update(!0, b"123456789"), 0xe306_9283);
        assert_eq!(
            IEEE.update(IEEE.update(!0, b"1234"), b"56789"),
            IEEE.update(!0, b"123456789")
        );
    }
}
