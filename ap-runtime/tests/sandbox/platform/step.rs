//! How a step meets its platform: exports, imports, globals, `ctx`, masking, the console.

use ap_runtime::sandbox::CodeError;
use serde_json::json;

use super::evaluate;
use crate::{SANDBOX, request, run, run_body, thrown};

#[tokio::test]
async fn every_way_to_export_the_function_works() {
    for source in [
        "export const code = (params) => params.a;",
        "export default async (params) => params.a;",
        "export default { code: (params) => params.a };",
        "exports.code = (params) => params.a;",
        "module.exports = (params) => params.a;",
        "module.exports = { code: async (params) => params.a };",
        "module.exports.default = (params) => params.a;",
        "const code = (params) => params.a; export { code, code as default };",
    ] {
        let output = SANDBOX.run(request(source, r#"{"a":7}"#)).await;
        assert_eq!(output.unwrap().value, json!(7), "{source}");
    }
    for source in ["const code = () => 1;", "module.exports = { run() {} };", "export const code = 1;"] {
        assert!(matches!(run(source).await, Err(CodeError::InvalidSource { .. })), "{source}");
    }
}

#[tokio::test]
async fn modules_are_imported_by_name_and_as_a_whole() {
    let source = "
        import crypto, { createHmac } from 'node:crypto';
        import { Buffer } from 'buffer';
        import * as util from 'util';
        import assert, { strictEqual } from 'node:assert';
        import EventEmitter, { once } from 'events';
        import { join } from 'path';
        import { parse } from 'querystring';
        import { StringDecoder } from 'string_decoder';
        import { setTimeout as wait } from 'timers/promises';
        import { URL as Url } from 'url';
        import process from 'process';
        import mask, { email } from '@ap/mask';
        export const code = () => [
            crypto.createHmac === createHmac, crypto === require('crypto'), Buffer === globalThis.Buffer, util.inspect([1]),
            assert.strictEqual === strictEqual, typeof once, new EventEmitter().on.name, join('a', '..', 'b'), parse('a=1').a,
            new StringDecoder('hex').end(Buffer.from('a')), typeof wait, Url === URL, process.env === globalThis.process.env, mask.email === email,
        ];";
    let expected =
        json!([true, true, true, "[ 1 ]", true, "function", "on", "b", "1", "61", "function", true, true, true]);
    assert_eq!(run(source).await.unwrap().value, expected);
}

#[tokio::test]
async fn what_is_not_there_is_named_with_what_to_use_instead() {
    for (module, advice) in [
        ("pg", "database step"),
        ("mysql2", "database step"),
        ("nodemailer", "email step"),
        ("axios", "fetch()"),
        ("node-fetch", "fetch()"),
        ("node:http", "fetch()"),
        ("fs", "no file system"),
        ("node-vault", "reference to the secret"),
        ("@aws-sdk/client-secrets-manager", "reference to the secret"),
        ("express-rate-limit", "settings of the trigger"),
        ("child_process", "cannot start programs"),
        ("left-pad", "there are assert"),
        ("./helper.js", "one file"),
    ] {
        let (_, message, _) = thrown(run_body(&format!("require('{module}');")).await);
        assert!(message.contains(&format!("module '{module}'")) && message.contains(advice), "{message}");
        let code = evaluate(&format!("try {{ require('{module}'); }} catch (error) {{ return error.code; }}")).await;
        assert_eq!(code, json!("MODULE_NOT_FOUND"));
        match run(&format!("import x from '{module}'; export const code = () => 1;")).await {
            Err(CodeError::InvalidSource { message, .. } | CodeError::Thrown { message, .. }) => {
                assert!(message.contains(advice), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(evaluate("return typeof require('node:crypto').createHmac;").await, json!("function"));
    assert_eq!(evaluate("return import('util').then((util) => util.format('%d', 1));").await, json!("1"));
}

#[tokio::test]
async fn functions_of_crypto_that_are_not_there_say_what_to_use() {
    for (name, advice) in [
        ("createCipher", "createCipheriv"),
        ("createDecipher", "createDecipheriv"),
        ("createSign", "that a connection signs"),
        ("publicEncrypt", "that a connection signs"),
        ("generateKeyPairSync", "that a connection signs"),
    ] {
        let (_, message, _) = thrown(run_body(&format!("require('crypto').{name}('aes-256-cbc', 'key');")).await);
        assert!(message.contains(advice), "{message}");
    }
}

#[tokio::test]
async fn the_context_comes_second() {
    let value = evaluate("return [ctx.run.id, ctx.step.name, Object.keys(ctx)];").await;
    assert_eq!(value, json!(["run_1", "code", ["run", "step", "store"]]));
}

#[tokio::test]
async fn there_is_no_environment_and_globals_are_not_listed() {
    let value = evaluate(
        "process.env.SECRET; return [Object.keys(process.env), Object.isFrozen(process.env), typeof process.exit, process.cwd(), \
         Object.keys(globalThis), global === globalThis, typeof module, typeof exports, typeof SharedArrayBuffer];",
    )
    .await;
    assert_eq!(value, json!([[], true, "undefined", "/", [], true, "object", "object", "undefined"]));
}

/// The table of the action `text.mask` (`ap-pieces/src/text.rs`): one rule, two places to call it.
#[tokio::test]
async fn personal_data_is_masked_as_the_text_piece_does() {
    for (kind, text, expected) in [
        ("email", "john.doe@example.com", "jo***@example.com"),
        ("email", "jo@example.com", "jo***@example.com"),
        ("email", "\\\"a@b\\\"@example.com", "\"a***@example.com"),
        ("email", "j@example.com", "***@example.com"),
        ("email", "@example.com", "***@example.com"),
        ("email", "éàü@example.com", "éà***@example.com"),
        ("email", "no address", "***"),
        ("creditCard", "4111 1111 1111 1234", "****-****-****-1234"),
        ("creditCard", "4111-1111-1111-1234", "****-****-****-1234"),
        ("creditCard", "411111111234", "****-****-****-1234"),
        ("creditCard", "41111111123", "***"),
        ("creditCard", "41111111111111111234", "***"),
        ("creditCard", "card 4111111111111234", "***"),
        ("ssn", "123-45-6789", "***-**-6789"),
        ("ssn", "123456789", "***-**-6789"),
        ("ssn", "12345678", "***"),
        ("ssn", "1234567890", "***"),
        ("password", "hunter2", "[REDACTED]"),
        ("password", "", ""),
    ] {
        let value =
            evaluate(&format!("return [require('@ap/mask').{kind}(\"{text}\"), mask.{kind}(\"{text}\")];")).await;
        assert_eq!(value, json!([expected, expected]), "{kind} {text}");
    }
    let value = evaluate("return [mask.ssn(123456789), mask.email(undefined), mask.creditCard(null)];").await;
    assert_eq!(value, json!(["***-**-6789", "", ""]));
}

#[tokio::test]
async fn the_console_formats_as_node_does() {
    let output = run_body(
        "console.log('%s is %d, %j', 'x', 1.5, { a: 1 }, [1, { b: { c: {} } }]); console.table([{ a: 1, b: 'x' }, { a: 2 }]);
         console.group('group'); console.info('inside\\ntwo'); console.groupEnd(); console.count(); console.count();
         console.assert(1 === 2, 'no %s', 'way'); console.dir({ a: { b: { c: { d: 1 } } } }, { depth: 0 }); console.time('t'); console.timeEnd('t');
         console.error(new TypeError('bad'));",
    )
    .await
    .unwrap();
    let lines: Vec<&str> = output.console.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(
        lines[..10],
        [
            "x is 1.5, {\"a\":1} [ 1, { b: { c: {} } } ]",
            "┌─────────┬───┬─────┐\n│ (index) │ a │  b  │\n├─────────┼───┼─────┤\n│    0    │ 1 │ 'x' │\n│    1    │ 2 │     │\n└─────────┴───┴─────┘",
            "group",
            "  inside\n  two",
            "default: 1",
            "default: 2",
            "Assertion failed: no way",
            "{ a: [Object] }",
            "t: 0ms",
            lines[9],
        ]
    );
    assert!(lines[9].starts_with("TypeError: bad\n    at code (step.mjs:"), "{}", lines[9]);
}

#[tokio::test]
async fn errors_of_the_platform_name_the_line_of_the_step() {
    match run_body("\n\n  Buffer.alloc(-1);").await {
        Err(CodeError::Thrown { name, stack, place, .. }) => {
            assert_eq!(name, "RangeError");
            assert_eq!(place.map(|place| place.line), Some(3), "{stack}");
            assert!(stack.contains("at code (step.mjs:3:"), "{stack}");
        }
        other => panic!("{other:?}"),
    }
}
