//! Which kernel modules go into the initrd, and in which order.
//!
//! Debian's kernel packages ship no `modules.dep`; every module says itself what
//! it needs, in its `.modinfo` section (`depends=a,b`; Linux, include/linux/moduleinfo).

use std::collections::{BTreeMap, BTreeSet};

use super::modinfo::{self, underscored};

/// What can be wrong with the modules.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModuleError {
    /// The kernel does not have it.
    #[error("the kernel {kernel} has no module '{name}'{needed_by}; {remedy}")]
    Unknown {
        /// The kernel's release.
        kernel: String,
        /// The module.
        name: String,
        /// `, which MODULE needs`, or empty.
        needed_by: String,
        /// The nearest right name, or where to look.
        remedy: String,
    },
    /// The kernel's tree has no such folder.
    #[error(
        "the kernel {kernel} has no module that drives a device in '{folder}'; write a folder of its tree, such as 'drivers/ata'"
    )]
    Folder {
        /// The kernel's release.
        kernel: String,
        /// The folder.
        folder: String,
    },
    /// A module that no device asks for.
    #[error(
        "the kernel module '{0}' drives no device by itself; name it in `modules` instead of `coldplug`"
    )]
    NoDevice(String),
    /// A file that is no module.
    #[error("the kernel module '{name}' cannot be read: {why}")]
    Bad {
        /// The module.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Which modules are wanted, in order.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What the boot and the services stand on.
    pub early: &'a [String],
    /// What can wait until the services were started.
    pub late: &'a [String],
}

/// A module, uncompressed, ready for the initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name with underscores, without `.ko`.
    pub name: String,
    /// No service waits for it.
    pub late: bool,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

impl Module {
    /// Files that it may ask for, below /lib/firmware.
    #[must_use]
    pub fn firmware(&self) -> Vec<String> {
        // It was read before it was chosen.
        modinfo::read(&self.bytes).map_or_else(|_| Vec::new(), |info| info.firmware)
    }
}

/// What a kernel package offers.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// Release, such as `6.12.1-amd64`.
    pub release: String,
    /// Module name (with underscores) to the path of its file.
    pub modules: BTreeMap<String, String>,
    /// Names of what is built in.
    pub builtin: BTreeSet<String>,
}

impl Kernel {
    /// Sorts out the paths of a kernel package and its `modules.builtin`.
    #[must_use]
    pub fn new<'a>(release: &str, paths: impl IntoIterator<Item = &'a str>, builtin: &str) -> Self {
        let modules = paths
            .into_iter()
            .filter(|path| path.ends_with(".ko") || path.contains(".ko."))
            .map(|path| (name_of(path), path.to_owned()))
            .collect();
        Self {
            release: release.to_owned(),
            modules,
            builtin: builtin.lines().map(name_of).collect(),
        }
    }

    /// The wanted modules with all that they need, each behind what it needs, the late ones
    /// behind all others.
    /// `read` gives a module's uncompressed bytes by the path of its file.
    ///
    /// # Errors
    /// [`ModuleError`] names the module and who needs it.
    pub fn select(
        &self,
        wanted: Wanted<'_>,
        read: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    ) -> Result<Vec<Module>, ModuleError> {
        let mut chosen = Vec::new();
        let mut seen = BTreeSet::new();
        for (names, late) in [(wanted.early, false), (wanted.late, true)] {
            let behind = chosen.len();
            for name in names {
                self.visit(&underscored(name), None, read, &mut seen, &mut chosen)?;
            }
            chosen[behind..]
                .iter_mut()
                .for_each(|module| module.late = late);
        }
        Ok(chosen)
    }

    fn visit(
        &self,
        name: &str,
        needed_by: Option<&str>,
        read: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
        seen: &mut BTreeSet<String>,
        chosen: &mut Vec<Module>,
    ) -> Result<(), ModuleError> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self
            .modules
            .get(name)
            .ok_or_else(|| self.unknown(name, needed_by))?;
        let bad = |why: String| ModuleError::Bad {
            name: name.to_owned(),
            why,
        };
        let bytes = read(path).map_err(bad)?;
        let needs = modinfo::read(&bytes).map_err(bad)?.depends;
        for need in &needs {
            self.visit(need, Some(name), read, seen, chosen)?;
        }
        chosen.push(Module {
            name: name.to_owned(),
            late: false,
            bytes,
        });
        Ok(())
    }

    pub(super) fn unknown(&self, name: &str, needed_by: Option<&str>) -> ModuleError {
        let all = self.modules.keys().chain(&self.builtin).map(String::as_str);
        ModuleError::Unknown {
            kernel: self.release.clone(),
            name: name.to_owned(),
            needed_by: needed_by
                .map(|n| format!(", which '{n}' needs"))
                .unwrap_or_default(),
            remedy: crate::base::toml::nearest(name, all).map_or_else(
                || "remove it from the board's or the image's modules".to_owned(),
                |near| format!("did you mean '{near}'?"),
            ),
        }
    }
}

/// `kernel/drivers/md/dm-verity.ko.xz` is `dm_verity`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    underscored(file.split(".ko").next().unwrap_or(file))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        testing::module(&format!("depends={depends}"))
    }

    fn kernel() -> (Kernel, BTreeMap<&'static str, Vec<u8>>) {
        let files = BTreeMap::from([
            (
                "/m/kernel/drivers/md/dm-verity.ko.xz",
                module("dm-bufio,dm-mod"),
            ),
            ("/m/kernel/drivers/md/dm-bufio.ko.xz", module("dm-mod")),
            ("/m/kernel/drivers/md/dm-mod.ko.xz", module("")),
            ("/m/kernel/odd.ko", module("gone")),
            ("/m/kernel/bad.ko", b"\x7fELF".to_vec()),
        ]);
        let kernel = Kernel::new(
            "6.12-test",
            files.keys().copied(),
            "kernel/fs/ext4/ext4.ko\n",
        );
        (kernel, files)
    }

    fn select(wanted: &[&str]) -> Result<Vec<String>, ModuleError> {
        let (kernel, files) = kernel();
        let wanted: Vec<String> = wanted.iter().map(|n| (*n).to_owned()).collect();
        let wanted = Wanted {
            early: &wanted,
            late: &[],
        };
        let chosen = kernel.select(wanted, &mut |path| Ok(files[path].clone()))?;
        Ok(chosen.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn each_module_stands_behind_what_it_needs() {
        assert_eq!(
            select(&["ext4", "dm-verity", "dm_mod"]).unwrap(),
            ["dm_mod", "dm_bufio", "dm_verity"]
        );
    }

    #[test]
    fn a_late_module_does_not_take_what_an_early_one_needs_with_it() {
        let (kernel, files) = kernel();
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (early, late) = (names("dm-bufio"), names("dm-verity dm-mod"));
        let wanted = Wanted {
            early: &early,
            late: &late,
        };
        let chosen = kernel.select(wanted, &mut |path| Ok(files[path].clone()));
        let chosen = chosen.unwrap().into_iter();
        let told: Vec<_> = chosen.map(|module| (module.name, module.late)).collect();
        let expected = [("dm_mod", false), ("dm_bufio", false), ("dm_verity", true)];
        assert_eq!(told, expected.map(|(name, late)| (name.to_owned(), late)));
    }

    #[test]
    fn a_module_that_the_kernel_does_not_have_is_named() {
        let message = select(&["dm_verty"]).unwrap_err().to_string();
        assert_eq!(
            message,
            "the kernel 6.12-test has no module 'dm_verty'; did you mean 'dm_verity'?"
        );
        let message = select(&["odd"]).unwrap_err().to_string();
        assert!(
            message.contains("no module 'gone', which 'odd' needs"),
            "{message}"
        );
        assert!(matches!(select(&["bad"]), Err(ModuleError::Bad { .. })));
    }
}
