//! When a step of one version of a flow is that of another.

use serde_json::{Value, json};

use super::{code, flow, one, reads, valid};

fn same(one: Value, other: Value) -> bool {
    let (one, other) = (valid(&flow(json!([one]))), valid(&flow(json!([other]))));
    assert_eq!(one.same_step(&other, "s"), other.same_step(&one, "s"));
    assert!(one.same_step(&one, "s") && other.same_step(&other, "s"));
    one.same_step(&other, "s")
}

fn each(inner: Value) -> Value {
    json!({ "name": "s", "type": "loop", "settings": { "items": "{{trigger.body}}", "steps": [inner] } })
}

#[test]
fn places_spellings_and_names_for_people_do_not_count() {
    let call =
        json!({ "name": "s", "type": "http", "settings": { "url": "{{trigger.url}}" }, "retry": { "maxAttempts": 2 } });
    let mut renamed = call.clone();
    renamed["displayName"] = "Call".into();
    assert!(same(call.clone(), renamed));
    let respelled = json!({ "name": "s", "type": "http", "settings": { "url": "{{ trigger.url }}" }, "failureHandling": { "retries": 1 } });
    assert!(same(call.clone(), respelled));
    let (first, second) = (valid(&flow(json!([call]))), valid(&flow(json!([code("a"), call]))));
    assert!(first.same_step(&second, "s"), "it stands elsewhere");
    assert!(!first.same_step(&second, "a") && !second.same_step(&first, "a") && !first.same_step(&second, "none"));
    let action = |action: Value| valid(&one("queue.process", json!({ "queueName": "q", "action": action })));
    let apart = action(json!({ "name": "s", "type": "http", "settings": { "url": "x" } }));
    let beside = action(json!({ "name": "s", "type": "http", "url": "x" }));
    assert!(apart.same_step(&beside, "s") && apart.same_step(&beside, "only"));
}

#[test]
fn what_is_done_and_how_counts_at_every_depth() {
    let base = each(reads("a", "x"));
    for other in [
        each(reads("a", "y")),
        each(reads("b", "x")),
        each(code("a")),
        json!({ "name": "s", "type": "loop", "settings": { "items": "{{trigger.body.x}}", "steps": [reads("a", "x")] } }),
        json!({ "name": "s", "type": "loop", "settings": { "items": "{{trigger.body}}", "concurrency": 2, "steps": [reads("a", "x")] } }),
        json!({ "name": "s", "type": "loop", "settings": { "items": "{{trigger.body}}", "steps": [reads("a", "x")] }, "onError": "continue" }),
        json!({ "name": "s", "type": "loop", "settings": { "items": "{{trigger.body}}", "steps": [reads("a", "x"), reads("b", "x")] } }),
    ] {
        assert!(!same(base.clone(), other));
    }
    let handled = |template: &str| json!({ "name": "s", "type": "delay", "settings": { "delayMs": 1 }, "onError": { "steps": [reads("h", template)] } });
    assert!(same(handled("{{trigger.a}}"), handled("{{trigger.a}}")));
    assert!(!same(handled("{{trigger.a}}"), handled("{{trigger.b}}")));
}
