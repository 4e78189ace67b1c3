//! Hard links of one layer: each file has one name that is the file, the first in
//! byte order, and the others are links to it.

use std::collections::{BTreeMap, HashMap};

use super::check::bad_path;
use super::{Builder, Placed};
use crate::layers::{Entry, Kind};
use crate::tree::TreeError;

impl Builder<'_> {
    /// Puts hard links (true path, true path of what they name) beside the files that are placed already.
    pub(super) fn put_hard_links(
        &mut self,
        hard: Vec<(String, String, Entry)>,
    ) -> Result<(), TreeError> {
        let targets: HashMap<String, String> = hard
            .iter()
            .map(|(at, target, _)| (at.clone(), target.clone()))
            .collect();
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (at, target, entry) in hard {
            let mut file = target;
            let mut steps = 0;
            while let Some(next) = targets.get(&file) {
                steps += 1;
                if steps > targets.len() {
                    return Err(Self::circle(&entry));
                }
                file.clone_from(next);
            }
            let Some(Placed {
                kind: Kind::File(_),
                meta,
                ..
            }) = self.placed.get(&file)
            else {
                return Err(bad_path(
                    &entry,
                    format!(
                        "is a hard link to /{file}, which is no file of the same layer; hard links cannot cross layers, use a symbolic link"
                    ),
                ));
            };
            let meta = meta.clone();
            self.put(
                at.clone(),
                Entry {
                    meta,
                    kind: Kind::Hardlink(file.clone()),
                    ..entry
                },
            )?;
            groups.entry(file).or_default().push(at);
        }
        for (file, links) in groups {
            let Some(first) = links.iter().min().filter(|first| **first < file).cloned() else {
                continue;
            };
            let Some(content) = self.placed.get(&file).map(|placed| placed.kind.clone()) else {
                continue;
            };
            for path in links.iter().chain([&file]) {
                if let Some(placed) = self.placed.get_mut(path) {
                    placed.kind = if *path == first {
                        content.clone()
                    } else {
                        Kind::Hardlink(first.clone())
                    };
                }
            }
        }
        Ok(())
    }
}
