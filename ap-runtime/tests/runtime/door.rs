//! The webhook door: what gets in, what does not, and what is answered.

use std::{net::IpAddr, time::Duration};

use ap_core::{
    audit::AuditOutcome,
    connection::{Connection, ConnectionValue},
    run::RunStatus,
    store::PageRequest,
};
use ap_runtime::{config::WebhookOptions, session::IfUsed, webhook::ClientAddress};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::support::{World, of_flow};

fn request(path: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::post(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body.to_owned())).unwrap()
}

async fn post(world: &World, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Bytes> {
    world.runtime.webhooks().handle(request(path, headers, body)).await
}

fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn respond() -> Value {
    json!([{ "name": "answer", "type": "respond", "settings": {
        "status": 201, "headers": { "x-flow": "yes" }, "body": { "hello": "{{trigger.body.name}}" } } }])
}

#[tokio::test(start_paused = true)]
async fn a_request_is_accepted_and_the_run_can_be_looked_up() {
    let world = World::new(21).await;
    let (_, path) = world.publish(respond()).await;
    let response = post(&world, &path, &[], r#"{"name":"Ada"}"#).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let run = body(&response)["runId"].as_str().unwrap().parse().unwrap();
    let status = world.admin().wait_for_run(run, Duration::from_secs(5)).await.unwrap();
    assert_eq!(status, RunStatus::Succeeded);
    assert_eq!(world.admin().run(run).await.unwrap().trigger["body"], json!({ "name": "Ada" }));
}

#[tokio::test(start_paused = true)]
async fn a_synchronous_caller_gets_the_reply() {
    let world = World::new(22).await;
    let (_, path) = world.publish(respond()).await;
    let response = post(&world, &format!("{path}/sync"), &[], r#"{"name":"Ada"}"#).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["x-flow"], "yes");
    assert_eq!(body(&response), json!({ "hello": "Ada" }));
    assert!(response.headers().contains_key("x-run-id"));
}

#[tokio::test(start_paused = true)]
async fn without_a_respond_step_the_last_output_is_the_reply() {
    let world = World::new(23).await;
    let (_, path) = world.publish(json!([{ "name": "a", "type": "fake.pure", "settings": { "value": [1, 2] } }])).await;
    let response = post(&world, &format!("{path}/sync"), &[], "{}").await;
    assert_eq!((response.status(), body(&response)), (StatusCode::OK, json!([1, 2])));
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_answers_500_without_details() {
    let world = World::new(24).await;
    let (_, path) =
        world.publish(json!([{ "name": "a", "type": "fail", "settings": { "message": "inner canary" } }])).await;
    let response = post(&world, &format!("{path}/sync"), &[], "{}").await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!String::from_utf8_lossy(response.body()).contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_run_answers_408_and_goes_on() {
    let world = World::new(25).await;
    let (flow, path) = world
        .publish(json!([{ "name": "act", "type": "fake.act", "settings": { "value": 1 },
            "retry": { "maxAttempts": 2, "backoff": { "initialMs": 60_000 } } }]))
        .await;
    world.peer.fail_first.store(1, std::sync::atomic::Ordering::SeqCst);
    let response = post(&world, &format!("{path}/sync"), &[], "{}").await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    let run = body(&response)["runId"].as_str().unwrap().parse().unwrap();
    let status = world.admin().wait_for_run(run, Duration::from_secs(120)).await.unwrap();
    assert_eq!(status, RunStatus::Succeeded);
    assert_eq!(world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_delivery_makes_one_run_and_a_duplicate_gets_its_reply() {
    let world = World::new(26).await;
    let (flow, path) = world.publish(respond()).await;
    let sync = format!("{path}/sync");
    let first = post(&world, &sync, &[("webhook-id", "d-1")], r#"{"name":"Ada"}"#).await;
    let again = post(&world, &sync, &[("webhook-id", "d-1")], r#"{"name":"Bob"}"#).await;
    assert_eq!(first.headers()["x-run-id"], again.headers()["x-run-id"]);
    assert_eq!(body(&again), json!({ "hello": "Ada" }));
    let late = post(&world, &path, &[("webhook-id", "d-1")], "{}").await;
    assert_eq!(body(&late)["duplicate"], json!(true));
    post(&world, &path, &[("webhook-id", "d-2")], "{}").await;
    post(&world, &path, &[], "{}").await;
    post(&world, &path, &[], "{}").await;
    let runs = world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.len();
    assert_eq!(runs, 4);
}

#[tokio::test(start_paused = true)]
async fn the_trigger_may_name_where_the_delivery_id_stands() {
    let world = World::new(27).await;
    let trigger = json!({ "authentication": { "type": "NONE" }, "dedupeKey": "/event/id" });
    let (flow, path) = world.publish_with(trigger, respond()).await;
    for _ in 0..3 {
        post(&world, &path, &[], r#"{"name":"x","event":{"id":7}}"#).await;
    }
    assert_eq!(world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.len(), 1);
}

fn header_trigger() -> Value {
    json!({ "authentication": {
        "type": "HEADER", "headerName": "X-API-Key", "expectedValue": "{{connections.api_secret}}" } })
}

async fn put_secret(world: &World, secret: &str) {
    let value = ConnectionValue::SecretText { secret: secret.into() };
    let connection = Connection::new("api_secret", value, vec![], vec![]).unwrap();
    world.admin().put_connection(&connection).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_right_secret_opens_the_door_and_it_stays_outside() {
    let world = World::new(28).await;
    put_secret(&world, "canary-secret").await;
    let (flow, path) = world.publish_with(header_trigger(), respond()).await;
    for headers in
        [&[][..], &[("x-api-key", "wrong-secret")], &[("x-api-key", "canary-secret"), ("x-api-key", "canary-secret")]]
    {
        let refused = post(&world, &path, headers, r#"{"name":"x"}"#).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    }
    assert!(world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.is_empty());
    let accepted = post(&world, &path, &[("x-api-key", "canary-secret")], r#"{"name":"x"}"#).await;
    let run = body(&accepted)["runId"].as_str().unwrap().parse().unwrap();
    let view = world.admin().run(run).await.unwrap();
    assert!(!serde_json::to_string(&view).unwrap().contains("canary"));
    // A new secret counts from the next request on.
    put_secret(&world, "another-secret").await;
    let old = post(&world, &path, &[("x-api-key", "canary-secret")], "{}").await;
    assert_eq!(old.status(), StatusCode::UNAUTHORIZED);
    let new = post(&world, &path, &[("x-api-key", "another-secret")], r#"{"name":"x"}"#).await;
    assert_eq!(new.status(), StatusCode::ACCEPTED);
    // Without the connection nobody gets in.
    world.admin().delete_connection("api_secret", IfUsed::DeleteAnyway).await.unwrap();
    let none = post(&world, &path, &[("x-api-key", "another-secret")], "{}").await;
    assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_audited_as_counts() {
    let world = World::new(29).await;
    put_secret(&world, "canary-secret").await;
    let (flow, path) = world.publish_with(header_trigger(), respond()).await;
    for _ in 0..5 {
        post(&world, &path, &[("x-api-key", "wrong-secret")], "{}").await;
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    let trail = world.admin().audit(&PageRequest::first(500)).await.unwrap();
    let denials: Vec<_> = trail.items.iter().filter(|event| event.outcome() == AuditOutcome::Denied).collect();
    assert_eq!(denials.len(), 1);
    assert!(denials[0].resources().contains(&flow.to_string()));
    assert_eq!(serde_json::to_value(&denials[0].details()["requests"]).unwrap(), json!(5));
}

#[tokio::test(start_paused = true)]
async fn the_audit_trail_says_from_where() {
    let world = World::new(30).await;
    let (_, path) = world.publish(respond()).await;
    let mut request = request(&path, &[("user-agent", "Sender/1.0\r\n".trim())], r#"{"name":"x"}"#);
    let address: IpAddr = "203.0.113.9".parse().unwrap();
    request.extensions_mut().insert(ClientAddress(address));
    world.runtime.webhooks().handle(request).await;
    let trail = world.admin().audit(&PageRequest::first(500)).await.unwrap();
    let event = trail.items.iter().find(|event| event.action() == "run.start").unwrap();
    assert_eq!((event.ip(), event.user_agent()), (Some(address), Some("Sender/1.0")));
}

#[tokio::test(start_paused = true)]
async fn what_leads_nowhere_is_404_whatever_the_reason() {
    let world = World::new(31).await;
    let (flow, path) = world.publish(respond()).await;
    for wrong in ["/hooks/", "/hooks/whk_x", "/sync", &format!("{path}x"), &path.replace("whk_", "abc_")] {
        assert_eq!(post(&world, wrong, &[], "{}").await.status(), StatusCode::NOT_FOUND, "{wrong}");
    }
    assert_eq!(post(&world, &path, &[], r#"{"name":"x"}"#).await.status(), StatusCode::ACCEPTED);
    world.admin().set_flow_enabled(flow, false).await.unwrap();
    assert_eq!(post(&world, &path, &[], "{}").await.status(), StatusCode::NOT_FOUND);
    world.admin().set_flow_enabled(flow, true).await.unwrap();
    assert_eq!(post(&world, &path, &[], r#"{"name":"x"}"#).await.status(), StatusCode::ACCEPTED);
    let token = world.admin().rotate_webhook_token(flow).await.unwrap();
    assert_eq!(post(&world, &path, &[], "{}").await.status(), StatusCode::NOT_FOUND);
    use secrecy::ExposeSecret;
    let path = format!("/{}", token.expose_secret());
    assert_eq!(post(&world, &path, &[], r#"{"name":"x"}"#).await.status(), StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn other_methods_change_nothing() {
    let world = World::new(32).await;
    let (flow, path) = world.publish(respond()).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"] {
        let request = Request::builder().method(method).uri(&path).body(Full::<Bytes>::default()).unwrap();
        let response = world.runtime.webhooks().handle(request).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "POST, PUT, PATCH");
    }
    assert!(world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bodies_are_bounded_and_must_be_what_they_say() {
    let world = World::new(33).await;
    let (flow, path) = world.publish(respond()).await;
    let limit = WebhookOptions::default().body_bytes();
    let sized = |bytes: usize| format!("{{\"name\":\"{}\"}}", "x".repeat(bytes - 11));
    assert_eq!(post(&world, &path, &[], &sized(limit - 1)).await.status(), StatusCode::ACCEPTED);
    assert_eq!(post(&world, &path, &[], &sized(limit)).await.status(), StatusCode::ACCEPTED);
    assert_eq!(post(&world, &path, &[], &sized(limit + 1)).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(post(&world, &path, &[], "{").await.status(), StatusCode::BAD_REQUEST);
    let deep = "[".repeat(200) + &"]".repeat(200);
    assert_eq!(post(&world, &path, &[], &deep).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_version_serves_the_next_request_and_rolling_back_the_one_after() {
    let world = World::new(34).await;
    let (flow, path) = world.publish(json!([{ "name": "a", "type": "fake.pure", "settings": { "value": 1 } }])).await;
    let admin = world.admin();
    let sync = format!("{path}/sync");
    assert_eq!(body(&post(&world, &sync, &[], "{}").await), json!(1));
    let first = admin.flow(flow).await.unwrap();
    // Versions are listed in the order of time.
    tokio::time::advance(std::time::Duration::from_millis(1)).await;
    let source = json!({
        "displayName": "Second",
        "triggers": [{ "name": "hook", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
        "steps": [{ "name": "a", "type": "fake.pure", "settings": { "value": 2 } }],
    });
    admin.update_flow(flow, first.revision, source.to_string().as_bytes()).await.unwrap();
    assert_eq!(body(&post(&world, &sync, &[], "{}").await), json!(1), "a draft changes nothing");
    admin.publish_flow(flow).await.unwrap();
    assert_eq!(body(&post(&world, &sync, &[], "{}").await), json!(2));
    let versions = admin.flow_versions(flow, &PageRequest::default()).await.unwrap().items;
    assert_eq!(
        versions.iter().map(|version| (version.number, version.state)).collect::<Vec<_>>(),
        [(1, "LOCKED"), (2, "LOCKED")]
    );
    admin.roll_back_flow(flow, versions[0].id).await.unwrap();
    assert_eq!(body(&post(&world, &sync, &[], "{}").await), json!(1));
}

#[tokio::test(start_paused = true)]
async fn an_unpublishable_flow_says_where_why_and_what_to_do() {
    let world = World::new(35).await;
    let source = json!({
        "displayName": "Bad",
        "triggers": [{ "name": "hook", "type": "webhook", "settings": {
            "authentication": { "type": "HEADER", "headerName": "X-K", "expectedValue": "{{connections.api_secrets}}" } } }],
        "steps": [{ "name": "a", "type": "fake.acts", "settings": {} }],
    });
    put_secret(&world, "canary-secret").await;
    let admin = world.admin();
    let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap();
    let error = admin.publish_flow(flow.id).await.expect_err("unknown action").to_string();
    assert!(error.contains("/steps/0") && error.contains("did you mean `act`?"), "{error}");
    assert_eq!(admin.flow(flow.id).await.unwrap().published, None);
    let source = source.to_string().replace("fake.acts", "fake.act");
    admin.update_flow(flow.id, flow.revision, source.as_bytes()).await.unwrap();
    let error = admin.publish_flow(flow.id).await.expect_err("unknown connection").to_string();
    assert!(error.contains("connection.unknown") && error.contains("did you mean `api_secret`?"), "{error}");
}
