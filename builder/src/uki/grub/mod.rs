//! The way in by a BIOS: GRUB's own boot code, made into the two pieces that a disk takes.
//!
//! Sources: GRUB 2.12, `util/mkimage.c`, `util/setup.c`, `include/grub/offsets.h`,
//! `include/grub/kernel.h`; GRUB manual, "Images".
//!
//! ```text
//! sector 0         boot.img: loads one sector
//! BIOS partition   diskboot.img: loads the rest
//!                  | lzma_decompress.img | kernel, modules, configuration; compressed |
//! ```
//!
//! No host tool runs: images and modules come from a locked package, and what grub-mkimage
//! and grub-bios-setup would patch is patched here. The configuration names the kernel and
//! the initrd by their sectors: they are those of the unified kernel image in the ESP, so
//! that both ways start the very same bytes. GRUB reads no file system and asks nobody.

mod elf;
mod lzma;

/// Debian's package with GRUB for a BIOS.
pub const PACKAGE: &str = "grub-pc-bin";
/// Folder of its images and modules.
const FOLDER: &str = "/usr/lib/grub/i386-pc";
/// What the configuration needs; [`DEPENDENCIES`] says what else.
const MODULES: [&str; 2] = ["biosdisk", "linux"];
/// Which module needs which, a line each.
const DEPENDENCIES: &str = "moddep.lst";
/// No file of GRUB's is larger.
const LARGEST: usize = 1 << 20;
/// No module needs so many others.
const MAX_MODULES: usize = 64;

/// Bytes of a sector; a BIOS knows no others.
pub const SECTOR: u64 = 512;
/// Bytes of the boot sector that are code: behind lie the disk's signature and partitions.
pub const BOOT_CODE: usize = 440;
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: which sector boot.img loads.
const KERNEL_SECTOR: usize = 0x5c;
/// `GRUB_BOOT_MACHINE_DRIVE_CHECK`: a jump that only floppies need; two no-operations
/// take what the BIOS says for the drive's number.
const DRIVE_CHECK: usize = 0x66;
/// Where diskboot.img says what it loads: first sector, count, segment.
const BLOCK_LIST: usize = 0x1f4;
/// `GRUB_BOOT_I386_PC_KERNEL_SEG`, behind diskboot.img itself.
const SEGMENT: u16 = 0x820;
/// `GRUB_DECOMPRESSOR_I386_PC_COMPRESSED_SIZE` and `_UNCOMPRESSED_SIZE`.
const PACKED_SIZE: usize = 0x08;
const PLAIN_SIZE: usize = 0x0c;
/// `GRUB_KERNEL_I386_PC_LINK_ADDR`, and the end of the memory that the image may take.
const LINK_ADDRESS: u32 = 0x9000;
const MEMORY_END: usize = 0x78000;
/// `GRUB_MODULE_MAGIC`.
const MAGIC: u32 = 0x676d_696d;
/// `OBJ_TYPE_ELF` and `OBJ_TYPE_CONFIG`.
const TYPE_ELF: u32 = 0;
const TYPE_CONFIG: u32 = 2;

/// What can be wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrubError {
    /// The package has another GRUB than is known.
    #[error("GRUB's {file}: {rule}")]
    File {
        /// The file.
        file: String,
        /// What it must be.
        rule: String,
    },
    /// The command line cannot go through GRUB unchanged.
    #[error(
        "kernel.args: '{0}' cannot be given to the kernel on a board with a BIOS; write it without quotes and backslashes"
    )]
    Word(String),
    /// It does not fit into what a BIOS gives.
    #[error("GRUB's image has {0} bytes, and a BIOS has room for {room}", room = MEMORY_END - LINK_ADDRESS as usize)]
    TooLarge(usize),
}

/// GRUB's files, as the package has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grub {
    boot: Vec<u8>,
    diskboot: Vec<u8>,
    decompress: Vec<u8>,
    /// The kernel as it lies in memory.
    kernel: Vec<u8>,
    /// In the order of loading.
    modules: Vec<Vec<u8>>,
}

/// Gives a file of the package by its path; `None` if it has no such file.
pub type ReadFile<'a, E> = &'a mut dyn FnMut(&str) -> Result<Option<Vec<u8>>, E>;

/// A run of sectors of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sectors {
    /// The first one.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Sectors {
    /// The sectors that hold so many bytes from a byte on, which begins one.
    #[must_use]
    pub fn of(offset: u64, size: u64) -> Option<Self> {
        offset.is_multiple_of(SECTOR).then(|| Self {
            first: offset / SECTOR,
            count: size.div_ceil(SECTOR),
        })
    }
}

impl Grub {
    /// Takes the files; `read` gives one by its path in the package.
    ///
    /// # Errors
    /// [`GrubError::File`], or what `read` says.
    pub fn take<E: From<GrubError>>(read: ReadFile<'_, E>) -> Result<Self, E> {
        let mut file = |name: &str| -> Result<Vec<u8>, E> {
            let bytes = read(&format!("{FOLDER}/{name}"))?;
            let bytes = bytes.filter(|bytes| bytes.len() <= LARGEST);
            bytes.ok_or_else(|| wrong(name, "it must be there, and no larger than 1 MiB").into())
        };
        let sector = |name: &str, bytes: Vec<u8>| match bytes.len() as u64 == SECTOR {
            true => Ok(bytes),
            false => Err(wrong(name, "it must be one sector")),
        };
        let boot = sector("boot.img", file("boot.img")?)?;
        let diskboot = sector("diskboot.img", file("diskboot.img")?)?;
        if boot[DRIVE_CHECK] != 0xeb || diskboot[BLOCK_LIST + 10..] != SEGMENT.to_le_bytes() {
            return Err(wrong("boot.img", "it must be that of GRUB 2").into());
        }
        let decompress = file("lzma_decompress.img")?;
        if decompress.len() <= PLAIN_SIZE + 4 {
            return Err(wrong("lzma_decompress.img", "it must be that of GRUB 2").into());
        }
        let kernel = elf::in_memory(&file("kernel.img")?, LINK_ADDRESS)
            .map_err(|rule| wrong("kernel.img", &rule))?;
        let needs = String::from_utf8_lossy(&file(DEPENDENCIES)?).into_owned();
        let modules = order(&needs)?
            .iter()
            .map(|name| file(&format!("{name}.mod")))
            .collect::<Result<_, E>>()?;
        Ok(Self {
            boot,
            diskboot,
            decompress,
            kernel,
            modules,
        })
    }

    /// The code of the boot sector, which loads the image that starts at sector `image`.
    #[must_use]
    pub fn boot_code(&self, image: u64) -> Vec<u8> {
        let mut code = self.boot[..BOOT_CODE].to_vec();
        code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&image.to_le_bytes());
        code[DRIVE_CHECK..DRIVE_CHECK + 2].fill(0x90);
        code
    }

    /// The image that lies at sector `first` and runs `config`.
    ///
    /// # Errors
    /// [`GrubError::TooLarge`].
    pub fn image(&self, config: &str, first: u64) -> Result<Vec<u8>, GrubError> {
        let mut objects = Vec::new();
        for module in &self.modules {
            add(&mut objects, TYPE_ELF, module);
        }
        add(
            &mut objects,
            TYPE_CONFIG,
            &[config.as_bytes(), b"\0"].concat(),
        );
        let mut plain = self.kernel.clone();
        // Bytes of a header, which say its own length and that of all.
        let header = [MAGIC, 12, length(objects.len()) + 12];
        plain.extend(header.iter().flat_map(|word| word.to_le_bytes()));
        plain.extend(objects);
        let packed = lzma::literals(&plain);
        let mut image = self.decompress.clone();
        image[PACKED_SIZE..PACKED_SIZE + 4].copy_from_slice(&length(packed.len()).to_le_bytes());
        image[PLAIN_SIZE..PLAIN_SIZE + 4].copy_from_slice(&length(plain.len()).to_le_bytes());
        image.extend(packed);
        if LINK_ADDRESS as usize + image.len() > MEMORY_END {
            return Err(GrubError::TooLarge(image.len()));
        }
        let count = image.len().div_ceil(SECTOR as usize) as u16;
        let mut whole = self.diskboot.clone();
        whole[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
        whole[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&count.to_le_bytes());
        whole.extend(image);
        Ok(whole)
    }
}

/// What GRUB does: the kernel and the initrd are runs of sectors of the disk that the BIOS
/// started from.
///
/// # Errors
/// [`GrubError::Word`].
pub fn config(kernel: Sectors, initrd: Sectors, cmdline: &str) -> Result<String, GrubError> {
    let blocks = |run: Sectors| format!("($root){}+{}", run.first, run.count);
    let mut words = String::new();
    for word in cmdline.split(' ').filter(|word| !word.is_empty()) {
        if word.contains(['\'', '"', '\\']) {
            return Err(GrubError::Word(word.to_owned()));
        }
        words.push(' ');
        for letter in word.chars() {
            // To GRUB's reader a `$` or `{` means something; behind a backslash nothing does.
            if letter.is_ascii_punctuation() {
                words.push('\\');
            }
            words.push(letter);
        }
    }
    Ok(format!(
        "linux {}{words}\ninitrd {}\nboot\n",
        blocks(kernel),
        blocks(initrd)
    ))
}

/// An object behind the kernel: its type, its length with this header, and itself.
fn add(objects: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    let padded = bytes.len().next_multiple_of(4);
    objects.extend(kind.to_le_bytes());
    objects.extend((length(padded) + 8).to_le_bytes());
    objects.extend(bytes);
    objects.resize(objects.len() + padded - bytes.len(), 0);
}

/// Files are bounded, and few.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn wrong(file: &str, rule: &str) -> GrubError {
    GrubError::File {
        file: file.to_owned(),
        rule: rule.to_owned(),
    }
}

/// [`MODULES`] and all that they need, each behind what it needs.
fn order(needs: &str) -> Result<Vec<String>, GrubError> {
    fn visit(needs: &str, name: &str, seen: &mut Vec<String>, all: &mut Vec<String>) -> bool {
        if seen.iter().any(|known| known == name) {
            return true;
        }
        seen.push(name.to_owned());
        let of = |line: &'_ str| {
            line.strip_prefix(name)?
                .strip_prefix(':')
                .map(str::to_owned)
        };
        let Some(list) = needs
            .lines()
            .find_map(of)
            .filter(|_| seen.len() <= MAX_MODULES)
        else {
            return false;
        };
        let complete = list
            .split_ascii_whitespace()
            .all(|need| visit(needs, need, seen, all));
        all.push(name.to_owned());
        complete
    }
    let (mut seen, mut all) = (Vec::new(), Vec::new());
    let complete = MODULES
        .iter()
        .all(|name| visit(needs, name, &mut seen, &mut all));
    // Part of a path.
    let plain = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if complete && all.iter().all(plain) {
        Ok(all)
    } else {
        Err(wrong(
            DEPENDENCIES,
            "it must name what the modules biosdisk and linux need",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: &str =
        "linux: boot relocator\nbiosdisk:\nboot:\nrelocator: mmap boot\nmmap: boot\nother: x\n";

    fn grub(change: impl Fn(&str, &mut Vec<u8>)) -> Result<Grub, GrubError> {
        Grub::take(&mut |path| {
            let name = path.strip_prefix("/usr/lib/grub/i386-pc/").unwrap();
            let mut sector = vec![7; 512];
            let mut bytes = match name {
                "boot.img" => {
                    sector[DRIVE_CHECK] = 0xeb;
                    sector
                }
                "diskboot.img" => {
                    sector[510..].copy_from_slice(&SEGMENT.to_le_bytes());
                    sector
                }
                "lzma_decompress.img" => vec![1; 2848],
                "kernel.img" => elf::tests::executable(&[(0x9000, b"text"), (0x9008, b"data")]),
                "moddep.lst" => NEEDS.as_bytes().to_vec(),
                module => module.as_bytes().to_vec(),
            };
            change(name, &mut bytes);
            Ok((!bytes.is_empty()).then_some(bytes))
        })
    }

    #[test]
    fn the_pieces_name_their_sectors() {
        let grub = grub(|_, _| {}).unwrap();
        let code = grub.boot_code(1024);
        assert_eq!(
            code[KERNEL_SECTOR..KERNEL_SECTOR + 8],
            1024_u64.to_le_bytes()
        );
        assert_eq!(code[DRIVE_CHECK..DRIVE_CHECK + 2], [0x90, 0x90]);
        let image = grub.image("boot\n", 1024).unwrap();
        let sectors = (image.len() - 512).div_ceil(512) as u16;
        assert_eq!(image[BLOCK_LIST..BLOCK_LIST + 8], 1025_u64.to_le_bytes());
        assert_eq!(
            image[BLOCK_LIST + 8..BLOCK_LIST + 10],
            sectors.to_le_bytes()
        );
        let [packed, plain] = [PACKED_SIZE, PLAIN_SIZE].map(|at| {
            let bytes = image[512 + at..512 + at + 4].try_into().unwrap();
            u32::from_le_bytes(bytes) as usize
        });
        assert_eq!(image.len(), 512 + 2848 + packed);
        // Kernel, header, five modules, the configuration.
        let modules = ["biosdisk", "boot", "mmap", "relocator", "linux"];
        let modules = modules.map(|name| 8 + (name.len() + 4).next_multiple_of(4));
        assert_eq!(plain, 12 + 12 + modules.iter().sum::<usize>() + 8 + 8);
    }

    #[test]
    fn modules_stand_behind_what_they_need() {
        assert_eq!(
            order(NEEDS).unwrap(),
            ["biosdisk", "boot", "mmap", "relocator", "linux"]
        );
        for bad in [
            "",
            "linux:\n",
            "biosdisk: x\nlinux:\n",
            "biosdisk: ../x\n../x:\nlinux:\n",
        ] {
            assert!(order(bad).is_err(), "{bad}");
        }
        // A circle ends.
        assert!(order("biosdisk: linux\nlinux: biosdisk\n").is_ok());
    }

    #[test]
    fn another_grub_is_refused_by_the_file() {
        for (file, bytes) in [
            ("boot.img", vec![0; 512]),
            ("diskboot.img", vec![0; 511]),
            ("kernel.img", b"\x7fELF".to_vec()),
            ("lzma_decompress.img", Vec::new()),
            ("mmap.mod", vec![0; LARGEST + 1]),
        ] {
            let error = grub(|name, content| {
                if name == file {
                    content.clone_from(&bytes);
                }
            });
            let text = error.unwrap_err().to_string();
            assert!(text.contains(file), "{file}: {text}");
        }
        let large = grub(|name, bytes| {
            if name == "mmap.mod" {
                let noise = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8);
                *bytes = noise.collect();
            }
        });
        let image = large.unwrap().image("", 1);
        assert!(image.is_err_and(|error| matches!(error, GrubError::TooLarge(_))));
    }

    #[test]
    fn the_command_line_reaches_the_kernel_as_it_is_or_not_at_all() {
        let run = |first, count| Sectors { first, count };
        let text = config(run(10, 2), run(12, 3), "console=ttyS0,115200 quiet a=$x").unwrap();
        assert_eq!(
            text,
            "linux ($root)10+2 console\\=ttyS0\\,115200 quiet a\\=\\$x\ninitrd ($root)12+3\nboot\n"
        );
        let error = config(run(1, 1), run(2, 1), "a=\"b\"").unwrap_err();
        assert!(error.to_string().contains("'a=\"b\"'"));
        assert_eq!(Sectors::of(1024, 513), Some(run(2, 2)));
        assert_eq!(Sectors::of(1000, 1), None);
    }
}
