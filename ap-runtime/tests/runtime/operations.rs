//! What an operator does: cancel, try again, share workers, look at them, and see what a new version means.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    id::{FlowId, RunId, UserId},
    run::RunStatus,
    store::{PageRequest, StoreError},
    time::Timestamp,
};
use ap_runtime::{
    backend::memory::MemoryBackend,
    clock::{Clock, TokioClock},
    config::WorkerOptions,
    session::{RetryStrategy, SessionError},
    store::{ProjectShare, QueueCounts},
};
use serde_json::{Value, json};

use super::support::{Peer, START, World, admin_session, builder, of_flow};

fn act(name: &str) -> Value {
    json!({ "name": name, "type": "fake.put", "settings": { "value": 1 }, "timeout": 290_000 })
}

fn manual(steps: Value) -> Value {
    json!({ "triggers": [{ "type": "manual" }], "steps": steps })
}

async fn status(world: &World, run: RunId) -> RunStatus {
    world.admin().wait_for_run(run, Duration::from_secs(600)).await.unwrap()
}

/// A run whose step hangs.
async fn hanging(world: &World, control: Value) -> (FlowId, RunId) {
    world.peer.hang.store(true, Ordering::SeqCst);
    let mut source = manual(json!([act("a")]));
    source.as_object_mut().unwrap().extend(control.as_object().unwrap().clone());
    let flow = world.publish_flow(source).await;
    let run = world.admin().start_run(flow, json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1);
    (flow, run)
}

async fn world_with(options: WorkerOptions) -> World {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(START)));
    let backend = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
    let peer = Arc::new(Peer::default());
    let runtime = builder(backend.clone(), Arc::clone(&clock), 9, &peer).worker(options).build().await.unwrap();
    let project = admin_session(&runtime, None).create_project("Test").await.unwrap();
    World { runtime, backend, peer, project, clock }
}

#[tokio::test(start_paused = true)]
async fn a_run_under_way_is_canceled_at_once_and_only_once() {
    let world = World::new(91).await;
    let (_, run) = hanging(&world, json!({})).await;
    world.admin().cancel_run(run, "not wanted any more").await.unwrap();
    world.admin().cancel_run(run, "again").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let view = world.admin().run(run).await.unwrap();
    assert_eq!(view.status, RunStatus::Canceled);
    assert!(view.error.unwrap().message.contains("not wanted any more"));
    world.admin().cancel_run(run, "after the end").await.unwrap();
    let audit = world.admin().audit(&PageRequest::first(500)).await.unwrap().items;
    assert_eq!(audit.iter().filter(|event| event.action() == "run.cancel").count(), 1);
    let missing = world.admin().cancel_run(RunId::from_u128(1), "").await;
    assert!(matches!(missing, Err(SessionError::Store(StoreError::NotFound { .. }))));
}

#[tokio::test(start_paused = true)]
async fn queued_and_paused_runs_are_canceled_too() {
    let world = world_with(WorkerOptions::default().with_concurrency(1).unwrap()).await;
    let (flow, first) = hanging(&world, json!({})).await;
    let queued = world.admin().start_run(flow, json!({})).await.unwrap();
    world.admin().cancel_run(queued, "").await.unwrap();
    world.peer.release();
    assert_eq!(
        (status(&world, first).await, status(&world, queued).await),
        (RunStatus::Succeeded, RunStatus::Canceled)
    );
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1);
    let wait = json!([{ "name": "wait", "type": "wait", "settings": { "mode": "webhook" } }]);
    let flow = world.publish_flow(manual(wait)).await;
    let paused = world.admin().start_run(flow, json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.admin().run(paused).await.unwrap().status, RunStatus::Paused);
    world.admin().cancel_run(paused, "").await.unwrap();
    assert_eq!(status(&world, paused).await, RunStatus::Canceled);
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_goes_on_from_the_failed_step() {
    let world = World::new(92).await;
    let flow = world.publish_flow(manual(json!([act("first"), act("second")]))).await;
    let run = world.admin().start_run(flow, json!({ "n": 1 })).await.unwrap();
    assert_eq!(status(&world, run).await, RunStatus::Succeeded);
    let refused = world.admin().retry_run(run, RetryStrategy::FromFailedStep).await;
    assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{refused:?}");
    world.peer.hang_from.store(3, Ordering::SeqCst);
    let run = world.admin().start_run(flow, json!({ "n": 2 })).await.unwrap();
    let early = world.admin().retry_run(run, RetryStrategy::FromFailedStep).await;
    assert!(matches!(early, Err(SessionError::InvalidArgument { .. })), "{early:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.admin().cancel_run(run, "").await.unwrap();
    assert_eq!(status(&world, run).await, RunStatus::Canceled);
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    assert_eq!(world.admin().retry_run(run, RetryStrategy::FromFailedStep).await.unwrap(), run);
    assert_eq!(status(&world, run).await, RunStatus::Succeeded);
    let calls = world.peer.calls.lock().unwrap().clone();
    assert_eq!(
        calls.iter().filter(|key| key.ends_with("/first")).count(),
        2,
        "what succeeded is not done again: {calls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_is_tried_again_on_the_latest_version_with_what_was_delivered() {
    let world = World::new(93).await;
    let admin = world.admin();
    let flow =
        world.publish_flow(manual(json!([{ "name": "a", "type": "fail", "settings": { "message": "no" } }]))).await;
    let failed = admin.start_run(flow, json!({ "n": 7 })).await.unwrap();
    assert_eq!(status(&world, failed).await, RunStatus::Failed);
    let revision = admin.flow(flow).await.unwrap().revision;
    let better = manual(json!([{ "name": "a", "type": "fake.pure", "settings": { "value": "{{trigger.n}}" } }]));
    admin.update_flow(flow, revision, better.to_string().as_bytes()).await.unwrap();
    admin.publish_flow(flow).await.unwrap();
    let again = admin.retry_run(failed, RetryStrategy::OnLatestVersion).await.unwrap();
    assert_ne!(again, failed);
    assert_eq!(status(&world, again).await, RunStatus::Succeeded);
    assert_eq!(admin.run(again).await.unwrap().trigger, json!({ "n": 7 }));
    let audit = admin.audit(&PageRequest::first(500)).await.unwrap().items;
    let retried = audit.iter().find(|event| event.action() == "run.retry").expect("audited");
    assert!(retried.resources().contains(&failed.to_string()) && retried.resources().contains(&again.to_string()));
}

#[tokio::test(start_paused = true)]
async fn publishing_says_what_it_means_for_runs_under_way() {
    let world = World::new(94).await;
    let admin = world.admin();
    world.peer.hang_from.store(1, Ordering::SeqCst);
    let source = |steps: Value| manual(steps).to_string().into_bytes();
    let flow = world.publish_flow(manual(json!([act("first"), act("second"), act("third")]))).await;
    let run = admin.start_run(flow, json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let other = json!({ "name": "first", "type": "fake.put", "settings": { "value": 2 } });
    for (steps, reason) in [
        (json!([act("first"), act("second"), act("new"), act("third")]), None),
        (json!([act("first"), act("second")]), None),
        (json!([act("new"), act("first"), act("second"), act("third")]), Some("place 1")),
        (json!([other, act("second"), act("third")]), Some("`first` has begun and was changed")),
        (json!([act("first"), act("third")]), Some("`second` has begun and was removed")),
    ] {
        let revision = admin.flow(flow).await.unwrap().revision;
        admin.update_flow(flow, revision, &source(steps.clone())).await.unwrap();
        let report = admin.publish_flow(flow).await.unwrap();
        assert_eq!((report.live.len(), report.live[0].run, report.incomplete), (1, run, false));
        match (&report.live[0].pinned_because, reason) {
            (None, None) => assert!(report.live[0].is_compatible()),
            (Some(given), Some(wanted)) => assert!(given.contains(wanted), "{given}"),
            other => panic!("{steps}: {other:?}"),
        }
    }
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    world.peer.release();
    assert_eq!(status(&world, run).await, RunStatus::Succeeded);
    assert!(world.peer.calls.lock().unwrap().iter().any(|key| key.ends_with("/third")), "it kept its version");
}

#[tokio::test(start_paused = true)]
async fn a_project_has_no_more_runs_under_way_than_its_share() {
    let world = World::new(95).await;
    let platform = admin_session(&world.runtime, None);
    let share = |weight, concurrency| ProjectShare { weight, concurrency };
    for bad in [share(0, None), share(1_001, None), share(1, Some(0)), share(1, Some(100_001))] {
        let refused = platform.set_project_share(world.project, bad).await;
        assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{bad:?}");
    }
    platform.set_project_share(world.project, share(1_000, Some(2))).await.unwrap();
    assert_eq!(platform.project_share(world.project).await.unwrap(), share(1_000, Some(2)));
    let flow = world.publish_flow(manual(json!([act("a")]))).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        world.admin().start_run(flow, json!({})).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(world.peer.calls.lock().unwrap().len(), 2);
    world.peer.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let runs = world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items;
    assert!(runs.iter().all(|run| run.status == RunStatus::Succeeded), "who ends lets the next one go: {runs:?}");
}

#[tokio::test(start_paused = true)]
async fn workers_report_themselves_until_they_are_gone() {
    let options = WorkerOptions::default().with_name("host-a").unwrap().with_concurrency(7).unwrap();
    let world = world_with(options).await;
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(START)));
    let other = world.another_worker(clock, 96).await;
    let (_, run) = hanging(&world, json!({})).await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    let platform = admin_session(&world.runtime, None);
    let workers = platform.workers().await.unwrap();
    let mut seen: Vec<(&str, u32, bool)> = workers.iter().map(|w| (w.name.as_str(), w.capacity, w.draining)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("", 100, false), ("host-a", 7, false)]);
    assert_eq!(workers.iter().map(|worker| worker.running).sum::<u32>(), 1);
    other.shutdown(Duration::ZERO).await;
    assert_eq!(platform.workers().await.unwrap().len(), 1);
    world.peer.release();
    assert_eq!(status(&world, run).await, RunStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_drains_says_so_and_finishes_what_it_has() {
    let world = World::new(97).await;
    let (_, run) = hanging(&world, json!({})).await;
    let (runtime, platform) = (world.runtime.clone(), admin_session(&world.runtime, None));
    let drain = tokio::spawn(async move { runtime.shutdown(Duration::from_secs(60)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(platform.workers().await.unwrap()[0].draining);
    world.peer.release();
    drain.await.unwrap();
    assert_eq!(world.admin().run(run).await.unwrap().status, RunStatus::Succeeded);
    assert!(platform.workers().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn another_worker_takes_up_what_one_that_drains_gave_back() {
    let world = World::new(98).await;
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(START)));
    let (_, run) = hanging(&world, json!({})).await;
    let other = world.another_worker(clock, 99).await;
    world.runtime.shutdown(Duration::ZERO).await;
    world.peer.hang.store(false, Ordering::SeqCst);
    let admin = admin_session(&other, Some(world.project)).project(world.project).unwrap();
    assert_eq!(admin.wait_for_run(run, Duration::from_secs(60)).await.unwrap(), RunStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn queues_are_counted_and_their_limits_hold() {
    let world = World::new(100).await;
    let admin = world.admin();
    assert_eq!(admin.queue("none").await.unwrap(), QueueCounts::default());
    assert_eq!(admin.redrive_queue("none", 10_000).await.unwrap(), 0);
    for bad in [0, 10_001] {
        assert!(matches!(admin.redrive_queue("none", bad).await, Err(SessionError::InvalidArgument { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_viewer_operates_nothing() {
    let world = World::new(101).await;
    let flow = world.publish_flow(manual(json!([act("a")]))).await;
    let run = world.admin().start_run(flow, json!({})).await.unwrap();
    let viewer = Principal::user(UserId::from_u128(5)).with_role(world.project, Role::Viewer);
    let session = world.runtime.session(viewer);
    let project = session.project(world.project).unwrap();
    assert!(matches!(project.cancel_run(run, "").await, Err(SessionError::Denied(_))));
    assert!(matches!(project.retry_run(run, RetryStrategy::FromFailedStep).await, Err(SessionError::Denied(_))));
    assert!(matches!(project.redrive_queue("q", 1).await, Err(SessionError::Denied(_))));
    assert!(project.queue("q").await.is_ok());
    assert!(matches!(session.workers().await, Err(SessionError::Denied(_))));
    let share = session.set_project_share(world.project, ProjectShare::default()).await;
    assert!(matches!(share, Err(SessionError::Denied(_))));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_replaced_before_it_began_can_be_tried_again() {
    let world = World::new(98).await;
    let mut source = manual(json!([act("a")]));
    source["debounce"] = json!({ "delayMs": 1_000 });
    let flow = world.publish_flow(source).await;
    let replaced = world.admin().start_run(flow, json!({ "n": 1 })).await.unwrap();
    let last = world.admin().start_run(flow, json!({ "n": 2 })).await.unwrap();
    assert_eq!(status(&world, last).await, RunStatus::Succeeded);
    assert_eq!(world.admin().run(replaced).await.unwrap().status, RunStatus::Canceled);
    world.admin().retry_run(replaced, RetryStrategy::FromFailedStep).await.unwrap();
    assert_eq!(status(&world, replaced).await, RunStatus::Succeeded);
    assert_eq!(world.peer.calls.lock().unwrap().len(), 2);
}
