//! A secret that is replaced: both are good for a while, both are masked, and the old one is gone afterwards.

use std::time::Duration;

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    connection::{Connection, ConnectionTerms, ConnectionValue, NewSecrets, RotationState},
    id::UserId,
    run::RunStatus,
    store::PageRequest,
};
use ap_runtime::{
    session::{ProjectSession, SecretRotation, SecretRotationOptions, SessionError},
    store::ConnectionStore,
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::support::{World, admin_session};

const HOUR: Duration = Duration::from_secs(3_600);
const OLD: &str = "canary-old-secret";
const NEW: &str = "canary-new-secret";

fn connection(secret: &str) -> Connection {
    Connection::new("hook", ConnectionValue::SecretText { secret: secret.into() }, vec![], vec![]).unwrap()
}

fn new() -> NewSecrets {
    NewSecrets::new().with("secret_text", NEW.into())
}

fn blind(project: &ProjectSession) -> SecretRotation {
    project.secret_rotation("hook").with_options(SecretRotationOptions::default().unverified())
}

async fn knock(world: &World, path: &str, secret: &str) -> StatusCode {
    let request = Request::post(path).header("content-type", "application/json").header("x-key", secret);
    world.runtime.webhooks().handle(request.body(Full::<Bytes>::from("{}")).unwrap()).await.status()
}

#[tokio::test(start_paused = true)]
async fn a_door_lets_in_who_has_either_until_the_grace_is_over() {
    let world = World::new(61).await;
    let admin = world.admin();
    admin.put_connection(&connection(OLD)).await.unwrap();
    let authentication = json!({ "type": "HEADER", "headerName": "x-key", "expectedValue": "{{connections.hook}}" });
    let steps = json!([{ "name": "a", "type": "fake.pure", "settings": { "value": 1 } }]);
    let (_, path) = world.publish_with(json!({ "authentication": authentication }), steps).await;
    let knocked = async || (knock(&world, &path, OLD).await.as_u16(), knock(&world, &path, NEW).await.as_u16());
    assert_eq!(knocked().await, (202, 401));
    let rotation = blind(&admin);
    rotation.stage(new()).await.unwrap();
    assert_eq!(knocked().await, (202, 401), "a secret that is only staged is none");
    rotation.activate().await.unwrap();
    assert_eq!(knocked().await, (202, 202));
    tokio::time::sleep(HOUR - Duration::from_secs(2)).await;
    assert_eq!(knocked().await, (202, 202));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(knocked().await, (401, 202));
    rotation.roll_back().await.expect_err("over");
    // Somebody keeps house within a minute: what is over is no longer there.
    tokio::time::sleep(Duration::from_secs(61)).await;
    let summary = admin.connection("hook").await.unwrap();
    assert_eq!(summary.rotation, None);
    let records = world.backend.connections(world.project.into(), &PageRequest::default()).await.unwrap().items;
    assert_eq!(records[0].due, None);
    let events = admin.audit(&PageRequest::first(PageRequest::MAX_LIMIT)).await.unwrap().items;
    assert_eq!(events.iter().filter(|event| event.action() == "connection.retire").count(), 1);
    assert_eq!(knocked().await, (401, 202));
}

#[tokio::test(start_paused = true)]
async fn rolling_back_makes_the_old_one_the_only_one_again() {
    let world = World::new(62).await;
    let admin = world.admin();
    admin.put_connection(&connection(OLD)).await.unwrap();
    let authentication = json!({ "type": "HEADER", "headerName": "x-key", "expectedValue": "{{connections.hook}}" });
    let steps = json!([{ "name": "a", "type": "fake.pure", "settings": { "value": 1 } }]);
    let (_, path) = world.publish_with(json!({ "authentication": authentication }), steps).await;
    blind(&admin).rotate(new()).await.unwrap();
    blind(&admin).roll_back().await.unwrap();
    assert_eq!(
        (knock(&world, &path, OLD).await, knock(&world, &path, NEW).await.as_u16()),
        (StatusCode::ACCEPTED, 401)
    );
    blind(&admin).rotate(new()).await.unwrap();
    blind(&admin).retire().await.unwrap();
    assert_eq!(
        (knock(&world, &path, NEW).await, knock(&world, &path, OLD).await.as_u16()),
        (StatusCode::ACCEPTED, 401)
    );
    for nothing in [blind(&admin).retire().await, blind(&admin).roll_back().await] {
        assert!(matches!(nothing, Err(SessionError::InvalidArgument { .. })), "{nothing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn both_are_masked_while_either_lives() {
    let world = World::new(63).await;
    let admin = world.admin();
    admin.put_connection(&connection(OLD)).await.unwrap();
    let steps = json!([{ "name": "a", "type": "fake.act", "settings": {
        "value": { "old": "{{trigger.old}}", "new": "{{trigger.new}}", "used": "{{connections.hook}}" } } }]);
    let flow = world.publish_manual(steps).await;
    let shown = async || {
        let ended = world.run(flow, json!({ "old": OLD, "new": NEW })).await;
        assert_eq!(ended.status, RunStatus::Succeeded, "{:?}", ended.error);
        let output = ended.steps[0].output.clone().unwrap();
        (output["old"].as_str() != Some(OLD), output["new"].as_str() != Some(NEW))
    };
    assert_eq!(shown().await, (true, false));
    blind(&admin).stage(new()).await.unwrap();
    assert_eq!(shown().await, (true, true));
    blind(&admin).activate().await.unwrap();
    assert_eq!(shown().await, (true, true));
    blind(&admin).retire().await.unwrap();
    assert_eq!(shown().await, (false, true));
}

#[tokio::test(start_paused = true)]
async fn who_may_replace_a_connection_may_rotate_it_and_nobody_else() {
    let world = World::new(64).await;
    let admin = world.admin();
    admin.put_connection(&connection(OLD)).await.unwrap();
    let as_role = |role| {
        let principal = Principal::user(UserId::from_u128(9)).with_role(world.project, role);
        world.runtime.session(principal).project(world.project).unwrap()
    };
    let denied = blind(&as_role(Role::Viewer)).stage(new()).await;
    assert!(matches!(denied, Err(SessionError::Denied(_))), "{denied:?}");
    assert_eq!(blind(&as_role(Role::Editor)).stage(new()).await.unwrap().state, RotationState::Pending);
    let revealed = ConnectionTerms { reveal_to_code: true, ..ConnectionTerms::default() };
    admin.put_connection(&connection(OLD).with_terms(revealed).unwrap()).await.unwrap();
    let denied = blind(&as_role(Role::Editor)).activate().await;
    assert!(matches!(denied, Err(SessionError::Denied(_))), "{denied:?}");
    // The host's own.
    let platform = admin_session(&world.runtime, None);
    admin.delete_connection("hook", ap_runtime::session::IfUsed::DeleteAnyway).await.unwrap();
    platform.provision_connection(world.project, connection(OLD)).await.unwrap();
    let refused = blind(&admin).stage(new()).await;
    assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{refused:?}");
    let options = SecretRotationOptions::default().unverified();
    let theirs = platform.provisioned_secret_rotation(world.project, "hook").with_options(options);
    assert_eq!(theirs.rotate(new()).await.unwrap().state, RotationState::Retiring);
    platform.put_platform_connection(&connection(OLD)).await.unwrap();
    let lent = platform.platform_secret_rotation("hook").with_options(options);
    assert_eq!(lent.rotate(new()).await.unwrap().state, RotationState::Retiring);
    let missing = platform.platform_secret_rotation("none").status().await;
    assert!(matches!(missing, Err(SessionError::Store(_))), "{missing:?}");
    let reference = ap_core::connection::SecretReference::parse("env:PATH").unwrap();
    let named = NewSecrets::new().with_reference("secret_text", reference);
    admin
        .put_connection(
            &Connection::new("own", ConnectionValue::SecretText { secret: OLD.into() }, vec![], vec![]).unwrap(),
        )
        .await
        .unwrap();
    let refused = admin.secret_rotation("own").stage(named).await;
    assert!(
        matches!(refused, Err(SessionError::InvalidArgument { .. })),
        "nobody of a project names a secret: {refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_is_written_again_leaves_a_rotation_and_another_one_ends_it() {
    let world = World::new(65).await;
    let admin = world.admin();
    let state = async || admin.connection("hook").await.unwrap().rotation.map(|rotation| rotation.state);
    admin.put_connection(&connection(OLD)).await.unwrap();
    blind(&admin).stage(new()).await.unwrap();
    admin.put_connection(&connection(OLD)).await.unwrap();
    assert_eq!(state().await, Some(RotationState::Pending));
    blind(&admin).activate().await.unwrap();
    admin.rename_connection("hook", "The hook").await.unwrap();
    admin.put_connection(&connection(NEW)).await.unwrap();
    assert_eq!(state().await, Some(RotationState::Retiring));
    admin.put_connection(&connection("canary-third-secret")).await.unwrap();
    assert_eq!(state().await, None);
    for grace in [Duration::ZERO, Duration::from_secs(30 * 86_400)] {
        assert!(SecretRotationOptions::default().with_grace(grace).is_ok());
    }
    assert!(SecretRotationOptions::default().with_grace(Duration::from_secs(30 * 86_400 + 1)).is_err());
}
