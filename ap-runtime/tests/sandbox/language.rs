//! TypeScript, checks before publishing, and expressions.

use std::sync::Arc;

use ap_core::id::ProjectId;
use ap_runtime::sandbox::{
    CodeError, CodeLanguage, CodeLimits, CodeRequest, CodeSandbox as _, CodeUnit, ExpressionRequest, SourcePlace,
};
use serde_json::{Value, json};

use crate::{NOW, SANDBOX, request};

fn typescript(source: &str, params: &str) -> CodeRequest {
    CodeRequest { language: CodeLanguage::TypeScript, ..request(source, params) }
}

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
async fn types_are_removed_and_what_has_meaning_stays() {
    let source = r#"
        import type { Missing } from 'nowhere';
        interface Item { price: number; count?: number }
        type Total = { total: number };
        enum Currency { Euro = 'EUR', Dollar = 'USD' }
        namespace Rate { export const vat: number = 0.5; }
        abstract class Shape { constructor(readonly side: number, private label = 'x') {} abstract area(): number; }
        class Square extends Shape { override area(): number { return this.side ** 2; } }
        function first<T extends Item>(items: T[]): T { return items[0]!; }
        const identity = <T,>(value: T): T => value;
        export const code = async (params: { items: Item[] }): Promise<Total & Record<string, unknown>> => {
            const item = first<Item>(params.items) as Item satisfies Item;
            return { total: identity<number>(item.price) * (item.count ?? 1), currency: Currency.Euro, area: new Square(3).area() };
        };
    "#;
    let ran = SANDBOX.run(typescript(source, r#"{"items":[{"price":2,"count":21}]}"#)).await.unwrap();
    assert_eq!(ran.value, json!({"total": 42, "currency": "EUR", "area": 9}));
}

#[tokio::test]
async fn the_languages_are_what_they_are_said_to_be() {
    // In JavaScript two comparisons, in TypeScript a call.
    let source = "const f = (x) => x, a = 1; export const code = () => f<a>(3);";
    assert_eq!(SANDBOX.run(request(source, "{}")).await.unwrap().value, false);
    assert_eq!(SANDBOX.run(typescript(source, "{}")).await.unwrap().value, 3);
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
async fn errors_in_typescript_name_the_authors_line() {
    let source = "interface A {\n  b: string;\n}\nexport const code = (a: A) => {\n  const nothing = null as unknown as A;\n  return nothing.b;\n};";
    let Err(CodeError::Thrown { place: Some(place), .. }) = SANDBOX.run(typescript(source, "{}")).await else {
        panic!("did not throw")
    };
    assert_eq!(place.line, 6);
}

#[tokio::test]
async fn expressions_give_typed_values() {
    let variables = json!({"item": {"price": 20, "tags": ["a", "b"]}, "$now": "2026-01-01", "name": "Ann"});
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
        ("new Date(0).toISOString()", json!("1970-01-01T00:00:00.000Z")),
        ("/^a+$/.test('aaa')", json!(true)),
        ("(() => { let sum = 0; for (const n of [1, 2, 3]) sum += n; return sum; })()", json!(6)),
    ];
    let results = evaluate(&cases.clone().map(|(text, _)| text), &variables).await;
    for ((text, expected), result) in cases.into_iter().zip(results) {
        assert_eq!(result, Ok(expected), "{text}");
    }
}

#[tokio::test]
async fn each_expression_ends_for_itself() {
    let results = evaluate(
        &[
            "1",
            "missing",
            "undefined",
            "() => 1",
            "Symbol()",
            "10n",
            "1 +",
            "null.x",
            "2",
            "const x = 1",
            "1; 2",
            "1) + (2",
        ],
        &json!({}),
    )
    .await;
    let kinds: Vec<_> = results
        .iter()
        .map(|result| match result {
            Ok(value) => value.to_string(),
            Err(CodeError::Thrown { name, .. }) => name.clone(),
            Err(CodeError::NoValue) => "no value".to_owned(),
            Err(CodeError::InvalidSource { .. }) => "invalid".to_owned(),
            Err(other) => format!("{other:?}"),
        })
        .collect();
    let no = "no value";
    let expected =
        ["1", "ReferenceError", no, no, no, "TypeError", "invalid", "TypeError", "2", "invalid", "invalid", "invalid"];
    assert_eq!(kinds, expected);
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

#[tokio::test]
async fn expressions_share_their_limits() {
    let mut request = ExpressionRequest {
        project: ProjectId::from_u128(1),
        expressions: vec!["1".into(), "(() => { for (;;); })()".into(), "2".into()],
        variables: "{}".into(),
        now: NOW,
        seed: [1; 32],
        limits: CodeLimits::default().with_cpu_time(std::time::Duration::from_millis(30)).unwrap(),
    };
    let results = SANDBOX.evaluate(request.clone()).await.unwrap();
    assert_eq!(results[0], Ok(json!(1)));
    assert!(results[1..].iter().all(|result| matches!(result, Err(CodeError::CpuTime { .. }))), "{results:?}");
    request.variables = "[".into();
    let results = SANDBOX.evaluate(request).await.unwrap();
    assert!(results.iter().all(|result| matches!(result, Err(CodeError::InvalidParams { .. }))), "{results:?}");
}
