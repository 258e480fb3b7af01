//! Options of steps in every spelling, and their ranges.

use std::time::Duration;

use ap_core::flow::{IdempotencyKey, OnError, RetryPolicy, StepOptions};
use serde_json::{Value, json};

use super::{at, code, flow, parse, parse_errors, valid};

fn with(options: Value) -> Value {
    let mut step = json!({ "name": "only", "type": "http", "settings": { "url": "https://example.com" } });
    step.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
    flow(json!([step]))
}

fn options(given: Value) -> StepOptions {
    parse(&with(given)).steps()[0].options.clone()
}

fn retry(given: Value) -> RetryPolicy {
    options(given).retry
}

#[test]
fn defaults_are_the_documented_ones() {
    let plain = options(json!({}));
    assert_eq!(plain.on_error, OnError::Fail);
    assert_eq!(plain.retry, RetryPolicy::default());
    assert_eq!((plain.skip, plain.timeout, plain.idempotency_key), (false, None, None));
}

#[test]
fn every_spelling_of_retry_gives_the_same_policy() {
    let full = json!({ "retry": { "maxAttempts": 4,
        "backoff": { "type": "exponential", "initialMs": 4000, "multiplier": 2, "maxMs": 300_000 } } });
    let expected = RetryPolicy {
        max_attempts: 4,
        initial_delay: Duration::from_secs(4),
        multiplier: 2.0,
        max_delay: Duration::from_secs(300),
    };
    assert_eq!(retry(full), expected);
    assert_eq!(retry(json!({ "retry": { "maxAttempts": 4, "backoff": { "initialDelay": 4000 } } })), expected);
    assert_eq!(retry(json!({ "failureHandling": { "retries": 3, "retryDelay": 4000 } })), expected);
    assert_eq!(retry(json!({ "errorHandlingOptions": { "retryOnFailure": { "value": true } } })), expected);
    assert_eq!(
        retry(json!({ "settings": { "retry": { "maxAttempts": 4, "backoff": { "initialMs": 4000 } } } })),
        expected
    );
    let fixed = retry(json!({ "retry": { "maxAttempts": 2, "backoff": { "type": "fixed", "initialMs": 10 } } }));
    assert_eq!((fixed.multiplier, fixed.initial_delay), (1.0, Duration::from_millis(10)));
}

#[test]
fn every_spelling_of_going_on_is_understood() {
    for given in [
        json!({ "onError": "continue" }),
        json!({ "onError": { "continue": true } }),
        json!({ "errorHandlingOptions": { "continueOnFailure": { "value": true } } }),
        json!({ "errorHandlingOptions": { "continueOnFailure": true, "retryOnFailure": {} } }),
    ] {
        assert_eq!(options(given).on_error, OnError::Continue);
    }
    for given in [
        json!({ "onError": "fail" }),
        json!({ "onError": { "continue": false } }),
        json!({ "errorHandlingOptions": { "continueOnFailure": { "value": false } } }),
        json!({ "errorHandlingOptions": {} }),
    ] {
        assert_eq!(options(given).on_error, OnError::Fail);
    }
    let handlers = with(json!({ "onError": { "steps": [code("handler")] } }));
    let definition = parse(&handlers);
    let [handled] = definition.steps() else { panic!("one step") };
    assert!(matches!(&handled.options.on_error, OnError::Steps(steps) if steps.len() == 1));
    assert_eq!(handled.handler()[0].pointer, "/steps/0/onError/steps/0");
    valid(&handlers);
}

#[test]
fn keys_skip_and_timeout_are_read() {
    assert_eq!(options(json!({ "idempotencyKey": true })).idempotency_key, Some(IdempotencyKey::Stable));
    assert_eq!(options(json!({ "idempotencyKey": false })).idempotency_key, None);
    assert!(matches!(
        options(json!({ "idempotencyKey": "{{trigger.body.id}}" })).idempotency_key,
        Some(IdempotencyKey::Template(_))
    ));
    assert!(options(json!({ "skip": true })).skip);
    assert_eq!(options(json!({ "timeout": 1 })).timeout, Some(Duration::from_millis(1)));
}

/// Each range one below, at both ends, and one above.
#[test]
fn ranges_hold() {
    let key = |length: u64| Value::from("k".repeat(usize::try_from(length).expect("small")));
    let number = |value: u64| Value::from(value);
    type Make<'a> = &'a dyn Fn(Value) -> Value;
    type Case<'a> = (Make<'a>, &'a dyn Fn(u64) -> Value, u64, u64);
    let cases: [Case<'_>; 8] = [
        (&|value| json!({ "timeout": value }), &number, 1, 300_000),
        (&|value| json!({ "retry": { "maxAttempts": value } }), &number, 1, 20),
        (&|value| json!({ "retry": { "maxAttempts": 2, "backoff": { "initialMs": value } } }), &number, 0, 3_600_000),
        (&|value| json!({ "retry": { "maxAttempts": 2, "backoff": { "maxMs": value } } }), &number, 0, 86_400_000),
        (&|value| json!({ "retry": { "maxAttempts": 2, "backoff": { "multiplier": value } } }), &number, 1, 10),
        (&|value| json!({ "failureHandling": { "retries": value } }), &number, 0, 19),
        (&|value| json!({ "failureHandling": { "retries": 1, "retryDelay": value } }), &number, 0, 3_600_000),
        (&|value| json!({ "idempotencyKey": value }), &key, 1, 255),
    ];
    for (make, value, min, max) in cases {
        for accepted in [min, min + 1, max - 1, max] {
            parse(&with(make(value(accepted))));
        }
        let below = min.checked_sub(1).into_iter();
        for refused in below.chain([max + 1]) {
            let found = parse_errors(&with(make(value(refused))));
            assert!(matches!(found.as_slice(), [(_, "option.range")]), "{found:?} for {refused}");
        }
    }
    for refused in [json!(-1), json!(0.5), json!(1e300)] {
        assert_eq!(parse_errors(&with(json!({ "timeout": refused }))), [at("/steps/0/timeout", "option.range")]);
    }
}

#[test]
fn a_subflow_may_be_waited_for_as_long_as_a_wait() {
    let month = 30 * 86_400_000_u64;
    let source = |timeout: u64| {
        let step =
            json!({ "name": "sub", "type": "subflow", "settings": { "flow": "{{trigger.flow}}" }, "timeout": timeout });
        json!({ "triggers": [{ "type": "manual" }], "steps": [step] })
    };
    for accepted in [1, 300_001, month] {
        let flow = parse(&source(accepted));
        assert_eq!(flow.steps()[0].options.timeout, Some(Duration::from_millis(accepted)));
    }
    for refused in [0, month + 1] {
        assert_eq!(parse_errors(&source(refused)), [at("/steps/0/timeout", "option.range")]);
    }
}

#[test]
fn options_are_given_once() {
    let cases = [
        (json!({ "retry": { "maxAttempts": 1 }, "failureHandling": { "retries": 1 } }), "/steps/0/retry"),
        (
            json!({ "retry": { "maxAttempts": 1 }, "errorHandlingOptions": { "retryOnFailure": true } }),
            "/steps/0/retry",
        ),
        (json!({ "onError": "fail", "errorHandlingOptions": { "continueOnFailure": true } }), "/steps/0/onError"),
        (json!({ "timeout": 5, "settings": { "url": "x", "timeout": 5 } }), "/steps/0/timeout"),
        (json!({ "onError": { "continue": true, "steps": [] } }), "/steps/0/onError/steps"),
        (
            json!({ "retry": { "maxAttempts": 1, "backoff": { "initialMs": 1, "initialDelay": 1 } } }),
            "/steps/0/retry/backoff/initialDelay",
        ),
        (
            json!({ "retry": { "maxAttempts": 1, "backoff": { "type": "fixed", "multiplier": 2 } } }),
            "/steps/0/retry/backoff/multiplier",
        ),
    ];
    for (given, place) in cases {
        assert_eq!(parse_errors(&with(given)), [at(place, "option.conflict")]);
    }
}

#[test]
fn wrong_types_and_unknown_members_are_told() {
    let cases = [
        (json!({ "retry": 3 }), "/steps/0/retry", "member.type"),
        (json!({ "retry": {} }), "/steps/0/retry", "member.required"),
        (json!({ "retry": { "maxAttempts": "3" } }), "/steps/0/retry/maxAttempts", "member.type"),
        (json!({ "retry": { "maxAttempts": 3, "attempts": 3 } }), "/steps/0/retry/attempts", "member.unknown"),
        (
            json!({ "retry": { "maxAttempts": 3, "backoff": { "type": "linear" } } }),
            "/steps/0/retry/backoff/type",
            "option.range",
        ),
        (json!({ "failureHandling": {} }), "/steps/0/failureHandling", "member.required"),
        (json!({ "onError": "stop" }), "/steps/0/onError", "member.type"),
        (json!({ "onError": {} }), "/steps/0/onError", "member.required"),
        (json!({ "skip": "yes" }), "/steps/0/skip", "member.type"),
        (json!({ "idempotencyKey": 1 }), "/steps/0/idempotencyKey", "member.type"),
        (
            json!({ "errorHandlingOptions": { "continueOnFailure": { "val": true } } }),
            "/steps/0/errorHandlingOptions/continueOnFailure/val",
            "member.unknown",
        ),
    ];
    for (given, place, rule) in cases {
        assert_eq!(parse_errors(&with(given)), [at(place, rule)]);
    }
}

#[test]
fn options_without_a_meaning_are_refused() {
    let script = json!({ "sourceCode": { "code": "x" } });
    let cases = [
        (json!({ "type": "code", "settings": script, "idempotencyKey": true }), "/steps/0/idempotencyKey"),
        (
            json!({ "type": "loop", "settings": { "items": [], "steps": [], "timeout": 5 } }),
            "/steps/0/settings/timeout",
        ),
        (json!({ "type": "branch", "settings": { "condition": "{{trigger.x}}" }, "retry": {} }), "/steps/0/retry"),
        (json!({ "type": "respond", "timeout": 5 }), "/steps/0/timeout"),
        (json!({ "type": "fail", "settings": { "message": "x" }, "onError": "continue" }), "/steps/0/onError"),
    ];
    for (step, place) in cases {
        assert_eq!(parse_errors(&flow(json!([step]))), [at(place, "option.inapplicable")]);
    }
}
