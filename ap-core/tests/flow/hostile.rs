//! Outside bytes: whatever they are, parsing and checking end in a flow or in diagnostics.

use std::time::{Duration, Instant};

use ap_core::flow::{FlowDefinition, FlowLimits, ValidFlow};
use proptest::{collection::vec, prelude::*, sample::select, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use super::{brief, code, flow, one, pieces};

/// Parses and, if that succeeds, checks.
fn try_all(source: &Value) -> Result<ValidFlow, ap_core::flow::Diagnostics> {
    let limits = FlowLimits::default();
    let result = FlowDefinition::from_value(source.clone(), &limits)
        .and_then(|definition| ValidFlow::check(definition, &pieces(), &limits));
    if let Err(found) = &result {
        brief(found);
        assert!((1..=100).contains(&found.0.len()));
    }
    result
}

#[test]
fn deep_text_is_refused_before_it_is_read() {
    for bytes in
        ["[".repeat(500_000), format!("{}1{}", "[".repeat(500_000), "]".repeat(500_000)), r#"{"a":"#.repeat(100_000)]
    {
        let found = FlowDefinition::parse_slice(bytes.as_bytes(), &FlowLimits::default()).expect_err("too deep");
        assert_eq!(found.0.len(), 1);
    }
}

#[test]
fn text_that_is_no_json_gives_one_finding() {
    let texts: [&[u8]; 7] = [b"", b"{", b"{\"steps\": [}", b"\xff\xfe", b"{} {}", b"nul", b"{'steps': []}"];
    for bytes in texts {
        let found = FlowDefinition::parse_slice(bytes, &FlowLimits::default()).expect_err("no JSON");
        let [only] = brief(&found).try_into().expect("one finding");
        assert!(only.1.starts_with("json."), "{only:?}");
    }
}

#[test]
fn a_hundred_thousand_steps_give_one_finding_fast() {
    let steps: Vec<_> = (0..100_000).map(|_| json!({})).collect();
    let many = json!({ "triggers": [{ "type": "manual" }], "steps": steps });
    let valid_ones: Vec<_> = (0..20_000).map(|_| json!({ "type": "respond" })).collect();
    let start = Instant::now();
    assert!(brief(&try_all(&many).expect_err("too many")).len() <= 100);
    let found = try_all(&flow(json!(valid_ones))).expect_err("too many");
    assert_eq!(brief(&found), [("/steps/100".to_owned(), "flow.steps.limit")]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn lists_of_forty_thousand_are_refused_fast() {
    let start = Instant::now();
    let branches: Vec<_> = (0..40_000).map(|_| json!({ "steps": [] })).collect();
    let names: Vec<_> = (0..40_000).map(|n| format!("p{n}")).collect();
    for (word, settings, member) in [
        ("parallel", json!({ "branches": branches }), "branches"),
        ("router", json!({ "branches": branches }), "branches"),
        ("wait", json!({ "mode": "barrier", "parties": names }), "parties"),
    ] {
        let found = brief(&try_all(&one(word, settings)).expect_err("too many"));
        assert_eq!(found, [(format!("/steps/0/settings/{member}"), "option.range")]);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn scattered_settings_are_read_as_deep_as_steps_nest() {
    let mut action = json!({ "type": "respond", "body": "x".repeat(100_000) });
    for _ in 0..9 {
        action = json!({ "type": "queue.process", "queueName": "q", "action": action });
    }
    let source = one("queue.process", json!({ "queueName": "q", "action": action }));
    assert_eq!(brief(&try_all(&source).expect_err("too deep"))[0].1, "flow.nesting.limit");
}

#[test]
fn findings_stay_small_under_huge_names() {
    let huge = "n".repeat(300_000);
    let mut object = Map::new();
    object.insert(huge.clone(), json!((0..500).map(|_| "{{").collect::<Vec<_>>()));
    let sources = [
        json!({ huge.clone(): 1, "triggers": [{ huge.clone(): 1, "type": huge.clone() }], "steps": [{ "name": huge.clone() }] }),
        one(&huge, json!({})),
        one("http", Value::Object(object)),
        one(
            "queue.process",
            json!({ "queueName": huge.clone(), "mode": huge.clone(), "action": { "type": "respond", huge.clone(): 1 } }),
        ),
        one(
            "router",
            json!({ "mode": huge.clone(), "branches": [{ "name": huge.clone(), "condition": true, "steps": [] }] }),
        ),
        one("wait", json!({ "mode": "barrier", "parties": [huge.clone()] })),
        one("respond", json!({ "body": format!("{{{{$wait.{huge}.token}}}}") })),
        json!({ "triggers": [{ "type": format!("http.{huge}") }], "steps": [] }),
        one("respond", json!({ "body": format!("{{{{steps.{huge}.output}}}}") })),
        one("respond", json!({ "body": format!("{{{{{huge}}}}}") })),
    ];
    for source in sources {
        let found = try_all(&source).expect_err("is refused");
        let bytes = serde_json::to_vec(&found).expect("writes").len();
        assert!(bytes < 200_000, "{bytes}");
    }
}

#[test]
fn many_expressions_are_refused_fast() {
    let leaves: Vec<_> = (0..50_000).map(|_| "{{a(b)}}").collect();
    let start = Instant::now();
    let found = try_all(&one("respond", json!({ "body": leaves }))).expect_err("expressions");
    assert!(found.0.iter().all(|finding| finding.rule.starts_with("template.")), "{found}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn members_given_twice_are_refused() {
    let text = br#"{"triggers": [], "triggers": [{"type": "manual"}], "steps": [{"type": "respond"}]}"#;
    let found = FlowDefinition::parse_slice(text, &FlowLimits::default()).expect_err("ambiguous");
    assert_eq!(brief(&found), [("/triggers".to_owned(), "json.duplicate")]);
}

/// JSON made of the words a flow is made of.
fn any_json() -> impl Strategy<Value = Value> {
    let word = select(WORDS.to_vec()).prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        let key = prop_oneof![4 => word.clone(), 1 => ".{0,6}"];
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((key, inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A step of any kind that parses, `depth` levels of nesting left.
fn any_step(depth: u32) -> BoxedStrategy<Value> {
    let text = select(vec!["plain", "{{trigger.body.x}}", "a {{$now}} b", "{{connections.api.url}}"]);
    let leaf = prop_oneof![
        Just(json!({ "type": "code", "settings": { "sourceCode": { "code": "x" } } })),
        text.clone().prop_map(|text| json!({ "type": "respond", "settings": { "body": { "a": text } } })),
        text.clone().prop_map(|text| json!({ "type": "fail", "settings": { "message": text } })),
        text.clone().prop_map(|text| json!({ "type": "http", "settings": { "url": text, "timeout": 5 } })),
        (0..2_592_000_000_u64).prop_map(|time| json!({ "type": "delay", "settings": { "delayMs": time } })),
        text.clone()
            .prop_map(|text| json!({ "type": "queue.enqueue", "settings": { "queueName": "q", "data": [text] } })),
        text.prop_map(|text| json!({ "type": "subflow", "settings": { "flow": "{{trigger.flow}}", "payload": text } })),
        (1..4_usize, any::<bool>()).prop_map(|(count, approval)| {
            let names: Vec<_> = (0..count).map(|n| format!("p{n}")).collect();
            let (mode, member) = if approval { ("approval", "approvers") } else { ("barrier", "parties") };
            json!({ "type": "wait", "settings": { "mode": mode, member: names, "required": count } })
        }),
        Just(json!({ "type": "wait", "settings": { "mode": "webhook" } })),
    ];
    let options = |strategy: BoxedStrategy<Value>| {
        (strategy, any::<bool>(), proptest::option::of("[a-z]{3}_[0-9]{1,3}")).prop_map(|(mut step, skip, name)| {
            step["skip"] = skip.into();
            if let Some(name) = name {
                step["name"] = name.into();
            }
            step
        })
    };
    if depth == 0 {
        return options(leaf.boxed()).boxed();
    }
    let inner = vec(any_step(depth - 1), 0..3);
    let nested = prop_oneof![
        inner
            .clone()
            .prop_map(|steps| json!({ "type": "loop", "settings": { "items": [1, "{{trigger}}"], "steps": steps } })),
        (inner.clone(), inner.clone()).prop_map(|(yes, no)| {
            json!({ "type": "branch", "settings": { "condition": "{{trigger.a}}", "ifTrue": yes, "ifFalse": no } })
        }),
        (inner.clone(), inner.clone(), any::<bool>()).prop_map(|(first, rest, theirs)| {
            let settings = if theirs {
                json!({ "executionType": "EXECUTE_ALL_MATCH", "branches": [
                    { "branchName": "a", "conditions": "{{trigger.a}}", "steps": first },
                    { "branchType": "FALLBACK", "steps": rest } ] })
            } else {
                json!({ "branches": [{ "condition": "{{trigger.a}}", "steps": first }], "fallback": rest })
            };
            json!({ "type": "router", "settings": settings })
        }),
        vec(inner.clone(), 1..4).prop_map(|lists| {
            let branches: Vec<_> = lists.into_iter().map(|steps| json!({ "steps": steps })).collect();
            json!({ "type": "parallel", "settings": { "branches": branches, "maxConcurrency": 2 } })
        }),
        inner
            .clone()
            .prop_map(|steps| json!({ "type": "queue.process", "settings": { "queueName": "q", "steps": steps } })),
        any_step(depth - 1).prop_map(|step| {
            json!({ "type": "queue.process", "settings": { "queueName": "q", "action": scatter(step) } })
        }),
        inner.prop_map(|steps| json!({ "type": "http", "settings": { "url": "x" }, "onError": { "steps": steps } })),
    ];
    options(prop_oneof![3 => leaf, 1 => nested].boxed()).boxed()
}

/// The step with its settings beside its type.
fn scatter(mut step: Value) -> Value {
    let settings = step.as_object_mut().and_then(|step| step.remove("settings"));
    if let (Some(step), Some(Value::Object(settings))) = (step.as_object_mut(), settings) {
        step.extend(settings);
    }
    step
}

fn any_flow() -> impl Strategy<Value = Value> {
    vec(any_step(2), 0..6).prop_map(|steps| flow(json!(steps)))
}

/// Replaces, removes or renames the member that `choice` picks among all of the value.
fn mutate(value: &mut Value, choice: &mut usize, with: &Value, how: u8) -> bool {
    if *choice == 0 {
        *value = with.clone();
        return true;
    }
    *choice -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| mutate(item, choice, with, how)),
        Value::Object(members) => {
            if *choice == 0 && how > 0 {
                if let Some(name) = members.keys().next().cloned() {
                    let old = members.remove(&name).unwrap_or_default();
                    if how > 1 {
                        members.insert(format!("{name}x"), old);
                    }
                }
                return true;
            }
            members.values_mut().any(|member| mutate(member, choice, with, how))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_json_is_a_flow_or_told_why_not(source in any_json()) {
        let _ = try_all(&source);
    }

    #[test]
    fn any_json_in_any_place_is_told(part in any_json(), place in 0_usize..16) {
        let source = match place {
            0 => flow(part),
            1 => flow(json!([part])),
            2 => json!({ "triggers": [part], "steps": [] }),
            3 => one("loop", part),
            4 => one("branch", part),
            5..13 => one(CONTROL_WORDS[place - 5], part),
            13 => one("queue.process", json!({ "queueName": "q", "action": part })),
            14 => {
                let mut source = flow(json!([]));
                for name in ["concurrency", "throttle", "rateLimit", "debounce", "priority", "subject"] {
                    source[name] = part.clone();
                }
                source
            }
            _ => json!({ "triggers": [{ "type": "webhook", "settings": part }], "steps": [] }),
        };
        let _ = try_all(&source);
    }

    #[test]
    fn any_bytes_are_a_flow_or_told_why_not(bytes in vec(any::<u8>(), 0..200)) {
        let _ = FlowDefinition::parse_slice(&bytes, &FlowLimits::default());
    }

    #[test]
    fn mutations_of_a_flow_never_panic(source in any_flow(), choice in 0_usize..80, with in any_json(), how in 0_u8..3) {
        let mut mutated = source;
        let mut choice = choice;
        mutate(&mut mutated, &mut choice, &with, how);
        let _ = try_all(&mutated);
    }

    #[test]
    fn flows_come_back_unchanged(source in any_flow()) {
        let limits = FlowLimits::default();
        let from_value = FlowDefinition::from_value(source.clone(), &limits);
        let text = serde_json::to_vec(&source).expect("writes");
        let from_text = FlowDefinition::parse_slice(&text, &limits);
        prop_assert_eq!(&from_value, &from_text);
        let definition = from_value.expect("parses");
        prop_assert_eq!(&**definition.source(), &source);
        let again = FlowDefinition::from_value((**definition.source()).clone(), &limits);
        prop_assert_eq!(Ok(definition), again);
    }

    #[test]
    fn every_step_is_found_by_its_name_and_is_the_same_as_itself(source in any_flow()) {
        if let Ok(flow) = try_all(&source) {
            let again = try_all(&source).expect("as before");
            let mut names = Vec::new();
            all_names(flow.steps(), &mut names);
            for name in names {
                prop_assert_eq!(flow.step(&name).map(|step| step.name.to_string()), Some(name.clone()));
                prop_assert!(flow.same_step(&again, &name));
            }
        }
    }

    #[test]
    fn no_step_is_lost(source in any_flow()) {
        let definition = FlowDefinition::from_value(source.clone(), &FlowLimits::default()).expect("parses");
        prop_assert_eq!(count(definition.steps()), serde_json::to_string(&source).expect("writes").matches("skip").count());
    }

    #[test]
    fn given_and_made_names_are_unique(source in any_flow()) {
        let definition = FlowDefinition::from_value(source, &FlowLimits::default()).expect("parses");
        let mut made = Vec::new();
        collect(definition.steps(), &mut made);
        made.sort();
        let mut unique = made.clone();
        unique.dedup();
        prop_assert_eq!(made, unique);
    }
}

fn count(steps: &[ap_core::flow::Step]) -> usize {
    steps.iter().map(|step| 1 + count(&step.children().cloned().collect::<Vec<_>>())).sum()
}

fn all_names(steps: &[ap_core::flow::Step], names: &mut Vec<String>) {
    for step in steps {
        names.push(step.name.to_string());
        step.lists().for_each(|list| all_names(list, names));
    }
}

/// Names of the form the parser makes.
fn collect(steps: &[ap_core::flow::Step], names: &mut Vec<String>) {
    for step in steps {
        if step.name.as_str().starts_with("step_") {
            names.push(step.name.to_string());
        }
        collect(&step.children().cloned().collect::<Vec<_>>(), names);
    }
}

#[test]
fn generated_flows_are_mostly_valid() {
    // Guards the generator: if little it makes passed, the properties above would hold for nothing.
    let mut runner = TestRunner::deterministic();
    let mut made = || any_flow().new_tree(&mut runner).expect("a flow").current();
    let passed = (0..100).filter(|_| try_all(&made()).is_ok()).count();
    assert!(passed >= 50, "{passed}");
    assert!(try_all(&flow(json!([code("a"), { "type": "http", "settings": { "url": "x", "timeout": 5 } }]))).is_ok());
}

const CONTROL_WORDS: [&str; 8] =
    ["delay", "parallel", "queue.enqueue", "queue.process", "router", "subflow", "wait", "respond"];

const WORDS: [&str; 70] = [
    "displayName",
    "triggers",
    "trigger",
    "steps",
    "name",
    "type",
    "settings",
    "webhook",
    "schedule",
    "manual",
    "code",
    "loop",
    "branch",
    "respond",
    "fail",
    "http",
    "http.request",
    "router",
    "items",
    "action",
    "condition",
    "ifTrue",
    "ifFalse",
    "sourceCode",
    "input",
    "message",
    "body",
    "status",
    "headers",
    "retry",
    "maxAttempts",
    "onError",
    "continue",
    "authentication",
    "HEADER",
    "headerName",
    "expectedValue",
    "{{trigger.body}}",
    "{{steps.a.output}}",
    "{{connections.a}}",
    "parallel",
    "subflow",
    "delay",
    "wait",
    "queue.enqueue",
    "queue.process",
    "queueName",
    "data",
    "maxConcurrent",
    "branches",
    "fallback",
    "branchType",
    "FALLBACK",
    "conditions",
    "mode",
    "approval",
    "approvers",
    "required",
    "delayMs",
    "until",
    "concurrency",
    "limit",
    "key",
    "debounce",
    "subject",
    "periodMs",
    "{{$wait.a.token}}",
    "http.changed",
    "pollIntervalMs",
    "cronExpression",
];
