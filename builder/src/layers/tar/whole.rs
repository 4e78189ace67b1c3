//! What only the whole archive shows: duplicates, links, and what lies below them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Mode, refused};
use crate::layers::{Entry, Kind, LayersError};

/// Rules over the whole archive: no duplicates, nothing below what is no
/// folder, hard links only to a file that came before (or, of a container's layer, to one
/// below it).
pub(super) fn check_whole(
    entries: &mut Vec<Entry>,
    origin: &str,
    mode: Mode,
) -> Result<(), LayersError> {
    let mut kinds: BTreeMap<&str, (&Kind, usize)> = BTreeMap::new();
    let mut again = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = entry.path.as_str();
        if let Kind::Hardlink(target) = &entry.kind {
            match kinds.get(target.as_str()) {
                Some((Kind::File(_) | Kind::Hardlink(_), _)) => {}
                Some(_) => {
                    return Err(refused(
                        origin,
                        path.as_bytes(),
                        format!("it is a hard link to {target}, which is no file"),
                    ));
                }
                None if mode == Mode::Container => {}
                None => {
                    return Err(refused(
                        origin,
                        path.as_bytes(),
                        format!(
                            "it is a hard link to {target}, which is not in the archive before it"
                        ),
                    ));
                }
            }
        }
        match kinds.insert(path, (&entry.kind, index)) {
            None => {}
            // A folder listed twice is common and harmless. dpkg leaves one that is there as
            // it is; what unpacks containers and other archives gives it the last one's mode.
            Some((Kind::Directory, before)) if entry.kind == Kind::Directory => {
                again.insert(if mode == Mode::Package { index } else { before });
            }
            Some(_) => {
                return Err(refused(
                    origin,
                    path.as_bytes(),
                    "it is in the archive twice",
                ));
            }
        }
    }
    for entry in entries.iter() {
        for (end, _) in entry.path.match_indices('/').skip(1) {
            let parent = &entry.path[..end];
            match kinds.get(parent).map(|(kind, _)| *kind) {
                None | Some(Kind::Directory) => {}
                Some(Kind::Symlink(target)) => {
                    return Err(refused(
                        origin,
                        entry.path.as_bytes(),
                        format!(
                            "it lies below {parent}, which the same archive makes a link to {target}"
                        ),
                    ));
                }
                Some(_) => {
                    return Err(refused(
                        origin,
                        entry.path.as_bytes(),
                        format!("it lies below {parent}, which is no folder"),
                    ));
                }
            }
        }
    }
    if !again.is_empty() {
        let mut index = 0;
        entries.retain(|_| {
            index += 1;
            !again.contains(&(index - 1))
        });
    }
    Ok(())
}
