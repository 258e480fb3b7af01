//! TypeScript, checks before publishing, and expressions.

use std::sync::Arc;

use ap_core::id::ProjectId;
use ap_runtime::sandbox::{CodeError, CodeLanguage, CodeLimits, CodeUnit, ExpressionRequest, SourcePlace};
use serde_json::{Value, json};

use crate::{NOW, SANDBOX, run_body};

fn module(source: &str, language: CodeLanguage) -> CodeUnit {
    CodeUnit::Module { source: source.into(), language }
}

async fn check(unit: CodeUnit) -> Result<(), CodeError> {
    SANDBOX.check(ProjectId::from_u128(1), unit).await
}

async fn evaluate(expressions: &[&str], variables: &Value) -> Vec<Result<Value, CodeError>> {
    let expressions = expressions.iter().map(|text| Arc::from(*text)).collect();
    let request = ExpressionRequest {
        project: ProjectId::from_u128(1),
        expressions,
        variables: variables.to_string().into(),
        now: NOW,
        seed: [1; 32],
        limits: CodeLimits::default(),
    };
    SANDBOX.evaluate(request).await.unwrap()
}

#[tokio::test]
async fn what_does_not_compile_names_its_place() {
    let javascript = check(module("export const code = () => {\n  return 1 +;\n};", CodeLanguage::JavaScript)).await;
    let Err(CodeError::InvalidSource { message, place: Some(place) }) = javascript else { panic!("{javascript:?}") };
    assert_eq!(place.line, 2, "{message}");
    let typescript = check(module("const a: number = 1;\n\nconst b = ;", CodeLanguage::TypeScript)).await;
    let Err(CodeError::InvalidSource { place: Some(SourcePlace { line: 3, .. }), .. }) = typescript else {
        panic!("{typescript:?}")
    };
    let error = check(module("export const code = (x: string) => x;", CodeLanguage::JavaScript)).await.unwrap_err();
    assert!(error.to_string().contains(r#""language": "typescript""#), "{error}");
    for language in [CodeLanguage::JavaScript, CodeLanguage::TypeScript] {
        assert_eq!(check(module("while (true); export const code = () => 1;", language)).await, Ok(()), "nothing runs");
        let deep = check(module(&"(".repeat(100_000), language)).await;
        assert!(matches!(deep, Err(CodeError::InvalidSource { .. } | CodeError::StackExhausted)), "{deep:?}");
    }
}

#[tokio::test]
async fn an_expression_has_variables_of_its_own_and_no_host() {
    let variables = json!({"list": [1]});
    let results = evaluate(&["list.push(2) && list", "list", "x = 1", "typeof x"], &variables).await;
    assert_eq!(results[0], Ok(json!([1, 2])));
    assert_eq!(results[1], Ok(json!([1])));
    assert!(matches!(&results[2], Err(CodeError::Thrown { name, .. }) if name == "ReferenceError"), "{:?}", results[2]);
    assert_eq!(results[3], Ok(json!("undefined")));
    let checked = check(CodeUnit::Expression("fetch('https://a.example')".into())).await;
    assert_eq!(checked, Ok(()), "it compiles");
}

/// A call of the host that is not there stops the engine in the middle.
#[tokio::test]
async fn expressions_after_one_that_was_stopped_have_an_engine_that_is_whole() {
    let expressions = ["globalThis.left = 1", "setTimeout(() => 1, 1)", "typeof left", "[item].map((x) => x + 1)[0]"];
    let results = evaluate(&expressions, &json!({"item": 1})).await;
    assert!(matches!(&results[1], Err(CodeError::Thrown { name, .. }) if name == "TypeError"), "{:?}", results[1]);
    assert_eq!([&results[0], &results[2], &results[3]], [&Ok(json!(1)), &Ok(json!("undefined")), &Ok(json!(2))]);
}

#[tokio::test]
async fn a_mistake_inside_a_typed_arrow_function_names_its_own_place() {
    for (source, line, column) in [
        ("const f = (x: number) => {\n  let y = 1;\n  if (y {\n  }\n};", 3, 9),
        ("export const code = (params) => {\n  const z = ;\n};", 2, 13),
        ("export const code = (a: {b: 1}[]) => {\n  return a.map((n) => {\n    return n *;\n  });\n};", 3, 15),
        ("export const code = <T>(x: T): T => {\n  return [1, 2;\n};", 2, 15),
        ("const a = (1 + 2;\nconst b = (x: number) => x;", 1, 17),
    ] {
        let refused = check(module(source, CodeLanguage::TypeScript)).await.unwrap_err();
        let place = Some(SourcePlace { line, column });
        assert!(
            matches!(&refused, CodeError::InvalidSource { place: told, .. } if *told == place),
            "{source:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn what_an_expression_throws_is_told_within_its_own_text() {
    for (text, line, column) in [
        ("missing", 1, 1),
        ("1 + missing", 1, 5),
        ("[item.a].map((a) => a.b)", 1, 21),
        ("1 +\n  missing", 2, 3),
        ("(() => { throw new Error('x') })()", 1, 20),
    ] {
        let results = evaluate(&[text], &json!({"item": {}})).await;
        let Err(CodeError::Thrown { place, stack, .. }) = &results[0] else { panic!("{text:?}: {results:?}") };
        assert_eq!(*place, Some(SourcePlace { line, column }), "{text:?}: {stack}");
        assert!(stack.contains(&format!("expression:{line}:{column}")), "{stack}");
        // A script that has the text on lines of its own says the same.
        let script = run_body(&format!("const item = {{}}; return (\n{text}\n);")).await;
        let place = Some(SourcePlace { line: line + 1, column });
        assert!(
            matches!(&script, Err(CodeError::Thrown { place: told, .. }) if *told == place),
            "{text:?}: {script:?}"
        );
    }
}

#[tokio::test]
async fn an_expression_that_is_not_whole_is_told_within_its_own_text() {
    for (text, line, column) in
        [("doter.bp(t(p((x) =>map(t(", 1, 26), ("(1 +\n", 2, 1), ("item]", 1, 6), ("item)", 1, 5)]
    {
        let refused = check(CodeUnit::Expression(text.into())).await.unwrap_err();
        let place = Some(SourcePlace { line, column });
        assert!(
            matches!(&refused, CodeError::InvalidSource { place: told, .. } if *told == place),
            "{text:?}: {refused:?}"
        );
    }
}
