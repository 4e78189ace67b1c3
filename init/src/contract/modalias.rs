//! Which modules drive a device: the kernel's own aliases, as the builder puts them into
//! the initrd of a board that finds its drivers by itself.
//!
//! ```text
//! /modules/coldplug/aliases    pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
//! /modules/coldplug/needs      e1000e pps_core.ko.xz ptp.ko.xz e1000e.ko.xz
//! ```
//!
//! A line's key is what stands before its first wildcard or blank, and lines are sorted by
//! their keys. So a device's modalias is looked up by its own beginnings: init parses
//! nothing ahead, and few patterns are compared at all.

/// Folder in the initrd with what is loaded for devices: the modules, as the kernel's package
/// has them, [`ALIASES`] and [`NEEDS`]. It outlives the initrd.
pub const COLDPLUG_DIR: &str = "/modules/coldplug";
/// File in [`COLDPLUG_DIR`]: an alias and a module's name a line.
pub const ALIASES: &str = "aliases";
/// File in [`COLDPLUG_DIR`]: a module's name, and the files to load for it, in their order.
pub const NEEDS: &str = "needs";
/// No key is longer, in bytes.
pub const LONGEST_KEY: usize = 128;

/// The key of a line: what stands before its first wildcard or blank.
#[must_use]
pub fn key(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|byte| b"*?[ ".contains(byte));
    &line[..end.unwrap_or(line.len())]
}

/// The modules of `aliases` whose alias fits the device, each maybe more than once.
pub fn modules<'t>(aliases: &'t [u8], modalias: &'t [u8]) -> impl Iterator<Item = &'t [u8]> {
    let longest = modalias.len().min(LONGEST_KEY);
    (1..=longest)
        .flat_map(move |length| lines(aliases, &modalias[..length]))
        .filter_map(move |line| {
            let blank = line.iter().rposition(|byte| *byte == b' ')?;
            fits(&line[..blank], modalias).then(|| &line[blank + 1..])
        })
}

/// The files to load for a module, in their order; none for one that `needs` does not have.
pub fn files<'t>(needs: &'t [u8], module: &'t [u8]) -> impl Iterator<Item = &'t [u8]> {
    lines(needs, module).flat_map(|line| line.split(|byte| *byte == b' ').skip(1))
}

/// The lines of a sorted table with this key.
fn lines<'t>(table: &'t [u8], wanted: &'t [u8]) -> impl Iterator<Item = &'t [u8]> {
    // Both are always the beginning of a line, or the table's end.
    let (mut low, mut high) = (0, table.len());
    while low < high {
        let middle = low.midpoint(high);
        let start = table[low..middle].iter().rposition(|byte| *byte == b'\n');
        let start = start.map_or(low, |found| low + found + 1);
        let line = first_line(&table[start..]);
        if key(line) < wanted {
            low = (start + line.len() + 1).min(high);
        } else {
            high = start;
        }
    }
    table[low..]
        .split(|byte| *byte == b'\n')
        .take_while(move |line| !line.is_empty() && key(line) == wanted)
}

fn first_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == b'\n');
    &text[..end.unwrap_or(text.len())]
}

/// Whether the whole `text` is what `pattern` means: `*`, `?` and `[a-z]` as fnmatch(3) has
/// them. The work is bounded by the product of both lengths.
#[must_use]
pub fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and the first byte that is not its.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at), text.get(seen)) {
            (Some(b'*'), _) => {
                at += 1;
                star = Some((at, seen));
                continue;
            }
            (None, None) => return true,
            (Some(_), Some(byte)) => {
                if let Some(width) = one(&pattern[at..], *byte) {
                    at += width;
                    seen += 1;
                    continue;
                }
            }
            _ => {}
        }
        match star {
            Some((behind, from)) if from < text.len() => {
                (at, seen) = (behind, from + 1);
                star = Some((behind, seen));
            }
            _ => return false,
        }
    }
}

/// The length of the pattern's first item, if that fits `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => {
            // A bracket that is never closed stands for itself.
            let Some(end) = pattern.iter().position(|other| *other == b']') else {
                return (byte == b'[').then_some(1);
            };
            let set = &pattern[1..end];
            let (set, wanted) = match set.first() {
                Some(b'!' | b'^') => (&set[1..], false),
                _ => (set, true),
            };
            (holds(set, byte) == wanted).then_some(end + 1)
        }
        other => (other == byte).then_some(1),
    }
}

/// Whether a set such as `0-9A` has the byte.
fn holds(set: &[u8], byte: u8) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set.len() > at + 2 && set[at + 1] == b'-' {
            if (set[at]..=set[at + 2]).contains(&byte) {
                return true;
            }
            at += 3;
        } else if set[at] == byte {
            return true;
        } else {
            at += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    const TABLE: &[u8] = b"acpi*:PNP0C0C:* button\n\
pci:v*d*sv*sd*bc01sc06i01* ahci\n\
pci:v*d*sv*sd*bc0Csc03i30* xhci_pci\n\
pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n\
pci:v00008086d000010D3sv*sd*bc*sc*i* other\n\
scsi:t-0x00* sd_mod\n\
usb:v0781p0001d[0-4]*dc*dsc*dp*ic*isc*ip*in* ums\n";

    fn found(modalias: &str) -> Vec<&str> {
        let found = modules(TABLE, modalias.as_bytes());
        found
            .map(|name| std::str::from_utf8(name).unwrap())
            .collect()
    }

    #[test]
    fn a_device_finds_its_modules_by_number_and_by_class() {
        for (modalias, expected) in [
            (
                "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00",
                &["e1000e", "other"][..],
            ),
            (
                "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
                &["ahci"],
            ),
            ("acpi:PNP0C0C:", &["button"]),
            ("acpi:LNXPWRBN:PNP0C0C:", &["button"]),
            ("scsi:t-0x00", &["sd_mod"]),
            ("scsi:t-0x05", &[]),
            (
                "usb:v0781p0001d0200dc00dsc00dp00ic08isc06ip50in00",
                &["ums"],
            ),
            ("usb:v0781p0001d9500dc00dsc00dp00ic08isc06ip50in00", &[]),
            ("pci:", &[]),
            ("", &[]),
            ("zzz", &[]),
        ] {
            assert_eq!(found(modalias), expected, "{modalias}");
        }
    }

    #[test]
    fn files_come_in_their_order() {
        let needs = b"ahci libata.ko.xz ahci.ko.xz\nahcix a\nnvme nvme-core.ko.xz nvme.ko.xz\n";
        let of = |name: &str| {
            let files = files(needs, name.as_bytes());
            files
                .map(|file| String::from_utf8(file.to_vec()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(of("ahci"), ["libata.ko.xz", "ahci.ko.xz"]);
        assert_eq!(of("nvme"), ["nvme-core.ko.xz", "nvme.ko.xz"]);
        for none in ["ahc", "nvmex", "", "a b"] {
            assert_eq!(of(none), Vec::<String>::new(), "{none}");
        }
    }

    #[test]
    fn patterns_mean_what_fnmatch_means() {
        for (pattern, text, expected) in [
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("*", "", true),
            ("**x", "aax", true),
            ("?", "", false),
            ("[0-9A-F]x", "Bx", true),
            ("[!0-9]", "7", false),
            ("[^0-9]", "a", true),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("[]", "x", false),
            ("d[1-3]*", "d2", true),
        ] {
            assert_eq!(
                fits(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_pattern_of_stars_is_no_work_without_end() {
        let (pattern, text) = ("*a".repeat(2000), "a".repeat(3999) + "b");
        assert!(!fits(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn no_table_and_no_device_breaks_the_search() {
        let device = b"usb:v0781p0001d0200dc00dsc00dp00ic08isc06ip50in00";
        fuzz(&[TABLE], |table, _| {
            assert!(modules(table, device).count() <= table.len());
            assert!(files(table, b"usb:v0781p0001d").count() <= table.len());
        });
        fuzz(&[device], |device, _| {
            assert!(modules(TABLE, device).count() <= 3);
        });
    }
}
