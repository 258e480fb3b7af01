//! `ctx.store` in scripts, with the real sandbox.

use ap_core::{
    connection::{Connection, ConnectionTerms, ConnectionValue},
    run::{RunStatus, StepErrorKind},
};
use ap_runtime::{
    config::ValueLimits,
    engine::RunView,
    sandbox::{SandboxCapacity, WasmSandbox},
    store::ValueScope,
};
use serde_json::{Value, json};

use super::support::{World, output, step};

async fn world(seed: u64, limits: ValueLimits) -> World {
    let sandbox = WasmSandbox::start(SandboxCapacity::default().with_threads(2).unwrap()).unwrap();
    World::with(seed, |builder| builder.sandbox(sandbox).value_limits(limits)).await
}

fn script(name: &str, body: &str) -> Value {
    let code = format!("export const code = async (params, {{ store }}) => {{ {body} }};");
    json!({ "name": name, "type": "code", "settings": { "sourceCode": { "code": code } }, "input": {} })
}

async fn run(world: &World, body: &str) -> RunView {
    let flow = world.publish_manual(json!([script("only", body)])).await;
    world.run(flow, json!({})).await
}

async fn gives(world: &World, body: &str) -> Value {
    let view = run(world, body).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{body}: {:?}", view.error);
    output(&view, "only")
}

#[tokio::test]
async fn a_counter_of_fifty_runs_at_once_is_fifty() {
    let world = world(821, ValueLimits::default()).await;
    let count = "const n = (await store.get('n') ?? 0) + 1; await store.put('n', n); return n;";
    let flow = world.publish_manual(json!([script("only", count)])).await;
    let views = futures_util::future::join_all((0..50).map(|_| world.run(flow, json!({})))).await;
    let mut seen: Vec<u64> = views.iter().map(|view| output(view, "only").as_u64().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=50).collect::<Vec<u64>>(), "each has counted once");
    let stored = world.admin().stored_value(ValueScope::Flow(flow), "n").await.unwrap().unwrap();
    assert_eq!(stored.value, json!(50));
}

#[tokio::test]
async fn values_outlive_runs_in_their_scope() {
    let world = world(822, ValueLimits::default()).await;
    let put = "await store.put('a', { list: [1, 'é', null, true, 0.5] }); \
        return [await store.put('b', 1, 'PROJECT'), await store.get('none'), await store.get('none', 'PROJECT')];";
    let get = "return [await store.get('a'), await store.get('a', 'FLOW'), await store.get('b'), await store.get('b', 'PROJECT')];";
    let source = |body| json!([script("only", body)]);
    let flow = world.publish_manual(source(put)).await;
    assert_eq!(output(&world.run(flow, json!({})).await, "only"), json!([1, null, null]));
    // Another version of the flow is the same flow, and another flow is another one.
    let text = json!({ "displayName": "T", "triggers": [{ "name": "t", "type": "manual" }], "steps": source(get) });
    let admin = world.admin();
    let revision = admin.flow(flow).await.unwrap().revision;
    admin.update_flow(flow, revision, text.to_string().as_bytes()).await.unwrap();
    admin.publish_flow(flow).await.unwrap();
    let stored = json!({ "list": [1, "é", null, true, 0.5] });
    assert_eq!(output(&world.run(flow, json!({})).await, "only"), json!([stored, stored, null, 1]));
    assert_eq!(gives(&world, get).await, json!([null, null, null, 1]));
    let gone = "await store.delete('b', 'PROJECT'); await store.delete('none'); return store.get('b', 'PROJECT');";
    assert_eq!(gives(&world, gone).await, Value::Null);
    assert_eq!(gives(&world, get).await, json!([null, null, null, null]));
}

#[tokio::test]
async fn a_step_sees_what_it_wrote_in_the_order_it_wrote_it() {
    let world = world(823, ValueLimits::default()).await;
    let body = "store.put('a', 1); const one = store.get('a'); store.put('a', 2); const two = store.get('a'); \
        store.delete('a'); const three = store.get('a'); store.put('a', null); \
        return [await one, await two, await three, await store.get('a'), await Promise.all([store.get('b'), store.get('b')])];";
    assert_eq!(gives(&world, body).await, json!([1, 2, null, null, [null, null]]));
    let steps = json!([
        script("first", "await store.put('x', 1); await store.put('y', 1); return 1;"),
        script("second", "await store.delete('x'); return store.get('y');"),
        script("third", "await store.put('y', 9); throw new Error('no luck');"),
    ]);
    let flow = world.publish_manual(steps).await;
    let view = world.run(flow, json!({})).await;
    assert_eq!((view.status, output(&view, "second")), (RunStatus::Failed, json!(1)));
    let of =
        async |key| world.admin().stored_value(ValueScope::Flow(flow), key).await.unwrap().map(|found| found.value);
    assert_eq!((of("x").await, of("y").await), (None, Some(json!(1))));
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_what_to_do() {
    let limits = ValueLimits::default().with_step_operations(5).unwrap().with_step_bytes(1 << 20).unwrap();
    let world = world(824, limits).await;
    let attempt = async |call: &str| {
        let body = format!(
            "try {{ {call}; return 'done'; }} catch (error) {{ return [error.name, error.code, error.message]; }}"
        );
        gives(&world, &body).await
    };
    for call in [
        "await store.put('k'.repeat(128), 1)",
        "await store.put('😀'.repeat(128), 1)",
        "await store.put('k', 'x'.repeat(512 * 1024 - 2))",
        "for (let i = 0; i < 5; i++) await store.get('k' + i)",
        "await store.put('k', NaN)",
    ] {
        assert_eq!(attempt(call).await, json!("done"), "{call}");
    }
    for (call, name, code, says) in [
        ("await store.put('', 1)", "TypeError", "ERR_INVALID_ARG_VALUE", "1 to 128 characters"),
        ("await store.put('k'.repeat(129), 1)", "TypeError", "ERR_INVALID_ARG_VALUE", "has 129"),
        ("await store.get(1)", "TypeError", "ERR_INVALID_ARG_TYPE", "of type string"),
        ("await store.get('k', 'flow')", "TypeError", "ERR_INVALID_ARG_VALUE", "'FLOW' or 'PROJECT'"),
        ("await store.put('k', undefined)", "TypeError", "ERR_INVALID_ARG_VALUE", "delete()"),
        ("await store.put('k', () => 1)", "TypeError", "ERR_INVALID_ARG_VALUE", "JSON"),
        ("await store.put('k', 1n)", "TypeError", "", ""),
        ("await store.put('k', 'x'.repeat(512 * 1024 - 1))", "Error", "ERR_STORE_LIMIT", "at most 512 KiB"),
        ("for (let i = 0; i < 6; i++) await store.get('k' + i)", "Error", "ERR_STORE_LIMIT", "at most 5 times"),
        (
            "for (let i = 0; i < 3; i++) await store.put('k' + i, 'x'.repeat(400 * 1024))",
            "Error",
            "ERR_STORE_LIMIT",
            "at most 1048576 bytes",
        ),
        (
            "let v = 1; for (let i = 0; i < 200; i++) v = [v]; await store.put('k', v)",
            "TypeError",
            "ERR_INVALID_ARG_VALUE",
            "",
        ),
    ] {
        let found = attempt(call).await;
        assert_eq!(found[0], json!(name), "{call}: {found}");
        assert!(code.is_empty() || found[1] == json!(code), "{call}: {found}");
        assert!(found[2].as_str().unwrap().contains(says), "{call}: {found}");
    }
    // Expressions have no store.
    let flow =
        world.publish_manual(json!([super::support::pure("only", json!("{{typeof ctx + typeof store + 1}}"))])).await;
    assert_eq!(output(&world.run(flow, json!({})).await, "only"), json!("undefinedundefined1"));
}

#[tokio::test]
async fn a_full_store_is_told_when_the_step_ends() {
    let world = world(825, ValueLimits::default().with_bytes(1 << 10).unwrap()).await;
    let view = run(&world, "await store.put('k', 'x'.repeat(1024)); return 1;").await;
    let error = step(&view, "only").error.clone().unwrap();
    assert_eq!((view.status, error.kind), (RunStatus::Failed, StepErrorKind::Limit));
    assert!(error.message.contains("at most 10000 values and 1024 bytes"), "{}", error.message);
}

#[tokio::test]
async fn what_stands_for_a_secret_is_not_stored_and_secrets_are_masked() {
    const CANARY: &str = "canary-secret-of-api";
    let world = world(826, ValueLimits::default()).await;
    let (secret, terms) = (ConnectionValue::SecretText { secret: CANARY.into() }, ConnectionTerms::default());
    let connection = Connection::new("api", secret, vec![], vec![]).unwrap().with_terms(terms).unwrap();
    let admin = world.admin();
    admin.put_connection(&connection).await.unwrap();
    let gives = async |call: &str| {
        let code = format!(
            "export const code = async ({{ api }}, {{ store }}) => {{ \
             try {{ return [await {call}]; }} catch (error) {{ return [error.code, error.message]; }} }};"
        );
        let step = json!({ "name": "only", "type": "code", "settings": { "sourceCode": { "code": code } },
            "input": { "api": "{{connections.api}}" } });
        let flow = world.publish_manual(json!([step])).await;
        let view = world.run(flow, json!({})).await;
        assert_eq!(view.status, RunStatus::Succeeded, "{call}: {:?}", view.error);
        output(&view, "only")
    };
    for call in [
        "store.put('k', api, 'PROJECT')",
        "store.put('k', { deep: [`Bearer ${api}`] }, 'PROJECT')",
        "store.put('k', { [api]: 1 }, 'PROJECT')",
        "store.put(api, 1, 'PROJECT')",
        "store.get(`x${api}`, 'PROJECT')",
        "store.delete(api, 'PROJECT')",
        // Escapes do not hide it.
        "store.put('k', { toJSON: () => api.split('').join('') }, 'PROJECT')",
    ] {
        let found = gives(call).await;
        assert_eq!(found[0], json!("ERR_STORE_SECRET"), "{call}: {found}");
        assert!(found[1].as_str().unwrap().contains("is not stored"), "{found}");
    }
    assert_eq!(admin.store_usage().await.unwrap().entries, 0);
    // One of another run is worthless text.
    let foreign = format!("apcred_{}", "C".repeat(43));
    assert_eq!(gives(&format!("store.put('k', '{foreign}', 'PROJECT')")).await, json!([foreign]));
    // What somebody put there by hand does not get into a run that knows it.
    admin.put_stored_value(ValueScope::Project, "leak", &json!({ "a": [format!("x {CANARY} y")] })).await.unwrap();
    let found = gives("store.get('leak', 'PROJECT')").await.to_string();
    assert!(found.contains("‹redacted:api›") && !found.contains(CANARY), "{found}");
}
