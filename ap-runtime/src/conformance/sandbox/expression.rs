//! Expressions: values of variables, and nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, SandboxHarness, soon};
use crate::sandbox::CodeError;

/// An expression gives a value of a JSON type, computed from its variables.
pub async fn expressions_give_typed_values(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let variables =
        json!({"item": {"price": 20, "tags": ["a", "b"]}, "$now": "2026-01-01", "name": "Ann", "steps": {}});
    let cases = [
        ("item.price * 2 + 2", json!(42)),
        ("item.tags.map((tag) => tag.toUpperCase()).join('-')", json!("A-B")),
        ("({ a: 1, b: [name] })", json!({"a": 1, "b": ["Ann"]})),
        ("{ a: 1 }", json!({"a": 1})),
        ("name ? 'yes' : 'no' // certain", json!("yes")),
        ("item.missing?.deep ?? null", Value::Null),
        ("`${name} at ${$now}`", json!("Ann at 2026-01-01")),
        ("[1, 2, 3].includes(2) && !false", json!(true)),
        ("0 / 0", Value::Null),
        ("'\\ud800'", json!("\u{fffd}")),
        ("new Date(0).toISOString()", json!("1970-01-01T00:00:00.000Z")),
        ("/^a+$/.test('aaa')", json!(true)),
        ("(() => { let sum = 0; for (const n of [1, 2, 3]) sum += n; return sum; })()", json!(6)),
        ("typeof steps", json!("object")),
        ("typeof nowhere", json!("undefined")),
    ];
    let results = bench.evaluate(&cases.clone().map(|(text, _)| text), &variables).await;
    for ((text, expected), result) in cases.into_iter().zip(results) {
        assert_eq!(result, Ok(expected), "{text}");
    }
    assert_eq!(bench.evaluate(&[], &variables).await, []);
}

/// `undefined`, a function and a symbol are no values of an expression, and none of them is `null`.
pub async fn an_expression_without_a_value_says_so(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let variables = json!({"item": {"id": 1}, "nothing": null});
    for text in
        ["undefined", "item.missing", "() => 1", "class {}", "Symbol('s')", "void 0", "[].pop()", "({ toJSON() {} })"]
    {
        assert_eq!(bench.evaluate(&[text], &variables).await, [Err(CodeError::NoValue)], "{text}");
    }
    assert_eq!(bench.evaluate(&["nothing", "null"], &variables).await, [Ok(Value::Null), Ok(Value::Null)]);
}

/// Each expression has its own end; those before and after it have theirs.
pub async fn each_expression_ends_for_itself(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let cases = [
        ("1", "1"),
        ("missing", "ReferenceError"),
        ("undefined", "no value"),
        ("10n", "TypeError"),
        ("1 +", "invalid"),
        ("null.x", "TypeError"),
        ("(() => { throw new RangeError('mine') })()", "RangeError"),
        ("const x = 1", "invalid"),
        ("({ get a() { throw new TypeError('mine') } })", "TypeError"),
        ("JSON.parse('{')", "SyntaxError"),
        ("2", "2"),
    ];
    let results = bench.evaluate(&cases.map(|(text, _)| text), &json!({})).await;
    for ((text, expected), result) in cases.iter().zip(results) {
        let found = match result {
            Ok(value) => value.to_string(),
            Err(CodeError::Thrown { name, .. }) => name,
            Err(CodeError::NoValue) => "no value".to_owned(),
            Err(CodeError::InvalidSource { .. }) => "invalid".to_owned(),
            Err(other) => format!("{other:?}"),
        };
        assert_eq!(found, *expected, "{text}");
    }
}

/// What an expression does to its variables stays its own; a name that is none cannot be assigned.
pub async fn each_expression_has_variables_of_its_own(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let texts = ["list.push(2) && list", "list", "(list = 5)", "list", "x = 1", "typeof x", "JSON"];
    let results = bench.evaluate(&texts, &json!({"list": [1], "JSON": "mine"})).await;
    assert_eq!((&results[0], &results[1], &results[3]), (&Ok(json!([1, 2])), &Ok(json!([1])), &Ok(json!([1]))));
    assert!(matches!(&results[4], Err(CodeError::Thrown { name, .. }) if name == "ReferenceError"), "{:?}", results[4]);
    assert_eq!((&results[5], &results[6]), (&Ok(json!("undefined")), &Ok(json!("mine"))));
}

/// The next request, of the same project too, finds the world as it was.
pub async fn what_is_evaluated_leaves_nothing_behind(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let spoil = [
        "(Object.prototype.polluted = 1, globalThis.left = 1)",
        "(Array.prototype.map = () => 'spoiled', 1)",
        "(Math.random = () => 4, JSON.stringify = null, 1)",
    ];
    for _ in 0..3 {
        bench.evaluate(&spoil, &json!({})).await;
        let look = ["typeof left", "({}).polluted ?? 'clean'", "[1].map((x) => x + 1)", "Math.random() === 4"];
        let clean = [json!("undefined"), json!("clean"), json!([2]), json!(false)].map(Ok);
        assert_eq!(bench.evaluate(&look, &json!({})).await, clean);
        assert_eq!(bench.value("return [typeof left, ({}).polluted ?? 'clean'];").await, json!(["undefined", "clean"]));
    }
}

/// An expression reaches no host, waits for nothing and logs nothing.
pub async fn expressions_have_no_host(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    // A promise is an object without members of its own.
    let allowed = |result: &Result<Value, CodeError>| match result {
        Ok(value) => value == &json!({}) || value == &json!("nothing"),
        Err(error) => matches!(error, CodeError::Thrown { .. } | CodeError::NoValue | CodeError::InvalidSource { .. }),
    };
    for text in [
        "fetch('https://a.example')",
        "import('fs')",
        "require('fs').readFileSync('/etc/hostname')",
        "await 1",
        "new Promise(() => {})",
        "setTimeout(() => 1, 1) && 'nothing'",
        "process.binding('fs')",
        "Deno.readTextFileSync('/etc/hostname')",
        "new WebSocket('ws://a.example')",
        "item.constructor.constructor('return process')().mainModule.require('fs')",
    ] {
        let results = bench.evaluate(&[text], &json!({"item": {}})).await;
        assert!(allowed(&results[0]), "{text}: {results:?}");
    }
    bench.still_works("expressions that looked for a host").await;
}

/// All expressions of a request share its limits; the next request has its own.
pub async fn expressions_share_their_limits(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let limit = Duration::from_millis(100);
    let mut request = bench.expressions(&["1", "(() => { for (;;); })()", "2"], &json!({}));
    request.limits = request.limits.with_cpu_time(limit).expect("an accepted limit");
    let results = soon(bench.sandbox.evaluate(request)).await.expect("results");
    assert_eq!(results[0], Ok(json!(1)));
    assert_eq!(results[1..], [Err(CodeError::CpuTime { limit }), Err(CodeError::CpuTime { limit })]);

    let limit_bytes = 64;
    let mut request = bench.expressions(&["'x'.repeat(62)", "'x'.repeat(63)", "'x'.repeat(10)"], &json!({}));
    request.limits = request.limits.with_output_bytes(limit_bytes).expect("an accepted limit");
    let results = soon(bench.sandbox.evaluate(request)).await.expect("results");
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert_eq!(results[1], Err(CodeError::OutputTooLarge { limit_bytes }));

    let limit_bytes = 16;
    let mut request = bench.expressions(&["1234567890123456", "12345678901234567"], &json!({}));
    request.limits = request.limits.with_source_bytes(limit_bytes).expect("an accepted limit");
    let results = soon(bench.sandbox.evaluate(request)).await.expect("results");
    assert!(results[0].is_ok(), "{results:?}");
    assert_eq!(results[1], Err(CodeError::SourceTooLarge { limit_bytes }));

    let limit_bytes = 16 << 20;
    let mut request = bench.expressions(
        &["Array(1e9).fill(0).length", "(() => { const all = []; for (;;) all.push(new Uint8Array(1 << 20)); })()"],
        &json!({}),
    );
    request.limits = request.limits.with_memory_bytes(limit_bytes).expect("an accepted limit");
    let results = soon(bench.sandbox.evaluate(request)).await.expect("results");
    assert_eq!(results, [Err(CodeError::MemoryLimit { limit_bytes }), Err(CodeError::MemoryLimit { limit_bytes })]);
    assert_eq!(bench.evaluate(&["1"], &json!({})).await, [Ok(json!(1))]);
}

/// Variables are a JSON object, or the caller is told; no expression is evaluated without them.
pub async fn variables_must_be_json(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for variables in ["", "[", "{'a':1}", "undefined"] {
        let mut request = bench.expressions(&["1", "2"], &json!({}));
        request.variables = variables.into();
        let refused = match soon(bench.sandbox.evaluate(request)).await {
            Ok(results) => {
                results.len() == 2 && results.iter().all(|one| matches!(one, Err(CodeError::InvalidParams { .. })))
            }
            Err(error) => matches!(error, CodeError::InvalidParams { .. }),
        };
        assert!(refused, "{variables}");
    }
}
