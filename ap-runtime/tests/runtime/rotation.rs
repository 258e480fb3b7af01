//! Keys are replaced while everything goes on: nothing becomes unreadable, and the old key opens nothing in the end.

use std::{sync::Arc, time::Duration};

use ap_auth::{audit::AuditEvent, principal::Principal, role::Role};
use ap_core::{
    connection::{Connection, ConnectionValue, Origin},
    id::{ProjectId, RunId, UserId},
    run::RunStatus,
    scope::Scope,
    store::{PageRequest, Sealed},
};
use ap_crypto::{
    envelope,
    key::RootKey,
    keyring::{KeyKind, KeyStore, Keyring},
    provider::MemoryKeyProvider,
};
use ap_runtime::{
    rotation::{RETIRED_KEPT, RotationOptions},
    runtime::{BuildError, Runtime, RuntimeBuilder},
    session::{KeyAdmin, SessionError},
    store::{CellStore, CellTable, ResealedCell, ValueScope},
};
use http::StatusCode;
use serde_json::{Value, json};

use super::support::{FakePiece, SeededEntropy, World, admin_session, call, output, pure, root_key};

const GRACE: Duration = Duration::from_secs(1);

fn keys_of(runtime: &Runtime) -> KeyAdmin {
    admin_session(runtime, None).keys().unwrap().with_options(RotationOptions::default().with_grace(GRACE).unwrap())
}

/// A world with something in every table, and what it looks like from outside.
struct Full {
    world: World,
    path: String,
    runs: Vec<RunId>,
    polled: ap_core::id::FlowId,
}

impl Full {
    async fn new(seed: u64) -> Self {
        let world = World::new(seed).await;
        let origin = Origin::of_url("https://api.example").unwrap();
        let value = ConnectionValue::SecretText { secret: "a secret value".into() };
        let connection = Connection::new("api", value, vec![], vec![origin]).unwrap();
        world.admin().put_connection(&connection).await.unwrap();
        let (_, path) = world
            .publish_with(
                json!({ "authentication": { "type": "NONE" }, "dedupeKey": "x-id" }),
                json!([{ "name": "answer", "type": "respond", "settings": { "body": "{{trigger.body}}" } }]),
            )
            .await;
        let mut runs = Vec::new();
        let large = world.publish_manual(json!([pure("large", json!("{{trigger.text}}"))])).await;
        runs.push(world.run(large, json!({ "text": "y".repeat(300 << 10) })).await.id);
        let admin = world.admin();
        let about = admin.start_run_about(large, json!({ "text": "x".repeat(300 << 10) }), "ann").await.unwrap();
        assert_eq!(admin.wait_for_run(about, Duration::from_secs(60)).await.unwrap(), RunStatus::Succeeded);
        runs.push(about);
        let jobs = world
            .publish_manual(json!([{ "name": "put", "type": "queue.enqueue", "settings": { "queueName": "q", "data": "{{trigger.items}}" } }]))
            .await;
        runs.push(world.run(jobs, json!({ "items": [1] })).await.id);
        for number in 0..3 {
            admin.put_stored_value(ValueScope::Project, &format!("key-{number}"), &json!(number)).await.unwrap();
        }
        let polled = world
            .publish_flow(json!({
                "displayName": "Polled",
                "triggers": [{ "name": "new", "type": "fake.items", "settings": {}, "pollIntervalMs": 86_400_000 }],
                "steps": [pure("a", json!("{{trigger}}"))],
            }))
            .await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        Self { world, path, runs, polled }
    }

    /// Everything that can be read, read.
    async fn read(&self) -> Vec<String> {
        let admin = self.world.admin();
        let mut seen = vec![json!(admin.display_name().await.unwrap())];
        for connection in admin.connections(&PageRequest::default()).await.unwrap().items {
            seen.push(json!(connection.name));
        }
        for flow in admin.flows(&PageRequest::default()).await.unwrap().items {
            seen.push(json!(flow.display_name));
            for version in admin.flow_versions(flow.id, &PageRequest::default()).await.unwrap().items {
                seen.push(serde_json::from_slice(&admin.flow_source(version.id).await.unwrap()).unwrap());
            }
        }
        for number in 0..3 {
            let found = admin.stored_value(ValueScope::Project, &format!("key-{number}")).await.unwrap();
            seen.push(found.expect("the value").value);
        }
        for run in &self.runs {
            seen.push(serde_json::to_value(admin.run(*run).await.unwrap()).unwrap());
        }
        // It grows, so only that it can be read counts.
        assert!(admin.audit(&PageRequest::first(500)).await.unwrap().items.len() > 5);
        let short = |value: &Value| {
            let text = value.to_string();
            // Whole texts would fill the screen when they differ.
            let mut hasher = std::hash::DefaultHasher::new();
            std::hash::Hash::hash(&text, &mut hasher);
            format!("{text:.60}… {:x}", std::hash::Hasher::finish(&hasher))
        };
        seen.iter().map(short).collect()
    }

    /// The status, and the run.
    async fn post(&self, id: &str) -> (StatusCode, Value) {
        let request = http::Request::post(&self.path).header("content-type", "application/json").header("x-id", id);
        let body = http_body_util::Full::<bytes::Bytes>::from("{}");
        let response = self.world.runtime.webhooks().handle(request.body(body).unwrap()).await;
        let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        (response.status(), body["runId"].clone())
    }
}

async fn key_names(world: &World) -> Vec<(KeyKind, u128)> {
    let mut rows = world.backend.keys(world.project.into()).await.unwrap();
    rows.sort_by_key(|row| (row.kind, row.created));
    rows.iter().map(|row| (row.kind, row.id.as_u128())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_tenant_gets_a_new_key_and_nothing_is_lost() {
    let full = Full::new(701).await;
    let world = &full.world;
    assert_eq!(full.post("one").await.0, StatusCode::ACCEPTED);
    let (duplicate, first) = full.post("one").await;
    let before = full.read().await;
    let keys = keys_of(&world.runtime);
    let old = keys.status(world.project).await.unwrap();
    assert_eq!((old.older, old.retired, old.remaining), (0, 0, 0));
    let cells = count(world).await;

    let report = keys.rotate(world.project).await.unwrap();
    assert_ne!(report.key, old.current);
    assert_eq!((report.damaged, report.retired, report.deleted), (0, 1, 0));
    assert!(report.resealed >= cells, "{report:?} of {cells}");
    let new = keys.status(world.project).await.unwrap();
    assert_eq!((new.current, new.older, new.retired, new.remaining), (report.key, 0, 1, 0));
    assert_eq!(full.read().await, before);
    // What is derived from the key stays: webhook addresses, deliveries, queues, names of connections.
    assert_eq!(full.post("one").await, (duplicate, first));
    assert_eq!(full.post("two").await.0, StatusCode::ACCEPTED);
    assert_eq!(world.admin().queue("q").await.unwrap().waiting, 1);

    // The old key is refused, in this process and in a new one.
    let ring = Keyring::new(root_key(), world.backend.clone());
    let tenant = ring.tenant(world.project.into()).await.unwrap();
    assert!(!tenant.knows(&under(old.current.as_u128())), "the old key still opens");
    assert!(tenant.knows(&under(report.key.as_u128())));
    let names = key_names(world).await;
    let kinds: Vec<KeyKind> = names.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [KeyKind::Data, KeyKind::Retired, KeyKind::LookUp]);
    let full = Full { world: full.world.crash(702, Duration::ZERO).await, ..full };
    assert_eq!(full.read().await, before);

    // A second rotation, later, deletes the key of the first.
    tokio::time::sleep(RETIRED_KEPT + Duration::from_secs(1)).await;
    let report = keys_of(&full.world.runtime).rotate(full.world.project).await.unwrap();
    assert_eq!((report.damaged, report.retired, report.deleted), (0, 1, 1));
    assert_eq!(full.post("three").await.0, StatusCode::ACCEPTED);
    full.world.admin().delete_connection("api", ap_runtime::session::IfUsed::Refuse).await.unwrap();
    let kinds: Vec<KeyKind> = key_names(&full.world).await.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [KeyKind::Data, KeyKind::Retired, KeyKind::LookUp]);
}

/// How many sealed cells a project has.
async fn count(world: &World) -> u64 {
    let mut count = 0;
    for table in CellTable::ALL {
        let cells =
            world.backend.count_cells(table, ap_core::id::KeyId::from_u128(0), world.project.into()).await.unwrap();
        assert!(cells > 0 || matches!(table, CellTable::SharedConnections | CellTable::Signals), "{table:?} is empty");
        count += cells;
    }
    count
}

/// An envelope that names this key.
fn under(key: u128) -> Sealed {
    let mut bytes = vec![0; envelope::OVERHEAD_BYTES];
    bytes[..2].copy_from_slice(&[1, 1]);
    bytes[envelope::KEY_ID].copy_from_slice(&key.to_be_bytes());
    Sealed::from_bytes(bytes.into())
}

#[tokio::test(start_paused = true)]
async fn another_process_notices_a_new_key_when_it_meets_it() {
    let full = Full::new(703).await;
    let other = full.world.another_worker(Arc::clone(&full.world.clock), 704).await;
    let theirs = admin_session(&other, Some(full.world.project)).project(full.world.project).unwrap();
    let run = full.runs[0];
    let before = theirs.run(run).await.unwrap();
    let flow = full.world.publish_manual(json!([call("a", "act", json!({ "value": 1 }))])).await;
    let status = async {
        // As soon as there are two keys, and before the old one is retired.
        keys_of(&full.world.runtime).rotate(full.world.project).await.unwrap()
    };
    let reading = async {
        for _ in 0..200 {
            assert_eq!(theirs.run(run).await.unwrap(), before);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (report, ()) = tokio::join!(status, reading);
    assert_eq!(theirs.run(run).await.unwrap(), before);
    let started = theirs.start_run(flow, json!({})).await.unwrap();
    assert_eq!(theirs.wait_for_run(started, Duration::from_secs(60)).await.unwrap(), RunStatus::Succeeded);
    let status = keys_of(&other).status(full.world.project).await.unwrap();
    assert_eq!((status.current, status.remaining), (report.key, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_under_way_goes_on_under_the_new_key() {
    let world = World::new(705).await;
    let flow = world
        .publish_manual(json!([
            call("before", "act", json!({ "value": 1 })),
            json!({ "name": "wait", "type": "delay", "settings": { "delayMs": 5_000 } }),
            call("hang", "act", json!({ "value": 2, "ms": 20_000 })),
            pure("after", json!("{{steps.before.output}}")),
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    world.calls(1).await;
    let keys = keys_of(&world.runtime);
    keys.rotate(world.project).await.unwrap();
    world.calls(2).await;
    keys.rotate(world.project).await.unwrap();
    let view = world.ended(run).await;
    assert_eq!((view.status, output(&view, "after")), (RunStatus::Succeeded, json!(1)));
    assert_eq!(keys.status(world.project).await.unwrap().remaining, 0);
    super::support::replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_was_cut_off_is_gone_on_with() {
    let full = Full::new(706).await;
    let world = &full.world;
    let before = full.read().await;
    let keys = keys_of(&world.runtime);
    assert_eq!(keys.unfinished().await.unwrap(), []);
    let old = keys.status(world.project).await.unwrap().current;
    for polls in [3, 5, 9, 20, 60] {
        cut_off(keys.rotate(world.project), polls).await;
        assert_eq!(full.read().await, before, "after {polls} polls");
    }
    let status = keys.status(world.project).await.unwrap();
    assert!(status.current != old && status.older == 1, "{status:?}");
    assert_eq!(keys.unfinished().await.unwrap(), [Scope::Project(world.project)]);
    let report = keys.rotate(world.project).await.unwrap();
    assert_eq!((report.key, report.retired), (status.current, 1), "a second rotation was begun");
    assert_eq!(keys.unfinished().await.unwrap(), []);
    assert_eq!(keys.status(world.project).await.unwrap().remaining, 0);
    assert_eq!(full.read().await, before);
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
async fn a_rotation_is_turned_back_until_it_is_finished() {
    let full = Full::new(707).await;
    let world = &full.world;
    let before = full.read().await;
    let keys = keys_of(&world.runtime);
    let old = keys.status(world.project).await.unwrap().current;
    let refused = keys.turn_back(world.project).await.unwrap_err();
    assert!(matches!(refused, SessionError::InvalidArgument { .. }), "{refused}");
    // The new key has sealed everything, and the old one is not retired yet.
    let _ = tokio::time::timeout(Duration::from_millis(500), keys.rotate(world.project)).await.unwrap_err();
    let status = keys.status(world.project).await.unwrap();
    assert!(status.current != old && status.remaining == 0 && status.older == 1, "{status:?}");
    let report = keys.turn_back(world.project).await.unwrap();
    assert_eq!((report.key, report.retired, report.damaged), (old, 1, 0));
    let status = keys.status(world.project).await.unwrap();
    assert_eq!((status.current, status.older, status.remaining), (old, 0, 0));
    assert_eq!(full.read().await, before);
    assert!(keys.turn_back(world.project).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn cells_that_were_moved_are_told_apart_and_left_alone() {
    let full = Full::new(708).await;
    let world = &full.world;
    let keys = keys_of(&world.runtime);
    let (scope, none) = (Scope::Project(world.project), ap_core::id::KeyId::from_u128(0));
    let mut moved = 0;
    for table in CellTable::ALL {
        let cells = world.backend.cells(table, none, None, 1_000, scope).await.unwrap();
        let from = cells.iter().cycle().skip(1);
        let swaps: Vec<ResealedCell> = cells
            .iter()
            .zip(from)
            .filter(|(to, from)| to.key != from.key)
            .map(|(to, from)| ResealedCell { key: to.key.clone(), old: to.sealed.clone(), new: from.sealed.clone() })
            .collect();
        moved += world.backend.reseal_cells(&swaps, scope).await.unwrap();
    }
    assert!(moved > 20, "{moved}");
    let report = keys.rotate(world.project).await.unwrap();
    assert_eq!(report.damaged, moved);
    assert_eq!(keys.status(world.project).await.unwrap().remaining, moved);
    assert!(world.admin().run(full.runs[0]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_root_key_is_replaced_and_the_old_one_refused() {
    let full = Full::new(709).await;
    let before = full.read().await;
    let (_, first) = full.post("one").await;
    let Full { world, path, runs, polled } = full;
    let World { runtime, backend, peer, project, clock } = world;
    runtime.shutdown(Duration::ZERO).await;
    let new_root = || RootKey::from_slice(&[7; 31].into_iter().chain([8]).collect::<Vec<u8>>()).unwrap();
    let build = |root: RootKey, seed| -> RuntimeBuilder {
        Runtime::builder(backend.clone(), MemoryKeyProvider::new(root))
            .clock(Arc::clone(&clock))
            .entropy(Arc::new(SeededEntropy::new(seed)))
            .pieces([Arc::new(FakePiece(Arc::clone(&peer))) as Arc<dyn ap_core::piece::Piece>])
            .sandbox(super::support::FakeSandbox)
    };
    let error = build(new_root(), 710).build().await.unwrap_err();
    assert!(matches!(error, BuildError::Keys(_)), "{error}");

    // A process that has the old key, and knows the new one.
    let old = build(root_key(), 711).previous_key(MemoryKeyProvider::new(new_root())).build().await.unwrap();
    let new = build(new_root(), 712).previous_key(MemoryKeyProvider::new(root_key())).build().await.unwrap();
    let keys = keys_of(&new);
    let status = keys.root_status().await.unwrap();
    assert_eq!((status.wrapped, status.others.values().sum::<u64>()), (0, 4));
    assert_eq!(keys.rotate_root().await.unwrap(), 4);
    let status = keys.root_status().await.unwrap();
    assert_eq!((status.wrapped, status.others.len()), (4, 0));
    assert_eq!(keys.rotate_root().await.unwrap(), 0);
    let world =
        World { runtime: new, backend: backend.clone(), peer: Arc::clone(&peer), project, clock: Arc::clone(&clock) };
    let full = Full { world, path, runs, polled };
    assert_eq!(full.read().await, before);
    assert_eq!(full.post("one").await.1, first, "the webhook address or its delivery was forgotten");
    let theirs = admin_session(&old, Some(project)).project(project).unwrap();
    assert_eq!(theirs.run(full.runs[0]).await.unwrap(), full.world.view(full.runs[0]).await);

    // Back again with the keys exchanged, and forward for good.
    assert_eq!(keys_of(&old).rotate_root().await.unwrap(), 4);
    let again = build(new_root(), 713).previous_key(MemoryKeyProvider::new(root_key())).build().await.unwrap();
    assert_eq!(keys_of(&again).rotate_root().await.unwrap(), 4);
    let error = build(root_key(), 714).build().await.unwrap_err();
    assert!(matches!(error, BuildError::Keys(_)), "{error}");
    let alone = build(new_root(), 715).build().await.unwrap();
    let admin = admin_session(&alone, Some(project)).project(project).unwrap();
    for run in &full.runs {
        assert!(admin.run(*run).await.is_ok());
    }
    assert!(admin.flow(full.polled).await.is_ok());
    // A process that still has the old key opens nothing with it once it has rotated.
    let created = admin_session(&old, None).create_project("Late").await.unwrap();
    assert!(admin_session(&alone, Some(created)).project(created).unwrap().display_name().await.is_err());
    let both = build(new_root(), 716).previous_key(MemoryKeyProvider::new(root_key())).build().await.unwrap();
    assert_eq!(keys_of(&both).rotate_root().await.unwrap(), 1);
    assert_eq!(admin_session(&alone, Some(created)).project(created).unwrap().display_name().await.unwrap(), "Late");
}

#[tokio::test(start_paused = true)]
async fn the_platforms_own_key_is_rotated_too() {
    let full = Full::new(717).await;
    let platform = full.world.runtime.platform();
    let keys = keys_of(&full.world.runtime);
    let (_, first) = full.post("one").await;
    let report = keys.rotate(platform).await.unwrap();
    assert_eq!((report.retired, report.damaged), (1, 0));
    assert!(report.resealed > 0);
    assert_eq!(full.post("one").await.1, first);
    let world = full.world.crash(718, Duration::ZERO).await;
    let trail = events(&world, platform.into()).await;
    let stages: Vec<String> = trail
        .iter()
        .filter(|event| event.action() == "key.rotate")
        .map(|event| serde_json::to_value(event).unwrap()["details"]["stage"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(stages, ["started", "retired"]);
}

async fn events(world: &World, scope: Scope) -> Vec<AuditEvent> {
    use ap_runtime::store::AuditStore;
    let records = world.backend.audit(scope, &PageRequest::first(500)).await.unwrap().items;
    let keys = Keyring::new(root_key(), world.backend.clone()).tenant(scope).await.unwrap();
    let open = |record: &ap_core::audit::AuditRecord| {
        assert_eq!(record.outcome, ap_core::audit::AuditOutcome::Success);
        let at = record.at.as_micros().to_be_bytes();
        let bound = [record.id.as_bytes(), &at[..], b"S", record.action.as_bytes()].concat();
        let context = envelope::SealContext {
            scope,
            table: "audit",
            record: &bound,
            field: "body",
            version: 1,
            purpose: "at-rest",
        };
        AuditEvent::from_record(record, &keys.open(&context, &record.body).unwrap()).unwrap()
    };
    records.iter().map(open).collect()
}

#[tokio::test(start_paused = true)]
async fn only_an_administrator_of_the_platform_rotates_keys() {
    let world = World::new(719).await;
    let project: ProjectId = world.project;
    for principal in [
        Principal::user(UserId::from_u128(1)).with_role(project, Role::Admin),
        Principal::user(UserId::from_u128(1)).with_role(world.runtime.platform(), Role::Editor),
    ] {
        assert!(matches!(world.runtime.session(principal).keys(), Err(SessionError::Denied(_))));
    }
    let missing = keys_of(&world.runtime).rotate(ProjectId::from_u128(404)).await.unwrap_err();
    assert!(matches!(missing, SessionError::Store(_)), "{missing}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_damaged_cells_name_is_kept_until_they_are_mended() {
    let full = Full::new(721).await;
    let world = &full.world;
    let before = full.read().await;
    let (keys, scope) = (keys_of(&world.runtime), Scope::Project(world.project));
    let old = keys.status(world.project).await.unwrap().current;
    // Two cells that change places, and one that is put back later.
    let cells = world.backend.cells(CellTable::FlowVersions, ap_core::id::KeyId::from_u128(0), None, 10, scope).await;
    let cells = cells.unwrap();
    let swap = |at: usize, from: usize, old: &Sealed| ResealedCell {
        key: cells[at].key.clone(),
        old: old.clone(),
        new: cells[from].sealed.clone(),
    };
    let damage = [swap(0, 1, &cells[0].sealed), swap(1, 0, &cells[1].sealed)];
    assert_eq!(world.backend.reseal_cells(&damage, scope).await.unwrap(), 2);
    assert_eq!(keys.rotate(world.project).await.unwrap().damaged, 2);
    for round in 0..2 {
        tokio::time::sleep(RETIRED_KEPT + Duration::from_secs(1)).await;
        let report = keys.rotate(world.project).await.unwrap();
        assert_eq!((report.damaged, report.deleted), (2, u32::from(round > 0)), "round {round}");
        assert!(key_names(world).await.contains(&(KeyKind::Retired, old.as_u128())), "the key is gone");
    }
    let mend = [swap(0, 0, &cells[1].sealed), swap(1, 1, &cells[0].sealed)];
    assert_eq!(world.backend.reseal_cells(&mend, scope).await.unwrap(), 2);
    let report = keys.rotate(world.project).await.unwrap();
    assert_eq!(report.damaged, 0);
    assert!(report.deleted > 0, "{report:?}");
    assert!(!key_names(world).await.contains(&(KeyKind::Retired, old.as_u128())));
    assert_eq!(full.read().await, before);
}

/// A key whose maker's clock was a day ahead does not hold a rotation up for a day.
#[tokio::test(start_paused = true)]
async fn a_clock_that_was_ahead_does_not_delay_a_rotation() {
    let full = Full::new(723).await;
    let world = &full.world;
    let ahead = world.clock.now().saturating_add(Duration::from_secs(86_400));
    let ring = Keyring::new(root_key(), world.backend.clone());
    let id = ap_core::id::KeyId::from_u128(77);
    let row = ring.new_data_key(world.project.into(), id, ahead, &SeededEntropy::new(724)).unwrap();
    world.backend.insert_key(row, &[]).await.unwrap();
    let began = world.clock.now();
    let report = keys_of(&world.runtime).rotate(world.project).await.unwrap();
    assert_eq!((report.key, report.retired), (id, 1));
    assert!(world.clock.now() < began.saturating_add(Duration::from_secs(60)), "it waited for the other clock");
}
