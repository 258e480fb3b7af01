//! Secrets of connections as keys of scripts that reach nothing, with the real sandbox.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ap_auth::audit::{AuditEvent, Detail};
use ap_core::{
    connection::{Connection, ConnectionTerms, ConnectionValue},
    run::RunStatus,
    store::PageRequest,
};
use ap_runtime::{
    engine::RunView,
    sandbox::{SandboxCapacity, WasmSandbox},
    secret::{SecretError, SecretResolver},
    session::{IfUsed, StepSource},
};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::support::{World, admin_session, output};

const CANARY: &str = "canary-secret-of-api";

/// Has one key, gives it if it is there, and counts.
#[derive(Clone, Debug, Default)]
struct Manager(Arc<Mutex<(Option<&'static str>, u32)>>);

#[async_trait]
impl SecretResolver for Manager {
    fn scheme(&self) -> &str {
        "vault"
    }

    fn check(&self, _: &str) -> Result<(), SecretError> {
        Ok(())
    }

    async fn resolve(&self, _: &str) -> Result<SecretString, SecretError> {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        state.0.map(Into::into).ok_or(SecretError::Denied)
    }
}

async fn world(seed: u64, manager: &Manager) -> World {
    let sandbox = WasmSandbox::start(SandboxCapacity::default().with_threads(2).unwrap()).unwrap();
    World::with(seed, |builder| builder.sandbox(sandbox).secrets(manager.clone())).await
}

fn key(secret: &str) -> Connection {
    let terms = ConnectionTerms { pieces: vec!["crypto".to_owned()], ..ConnectionTerms::default() };
    let value = ConnectionValue::SecretText { secret: secret.into() };
    Connection::new("api", value, vec![], vec![]).unwrap().with_terms(terms).unwrap()
}

/// A step that signs with what `made` makes of its parameter `key`.
fn sign(name: &str, key: &str, made: &str) -> Value {
    let code = format!(
        "export const code = async ({{ key }}) => {{ const c = require('crypto'); \
         const sign = (key) => c.createHmac('sha256', key).update('x').digest('hex'); {made} }};"
    );
    json!({ "name": name, "type": "code", "settings": { "sourceCode": { "code": code } }, "input": { "key": key } })
}

async fn run(world: &World, steps: Value) -> RunView {
    let flow = world.publish_manual(steps).await;
    world.run(flow, json!({})).await
}

/// What the secret itself gives.
async fn expected(world: &World, secret: &str) -> Value {
    let parts = secret.split('-').collect::<Vec<_>>();
    let made = format!("return sign({}.join('-'));", json!(parts));
    output(&run(world, json!([sign("own", "none", &made)])).await, "own")
}

/// The steps whose uses of connections are in the audit trail, in no order.
async fn uses(world: &World) -> Vec<String> {
    let events = world.admin().audit(&PageRequest::first(PageRequest::MAX_LIMIT)).await.unwrap().items;
    let step = |event: &AuditEvent| match event.details().get("step") {
        Some(Detail::Text(step)) => step.as_str().to_owned(),
        other => panic!("{other:?}"),
    };
    let mut steps: Vec<_> = events.iter().filter(|event| event.action() == "connection.use").map(step).collect();
    steps.sort_unstable();
    steps
}

fn message(view: &RunView, index: usize) -> String {
    view.steps[index].error.clone().expect("an error").message
}

async fn provision(world: &World) {
    let json = br#"{ "type": "SECRET_TEXT", "pieces": ["crypto"], "secret_text": { "from": "vault:crm#key" } }"#;
    let connection = Connection::from_json("api", json, None, world.clock.now()).unwrap();
    admin_session(&world.runtime, None).provision_connection(world.project, connection).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_kept_elsewhere_is_asked_for() {
    let manager = Manager::default();
    let world = world(851, &manager).await;
    provision(&world).await;
    manager.0.lock().unwrap().0 = Some(CANARY);
    let signed = run(&world, json!([sign("s", "{{connections.api}}", "return sign(key);")])).await;
    assert_eq!(signed.status, RunStatus::Succeeded, "{:?}", signed.error);
    assert_eq!(output(&signed, "s"), expected(&world, CANARY).await);
    assert_eq!((uses(&world).await, manager.0.lock().unwrap().1), (vec!["s".to_owned()], 1));
}

#[tokio::test]
async fn a_key_that_cannot_be_had_is_refused_with_the_reason_and_is_no_text() {
    for found in [None, Some("short")] {
        let manager = Manager::default();
        let world = world(852, &manager).await;
        provision(&world).await;
        manager.0.lock().unwrap().0 = found;
        let steps = json!([sign("s", "{{connections.api}}", "return sign(key);")]);
        let signed = run(&world, steps.clone()).await;
        assert_eq!(signed.status, RunStatus::Failed);
        assert!(message(&signed, 0).contains("connection `api` cannot be used"), "{}", message(&signed, 0));
        // A script that does without it goes on.
        let steps =
            json!([sign("s", "{{connections.api}}", "try { sign(key); } catch (error) { return error.message; }")]);
        let told = run(&world, steps).await;
        assert!(output(&told, "s").as_str().unwrap().contains("cannot be used"), "{:?}", output(&told, "s"));
    }
}

#[tokio::test]
async fn a_key_is_the_one_of_the_moment() {
    let world = world(853, &Manager::default()).await;
    let admin = world.admin();
    admin.put_connection(&key(CANARY)).await.unwrap();
    let wait = "const first = sign(key); await new Promise((done) => setTimeout(done, 1500)); return first;";
    let again = "try { return sign(key); } catch (error) { return error.message; }";
    let steps = json!([sign("first", "{{connections.api}}", wait), sign("second", "{{connections.api}}", again),]);
    let flow = world.publish_manual(steps).await;
    let begun = async || {
        while uses(&world).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let replace = async {
        begun().await;
        admin.put_connection(&key("canary-secret-that-is-new")).await.unwrap();
    };
    let (ended, ()) = tokio::join!(world.run(flow, json!({})), replace);
    assert_eq!(output(&ended, "first"), expected(&world, CANARY).await);
    assert_eq!(output(&ended, "second"), expected(&world, "canary-secret-that-is-new").await);
    let before = uses(&world).await.len();
    let delete = async {
        while uses(&world).await.len() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        admin.delete_connection("api", IfUsed::DeleteAnyway).await.unwrap();
    };
    let (ended, ()) = tokio::join!(world.run(flow, json!({})), delete);
    let refused = output(&ended, "second");
    assert!(refused.as_str().unwrap().contains("or for one that is gone"), "{refused}");
}

#[tokio::test]
async fn a_key_whose_time_is_over_is_refused() {
    let world = world(854, &Manager::default()).await;
    let soon = world.clock.now().saturating_add(Duration::from_millis(500));
    let terms = ConnectionTerms { expires: Some(soon), ..key(CANARY).terms().clone() };
    world.admin().put_connection(&key(CANARY).with_terms(terms).unwrap()).await.unwrap();
    world.clock.sleep_until(soon).await;
    let signed = run(&world, json!([sign("s", "{{connections.api}}", "return sign(key);")])).await;
    assert!(message(&signed, 0).contains("has expired"), "{}", message(&signed, 0));
}

#[tokio::test]
async fn no_key_is_used_without_an_audit_record() {
    let world = world(855, &Manager::default()).await;
    world.admin().put_connection(&key(CANARY)).await.unwrap();
    let expected = expected(&world, CANARY).await;
    let backwards = "{{[...connections.api.secret_text].reverse().join('')}}";
    let turned = "return sign([...key].reverse().join(''));";
    let view = run(&world, json!([sign("hidden", backwards, turned)])).await;
    assert_eq!((view.status, output(&view, "hidden")), (RunStatus::Succeeded, expected.clone()));
    assert_eq!(uses(&world).await, ["hidden"]);
    // Handed on as it is, it stands in what the step is given.
    let hand_on = json!([
        sign("giver", "{{connections.api}}", "return { deep: [`k:${key}`] };"),
        sign("taker", "{{steps.giver.output}}", "return sign(key.deep[0].slice(2));"),
    ]);
    let view = run(&world, hand_on).await;
    assert_eq!(output(&view, "taker"), expected);
    assert_eq!(uses(&world).await, ["giver", "hidden", "taker"]);
    // Hidden before it is handed on, nothing says so: it is not used.
    let hidden = json!([
        sign("giver", "{{connections.api}}", "return [...key].reverse().join('');"),
        sign("taker", "{{steps.giver.output}}", turned),
    ]);
    let view = run(&world, hidden).await;
    assert_eq!(view.status, RunStatus::Failed);
    assert!(message(&view, 1).contains("write `{{connections.api}}` in the parameters"), "{}", message(&view, 1));
    assert_eq!(uses(&world).await, ["giver", "giver", "hidden", "taker"]);
}

#[tokio::test]
async fn a_tested_script_is_held_to_the_same() {
    let world = world(856, &Manager::default()).await;
    let admin = world.admin();
    admin.put_connection(&key(CANARY)).await.unwrap();
    let flow = json!({ "displayName": "F", "triggers": [{ "name": "t", "type": "manual" }], "steps": [
        sign("s", "{{[...connections.api.secret_text].reverse().join('')}}", "return sign([...key].reverse().join(''));"),
    ] });
    let flow = admin.create_flow(flow.to_string().as_bytes()).await.unwrap();
    let tested = admin.test_step(flow.id, StepSource::Draft, "s", Default::default()).await.unwrap();
    assert_eq!((tested.error, tested.output), (None, Some(expected(&world, CANARY).await)));
    assert_eq!(uses(&world).await, ["s"]);
}

#[tokio::test]
async fn a_secret_that_was_revealed_is_no_key_of_the_store() {
    let world = world(857, &Manager::default()).await;
    let terms = ConnectionTerms { reveal_to_code: true, ..key(CANARY).terms().clone() };
    world.admin().put_connection(&key(CANARY).with_terms(terms).unwrap()).await.unwrap();
    for call in [
        "store.put(key, 1, 'PROJECT')",
        "store.put(`x-${btoa(key)}`, 1, 'PROJECT')",
        "store.get(key, 'PROJECT')",
        "store.delete(key)",
    ] {
        let code = format!(
            "export const code = async ({{ key }}, {{ store }}) => {{ \
             try {{ return [await {call}]; }} catch (error) {{ return [error.code, error.message]; }} }};"
        );
        let step = json!({ "name": "only", "type": "code", "settings": { "sourceCode": { "code": code } },
            "input": { "key": "{{connections.api}}" } });
        let found = output(&run(&world, json!([step])).await, "only");
        assert_eq!(found[0], json!("ERR_STORE_SECRET"), "{call}: {found}");
        assert!(found[1].as_str().unwrap().contains("use a key that holds none"), "{found}");
    }
    assert_eq!(world.admin().store_usage().await.unwrap().entries, 0);
}
