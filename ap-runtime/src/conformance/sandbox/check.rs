//! Checks before a flow is published, and TypeScript.

use serde_json::json;

use super::{Bench, SandboxHarness, unit};
use crate::sandbox::{CodeError, CodeLanguage, CodeRequest, CodeUnit, SourcePlace};

use CodeLanguage::{JavaScript, TypeScript};

impl Bench {
    fn typescript(&self, source: &str) -> CodeRequest {
        CodeRequest { language: TypeScript, ..self.request(source) }
    }

    /// The languages that this sandbox takes, having seen that it refuses the other one.
    async fn languages(&self, harness: &impl SandboxHarness) -> Vec<CodeLanguage> {
        if harness.takes_typescript() {
            return vec![JavaScript, TypeScript];
        }
        let source = "export const code = () => 1;";
        let checked = self.check(unit(source, TypeScript)).await;
        assert!(matches!(checked, Err(CodeError::Unsupported { .. })), "{checked:?}");
        let ran = self.run(self.typescript(source)).await;
        assert!(matches!(ran, Err(CodeError::Unsupported { .. })), "{ran:?}");
        vec![JavaScript]
    }
}

/// A check compiles, and runs nothing of what it compiles.
pub async fn checking_runs_nothing(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for language in bench.languages(harness).await {
        for source in [
            "while (true); export const code = () => 1;",
            "throw new Error('it ran'); export const code = () => 1;",
            "await new Promise(() => {}); export const code = () => 1;",
            "export const code = () => { while (true); };",
        ] {
            assert_eq!(bench.check(unit(source, language)).await, Ok(()), "{language:?}: {source}");
        }
    }
    assert_eq!(bench.check(CodeUnit::Expression("(() => { for (;;); })()".into())).await, Ok(()));
    assert_eq!(bench.check(CodeUnit::Expression("missing.deep.field".into())).await, Ok(()));
    assert_eq!(bench.check(CodeUnit::Expression("fetch('https://a.example')".into())).await, Ok(()));
}

/// What does not compile names its line, in both languages.
pub async fn checking_names_the_place(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for language in bench.languages(harness).await {
        for (source, line) in [
            ("export function code() {\n  return 1 +;\n}", 2),
            ("const a = 1;\n\n\nconst b = ;\nexport const code = () => a;", 4),
            ("\u{feff}// a comment\n\nexport const code = ) => 1;", 3),
        ] {
            match bench.check(unit(source, language)).await {
                Err(CodeError::InvalidSource { place: Some(place), message }) => {
                    assert_eq!(place.line, line, "{language:?}: {source}: {message}");
                }
                other => panic!("{language:?}: {source}: {other:?}"),
            }
        }
        for opening in ["(", "[", "`${"] {
            let deep = bench.check(unit(&opening.repeat(50_000), language)).await;
            assert!(
                matches!(deep, Err(CodeError::InvalidSource { .. } | CodeError::StackExhausted)),
                "{opening}: {deep:?}"
            );
        }
    }
    bench.still_works("sources that do not compile").await;
}

/// What a check accepts also compiles when it is run, and what it refuses does not.
pub async fn checking_and_running_agree(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let sources = [
        "export const code = () => 1;",
        "export const code = (x: number) => x;",
        "export const code = <T,>(x: T) => x;",
        "export const code = () => { return; } }",
        "export const code = () => 1; export const code = () => 2;",
        "let code = 1; let code = 2;",
        "return 1;",
        "export const code = () => { with ({}) {} };",
        "export const code = () => 08;",
        "export const code = () => await 1;",
        "export const code = async () => await 1; await 2;",
        "import x from;",
        "export const code = () => /(/;",
        "export const code = () => 'a\nb';",
        "export { code };",
        "enum E { A } export const code = () => 1;",
        "#!/bin/sh\nexport const code = () => 1;",
        "\0",
        "<!-- html",
        "export const code = () => { #x in {}; };",
        "class A { #x; #x; } export const code = () => 1;",
        "export const code = () => yield;",
        "label: label: 1;",
        "break;",
    ];
    for language in bench.languages(harness).await {
        for source in sources {
            let checked = bench.check(unit(source, language)).await;
            let ran = bench.run(CodeRequest { language, ..bench.request(source) }).await;
            // A module that compiles may still export no function, which only running it tells: that has no place.
            let compiles =
                !matches!(&ran, Err(CodeError::InvalidSource { message, .. }) if !message.contains("`code`"));
            assert_eq!(checked.is_ok(), compiles, "{language:?}: {source}: {checked:?}, but {ran:?}");
        }
    }
}

/// An expression is exactly one: no statement, no second one, and nothing that closes what surrounds it.
pub async fn an_expression_is_one_expression(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for (text, accepted) in [
        ("1", true),
        ("a, b", true),
        ("() => { return 1 }", true),
        ("{ a: 1 }", true),
        ("x // comment", true),
        ("/* comment */ x", true),
        ("", false),
        ("1; 2", false),
        ("const x = 1", false),
        ("1) + (2", false),
        ("1 }", false),
        ("*/ 1", false),
        ("return 1", false),
        ("if (1) 2", false),
        ("import x from 'y'", false),
        ("await 1", false),
        ("yield 1", false),
        ("'open", false),
        ("`open", false),
        ("/open", false),
    ] {
        let checked = bench.check(CodeUnit::Expression(text.into())).await;
        let as_expected =
            if accepted { checked.is_ok() } else { matches!(checked, Err(CodeError::InvalidSource { .. })) };
        assert!(as_expected, "{text}: {checked:?}");
        let evaluated = bench.evaluate(&[text], &json!({"a": 1, "b": 2, "x": 3})).await;
        let invalid = matches!(evaluated[0], Err(CodeError::InvalidSource { .. }));
        assert_eq!(invalid, !accepted, "{text}: {evaluated:?}");
    }
}

/// Types are removed, and what of TypeScript has a meaning keeps it. JavaScript stays JavaScript.
pub async fn types_are_removed(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    if bench.languages(harness).await.len() == 1 {
        return; // it says so, and refuses
    }
    let source = r#"
        import type { Missing } from 'nowhere';
        interface Item { price: number; count?: number }
        type Total = { total: number };
        enum Currency { Euro = 'EUR', Dollar = 'USD' }
        abstract class Shape { constructor(readonly side: number, private label = 'x') {} abstract area(): number; }
        class Square extends Shape { override area(): number { return this.side ** 2; } }
        function first<T extends Item>(items: T[]): T { return items[0]!; }
        const identity = <T,>(value: T): T => value;
        export const code = async (params: { items: Item[] }): Promise<Total & Record<string, unknown>> => {
            const item = first<Item>(params.items) as Item satisfies Item;
            return { total: identity<number>(item.price) * (item.count ?? 1), currency: Currency.Euro, area: new Square(3).area() };
        };
    "#;
    let mut request = bench.typescript(source);
    request.params = r#"{"items":[{"price":2,"count":21}]}"#.into();
    let expected = json!({"total": 42, "currency": "EUR", "area": 9});
    assert_eq!(bench.run(request).await.map(|output| output.value), Ok(expected));
    // In JavaScript two comparisons, in TypeScript a call.
    let source = "const f = (x) => x, a = 1; export const code = () => f<a>(3);";
    assert_eq!(bench.run(bench.request(source)).await.map(|output| output.value), Ok(json!(false)));
    assert_eq!(bench.run(bench.typescript(source)).await.map(|output| output.value), Ok(json!(3)));
}

/// An error in TypeScript names the line that the author wrote.
pub async fn errors_in_typescript_name_the_authors_line(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    if bench.languages(harness).await.len() == 1 {
        return; // it says so, and refuses
    }
    let source = "interface A {\n  b: string;\n}\nexport const code = (a: A) => {\n  const nothing = null as unknown as A;\n  return nothing.b;\n};";
    match bench.run(bench.typescript(source)).await {
        Err(CodeError::Thrown { place: Some(SourcePlace { line: 6, .. }), .. }) => {}
        other => panic!("{other:?}"),
    }
}
