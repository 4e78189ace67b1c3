//! Environment from files: `NAME=value` lines, as systemd.exec(5) `EnvironmentFile=`
//! has them, without escapes and continued lines. Read at each start of a service, so
//! that a file that is made at run time counts.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// Largest file.
const FILE_MAX: u64 = 64 * 1024;

/// Reads one file; the text of the error names it.
pub(crate) fn read(path: &str) -> Result<Vec<(String, String)>, String> {
    // A FIFO must not hold PID 1.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| format!("env-file {path}: {error}"))?;
    let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !regular {
        return Err(format!("env-file {path}: not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("env-file {path}: {error}"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("env-file {path}: larger than {FILE_MAX} bytes"));
    }
    parse(&bytes).map_err(|error| format!("env-file {path}: {error}"))
}

fn parse(bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let pair = line
            .split_once('=')
            .map(|(name, value)| (name.trim(), unquote(value.trim())))
            .filter(|(name, value)| is_name(name) && !value.contains('\0'));
        let Some((name, value)) = pair else {
            return Err(format!("line {number} is not NAME=value"));
        };
        pairs.push((name.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.bytes().next().is_some_and(letter)
        && name
            .bytes()
            .all(|byte| letter(byte) || byte.is_ascii_digit())
}

/// Without the quotes that enclose it.
fn unquote(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_pairs() {
        let text = b"# c\n\n; c\nA=1\n  B = two words \nexport C=\"a=b\"\nD='\"'\nE=\nF=\"\n";
        let pairs = parse(text).expect("good");
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a=b"),
            ("D", "\""),
            ("E", ""),
            ("F", "\""),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn what_is_no_pair_is_named_by_its_line() {
        for bad in [
            &b"A=1\nnothing\n"[..],
            b"A=1\n=x",
            b"A=1\n1A=x",
            b"A=1\nA B=x",
            b"A=1\nB=\0",
        ] {
            assert_eq!(parse(bad), Err("line 2 is not NAME=value".to_owned()));
        }
        assert!(parse(b"A=\xff").is_err());
    }

    #[test]
    fn no_file_can_break_the_reader() {
        let seeds: [&[u8]; 2] = [
            b"# c\nexport A_1='x y'\n B = \"\"\n;\n",
            b"A=\xc3\xa4\r\nA='\n",
        ];
        slipform_fuzz::fuzz(&seeds, |bytes, _| {
            for (name, value) in parse(bytes).unwrap_or_default() {
                assert!(is_name(&name) && !value.contains(['\0', '\n']));
            }
        });
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("env");
        let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
        assert!(read(&text(&path)).is_err_and(|error| error.contains("env-file")));
        std::fs::write(&path, "A=1\n").expect("write");
        assert_eq!(
            read(&text(&path)),
            Ok(vec![("A".to_owned(), "1".to_owned())])
        );
        std::fs::write(&path, "#".repeat(70_000)).expect("write");
        assert!(read(&text(&path)).is_err_and(|error| error.contains("larger")));
        assert!(read(&text(folder.path())).is_err_and(|error| error.contains("regular")));
    }
}
