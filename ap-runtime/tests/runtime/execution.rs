//! Crashes, leases and the effects ledger.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ap_core::{
    run::{RunStatus, StepErrorKind},
    store::PageRequest,
    time::Timestamp,
};

use ap_runtime::{
    backend::memory::MemoryBackend,
    clock::{Clock, TokioClock},
    config::WorkerOptions,
    runtime::Runtime,
    store::RunFilter,
};
use serde_json::json;

use super::support::{Peer, START, World, admin_session, builder, of_flow};

/// Stops the runtime the hard way and starts another on the same store.
async fn restart(world: World, seed: u64) -> World {
    let World { runtime, backend, peer, project, .. } = world;
    runtime.shutdown(Duration::ZERO).await;
    drop(runtime);
    backend.crash();
    let now = Timestamp::from_millis(START + 60_000);
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(now));
    let runtime = builder(backend.clone(), Arc::clone(&clock), seed, &peer).build().await.unwrap();
    World { runtime, backend, peer, project, clock }
}

async fn interrupted(step: serde_json::Value) -> (World, ap_core::id::RunId) {
    let world = World::new(3).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    let (flow, _) = world.publish(json!([step])).await;
    let run = world.admin().start_run(flow, json!({})).await.unwrap();
    while world.peer.calls.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let world = restart(world, 4).await;
    world.peer.hang.store(false, Ordering::SeqCst);
    (world, run)
}

#[tokio::test(start_paused = true)]
async fn an_effect_that_a_crash_interrupted_has_an_unknown_outcome() {
    let step = json!({ "name": "act", "type": "fake.act", "settings": { "value": 1 }, "retry": { "maxAttempts": 5 } });
    let (world, run) = interrupted(step).await;
    let status = world.admin().wait_for_run(run, Duration::from_secs(60)).await.unwrap();
    let view = world.admin().run(run).await.unwrap();
    assert_eq!(status, RunStatus::Failed);
    assert_eq!(view.error.map(|error| error.kind), Some(StepErrorKind::OutcomeUnknown));
    assert_eq!(view.steps[0].effect.as_ref().map(|effect| effect.state), Some("unknown"));
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1, "it must not be tried again");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_can_be_handled_by_the_flow() {
    let step = json!({ "name": "act", "type": "fake.act", "settings": { "value": 1 }, "onError": "continue" });
    let (world, run) = interrupted(step).await;
    let status = world.admin().wait_for_run(run, Duration::from_secs(60)).await.unwrap();
    assert_eq!(status, RunStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_effect_is_repeated_after_a_crash_with_the_same_key() {
    for step in [
        json!({ "name": "act", "type": "fake.put", "settings": { "value": 1 } }),
        json!({ "name": "act", "type": "fake.act", "settings": { "value": 1 }, "idempotencyKey": true }),
    ] {
        let (world, run) = interrupted(step).await;
        let status = world.admin().wait_for_run(run, Duration::from_secs(60)).await.unwrap();
        assert_eq!(status, RunStatus::Succeeded);
        let calls = world.peer.calls.lock().unwrap().clone();
        assert_eq!(calls, vec![format!("{run}/act"); 2]);
        let view = world.admin().run(run).await.unwrap();
        assert_eq!(view.steps[0].effect.as_ref().map(|effect| effect.state), Some("committed"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_during_a_wait_repeats_nothing_that_is_known() {
    let world = World::new(5).await;
    let (flow, _) = world
        .publish(json!([
            { "name": "first", "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" } } },
            { "name": "second", "type": "fake.act", "settings": { "value": "{{steps.first.output}}" },
              "retry": { "maxAttempts": 2, "backoff": { "initialMs": 60_000 } } },
        ]))
        .await;
    // The second step fails definitely and waits for a minute; the crash comes during the wait.
    world.peer.fail_first.store(1, Ordering::SeqCst);
    let run = world.admin().start_run(flow, json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.admin().run(run).await.unwrap().status, RunStatus::Paused);
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1);
    world.backend.crash();
    let world = restart(world, 6).await;
    let status = world.admin().wait_for_run(run, Duration::from_secs(120)).await.unwrap();
    let view = world.admin().run(run).await.unwrap();
    assert_eq!((status, view.steps[1].attempts), (RunStatus::Succeeded, 2), "{:?}", view.error);
    assert_eq!(world.peer.calls.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_keeps_what_is_known_and_gives_runs_back() {
    let world = World::new(7).await;
    let (flow, _) = world
        .publish(json!([
            { "name": "first", "type": "fake.act", "settings": { "value": 1 } },
            { "name": "second", "type": "fake.put", "settings": { "value": 2 } },
        ]))
        .await;
    world.peer.hang_from.store(1, Ordering::SeqCst);
    let run = world.admin().start_run(flow, json!({})).await.unwrap();
    while world.peer.calls.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.runtime.shutdown(Duration::ZERO).await;
    let stored = world.admin().runs(RunFilter::default(), &PageRequest::default()).await.unwrap();
    assert_eq!(stored.items[0].status, RunStatus::Queued);
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    let world = restart(world, 8).await;
    assert_eq!(world.admin().wait_for_run(run, Duration::from_secs(60)).await.unwrap(), RunStatus::Succeeded);
    let calls = world.peer.calls.lock().unwrap().clone();
    assert_eq!(calls.iter().filter(|key| key.ends_with("/first")).count(), 1, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_script_that_kills_its_owner_again_and_again_is_given_up() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(START)));
    let backend = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
    let peer = Arc::new(Peer::default());
    let runtime = builder(backend.clone(), Arc::clone(&clock), 9, &peer)
        .sandbox(super::support::PanickingSandbox)
        .build()
        .await
        .unwrap();
    let project = admin_session(&runtime, None).create_project("Test").await.unwrap();
    let world = World { runtime, backend, peer, project, clock };
    let script = json!({ "code": "export const code = p => p" });
    let (flow, _) =
        world.publish(json!([{ "name": "boom", "type": "code", "settings": { "sourceCode": script } }])).await;
    let run = world.admin().start_run(flow, json!({})).await.unwrap();
    // Each owner panics, its lease expires, and the next one tries.
    let status = world.admin().wait_for_run(run, Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(status, RunStatus::InternalError);
    assert_eq!(world.admin().run(run).await.unwrap().error.map(|error| error.kind), Some(StepErrorKind::Internal));
}

#[tokio::test(start_paused = true)]
async fn runs_beyond_the_concurrency_are_queued_and_all_end() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(START)));
    let backend = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
    let peer = Arc::new(Peer::default());
    let options = WorkerOptions::default().with_concurrency(2).unwrap();
    let runtime: Runtime =
        builder(backend.clone(), Arc::clone(&clock), 9, &peer).worker(options).build().await.unwrap();
    let project = admin_session(&runtime, None).create_project("Test").await.unwrap();
    let world = World { runtime, backend, peer, project, clock };
    let (flow, _) = world.publish(json!([{ "name": "act", "type": "fake.act", "settings": { "value": 1 } }])).await;
    let admin = world.admin();
    world.peer.hang.store(true, Ordering::SeqCst);
    let mut runs = Vec::new();
    for _ in 0..50 {
        runs.push(admin.start_run(flow, json!({})).await.unwrap());
    }
    let stored = admin.runs(of_flow(flow), &PageRequest::default()).await.unwrap().items;
    let queued = stored.iter().filter(|run| run.status == RunStatus::Queued).count();
    assert_eq!((queued, world.peer.calls.lock().unwrap().len()), (48, 2));
    world.peer.release();
    for run in runs {
        assert_eq!(admin.wait_for_run(run, Duration::from_secs(60)).await.unwrap(), RunStatus::Succeeded);
    }
    assert_eq!(world.peer.calls.lock().unwrap().len(), 50);
    assert_eq!(admin.runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_keeps_killing_its_owner_is_given_up() {
    let (mut world, run) = interrupted(json!({ "name": "act", "type": "fake.put", "settings": { "value": 1 } })).await;
    for seed in 0..20 {
        if world.admin().run(run).await.unwrap().status.is_terminal() {
            break;
        }
        world.peer.hang.store(true, Ordering::SeqCst);
        let before = world.peer.calls.lock().unwrap().len();
        for _ in 0..1_000 {
            if world.peer.calls.lock().unwrap().len() > before {
                break;
            }
            tokio::task::yield_now().await;
        }
        world = restart(world, 100 + seed).await;
    }
    let status = world.admin().wait_for_run(run, Duration::from_secs(60)).await.unwrap();
    assert_eq!(status, RunStatus::InternalError);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_escaping_makes_too_large_for_the_journal_fails_its_step_only() {
    let world = World::new(31).await;
    // A control character is one byte of a value and six of its JSON.
    let huge = json!(
        "{{trigger.text}}{{trigger.text}}{{trigger.text}}{{trigger.text}}{{trigger.text}}{{trigger.text}}{{trigger.text}}{{trigger.text}}"
    );
    let rescued = |step: serde_json::Value| {
        let mut step = step;
        step["onError"] = json!("continue");
        json!([step, super::support::pure("kind", json!("{{steps.big.error.kind}}"))])
    };
    let target = world.publish_manual(json!([super::support::pure("a", json!(1))])).await;
    for step in [
        json!({ "name": "big", "type": "fake.act", "settings": { "value": huge } }),
        json!({ "name": "big", "type": "subflow", "settings": { "flow": target.to_string(), "payload": huge } }),
    ] {
        let flow = world.publish_manual(rescued(step)).await;
        let run = world.run(flow, json!({ "text": "\u{1}".repeat(3 << 19) })).await;
        assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
        assert_eq!(super::support::output(&run, "kind"), json!("limit"));
    }
    assert!(world.peer.calls.lock().unwrap().iter().all(|key| !key.ends_with("/big")));
}
