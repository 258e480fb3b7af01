//! What a step is, what it gets and what it returns.

use serde_json::{Value, json};

use super::{Bench, SandboxHarness, thrown};
use crate::sandbox::CodeError;

/// A step is the function that its module exports as `code`, else as default, else the one that `module.exports` holds.
pub async fn a_step_is_the_function_that_its_module_exports(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for source in [
        "export const code = () => 'here';",
        "export function code() { return 'here'; }",
        "export const code = async () => 'here';",
        "export default () => 'here';",
        "export default async function () { return 'here'; }",
        "const f = async () => 'here'; export { f as code };",
        "const where = await Promise.resolve('here'); export default () => where;",
        "export default () => 'no'; export const code = () => 'here';",
        "module.exports = () => 'here';",
        "module.exports = { code: async () => 'here' };",
        "exports.code = () => 'here';",
    ] {
        let output = bench.run(bench.request(source)).await;
        assert_eq!(output.map(|output| output.value), Ok(json!("here")), "{source}");
    }
}

/// A module that exports no function is refused as invalid, whatever else it exports.
pub async fn a_module_without_a_function_is_refused(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for source in
        ["", "// nothing", "export const code = 1;", "const code = () => 1;", "module.exports = { other() {} };"]
    {
        let result = bench.run(bench.request(source)).await;
        assert!(matches!(result, Err(CodeError::InvalidSource { .. })), "{source}: {result:?}");
    }
}

/// A step gets its parameters as they were, and the members `run` and `step` of its context.
pub async fn a_step_gets_its_parameters_and_its_context(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let params = json!({
        "text": "äöü \u{1f600} \u{0} \" \\ \u{2028}",
        "numbers": [0, -1, 1.5, 9_007_199_254_740_991_i64, 1e300, 5e-324],
        "nested": {"a": [{"b": null}], "": true, "__proto__": {"x": 1}, "length": 3}
    });
    let mut request = bench.step("return params;");
    request.params = params.to_string().into();
    assert_eq!(bench.run(request).await.map(|output| output.value), Ok(params));
    for text in ["null", "0", "\"text\"", "[]", " {\n} "] {
        let mut request = bench.step("return params;");
        request.params = text.into();
        let expected: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(bench.run(request).await.map(|output| output.value), Ok(expected), "{text}");
    }
    let context = bench.value("return [ctx.run.id, ctx.step.name];").await;
    assert_eq!(context, json!(["run_1", "code"]));
}

/// Results go through `JSON.stringify`; nothing at all, functions and symbols are `null`, and lone surrogates U+FFFD.
pub async fn results_are_what_json_says(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for (body, expected) in [
        ("", json!(null)),
        ("return undefined;", json!(null)),
        ("return () => 1;", json!(null)),
        ("return Symbol('s');", json!(null)),
        ("return NaN;", json!(null)),
        ("return [undefined, () => 1, NaN, -Infinity, -0];", json!([null, null, null, null, 0])),
        ("return { a: undefined, b: () => 1, c: 1 };", json!({"c": 1})),
        ("return new Date(0);", json!("1970-01-01T00:00:00.000Z")),
        ("return { toJSON() { return 'own'; } };", json!("own")),
        ("return '\\ud800x';", json!("\u{fffd}x")),
        ("return { '\\udc00': '\\ud83d\\ude00' };", json!({"\u{fffd}": "\u{1f600}"})),
        ("return '\\\\ud800';", json!("\\ud800")),
        ("return [1e21, 2 ** 53, 5e-324, 1e999];", json!([1e21, 9_007_199_254_740_992_i64, 5e-324, null])),
        ("return new Map([[1, 2]]);", json!({})),
        ("return await Promise.all([1, Promise.resolve(2)]);", json!([1, 2])),
        ("return { then(done) { done('from a thenable'); } };", json!("from a thenable")),
    ] {
        assert_eq!(bench.value(body).await, expected, "{body}");
    }
}

/// A cycle or a `BigInt` in the result is an error that the step threw.
pub async fn what_json_cannot_say_is_an_error(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for body in [
        "return 10n;",
        "return { a: [1n] };",
        "const o = {}; o.o = o; return o;",
        "const a = []; a[0] = [a]; return a;",
    ] {
        let (name, _) = thrown(bench.run_step(body).await, body);
        assert_eq!(name, "TypeError", "{body}");
    }
    let (name, message) =
        thrown(bench.run_step("return { get a() { throw new RangeError('mine'); } };").await, "a getter");
    assert_eq!((name.as_str(), message.as_str()), ("RangeError", "mine"));
}

/// Parameters that are no JSON, or nested without end, are the caller's mistake; the step does not begin.
pub async fn parameters_must_be_json(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for params in ["", "{", "undefined", "{'a':1}", "1 2", "\u{0}", "NaN", "\"\\x\""] {
        let mut request = bench.step("return 'it began';");
        request.params = params.into();
        let result = bench.run(request).await;
        assert!(matches!(result, Err(CodeError::InvalidParams { .. })), "{params}: {result:?}");
    }
    for params in ["[".repeat(1 << 20), format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20))] {
        let mut request = bench.step("return 'it began';");
        request.params = params.into();
        let result = bench.run(request).await;
        let refused =
            Err(CodeError::StackExhausted) == result || matches!(result, Err(CodeError::InvalidParams { .. }));
        assert!(refused, "deep parameters: {result:?}");
    }
    bench.still_works("parameters that are no JSON").await;
}
