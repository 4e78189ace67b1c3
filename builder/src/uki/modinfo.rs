//! What a kernel module says of itself, in its `.modinfo` section (Linux,
//! include/linux/module.h and moduleinfo.h): texts `key=value`, each with a zero behind it.

/// No kernel module is larger, in bytes.
const LARGEST: usize = 64 << 20;

/// A module's own words. Names of modules have underscores.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct ModInfo {
    /// Modules whose symbols it uses.
    pub(super) depends: Vec<String>,
    /// Modules, or aliases of such, that should be there before it.
    pub(super) before: Vec<String>,
    /// The same behind it.
    pub(super) behind: Vec<String>,
    /// What it drives or provides.
    pub(super) aliases: Vec<String>,
    /// Files that it may ask for, below /lib/firmware.
    pub(super) firmware: Vec<String>,
}

/// Reads a module's own words.
///
/// # Errors
/// A text for people: it is no module.
pub(super) fn read(elf: &[u8]) -> Result<ModInfo, String> {
    let section = modinfo(elf).ok_or("it is no 64-bit ELF file with a .modinfo section")?;
    let mut info = ModInfo::default();
    for entry in section.split(|byte| *byte == 0) {
        let Some(at) = entry.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let value = || {
            let value = std::str::from_utf8(&entry[at + 1..]);
            value.map_err(|_| {
                let key = String::from_utf8_lossy(&entry[..at]);
                format!("its {key}= is not UTF-8")
            })
        };
        match &entry[..at] {
            b"depends" => {
                let names = value()?.split(',').filter(|name| !name.is_empty());
                info.depends.extend(names.map(underscored));
            }
            b"softdep" => soft(value()?, &mut info),
            b"alias" => info.aliases.push(value()?.to_owned()),
            b"firmware" => info.firmware.push(value()?.to_owned()),
            _ => {}
        }
    }
    Ok(info)
}

/// `pre: a b post: c`.
fn soft(text: &str, info: &mut ModInfo) {
    let mut to = None;
    for word in text.split_ascii_whitespace() {
        match (word, &mut to) {
            ("pre:", _) => to = Some(false),
            ("post:", _) => to = Some(true),
            (name, Some(false)) => info.before.push(underscored(name)),
            (name, Some(true)) => info.behind.push(underscored(name)),
            (_, None) => {}
        }
    }
}

/// A module's name as the kernel has it.
pub(super) fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// Finds `.modinfo` in a little-endian ELF64 file (System V ABI, "Sections").
fn modinfo(elf: &[u8]) -> Option<&[u8]> {
    if elf.len() > LARGEST || elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let number = |at: usize, size: usize| -> Option<usize> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(elf.get(at..at.checked_add(size)?)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let (table, entry, count, names) = (
        number(40, 8)?,
        number(58, 2)?,
        number(60, 2)?,
        number(62, 2)?,
    );
    let header = |index: usize| table.checked_add(index.checked_mul(entry)?);
    let body = |at: usize| -> Option<&[u8]> {
        let (offset, size) = (
            number(at.checked_add(24)?, 8)?,
            number(at.checked_add(32)?, 8)?,
        );
        elf.get(offset..offset.checked_add(size)?)
    };
    let names = body(header(names)?)?;
    (0..count).find_map(|index| {
        let at = header(index)?;
        let name = names.get(number(at, 4)?..)?.split(|b| *b == 0).next()?;
        (name == b".modinfo").then(|| body(at)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::module;
    use super::*;

    #[test]
    fn a_module_says_what_it_needs_and_what_it_drives() {
        let elf = module(
            "depends=a-b,c\0alias=pci:v1*\0alias=x\0softdep=pre: crc32c d-e post: f\0firmware=rtl_nic/a.fw",
        );
        let info = read(&elf).unwrap();
        assert_eq!(info.depends, ["a_b", "c"]);
        assert_eq!(info.aliases, ["pci:v1*", "x"]);
        assert_eq!(
            (info.before.join(" "), info.behind.join(" ")),
            ("crc32c d_e".to_owned(), "f".to_owned())
        );
        assert_eq!(info.firmware, ["rtl_nic/a.fw"]);
    }

    #[test]
    fn damaged_modules_never_panic() {
        let good = module("depends=a,b\0softdep=pre: c");
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let _ = read(&bad);
            }
            let _ = read(&good[..at]);
        }
    }
}
