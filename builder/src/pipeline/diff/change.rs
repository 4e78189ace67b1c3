//! Named things with named values, and what became of them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Values of one thing, in the order in which people are told.
pub(super) type Values = Vec<(&'static str, Value)>;

/// What became of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// Only the second side has it.
    Added,
    /// Only the first side has it.
    Removed,
    /// Both have it, with other values.
    Changed,
}

/// One value on both sides; null where the thing is not, or has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// What it is the value of.
    pub name: &'static str,
    /// On the first side.
    pub old: Value,
    /// On the second side.
    pub new: Value,
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What became of it.
    pub mark: Mark,
    /// Its name.
    pub name: String,
    /// Of a changed thing the values that differ, of others all.
    pub fields: Vec<Field>,
}

/// The values that differ; one that a side does not have is null there.
pub(super) fn fields(old: &Values, new: &Values) -> Vec<Field> {
    let value = |values: &Values, name: &str| {
        let found = values.iter().find(|(known, _)| *known == name);
        found.map_or(Value::Null, |(_, value)| value.clone())
    };
    let only_new = new
        .iter()
        .filter(|(name, _)| old.iter().all(|(known, _)| known != name));
    old.iter()
        .chain(only_new)
        .map(|(name, _)| Field {
            name,
            old: value(old, name),
            new: value(new, name),
        })
        .filter(|field| field.old != field.new)
        .collect()
}

/// What became of one thing; `None` when it is the same.
pub(super) fn change(name: &str, old: Option<&Values>, new: Option<&Values>) -> Option<Change> {
    let none = Values::new();
    let mark = match (old, new) {
        (Some(_), Some(_)) => Mark::Changed,
        (None, Some(_)) => Mark::Added,
        (Some(_), None) => Mark::Removed,
        (None, None) => return None,
    };
    let fields = fields(old.unwrap_or(&none), new.unwrap_or(&none));
    (mark != Mark::Changed || !fields.is_empty()).then(|| Change {
        mark,
        name: name.to_owned(),
        fields,
    })
}

/// What became of each thing, by name.
pub(super) fn changes(
    old: &BTreeMap<String, Values>,
    new: &BTreeMap<String, Values>,
) -> Vec<Change> {
    let added = new.keys().filter(|name| !old.contains_key(*name));
    let mut names: Vec<&String> = old.keys().chain(added).collect();
    names.sort();
    names
        .into_iter()
        .filter_map(|name| change(name, old.get(name), new.get(name)))
        .collect()
}

/// Things by name. A second one of a name, which only a forged image has, gets
/// a number: none is lost.
pub(super) fn named(things: impl Iterator<Item = (String, Values)>) -> BTreeMap<String, Values> {
    let mut map = BTreeMap::new();
    for (name, values) in things {
        let mut key = name.clone();
        let mut number = 1u32;
        while map.contains_key(&key) {
            number += 1;
            key = format!("{name} ({number})");
        }
        map.insert(key, values);
    }
    map
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn things(list: &[(&str, u32)]) -> BTreeMap<String, Values> {
        let thing = |(name, size): &(&str, u32)| {
            let values = vec![("size", json!(size)), ("kind", json!("thing"))];
            ((*name).to_owned(), values)
        };
        named(list.iter().map(thing))
    }

    #[test]
    fn what_is_the_same_is_not_told() {
        let all = things(&[("a", 1), ("b", 2)]);
        assert_eq!(changes(&all, &all), []);
    }

    #[test]
    fn added_removed_and_changed_in_the_order_of_names() {
        let old = things(&[("b", 1), ("c", 1), ("d", 1)]);
        let new = things(&[("a", 1), ("c", 2), ("d", 1)]);
        let told: Vec<_> = changes(&old, &new)
            .into_iter()
            .map(|c| (c.mark, c.name, c.fields.len()))
            .collect();
        assert_eq!(
            told,
            [
                (Mark::Added, "a".to_owned(), 2),
                (Mark::Removed, "b".to_owned(), 2),
                (Mark::Changed, "c".to_owned(), 1),
            ]
        );
    }

    #[test]
    fn a_value_that_one_side_lacks_is_null_there() {
        let told = fields(
            &vec![("x", json!(1)), ("y", json!(2))],
            &vec![("y", json!(2)), ("z", json!(3))],
        );
        let told: Vec<_> = told.into_iter().map(|f| (f.name, f.old, f.new)).collect();
        assert_eq!(
            told,
            [("x", json!(1), Value::Null), ("z", Value::Null, json!(3))]
        );
    }

    #[test]
    fn things_of_one_name_are_all_kept() {
        let twice = things(&[("a", 1), ("a", 2)]);
        assert_eq!(twice.len(), 2);
        assert_eq!(changes(&things(&[("a", 1)]), &twice).len(), 1);
    }
}
