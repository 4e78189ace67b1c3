//! Modules for devices that the machine turns out to have: which ones are carried, and the
//! tables by which init finds them (their form: [`slipform_init::contract::modalias`]).
//!
//! Debian's kernel packages ship no `modules.alias` either; every module says itself what it
//! drives. Only aliases of devices are kept: those of file systems, ciphers and protocols
//! are asked for in other ways.

use std::collections::{BTreeMap, BTreeSet};

use slipform_init::contract::modalias;

use super::modinfo::{self, ModInfo, underscored};
use super::modules::{Kernel, ModuleError};

/// What an alias of a device starts with, up to the first colon.
const BUSES: [&str; 17] = [
    "acpi",
    "acpi*",
    "auxiliary",
    "cpu",
    "hid",
    "mmc",
    "of",
    "pci",
    "platform",
    "pnp",
    "scsi",
    "sdio",
    "serio",
    "usb",
    "virtio",
    "vmbus",
    "xen",
];
/// Where modules lie that provide what others ask for by a name of no module (`crc32c`).
const PROVIDERS: &str = "/crypto/";

/// What is carried.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Names of files and their bytes.
    pub files: BTreeMap<String, Vec<u8>>,
    /// [`modalias::ALIASES`].
    pub aliases: String,
    /// [`modalias::NEEDS`].
    pub needs: String,
    /// Files that they may ask for, below /lib/firmware.
    pub firmware: BTreeSet<String>,
}

/// Reads a module's file by its path, as the package has it.
pub type ReadModule<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>;
/// Makes an ELF file of a file of that path, which is named by its end.
pub type UnpackModule = fn(&str, &[u8]) -> Result<Vec<u8>, String>;

/// What is to be carried.
#[derive(Debug, Clone, Copy)]
pub struct Plugs<'a> {
    /// Names of modules, and folders of the kernel's tree.
    pub wanted: &'a [String],
    /// Modules that init has loaded before it looks at devices.
    pub loaded: &'a BTreeSet<&'a str>,
    /// The kernel takes modules as the package has them.
    pub packed: bool,
    /// How the package has them.
    pub unpack: UnpackModule,
}

impl Kernel {
    /// The wanted modules that drive devices, with all that they need.
    ///
    /// # Errors
    /// [`ModuleError`]: a name or folder that the kernel does not have or that drives
    /// nothing, or a file that is no module.
    pub fn coldplug(&self, plugs: Plugs<'_>, read: ReadModule<'_>) -> Result<Carried, ModuleError> {
        let mut carrier = Carrier {
            kernel: self,
            plugs,
            read,
            infos: BTreeMap::new(),
            providers: None,
            carried: Carried::default(),
        };
        let mut drivers = BTreeSet::new();
        for wanted in plugs.wanted {
            drivers.extend(carrier.drivers(wanted)?);
        }
        let (mut aliases, mut needs) = (BTreeSet::new(), String::new());
        for name in &drivers {
            for alias in carrier.info(name)?.aliases.iter().filter(|a| is_device(a)) {
                let line = format!("{alias} {name}");
                aliases.insert((modalias::key(line.as_bytes()).to_vec(), line));
            }
            let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
            carrier.visit(name, None, &mut seen, &mut files)?;
            needs.push_str(&format!("{name} {}\n", files.join(" ")));
        }
        let mut carried = carrier.carried;
        carried.needs = needs;
        carried.aliases = aliases.into_iter().map(|(_, line)| line + "\n").collect();
        Ok(carried)
    }
}

fn is_device(alias: &str) -> bool {
    let bus = alias.split_once(':').map(|(bus, _)| bus);
    let key = modalias::key(alias.as_bytes()).len();
    bus.is_some_and(|bus| BUSES.contains(&bus))
        && (1..=modalias::LONGEST_KEY).contains(&key)
        && alias.bytes().all(|byte| byte.is_ascii_graphic())
}

struct Carrier<'a> {
    kernel: &'a Kernel,
    plugs: Plugs<'a>,
    read: ReadModule<'a>,
    infos: BTreeMap<String, ModInfo>,
    /// Modules by what they provide; looked for when first asked.
    providers: Option<BTreeMap<String, Vec<String>>>,
    carried: Carried,
}

impl Carrier<'_> {
    /// The modules that an entry of the board means and that drive devices.
    fn drivers(&mut self, wanted: &str) -> Result<Vec<String>, ModuleError> {
        if !wanted.contains('/') {
            let name = underscored(wanted);
            if self.kernel.builtin.contains(&name) {
                return Ok(Vec::new());
            }
            if !self.drives(&name)? {
                return Err(ModuleError::NoDevice(name));
            }
            return Ok(vec![name]);
        }
        let folder = format!("/kernel/{}/", wanted.trim_matches('/'));
        let inside = self.kernel.modules.iter();
        let inside = inside.filter(|(_, path)| path.contains(&folder));
        let mut drivers = Vec::new();
        for name in inside.map(|(name, _)| name) {
            if self.drives(name)? {
                drivers.push(name.clone());
            }
        }
        if drivers.is_empty() {
            return Err(ModuleError::Folder {
                kernel: self.kernel.release.clone(),
                folder: wanted.to_owned(),
            });
        }
        Ok(drivers)
    }

    fn drives(&mut self, name: &str) -> Result<bool, ModuleError> {
        Ok(self
            .info(name)?
            .aliases
            .iter()
            .any(|alias| is_device(alias)))
    }

    fn info(&mut self, name: &str) -> Result<&ModInfo, ModuleError> {
        if !self.infos.contains_key(name) {
            let elf = self.file(name, false)?;
            let info = modinfo::read(&elf).map_err(|why| bad(name, why))?;
            self.infos.insert(name.to_owned(), info);
        }
        Ok(&self.infos[name])
    }

    fn file(&mut self, name: &str, packed: bool) -> Result<Vec<u8>, ModuleError> {
        let path = self.kernel.modules.get(name);
        let path = path.ok_or_else(|| self.kernel.unknown(name, None))?;
        let bytes = (self.read)(path);
        let bytes = bytes.and_then(|bytes| match packed {
            true => Ok(bytes),
            false => (self.plugs.unpack)(path, &bytes),
        });
        bytes.map_err(|why| bad(name, why))
    }

    /// Puts the files of a module into `files`, behind those that it needs, and carries them.
    fn visit(
        &mut self,
        name: &str,
        needed_by: Option<&str>,
        seen: &mut BTreeSet<String>,
        files: &mut Vec<String>,
    ) -> Result<(), ModuleError> {
        let there = self.kernel.builtin.contains(name) || self.plugs.loaded.contains(name);
        if there || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        if !self.kernel.modules.contains_key(name) {
            return Err(self.kernel.unknown(name, needed_by));
        }
        let info = self.info(name)?.clone();
        for soft in &info.before {
            self.visit_soft(soft, seen, files)?;
        }
        for need in &info.depends {
            self.visit(need, Some(name), seen, files)?;
        }
        files.push(self.carry(name)?);
        for soft in &info.behind {
            self.visit_soft(soft, seen, files)?;
        }
        Ok(())
    }

    /// What a module only wishes for: a module of that name, or those that provide it.
    fn visit_soft(
        &mut self,
        name: &str,
        seen: &mut BTreeSet<String>,
        files: &mut Vec<String>,
    ) -> Result<(), ModuleError> {
        if self.kernel.modules.contains_key(name) {
            return self.visit(name, None, seen, files);
        }
        if self.kernel.builtin.contains(name) {
            return Ok(());
        }
        for provider in self.providers()?.get(name).cloned().unwrap_or_default() {
            self.visit(&provider, None, seen, files)?;
        }
        Ok(())
    }

    fn providers(&mut self) -> Result<&BTreeMap<String, Vec<String>>, ModuleError> {
        if self.providers.is_none() {
            let mut providers: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let modules = self.kernel.modules.iter();
            for (name, _) in modules.filter(|(_, path)| path.contains(PROVIDERS)) {
                for alias in &self.info(name)?.aliases {
                    let provided = providers.entry(underscored(alias)).or_default();
                    provided.push(name.clone());
                }
            }
            self.providers = Some(providers);
        }
        Ok(self.providers.get_or_insert_default())
    }

    /// The name of a module's file, which is carried from now on.
    fn carry(&mut self, name: &str) -> Result<String, ModuleError> {
        let path = &self.kernel.modules[name];
        let end = path.rsplit_once(".ko").map_or("", |(_, end)| end);
        let end = if self.plugs.packed { end } else { "" };
        let carried = format!("{name}.ko{end}");
        if !self.carried.files.contains_key(&carried) {
            let bytes = self.file(name, self.plugs.packed)?;
            self.carried.files.insert(carried.clone(), bytes);
            let firmware = self.info(name)?.firmware.clone();
            self.carried.firmware.extend(firmware);
        }
        Ok(carried)
    }
}

fn bad(name: &str, why: String) -> ModuleError {
    ModuleError::Bad {
        name: name.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    /// A kernel with these modules: path and `.modinfo`.
    fn carried(wanted: &[&str], loaded: &[&str], packed: bool) -> Result<Carried, ModuleError> {
        let files: BTreeMap<&str, Vec<u8>> = [
            ("/m/kernel/drivers/ata/libata.ko.xz", "depends=scsi_mod"),
            (
                "/m/kernel/drivers/ata/ahci.ko.xz",
                "depends=libata\0alias=pci:v*d*sv*sd*bc01sc06i01*\0alias=pci:v00008086d00002922sv*\0alias=fs-x",
            ),
            ("/m/kernel/drivers/scsi/scsi_mod.ko.xz", "depends="),
            (
                "/m/kernel/drivers/scsi/sd_mod.ko.xz",
                "depends=scsi_mod\0alias=scsi:t-0x00*",
            ),
            (
                "/m/kernel/drivers/net/bnx2x.ko.xz",
                "depends=libcrc32c\0alias=pci:v000014E4d0000164Esv*\0softdep=post: sd-mod",
            ),
            ("/m/kernel/lib/libcrc32c.ko.xz", "softdep=pre: crc32c"),
            ("/m/kernel/crypto/crc32c_generic.ko.xz", "alias=crc32c"),
            (
                "/m/kernel/arch/x86/crypto/crc32c-intel.ko.xz",
                "alias=crc32c\0alias=cpu:type:x86*\0firmware=a.fw",
            ),
            ("/m/kernel/drivers/net/bad.ko.xz", "depends=gone\0alias=pci:v1*"),
        ]
        .into_iter()
        .map(|(path, info)| (path, testing::module(info)))
        .collect();
        let kernel = Kernel::new(
            "6.12-test",
            files.keys().copied(),
            "kernel/drivers/block/virtio_blk.ko\n",
        );
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let plugs = Plugs {
            wanted: &wanted,
            loaded: &loaded.iter().copied().collect(),
            packed,
            unpack: |_, packed| Ok(packed[2..].to_vec()),
        };
        kernel.coldplug(plugs, &mut |path| Ok([b"xz", &files[path][..]].concat()))
    }

    /// What init would load for a device.
    fn files(carried: &Carried, device: &str) -> String {
        let modules = modalias::modules(carried.aliases.as_bytes(), device.as_bytes());
        let files = modules.flat_map(|module| modalias::files(carried.needs.as_bytes(), module));
        let files: Vec<_> = files.map(String::from_utf8_lossy).collect();
        files.join(" ")
    }

    #[test]
    fn init_finds_for_a_device_what_drives_it_and_all_that_it_needs() {
        let carried =
            carried(&["drivers/ata", "sd-mod", "bnx2x", "virtio_blk"], &[], true).unwrap();
        let ahci = "pci:v00001000d00000001sv00000000sd00000000bc01sc06i01";
        assert_eq!(
            files(&carried, ahci),
            "scsi_mod.ko.xz libata.ko.xz ahci.ko.xz"
        );
        assert_eq!(
            files(&carried, "scsi:t-0x00"),
            "scsi_mod.ko.xz sd_mod.ko.xz"
        );
        let network = "pci:v000014E4d0000164Esv1";
        assert_eq!(
            files(&carried, network),
            "crc32c_generic.ko.xz crc32c_intel.ko.xz libcrc32c.ko.xz bnx2x.ko.xz scsi_mod.ko.xz sd_mod.ko.xz"
        );
        assert_eq!(files(&carried, "usb:v1"), "");
        assert_eq!(carried.files.len(), 8);
        assert!(
            carried
                .files
                .values()
                .all(|file| file.starts_with(b"xz\x7fELF"))
        );
        assert_eq!(carried.firmware.iter().collect::<Vec<_>>(), ["a.fw"]);
        assert!(!carried.aliases.contains("fs-x"), "{}", carried.aliases);
    }

    #[test]
    fn what_is_loaded_before_is_not_carried_and_a_kernel_that_cannot_unpack_gets_elf() {
        let carried = carried(&["ahci"], &["scsi_mod"], false).unwrap();
        assert_eq!(carried.needs, "ahci libata.ko ahci.ko\n");
        assert!(carried.files["ahci.ko"].starts_with(b"\x7fELF"));
    }

    #[test]
    fn what_the_kernel_does_not_have_is_named() {
        let error = |wanted: &str| carried(&[wanted], &[], true).unwrap_err().to_string();
        assert!(
            error("ahic").contains("did you mean 'ahci'"),
            "{}",
            error("ahic")
        );
        assert!(error("libata").contains("drives no device by itself"));
        assert!(error("drivers/sata").contains("in 'drivers/sata'; write a folder"));
        assert!(error("bad").contains("no module 'gone', which 'bad' needs"));
    }
}
