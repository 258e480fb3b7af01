//! The key-value store: what a step reads and writes is committed with its end, or not at all; and the store by hand.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering},
};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    capability::HttpRequest,
    id::{FlowId, ProjectId, UserId},
    run::{RunStatus, StepErrorKind},
    store::{Entity, PageRequest, StoreError},
};
use ap_runtime::{
    config::ValueLimits,
    engine::{RunView, StepSample},
    sandbox::{
        CodeError, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest, StoreAct, StoreCall, StoreScope,
    },
    session::{ProjectSession, SessionError, StepSource},
    store::ValueScope,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::support::{World, admin_session, output, pure, step};

/// Runs one script: it reads `n`, and somebody else changes it as often as told before it writes one more; `acts` sends a request
/// first, `fails` fails in the end.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<Meddling>);

#[derive(Debug, Default)]
struct Meddling {
    /// Who else changes the value, from when on there is a session.
    other: OnceLock<ProjectSession>,
    /// How often still.
    times: AtomicU32,
    /// How often the script ran.
    ran: AtomicU32,
}

#[async_trait]
impl CodeSandbox for Counting {
    async fn check(&self, _: ProjectId, _: CodeUnit) -> Result<(), CodeError> {
        Ok(())
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        let thrown = |error: &dyn std::error::Error| CodeError::Thrown {
            name: "Error".to_owned(),
            message: error.to_string(),
            place: None,
            stack: String::new(),
            console: vec![],
        };
        let call = |act| StoreCall { scope: StoreScope::Project, key: "n".to_owned(), act };
        self.0.ran.fetch_add(1, Ordering::SeqCst);
        if request.source.contains("acts") {
            let _ = request.host.fetch(HttpRequest::new("POST", "https://a.example/")).await;
        }
        let read = request.host.store(call(StoreAct::Get)).await.map_err(|error| thrown(&error))?;
        if let Some(other) = self.0.other.get()
            && self.0.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        {
            let found = other.stored_value(ValueScope::Project, "n").await.unwrap();
            let more = found.map_or(0, |found| found.value.as_u64().unwrap()) + 100;
            other.put_stored_value(ValueScope::Project, "n", &json!(more)).await.unwrap();
        }
        let number = read.map_or(0, |json| json.parse::<u64>().unwrap()) + 1;
        if request.source.contains("reads") {
            return Ok(CodeOutput { value: json!(number), console: vec![], console_truncated: false, fuel: None });
        }
        let put = call(StoreAct::Put(number.to_string()));
        request.host.store(put).await.map_err(|error| thrown(&error))?;
        if request.source.contains("fails") {
            return Err(thrown(&std::io::Error::other("no luck")));
        }
        if request.source.contains("hangs") {
            std::future::pending::<()>().await;
        }
        Ok(CodeOutput { value: json!(number), console: vec![], console_truncated: false, fuel: None })
    }

    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        Ok(request.expressions.iter().map(|_| Err(CodeError::NoValue)).collect())
    }
}

async fn world(seed: u64) -> (World, Arc<Meddling>) {
    let sandbox = Counting::default();
    let meddling = Arc::clone(&sandbox.0);
    let world = World::with(seed, |builder| builder.sandbox(sandbox)).await;
    meddling.other.set(world.admin()).unwrap();
    (world, meddling)
}

fn count(source: &str) -> Value {
    json!({ "name": "count", "type": "code", "settings": { "sourceCode": { "code": source } } })
}

async fn number(world: &World) -> Option<Value> {
    world.admin().stored_value(ValueScope::Project, "n").await.unwrap().map(|found| found.value)
}

fn failed(view: &RunView) -> StepErrorKind {
    step(view, "count").error.as_ref().unwrap_or_else(|| panic!("it succeeded: {view:?}")).kind
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_store_has_changed_is_run_again() {
    let (world, meddling) = world(801).await;
    let flow = world.publish_manual(json!([count("counts"), pure("after", json!("{{steps.count.output}}"))])).await;
    for (times, expected) in [(0, 1), (1, 102), (7, 803)] {
        meddling.times.store(times, Ordering::SeqCst);
        meddling.ran.store(0, Ordering::SeqCst);
        let view = world.run(flow, json!({})).await;
        assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
        assert_eq!((output(&view, "count"), output(&view, "after")), (json!(expected), json!(expected)));
        assert_eq!(number(&world).await, Some(json!(expected)));
        // To the flow it is one attempt.
        assert_eq!((meddling.ran.load(Ordering::SeqCst), step(&view, "count").attempts), (times + 1, 1));
    }
    // Who only reads is not disturbed.
    let reader = world.publish_manual(json!([count("reads")])).await;
    meddling.times.store(1, Ordering::SeqCst);
    meddling.ran.store(0, Ordering::SeqCst);
    assert_eq!(output(&world.run(reader, json!({})).await, "count"), json!(804));
    assert_eq!((meddling.ran.load(Ordering::SeqCst), number(&world).await), (1, Some(json!(903))));
}

#[tokio::test(start_paused = true)]
async fn a_step_that_never_gets_through_fails_in_the_end_and_may_be_retried() {
    let (world, meddling) = world(802).await;
    let mut again = count("counts");
    again["retry"] = json!({ "maxAttempts": 2 });
    let (once, twice) =
        (world.publish_manual(json!([count("counts")])).await, world.publish_manual(json!([again])).await);
    meddling.times.store(100, Ordering::SeqCst);
    let view = world.run(once, json!({})).await;
    assert_eq!((view.status, failed(&view)), (RunStatus::Failed, StepErrorKind::StoreBusy));
    assert_eq!((meddling.ran.load(Ordering::SeqCst), number(&world).await), (100, Some(json!(10_000))));
    meddling.times.store(100, Ordering::SeqCst);
    let view = world.run(twice, json!({})).await;
    assert_eq!((view.status, output(&view, "count")), (RunStatus::Succeeded, json!(20_001)));
    assert_eq!(step(&view, "count").attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_has_sent_requests_is_not_run_again() {
    let (world, meddling) = world(803).await;
    let publish = async |mut step: Value, more: Value| {
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let source = json!({ "displayName": "T", "allowedHosts": ["a.example"],
            "triggers": [{ "name": "t", "type": "manual" }], "steps": [step, pure("after", json!(1))] });
        world.publish_flow(source).await
    };
    let run = async |flow: FlowId, times| {
        meddling.times.store(times, Ordering::SeqCst);
        meddling.ran.store(0, Ordering::SeqCst);
        let view = world.run(flow, json!({})).await;
        (view, meddling.ran.load(Ordering::SeqCst))
    };
    let plain = publish(count("acts"), json!({ "retry": { "maxAttempts": 5 } })).await;
    let (view, ran) = run(plain, 0).await;
    assert_eq!((view.status, output(&view, "count"), ran), (RunStatus::Succeeded, json!(1), 1));
    let (view, ran) = run(plain, 1).await;
    assert_eq!((view.status, failed(&view), ran), (RunStatus::Failed, StepErrorKind::StoreConflict, 1));
    assert_eq!(number(&world).await, Some(json!(101)), "what it would have written was written");
    let forgiving = publish(count("acts"), json!({ "onError": "continue" })).await;
    let (view, ran) = run(forgiving, 1).await;
    assert_eq!((view.status, failed(&view), ran), (RunStatus::Succeeded, StepErrorKind::StoreConflict, 1));
    assert_eq!(output(&view, "after"), json!(1));
    // One that may send, and has not.
    let quiet = publish(count("counts"), json!({})).await;
    let (view, ran) = run(quiet, 2).await;
    assert_eq!((view.status, output(&view, "count"), ran), (RunStatus::Succeeded, json!(402), 3));
    // One that asked in vain, in a flow whose scripts reach nobody.
    let shut = world.publish_manual(json!([count("acts")])).await;
    let (view, ran) = run(shut, 1).await;
    assert_eq!((view.status, ran), (RunStatus::Succeeded, 2), "{:?}", view.error);
}

#[tokio::test(start_paused = true)]
async fn what_a_step_wrote_that_did_not_succeed_was_never_written() {
    let (world, _) = world(804).await;
    let mut hangs = count("hangs");
    hangs["timeout"] = json!(100);
    let mut fails = count("fails");
    fails["retry"] = json!({ "maxAttempts": 3 });
    for (step, kind) in [(fails, StepErrorKind::Script), (hangs, StepErrorKind::Timeout)] {
        let flow = world.publish_manual(json!([step])).await;
        let view = world.run(flow, json!({})).await;
        assert_eq!((view.status, failed(&view)), (RunStatus::Failed, kind));
        assert_eq!(number(&world).await, None);
    }
    // As long as the step goes on, nobody sees what it wrote.
    let flow = world.publish_manual(json!([count("hangs")])).await;
    let run = world.start(flow, json!({})).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(number(&world).await, None);
    world.admin().cancel_run(run, "it hangs").await.unwrap();
    assert_eq!(world.ended(run).await.status, RunStatus::Canceled);
    assert_eq!(world.admin().store_usage().await.unwrap().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_fails_the_step_that_would_add_to_it() {
    let limits = ValueLimits::default().with_entries(1).unwrap();
    let world = World::with(806, |builder| builder.sandbox(Counting::default()).value_limits(limits)).await;
    let admin = world.admin();
    let flow = world.publish_manual(json!([count("counts")])).await;
    admin.put_stored_value(ValueScope::Flow(flow), "other", &json!(true)).await.unwrap();
    let view = world.run(flow, json!({})).await;
    assert_eq!((view.status, failed(&view)), (RunStatus::Failed, StepErrorKind::Limit));
    let full = admin.put_stored_value(ValueScope::Project, "n", &json!(1)).await;
    assert!(matches!(full, Err(SessionError::Store(StoreError::LimitExceeded { entity: Entity::Value }))), "{full:?}");
    admin.delete_stored_value(ValueScope::Flow(flow), "other").await.unwrap();
    assert_eq!(output(&world.run(flow, json!({})).await, "count"), json!(1));
    let usage = admin.store_usage().await.unwrap();
    assert_eq!((usage.entries, usage.most_entries, usage.bytes), (1, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_test_of_a_step_reads_the_store_and_leaves_it_alone() {
    let (world, _) = world(807).await;
    let flow = world.publish_manual(json!([count("counts")])).await;
    let admin = world.admin();
    admin.put_stored_value(ValueScope::Project, "n", &json!(6)).await.unwrap();
    for _ in 0..2 {
        let sample = StepSample { trigger: json!({}), outputs: Default::default(), item: None };
        let tested = admin.test_step(flow, StepSource::Draft, "count", sample).await.unwrap();
        assert_eq!((tested.output, tested.error), (Some(json!(7)), None));
    }
    assert_eq!(number(&world).await, Some(json!(6)));
}

#[tokio::test(start_paused = true)]
async fn values_are_read_and_changed_by_hand_with_the_right_to() {
    let world = World::new(808).await;
    let (admin, flow) = (world.admin(), world.publish_manual(json!([pure("a", json!(1))])).await);
    let (shared, own) = (ValueScope::Project, ValueScope::Flow(flow));
    assert_eq!(admin.stored_value(shared, "k").await.unwrap(), None);
    for number in 0..120 {
        admin.put_stored_value(shared, &format!("key-{number}"), &json!({ "n": number })).await.unwrap();
    }
    admin.put_stored_value(own, "key-1", &json!("mine")).await.unwrap();
    assert_eq!(admin.stored_value(shared, "key-1").await.unwrap().unwrap().value, json!({ "n": 1 }));
    assert_eq!(admin.stored_value(own, "key-1").await.unwrap().unwrap().value, json!("mine"));
    let (mut keys, mut page, mut pages) = (Vec::new(), PageRequest::first(500), 0);
    loop {
        let found = admin.stored_keys(shared, &page).await.unwrap();
        assert!(found.items.len() <= ProjectSession::MOST_STORED_KEYS as usize);
        keys.extend(found.items.into_iter().map(|one| one.key));
        pages += 1;
        match found.next {
            Some(cursor) => page = page.after(cursor),
            None => break,
        }
    }
    keys.sort();
    let mut expected: Vec<String> = (0..120).map(|number| format!("key-{number}")).collect();
    expected.sort();
    assert_eq!((keys, pages), (expected, 3));
    let listed = admin.stored_keys(own, &PageRequest::default()).await.unwrap().items;
    assert_eq!(listed.iter().map(|one| (&*one.key, one.bytes)).collect::<Vec<_>>(), [("key-1", 5 + 6)]);
    admin.delete_stored_value(shared, "key-1").await.unwrap();
    admin.delete_stored_value(shared, "key-1").await.unwrap();
    assert_eq!(admin.stored_value(shared, "key-1").await.unwrap(), None);
    assert_eq!(admin.store_usage().await.unwrap().entries, 120);

    let edge = "ä".repeat(128);
    admin.put_stored_value(shared, &edge, &Value::Null).await.unwrap();
    assert_eq!(admin.stored_value(shared, &edge).await.unwrap().unwrap().value, Value::Null);
    let most = "x".repeat(ValueLimits::VALUE_BYTES - 2);
    admin.put_stored_value(shared, "large", &json!(most)).await.unwrap();
    let deep = (0..101).fold(json!(1), |inner, _| json!([inner]));
    for (key, value) in
        [("", json!(1)), (&*format!("{edge}x"), json!(1)), ("large", json!(most.clone() + "x")), ("deep", deep)]
    {
        let refused = admin.put_stored_value(shared, key, &value).await;
        assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{refused:?}");
    }
    let nowhere = ValueScope::Flow(FlowId::from_u128(1));
    let refused = admin.put_stored_value(nowhere, "k", &json!(1)).await;
    assert!(matches!(refused, Err(SessionError::Store(StoreError::NotFound { entity: Entity::Flow }))), "{refused:?}");

    let as_role = |role| {
        let principal = Principal::user(UserId::from_u128(2)).with_role(world.project, role);
        world.runtime.session(principal).project(world.project).unwrap()
    };
    let (viewer, editor) = (as_role(Role::Viewer), as_role(Role::Editor));
    assert!(viewer.stored_value(shared, "key-2").await.unwrap().is_some());
    let denied = viewer.put_stored_value(shared, "key-2", &json!(0)).await;
    assert!(matches!(denied, Err(SessionError::Denied(_))), "{denied:?}");
    let denied = viewer.delete_stored_value(shared, "key-2").await;
    assert!(matches!(denied, Err(SessionError::Denied(_))), "{denied:?}");
    editor.put_stored_value(shared, "key-2", &json!(0)).await.unwrap();
    let trail = admin.audit(&PageRequest::first(500)).await.unwrap().items;
    let writes: Vec<_> = trail.iter().filter(|event| event.action() == "store.write").collect();
    // Refused ones are there as well, where the authorizer writes them down.
    assert!(writes.len() > 120 + 1 + 2 + 2, "{}", writes.len());
    assert!(writes.iter().any(|event| serde_json::to_string(event).unwrap().contains("key-119")));
}

#[tokio::test(start_paused = true)]
async fn a_project_sees_no_value_of_another() {
    let world = World::new(809).await;
    let other = admin_session(&world.runtime, None).create_project("Other").await.unwrap();
    let theirs = admin_session(&world.runtime, Some(other)).project(other).unwrap();
    let (admin, shared) = (world.admin(), ValueScope::Project);
    admin.put_stored_value(shared, "k", &json!("ours")).await.unwrap();
    assert_eq!(theirs.stored_value(shared, "k").await.unwrap(), None);
    theirs.put_stored_value(shared, "k", &json!("theirs")).await.unwrap();
    theirs.put_stored_value(shared, "l", &json!(1)).await.unwrap();
    admin.delete_stored_value(shared, "l").await.unwrap();
    assert_eq!(admin.stored_value(shared, "k").await.unwrap().unwrap().value, json!("ours"));
    assert_eq!(theirs.stored_keys(shared, &PageRequest::default()).await.unwrap().items.len(), 2);
    assert_eq!(admin.stored_keys(shared, &PageRequest::default()).await.unwrap().items.len(), 1);
    assert_eq!((admin.store_usage().await.unwrap().entries, theirs.store_usage().await.unwrap().entries), (1, 2));
}
