//! Queues: the guide's form, its equals, and mistakes.

use std::time::Duration;

use ap_core::flow::{OnError, ProcessStep, StepKind};
use serde_json::{Value, json};

use super::{at, check, check_errors, code, flow, one, parse, parse_errors, reads, valid};

fn process(settings: Value) -> ProcessStep {
    match parse(&one("queue.process", settings)).steps()[0].kind.clone() {
        StepKind::Process(process) => process,
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_stand_beside_or_in_settings() {
    let numbers = json!({ "maxConcurrent": 5, "delayBetweenJobs": 1000, "maxRetries": 3 });
    let inside = process(json!({ "queueName": "api", "mode": "FIFO", "settings": numbers, "steps": [] }));
    let mut beside = numbers;
    beside["queueName"] = "api".into();
    beside["steps"] = json!([]);
    assert_eq!(process(beside), inside);
    assert_eq!((inside.max_concurrent, inside.delay_between_jobs, inside.max_retries), (5, Duration::from_secs(1), 3));
    let plain = process(json!({ "queueName": "api", "steps": [] }));
    assert_eq!((plain.max_concurrent, plain.delay_between_jobs, plain.max_retries), (1, Duration::ZERO, 0));
}

#[test]
fn actions_have_their_settings_apart_or_beside_the_type() {
    let beside = process(json!({ "queueName": "q", "action": { "name": "call", "displayName": "Call", "type": "http",
        "url": "{{item.url}}", "timeout": 5, "retry": { "maxAttempts": 2 }, "onError": { "steps": [code("h")] } } }));
    let apart = process(json!({ "queueName": "q", "action": { "name": "call", "displayName": "Call", "type": "http",
        "settings": { "url": "{{item.url}}" }, "timeout": 5, "retry": { "maxAttempts": 2 },
        "onError": { "steps": [code("h")] } } }));
    assert_eq!(beside, apart);
    let options = &beside.steps[0].options;
    assert_eq!((options.timeout, options.retry.max_attempts), (Some(Duration::from_millis(5)), 2));
    assert!(matches!(&options.on_error, OnError::Steps(steps) if steps.len() == 1));
    let StepKind::Piece(piece) = &beside.steps[0].kind else { panic!("a piece") };
    assert_eq!(piece.input.references().map(|read| read.pointer.as_str()).collect::<Vec<_>>(), ["/url"]);
}

#[test]
fn actions_of_every_kind_can_stand_so() {
    let script = json!({ "code": "x" });
    for action in [
        json!({ "type": "code", "sourceCode": script, "input": { "a": "{{item}}" } }),
        json!({ "type": "code", "settings": { "sourceCode": script, "input": { "a": "{{item}}" } } }),
        json!({ "type": "branch", "condition": "{{item.on}}", "ifTrue": [reads("a", "{{item}} {{index}}")] }),
        json!({ "type": "router", "branches": [{ "condition": "{{item.on}}", "steps": [reads("a", "{{item}}")] }] }),
        json!({ "type": "delay", "delayMs": "{{item.ms}}", "skip": true }),
        json!({ "type": "respond" }),
    ] {
        valid(&one("queue.process", json!({ "queueName": "q", "action": action })));
    }
}

#[test]
fn places_in_scattered_settings_are_right() {
    let job = |action: Value| one("queue.process", json!({ "queueName": "q", "action": action }));
    let typo = "{{steps.typo.output}}";
    let place = |member: &str, rule| at(&format!("/steps/0/settings/action{member}"), rule);
    let cases = [
        (json!({ "type": "http", "url": typo }), place("/url", "reference.step")),
        (json!({ "type": "http", "url": "x", "idempotencyKey": typo }), place("/idempotencyKey", "reference.step")),
        (json!({ "type": "http" }), place("", "property.required")),
        (json!({ "type": "http", "url": "x", "bdy": 1 }), place("/bdy", "property.unknown")),
        (
            json!({ "type": "code", "sourceCode": { "code": "x" }, "input": { "a": typo } }),
            place("/input/a", "reference.step"),
        ),
        (
            json!({ "type": "router", "branches": [{ "conditions": typo, "steps": [code("a")] }] }),
            place("/branches/0/conditions", "reference.step"),
        ),
    ];
    for (action, expected) in cases {
        assert_eq!(check_errors(&job(action)), [expected]);
    }
    let cases = [
        (json!({ "type": "http", "url": "{{trigger" }), place("/url", "template.unclosed")),
        (json!({ "type": "respond", "boddy": 1 }), place("/boddy", "member.unknown")),
        (json!({ "type": "fail" }), place("", "member.required")),
        (json!({ "type": "respond", "timeout": 5 }), place("/timeout", "option.inapplicable")),
        (json!({ "type": "http", "settings": { "url": "x" }, "method": "GET" }), place("/method", "member.unknown")),
        (json!({ "type": "queue.pull" }), place("/type", "step.type.invalid")),
        (json!({ "url": "x" }), place("", "member.required")),
        (json!("http"), place("", "member.type")),
    ];
    for (action, expected) in cases {
        assert_eq!(parse_errors(&job(action)), [expected]);
    }
}

#[test]
fn settings_are_scattered_nowhere_else() {
    let scattered = json!({ "type": "http", "url": "x" });
    assert_eq!(parse_errors(&flow(json!([scattered]))), [at("/steps/0/url", "member.unknown")]);
    let in_loop = one("loop", json!({ "items": [], "action": scattered }));
    assert_eq!(parse_errors(&in_loop), [at("/steps/0/settings/action/url", "member.unknown")]);
    let in_list = one("queue.process", json!({ "queueName": "q", "steps": [scattered] }));
    assert_eq!(parse_errors(&in_list), [at("/steps/0/settings/steps/0/url", "member.unknown")]);
}

#[test]
fn names_of_queues_are_visible_ascii() {
    let longest = "q".repeat(128);
    for accepted in ["q", "api-requests", "A/b:c", longest.as_str()] {
        valid(&one("queue.enqueue", json!({ "queueName": accepted, "data": [] })));
    }
    for refused in ["", "a b", "ä", "a\n", "{{trigger.queue}}", &format!("{longest}q")] {
        for (word, settings) in [
            ("queue.enqueue", json!({ "queueName": refused, "data": 1 })),
            ("queue.process", json!({ "queueName": refused, "steps": [] })),
        ] {
            assert_eq!(
                parse_errors(&one(word, settings)),
                [at("/steps/0/settings/queueName", "queue.name")],
                "{refused}"
            );
        }
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let cases = [
        ("queue.enqueue", json!({}), vec![at("", "member.required"); 2]),
        ("queue.enqueue", json!({ "queueName": 1, "data": 1 }), vec![at("/queueName", "member.type")]),
        ("queue.enqueue", json!({ "queueName": "q", "data": 1, "delay": 1 }), vec![at("/delay", "member.unknown")]),
        ("queue.enqueue", json!({ "queueName": "q", "data": "{{" }), vec![at("/data", "template.unclosed")]),
        ("queue.process", json!({ "queueName": "q" }), vec![at("", "member.required")]),
        ("queue.process", json!({ "queueName": "q", "steps": [], "mode": "LIFO" }), vec![at("/mode", "option.range")]),
        (
            "queue.process",
            json!({ "queueName": "q", "steps": [], "action": { "type": "respond" } }),
            vec![at("/steps", "member.conflict")],
        ),
        (
            "queue.process",
            json!({ "queueName": "q", "steps": [], "maxRetries": 1, "settings": { "maxRetries": 1 } }),
            vec![at("/settings/maxRetries", "member.conflict")],
        ),
        (
            "queue.process",
            json!({ "queueName": "q", "steps": [], "settings": { "maxConcurrent": 0 } }),
            vec![at("/settings/maxConcurrent", "option.range")],
        ),
        (
            "queue.process",
            json!({ "queueName": "q", "steps": [], "settings": { "max": 1 } }),
            vec![at("/settings/max", "member.unknown")],
        ),
    ];
    for (word, settings, expected) in cases {
        let expected: Vec<_> =
            expected.into_iter().map(|(place, rule)| (format!("/steps/0/settings{place}"), rule)).collect();
        assert_eq!(parse_errors(&one(word, settings)), expected);
    }
}

#[test]
fn queue_is_no_piece() {
    for (word, fix) in
        [("queue", "write one of"), ("queue.push", "write one of"), ("queue.proces", "did you mean `queue.process`?")]
    {
        let source = one(word, json!({}));
        assert_eq!(parse_errors(&source), [at("/steps/0/type", "step.type.invalid")]);
        let found = ap_core::flow::FlowDefinition::from_value(source, &ap_core::flow::FlowLimits::default())
            .expect_err("refused");
        assert!(found.0[0].fix.starts_with(fix), "{found}");
    }
}

#[test]
fn jobs_are_items() {
    let before = code("before");
    let work = json!({ "name": "work", "type": "queue.process", "settings": { "queueName": "q",
        "steps": [reads("in", "{{item.a}} {{index}} {{steps.before.output}}")] } });
    valid(&flow(json!([before, work])));
    let inside = one("queue.process", json!({ "queueName": "q", "steps": [reads("in", "{{steps.only.output}}")] }));
    assert_eq!(check_errors(&inside), [at("/steps/0/settings/steps/0/settings/body", "reference.inside")]);
    let after = flow(json!([work, reads("out", "{{steps.in.output}} {{item}}")]));
    assert!(check(&after).is_err_and(|found| found.0.len() == 3));
    assert_eq!(
        check_errors(&one("queue.enqueue", json!({ "queueName": "q", "data": "{{item}}" }))),
        [at("/steps/0/settings/data", "reference.loop")]
    );
}
