//! The piece `json`: reading, writing and taking apart JSON.

use std::sync::Arc;

use ap_core::{
    json::{self, JsonLimits},
    piece::{Action, Piece, Trigger},
    property::{AuthSchema, Property, PropertyKind},
    run::StepError,
};
use serde_json::{Map, Value};

use crate::{
    input::{self, wrong},
    pure::Pure,
};

/// The piece `json`.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Piece for Json {
    fn name(&self) -> &str {
        "json"
    }

    fn display_name(&self) -> &str {
        "JSON"
    }

    fn description(&self) -> &str {
        "Reads, writes and takes apart JSON."
    }

    fn auth(&self) -> Option<AuthSchema> {
        None
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        let value = || Property::new("value", "Value", PropertyKind::Json);
        vec![
            Pure::action(
                "parse",
                "Parse",
                "Reads JSON text; its value comes out.",
                [Property::new("text", "Text", PropertyKind::LongText)
                    .describe("JSON text (RFC 8259), at most 10 MiB, 64 levels and 1000000 values.")
                    .required()],
                parse,
            ),
            Pure::action(
                "stringify",
                "Stringify",
                "Writes a value as JSON text of at most 10 MiB; the text comes out.",
                [
                    value().describe("The value to write.").required(),
                    Property::new("pretty", "Pretty", PropertyKind::Checkbox)
                        .describe("Whether to indent by two spaces, for people.")
                        .default(false),
                ],
                stringify,
            ),
            Pure::action(
                "get",
                "Get",
                "Follows a pointer into a value; what stands there comes out.",
                [
                    value().describe("The value to look into.").required(),
                    Property::new("pointer", "Pointer", PropertyKind::ShortText)
                        .describe("JSON Pointer (RFC 6901), such as `/items/0/id`; empty for the whole value.")
                        .required(),
                    Property::new("default", "Default", PropertyKind::Json)
                        .describe("What comes out where nothing stands; without it, that is an error."),
                ],
                get,
            ),
            Pure::action(
                "pick",
                "Pick",
                "Keeps some members of an object; an object of those that exist comes out.",
                [
                    Property::new("object", "Object", PropertyKind::Object)
                        .describe("The object to take from.")
                        .required(),
                    Property::new("keys", "Keys", PropertyKind::array(PropertyKind::ShortText))
                        .describe("Names of the members to keep.")
                        .required(),
                ],
                pick,
            ),
            Pure::action(
                "merge",
                "Merge",
                "Puts the members of several objects into one; of two with one name the later counts.",
                [
                    Property::new("objects", "Objects", PropertyKind::array(PropertyKind::Object))
                        .describe("The objects, the most important last.")
                        .required(),
                    Property::new("deep", "Deep", PropertyKind::Checkbox)
                        .describe(
                            "Whether objects inside are merged too, instead of replaced; arrays are always replaced.",
                        )
                        .default(false),
                ],
                merge,
            ),
        ]
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

fn parse(input: Value) -> Result<Value, StepError> {
    let text = input::text(&input, "text");
    json::parse(text.as_bytes(), &JsonLimits::payload())
        .map_err(|error| wrong("text", format_args!("is not JSON: {error}")))
}

fn stringify(input: Value) -> Result<Value, StepError> {
    let value = input.get("value").unwrap_or(&Value::Null);
    let text = if input::flag(&input, "pretty") { format!("{value:#}") } else { value.to_string() };
    input::check_size(text.len())?;
    Ok(Value::String(text))
}

fn get(mut input: Value) -> Result<Value, StepError> {
    let mut value = input::take(&mut input, "value").unwrap_or_default();
    let pointer = input::text(&input, "pointer");
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return Err(wrong("pointer", "must be empty or start with `/` (RFC 6901), such as `/items/0/id`"));
    }
    if let Some(found) = value.pointer_mut(pointer) {
        return Ok(found.take());
    }
    let pointer: String = pointer.escape_debug().take(200).collect();
    let missing = || wrong("pointer", format_args!("leads nowhere: there is nothing at `{pointer}`, and no `default`"));
    input::take(&mut input, "default").ok_or_else(missing)
}

fn pick(mut input: Value) -> Result<Value, StepError> {
    let mut object = input::take(&mut input, "object").unwrap_or_default();
    let kept = input::items(&input, "keys").iter().filter_map(Value::as_str).filter_map(|key| {
        let member = object.as_object_mut()?.remove(key)?;
        Some((key.to_owned(), member))
    });
    Ok(Value::Object(kept.collect()))
}

fn merge(mut input: Value) -> Result<Value, StepError> {
    let deep = input::flag(&input, "deep");
    let mut merged = Map::new();
    if let Some(Value::Array(objects)) = input::take(&mut input, "objects") {
        for object in objects {
            if let Value::Object(members) = object {
                merge_into(&mut merged, members, deep);
            }
        }
    }
    Ok(Value::Object(merged))
}

fn merge_into(target: &mut Map<String, Value>, members: Map<String, Value>, deep: bool) {
    for (name, value) in members {
        match (target.get_mut(&name), value) {
            (Some(Value::Object(inner)), Value::Object(members)) if deep => merge_into(inner, members, deep),
            (_, value) => drop(target.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ap_core::run::StepErrorKind;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{input::MAX_OUTPUT_BYTES, testing::run};

    async fn ok(action: &str, input: Value) -> Value {
        run(&Json, action, input).await.expect("runs")
    }

    async fn message(action: &str, input: Value) -> String {
        let failed = run(&Json, action, input).await.expect_err("fails");
        assert_eq!(failed.error.kind, StepErrorKind::Input);
        failed.error.message
    }

    #[tokio::test]
    async fn text_is_parsed_strictly() {
        assert_eq!(ok("parse", json!({ "text": " {\"a\": [1, null]} " })).await, json!({ "a": [1, null] }));
        for wrong in ["", "{", "{'a':1}", "[1,]", "NaN", "1 2", "\u{feff}1", "undefined"] {
            let message = message("parse", json!({ "text": wrong })).await;
            assert!(message.starts_with("property `text` is not JSON: ") && message.contains("line 1"), "{message}");
        }
    }

    #[tokio::test]
    async fn parse_errors_quote_nothing() {
        let message = message("parse", json!({ "text": "{\"password\": canary}" })).await;
        assert!(!message.contains("canary") && !message.contains("password"), "{message}");
    }

    #[tokio::test]
    async fn depth_is_limited_one_below_at_and_above() {
        for (depth, accepted) in [(63, true), (64, true), (65, false), (100_000, false)] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(run(&Json, "parse", json!({ "text": text })).await.is_ok(), accepted, "{depth}");
        }
    }

    #[tokio::test]
    async fn values_are_written_compact_or_pretty() {
        assert_eq!(ok("stringify", json!({ "value": { "a": [1] } })).await, json!("{\"a\":[1]}"));
        assert_eq!(ok("stringify", json!({ "value": [1], "pretty": true })).await, json!("[\n  1\n]"));
        assert_eq!(ok("stringify", json!({ "value": null })).await, json!("null"));
        assert!(message("stringify", json!({})).await.contains("`value` is required"));
    }

    #[tokio::test]
    async fn text_sizes_are_limited() {
        let size = MAX_OUTPUT_BYTES - 2;
        assert!(run(&Json, "stringify", json!({ "value": "x".repeat(size) })).await.is_ok());
        assert!(run(&Json, "stringify", json!({ "value": "x".repeat(size + 1) })).await.is_err());
        assert!(run(&Json, "parse", json!({ "text": format!("\"{}\"", "x".repeat(size)) })).await.is_ok());
        assert!(run(&Json, "parse", json!({ "text": format!("\"{}\"", "x".repeat(size + 1)) })).await.is_err());
    }

    #[tokio::test]
    async fn pointers_are_followed() {
        let value = json!({ "a/b": [10, { "~": null }] });
        for (pointer, expected) in [("", value.clone()), ("/a~1b/0", json!(10)), ("/a~1b/1/~0", Value::Null)] {
            assert_eq!(ok("get", json!({ "value": value, "pointer": pointer })).await, expected);
        }
        assert_eq!(ok("get", json!({ "value": value, "pointer": "/x", "default": null })).await, Value::Null);
        assert!(message("get", json!({ "value": value, "pointer": "/x" })).await.contains("nothing at `/x`"));
        assert!(message("get", json!({ "value": value, "pointer": "x" })).await.contains("start with `/`"));
    }

    #[tokio::test]
    async fn picking_keeps_what_exists() {
        let object = json!({ "a": 1, "b": null, "c": { "d": 2 } });
        assert_eq!(
            ok("pick", json!({ "object": object, "keys": ["b", "c", "x", "b"] })).await,
            json!({ "b": null, "c": { "d": 2 } })
        );
    }

    #[tokio::test]
    async fn merging_lets_the_later_win() {
        let objects = json!([{ "a": { "x": 1, "y": [1] } }, { "a": { "y": [2] }, "b": null }]);
        assert_eq!(ok("merge", json!({ "objects": objects })).await, json!({ "a": { "y": [2] }, "b": null }));
        assert_eq!(
            ok("merge", json!({ "objects": objects, "deep": true })).await,
            json!({ "a": { "x": 1, "y": [2] }, "b": null })
        );
        assert_eq!(ok("merge", json!({ "objects": [] })).await, json!({}));
        assert!(message("merge", json!({ "objects": [{}, 1] })).await.contains("item 1 must be an object"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in any_json(), pretty: bool) {
            let text = stringify(json!({ "value": value, "pretty": pretty })).expect("small");
            prop_assert_eq!(parse(json!({ "text": text })), Ok(value));
        }

        #[test]
        fn merging_with_itself_changes_nothing(value in any_json(), deep: bool) {
            let object = json!({ "a": value });
            let merged = merge(json!({ "objects": [object, object], "deep": deep }));
            prop_assert_eq!(merged, Ok(object));
        }
    }
}
