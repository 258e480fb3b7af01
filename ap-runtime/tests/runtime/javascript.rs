//! Expressions in templates and the sandbox that evaluates them: what flows with real JavaScript come to.

use ap_core::{
    connection::{Connection, ConnectionTerms, ConnectionValue},
    run::{RunStatus, StepErrorKind},
};
use ap_runtime::{
    engine::RunView,
    sandbox::{SandboxCapacity, WasmSandbox},
    session::SessionError,
};
use serde_json::{Value, json};

use super::support::{World, call, output, pure};

async fn world(seed: u64) -> World {
    let sandbox = WasmSandbox::start(SandboxCapacity::default().with_threads(1).unwrap()).unwrap();
    World::with(seed, |builder| builder.sandbox(sandbox)).await
}

async fn run(world: &World, steps: Value, trigger: Value) -> RunView {
    let flow = world.publish_manual(steps).await;
    world.run(flow, trigger).await
}

/// What a step gets whose one setting is this template.
async fn value(world: &World, template: &str, trigger: &Value) -> Result<Value, (StepErrorKind, String)> {
    let view = run(world, json!([pure("only", json!(template))]), trigger.clone()).await;
    match view.error {
        Some(error) => Err((error.kind, error.message)),
        None => Ok(output(&view, "only")),
    }
}

#[tokio::test]
async fn results_are_typed_alone_and_text_among_text() {
    let world = world(1).await;
    let trigger =
        json!({ "rows": [{ "id": 1, "name": "Ann" }, { "id": 2, "name": "Bob" }], "n": 3, "s": "a}}b", "z": null });
    for (template, expected) in [
        ("{{trigger.rows.map(r => r.id)}}", json!([1, 2])),
        ("{{ trigger.n > 2 ? { big: true } : null }}", json!({ "big": true })),
        ("{{trigger.n / 2}}", json!(1.5)),
        ("{{trigger.z === null}}", json!(true)),
        ("{{trigger.s.split('}}')}}", json!(["a", "b"])),
        (
            "{{`${trigger.rows.length} rows, ${trigger.rows.map(({ name }) => name).join(' & ')}`}}",
            json!("2 rows, Ann & Bob"),
        ),
        (
            "Hello {{trigger.rows[0].name.toUpperCase()}} ({{(trigger.rows.length)}}) {{[1, 2]}}",
            json!("Hello ANN (2) [1,2]"),
        ),
        ("{{trigger.s.replace(/}}/g, '') /* }} */}}", json!("ab")),
        ("{{trigger.missing?.x ?? 'none' + 1}}", json!("none1")),
        ("{{new Date(0).toISOString().slice(0, 10)}}", json!("1970-01-01")),
        ("{{Math.max(...trigger.rows.map(r => r.id))}}", json!(2)),
        ("{{Object.keys(trigger)}}", json!(["n", "rows", "s", "z"])),
        ("{{trigger.n // the number\n + 1}}", json!(4)),
        ("{{({ a: { b: { c: trigger.n } } }).a}}", json!({ "b": { "c": 3 } })),
        ("{{(() => { const item = 5; return item * trigger.n })()}}", json!(15)),
        ("{{0 / 0}}", Value::Null),
    ] {
        assert_eq!(value(&world, template, &trigger).await, Ok(expected), "{template}");
    }
}

#[tokio::test]
async fn failures_name_the_expression() {
    let world = world(2).await;
    let of = async |template: &str| value(&world, template, &json!({ "n": 1 })).await.expect_err(template);
    for (template, kind, said) in [
        ("{{trigger.none.x + 1}}", StepErrorKind::Script, "`trigger.none.x + 1` failed: TypeError"),
        ("{{(() => { throw new Error('no luck') })()}}", StepErrorKind::Script, "no luck"),
        ("{{[trigger.n].find(n => n > 5)}}", StepErrorKind::Input, "`[trigger.n].find(n => n > 5)` gives no value"),
        ("{{x => x}}", StepErrorKind::Input, "gives no value"),
        ("{{10n + 1n}}", StepErrorKind::Script, "failed"),
        ("{{(a => (a[0] = a, a))([])}}", StepErrorKind::Script, "failed"),
        ("{{(function f() { return f() + 1 })()}}", StepErrorKind::Script, "failed"),
    ] {
        let (found, message) = of(template).await;
        assert!(message.contains(said), "{template}: {message}");
        assert_eq!(found, kind, "{template}: {message}");
    }
    let (kind, message) = of("{{(() => { for (;;) {} })()}}").await;
    assert!(matches!(kind, StepErrorKind::Timeout | StepErrorKind::Limit), "{kind:?}: {message}");
    let (kind, message) = of("{{(() => { const all = []; for (;;) all.push('x'.repeat(1e6) + all.length) })()}}").await;
    assert_eq!(kind, StepErrorKind::MemoryLimit, "{message}");
    // The sandbox is none the worse for it.
    assert_eq!(value(&world, "{{1 + 1}}", &json!({})).await, Ok(json!(2)));
}

#[tokio::test]
async fn every_kind_of_step_takes_expressions() {
    let world = world(3).await;
    let steps = json!([
        { "name": "each", "type": "loop", "settings": { "items": "{{trigger.list.filter(n => n > 1)}}", "steps": [
            pure("inner", json!("{{item * 10 + index}}")),
        ] } },
        { "name": "side", "type": "branch", "settings": { "condition": "{{trigger.list.length > 5}}",
            "ifTrue": [pure("left", json!(1))], "ifFalse": [pure("right", json!("{{steps.each.output.iterations.length + 1}}"))] } },
        { "name": "way", "type": "router", "settings": { "branches": [
            { "name": "a", "condition": [[{ "firstValue": "{{trigger.list.length * 2}}", "operator": "NUMBER_IS_EQUAL_TO",
                "secondValue": "{{3 + 3}}" }]], "steps": [pure("taken", json!("{{steps.left?.output ?? 'absent' + 1}}"))] },
        ] } },
        { "name": "rest", "type": "delay", "settings": { "delayMs": "{{trigger.list.length * 1}}" } },
        { "name": "script", "type": "code", "settings": { "sourceCode": { "code": "export const code = ({ n }) => n + 1" } },
            "input": { "n": "{{trigger.list.reduce((a, b) => a + b)}}" } },
        { "name": "reply", "type": "respond", "settings": { "status": "{{200 + trigger.list.length}}",
            "headers": "{{({ 'x-count': String(trigger.list.length) })}}", "body": "{{steps.script.output * 2}}" } },
    ]);
    let view = run(&world, steps, json!({ "list": [1, 2, 3] })).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!((output(&view, "each:0/inner"), output(&view, "each:1/inner")), (json!(20), json!(31)));
    assert_eq!((output(&view, "right"), output(&view, "taken")), (json!(3), json!("absent1")));
    assert_eq!(output(&view, "script"), json!(7));
    let reply = view.reply.expect("a reply");
    assert_eq!((reply.status, &*reply.body), (203, &json!(14)));
    assert_eq!(reply.headers, [("x-count".to_owned(), "3".to_owned())]);
}

#[tokio::test]
async fn expressions_see_the_run_and_nothing_besides() {
    let world = world(4).await;
    let trigger = json!({ "a": { "x": 1, "secret": 2 } });
    let view = run(
        &world,
        json!([pure("only", json!(["{{$now + '|' + $run.id}}", "{{$now}}|{{$run.id}}"]))]),
        trigger.clone(),
    )
    .await;
    let out = output(&view, "only");
    assert_eq!(out[0], out[1], "paths and expressions of a step see the same moment");
    for (template, expected) in [
        ("{{[trigger.a.x, JSON.stringify(trigger)]}}", json!([1, r#"{"a":{"secret":2,"x":1}}"#])),
        ("{{[trigger.a.x, JSON.stringify(globalThis['trigger'])]}}", json!([1, r#"{"a":{"x":1}}"#])),
        ("{{typeof Deno + typeof apcred}}", json!("undefinedundefined")),
    ] {
        assert_eq!(value(&world, template, &trigger).await, Ok(expected), "{template}");
    }
}

#[tokio::test]
async fn wrong_syntax_is_told_with_its_place_before_publishing() {
    let world = world(5).await;
    let source =
        |steps: Value| json!({ "displayName": "T", "triggers": [{ "name": "t", "type": "manual" }], "steps": steps });
    let refused = async |steps: Value| {
        let admin = world.admin();
        let flow = admin.create_flow(source(steps).to_string().as_bytes()).await.unwrap();
        match admin.publish_flow(flow.id).await {
            Err(SessionError::InvalidFlow(found)) => found.0,
            other => panic!("{other:?}"),
        }
    };
    let script = |name: &str, language: &str, code: &str| json!({ "name": name, "type": "code", "settings": { "language": language, "sourceCode": { "code": code } } });
    let found = refused(json!([
        pure("a", json!("{{trigger.a + + }}")),
        pure("b", json!("{{return trigger.a}}")),
        pure("c", json!("{{if (trigger.a) 1}}")),
        script("d", "javascript", "export const code = () => {\n  return 1 +;\n}"),
        script("e", "javascript", "export const code = (n: number) => n"),
    ]))
    .await;
    let rules: Vec<_> = found.iter().map(|finding| (finding.pointer.as_str(), finding.rule)).collect();
    assert_eq!(
        rules,
        [
            ("/steps/0/settings/value", "template.syntax"),
            ("/steps/1/settings/value", "template.syntax"),
            ("/steps/2/settings/value", "template.syntax"),
            ("/steps/3/settings/sourceCode/code", "step.code.syntax"),
            ("/steps/4/settings/sourceCode/code", "step.code.syntax"),
        ]
    );
    assert!(found[3].message.contains("line 2"), "{}", found[3].message);
}

#[tokio::test]
async fn connections_stay_placeholders_in_expressions_and_work_where_they_are_put() {
    const CANARY: &str = "canary-secret-of-api";
    let world = world(6).await;
    let (secret, terms) = (ConnectionValue::SecretText { secret: CANARY.into() }, ConnectionTerms::default());
    let connection = Connection::new("api", secret, vec![], vec![]).unwrap().with_terms(terms).unwrap();
    world.admin().put_connection(&connection).await.unwrap();
    let steps = json!([call(
        "act",
        "act",
        json!({ "value": { "auth": "{{'Bearer ' + connections.api}}", "length": "{{String(connections.api).length}}" } })
    ),]);
    let view = run(&world, steps, json!({})).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    let given = world.peer.log.lock().unwrap()[0].1.clone();
    let auth = given["auth"].as_str().unwrap();
    assert!(auth.starts_with("Bearer apcred_") && auth.len() == "Bearer apcred_".len() + 43, "{auth}");
    assert_eq!(given["length"], json!("apcred_".len() + 43));
    let shown = serde_json::to_string(&view).unwrap();
    assert!(shown.contains("Bearer ‹api") && !shown.contains(CANARY), "{shown}");
}

#[tokio::test]
async fn a_script_in_typescript_loses_its_types() {
    let world = world(7).await;
    let code = "interface P { n?: number }\nexport const code = (p: P): number => (p.n as number) ?? 7";
    let script = json!({ "name": "typed", "type": "code", "settings": { "language": "typescript", "sourceCode": { "code": code } },
        "input": { "n": "{{trigger.n * 2}}" } });
    let view = run(&world, json!([script]), json!({ "n": 4 })).await;
    assert_eq!((view.status, output(&view, "typed")), (RunStatus::Succeeded, json!(8)), "{:?}", view.error);
}
