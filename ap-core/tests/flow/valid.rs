//! What a whole flow must hold, and what its author is warned of.

use serde_json::{Value, json};

use super::{at, brief, check, check_errors, code, flow, one, reads, valid};

fn warnings(source: &Value) -> Vec<(String, &'static str)> {
    brief(&ap_core::flow::Diagnostics(valid(source).warnings().to_vec()))
}

#[test]
fn names_are_unique_through_all_levels() {
    let inner = |name: &str| {
        flow(json!([code("a"), { "name": "b", "type": "loop", "settings": { "items": [], "steps": [code(name)] } }]))
    };
    valid(&inner("c"));
    for taken in ["a", "b", "hook"] {
        assert_eq!(check_errors(&inner(taken)), [at("/steps/1/settings/steps/0", "name.duplicate")]);
    }
}

#[test]
fn pieces_and_actions_are_known() {
    let url = json!({ "url": "https://example.com" });
    let flow = valid(&one("http.download", url.clone()));
    let step = &flow.steps()[0];
    assert_eq!(flow.action(&step.name).map(|action| action.spec().name), Some("download"));
    assert_eq!(check_errors(&one("htpp", url.clone())), [at("/steps/0/type", "piece.unknown")]);
    assert_eq!(check_errors(&one("http.get", url.clone())), [at("/steps/0/type", "action.unknown")]);
    let fix = |kind: &str| check(&one(kind, url.clone())).expect_err("is refused").0[0].fix.clone();
    assert_eq!(fix("htpp"), "did you mean `http`? pieces: http");
    assert!(fix("lop").starts_with("did you mean `loop`?"), "{}", fix("lop"));
    assert_eq!(fix("http.reqest"), "did you mean `request`? actions: download, request");
    assert_eq!(fix("database.query"), "pieces: http");
}

#[test]
fn settings_follow_the_schema_without_the_options() {
    valid(&one("http", json!({ "url": "https://example.com", "timeout": 5, "retry": { "maxAttempts": 2 } })));
    assert_eq!(check_errors(&one("http", json!({}))), [at("/steps/0/settings", "property.required")]);
    let wrong = one("http", json!({ "url": "https://example.com", "method": "FETCH", "bdy": 1 }));
    let found = check_errors(&wrong);
    assert!(found.contains(&at("/steps/0/settings/bdy", "property.unknown")), "{found:?}");
    assert!(found.contains(&at("/steps/0/settings/method", "property.type")), "{found:?}");
}

#[test]
fn lists_without_steps_are_warned_of() {
    let trigger = json!([{ "type": "manual" }]);
    assert_eq!(warnings(&json!({ "triggers": trigger, "steps": [] })), [at("/steps", "steps.empty")]);
    assert_eq!(warnings(&json!({ "triggers": trigger })), [at("/steps", "steps.empty")]);
    assert_eq!(warnings(&one("loop", json!({ "items": [], "steps": [] }))), [at("/steps/0", "steps.empty")]);
    assert_eq!(warnings(&one("branch", json!({ "condition": "{{trigger.a}}" }))), [at("/steps/0", "steps.empty")]);
    assert_eq!(warnings(&one("branch", json!({ "condition": "{{trigger.a}}", "ifFalse": [code("a")] }))), []);
}

#[test]
fn responses_need_somebody_who_waits() {
    let started = |trigger: Value| json!({ "triggers": [trigger], "steps": [reads("a", "x")] });
    // Another flow may run it as its subflow.
    assert_eq!(warnings(&started(json!({ "type": "manual" }))), []);
    for nobody in [
        json!({ "type": "schedule", "settings": { "cronExpression": "* * * * *" } }),
        json!({ "type": "http.changed", "settings": { "url": "x" } }),
    ] {
        assert_eq!(warnings(&started(nobody)), [at("/steps/0", "respond.unheard")]);
    }
    assert_eq!(warnings(&flow(json!([reads("a", "x")]))), []);
}

#[test]
fn steps_that_cannot_be_reached_are_warned_of() {
    let fail = || json!({ "type": "fail", "settings": { "message": "x" } });
    let stop = || json!({ "type": "respond", "settings": { "stop": true } });
    let choose = |yes: Value, no: Value| json!({ "type": "branch", "settings": { "condition": "{{trigger.a}}", "ifTrue": yes, "ifFalse": no } });
    let skipped = json!({ "type": "fail", "settings": { "message": "x" }, "skip": true });
    let unreachable = [at("/steps/1", "step.unreachable")];
    for end in [fail(), stop(), choose(json!([fail()]), json!([code("x"), stop()]))] {
        assert_eq!(warnings(&flow(json!([end, code("a"), code("b")]))), unreachable);
    }
    for end in
        [skipped, reads("r", "x"), choose(json!([fail()]), json!([])), choose(json!([fail()]), json!([code("x")]))]
    {
        assert_eq!(warnings(&flow(json!([end, code("a")]))), []);
    }
}

#[test]
fn errors_come_with_the_warnings_and_capped() {
    let trigger = json!({ "type": "schedule", "settings": { "cronExpression": "* * * * *" } });
    let source = json!({ "triggers": [trigger], "steps": [reads("a", "{{nonsense}}")] });
    assert_eq!(
        check_errors(&source),
        [at("/steps/0/settings/body", "reference.root"), at("/steps/0", "respond.unheard")]
    );
    let many: Vec<_> = (0..60).map(|n| reads(&format!("s{n}"), "{{a}} {{b}}")).collect();
    assert_eq!(check_errors(&flow(json!(many))).len(), 100);
}

#[test]
fn a_valid_flow_is_cheap_to_clone_and_prints() {
    let flow = valid(&one("http", json!({ "url": "https://example.com" })));
    let clone = flow.clone();
    assert!(std::ptr::eq(flow.steps(), clone.steps()));
    assert_eq!(flow.definition().display_name(), flow.display_name());
    assert!(format!("{flow:?}").contains("https://example.com"));
}
