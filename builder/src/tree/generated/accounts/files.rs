//! The four files of accounts: passwd(5), group(5), shadow(5), gshadow(5).

use std::fmt::Write;

use super::base::SHADOW;
use super::{Accounts, Group, User};
use crate::base::EPOCH;
use crate::layers::Entry;
use crate::tree::generated::file;
use crate::tree::{Below, TreeError};

impl Accounts {
    /// `/etc/passwd`, by uid.
    #[must_use]
    pub fn passwd(&self) -> String {
        let mut text = String::new();
        for user in self.users_by_id() {
            let User {
                name,
                uid,
                gid,
                gecos,
                home,
                shell,
            } = user;
            let _ = writeln!(text, "{name}:x:{uid}:{gid}:{gecos}:{home}:{shell}");
        }
        text
    }

    /// `/etc/shadow`: locked for all (`!*`).
    #[must_use]
    pub fn shadow(&self) -> String {
        let day = EPOCH / 86_400;
        let mut text = String::new();
        for user in self.users_by_id() {
            let _ = writeln!(text, "{}:!*:{day}::::::", user.name);
        }
        text
    }

    /// `/etc/group`, by gid.
    #[must_use]
    pub fn groups_file(&self) -> String {
        let mut text = String::new();
        for group in self.groups_by_id() {
            let _ = writeln!(text, "{}:x:{}:{}", group.name, group.gid, members(group));
        }
        text
    }

    /// `/etc/gshadow`: locked for all.
    #[must_use]
    pub fn gshadow(&self) -> String {
        let mut text = String::new();
        for group in self.groups_by_id() {
            let _ = writeln!(text, "{}:!*::{}", group.name, members(group));
        }
        text
    }

    fn users_by_id(&self) -> Vec<&User> {
        let mut users: Vec<&User> = self.users.values().collect();
        users.sort_by_key(|user| user.uid);
        users
    }

    fn groups_by_id(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.groups.values().collect();
        groups.sort_by_key(|group| group.gid);
        groups
    }

    /// The four files; refused when a layer brings one of them itself that is not in here.
    pub(in crate::tree::generated) fn entries(
        &self,
        below: &Below<'_>,
    ) -> Result<Vec<Entry>, TreeError> {
        let entries = vec![
            file("/etc/passwd", 0o644, 0, self.passwd()),
            file("/etc/group", 0o644, 0, self.groups_file()),
            file("/etc/shadow", 0o640, SHADOW, self.shadow()),
            file("/etc/gshadow", 0o640, SHADOW, self.gshadow()),
        ];
        for entry in &entries {
            let path = entry.path.trim_start_matches('/');
            let layer = below.layer_of(path).unwrap_or_default();
            if below.kind(path).is_some() && !self.from.contains(layer) {
                return Err(TreeError::Generated {
                    layer: layer.to_owned(),
                    path: path.to_owned(),
                    remedy: "leave it out with `exclude`, and name the accounts in `users` and `groups`",
                });
            }
        }
        Ok(entries)
    }
}

fn members(group: &Group) -> String {
    group
        .members
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",")
}
