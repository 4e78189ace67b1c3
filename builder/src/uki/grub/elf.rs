//! GRUB's kernel: a 32-bit ELF executable, laid out as it lies in memory.

/// `SHF_ALLOC`, `SHT_NOBITS`.
const ALLOCATED: u32 = 2;
const NO_BITS: u32 = 8;
/// No kernel of GRUB's is larger in memory, in bytes.
const LARGEST: usize = 1 << 20;

/// The bytes from `address` on that the file brings; what it only reserves comes behind.
///
/// # Errors
/// What the file must be.
pub(super) fn in_memory(elf: &[u8], address: u32) -> Result<Vec<u8>, String> {
    let rule = || "it must be a 32-bit ELF executable of GRUB's for a BIOS".to_owned();
    layout(elf, address)
        .filter(|m| !m.is_empty())
        .ok_or_else(rule)
}

fn layout(elf: &[u8], address: u32) -> Option<Vec<u8>> {
    if elf.get(..6)? != b"\x7fELF\x01\x01" {
        return None;
    }
    let word = |at: usize| {
        let bytes = elf.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let place = |at: usize| usize::try_from(word(at)?).ok();
    let table = place(32)?;
    let count = usize::from(u16::from_le_bytes(elf.get(48..50)?.try_into().ok()?));
    let mut memory = Vec::new();
    for section in 0..count {
        let at = table.checked_add(section * 40)?;
        if word(at + 8)? & ALLOCATED == 0 || word(at + 4)? == NO_BITS {
            continue;
        }
        let start = usize::try_from(word(at + 12)?.checked_sub(address)?).ok()?;
        let (offset, size) = (place(at + 16)?, place(at + 20)?);
        let end = start.checked_add(size).filter(|end| *end <= LARGEST)?;
        if memory.len() < end {
            memory.resize(end, 0);
        }
        let bytes = elf.get(offset..offset.checked_add(size)?)?;
        memory[start..end].copy_from_slice(bytes);
    }
    Some(memory)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A smallest executable with these sections.
    pub(in super::super) fn executable(sections: &[(u32, &[u8])]) -> Vec<u8> {
        let mut elf = vec![0; 52];
        elf[..6].copy_from_slice(b"\x7fELF\x01\x01");
        let mut table = Vec::new();
        for (address, bytes) in sections {
            let words = [
                0,
                1,
                ALLOCATED,
                *address,
                elf.len() as u32,
                bytes.len() as u32,
            ];
            let more = [0_u32; 4];
            table.extend(
                words
                    .iter()
                    .chain(&more)
                    .flat_map(|word| word.to_le_bytes()),
            );
            elf.extend_from_slice(bytes);
        }
        let at = elf.len() as u32;
        elf[32..36].copy_from_slice(&at.to_le_bytes());
        elf[48..50].copy_from_slice(&(sections.len() as u16).to_le_bytes());
        elf.extend(table);
        elf
    }

    #[test]
    fn sections_lie_where_they_want_to() {
        let elf = executable(&[(0x9000, b"text"), (0x9008, b"data")]);
        assert_eq!(in_memory(&elf, 0x9000).unwrap(), b"text\0\0\0\0data");
        assert!(in_memory(&elf, 0x9001).is_err());
        assert!(in_memory(&executable(&[(0xffff_0000, b"far")]), 0x9000).is_err());
    }

    #[test]
    fn damaged_executables_never_panic() {
        let good = executable(&[(0x9000, b"text"), (0x9008, b"data")]);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let _ = in_memory(&bad, 0x9000);
            }
            let _ = in_memory(&good[..at], 0x9000);
        }
    }
}
