//! Network interfaces as /sys shows them.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel lists them.
pub(crate) const SYSFS: &str = "/sys/class/net";
/// ARPHRD_ETHER.
const ETHERNET: &str = "1";
/// Interfaces that are used.
const LINKS_MAX: usize = 32;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Name.
    pub(crate) name: String,
    /// Index.
    pub(crate) index: u32,
    /// Hardware address.
    pub(crate) mac: [u8; 6],
    folder: PathBuf,
}

impl Link {
    /// The wired interfaces below `sysfs` by their index: Ethernets with a device behind
    /// them (no bridge, no loopback) that are not wireless and not the lower half of
    /// another interface. More than a machine can have are not looked at.
    pub(crate) fn all_wired(sysfs: &Path) -> Vec<Link> {
        let entries = fs::read_dir(sysfs).into_iter().flatten().flatten();
        let mut links: Vec<Link> = entries
            .filter_map(|entry| Link::wired(&entry.path()))
            .collect();
        links.sort_by_key(|link| link.index);
        links.truncate(LINKS_MAX);
        links
    }

    /// The Ethernet of that name below `sysfs`, whatever is behind it.
    pub(crate) fn named(sysfs: &Path, name: &str) -> Option<Link> {
        Link::ethernet(&sysfs.join(name))
    }

    fn wired(folder: &Path) -> Option<Link> {
        let has = |name: &str| folder.join(name).exists();
        let plain = has("device") && !has("wireless") && !has("phy80211") && !has("master");
        plain.then(|| Link::ethernet(folder))?
    }

    fn ethernet(folder: &Path) -> Option<Link> {
        if read(folder, "type")? != ETHERNET {
            return None;
        }
        Some(Link {
            name: folder.file_name()?.to_str()?.to_owned(),
            index: read(folder, "ifindex")?.parse().ok()?,
            mac: mac(&read(folder, "address")?)?,
            folder: folder.to_owned(),
        })
    }

    /// A cable with a partner at its other end; reading fails while the interface is down.
    pub(crate) fn has_carrier(&self) -> bool {
        read(&self.folder, "carrier").as_deref() == Some("1")
    }

    /// It is the lower half of another interface, such as a bond.
    pub(crate) fn is_member(&self) -> bool {
        self.folder.join("master").exists()
    }

    /// It is a bond that has members.
    pub(crate) fn has_members(&self) -> bool {
        read(&self.folder, "bonding/slaves").is_some_and(|members| !members.is_empty())
    }

    /// A bond's members.
    pub(crate) fn members(&self) -> Vec<Link> {
        let names = read(&self.folder, "bonding/slaves").unwrap_or_default();
        let sysfs = self.folder.parent();
        let links = names.split_ascii_whitespace();
        let links = links.filter_map(|name| Link::named(sysfs?, name));
        links.take(LINKS_MAX).collect()
    }

    /// It has not been taken away, nor replaced by another of the same name.
    pub(crate) fn exists(&self) -> bool {
        read(&self.folder, "ifindex").is_some_and(|index| index == self.index.to_string())
    }
}

fn read(folder: &Path, name: &str) -> Option<String> {
    Some(
        fs::read_to_string(folder.join(name))
            .ok()?
            .trim()
            .to_owned(),
    )
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    (parts.next().is_none() && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wired_interfaces_are_found() {
        let root = std::env::temp_dir().join(format!("slipform-link-{}", std::process::id()));
        let add = |name: &str, files: &[(&str, &str)]| {
            for (file, text) in files {
                let path = root.join(name).join(file);
                fs::create_dir_all(path.parent().expect("parent")).expect("folder");
                fs::write(path, text).expect("file");
            }
        };
        let mac = "52:54:00:12:34:56\n";
        assert_eq!(Link::all_wired(&root), []);
        add(
            "lo",
            &[
                ("type", "772\n"),
                ("ifindex", "1\n"),
                ("address", "00:00:00:00:00:00\n"),
            ],
        );
        add(
            "wlan0",
            &[
                ("type", "1\n"),
                ("ifindex", "2\n"),
                ("address", mac),
                ("device/x", ""),
                ("wireless/x", ""),
            ],
        );
        add(
            "br0",
            &[("type", "1\n"), ("ifindex", "3\n"), ("address", mac)],
        );
        add(
            "lower",
            &[
                ("type", "1\n"),
                ("ifindex", "4\n"),
                ("address", mac),
                ("device/x", ""),
                ("master/x", ""),
            ],
        );
        add(
            "odd",
            &[
                ("type", "1\n"),
                ("ifindex", "five\n"),
                ("address", mac),
                ("device/x", ""),
            ],
        );
        assert_eq!(Link::all_wired(&root), []);
        add(
            "eth1",
            &[
                ("type", "1\n"),
                ("ifindex", "10\n"),
                ("address", mac),
                ("device/x", ""),
            ],
        );
        add(
            "ens3",
            &[
                ("type", "1\n"),
                ("ifindex", "9\n"),
                ("address", mac),
                ("device/x", ""),
                ("carrier", "1\n"),
            ],
        );
        let links = Link::all_wired(&root);
        let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["ens3", "eth1"]);
        assert_eq!(Link::named(&root, "br0").map(|link| link.index), Some(3));
        assert_eq!(Link::named(&root, "lo"), None);
        let link = &links[0];
        assert_eq!(
            (link.name.as_str(), link.index, link.mac),
            ("ens3", 9, [0x52, 0x54, 0, 0x12, 0x34, 0x56])
        );
        assert!(link.has_carrier() && link.exists());
        add("ens3", &[("carrier", "0\n"), ("ifindex", "11\n")]);
        assert!(!link.has_carrier() && !link.exists());
        fs::remove_dir_all(&root).expect("clean up");
    }

    #[test]
    fn hardware_addresses() {
        for bad in [
            "",
            "00:00:00:00:00:00",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "x:54:00:12:34:56",
        ] {
            assert_eq!(mac(bad), None, "{bad:?}");
        }
    }
}
