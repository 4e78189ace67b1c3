//! What containers' own passwd(5) and group(5) say. Passwords are not taken over: nobody
//! has one here.

use std::collections::BTreeSet;

use super::{Accounts, Group, User, check_name};
use crate::layers::container::AccountFiles;

/// Most accounts of one container; a group has as many members at most.
const MOST: usize = 10_000;

/// A number that somebody can have.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// A field that can stand in such a file again.
fn field(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

impl Accounts {
    /// Adds the accounts of a container, but for names that are there already. Lines that
    /// cannot be read are passed over, as the C library does.
    pub(super) fn add_container(&mut self, layer: &str, files: &AccountFiles) {
        if files.passwd.is_some() || files.group.is_some() {
            self.from.insert(layer.to_owned());
        }
        let mut groups: Vec<Group> = Vec::new();
        for line in files.group.iter().flat_map(|text| text.lines()).take(MOST) {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members] = fields[..] else {
                continue;
            };
            let (Ok(()), Some(gid)) = (check_name(name), id(gid)) else {
                continue;
            };
            let members = members.split(',').take(MOST).map(str::to_owned);
            groups.push(Group {
                name: name.to_owned(),
                gid,
                members: members.collect(),
            });
        }
        for line in files.passwd.iter().flat_map(|text| text.lines()).take(MOST) {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, gecos, home, shell] = fields[..] else {
                continue;
            };
            let (Ok(()), Some(uid), Some(gid)) = (check_name(name), id(uid), id(gid)) else {
                continue;
            };
            let user = User {
                name: name.to_owned(),
                uid,
                gid,
                gecos: field(gecos),
                home: field(home),
                shell: field(shell),
            };
            self.users.entry(name.to_owned()).or_insert(user);
        }
        for mut group in groups {
            let known: BTreeSet<String> = std::mem::take(&mut group.members);
            let mut known = known.into_iter();
            group.members = known
                .by_ref()
                .filter(|m| self.users.contains_key(m))
                .collect();
            self.groups.entry(group.name.clone()).or_insert(group);
        }
    }
}
