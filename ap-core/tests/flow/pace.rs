//! Flow control: what it takes, its ranges, and what it may read.

use std::time::Duration;

use ap_core::flow::FlowControl;
use serde_json::{Value, json};

use super::{at, check_errors, code, flow, parse, parse_errors, valid};

fn with(name: &str, value: Value) -> Value {
    let mut source = flow(json!([code("only")]));
    source[name] = value;
    source
}

#[test]
fn flow_control_is_read() {
    assert_eq!(parse(&flow(json!([]))).control(), &FlowControl::default());
    let mut source = flow(json!([code("only")]));
    source["concurrency"] = json!({ "limit": 1, "key": "{{trigger.body.customer}}" });
    source["throttle"] = json!({ "limit": 10, "periodMs": 60000 });
    source["rateLimit"] = json!({ "limit": 100, "periodMs": 1, "key": "all" });
    source["debounce"] = json!({ "delayMs": 5000, "maxWaitMs": 60000, "key": "a {{trigger.headers.x-id}}" });
    source["priority"] = json!(-7);
    source["subject"] = json!("{{trigger.body.customer}}");
    let flow = valid(&source);
    let control = flow.definition().control();
    let concurrency = control.concurrency.as_ref().expect("concurrency");
    assert_eq!(concurrency.limit, 1);
    assert!(concurrency.key.as_ref().is_some_and(|key| key.as_path().is_some()));
    let throttle = control.throttle.as_ref().expect("throttle");
    assert_eq!((throttle.limit, throttle.period, &throttle.key), (10, Duration::from_secs(60), &None));
    let rate = control.rate_limit.as_ref().expect("rate limit");
    assert_eq!((rate.limit, rate.period), (100, Duration::from_millis(1)));
    let debounce = control.debounce.as_ref().expect("debounce");
    assert_eq!((debounce.delay, debounce.max_wait), (Duration::from_secs(5), Duration::from_secs(60)));
    assert_eq!(control.priority, -7);
    assert!(control.subject.as_ref().is_some_and(|subject| subject.as_path().is_some()));
}

#[test]
fn the_longest_debounce_is_ten_delays_or_a_week() {
    for (delay, longest) in [(1_u64, 10), (5_000, 50_000), (60_480_000, 604_800_000), (86_400_000, 604_800_000)] {
        let definition = parse(&with("debounce", json!({ "delayMs": delay })));
        let debounce = definition.control().debounce.as_ref().expect("debounce");
        assert_eq!(debounce.max_wait, Duration::from_millis(longest));
    }
}

#[test]
fn ranges_hold() {
    type Case<'a> = (&'a str, &'a dyn Fn(Value) -> Value, &'a str, i64, i64);
    let cases: [Case<'_>; 9] = [
        ("concurrency", &|value| json!({ "limit": value }), "/limit", 1, 10_000),
        ("throttle", &|value| json!({ "limit": value, "periodMs": 1 }), "/limit", 1, 1_000_000),
        ("throttle", &|value| json!({ "limit": 1, "periodMs": value }), "/periodMs", 1, 86_400_000),
        ("rateLimit", &|value| json!({ "limit": value, "periodMs": 1 }), "/limit", 1, 1_000_000),
        ("rateLimit", &|value| json!({ "limit": 1, "periodMs": value }), "/periodMs", 1, 86_400_000),
        ("debounce", &|value| json!({ "delayMs": value }), "/delayMs", 1, 86_400_000),
        ("debounce", &|value| json!({ "delayMs": 5, "maxWaitMs": value }), "/maxWaitMs", 5, 604_800_000),
        (
            "debounce",
            &|value| json!({ "delayMs": 86_400_000, "maxWaitMs": value }),
            "/maxWaitMs",
            86_400_000,
            604_800_000,
        ),
        ("priority", &|value| value, "", -100, 100),
    ];
    for (name, make, member, min, max) in cases {
        for accepted in [min, min + 1, max - 1, max] {
            valid(&with(name, make(accepted.into())));
        }
        for refused in [json!(min - 1), json!(max + 1), json!(0.5), json!(1e300), json!(-1_000_000)] {
            let found = parse_errors(&with(name, make(refused.clone())));
            assert_eq!(found, [(format!("/{name}{member}"), "option.range")], "{name} {refused}");
        }
        let found = parse_errors(&with(name, make(json!("5"))));
        assert_eq!(found, [(format!("/{name}{member}"), "member.type")]);
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let cases = [
        ("concurrency", json!(5), "", "member.type"),
        ("concurrency", json!({}), "", "member.required"),
        ("concurrency", json!({ "limit": 1, "periodMs": 1 }), "/periodMs", "member.unknown"),
        ("concurrency", json!({ "limit": 1, "key": 5 }), "/key", "member.type"),
        ("throttle", json!({ "limit": 1 }), "", "member.required"),
        ("rateLimit", json!({ "periodMs": 1 }), "", "member.required"),
        ("rateLimit", json!({ "limit": 1, "periodMs": 1, "key": "{{trigger" }), "/key", "template.unclosed"),
        ("debounce", json!({ "maxWaitMs": 5 }), "", "member.required"),
        ("priority", json!("high"), "", "member.type"),
        ("debounc", json!({ "delayMs": 5 }), "", "member.unknown"),
    ];
    for (name, value, member, rule) in cases {
        assert_eq!(parse_errors(&with(name, value)), [(format!("/{name}{member}"), rule)]);
    }
}

#[test]
fn keys_read_the_trigger_only() {
    let controls = [
        ("concurrency", json!({ "limit": 1 })),
        ("throttle", json!({ "limit": 1, "periodMs": 1 })),
        ("rateLimit", json!({ "limit": 1, "periodMs": 1 })),
        ("debounce", json!({ "delayMs": 1 })),
    ];
    for (name, control) in controls {
        for refused in
            ["{{steps.only.output}}", "{{connections.a}}", "{{$now}}", "{{$run.id}}", "{{item}}", "{{nonsense}}"]
        {
            let mut control = control.clone();
            control["key"] = refused.into();
            let place = at(&format!("/{name}/key"), "reference.control");
            assert_eq!(check_errors(&with(name, control)), [place], "{refused}");
        }
        let mut control = control;
        control["key"] = "{{trigger.body.a ?? 'x'}}-{{trigger.headers.b}}".into();
        valid(&with(name, control));
    }
}

#[test]
fn a_data_subject_is_text_that_reads_the_trigger_only() {
    for other in [json!(5), json!({ "of": "x" }), json!(null)] {
        assert_eq!(parse_errors(&with("subject", other)), [at("/subject", "member.type")]);
    }
    let other = with("subject", json!("{{steps.only.output}}"));
    assert_eq!(check_errors(&other), [at("/subject", "reference.control")]);
    assert!(parse(&with("subject", json!("everybody"))).control().subject.is_some());
}
