//! `queue.enqueue` and `queue.process`: jobs shared by runs.

use std::{sync::atomic::Ordering, time::Duration};

use ap_core::{
    id::{FlowId, JobId, SignalId},
    run::{RunStatus, StepErrorKind, StepStatus},
    store::{LookupHash, Sealed},
};
use ap_crypto::keyring::Keyring;
use ap_runtime::store::{ClaimRequest, NewJob, RunChange, RunCommit, RunStore, SignalRecord, SystemStore};
use serde_json::{Value, json};

use super::support::{World, call, output, pure, replays, root_key, step};

fn process(settings: Value) -> Value {
    let mut all = json!({ "queueName": "api-requests" });
    for (key, value) in settings.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({ "name": "process", "type": "queue.process", "settings": all })
}

async fn publish(world: &World, settings: Value) -> FlowId {
    world
        .publish_manual(json!([
            { "name": "enqueue", "type": "queue.enqueue", "settings": { "queueName": "api-requests", "data": "{{trigger.items}}" } },
            process(settings),
        ]))
        .await
}

async fn counts(world: &World) -> (u64, u64, u64) {
    let counts = world.admin().queue("api-requests").await.unwrap();
    (counts.waiting, counts.held, counts.dead)
}

/// The values the peer was sent, in order.
fn seen(world: &World) -> Vec<Value> {
    world.peer.log.lock().unwrap().iter().map(|(_, value, _)| value.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_example_of_the_guide_works_as_it_stands() {
    let world = World::new(1).await;
    let flow = world
        .publish_manual(json!([
            { "type": "queue.enqueue", "settings": { "queueName": "api-requests", "data": "{{trigger.items}}" } },
            { "type": "queue.process", "settings": { "queueName": "api-requests", "maxConcurrent": 5,
                "action": { "type": "fake.act", "value": { "url": "{{item.url}}", "body": "{{item.data}}" }, "ms": 100 } } },
        ]))
        .await;
    let items: Vec<Value> = (0..12).map(|n| json!({ "url": format!("https://api.example/{n}"), "data": n })).collect();
    let run = world.run(flow, json!({ "items": items })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    let sent: Vec<Value> = seen(&world).iter().map(|value| value["body"].clone()).collect();
    assert_eq!(sent, (0..12).map(Value::from).collect::<Vec<_>>(), "first in, first out");
    assert_eq!(world.peer.most.load(Ordering::SeqCst), 5);
    assert_eq!(run.steps[0].output, Some(json!({ "queue": "api-requests", "jobs": 12 })));
    let done = run.steps[1].output.clone().unwrap();
    assert_eq!((&done["processed"], &done["failed"]), (&json!(12), &json!(0)));
    assert_eq!(done["iterations"].as_array().unwrap().len(), 12);
    assert_eq!(counts(&world).await, (0, 0, 0));
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn jobs_know_their_item_and_index_and_an_empty_queue_is_no_work() {
    let world = World::new(2).await;
    let flow = publish(&world, json!({ "steps": [pure("look", json!("{{index}}:{{item}}"))] })).await;
    let run = world.run(flow, json!({ "items": ["a", "b"] })).await;
    assert_eq!((output(&run, "process:0/look"), output(&run, "process:1/look")), (json!("0:a"), json!("1:b")));
    let run = world.run(flow, json!({ "items": [] })).await;
    assert_eq!(output(&run, "process"), json!({ "iterations": [], "processed": 0, "failed": 0 }));
    // Anything but a list is one job.
    let run = world.run(flow, json!({ "items": { "x": 1 } })).await;
    assert_eq!(output(&run, "process")["processed"], json!(1));
}

#[tokio::test(start_paused = true)]
async fn two_runs_share_the_limit_and_no_job_is_done_twice() {
    let world = World::new(3).await;
    let settings = json!({ "maxConcurrent": 3, "action": { "type": "fake.act", "value": "{{item}}", "ms": 2_000 } });
    let flow = publish(&world, settings).await;
    let runs = [
        world.start(flow, json!({ "items": (0..10).collect::<Vec<_>>() })).await,
        world.start(flow, json!({ "items": (10..20).collect::<Vec<_>>() })).await,
    ];
    let mut processed = 0;
    for run in runs {
        let view = world.ended(run).await;
        assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
        processed += output(&view, "process")["processed"].as_u64().unwrap();
    }
    assert_eq!(processed, 20);
    assert!(world.peer.most.load(Ordering::SeqCst) <= 3, "over all runs");
    let mut all: Vec<u64> = seen(&world).iter().filter_map(Value::as_u64).collect();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn jobs_start_no_closer_together_than_told() {
    let world = World::new(4).await;
    let settings =
        json!({ "maxConcurrent": 5, "delayBetweenJobs": 1_000, "action": { "type": "fake.act", "value": "{{item}}" } });
    let flow = publish(&world, settings).await;
    let runs = [
        world.start(flow, json!({ "items": [1, 2, 3, 4] })).await,
        world.start(flow, json!({ "items": [5, 6, 7] })).await,
    ];
    for run in runs {
        assert_eq!(world.ended(run).await.status, RunStatus::Succeeded);
    }
    let mut starts: Vec<_> = world.peer.log.lock().unwrap().iter().map(|(.., at)| *at).collect();
    assert_eq!(starts.len(), 7);
    starts.sort_unstable();
    for pair in starts.windows(2) {
        assert!(pair[1].saturating_since(pair[0]).as_millis() >= 999, "{starts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_tried_again_and_then_a_dead_letter() {
    let world = World::new(5).await;
    let settings = json!({ "maxRetries": 2, "steps": [
        call("act", "act", json!({ "value": "{{item.v}}", "error": "{{item.error}}" })), pure("tail", json!("done with {{item.v}}"))] });
    let flow = publish(&world, settings).await;
    let items =
        json!([{ "v": 1, "error": "outcome_transient" }, { "v": 2, "error": null }, { "v": 3, "error": "remote" }]);
    let run = world.run(flow, json!({ "items": items })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "a dead letter does not fail the step: {:?}", run.error);
    let done = output(&run, "process");
    assert_eq!((&done["processed"], &done["failed"]), (&json!(1), &json!(2)));
    let count = |wanted: u64| seen(&world).iter().filter(|value| **value == json!(wanted)).count();
    assert_eq!((count(1), count(2), count(3)), (3, 1, 1), "what another attempt cannot mend is not tried again");
    assert_eq!(counts(&world).await, (0, 0, 2));
    assert_eq!(world.admin().redrive_queue("api-requests", 10).await.unwrap(), 2);
    assert_eq!(counts(&world).await, (2, 0, 0));
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_another_attempt_mends_succeeds() {
    let world = World::new(6).await;
    world.peer.fail_first.store(2, Ordering::SeqCst);
    let flow = publish(&world, json!({ "maxRetries": 3, "action": { "type": "fake.act", "value": "{{item}}" } })).await;
    let run = world.run(flow, json!({ "items": ["x"] })).await;
    assert_eq!((run.status, &output(&run, "process")["processed"]), (RunStatus::Succeeded, &json!(1)));
    let calls = world.peer.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|key| *key == calls[0]), "one key for one job: {calls:?}");
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_may_have_acted_is_not_tried_again() {
    let world = World::new(7).await;
    let both = json!({ "name": "both", "type": "parallel", "settings": { "branches": [
        { "name": "a", "steps": [call("act", "act", json!({ "value": "charge", "ms": 5_000 }))] },
        { "name": "b", "steps": [call("bad", "put", json!({ "value": "bad", "ms": 100, "error": "outcome_transient" }))] },
    ] } });
    let flow = publish(&world, json!({ "maxRetries": 5, "steps": [both] })).await;
    let run = world.run(flow, json!({ "items": ["x"] })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(
        seen(&world).iter().filter(|value| **value == json!("charge")).count(),
        1,
        "the other branch was cut short"
    );
    assert_eq!(counts(&world).await, (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_jobs_are_held_loses_none_and_doubles_none() {
    for hang_from in 0..6 {
        let world = World::new(8).await;
        world.peer.hang_from.store(hang_from, Ordering::SeqCst);
        let settings = json!({ "maxConcurrent": 2, "action": { "type": "fake.put", "value": "{{item}}" } });
        let flow = publish(&world, settings).await;
        let run = world.start(flow, json!({ "items": [0, 1, 2, 3, 4, 5] })).await;
        world.calls(hang_from as usize + 1).await;
        world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
        let world = world.crash(9, Duration::ZERO).await;
        let view = world.ended(run).await;
        assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
        assert_eq!(output(&view, "process")["processed"], json!(6));
        let done = world.peer.done.lock().unwrap().clone();
        let mut done: Vec<u64> = done.iter().filter_map(Value::as_u64).collect();
        done.sort_unstable();
        done.dedup();
        assert_eq!(done, [0, 1, 2, 3, 4, 5]);
        assert_eq!(counts(&world).await, (0, 0, 0));
        replays(world, run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_during_an_effect_makes_its_job_a_dead_letter() {
    let world = World::new(10).await;
    world.peer.hang_from.store(1, Ordering::SeqCst);
    let flow = publish(&world, json!({ "maxRetries": 3, "action": { "type": "fake.act", "value": "{{item}}" } })).await;
    let run = world.start(flow, json!({ "items": [0, 1, 2] })).await;
    world.calls(2).await;
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    let world = world.crash(11, Duration::ZERO).await;
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(seen(&world), [0, 1, 2].map(Value::from));
    assert_eq!(counts(&world).await, (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_canceled_run_gives_its_jobs_back_but_not_those_that_may_have_acted() {
    for (action, waiting, dead) in [("fake.put", 4, 0), ("fake.act", 2, 2)] {
        let world = World::new(12).await;
        world.peer.hang.store(true, Ordering::SeqCst);
        let settings = json!({ "maxConcurrent": 2, "action": { "type": action, "value": "{{item}}" } });
        let flow = publish(&world, settings).await;
        let run = world.start(flow, json!({ "items": [0, 1, 2, 3] })).await;
        world.calls(2).await;
        assert_eq!(counts(&world).await, (2, 2, 0));
        world.admin().cancel_run(run, "enough").await.unwrap();
        assert_eq!(world.ended(run).await.status, RunStatus::Canceled);
        assert_eq!(counts(&world).await, (waiting, 0, dead), "{action}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_tried_again_asks_for_jobs_anew() {
    let world = World::new(13).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    let settings = json!({ "maxConcurrent": 2, "action": { "type": "fake.put", "value": "{{item}}" } });
    let flow = publish(&world, settings).await;
    let run = world.start(flow, json!({ "items": [0, 1, 2, 3] })).await;
    world.calls(2).await;
    world.admin().cancel_run(run, "by mistake").await.unwrap();
    world.ended(run).await;
    world.peer.release();
    // Somebody else works off what was given back.
    let other = world.run(flow, json!({ "items": [] })).await;
    assert_eq!(output(&other, "process")["processed"], json!(4));
    world.admin().retry_run(run, ap_runtime::session::RetryStrategy::FromFailedStep).await.unwrap();
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(output(&view, "process")["processed"], json!(0));
    assert_eq!(*world.peer.done.lock().unwrap(), [0, 1, 2, 3].map(Value::from), "nothing is done twice");
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_step_gives_its_jobs_back_while_the_run_goes_on() {
    let world = World::new(14).await;
    let both = json!({ "name": "both", "type": "parallel", "onError": "continue", "settings": { "branches": [
        { "name": "a", "steps": [process(json!({ "maxConcurrent": 3, "steps": [
            { "name": "nap", "type": "delay", "settings": { "delayMs": 60_000 } }] }))] },
        { "name": "b", "steps": [call("bad", "act", json!({ "ms": 1_000, "error": "remote" }))] },
    ] } });
    let flow = world
        .publish_manual(json!([
            { "name": "enqueue", "type": "queue.enqueue", "settings": { "queueName": "api-requests", "data": [1, 2, 3, 4] } },
            both,
            { "name": "nap2", "type": "delay", "settings": { "delayMs": 600_000 } },
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(counts(&world).await, (1, 3, 0));
    let view = world.paused(run).await;
    assert_eq!(step(&view, "both").status, StepStatus::Failed);
    assert_eq!(step(&view, "process").error.as_ref().map(|error| error.kind), Some(StepErrorKind::Canceled));
    assert_eq!(counts(&world).await, (4, 0, 0), "others can have them");
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_failed_enqueue_never_exist() {
    let world = World::new(15).await;
    let flow = world
        .publish_manual(json!([
            { "name": "enqueue", "type": "queue.enqueue", "settings": { "queueName": "api-requests", "data": "{{trigger.items}}" } },
        ]))
        .await;
    let run = world.run(flow, json!({ "items": vec![0; 10_001] })).await;
    assert_eq!(run.error.map(|error| error.kind), Some(StepErrorKind::Limit));
    assert_eq!(counts(&world).await, (0, 0, 0));
    let run = world.run(flow, json!({ "items": vec![0; 10_000] })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(counts(&world).await, (10_000, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_could_not_be_read_back_is_not_queued() {
    let world = World::new(16).await;
    let flow = world
        .publish_manual(json!([
            { "name": "enqueue", "type": "queue.enqueue", "settings": { "queueName": "api-requests", "data": [[["{{trigger.deep}}"]]] } },
        ]))
        .await;
    for (levels, kind) in [(97, None), (98, Some(StepErrorKind::Input))] {
        let deep = (0..levels).fold(json!(1), |inner, _| json!([inner]));
        let run = world.run(flow, json!({ "deep": deep })).await;
        assert_eq!(run.error.map(|error| error.kind), kind, "{levels}");
    }
    assert_eq!(counts(&world).await, (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_altered_in_the_store_becomes_a_dead_letter_and_stops_nothing() {
    let world = World::new(16).await;
    // Whoever can write to the store puts a job in front that nobody sealed.
    let sleeper =
        world.publish_manual(json!([{ "name": "nap", "type": "delay", "settings": { "delayMs": 36_000_000 } }])).await;
    let run = world.start(sleeper, json!({})).await;
    world.paused(run).await;
    let (backend, project) = (world.backend.clone(), world.project);
    let sealed = Sealed::from_bytes(vec![1; 64].into());
    let (id, slot, at) = (SignalId::from_u128(1), LookupHash([7; 32]), world.clock.now());
    backend.signal(SignalRecord { id, project, run, slot, at, sealed: sealed.clone() }, &[]).await.unwrap();
    let lease = Duration::from_secs(30);
    let request = ClaimRequest { limit: 1, lease, per_project: u32::MAX, total: u32::MAX };
    let lease = backend.claim(request).await.unwrap()[0].lease;
    let keys = Keyring::new(root_key(), backend.clone()).tenant(project.into()).await.unwrap();
    let queue = keys.lookup_hash("queue", &[b"api-requests"]);
    let jobs = vec![NewJob { id: JobId::from_u128(1), queue, sealed }];
    backend.commit(RunCommit { jobs, ..RunCommit::new(lease, RunChange::Release) }, &[]).await.unwrap();
    assert_eq!(counts(&world).await, (1, 0, 0));
    let flow =
        publish(&world, json!({ "maxConcurrent": 1, "steps": [call("do", "act", json!({ "value": "{{item}}" }))] }))
            .await;
    let run = world.start(flow, json!({ "items": [1, 2] })).await;
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!((seen(&world), counts(&world).await), (vec![json!(1), json!(2)], (0, 0, 1)));
    replays(world, run).await;
}
