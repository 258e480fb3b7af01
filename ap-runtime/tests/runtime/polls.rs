//! Polls: every item once, the cursor with its runs, and nothing lost by failures, crashes and changes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ap_core::{
    connection::{Connection, ConnectionValue},
    time::Timestamp,
};
use ap_runtime::clock::{Clock, TokioClock};
use serde_json::{Value, json};

use super::support::{START, World, builder};

fn poll(settings: Value, more: Value) -> Value {
    let mut flow = json!({
        "triggers": [{ "type": "fake.items", "settings": settings, "pollIntervalMs": 60_000 }],
        "steps": [{ "name": "a", "type": "fake.pure", "settings": { "value": "{{trigger.n}}" } }],
    });
    flow.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    flow
}

fn add(world: &World, numbers: std::ops::Range<u64>) {
    let items = numbers.map(|n| (Some(format!("key-{n}")), json!({ "n": n })));
    world.peer.items.lock().unwrap().extend(items);
}

async fn found(world: &World, flow: ap_core::id::FlowId) -> Vec<u64> {
    let mut numbers: Vec<u64> = world.triggers(flow).await.iter().map(|item| item["n"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

fn polls(world: &World) -> usize {
    world.peer.polls.lock().unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn each_item_makes_one_run_and_the_cursor_goes_on() {
    let world = World::new(71).await;
    add(&world, 0..3);
    let flow = world.publish_flow(poll(json!({}), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(found(&world, flow).await, [0, 1, 2]);
    add(&world, 3..5);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(found(&world, flow).await, [0, 1, 2, 3, 4]);
    let cursors: Vec<Option<Value>> =
        world.peer.polls.lock().unwrap().iter().map(|(_, cursor)| cursor.clone()).collect();
    assert_eq!(cursors, [None, Some(json!(3))]);
}

#[tokio::test(start_paused = true)]
async fn an_item_with_a_known_key_is_a_duplicate() {
    let world = World::new(72).await;
    add(&world, 0..2);
    add(&world, 0..2);
    let flow = world.publish_flow(poll(json!({}), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    add(&world, 1..3);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(found(&world, flow).await, [0, 1, 2]);
    world.peer.items.lock().unwrap().extend([(None, json!({ "n": 9 })), (None, json!({ "n": 9 }))]);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(found(&world, flow).await, [0, 1, 2, 9, 9], "without a key each is its own");
}

#[tokio::test(start_paused = true)]
async fn a_failing_poll_keeps_the_cursor_and_is_tried_ever_more_rarely() {
    let world = World::new(73).await;
    world.peer.fail_first.store(3, Ordering::SeqCst);
    add(&world, 0..2);
    let flow = world.publish_flow(poll(json!({}), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(polls(&world), 1);
    // Waits of 30 to 60, 60 to 120 and 120 to 240 seconds.
    tokio::time::sleep(Duration::from_secs(180)).await;
    assert_eq!(polls(&world), 3);
    assert!(found(&world, flow).await.is_empty());
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(found(&world, flow).await, [0, 1]);
    let audit = world.admin().audit(&ap_core::store::PageRequest::first(500)).await.unwrap().items;
    assert!(audit.iter().any(|event| event.action() == "trigger.fail"), "{audit:?}");
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_hangs_is_given_up_and_repeated() {
    let world = World::new(74).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    add(&world, 0..1);
    let flow = world.publish_flow(poll(json!({}), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    world.peer.release();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(found(&world, flow).await, [0]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_a_poll_repeats_it_and_doubles_nothing() {
    let world = World::new(75).await;
    add(&world, 0..3);
    let flow = world.publish_flow(poll(json!({}), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    add(&world, 3..6);
    world.peer.hang.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(polls(&world), 2);
    let World { runtime, backend, peer, project, .. } = world;
    runtime.shutdown(Duration::ZERO).await;
    drop(runtime);
    backend.crash();
    peer.release();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(START + 70_000)));
    let runtime = builder(backend.clone(), Arc::clone(&clock), 76, &peer).build().await.unwrap();
    let world = World { runtime, backend, peer, project, clock };
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(found(&world, flow).await, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_while_a_poll_is_under_way_loses_nothing() {
    let world = World::new(77).await;
    let admin = world.admin();
    add(&world, 0..2);
    world.peer.hang.store(true, Ordering::SeqCst);
    let flow = world.publish_flow(poll(json!({}), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(polls(&world), 1);
    // The poll under way finds the flow disabled and enabled again, and its claim replaced.
    admin.set_flow_enabled(flow, false).await.unwrap();
    admin.set_flow_enabled(flow, true).await.unwrap();
    world.peer.release();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(found(&world, flow).await, [0, 1]);
    add(&world, 2..3);
    let revision = admin.flow(flow).await.unwrap().revision;
    let other = poll(json!({}), json!({ "displayName": "Renamed" }));
    admin.update_flow(flow, revision, other.to_string().as_bytes()).await.unwrap();
    admin.publish_flow(flow).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(found(&world, flow).await, [0, 1, 2], "a version that polls the same goes on from the cursor");
    assert_eq!(world.peer.polls.lock().unwrap().last().unwrap().1, Some(json!(2)));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_polls_something_else_begins_anew() {
    let world = World::new(78).await;
    let admin = world.admin();
    add(&world, 0..2);
    let flow = world.publish_flow(poll(json!({}), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let revision = admin.flow(flow).await.unwrap().revision;
    let other = poll(json!({ "secret": "other" }), json!({}));
    admin.update_flow(flow, revision, other.to_string().as_bytes()).await.unwrap();
    admin.publish_flow(flow).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.peer.polls.lock().unwrap().last().unwrap().1, None);
    assert_eq!(found(&world, flow).await, [0, 1], "the keys are known all the same");
}

#[tokio::test(start_paused = true)]
async fn what_exceeds_the_rate_limit_starts_later() {
    let world = World::new(79).await;
    add(&world, 0..5);
    let control = json!({ "rateLimit": { "limit": 2, "periodMs": 60_000 } });
    let flow = world.publish_flow(poll(json!({}), control)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(found(&world, flow).await, [0, 1, 2, 3, 4]);
    tokio::time::sleep(Duration::from_secs(200)).await;
    let runs =
        world.admin().runs(super::support::of_flow(flow), &ap_core::store::PageRequest::default()).await.unwrap();
    assert!(runs.items.iter().all(|run| run.status == ap_core::run::RunStatus::Succeeded), "{runs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_poll_sees_a_placeholder_and_its_use_is_audited() {
    let world = World::new(80).await;
    let admin = world.admin();
    let value = ConnectionValue::SecretText { secret: "a-secret-of-the-poll".into() };
    admin.put_connection(&Connection::new("api", value, vec![], vec![]).unwrap()).await.unwrap();
    add(&world, 0..1);
    world.publish_flow(poll(json!({ "secret": "{{connections.api}}" }), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let input = world.peer.polls.lock().unwrap()[0].0.to_string();
    assert!(input.contains("apcred_") && !input.contains("a-secret-of-the-poll"), "{input}");
    let audit = admin.audit(&ap_core::store::PageRequest::first(500)).await.unwrap().items;
    assert!(audit.iter().any(|event| event.action() == "connection.use"));
}

#[tokio::test(start_paused = true)]
async fn polls_of_one_project_that_hang_do_not_delay_the_schedules_of_another() {
    let world = World::new(80).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    for _ in 0..200 {
        world.publish_flow(poll(json!({}), json!({}))).await;
    }
    let other = super::support::admin_session(&world.runtime, None).create_project("Other").await.unwrap();
    let admin = super::support::admin_session(&world.runtime, Some(other)).project(other).unwrap();
    let source = json!({
        "triggers": [{ "type": "schedule", "settings": { "cronExpression": "* * * * *" } }],
        "steps": [{ "name": "a", "type": "fake.pure", "settings": { "value": 1 } }],
    });
    let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap().id;
    admin.publish_flow(flow).await.unwrap();
    // Every poll takes its whole time; each tick comes within the pace of the loop all the same.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let runs = admin.runs(super::support::of_flow(flow), &ap_core::store::PageRequest::default()).await.unwrap().items;
    assert_eq!(runs.len(), 10);
    for run in runs {
        let late = run.created.as_micros() % 60_000_000;
        assert!(late < 1_000_000, "late by {late} us");
    }
    assert!(polls(&world) >= 8 * 19, "the polls go on beside them: {}", polls(&world));
}
