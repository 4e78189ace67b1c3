//! Lines of sysusers.d files. Source: sysusers.d(5).

/// One line that means something here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// `u name id gecos home shell`
    User {
        name: String,
        uid: Option<u32>,
        group: Primary,
        gecos: String,
        home: String,
        shell: String,
    },
    /// `g name id`
    Group { name: String, gid: Option<u32> },
    /// `m user group`
    Member { user: String, group: String },
}

/// The primary group of a user line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Primary {
    /// One of the user's own name.
    Own,
    /// This one, by number.
    Gid(u32),
    /// This one, by name.
    Name(String),
}

/// Reads a file: numbered lines, or the first line that cannot be used.
pub(super) fn parse(text: &str) -> Result<Vec<(usize, Line)>, String> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let bad = |problem: String| {
            format!("line {number} {problem}; give the user with `users` and `exclude` the file")
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields = fields(line).ok_or_else(|| bad("has a quote that does not end".into()))?;
        if let Some(line) = line_of(&fields).map_err(bad)? {
            lines.push((number, line));
        }
    }
    Ok(lines)
}

fn line_of(fields: &[String]) -> Result<Option<Line>, String> {
    // `-` stands for the default; so does a field that is not there.
    let field = |at: usize| {
        fields
            .get(at)
            .map(String::as_str)
            .filter(|text| *text != "-")
    };
    let name = |at: usize| {
        let name = field(at).unwrap_or_default();
        check_name(name)?;
        Ok::<_, String>(name.to_owned())
    };
    let kind = fields.first().map_or("", String::as_str);
    match kind.trim_end_matches('!') {
        "u" => {
            let (uid, group) = ids(field(2))?;
            let text = |at: usize, default: &str| {
                let text = field(at).filter(|text| !text.is_empty()).unwrap_or(default);
                if text.contains([':', '\n', '%']) {
                    return Err(format!("has ':' or '%' in '{text}'"));
                }
                Ok(text.to_owned())
            };
            Ok(Some(Line::User {
                name: name(1)?,
                uid,
                group,
                gecos: text(3, "")?,
                home: text(4, "/")?,
                shell: text(5, "/usr/sbin/nologin")?,
            }))
        }
        "g" => {
            let (gid, _) = ids(field(2))?;
            Ok(Some(Line::Group {
                name: name(1)?,
                gid,
            }))
        }
        "m" => Ok(Some(Line::Member {
            user: name(1)?,
            group: name(2)?,
        })),
        // A pool of numbers for automatic ids: ours are chosen in another way.
        "r" => Ok(None),
        other => Err(format!("has the unknown type '{other}'")),
    }
}

/// The id field: a number, `uid:gid`, `uid:group`, or a path whose owner is
/// meant, which on a machine that is not there yet means any number.
fn ids(text: Option<&str>) -> Result<(Option<u32>, Primary), String> {
    let Some(text) = text.filter(|text| !text.starts_with('/')) else {
        return Ok((None, Primary::Own));
    };
    let number = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|id| !matches!(*id, 65_535 | u32::MAX))
            .ok_or_else(|| format!("has the id '{text}', which is no number"))
    };
    match text.split_once(':') {
        None => Ok((Some(number(text)?), Primary::Own)),
        Some((uid, group)) => {
            let uid = if uid == "-" { None } else { Some(number(uid)?) };
            let group = if group.bytes().all(|b| b.is_ascii_digit()) {
                Primary::Gid(number(group)?)
            } else {
                check_name(group)?;
                Primary::Name(group.to_owned())
            };
            Ok((uid, group))
        }
    }
}

/// Names that passwd(5) and every tool take.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if first && rest && name.len() <= 31 {
        Ok(())
    } else {
        Err(format!(
            "has the name '{}'; names begin with a letter or _, go on with letters, digits, _ - . and have at most 31",
            name.escape_default()
        ))
    }
}

/// Fields between blanks; a field may be quoted.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (field, after) = if first == '"' || first == '\'' {
            rest[1..].split_once(first)?
        } else {
            rest.split_once(char::is_whitespace).unwrap_or((rest, ""))
        };
        fields.push(field.to_owned());
        rest = after.trim_start();
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_types_of_the_manual() {
        let text = "\
# comment
u     httpd 404            \"HTTP User\"
u!    _authd  /usr/bin/authd  'Authorization user'  -  /bin/x
u     a     -:users        -  /home/a
u     b     77:78
g     input -
g     fixed 55
m     _authd input
r     -     500-900
";
        let lines: Vec<Line> = parse(text)
            .unwrap()
            .into_iter()
            .map(|(_, line)| line)
            .collect();
        let user = |name: &str, uid, group, gecos: &str, home: &str, shell: &str| Line::User {
            name: name.into(),
            uid,
            group,
            gecos: gecos.into(),
            home: home.into(),
            shell: shell.into(),
        };
        let nologin = "/usr/sbin/nologin";
        assert_eq!(
            lines,
            [
                user("httpd", Some(404), Primary::Own, "HTTP User", "/", nologin),
                user(
                    "_authd",
                    None,
                    Primary::Own,
                    "Authorization user",
                    "/",
                    "/bin/x"
                ),
                user(
                    "a",
                    None,
                    Primary::Name("users".into()),
                    "",
                    "/home/a",
                    nologin
                ),
                user("b", Some(77), Primary::Gid(78), "", "/", nologin),
                Line::Group {
                    name: "input".into(),
                    gid: None
                },
                Line::Group {
                    name: "fixed".into(),
                    gid: Some(55)
                },
                Line::Member {
                    user: "_authd".into(),
                    group: "input".into()
                },
            ]
        );
    }

    #[test]
    fn refuses_what_would_break_passwd() {
        for line in [
            "u",
            "u a:b -",
            "u root\u{7f} -",
            "u 0 -",
            "u a -1",
            "u a 99999999999",
            "u a 65535",
            "u a - \"x:0:0\"",
            "u a - - /home/%u",
            "u a - \"open",
            "z a",
            "m a",
            "u a 1:b:c",
        ] {
            let error = parse(&format!("\n{line}\n")).unwrap_err();
            assert!(error.starts_with("line 2 "), "{line}: {error}");
        }
    }

    #[test]
    fn fuzz_mutated_files() {
        let seed = b"u httpd 404 \"HTTP User\" /srv /bin/sh\nu! a 1:b\ng c -\nm a c\nr - 5-9\n";
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            for (_, line) in parse(&String::from_utf8_lossy(bytes)).unwrap_or_default() {
                if let Line::User {
                    name,
                    gecos,
                    home,
                    shell,
                    ..
                } = line
                {
                    for field in [name, gecos, home, shell] {
                        assert!(!field.contains([':', '\n']), "{field:?}");
                    }
                }
            }
        });
    }
}
