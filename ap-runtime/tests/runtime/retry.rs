//! Ending runs from outside, and trying them again.

use std::{sync::atomic::Ordering, time::Duration};

use ap_core::{
    run::{RunStatus, StepErrorKind, StepStatus},
    store::PageRequest,
};
use ap_runtime::{config::WorkerOptions, session::RetryStrategy};
use serde_json::json;

use super::support::{World, call, of_flow, output, pure, replays, step};

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_from_the_step_that_failed() {
    let world = World::new(1).await;
    let flow = world
        .publish_manual(json!([
            call("before", "act", json!({ "value": 1 })),
            { "name": "each", "type": "loop", "settings": { "items": [0, 1, 2], "steps": [
                call("act", "act", json!({ "value": "{{item}}" })), pure("tail", json!("{{item}}"))] } },
            call("after", "act", json!({ "value": "{{steps.each.output.iterations[2].tail.output}}" })),
        ]))
        .await;
    // `before` and the first iteration succeed, the second iteration fails.
    let run = world.start(flow, json!({})).await;
    world.peer.hang_from.store(2, Ordering::SeqCst);
    world.calls(3).await;
    world.peer.fail_first.store(1, Ordering::SeqCst);
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    world.peer.release();
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Failed);
    assert_eq!(step(&view, "each").status, StepStatus::Failed);
    assert_eq!(world.admin().retry_run(run, RetryStrategy::FromFailedStep).await.unwrap(), run);
    let view = world.ended(run).await;
    assert_eq!((view.status, &view.error), (RunStatus::Succeeded, &None));
    let calls = world.peer.calls.lock().unwrap().clone();
    let expected = ["before", "each:0/act", "each:1/act", "each:1/act", "each:2/act", "after"];
    assert_eq!(calls, expected.map(|path| format!("{run}/{path}")), "what succeeded is not done again, and keys stay");
    assert_eq!(output(&view, "after"), json!(2));
    assert!(view.steps.iter().all(|step| step.status == StepStatus::Succeeded), "{:?}", view.steps);
    assert!(world.admin().retry_run(run, RetryStrategy::FromFailedStep).await.is_err(), "it succeeded");
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn every_branch_goes_on_from_where_it_stood() {
    let world = World::new(2).await;
    world.peer.hang_from.store(2, Ordering::SeqCst);
    let both = json!({ "name": "both", "type": "parallel", "settings": { "branches": [
        { "name": "a", "steps": [call("a1", "put", json!({ "value": 1 })), call("a2", "put", json!({ "value": 2 }))] },
        { "name": "b", "steps": [call("b1", "put", json!({ "value": 3 })),
            { "name": "nap", "type": "delay", "settings": { "delayMs": 1_000 } }, call("b2", "put", json!({ "value": 4 }))] },
    ] } });
    let flow = world.publish_manual(json!([both])).await;
    let run = world.start(flow, json!({})).await;
    world.calls(3).await;
    world.admin().cancel_run(run, "stop").await.unwrap();
    assert_eq!(world.ended(run).await.status, RunStatus::Canceled);
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    world.admin().retry_run(run, RetryStrategy::FromFailedStep).await.unwrap();
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    let calls = world.peer.calls.lock().unwrap().clone();
    let count = |name: &str| calls.iter().filter(|key| key.ends_with(name)).count();
    assert_eq!((count("/a1"), count("/b1"), count("/a2"), count("/b2")), (1, 1, 2, 1), "{calls:?}");
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn an_effect_that_may_have_happened_is_not_done_again_by_the_first_try() {
    let world = World::new(3).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    let flow = world.publish_manual(json!([call("act", "act", json!({ "value": 1 }))])).await;
    let run = world.start(flow, json!({})).await;
    world.calls(1).await;
    world.admin().cancel_run(run, "stop").await.unwrap();
    world.ended(run).await;
    world.peer.release();
    world.admin().retry_run(run, RetryStrategy::FromFailedStep).await.unwrap();
    let view = world.ended(run).await;
    assert_eq!(view.error.as_ref().map(|error| error.kind), Some(StepErrorKind::OutcomeUnknown));
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1);
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_on_the_latest_version_is_a_new_run_with_the_same_payload() {
    let world = World::new(4).await;
    let flow =
        world.publish_manual(json!([call("old", "act", json!({ "value": "{{trigger.n}}", "error": "remote" }))])).await;
    let run = world.run(flow, json!({ "n": 5 })).await;
    assert_eq!(run.status, RunStatus::Failed);
    let summary = world.admin().flow(flow).await.unwrap();
    let source = json!({ "displayName": "Test", "triggers": [{ "name": "t", "type": "manual" }],
        "steps": [call("new", "act", json!({ "value": "{{trigger.n}}" }))] });
    world.admin().update_flow(flow, summary.revision, source.to_string().as_bytes()).await.unwrap();
    world.admin().publish_flow(flow).await.unwrap();
    let again = world.admin().retry_run(run.id, RetryStrategy::OnLatestVersion).await.unwrap();
    assert_ne!(again, run.id);
    let view = world.ended(again).await;
    assert_eq!((view.status, output(&view, "new")), (RunStatus::Succeeded, json!(5)));
    assert_eq!(world.view(run.id).await.status, RunStatus::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_queued_run_is_canceled_before_it_begins() {
    let world = World::with(5, |builder| builder.worker(WorkerOptions::default().with_concurrency(1).unwrap())).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    let flow = world.publish_manual(json!([call("act", "act", json!({ "value": 1 }))])).await;
    let first = world.start(flow, json!({})).await;
    world.calls(1).await;
    let queued = world.start(flow, json!({})).await;
    assert_eq!(world.view(queued).await.status, RunStatus::Queued);
    world.admin().cancel_run(queued, "not needed").await.unwrap();
    world.peer.release();
    assert_eq!(world.ended(first).await.status, RunStatus::Succeeded);
    let view = world.ended(queued).await;
    assert_eq!(view.status, RunStatus::Canceled);
    assert_eq!(view.error.map(|error| error.message), Some("not needed".to_owned()));
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1, "it never acted");
}

#[tokio::test(start_paused = true)]
async fn a_running_and_a_paused_run_are_canceled_soon() {
    let world = World::new(6).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    let acting = world.publish_manual(json!([call("act", "act", json!({ "value": 1 }))])).await;
    let waiting =
        world.publish_manual(json!([{ "name": "nap", "type": "delay", "settings": { "delayMs": 86_400_000 } }])).await;
    let running = world.start(acting, json!({})).await;
    let paused = world.start(waiting, json!({})).await;
    world.calls(1).await;
    world.paused(paused).await;
    for run in [running, paused] {
        world.admin().cancel_run(run, "enough").await.unwrap();
        let view = world.ended(run).await;
        assert_eq!(view.status, RunStatus::Canceled);
        assert!(view.finished.unwrap().saturating_since(view.accepted) < Duration::from_secs(20));
        assert_eq!(view.steps[0].error.as_ref().map(|error| error.kind), Some(StepErrorKind::Canceled));
        world.admin().cancel_run(run, "again").await.unwrap();
    }
    assert_eq!(world.admin().runs(of_flow(acting), &PageRequest::default()).await.unwrap().items.len(), 1);
    replays(world, running).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_outgrew_its_log_marks_every_step_and_is_not_tried_again() {
    let world = World::new(7).await;
    let grow = |name: &str| {
        json!({ "name": name, "type": "loop", "settings": { "items": "{{trigger.items}}", "concurrency": 4,
        "steps": [call(&format!("{name}_act"), "act", json!({ "value": "{{trigger.text}}" })),
            { "name": format!("{name}_nap"), "type": "delay", "settings": { "delayMs": 10 } }] } })
    };
    let flow = world.publish_manual(json!([grow("a")])).await;
    let view = world.run(flow, json!({ "items": vec![0; 600], "text": "x".repeat(200 << 10) })).await;
    assert_eq!(view.status, RunStatus::LogSizeExceeded);
    assert!(view.steps.iter().all(|step| matches!(step.status, StepStatus::Succeeded | StepStatus::Failed)));
    assert!(world.admin().retry_run(view.id, RetryStrategy::FromFailedStep).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_took_too_long_gets_its_time_again() {
    let world = World::new(8).await;
    let mut act = call("act", "put", json!({ "value": 1, "ms": 290_000 }));
    act["timeout"] = json!(300_000);
    let mut before = act.clone();
    before["name"] = json!("before");
    let flow = world.publish_manual(json!([before, act])).await;
    let view = world.run(flow, json!({})).await;
    assert_eq!(view.status, RunStatus::Timeout);
    world.admin().retry_run(view.id, RetryStrategy::FromFailedStep).await.unwrap();
    let view = world.ended(view.id).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    replays(world, view.id).await;
}
