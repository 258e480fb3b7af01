//! `delay`, letting go of runs that wait, and how long a run may be executed.

use std::{sync::atomic::Ordering, time::Duration};

use ap_core::{
    run::{RunStatus, StepErrorKind, StepStatus},
    store::PageRequest,
    time::Timestamp,
};
use serde_json::json;

use super::support::{START, World, call, of_flow, output, pure, replays, step};

fn delay(name: &str, ms: u64) -> serde_json::Value {
    json!({ "name": name, "type": "delay", "settings": { "delayMs": ms } })
}

#[tokio::test(start_paused = true)]
async fn a_short_delay_stays_in_memory_and_a_long_one_is_a_pause() {
    for (ms, status) in [(5_000, RunStatus::Running), (5_001, RunStatus::Paused)] {
        let world = World::new(1).await;
        let flow =
            world.publish_manual(json!([delay("nap", ms), pure("after", json!("{{steps.nap.output.until}}"))])).await;
        let run = world.start(flow, json!({})).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let view = world.view(run).await;
        assert_eq!((view.status, step(&view, "nap").status), (status, StepStatus::Paused), "{ms}");
        let view = world.ended(run).await;
        assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
        let took = view.finished.unwrap().saturating_since(view.accepted);
        assert!((u128::from(ms)..u128::from(ms) + 200).contains(&took.as_millis()), "{took:?}");
        replays(world, run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_until_a_time_ends_then_and_one_that_has_passed_is_none() {
    let world = World::new(2).await;
    let until = |name: &str| json!({ "name": name, "type": "delay", "settings": { "until": "{{trigger.at}}" } });
    let flow = world.publish_manual(json!([until("nap"), until("again")])).await;
    let at = Timestamp::from_millis(START + 3_600_000);
    let run = world.start(flow, json!({ "at": at })).await;
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert!(view.finished.unwrap() >= at && view.finished.unwrap() < at.saturating_add(Duration::from_secs(1)));
    for wrong in [json!("tomorrow"), json!(5), json!(Timestamp::from_millis(START + 40 * 86_400_000))] {
        let view = world.run(flow, json!({ "at": wrong })).await;
        assert_eq!(view.error.map(|error| error.kind), Some(StepErrorKind::Input), "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_parked_changes_nothing() {
    let world = World::new(3).await;
    let flow = world
        .publish_manual(json!([
            call("before", "act", json!({ "value": 1 })),
            delay("nap", 600_000),
            call("after", "act", json!({ "value": 2 })),
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let mut world = replays(world, run).await;
    for seed in 0..30 {
        // Whoever takes up a run that waits does not count as one that it brought down.
        world = world.crash(100 + seed, Duration::ZERO).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(world.peer.calls.lock().unwrap().len(), 2);
    let took = view.finished.unwrap().saturating_since(view.accepted).as_secs();
    assert!((600..602).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_and_acts_at_once_is_not_let_go_of() {
    let world = World::new(4).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    let both = json!({ "name": "both", "type": "parallel", "settings": { "branches": [
        { "name": "a", "steps": [delay("nap", 60_000)] },
        { "name": "b", "steps": [call("act", "put", json!({ "value": 1 }))] },
    ] } });
    let flow = world.publish_manual(json!([both])).await;
    let run = world.start(flow, json!({})).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.view(run).await.status, RunStatus::Running);
    world.peer.release();
    world.paused(run).await;
    assert_eq!(world.ended(run).await.status, RunStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn pauses_side_by_side_end_each_in_its_time() {
    let world = World::new(5).await;
    let branch = |name: &str, ms| json!({ "name": name, "steps": [delay(&format!("nap_{name}"), ms), call(&format!("act_{name}"), "act", json!({ "value": name }))] });
    let both = json!({ "name": "both", "type": "parallel", "settings": { "branches": [
        branch("a", 3_600_000), branch("b", 60_000), branch("c", 60_000), branch("d", 1_000) ] } });
    let flow = world.publish_manual(json!([both])).await;
    let run = world.start(flow, json!({})).await;
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(*world.peer.done.lock().unwrap(), [json!("d"), json!("b"), json!("c"), json!("a")]);
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_time_a_run_is_executed_counts() {
    let world = World::new(6).await;
    let work = |name: &str, ms| {
        let mut step = call(name, "put", json!({ "ms": ms }));
        step["timeout"] = json!(300_000);
        step
    };
    // Two days of waiting and 280 s of work: 300 s are allowed.
    let flow = world
        .publish_manual(json!([
            work("one", 140_000),
            delay("day", 86_400_000),
            delay("other", 86_400_000),
            work("two", 140_000)
        ]))
        .await;
    let view = world.ended(world.start(flow, json!({})).await).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    let flow = world
        .publish_manual(json!([
            work("one", 140_000),
            delay("day", 86_400_000),
            work("two", 170_000),
            pure("never", json!(1))
        ]))
        .await;
    let view = world.ended(world.start(flow, json!({})).await).await;
    assert_eq!(
        (view.status, view.error.as_ref().map(|error| error.kind)),
        (RunStatus::Timeout, Some(StepErrorKind::Timeout))
    );
    assert_eq!(step(&view, "two").status, StepStatus::Failed);
    replays(world, view.id).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_run_is_taken_up_without_a_look_in_between() {
    let world = World::new(7).await;
    let flow = world.publish_manual(json!([delay("nap", 7 * 86_400_000)])).await;
    let runs = [world.start(flow, json!({})).await, world.start(flow, json!({})).await];
    tokio::time::sleep(Duration::from_secs(6 * 86_400)).await;
    let stored = world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items;
    assert!(stored.iter().all(|run| run.status == RunStatus::Paused));
    for run in runs {
        assert_eq!(world.ended(run).await.status, RunStatus::Succeeded);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_before_another_attempt_is_a_pause_too() {
    let world = World::new(8).await;
    world.peer.fail_first.store(1, Ordering::SeqCst);
    let mut act = call("act", "act", json!({ "value": 5 }));
    act["retry"] =
        json!({ "maxAttempts": 2, "backoff": { "type": "fixed", "initialMs": 3_600_000, "maxMs": 3_600_000 } });
    let flow = world.publish_manual(json!([act])).await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let world = replays(world, run).await;
    let view = world.ended(run).await;
    assert_eq!((view.status, output(&view, "act")), (RunStatus::Succeeded, json!(5)));
    let calls = world.peer.calls.lock().unwrap().clone();
    assert_eq!(calls, vec![format!("{run}/act"); 2]);
}

#[tokio::test(start_paused = true)]
async fn what_the_peer_says_of_waiting_is_the_least() {
    let world = World::new(9).await;
    let mut act = call("act", "act", json!({ "error": "outcome_transient", "retryAfterMs": 4_000 }));
    act["retry"] = json!({ "maxAttempts": 3, "backoff": { "initialMs": 10 } });
    act["onError"] = json!("continue");
    let mut capped = call("capped", "act", json!({ "error": "outcome_transient", "retryAfterMs": 900_000 }));
    capped["retry"] = json!({ "maxAttempts": 2, "backoff": { "initialMs": 10, "maxMs": 1_000 } });
    capped["onError"] = json!("continue");
    let flow = world.publish_manual(json!([act, capped])).await;
    let view = world.run(flow, json!({})).await;
    let took = |name: &str| step(&view, name).finished.unwrap().saturating_since(step(&view, name).started).as_millis();
    assert!((8_000..8_100).contains(&took("act")), "{}", took("act"));
    assert!((1_000..1_100).contains(&took("capped")), "{}", took("capped"));
}

#[tokio::test(start_paused = true)]
async fn steps_that_are_done_at_once_do_not_keep_out_the_end() {
    let world = World::new(10).await;
    let each = json!({ "name": "each", "type": "loop", "settings": { "items": "{{trigger.items}}", "steps": [pure("inner", json!(1))] } });
    let flow = world.publish_manual(json!([each])).await;
    let run = world.start(flow, json!({ "items": vec![0; 9_000] })).await;
    world.admin().cancel_run(run, "enough").await.unwrap();
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Canceled);
    assert!(view.steps.len() < 9_000, "{} steps ran", view.steps.len());
}
