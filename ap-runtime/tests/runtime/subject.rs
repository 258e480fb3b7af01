//! Data subjects: whose data a run holds, and what is left of it when it is erased.

use std::{sync::Arc, time::Duration};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    id::{FlowId, ProjectId, RunId, UserId},
    run::RunStatus,
    store::{Entity, PageRequest, StoreError},
    time::Timestamp,
};
use ap_crypto::{envelope::SealContext, key::RootKey, keyring::Keyring, provider::MemoryKeyProvider};
use ap_runtime::{
    runtime::Runtime,
    session::{ErasureReceipt, ProjectSession, RetryStrategy, SessionError},
    store::{CellKey, CellStore, CellTable, RunStore, SubjectStore},
};
use http::StatusCode;
use serde_json::{Value, json};

use super::support::{FakePiece, FakeSandbox, SeededEntropy, World, admin_session, call, output, pure, root_key};

const ANN: &str = "ann@example.com";
const BOB: &str = "bob@example.com";

async fn start_about(world: &World, flow: FlowId, payload: Value, subject: &str) -> RunId {
    world.admin().start_run_about(flow, payload, subject).await.unwrap()
}

async fn ended_about(world: &World, flow: FlowId, payload: Value, subject: &str) -> RunId {
    let run = start_about(world, flow, payload, subject).await;
    world.admin().wait_for_run(run, Duration::from_secs(60)).await.unwrap();
    run
}

async fn status(admin: &ProjectSession, run: RunId) -> RunStatus {
    admin.wait_for_run(run, Duration::ZERO).await.unwrap()
}

#[track_caller]
fn is_erased<T: std::fmt::Debug>(result: Result<T, SessionError>, receipt: &ErasureReceipt) {
    match result {
        Err(SessionError::Erased { at }) => assert_eq!(at, receipt.erased_at),
        other => panic!("not told that it was erased: {other:?}"),
    }
}

/// Sends to a webhook: the status, and the answer.
async fn post(world: &World, path: &str, headers: &[(&str, &str)], body: Value) -> (StatusCode, Value) {
    let mut request = http::Request::post(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = http_body_util::Full::<bytes::Bytes>::from(body.to_string());
    let response = world.runtime.webhooks().handle(request.body(body).unwrap()).await;
    (response.status(), serde_json::from_slice(response.body()).unwrap_or_default())
}

fn run_of(answer: &Value) -> RunId {
    answer["runId"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_erased_is_said_to_be_and_all_else_stays() {
    let world = World::new(901).await;
    let admin = world.admin();
    let flow = world.publish_manual(json!([pure("a", json!("{{trigger.text}}"))])).await;
    let large = json!({ "text": "l".repeat(300 << 10) });
    let anns = [
        ended_about(&world, flow, json!({ "text": "of ann" }), ANN).await,
        ended_about(&world, flow, large.clone(), ANN).await,
    ];
    let bobs = ended_about(&world, flow, json!({ "text": "of bob" }), BOB).await;
    let nobodys = world.run(flow, json!({ "text": "of nobody" })).await.id;
    assert_eq!(output(&world.view(anns[0]).await, "a"), json!("of ann"));
    assert_eq!(output(&world.view(anns[1]).await, "a"), large["text"]);

    let receipt = admin.erase(ANN).await.unwrap();
    assert_eq!((receipt.runs, receipt.files), (2, 1));
    assert!(receipt.journal_entries >= 4, "{receipt:?}");
    for run in anns {
        is_erased(admin.run(run).await, &receipt);
        assert_eq!(status(&admin, run).await, RunStatus::Succeeded, "that there was a run stays");
    }
    assert_eq!(output(&world.view(bobs).await, "a"), json!("of bob"));
    assert_eq!(output(&world.view(nobodys).await, "a"), json!("of nobody"));
    assert_eq!(admin.runs(Default::default(), &PageRequest::default()).await.unwrap().items.len(), 4);

    let trail = admin.audit(&PageRequest::first(500)).await.unwrap().items;
    let erased: Vec<Value> = trail
        .iter()
        .filter(|event| event.action() == "subject.erase")
        .map(|event| serde_json::to_value(event).unwrap())
        .collect();
    assert_eq!(erased.len(), 1);
    assert_eq!(erased[0]["details"]["key"], json!(receipt.key.to_string()));
    assert!(!serde_json::to_string(&trail).unwrap().contains("ann@"), "the trail names the subject");
    assert!(trail.iter().filter(|event| event.action() == "run.start").count() >= 4);

    // Once more: the same receipt, and no second record.
    assert_eq!(admin.erase(ANN).await.unwrap(), receipt);
    let world = world.crash(902, Duration::ZERO).await;
    assert_eq!(world.admin().erase(ANN).await.unwrap(), receipt);
    is_erased(world.admin().run(anns[0]).await, &receipt);
    assert_eq!(world.admin().audit(&PageRequest::first(500)).await.unwrap().items.len(), trail.len());
    let unknown = world.admin().erase("carol").await.unwrap_err();
    assert!(matches!(unknown, SessionError::Store(StoreError::NotFound { entity: Entity::Subject })), "{unknown}");
}

/// Whoever has the tenant's key, and every row, reads nothing of what was erased.
#[tokio::test(start_paused = true)]
async fn nothing_opens_what_was_erased() {
    let world = World::new(903).await;
    let flow = world.publish_manual(json!([pure("a", json!("{{trigger.text}}"))])).await;
    let canary = "canary-of-ann ".repeat(30 << 10);
    for subject in [ANN, BOB] {
        ended_about(&world, flow, json!({ "text": canary }), subject).await;
    }
    let key = Keyring::new(root_key(), world.backend.clone());
    let tenant = key.tenant(world.project.into()).await.unwrap();
    let receipt = world.admin().erase(ANN).await.unwrap();
    let scope = world.project.into();
    let (mut erased, mut kept) = (0, 0);
    for table in [CellTable::Journal, CellTable::Files] {
        for cell in world.backend.cells(table, ap_core::id::KeyId::from_u128(0), None, 1_000, scope).await.unwrap() {
            let (id, seq) = cell.key.position();
            let record = id.to_be_bytes();
            let context = match cell.key {
                CellKey::Journal(..) => SealContext {
                    scope,
                    table: "run_journal",
                    record: &record,
                    field: "events",
                    version: u64::try_from(seq).unwrap(),
                    purpose: "journal",
                },
                _ => SealContext {
                    scope,
                    table: "files",
                    record: &record,
                    field: "content",
                    version: 1,
                    purpose: "at-rest",
                },
            };
            let outside = tenant.open(&context, &cell.sealed).unwrap();
            let inside = envelope_key(&outside);
            assert!(!String::from_utf8_lossy(&outside).contains("canary"), "{:?}", cell.key);
            match world.backend.subject_key_by_id(inside, world.project).await {
                Ok(_) => kept += 1,
                Err(_) => {
                    assert_eq!(inside, receipt.key);
                    erased += 1;
                }
            }
        }
    }
    assert_eq!(erased, receipt.journal_entries + receipt.files);
    assert_eq!(erased, kept, "both subjects did the same");
}

fn envelope_key(bytes: &[u8]) -> ap_core::id::KeyId {
    ap_crypto::envelope::key_id(&ap_core::store::Sealed::from_bytes(bytes.to_vec().into())).expect("an envelope")
}

#[tokio::test(start_paused = true)]
async fn runs_that_have_not_ended_end_at_once() {
    let world = World::new(905).await;
    let admin = world.admin();
    let waiting = world
        .publish_manual(json!([
            call("mail", "act", json!({ "value": "{{$wait.hold.token}}" })),
            { "name": "hold", "type": "wait", "settings": { "mode": "webhook" } },
        ]))
        .await;
    let delayed =
        world.publish_manual(json!([{ "name": "d", "type": "delay", "settings": { "delayMs": 600_000 } }])).await;
    let gated = world
        .publish_flow(json!({
            "displayName": "Gated",
            "triggers": [{ "name": "t", "type": "manual" }],
            "concurrency": { "limit": 1 },
            "steps": [{ "name": "d", "type": "delay", "settings": { "delayMs": 600_000 } }],
        }))
        .await;
    let hanging = world.publish_manual(json!([call("hang", "act", json!({ "value": 1, "ms": 3_600_000 }))])).await;

    let mut anns = Vec::new();
    for flow in [waiting, delayed, gated, gated] {
        anns.push(start_about(&world, flow, json!({}), ANN).await);
    }
    let behind = world.start(gated, json!({})).await;
    let bobs = start_about(&world, delayed, json!({}), BOB).await;
    for run in [anns[0], anns[1], anns[2], bobs] {
        world.paused(run).await;
    }
    anns.push(start_about(&world, hanging, json!({}), ANN).await);
    world.calls(2).await;
    assert_eq!(status(&admin, anns[3]).await, RunStatus::Queued, "it waits before the gate");
    assert_eq!(status(&admin, anns[4]).await, RunStatus::Running);

    let receipt = admin.erase(ANN).await.unwrap();
    assert_eq!(receipt.runs, 5);
    for run in &anns {
        assert_eq!(status(&admin, *run).await, RunStatus::Canceled, "{run}");
        is_erased(admin.run(*run).await, &receipt);
        is_erased(admin.retry_run(*run, RetryStrategy::FromFailedStep).await, &receipt);
        admin.cancel_run(*run, "again").await.unwrap();
    }
    // The gate is free again, and the other subject's run is where it was.
    world.paused(behind).await;
    assert_eq!(status(&admin, bobs).await, RunStatus::Paused);
    // Whoever was to answer is told that it is over.
    let log = world.peer.log.lock().unwrap().clone();
    let token =
        log.iter().find_map(|(key, value, _)| key.ends_with("/mail").then(|| value.as_str().unwrap().to_owned()));
    let request = http::Request::post(format!("/resume/{}", token.unwrap()));
    let answer = request.body(http_body_util::Full::<bytes::Bytes>::from("{}")).unwrap();
    assert_eq!(world.runtime.resumes().handle(answer).await.status(), StatusCode::GONE);
    // They stay ended, whoever looks, whenever.
    tokio::time::sleep(Duration::from_secs(7_200)).await;
    let world = world.crash(906, Duration::from_secs(3_600)).await;
    for run in &anns {
        assert_eq!(status(&world.admin(), *run).await, RunStatus::Canceled, "{run}");
    }
    assert_eq!(world.ended(bobs).await.status, RunStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn another_process_lets_go_of_what_was_erased() {
    let world = World::new(907).await;
    let other = world.another_worker(Arc::clone(&world.clock), 908).await;
    let theirs = admin_session(&other, Some(world.project)).project(world.project).unwrap();
    let flow = world
        .publish_manual(json!([
            call("hang", "act", json!({ "value": 1, "ms": 5_000 })),
            call("after", "act", json!({ "value": "{{trigger.text}}" })),
        ]))
        .await;
    let run = theirs.start_run_about(flow, json!({ "text": "of ann" }), ANN).await.unwrap();
    world.calls(1).await;
    theirs.run(run).await.unwrap();
    let receipt = world.admin().erase(ANN).await.unwrap();
    // Nothing of it is cached there: the next read knows.
    is_erased(theirs.run(run).await, &receipt);
    assert_eq!(theirs.erase(ANN).await.unwrap(), receipt);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1, "the other process went on");
    assert_eq!(status(&theirs, run).await, RunStatus::Canceled);
    // A new run about the same subject has a key of its own, whoever starts it.
    let again = theirs.start_run_about(flow, json!({ "text": "back" }), ANN).await.unwrap();
    assert_eq!(theirs.wait_for_run(again, Duration::from_secs(600)).await.unwrap(), RunStatus::Succeeded);
    let second = world.admin().erase(ANN).await.unwrap();
    assert!(second.key != receipt.key && second.runs == 1 && second.erased_at > receipt.erased_at);
    is_erased(theirs.run(run).await, &receipt);
    is_erased(theirs.run(again).await, &second);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_says_whom_a_run_is_about() {
    let world = World::new(909).await;
    let publish = |subject: &'static str| {
        let world = &world;
        async move {
            use secrecy::ExposeSecret;
            let flow = world
                .publish_flow(json!({
                    "displayName": "Hook",
                    "triggers": [{ "name": "hook", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
                    "subject": subject,
                    "steps": [pure("a", json!("{{trigger.body}}"))],
                }))
                .await;
            format!("/hooks/{}", world.admin().webhook_token(flow).await.unwrap().expose_secret())
        }
    };
    let (by_body, by_header, maybe) = (
        publish("{{trigger.body.customer.id}}").await,
        publish("{{trigger.headers.x-customer}}").await,
        publish("{{trigger.body.customer ?? null}}").await,
    );
    let admin = world.admin();
    let (accepted, of_body) = post(&world, &by_body, &[], json!({ "customer": { "id": 7 } })).await;
    assert_eq!(accepted, StatusCode::ACCEPTED);
    let (accepted, of_header) = post(&world, &by_header, &[("x-customer", "7")], json!({})).await;
    assert_eq!(accepted, StatusCode::ACCEPTED);
    let (accepted, other) = post(&world, &by_header, &[("x-customer", "8")], json!({})).await;
    assert_eq!(accepted, StatusCode::ACCEPTED);
    let (accepted, nobody) = post(&world, &maybe, &[], json!({})).await;
    assert_eq!(accepted, StatusCode::ACCEPTED);
    // Who cannot say whom it is about is told so; nothing is kept uncovered.
    for body in [
        json!({}),
        json!({ "customer": { "id": "" } }),
        json!({ "customer": { "id": [1] } }),
        json!({ "customer": { "id": "x".repeat(1_025) } }),
    ] {
        let (refused, _) = post(&world, &by_body, &[], body.clone()).await;
        assert_eq!(refused, StatusCode::BAD_REQUEST, "{body}");
    }
    let (accepted, longest) = post(&world, &by_body, &[], json!({ "customer": { "id": "x".repeat(1_024) } })).await;
    assert_eq!(accepted, StatusCode::ACCEPTED);
    for answer in [&of_body, &of_header, &other, &nobody, &longest] {
        assert_eq!(world.ended(run_of(answer)).await.status, RunStatus::Succeeded);
    }
    assert_eq!(world.backend.run(run_of(&nobody), world.project).await.unwrap().subject, None);

    let receipt = admin.erase("7").await.unwrap();
    assert_eq!(receipt.runs, 2);
    is_erased(admin.run(run_of(&of_body)).await, &receipt);
    is_erased(admin.run(run_of(&of_header)).await, &receipt);
    assert!(admin.run(run_of(&other)).await.is_ok());
    // A delivery after that is not lost: it has another key.
    let (accepted, again) = post(&world, &by_body, &[], json!({ "customer": { "id": "7" } })).await;
    assert_eq!(accepted, StatusCode::ACCEPTED);
    assert_eq!(world.ended(run_of(&again)).await.status, RunStatus::Succeeded);
    is_erased(admin.run(run_of(&of_body)).await, &receipt);
}

#[tokio::test(start_paused = true)]
async fn what_a_poll_finds_is_about_whom_each_item_says() {
    let world = World::new(911).await;
    *world.peer.items.lock().unwrap() = [(1, Some("1")), (2, Some("1")), (3, Some("2")), (4, None)]
        .map(|(number, customer)| (Some(number.to_string()), json!({ "n": number, "customer": customer })))
        .into();
    let flow = world
        .publish_flow(json!({
            "displayName": "Polled",
            "triggers": [{ "name": "new", "type": "fake.items", "settings": {}, "pollIntervalMs": 86_400_000 }],
            "subject": "{{trigger.customer}}",
            "steps": [pure("a", json!("{{trigger.n}}"))],
        }))
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.triggers(flow).await.len(), 4);
    assert_eq!(world.admin().erase("1").await.unwrap().runs, 2);
    assert_eq!(world.admin().erase("2").await.unwrap().runs, 1);
    let runs = world.admin().runs(super::support::of_flow(flow), &PageRequest::default()).await.unwrap().items;
    assert_eq!(runs.iter().filter(|run| run.subject.is_none()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_subflow_is_about_whom_its_parent_is_about() {
    let world = World::new(913).await;
    let admin = world.admin();
    let child = world
        .publish_flow(json!({
            "displayName": "Child",
            "triggers": [{ "name": "t", "type": "manual" }],
            "subject": "{{trigger.customer ?? null}}",
            "steps": [
                pure("a", json!("{{trigger.text}}")),
                { "name": "d", "type": "delay", "settings": { "delayMs": 600_000 } },
            ],
        }))
        .await;
    let sub = |payload: Value| json!({ "name": "sub", "type": "subflow", "settings": { "flow": child.to_string(), "payload": payload } });
    let parent =
        world.publish_manual(json!([sub(json!({ "text": "{{trigger.text}}", "customer": "somebody else" }))])).await;
    let run = start_about(&world, parent, json!({ "text": "of ann" }), ANN).await;
    world.paused(run).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let receipt = admin.erase(ANN).await.unwrap();
    assert_eq!(receipt.runs, 2);
    for run in admin.runs(Default::default(), &PageRequest::default()).await.unwrap().items {
        assert_eq!(run.status, RunStatus::Canceled);
        is_erased(admin.run(run.id).await, &receipt);
    }
    // A run about nobody holds what it hands on, so it cannot hand it to a run about somebody.
    let run = world.run(parent, json!({ "text": "uncovered" })).await;
    assert_eq!(run.status, RunStatus::Failed);
    assert!(run.error.unwrap().message.contains("names a data subject"));
    let plain = world.publish_manual(json!([sub(json!({ "text": "of nobody" }))])).await;
    let run = world.ended(world.start(plain, json!({})).await).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
}

#[tokio::test(start_paused = true)]
async fn an_erasure_that_was_cut_off_is_finished() {
    let world = World::new(915).await;
    let flow =
        world.publish_manual(json!([{ "name": "d", "type": "delay", "settings": { "delayMs": 600_000 } }])).await;
    let run = start_about(&world, flow, json!({}), ANN).await;
    world.paused(run).await;
    let key = world.backend.run(run, world.project).await.unwrap().subject.unwrap();
    let at = world.clock.now();
    let erasure = world.backend.erase_subject(key, world.project, at, &[]).await.unwrap();
    assert!(!erasure.finished);
    let world = world.crash(916, Duration::ZERO).await;
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(world.backend.unfinished_erasures(10).await.unwrap(), [], "nobody sees to it");
    let receipt = world.admin().erase(ANN).await.unwrap();
    assert_eq!((receipt.key, receipt.erased_at), (key, at));
    is_erased(world.admin().run(run).await, &receipt);
    // Cut off anywhere, and repeated: one erasure comes of it.
    for polls in 1..40 {
        let run = start_about(&world, flow, json!({}), BOB).await;
        cut_off(world.admin().erase(BOB), polls).await;
        let receipt = world.admin().erase(BOB).await.unwrap();
        assert_eq!(receipt.runs, 1, "after {polls} polls");
        is_erased(world.admin().run(run).await, &receipt);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(world.backend.unfinished_erasures(10).await.unwrap(), []);
}

/// Polls a future so often, and drops it.
async fn cut_off(future: impl Future, polls: usize) {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        left -= 1;
        if left == 0 || future.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_an_administrator_of_the_project_erases() {
    let world = World::new(917).await;
    let flow = world.publish_manual(json!([pure("a", json!(1))])).await;
    let run = ended_about(&world, flow, json!({}), ANN).await;
    let editor = Principal::user(UserId::from_u128(1)).with_role(world.project, Role::Editor);
    let editor = world.runtime.session(editor).project(world.project).unwrap();
    assert!(matches!(editor.erase(ANN).await, Err(SessionError::Denied(_))));
    // The administrator of another project erases nothing here, whatever the subject is called.
    let other: ProjectId = admin_session(&world.runtime, None).create_project("Other").await.unwrap();
    let theirs = admin_session(&world.runtime, Some(other)).project(other).unwrap();
    let missing = theirs.erase(ANN).await.unwrap_err();
    assert!(matches!(missing, SessionError::Store(StoreError::NotFound { entity: Entity::Subject })), "{missing}");
    let stranger = Principal::user(UserId::from_u128(2)).with_role(other, Role::Admin);
    assert!(world.runtime.session(stranger).project(world.project).is_err());
    assert!(world.admin().run(run).await.is_ok());
    for wrong in ["", &"x".repeat(1_025)] {
        assert!(matches!(world.admin().erase(wrong).await, Err(SessionError::InvalidArgument { .. })));
        let started = world.admin().start_run_about(flow, json!({}), wrong).await;
        assert!(matches!(started, Err(SessionError::InvalidArgument { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_says_which_backups_are_left() {
    let world = World::new(919).await;
    let flow = world.publish_manual(json!([pure("a", json!(1))])).await;
    let before = world.clock.now();
    for subject in [ANN, BOB] {
        ended_about(&world, flow, json!({}), subject).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let receipt = world.admin().erase(ANN).await.unwrap();
    let backups = &receipt.backups;
    assert_eq!((backups.root_key, backups.root_rotated), (root_key().id(), false));
    assert!(backups.taken_from >= before && backups.taken_before == receipt.erased_at);
    let text = serde_json::to_value(&receipt).unwrap();
    assert_eq!(text["residue"], json!("nothing"));
    assert_eq!(text["backups"]["rootKey"], json!(root_key().id().to_string()));
    assert!(text["backups"]["howToFinish"].as_str().unwrap().contains("destroy every copy"));
    assert!(!text.to_string().contains("ann@"), "the receipt names the subject");
    assert!(text["erasedAt"].is_string() || text["erasedAt"].is_number());

    // After a rotation of the root key, the receipt says that only the old one is left to be destroyed.
    let World { runtime, backend, peer, project, clock } = world;
    runtime.shutdown(Duration::ZERO).await;
    let new_root = RootKey::from_slice(&[7; 31].into_iter().chain([8]).collect::<Vec<u8>>()).unwrap();
    let rotated = Runtime::builder(backend.clone(), MemoryKeyProvider::new(new_root))
        .previous_key(MemoryKeyProvider::new(root_key()))
        .clock(clock)
        .entropy(Arc::new(SeededEntropy::new(920)))
        .pieces([Arc::new(FakePiece(peer)) as Arc<dyn ap_core::piece::Piece>])
        .sandbox(FakeSandbox)
        .build()
        .await
        .unwrap();
    admin_session(&rotated, None).keys().unwrap().rotate_root().await.unwrap();
    let admin = admin_session(&rotated, Some(project)).project(project).unwrap();
    let again = admin.erase(ANN).await.unwrap();
    assert!(again.backups.root_rotated && again.backups.how_to_finish.contains("was rotated since"));
    assert_eq!((again.key, again.erased_at), (receipt.key, receipt.erased_at));
    let bobs = admin.erase(BOB).await.unwrap();
    assert!(!bobs.backups.root_rotated && bobs.backups.root_key != receipt.backups.root_key);
    let _: Timestamp = bobs.key_created;
}
