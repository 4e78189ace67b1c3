//! What an ext4 file system can hold, checked before anything is written.
//!
//! Source: Linux, include/uapi/linux/limits.h and fs/ext4/ext4.h.

use std::collections::HashMap;

use super::error::FilesystemError;
use crate::layers::Kind;
use crate::tree::Tree;

/// `PATH_MAX` of Linux, with the closing zero byte and the leading slash.
const PATH_MAX: usize = 4096 - 2;
/// `NAME_MAX`.
const NAME_MAX: usize = 255;
/// `EXT4_LINK_MAX`.
const LINK_MAX: u32 = 65_000;
/// Largest file: 2^32 blocks minus one.
const FILE_MAX: u64 = (u32::MAX as u64) * 4096;
/// Seconds that ext4 can tell: 34 bits from -2^31.
const TIMES: std::ops::Range<i64> = -(1 << 31)..(3 << 32) + (1 << 31);

/// What no ext4 can hold, found before anything is written.
pub(super) fn check(tree: &Tree) -> Result<(), FilesystemError> {
    let mut links: HashMap<&str, u32> = HashMap::new();
    for (path, node) in &tree.nodes {
        let name = path.rsplit('/').next().unwrap_or(path);
        if path.len() > PATH_MAX {
            let short = cut(path, 200);
            return Err(broken(
                &format!("{short}…"),
                format!(
                    "the path has {} bytes, Linux takes {PATH_MAX}; shorten it",
                    path.len()
                ),
            ));
        }
        if name.len() > NAME_MAX {
            return Err(broken(
                path,
                format!(
                    "the name has {} bytes, ext4 takes {NAME_MAX}; shorten it",
                    name.len()
                ),
            ));
        }
        if !TIMES.contains(&node.meta.mtime) {
            return Err(broken(
                path,
                format!(
                    "its time of {} seconds since 1970 is outside 1901 to 2446; give it another",
                    node.meta.mtime
                ),
            ));
        }
        match &node.kind {
            Kind::File(content) if content.size > FILE_MAX => {
                return Err(broken(
                    path,
                    format!(
                        "{} bytes are more than the {FILE_MAX} of ext4's largest file",
                        content.size
                    ),
                ));
            }
            Kind::Hardlink(target) => {
                let count = links.entry(target).or_insert(1);
                *count += 1;
                if *count > LINK_MAX {
                    return Err(broken(
                        path,
                        format!(
                            "/{target} has more than {LINK_MAX} names, ext4's limit; copy the file instead"
                        ),
                    ));
                }
            }
            Kind::Directory if path == "lost+found" => {}
            // A whiteout of this name says what the image cannot: it is left out.
            Kind::CharDevice(0, 0) if path == "lost+found" => {}
            _ if path == "lost+found" => {
                return Err(broken(
                    path,
                    "ext4 keeps this name for itself; use another".to_owned(),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The longest start of `text` that has at most `limit` bytes.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn broken(path: &str, rule: String) -> FilesystemError {
    FilesystemError::Path {
        path: path.to_owned(),
        format: "ext4",
        rule,
    }
}
