//! Interfaces that the machine makes itself: bonds and VLANs, and what has become of a
//! bond's members.

use std::path::Path;

use slipform_init::contract::machine::{Bond, Interface, Vlan};

use super::kernel::{Kernel, KernelError};
use super::link::Link;
use super::rtnl::Request;

/// Milliseconds between looks at the carriers of a bond's members.
const MIIMON: u32 = 100;

/// Makes those whose parts are there by now, bonds first, for a VLAN may stand on one.
/// Returns what the kernel refused.
pub(super) fn make(sysfs: &Path, fixed: &[Interface]) -> Vec<KernelError> {
    let mut refused = Vec::new();
    for fixed in fixed {
        if let Some(bond) = &fixed.bond {
            let made = make_bond(sysfs, &fixed.name, bond);
            refused.extend(made.unwrap_or_else(|error| vec![error]));
        }
    }
    let vlans = fixed
        .iter()
        .filter_map(|fixed| make_vlan(sysfs, &fixed.name, fixed.vlan.as_ref()?).err());
    refused.extend(vlans);
    refused
}

/// A bond takes its hardware address from its first member: without one it is none.
pub(super) fn is_whole(link: &Link, fixed: &Interface) -> bool {
    fixed.bond.is_none() || link.has_members()
}

/// Returns what was refused of its members: one that does not fit keeps no other out.
fn make_bond(sysfs: &Path, name: &str, bond: &Bond) -> Result<Vec<KernelError>, KernelError> {
    let there = bond.links.iter().filter_map(|m| Link::named(sysfs, m));
    let members: Vec<Link> = there.filter(|link| !link.is_member()).collect();
    if members.is_empty() {
        return Ok(Vec::new());
    }
    let mut kernel = Kernel::open()?;
    let (what, mode) = (format!("make the bond {name}"), bond.mode as u8);
    match Link::named(sysfs, name) {
        None => kernel.run(&what, Request::add_bond(name, mode, MIIMON), &[])?,
        // The module makes a bond0 of its own when it is loaded.
        Some(link) if !link.has_members() => {
            kernel.run(&what, Request::set_bond(link.index, mode, MIIMON), &[])?;
        }
        Some(_) => {}
    }
    let Some(link) = Link::named(sysfs, name) else {
        return Ok(Vec::new());
    };
    Ok(enslave(&members, &link, |what, request| {
        kernel.run(what, request, &[])
    }))
}

fn enslave(
    members: &[Link],
    bond: &Link,
    mut run: impl FnMut(&str, Request) -> Result<(), KernelError>,
) -> Vec<KernelError> {
    let each = members.iter().filter_map(|member| {
        let what = format!("make {} a member of {}", member.name, bond.name);
        // The kernel takes one only while it is off.
        run(&what, Request::link_down(member.index))
            .and_then(|()| run(&what, Request::link_master(member.index, bond.index)))
            .err()
    });
    each.collect()
}

/// Which of a bond's members have a link.
#[derive(Debug)]
pub(super) struct Members {
    wanted: Vec<String>,
    /// Those of the last look that had one.
    up: Vec<String>,
}

impl Members {
    /// Of the bond that the image wants; at first none has a link.
    pub(super) fn of(bond: &Bond) -> Members {
        Members {
            wanted: bond.links.clone(),
            up: Vec::new(),
        }
    }

    /// Looks; what is to be told of it, and whether that is bad. That none is left is told
    /// by the bond's own link.
    pub(super) fn look(&mut self, bond: &Link) -> Option<(String, bool)> {
        let up: Vec<String> = bond
            .members()
            .into_iter()
            .filter(Link::has_carrier)
            .map(|member| member.name)
            .collect();
        if up.is_empty() || up == self.up {
            return None;
        }
        let (has, wants) = (up.len(), self.wanted.len());
        let whole = has >= wants;
        let text = match whole {
            true => format!("all {wants} members have a link"),
            false => format!("{has} of {wants} members have a link: {}", up.join(", ")),
        };
        self.up = up;
        Some((text, !whole))
    }
}

fn make_vlan(sysfs: &Path, name: &str, vlan: &Vlan) -> Result<(), KernelError> {
    if Link::named(sysfs, name).is_some() {
        return Ok(());
    }
    let Some(carrier) = Link::named(sysfs, &vlan.link) else {
        return Ok(());
    };
    let mut kernel = Kernel::open()?;
    let up = format!("switch on {}", carrier.name);
    kernel.run(&up, Request::link_up(carrier.index), &[])?;
    let what = format!("make {name} for VLAN {} on {}", vlan.id, carrier.name);
    let request = Request::add_vlan(name, carrier.index, vlan.id);
    kernel.run(&what, request, &[libc::EEXIST])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn add(sysfs: &Path, name: &str, files: &[(&str, &str)]) {
        fs::create_dir_all(sysfs.join(name).join("bonding")).expect("folder");
        for (file, text) in files {
            fs::write(sysfs.join(name).join(file), text).expect("file");
        }
    }

    /// A bond of eth0 and eth1, as sysfs shows them.
    fn bonded(sysfs: &Path) -> Link {
        for (name, index) in [("bond0", "1"), ("eth0", "2"), ("eth1", "3")] {
            let files = [
                ("type", "1\n"),
                ("ifindex", index),
                ("address", "52:54:00:12:34:56\n"),
                ("carrier", "0\n"),
            ];
            add(sysfs, name, &files);
        }
        add(sysfs, "bond0", &[("bonding/slaves", "eth0 eth1\n")]);
        Link::named(sysfs, "bond0").expect("a bond")
    }

    #[test]
    fn a_member_that_is_refused_keeps_no_other_out() {
        let folder = tempfile::tempdir().expect("folder");
        let bond = bonded(folder.path());
        let mut asked = Vec::new();
        let refused = enslave(&bond.members(), &bond, |what, _| {
            asked.push(what.to_owned());
            match what.contains("eth0") {
                true => Err(KernelError {
                    what: what.to_owned(),
                    errno: libc::EBUSY,
                }),
                false => Ok(()),
            }
        });
        let of = |name: &str| format!("make {name} a member of bond0");
        assert_eq!(asked, [of("eth0"), of("eth1"), of("eth1")]);
        let refused: Vec<_> = refused.into_iter().map(|error| error.what).collect();
        assert_eq!(refused, [of("eth0")]);
    }

    #[test]
    fn a_bond_says_which_members_are_left_and_when_they_return() {
        let folder = tempfile::tempdir().expect("folder");
        let bond = bonded(folder.path());
        let mut members = Members {
            wanted: vec!["eth0".to_owned(), "eth1".to_owned()],
            up: Vec::new(),
        };
        let mut carriers = |eth0: &str, eth1: &str| {
            add(folder.path(), "eth0", &[("carrier", eth0)]);
            add(folder.path(), "eth1", &[("carrier", eth1)]);
            members.look(&bond)
        };
        let one = |name: &str| Some((format!("1 of 2 members have a link: {name}"), true));
        let all = Some(("all 2 members have a link".to_owned(), false));
        assert_eq!(carriers("0", "0"), None);
        assert_eq!(carriers("1", "1"), all);
        assert_eq!(carriers("1", "1"), None);
        assert_eq!(carriers("0", "1"), one("eth1"));
        assert_eq!(carriers("0", "1"), None);
        assert_eq!(carriers("1", "0"), one("eth0"));
        assert_eq!(carriers("0", "0"), None, "the bond's own link says it");
        assert_eq!(carriers("1", "1"), all);
        // One that is not even a member counts as one without a link.
        add(folder.path(), "bond0", &[("bonding/slaves", "eth1\n")]);
        assert_eq!(carriers("1", "1"), one("eth1"));
    }
}
