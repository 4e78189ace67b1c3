//! Users and groups of the whole image.
//!
//! Four sources, in this order:
//! 1. `/etc/passwd` and `/etc/group` of the image's containers, the topmost first: files of
//!    theirs carry these numbers, which need not be Debian's;
//! 2. Debian's fixed accounts (`base-passwd`'s master files): all groups with
//!    their fixed numbers, because files of packages carry them (`tty`, `shadow`,
//!    `mail`, …), and those users that programs expect: root, daemon, bin, sys,
//!    man, mail, www-data, backup, nobody; but for those whose name or number a
//!    container gives to somebody else;
//! 3. `groups` and `users` of the image's layers;
//! 4. sysusers.d files of its packages. Who is there already stays as he is, as
//!    systemd-sysusers has it.
//!
//! Automatic ids are 100 to 899, begun at a digest of the name and then the next
//! free one: adding a package does not move another's numbers, which the files on
//! a state partition carry for years.
//!
//! Nobody has a password: `shadow` is locked for all.

use std::collections::{BTreeMap, BTreeSet};

use super::TreeError;
use super::sysusers::{self, Line, Primary, check_name};
use crate::base::Digest;
use crate::layers::UnpackedDeb;
use crate::layers::container::AccountFiles;
use crate::spec::{LayerSpec, Owner, UserRule};

mod base;
mod container;
mod files;

use base::{BASE_GROUPS, BASE_USERS};

const FIRST_AUTOMATIC: u32 = 100;
const LAST_AUTOMATIC: u32 = 899;

/// One line of passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Numeric id.
    pub uid: u32,
    /// Numeric primary group.
    pub gid: u32,
    /// Real name.
    pub gecos: String,
    /// Home folder; not made.
    pub home: String,
    /// Shell.
    pub shell: String,
}

/// One line of group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Numeric id.
    pub gid: u32,
    /// Users who have it as a supplementary group.
    pub members: BTreeSet<String>,
}

/// All users and groups of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, Group>,
    /// Layers whose own files are in here.
    from: BTreeSet<String>,
}

fn account(origin: &str, problem: impl Into<String>) -> TreeError {
    TreeError::Account {
        origin: origin.to_owned(),
        problem: problem.into(),
    }
}

impl Accounts {
    /// Puts the accounts of an image together. The order of `packages` does not matter.
    ///
    /// # Errors
    /// [`TreeError::Account`] for two accounts of one name or number, a group
    /// that nobody makes, or a sysusers.d line that cannot be read.
    pub fn new<'a>(
        layers: &[LayerSpec],
        packages: impl IntoIterator<Item = &'a UnpackedDeb>,
    ) -> Result<Self, TreeError> {
        Self::with_containers(layers, packages, &[])
    }

    /// The same with the accounts of containers, by the names of their layers, from bottom
    /// to top.
    ///
    /// # Errors
    /// As [`Accounts::new`].
    pub fn with_containers<'a>(
        layers: &[LayerSpec],
        packages: impl IntoIterator<Item = &'a UnpackedDeb>,
        containers: &[(String, AccountFiles)],
    ) -> Result<Self, TreeError> {
        let mut accounts = Self::default();
        for (layer, files) in containers.iter().rev() {
            accounts.add_container(layer, files);
        }
        for (name, gid) in BASE_GROUPS {
            if accounts.is_free(&accounts.groups, name, |group| group.gid == gid) {
                accounts.add_group(name, gid, "Debian")?;
            }
        }
        for (name, uid, gid, home, shell) in BASE_USERS {
            if !accounts.is_free(&accounts.users, name, |user| user.uid == uid) {
                continue;
            }
            let user = User {
                name: name.to_owned(),
                uid,
                gid,
                gecos: name.to_owned(),
                home: home.to_owned(),
                shell: shell.to_owned(),
            };
            accounts.users.insert(name.to_owned(), user);
        }
        // Groups of all layers first: a user may be in a group of any layer.
        for layer in layers {
            for group in &layer.groups {
                let origin = format!("group '{}' of layer '{}'", group.name, layer.name);
                check_name(&group.name).map_err(|p| account(&origin, p))?;
                accounts.add_group(&group.name, group.gid, &origin)?;
            }
        }
        let mut declared = BTreeMap::new();
        for layer in layers {
            for user in &layer.users {
                accounts.add_declared(user, &layer.name, &mut declared)?;
            }
        }
        accounts.add_sysusers(packages)?;
        for layer in layers {
            for user in &layer.users {
                let origin = format!("user '{}' of layer '{}'", user.name, layer.name);
                for group in &user.groups {
                    accounts.add_member(&user.name, group, &origin)?;
                }
            }
        }
        Ok(accounts)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// All groups, by name.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The user of that name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The group of that name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// Numbers of the supplementary groups of a user, sorted.
    #[must_use]
    pub fn groups_of(&self, user: &str) -> Vec<u32> {
        let mut gids: Vec<u32> = self
            .groups
            .values()
            .filter(|g| g.members.contains(user))
            .map(|g| g.gid)
            .collect();
        gids.sort_unstable();
        gids
    }

    /// The numbers of an owner.
    ///
    /// # Errors
    /// A text that says which name is unknown, and the remedy.
    pub fn ids(&self, owner: &Owner) -> Result<(u32, u32), String> {
        match owner {
            Owner::Ids(uid, gid) => Ok((*uid, *gid)),
            Owner::Names(user, group) => {
                let unknown = |what: &str, name: &str, key: &str| {
                    format!(
                        "owner: {what} '{name}' is not in the image; add it to `{key}`, or write numbers"
                    )
                };
                let uid = self
                    .user(user)
                    .ok_or_else(|| unknown("user", user, "users"))?
                    .uid;
                let gid = self
                    .group(group)
                    .ok_or_else(|| unknown("group", group, "groups"))?
                    .gid;
                Ok((uid, gid))
            }
        }
    }

    /// Whether nobody has the name, or what `same` asks for.
    fn is_free<T>(
        &self,
        known: &BTreeMap<String, T>,
        name: &str,
        same: impl Fn(&T) -> bool,
    ) -> bool {
        !known.contains_key(name) && !known.values().any(same)
    }

    fn add_group(&mut self, name: &str, gid: u32, origin: &str) -> Result<(), TreeError> {
        if let Some(there) = self.groups.get(name) {
            if there.gid == gid {
                return Ok(());
            }
            return Err(account(
                origin,
                format!(
                    "gid {gid} is wished, but the group has gid {} already; use that, or another name",
                    there.gid
                ),
            ));
        }
        if let Some(other) = self.groups.values().find(|group| group.gid == gid) {
            return Err(account(
                origin,
                format!(
                    "gid {gid} is the gid of group '{}'; choose another",
                    other.name
                ),
            ));
        }
        let group = Group {
            name: name.to_owned(),
            gid,
            members: BTreeSet::new(),
        };
        self.groups.insert(name.to_owned(), group);
        Ok(())
    }

    fn add_member(&mut self, user: &str, group: &str, origin: &str) -> Result<(), TreeError> {
        let Some(group) = self.groups.get_mut(group) else {
            return Err(account(
                origin,
                format!("group '{group}' is not in the image; add it to `groups`"),
            ));
        };
        group.members.insert(user.to_owned());
        Ok(())
    }

    /// Adds a user of a layer; `declared` holds those of the layers before.
    fn add_declared<'a>(
        &mut self,
        rule: &'a UserRule,
        layer: &str,
        declared: &mut BTreeMap<&'a str, &'a UserRule>,
    ) -> Result<(), TreeError> {
        let origin = format!("user '{}' of layer '{layer}'", rule.name);
        check_name(&rule.name).map_err(|p| account(&origin, p))?;
        if let Some(there) = declared.insert(&rule.name, rule) {
            if there == rule {
                return Ok(());
            }
            return Err(account(
                &origin,
                "another layer has a user of this name with other values; keep one",
            ));
        }
        for (what, text) in [("home", &rule.home), ("shell", &rule.shell)] {
            if text.contains([':', '\n']) {
                return Err(account(
                    &origin,
                    format!(
                        "its {what} '{}' holds ':' or a line break; write a plain path",
                        text.escape_default()
                    ),
                ));
            }
        }
        if let Some(there) = self
            .users
            .get(&rule.name)
            .filter(|there| there.uid != rule.uid)
        {
            return Err(account(
                &origin,
                format!(
                    "this user has uid {} already, not {}; use that, or another name",
                    there.uid, rule.uid
                ),
            ));
        }
        if let Some(other) = self
            .users
            .values()
            .find(|user| user.uid == rule.uid && user.name != rule.name)
        {
            return Err(account(
                &origin,
                format!(
                    "uid {} is the uid of user '{}'; choose another",
                    rule.uid, other.name
                ),
            ));
        }
        let gid = match &rule.group {
            Some(group) => match self.groups.get(group) {
                Some(group) => group.gid,
                None => {
                    return Err(account(
                        &origin,
                        format!("group '{group}' is not in the image; add it to `groups`"),
                    ));
                }
            },
            None => match self.groups.get(&rule.name) {
                Some(group) => group.gid,
                None => {
                    self.add_group(&rule.name, rule.uid, &origin)?;
                    rule.uid
                }
            },
        };
        let user = User {
            name: rule.name.clone(),
            uid: rule.uid,
            gid,
            gecos: String::new(),
            home: rule.home.clone(),
            shell: rule.shell.clone(),
        };
        self.users.insert(rule.name.clone(), user);
        Ok(())
    }

    /// Adds what packages ask for: first what has numbers, then the rest in order of names.
    fn add_sysusers<'a>(
        &mut self,
        packages: impl IntoIterator<Item = &'a UnpackedDeb>,
    ) -> Result<(), TreeError> {
        let mut lines: Vec<(String, Line)> = Vec::new();
        for package in packages {
            for (path, text) in &package.sysusers {
                let origin = format!("package {}, {path}", package.name);
                for (number, line) in sysusers::parse(text).map_err(|p| account(&origin, p))? {
                    lines.push((format!("{origin} line {number}"), line));
                }
            }
        }
        lines.sort_by_key(|(origin, line)| {
            let (rank, name) = match line {
                Line::Group { name, gid: Some(_) } => (0, name),
                Line::Group { name, gid: None } => (1, name),
                Line::User {
                    name, uid: Some(_), ..
                } => (2, name),
                Line::User {
                    name, uid: None, ..
                } => (3, name),
                Line::Member { user, .. } => (4, user),
            };
            (rank, name.clone(), origin.clone())
        });
        for (origin, line) in lines {
            match line {
                Line::Group { name, .. } if self.groups.contains_key(&name) => {}
                Line::Group { name, gid } => {
                    let gid = match gid {
                        Some(gid) => gid,
                        None => self.free_id(&name, &origin)?,
                    };
                    self.add_group(&name, gid, &origin)?;
                }
                Line::User { name, .. } if self.users.contains_key(&name) => {}
                Line::User {
                    name,
                    uid,
                    group,
                    gecos,
                    home,
                    shell,
                } => {
                    let (uid, gid) = self.sysuser_ids(&name, uid, &group, &origin)?;
                    self.users.insert(
                        name.clone(),
                        User {
                            name,
                            uid,
                            gid,
                            gecos,
                            home,
                            shell,
                        },
                    );
                }
                // systemd makes the missing of the two; no package of Debian counts on it.
                Line::Member { user, group } => self.add_member(&user, &group, &origin)?,
            }
        }
        Ok(())
    }

    fn sysuser_ids(
        &mut self,
        name: &str,
        uid: Option<u32>,
        group: &Primary,
        origin: &str,
    ) -> Result<(u32, u32), TreeError> {
        let uid = match uid {
            Some(uid) => uid,
            None => self.free_id(name, origin)?,
        };
        if let Some(other) = self.users.values().find(|user| user.uid == uid) {
            return Err(account(
                origin,
                format!(
                    "uid {uid} for '{name}' is the uid of user '{}'; give '{name}' another one with `users`",
                    other.name
                ),
            ));
        }
        let gid = match group {
            Primary::Gid(gid) => {
                if !self.groups.values().any(|group| group.gid == *gid) {
                    self.add_group(name, *gid, origin)?;
                }
                *gid
            }
            Primary::Name(group) => match self.groups.get(group) {
                Some(group) => group.gid,
                None => {
                    return Err(account(
                        origin,
                        format!("group '{group}' is not in the image; add it to `groups`"),
                    ));
                }
            },
            Primary::Own => match self.groups.get(name) {
                Some(group) => group.gid,
                None => {
                    self.add_group(name, uid, origin)?;
                    uid
                }
            },
        };
        Ok((uid, gid))
    }

    /// A number that is neither a uid nor a gid yet.
    fn free_id(&self, name: &str, origin: &str) -> Result<u32, TreeError> {
        let count = LAST_AUTOMATIC - FIRST_AUTOMATIC + 1;
        let [a, b, c, d, ..] = *Digest::of(name).as_bytes();
        let start = u32::from_be_bytes([a, b, c, d]) % count;
        // A group of the user's own name, made before, gives its number where it can.
        let own = self.groups.get(name).map(|group| group.gid);
        if let Some(own) = own.filter(|gid| !self.users.values().any(|user| user.uid == *gid)) {
            return Ok(own);
        }
        (0..count)
            .map(|step| FIRST_AUTOMATIC + (start + step) % count)
            .find(|id| {
                !self.users.values().any(|user| user.uid == *id)
                    && !self.groups.values().any(|group| group.gid == *id)
            })
            .ok_or_else(|| {
                account(
                    origin,
                    "no system id is free any more; give ids with `users`",
                )
            })
    }
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
