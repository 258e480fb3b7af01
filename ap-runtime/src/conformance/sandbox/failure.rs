//! Steps that fail: what their author is told.

use super::{Bench, SandboxHarness, unit};
use crate::sandbox::{CodeError, CodeLanguage, ConsoleLevel, ConsoleLine, SourcePlace};

/// A thrown error keeps its name and message, and says the innermost line and column of the author's source.
pub async fn a_thrown_error_says_what_and_where(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    // Line and columns within which the place must be: the statement that threw.
    for (source, name, message, (line, columns)) in [
        ("export const code = () => {\n  throw new RangeError('far');\n};", "RangeError", "far", (2, 3..=30)),
        (
            "export const code = () => {\n  return inner(1);\n};\nfunction inner(x) {\n\n    throw new Error('in' + x);\n}",
            "Error",
            "in1",
            (6, 5..=30),
        ),
        (
            "export const code = async () => {\n  await 0;\n  await Promise.reject(new TypeError('rejected'));\n};",
            "TypeError",
            "rejected",
            (3, 3..=49),
        ),
        (
            "throw new SyntaxError('at the top');\nexport const code = () => 1;",
            "SyntaxError",
            "at the top",
            (1, 1..=36),
        ),
    ] {
        match bench.run(bench.request(source)).await {
            Err(CodeError::Thrown { name: found, message: text, place: Some(place), .. }) => {
                assert_eq!((found.as_str(), text.as_str(), place.line), (name, message, line), "{source}");
                assert!(columns.contains(&place.column), "{source}: {place}");
            }
            other => panic!("{source} did not throw at a place, but: {other:?}"),
        }
    }
    // What the language itself throws has words of its own.
    match bench.run_step("\n\n  const nothing = null; return nothing.field;").await {
        Err(CodeError::Thrown { name, place: Some(SourcePlace { line: 3, .. }), .. }) => assert_eq!(name, "TypeError"),
        other => panic!("{other:?}"),
    }
}

/// Whatever a step throws, its caller gets an error of the step.
pub async fn anything_can_be_thrown(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for (body, name, message) in [
        ("throw 'text'", "Error", "text"),
        ("throw undefined", "Error", "undefined"),
        ("throw 7", "Error", "7"),
        ("throw { name: 'Custom', message: 'mine' }", "Custom", "mine"),
        ("throw Object.assign(new Error('own'), { name: 'Own' })", "Own", "own"),
        ("return { toJSON() { throw new Error('in toJSON') } }", "Error", "in toJSON"),
        ("return { then() { throw new Error('in then') } }", "Error", "in then"),
    ] {
        let (found, text) = super::thrown(bench.run_step(body).await, body);
        assert_eq!((found.as_str(), text.as_str()), (name, message), "{body}");
    }
    for body in [
        "throw Symbol('s')",
        "throw Object.create(null)",
        "throw { get name() { throw 1 }, get message() { throw 2 }, get stack() { throw 3 } }",
        "throw new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 2 } })",
        "throw Object.assign(new Error('x'), { stack: { toString() { throw 1 } } })",
        "throw Object.assign(new Error('x'), { stack: 'at code (step.mjs:99999999999999999999:0)' })",
        "throw (() => {})",
    ] {
        super::thrown(bench.run_step(body).await, body);
    }
    bench.still_works("what was thrown").await;
}

/// Name, message and stack of an error are cut to a few kilobytes.
pub async fn texts_of_an_error_are_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = "const long = 'é'.repeat(1e6); const error = new Error(long); error.name = long; error.stack = long; throw error;";
    match bench.run_step(body).await {
        Err(CodeError::Thrown { name, message, stack, .. }) => {
            let lengths = [name.len(), message.len(), stack.len()];
            assert!(lengths.iter().all(|length| *length <= TEXT_BYTES), "{lengths:?}");
            assert!(message.starts_with("éé"));
        }
        other => panic!("it did not throw, but: {other:?}"),
    }
    let invalid = bench.run(bench.request(&format!("export const code = '{}", "x".repeat(100_000)))).await;
    assert!(
        matches!(&invalid, Err(CodeError::InvalidSource { message, .. }) if message.len() <= TEXT_BYTES),
        "{invalid:?}"
    );
}

/// An error comes with what the step wrote to the console before.
pub async fn a_thrown_error_keeps_what_was_logged(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let result = bench.run_step("console.warn('before'); throw new Error('after'); console.log('never');").await;
    let Err(CodeError::Thrown { console, .. }) = result else { panic!("it did not throw, but: {result:?}") };
    assert_eq!(console, [ConsoleLine { level: ConsoleLevel::Warn, text: "before".into() }]);
}

/// A source that does not parse names the line, and a column within it, when it is checked and when it is run.
pub async fn a_source_that_does_not_parse_names_its_place(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let source = "export const code = () => {\n  return 1 +;\n};";
    let checked = bench.check(unit(source, CodeLanguage::JavaScript)).await;
    let ran = bench.run(bench.request(source)).await.map(|_| ());
    for result in [checked, ran] {
        match result {
            Err(CodeError::InvalidSource { place: Some(place), .. }) => {
                assert!(place.line == 2 && (1..=14).contains(&place.column), "{place}");
            }
            other => panic!("{other:?}"),
        }
    }
    bench.still_works("a source that does not parse").await;
}

/// More than "a few kilobytes" may ever be.
const TEXT_BYTES: usize = 16 << 10;
