//! Interfaces that the machine makes itself: bonds and VLANs.

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
    let bonds = fixed
        .iter()
        .filter_map(|fixed| Some(make_bond(sysfs, &fixed.name, fixed.bond.as_ref()?)));
    let mut made: Vec<_> = bonds.collect();
    let vlans = fixed
        .iter()
        .filter_map(|fixed| Some(make_vlan(sysfs, &fixed.name, fixed.vlan.as_ref()?)));
    made.extend(vlans);
    made.into_iter().filter_map(Result::err).collect()
}

/// A bond takes its hardware address from its first member: without one it is none.
pub(super) fn is_whole(link: &Link, fixed: &Interface) -> bool {
    fixed.bond.is_none() || link.has_members()
}

fn make_bond(sysfs: &Path, name: &str, bond: &Bond) -> Result<(), KernelError> {
    let there = bond.links.iter().filter_map(|m| Link::named(sysfs, m));
    let members: Vec<Link> = there.filter(|link| !link.is_member()).collect();
    if members.is_empty() {
        return Ok(());
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
        return Ok(());
    };
    for member in members {
        let what = format!("make {} a member of {name}", member.name);
        kernel.run(&what, Request::link_down(member.index), &[])?;
        let request = Request::link_master(member.index, link.index);
        kernel.run(&what, request, &[])?;
    }
    Ok(())
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
