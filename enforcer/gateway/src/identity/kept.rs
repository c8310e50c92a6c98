//! What is kept of a verified token's claims: those that rules look at.

use serde_json::{Map, Value};

use enforcer_model::ClaimPath;

/// The claims at `paths`, where they stood, and nothing else.
pub(super) fn keep(claims: &Map<String, Value>, paths: &[ClaimPath]) -> Map<String, Value> {
    let mut kept = Map::new();
    for path in paths {
        if let (Some(value), Some((last, outer))) = (path.find(claims), path.names().split_last()) {
            let inner = outer.iter().try_fold(&mut kept, |object, name| {
                let inner = object.entry(&**name).or_insert_with(|| Value::Object(Map::new()));
                inner.as_object_mut()
            });
            if let Some(inner) = inner {
                inner.insert(last.to_string(), value.clone());
            }
        }
    }
    kept
}

/// About how much memory claims take, in bytes.
pub(super) fn weight(claims: &Map<String, Value>) -> usize {
    claims
        .iter()
        .map(|(name, value)| entry(name) + of_value(value))
        .sum()
}

fn entry(name: &str) -> usize {
    size_of::<String>() + name.len()
}

fn of_value(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(elements) => elements.iter().map(of_value).sum(),
            Value::Object(members) => weight(members),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_asked_for_is_kept() {
        let claims = json!({
            "sub": "alice",
            "groups": ["a", "b"],
            "realm": {"roles": ["x"], "other": {"deep": 1}, "more": 2},
        });
        let kept = |paths: &[&str]| {
            let paths: Vec<ClaimPath> = paths.iter().map(|path| path.parse().unwrap()).collect();
            Value::Object(keep(claims.as_object().unwrap(), &paths))
        };
        for (paths, expected) in [
            (&[][..], json!({})),
            (&["groups", "missing", "sub.x"], json!({"groups": ["a", "b"]})),
            (
                &["realm.roles", "realm.other.deep"],
                json!({"realm": {"roles": ["x"], "other": {"deep": 1}}}),
            ),
            (&["realm", "realm.roles"], json!({"realm": claims["realm"]})),
            (&["realm.roles", "realm"], json!({"realm": claims["realm"]})),
        ] {
            assert_eq!(kept(paths), expected, "{paths:?}");
        }
    }

    #[test]
    fn many_small_values_weigh_more_than_their_text() {
        let text = format!("{{\"a\":[{}1]}}", "1,".repeat(999));
        let claims: Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert!(
            weight(&claims) >= 1000 * size_of::<Value>(),
            "{}",
            weight(&claims)
        );
    }
}
