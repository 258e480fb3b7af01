use ap_runtime::sandbox::{CodeError, ConsoleLevel, ConsoleLine};
use serde_json::{Value, json};

use super::{SANDBOX, request, run, run_body, thrown};

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

/// The reader of results relies on it: only a lone surrogate is written as an escape.
#[tokio::test]
async fn no_step_writes_raw_json() {
    assert_eq!(run_body("return typeof JSON.rawJSON;").await.unwrap().value, "undefined");
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
