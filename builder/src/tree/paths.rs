//! Where a path leads through symbolic links.

/// Most links that one path may run through (Linux allows 40).
const MAX_LINKS: usize = 40;
/// Most parts that are ever waiting; keeps links that grow from growing for long.
const MAX_PARTS: usize = 10_000;

/// Follows `path` (parts separated by `/`, a leading one does not matter) through
/// the links that `link` knows; the last part only with `follow_last`. What is
/// not there counts as a folder to be made. `..` stops at the root.
///
/// The answer has no leading slash; `None` when the links run in circles.
pub(super) fn resolve(
    path: &str,
    follow_last: bool,
    link: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let mut waiting: Vec<String> = parts(path);
    let mut at = String::new();
    let mut links = 0;
    while let Some(part) = waiting.pop() {
        if part == ".." {
            at.truncate(at.rfind('/').unwrap_or(0));
            continue;
        }
        let before = at.len();
        if !at.is_empty() {
            at.push('/');
        }
        at.push_str(&part);
        if waiting.is_empty() && !follow_last {
            break;
        }
        if let Some(target) = link(&at) {
            links += 1;
            if links > MAX_LINKS || waiting.len() > MAX_PARTS {
                return None;
            }
            at.truncate(if target.starts_with('/') { 0 } else { before });
            waiting.extend(parts(&target));
        }
    }
    Some(at)
}

/// Parts of a path, the first one last.
fn parts(path: &str) -> Vec<String> {
    path.rsplit('/')
        .filter(|part| !matches!(*part, "" | "."))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(path: &str, last: bool) -> Option<String> {
        resolve(path, last, &|at| {
            let target = match at {
                "bin" => "usr/bin",
                "usr/lib64" => "/usr/lib/.",
                "up" => "../../usr/./bin",
                "a" => "b",
                "b" => "a/x",
                "usr/bin/sh" => "dash",
                _ => return None,
            };
            Some(target.to_owned())
        })
    }

    #[test]
    fn follows_links_as_the_kernel_does() {
        for (path, expected) in [
            ("/bin/foo", "usr/bin/foo"),
            ("bin/sh", "usr/bin/sh"),
            ("/usr/lib64/x/../y", "usr/lib/y"),
            ("/up/x", "usr/bin/x"),
            ("/../..", ""),
            ("plain//path/", "plain/path"),
        ] {
            assert_eq!(follow(path, false).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(follow("/bin/sh", true).as_deref(), Some("usr/bin/dash"));
        assert_eq!(follow("/bin", false).as_deref(), Some("bin"));
        assert_eq!(follow("/bin", true).as_deref(), Some("usr/bin"));
    }

    #[test]
    fn links_in_circles_end() {
        assert_eq!(follow("/a/x", true), None);
        // One part behind the loop: the last part is not followed, its folder is.
        assert_eq!(follow("/a", false).as_deref(), Some("a"));
    }
}
