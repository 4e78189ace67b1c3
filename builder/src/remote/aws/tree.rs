//! An answer's XML as a tree, read with bounds: EC2 nests lists in lists.

use super::xml;

/// Deepest nesting and most elements of an answer.
const DEEPEST: usize = 24;
const MOST: usize = 200_000;

/// An element: its name without prefix, its text, its children.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads an answer; attributes, comments and instructions are passed over.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut stack = vec![Self::default()];
        let mut count = 0;
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('<') {
            let top = stack.last_mut().ok_or("it closes what it never opened")?;
            if !before.trim().is_empty() {
                let plain = xml::unescape(before.trim()).ok_or("it has an unknown entity")?;
                top.text.push_str(&plain);
            }
            if let Some(comment) = after.strip_prefix("!--") {
                rest = comment.split_once("-->").ok_or("a comment has no end")?.1;
                continue;
            }
            let (tag, tail) = after.split_once('>').ok_or("an element has no end")?;
            rest = tail;
            if tag.starts_with('!') {
                return Err("it declares entities or raw text");
            }
            if tag.starts_with('?') {
                continue;
            }
            if let Some(name) = tag.strip_prefix('/') {
                let done = stack.pop().ok_or("it closes what it never opened")?;
                if done.name != local(name) || stack.is_empty() {
                    return Err("an element is closed under another name");
                }
                stack.last_mut().ok_or("no parent")?.children.push(done);
                continue;
            }
            count += 1;
            if count > MOST || stack.len() > DEEPEST {
                return Err("it has too many elements, or too deep ones");
            }
            let empty = tag.ends_with('/');
            let element = Self {
                name: local(tag.trim_end_matches('/')).to_owned(),
                ..Self::default()
            };
            if empty {
                stack.last_mut().ok_or("no parent")?.children.push(element);
            } else {
                stack.push(element);
            }
        }
        let mut root = stack.pop().ok_or("it is empty")?;
        if !stack.is_empty() || root.children.len() != 1 {
            return Err("it is no single whole element");
        }
        root.children.pop().ok_or("it is empty")
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of that name; empty when there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| &child.text)
    }

    /// The `item`s of the list of that name.
    pub(super) fn items(&self, list: &str) -> impl Iterator<Item = &Self> {
        let children = self.child(list).map_or(&[][..], |list| &list.children);
        children.iter().filter(|child| child.name == "item")
    }
}

/// A name without prefix and attributes.
fn local(tag: &str) -> &str {
    let name = tag.split_whitespace().next().unwrap_or_default();
    name.rsplit(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "<?xml version=\"1.0\"?>\n<R xmlns=\"x\"><!-- <a> --><set><item><id>1</id><tags><item><k>a&amp;b</k></item></tags></item><item/></set><none/></R>";

    #[test]
    fn lists_in_lists_are_kept_apart() {
        let tree = Element::parse(ANSWER).unwrap();
        assert_eq!(tree.name(), "R");
        let items: Vec<_> = tree.items("set").collect();
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].get("id"), "1");
        assert_eq!(items[0].items("tags").next().unwrap().get("k"), "a&b");
        assert_eq!(tree.get("none"), "");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let deep = "<a>".repeat(100);
        let many = format!("<a>{}</a>", "<b/>".repeat(MOST + 1));
        for text in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a>&x;</a>",
            "<!DOCTYPE a><a/>",
            "<a",
            &deep,
            &many,
        ] {
            assert!(
                Element::parse(text).is_err(),
                "{}",
                &text[..text.len().min(20)]
            );
        }
    }

    #[test]
    fn mutated_answers_do_not_panic() {
        slipform_fuzz::fuzz(&[ANSWER.as_bytes()], |bytes, _| {
            drop(Element::parse(&String::from_utf8_lossy(bytes)));
        });
    }
}
