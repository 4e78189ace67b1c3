//! Values at paths of a JSON answer.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::plan::{JsonKey, json_path};

/// How much of a wrong value is shown.
const SHOWN: usize = 160;

/// Whether every path of `wanted` has its value in `body`; else what stands there.
pub(crate) fn judge(wanted: &BTreeMap<String, Value>, body: &[u8]) -> Result<(), String> {
    if wanted.is_empty() {
        return Ok(());
    }
    let answer: Value = serde_json::from_slice(body).map_err(|error| {
        let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
        format!("its body is no JSON ({error}): {shown:?}")
    })?;
    for (path, want) in wanted {
        let mut place = Some(&answer);
        for key in json_path(path)? {
            place = place.and_then(|value| match key {
                JsonKey::Name(name) => value.get(name),
                JsonKey::Index(index) => value.get(index),
            });
        }
        match place {
            Some(value) if same(value, want) => {}
            Some(value) => {
                let text = value.to_string();
                let shown: String = text.chars().take(SHOWN).collect();
                return Err(format!("its JSON has {shown} at {path:?}, not {want}"));
            }
            None => return Err(format!("its JSON has nothing at {path:?}")),
        }
    }
    Ok(())
}

/// Numbers are equal by value: 1 is 1.0.
fn same(left: &Value, right: &Value) -> bool {
    left == right
        || matches!((left.as_f64(), right.as_f64()), (Some(left), Some(right)) if left == right)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_found_and_compared() {
        let body = br#"{"user":{"names":["x","y"],"age":3.0,"ok":true}}"#;
        let one =
            |path: &str, value: Value| judge(&BTreeMap::from([(path.to_owned(), value)]), body);
        assert_eq!(one("user.names[1]", json!("y")), Ok(()));
        assert_eq!(one("user.age", json!(3)), Ok(()));
        assert_eq!(one("user.ok", json!(true)), Ok(()));
        let wrong = one("user.age", json!(4)).unwrap_err();
        assert!(wrong.contains("has 3.0 at \"user.age\", not 4"), "{wrong}");
        assert!(
            one("user.names[2]", json!("z"))
                .unwrap_err()
                .contains("nothing at")
        );
        let no_json = judge(&BTreeMap::from([(String::new(), json!(1))]), b"<html>");
        assert!(no_json.unwrap_err().contains("no JSON"));
        let deep = "[".repeat(100_000);
        assert!(
            judge(
                &BTreeMap::from([(String::new(), json!(1))]),
                deep.as_bytes()
            )
            .is_err()
        );
    }
}
