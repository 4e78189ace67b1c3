//! Kernel modules for tests, also those of the command.

/// A smallest ELF64 file with `.modinfo` (System V ABI, "Sections"), which says `info`:
/// `depends=a,b`, and more behind zero bytes.
#[must_use]
pub fn module(info: &str) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let info = format!("license=GPL\0{info}\0");
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let (names_at, info_at) = (64, 64 + names.len());
    elf.extend_from_slice(names);
    elf.extend_from_slice(info.as_bytes());
    let table = elf.len();
    elf[40..48].copy_from_slice(&(table as u64).to_le_bytes());
    elf[58..60].copy_from_slice(&64u16.to_le_bytes());
    elf[60..62].copy_from_slice(&3u16.to_le_bytes());
    elf[62..64].copy_from_slice(&2u16.to_le_bytes());
    for (name, offset, size) in [
        (0u32, 0, 0),
        (1, info_at, info.len()),
        (10, names_at, names.len()),
    ] {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend(header);
    }
    elf
}
