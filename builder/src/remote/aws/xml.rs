//! The few elements of AWS's XML that are read, without attributes, as these servers write them.

/// The insides of all elements named `tag`, in order; nested ones of the same name are not looked for.
pub(in crate::remote) fn blocks<'a>(xml: &'a str, tag: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some((_, inside)) = rest.split_once(&open) {
        let Some((inside, after)) = inside.split_once(&close) else {
            break;
        };
        found.push(inside);
        rest = after;
    }
    found
}

/// The text of the first element named `tag`.
pub(in crate::remote) fn text(xml: &str, tag: &str) -> Option<String> {
    let inside = *blocks(xml, tag).first()?;
    (!inside.contains('<')).then(|| unescape(inside)).flatten()
}

/// Undoes entities; `None` for one that is unknown.
pub(super) fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let (entity, tail) = after.split_once(';')?;
        plain.push(match entity {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            other => {
                let number = other.strip_prefix('#')?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                char::from_u32(code.ok()?)?
            }
        });
        rest = tail;
    }
    plain.push_str(rest);
    Some(plain)
}

/// `text` with what XML gives a meaning escaped.
pub(in crate::remote) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_write() {
        let xml = "<?xml version=\"1.0\"?>\n<R xmlns=\"x\"><Part><N>1</N><ETag>&quot;a&#34;&#x26;</ETag></Part><Part><N>2</N></Part><Empty/></R>";
        assert_eq!(blocks(xml, "Part").len(), 2);
        assert_eq!(text(xml, "ETag").unwrap(), "\"a\"&");
        assert_eq!(text(xml, "Part"), None);
        assert_eq!(text(xml, "Empty"), None);
        assert_eq!(text("<a>&bad;</a>", "a"), None);
        assert_eq!(escape("<\"&\">"), "&lt;&quot;&amp;&quot;&gt;");
    }

    #[test]
    fn mutated_answers_do_not_panic() {
        let seed =
            b"<L><IsTruncated>true</IsTruncated><Contents><Key>a&amp;&#65;</Key></Contents></L>";
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            let xml = String::from_utf8_lossy(bytes);
            for tag in ["Contents", "Key", "IsTruncated", ""] {
                let _any = (blocks(&xml, tag), text(&xml, tag));
            }
        });
    }
}
