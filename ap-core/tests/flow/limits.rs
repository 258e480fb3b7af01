//! Limits: one below, at, and one above.

use ap_core::{
    flow::{Diagnostics, FlowDefinition, FlowLimits, ValidFlow},
    json::JsonLimits,
};
use serde_json::{Value, json};

use super::{brief, flow, one, parse, pieces};

/// Steps in a flow: `inner` of them inside one loop.
fn steps(count: usize, inner: usize) -> Value {
    let respond = || json!({ "type": "respond" });
    let mut list: Vec<_> = (0..count - inner - 1).map(|_| respond()).collect();
    let body: Vec<_> = (0..inner).map(|_| respond()).collect();
    list.push(json!({ "type": "loop", "settings": { "items": [], "steps": body } }));
    flow(json!(list))
}

/// A step `levels` levels deep, through loops and branches.
fn nested(levels: usize) -> Value {
    let mut step = json!({ "type": "respond" });
    for level in 1..levels {
        step = match level % 3 {
            0 => json!({ "type": "loop", "settings": { "items": [], "action": step } }),
            1 => json!({ "type": "loop", "settings": { "items": [], "steps": [step] } }),
            _ => json!({ "type": "branch", "settings": { "condition": "{{trigger.body}}", "ifFalse": [step] } }),
        };
    }
    flow(json!([step]))
}

fn rules(found: Diagnostics) -> Vec<&'static str> {
    brief(&found).into_iter().map(|(_, rule)| rule).collect()
}

fn read(source: &Value, limits: &FlowLimits) -> Result<FlowDefinition, Vec<&'static str>> {
    FlowDefinition::from_value(source.clone(), limits).map_err(rules)
}

#[test]
fn steps_are_counted_through_all_levels() {
    let limits = FlowLimits::default();
    for inner in [0, 50] {
        assert!(read(&steps(99, inner), &limits).is_ok());
        assert!(read(&steps(100, inner), &limits).is_ok());
        assert_eq!(read(&steps(101, inner), &limits), Err(vec!["flow.steps.limit"]));
    }
}

#[test]
fn nesting_is_limited() {
    let limits = FlowLimits::default();
    assert!(read(&nested(9), &limits).is_ok());
    assert!(read(&nested(10), &limits).is_ok());
    assert_eq!(read(&nested(11), &limits), Err(vec!["flow.nesting.limit"]));
}

#[test]
fn the_widest_nesting_fits_the_deepest_json() {
    let json = JsonLimits::flow().with_max_depth(100).expect("accepted");
    let limits = FlowLimits::default().with_max_nesting(30).expect("accepted").with_json(json);
    assert!(read(&nested(30), &limits).is_ok());
    assert_eq!(read(&nested(31), &limits), Err(vec!["flow.nesting.limit"]));
}

#[test]
fn a_check_under_smaller_limits_holds() {
    let checked =
        |source: &Value, limits: FlowLimits| ValidFlow::check(parse(source), &pieces(), &limits).map_err(rules);
    let five = FlowLimits::default().with_max_steps(5).expect("accepted");
    assert!(checked(&steps(5, 2), five.clone()).is_ok());
    assert!(checked(&steps(6, 2), five).is_err_and(|found| found.contains(&"flow.steps.limit")));
    let three = FlowLimits::default().with_max_nesting(3).expect("accepted");
    assert!(checked(&nested(3), three.clone()).is_ok());
    assert!(checked(&nested(4), three).is_err_and(|found| found.contains(&"flow.nesting.limit")));
}

#[test]
fn scripts_are_limited() {
    let script = |bytes: usize| one("code", json!({ "sourceCode": { "code": "x".repeat(bytes) } }));
    let limits = FlowLimits::default();
    assert!(read(&script((256 << 10) - 1), &limits).is_ok());
    assert!(read(&script(256 << 10), &limits).is_ok());
    assert_eq!(read(&script((256 << 10) + 1), &limits), Err(vec!["code.size"]));
}

#[test]
fn display_names_are_limited_in_characters() {
    let named = |chars: usize| {
        let name = "ü".repeat(chars);
        json!({ "displayName": name, "triggers": [{ "type": "manual" }], "steps": [{ "displayName": name, "type": "respond" }] })
    };
    let limits = FlowLimits::default();
    for accepted in [1, 199, 200] {
        assert!(read(&named(accepted), &limits).is_ok());
    }
    for refused in [0, 201] {
        assert_eq!(read(&named(refused), &limits), Err(vec!["name.length", "name.length"]));
    }
}

#[test]
fn json_is_limited_in_bytes() {
    let source = one("respond", json!({ "body": "x" }));
    let text = serde_json::to_vec(&source).expect("writes");
    let limit = |bytes: usize| FlowLimits::default().with_json(JsonLimits::flow().with_max_bytes(bytes));
    for bytes in [text.len() + 1, text.len()] {
        assert!(FlowDefinition::parse_slice(&text, &limit(bytes)).is_ok());
        assert!(read(&source, &limit(bytes)).is_ok());
    }
    let slice = FlowDefinition::parse_slice(&text, &limit(text.len() - 1)).map_err(rules);
    let value = read(&source, &limit(text.len() - 1));
    assert_eq!(slice, value);
    assert!(slice.is_err_and(|found| found == ["json.size"]));
}

#[test]
fn json_is_limited_in_depth() {
    // The body stands at level 5: flow, steps, step, settings, body.
    let deep = |levels: usize| {
        let body = (0..levels - 4).fold(json!(1), |inner, _| json!([inner]));
        one("respond", json!({ "body": body }))
    };
    let limits = FlowLimits::default();
    for accepted in [63, 64] {
        assert!(read(&deep(accepted), &limits).is_ok());
        let text = serde_json::to_vec(&deep(accepted)).expect("writes");
        assert!(FlowDefinition::parse_slice(&text, &limits).is_ok());
    }
    let text = serde_json::to_vec(&deep(65)).expect("writes");
    let slice = FlowDefinition::parse_slice(&text, &limits).map_err(rules);
    assert_eq!(slice, read(&deep(65), &limits));
    assert!(slice.is_err_and(|found| found == ["json.depth"]));
}

#[test]
fn values_of_any_depth_are_measured_without_deep_recursion() {
    // Deep enough to overflow the stack of a reader that follows it down.
    let deep = (0..1_000_000).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    let mut source = one("respond", json!({}));
    source["steps"][0]["settings"]["body"] = deep;
    let refused = FlowDefinition::from_value(source, &FlowLimits::default());
    assert_eq!(refused.map_err(rules), Err(vec!["json.depth"]));
}
