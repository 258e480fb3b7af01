use std::collections::BTreeSet;

use ap_core::time::Timestamp;
use ap_runtime::sandbox::{CodeError, CodeSandbox as _, ConsoleLevel, ConsoleLine};
use serde_json::{Value, json};

use super::{NOW, SANDBOX, request, run, run_body, step, thrown};

/// The two code steps of the guide's secure API integration (§7.1).
const VALIDATE_INPUT: &str = "export const code = async (params) => {\n  const { body } = params.request;\n  \n  // Input validation\n  if (!body || typeof body !== 'object') {\n    throw new Error('Invalid request body');\n  }\n  \n  // Sanitize input\n  const sanitized = {\n    email: String(body.email).trim().toLowerCase(),\n    name: String(body.name).trim(),\n    timestamp: new Date().toISOString()\n  };\n  \n  // Validate email format\n  const emailRegex = /^[^\\s@]+@[^\\s@]+\\.[^\\s@]+$/;\n  if (!emailRegex.test(sanitized.email)) {\n    throw new Error('Invalid email format');\n  }\n  \n  return sanitized;\n};";
const LOG_SUCCESS: &str = "export const code = async (params) => {\n  const { input, response } = params;\n  \n  // Log with masked sensitive data\n  const logEntry = {\n    timestamp: new Date().toISOString(),\n    email: input.email.replace(/(.{2})(.*)(@.*)/, '$1***$3'),\n    status: response.status,\n    success: true\n  };\n  \n  console.log('API call successful:', logEntry);\n  return logEntry;\n};";

#[tokio::test]
async fn the_guides_validation_step_runs_as_written() {
    let params = r#"{"request":{"body":{"email":"  Ada@Example.ORG ","name":" Ada "}}}"#;
    let output = SANDBOX.run(request(VALIDATE_INPUT, params)).await.unwrap();
    let expected = json!({"email": "ada@example.org", "name": "Ada", "timestamp": "2026-01-01T00:00:00.123Z"});
    assert_eq!(output.value, expected);

    for (body, message) in [("null", "Invalid request body"), (r#"{"email":"a@b"}"#, "Invalid email format")] {
        let result = SANDBOX.run(request(VALIDATE_INPUT, &format!(r#"{{"request":{{"body":{body}}}}}"#))).await;
        assert_eq!(thrown(result).1, message);
    }
}

#[tokio::test]
async fn the_guides_logging_step_runs_as_written() {
    let params = r#"{"input":{"email":"ada@example.org"},"response":{"status":201}}"#;
    let output = SANDBOX.run(request(LOG_SUCCESS, params)).await.unwrap();
    let entry = r#"{"timestamp":"2026-01-01T00:00:00.123Z","email":"ad***@example.org","status":201,"success":true}"#;
    assert_eq!(output.value, serde_json::from_str::<Value>(entry).unwrap());
    let shown = "{\n  timestamp: '2026-01-01T00:00:00.123Z',\n  email: 'ad***@example.org',\n  status: 201,\n  success: true\n}";
    let line = ConsoleLine { level: ConsoleLevel::Log, text: format!("API call successful: {shown}") };
    assert_eq!(output.console, [line]);
    assert!(!output.console_truncated);
}

#[tokio::test]
async fn every_json_value_comes_back_as_it_was() {
    let params = json!({
        "text": "äöü \u{1f600} \u{0} \" \\ \u{2028}",
        "numbers": [0, -1, 1.5, 9_007_199_254_740_991_i64, 1e300, 5e-324],
        "nested": {"a": [{"b": null}], "": true, "__proto__": {"x": 1}, "length": 3}
    });
    let output = SANDBOX.run(request(&step("return params;"), &params.to_string())).await.unwrap();
    assert_eq!(output.value, params);
}

#[tokio::test]
async fn results_follow_json_stringify() {
    let cases = [
        ("", json!(null)),
        ("return undefined;", json!(null)),
        ("return () => 1;", json!(null)),
        ("return [undefined, NaN, -0, new Date(0)];", json!([null, null, 0, "1970-01-01T00:00:00.000Z"])),
        ("return { toJSON() { return 'own'; } };", json!("own")),
        ("return '\\ud800x';", json!("\u{fffd}x")),
        ("return { '\\udc00': '\\ud83d\\ude00' };", json!({"\u{fffd}": "\u{1f600}"})),
        ("return [1e21, 2 ** 53, 5e-324, 1e999];", json!([1e21, 9_007_199_254_740_992_i64, 5e-324, null])),
        ("return typeof JSON.rawJSON;", json!("undefined")),
        ("return { then(done) { done('from a thenable'); } };", json!("from a thenable")),
        ("return await Promise.all([1, Promise.resolve(2)]);", json!([1, 2])),
    ];
    for (body, expected) in cases {
        assert_eq!(run_body(body).await.unwrap().value, expected, "{body}");
    }
}

#[tokio::test]
async fn the_step_may_be_any_exported_function() {
    for source in [
        "export const code = () => 'here';",
        "export function code() { return 'here'; }",
        "export default () => 'here';",
        "const f = async () => 'here'; export { f as code };",
        "const where = await Promise.resolve('here'); export default () => where;",
        "export default () => 'no'; export const code = () => 'here';",
    ] {
        assert_eq!(run(source).await.unwrap().value, "here", "{source}");
    }
    for source in ["", "export const code = 1;", "const code = () => 1;"] {
        let error = run(source).await.unwrap_err();
        assert!(
            matches!(&error, CodeError::InvalidSource { message, place: None } if message.contains("`code`")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_thrown_error_says_what_and_where() {
    let source = "export const code = () => {\n  const broken = null;\n  return inner(broken);\n};\nfunction inner(value) {\n  return value.field;\n}";
    let (name, message, stack) = thrown(run(source).await);
    assert_eq!((name.as_str(), message.as_str()), ("TypeError", "cannot read property 'field' of null"));
    let frames: Vec<_> = stack.lines().map(str::trim).collect();
    assert!(frames.first().is_some_and(|frame| frame.starts_with("at inner (step.mjs:6:")), "{stack}");
    assert!(frames.get(1).is_some_and(|frame| frame.starts_with("at code (step.mjs:3:")), "{stack}");
}

#[tokio::test]
async fn anything_can_be_thrown() {
    let cases = [
        ("throw new RangeError('far')", "RangeError", "far"),
        ("throw 'text'", "Error", "text"),
        ("throw { name: 'Custom', message: 7 }", "Custom", "7"),
        ("throw undefined", "Error", "undefined"),
        ("throw Symbol('s')", "Error", ""),
        ("throw { get name() { throw 1 }, get message() { throw 2 } }", "Error", ""),
        ("return { toJSON() { throw new Error('in toJSON') } }", "Error", "in toJSON"),
        ("await Promise.reject(new Error('rejected'))", "Error", "rejected"),
        ("return 10n", "TypeError", "BigInt are forbidden in JSON.stringify"),
    ];
    for (body, name, message) in cases {
        let (found_name, found_message, _) = thrown(run_body(body).await);
        assert_eq!((found_name.as_str(), found_message.as_str()), (name, message), "{body}");
    }
}

#[tokio::test]
async fn a_thrown_error_keeps_what_was_logged() {
    let result = run_body("console.warn('before'); throw new Error('after');").await;
    let Err(CodeError::Thrown { console, .. }) = result else { panic!("{result:?}") };
    assert_eq!(console, [ConsoleLine { level: ConsoleLevel::Warn, text: "before".into() }]);
}

#[tokio::test]
async fn a_syntax_error_names_its_place() {
    let error = run("export const code = () => {\n  return 1 +;\n};").await.unwrap_err();
    let CodeError::InvalidSource { place: Some(place), .. } = &error else { panic!("{error:?}") };
    assert_eq!(place.line, 2);
    assert!(error.to_string().contains("(line 2, column "), "{error}");
}

#[tokio::test]
async fn parameters_must_be_json() {
    for params in ["", "{", "undefined", "{'a':1}", "1 2", "\u{0}"] {
        let error = SANDBOX.run(request(&step("return params;"), params)).await.unwrap_err();
        assert!(matches!(error, CodeError::InvalidParams { .. }), "{params}: {error:?}");
    }
}

#[tokio::test]
async fn console_lines_keep_their_level_order_and_form() {
    let body = r#"
        console.debug('d', 1, null, undefined, true);
        console.info({ a: [1, 'x'] }, [2]);
        console.log('%%s stays', function named() {}, 10n, Symbol('s'));
        console.warn(new TypeError('bad'));
        const cycle = {}; cycle.self = cycle;
        console.error(cycle, { toJSON() { throw 1; } }, Object.create(null), '');
        console.log();
    "#;
    let output = run_body(body).await.unwrap();
    let lines: Vec<_> = output.console.iter().map(|line| (line.level, line.text.as_str())).collect();
    assert_eq!(lines[0], (ConsoleLevel::Debug, "d 1 null undefined true"));
    assert_eq!(lines[1], (ConsoleLevel::Info, "{ a: [ 1, 'x' ] } [ 2 ]"));
    assert_eq!(lines[2], (ConsoleLevel::Log, "%s stays [Function: named] 10n Symbol(s)"));
    assert!(lines[3].1.starts_with("TypeError: bad\n    at code (step.mjs:5:"), "{:?}", lines[3]);
    assert_eq!(
        lines[4],
        (
            ConsoleLevel::Error,
            "<ref *1> { self: [Circular *1] } { toJSON: [Function: toJSON] } [Object: null prototype] {} "
        )
    );
    assert_eq!(lines[5], (ConsoleLevel::Log, ""));
}

#[tokio::test]
async fn modules_are_named_as_not_available() {
    let expected =
        "module 'pg' is not available in a code step: use a database step, which holds the connection and its password";
    for body in ["const { Pool } = require('pg');", "await import('pg');"] {
        assert_eq!(thrown(run_body(body).await).1, expected, "{body}");
    }
    for source in ["import pg from 'pg'; export const code = () => pg;", "export { code } from 'pg';"] {
        let refused = Err(CodeError::InvalidSource { message: expected.into(), place: None });
        assert_eq!(run(source).await, refused, "{source}");
    }
    let code = run_body("try { require('pg') } catch (error) { return error.code }").await;
    assert_eq!(code.unwrap().value, "MODULE_NOT_FOUND");
}

#[tokio::test]
async fn nothing_of_a_host_is_in_reach() {
    let body = r#"
        const names = ['navigator', 'SharedArrayBuffer', 'Atomics', 'WebAssembly', 'Deno', 'std', 'os', 'print', 'scriptArgs',
            '__dirname', 'window', 'host', 'platform', 'XMLHttpRequest', 'WebSocket', 'Worker', 'importScripts'];
        return names.filter((name) => name in globalThis || eval(`typeof ${name}`) !== 'undefined');
    "#;
    assert_eq!(run_body(body).await.unwrap().value, json!([]));
    let (name, message, _) = thrown(run_body("await fetch('http://localhost')").await);
    assert_eq!(name, "TypeError");
    assert!(message.contains("this step has no way out"), "{message}");
}

#[tokio::test]
async fn the_global_object_holds_the_language_and_the_platform() {
    let body = "return Object.getOwnPropertyNames(globalThis).filter((name) => /^[a-z_]/.test(name)).sort();";
    let expected = json!([
        "atob",
        "btoa",
        "clearImmediate",
        "clearInterval",
        "clearTimeout",
        "console",
        "crypto",
        "decodeURI",
        "decodeURIComponent",
        "encodeURI",
        "encodeURIComponent",
        "escape",
        "eval",
        "exports",
        "fetch",
        "global",
        "globalThis",
        "isFinite",
        "isNaN",
        "mask",
        "module",
        "parseFloat",
        "parseInt",
        "performance",
        "process",
        "queueMicrotask",
        "require",
        "setImmediate",
        "setInterval",
        "setTimeout",
        "structuredClone",
        "undefined",
        "unescape",
    ]);
    assert_eq!(run_body(body).await.unwrap().value, expected);
}

#[tokio::test]
async fn nothing_stays_for_the_next_step() {
    let spoil = r#"
        globalThis.left = 'behind';
        Object.prototype.polluted = 'yes';
        Array.prototype.map = () => 'spoiled';
        JSON.parse = JSON.stringify = () => { throw new Error('spoiled'); };
        console.log = null;
        Promise.prototype.then = null;
        Math.random = () => 4;
        delete globalThis.require;
        return 'done';
    "#;
    let look = r#"
        console.log('still here');
        return [typeof left, ({}).polluted === undefined, [1].map((x) => x + 1), JSON.parse('[2]'), typeof require,
            Math.random() === 4];
    "#;
    for _ in 0..20 {
        assert_eq!(run_body(spoil).await.unwrap().value, "done");
        let output = run_body(look).await.unwrap();
        assert_eq!(output.value, json!(["undefined", true, [2], [2], "function", false]));
        assert_eq!(output.console.len(), 1);
    }
}

#[tokio::test]
async fn the_clock_stands_still_at_the_requests_moment() {
    let body = r#"
        const first = Date.now();
        for (let i = 0; i < 1e5; i++);
        return [first, Date.now(), new Date().getTime(), new Date().getTimezoneOffset()];
    "#;
    let millis = NOW.as_micros() / 1_000;
    assert_eq!(run_body(body).await.unwrap().value, json!([millis, millis, millis, 0]));

    let mut earlier = request(&step("return new Date().toISOString();"), "{}");
    earlier.now = Timestamp::from_micros(-1);
    assert_eq!(SANDBOX.run(earlier).await.unwrap().value, "1969-12-31T23:59:59.999Z");
}

#[tokio::test]
async fn random_numbers_follow_from_the_seed() {
    let draw = async |seed: u64| {
        let mut request = request(&step("return [Math.random(), Math.random(), Math.random()];"), "{}");
        request.seed[..8].copy_from_slice(&seed.to_le_bytes());
        SANDBOX.run(request).await.unwrap().value
    };
    let mut seen = BTreeSet::new();
    for seed in [0, 1, 2, 3, u64::MAX, 0x61c8_8646_80b5_83eb] {
        let drawn = draw(seed).await;
        assert_eq!(drawn, draw(seed).await);
        let numbers: Vec<f64> = drawn.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)) && numbers[0] != numbers[1], "{numbers:?}");
        assert!(seen.insert(drawn.to_string()), "{drawn}");
    }
}
