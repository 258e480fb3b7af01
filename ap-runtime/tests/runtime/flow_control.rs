//! Flow control at the door and by hand.

use std::{sync::atomic::Ordering, time::Duration};

use ap_core::{run::RunStatus, store::PageRequest};
use ap_runtime::session::SessionError;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::support::{World, of_flow};

async fn publish(world: &World, control: Value) -> (ap_core::id::FlowId, String) {
    let mut source = json!({
        "triggers": [{ "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
        "steps": [{ "name": "a", "type": "fake.put", "settings": { "value": "{{trigger.body.n}}" }, "timeout": 290_000 }],
    });
    source.as_object_mut().unwrap().extend(control.as_object().unwrap().clone());
    let flow = world.publish_flow(source).await;
    let token = world.admin().webhook_token(flow).await.unwrap();
    (flow, format!("/{}", token.expose_secret()))
}

async fn post(world: &World, path: &str, body: &Value) -> Response<Bytes> {
    let request = Request::builder().method("POST").uri(path).header("content-type", "application/json");
    world.runtime.webhooks().handle(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await
}

fn payload(body: &Value) -> Value {
    json!({ "body": body })
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_answers_429_and_says_when_to_come_back() {
    let world = World::new(81).await;
    let limit = json!({ "rateLimit": { "limit": 2, "periodMs": 60_000, "key": "{{trigger.body.customer}}" } });
    let (flow, path) = publish(&world, limit).await;
    let a = json!({ "customer": "a", "n": 1 });
    for _ in 0..2 {
        assert_eq!(post(&world, &path, &a).await.status(), StatusCode::ACCEPTED);
    }
    let limited = post(&world, &path, &a).await;
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(limited.headers()["retry-after"], "30");
    assert_eq!(post(&world, &path, &json!({ "customer": "b", "n": 1 })).await.status(), StatusCode::ACCEPTED);
    let by_hand = world.admin().start_run(flow, payload(&a)).await;
    assert!(matches!(by_hand, Err(SessionError::Limited { .. })), "{by_hand:?}");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(post(&world, &path, &a).await.status(), StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_read_is_the_senders_to_mend() {
    let world = World::new(82).await;
    let (flow, path) =
        publish(&world, json!({ "concurrency": { "limit": 1, "key": "{{trigger.body.customer}}" } })).await;
    let refused = post(&world, &path, &json!({ "n": 1 })).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(refused.body()).contains("trigger.body.customer"));
    let by_hand = world.admin().start_run(flow, payload(&json!({}))).await;
    assert!(matches!(by_hand, Err(SessionError::InvalidArgument { .. })), "{by_hand:?}");
    assert!(world.triggers(flow).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn runs_of_a_key_wait_for_each_other_and_all_run() {
    let world = World::new(83).await;
    let (flow, path) =
        publish(&world, json!({ "concurrency": { "limit": 1, "key": "{{trigger.body.customer}}" } })).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    for customer in ["a", "a", "a", "b"] {
        let body = json!({ "customer": customer, "n": 1 });
        assert_eq!(post(&world, &path, &body).await.status(), StatusCode::ACCEPTED);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.peer.calls.lock().unwrap().len(), 2);
    world.peer.release();
    // No interval of a worker passes: whoever ends lets the next one go.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let runs = world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items;
    assert!(runs.iter().all(|run| run.status == RunStatus::Succeeded), "{runs:?}");
}

#[tokio::test(start_paused = true)]
async fn of_deliveries_that_follow_each_other_the_last_one_runs() {
    let world = World::new(84).await;
    let (flow, path) = publish(&world, json!({ "debounce": { "delayMs": 5_000 } })).await;
    for n in 0..4 {
        assert_eq!(post(&world, &path, &json!({ "n": n })).await.status(), StatusCode::ACCEPTED);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(world.peer.calls.lock().unwrap().is_empty());
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    let runs = world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items;
    let statuses: Vec<RunStatus> = runs.iter().map(|run| run.status).collect();
    let canceled = RunStatus::Canceled;
    assert_eq!(statuses, [canceled, canceled, canceled, RunStatus::Succeeded]);
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1);
    let audit = world.admin().audit(&PageRequest::first(500)).await.unwrap().items;
    let starts = audit.iter().filter(|event| event.details().contains_key("debounce"));
    assert_eq!(starts.count(), 4, "each may have replaced one: {audit:?}");
}

#[tokio::test(start_paused = true)]
async fn a_synchronous_caller_whose_run_was_replaced_is_told_so() {
    let world = World::new(86).await;
    let (_, path) = publish(&world, json!({ "debounce": { "delayMs": 10_000 } })).await;
    let sync = format!("{path}/sync");
    let (body, later) = (json!({ "n": 1 }), json!({ "n": 2 }));
    let (first, second) = tokio::join!(post(&world, &sync, &body), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        post(&world, &sync, &later).await
    });
    assert_eq!(first.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(String::from_utf8_lossy(first.body()).contains("CANCELED"), "{first:?}");
    assert_eq!((second.status(), &second.body()[..]), (StatusCode::OK, &b"2"[..]));
}

#[tokio::test(start_paused = true)]
async fn throttled_runs_start_when_their_time_has_come() {
    let world = World::new(85).await;
    let (_, path) = publish(&world, json!({ "throttle": { "limit": 1, "periodMs": 10_000 } })).await;
    for n in 0..3 {
        assert_eq!(post(&world, &path, &json!({ "n": n })).await.status(), StatusCode::ACCEPTED);
    }
    for (seconds, started) in [(1, 1), (10, 2), (10, 3)] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_eq!(world.peer.calls.lock().unwrap().len(), started);
    }
}
