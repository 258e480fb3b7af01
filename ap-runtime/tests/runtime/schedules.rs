//! Schedules: once per tick, whoever looks, and as the flow says when ticks were missed or overlap.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ap_core::{run::RunStatus, store::PageRequest, time::Timestamp};
use ap_runtime::{
    clock::{Clock, TokioClock},
    session::SessionError,
};
use serde_json::{Value, json};

use super::support::{START, World, of_flow};

/// 2025-06-15T15:06:40Z.
const BEGIN: Timestamp = Timestamp::from_millis(START);

fn minutely(settings: Value, step: Value) -> Value {
    let mut all = json!({ "cronExpression": "* * * * *" });
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    json!({ "triggers": [{ "type": "schedule", "settings": all }], "steps": [step] })
}

fn pure() -> Value {
    json!({ "name": "a", "type": "fake.pure", "settings": { "value": "{{trigger.scheduledAt}}" } })
}

fn act() -> Value {
    json!({ "name": "a", "type": "fake.put", "settings": { "value": 1 }, "timeout": 290_000 })
}

async fn ticks(world: &World, flow: ap_core::id::FlowId) -> Vec<String> {
    let text = |trigger: &Value| trigger["scheduledAt"].as_str().unwrap().to_owned();
    world.triggers(flow).await.iter().map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn each_tick_makes_one_run_at_its_time() {
    let world = World::new(61).await;
    let flow = world.publish_flow(minutely(json!({ "timezone": "Europe/Berlin" }), pure())).await;
    tokio::time::sleep(Duration::from_secs(179)).await;
    let expected = ["15:07:00", "15:08:00", "15:09:00"].map(|time| format!("2025-06-15T{time}Z"));
    assert_eq!(ticks(&world, flow).await, expected);
    let first = &world.triggers(flow).await[0];
    assert_eq!(
        (&first["firedAt"], &first["timezone"]),
        (&json!(expected[0]), &json!("Europe/Berlin")),
        "to the moment"
    );
    let runs = world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items;
    assert!(runs.iter().all(|run| run.status == RunStatus::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn several_workers_make_one_run_per_tick() {
    let world = World::new(62).await;
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(BEGIN));
    let mut others = Vec::new();
    for seed in 0..3 {
        others.push(world.another_worker(Arc::clone(&clock), 620 + seed).await);
    }
    let flow = world.publish_flow(minutely(json!({}), pure())).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(ticks(&world, flow).await.len(), 10);
    for other in others {
        other.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disabled_flow_rests_and_one_that_is_enabled_again_goes_on() {
    let world = World::new(63).await;
    let flow = world.publish_flow(minutely(json!({}), pure())).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(ticks(&world, flow).await.len(), 1);
    world.admin().set_flow_enabled(flow, false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(ticks(&world, flow).await.len(), 1);
    world.admin().set_flow_enabled(flow, true).await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(ticks(&world, flow).await.len(), 2, "what passed meanwhile was not missed: it was not wanted");
}

#[tokio::test(start_paused = true)]
async fn an_edited_draft_and_a_new_token_disturb_no_schedule() {
    let world = World::new(64).await;
    let admin = world.admin();
    let flow = world.publish_flow(minutely(json!({}), pure())).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        let revision = admin.flow(flow).await.unwrap().revision;
        admin.update_flow(flow, revision, minutely(json!({}), act()).to_string().as_bytes()).await.unwrap();
        admin.rotate_webhook_token(flow).await.unwrap();
    }
    assert_eq!(ticks(&world, flow).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn ticks_overlap_as_the_flow_says() {
    for (overlap, under_way, in_all) in [("skip", 1, 1), ("queue", 1, 3), ("allow", 3, 3)] {
        let world = World::new(65).await;
        world.peer.hang.store(true, Ordering::SeqCst);
        let flow = world.publish_flow(minutely(json!({ "overlap": overlap }), act())).await;
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(world.peer.calls.lock().unwrap().len(), under_way, "{overlap}");
        let runs = || async { world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items };
        assert_eq!(runs().await.len(), in_all, "{overlap}");
        world.peer.release();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(runs().await.iter().all(|run| run.status == RunStatus::Succeeded), "{overlap}");
    }
}

#[tokio::test(start_paused = true)]
async fn missed_ticks_are_caught_up_with_as_the_flow_says() {
    for (catch_up, expected) in [("none", 1), ("one", 1), ("all", 61)] {
        let world = World::new(66).await;
        let flow = world.publish_flow(minutely(json!({ "catchUp": catch_up, "overlap": "allow" }), pure())).await;
        world.runtime.shutdown(Duration::ZERO).await;
        tokio::time::sleep(Duration::from_secs(3_630)).await;
        assert!(ticks(&world, flow).await.is_empty());
        let now = Timestamp::from_millis(START + 3_630_000);
        let late = world.another_worker(Arc::new(TokioClock::starting_at(now)), 67).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        // 60 minutes and the tick of this minute.
        assert_eq!(ticks(&world, flow).await.len(), expected, "{catch_up}");
        late.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_schedule_is_refused_at_publish() {
    let world = World::new(68).await;
    let admin = world.admin();
    for (settings, rule, place) in [
        (json!({ "cronExpression": "61 * * * *" }), "trigger.schedule.expression", "cronExpression"),
        (json!({ "cronExpression": "0 0 31 2 *" }), "trigger.schedule.never", "cronExpression"),
        (json!({ "timezone": "Mars/Olympus" }), "trigger.schedule.timezone", "timezone"),
    ] {
        let flow = admin.create_flow(minutely(settings, pure()).to_string().as_bytes()).await.unwrap();
        let Err(SessionError::InvalidFlow(found)) = admin.publish_flow(flow.id).await else { panic!("{rule}") };
        let found = &found.0[0];
        assert_eq!((found.rule, found.pointer.as_str()), (rule, format!("/triggers/0/settings/{place}").as_str()));
        assert!(!found.fix.is_empty());
    }
}
