//! What one project has does not exist for another, and roles decide what a principal may do.

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    audit::AuditOutcome,
    connection::{Connection, ConnectionValue},
    id::{FlowVersionId, ProjectId, RunId, UserId},
    store::{PageRequest, Revision, StoreError},
};
use ap_runtime::{
    session::{IfUsed, ProjectSession, SessionError},
    store::RunFilter,
};
use serde_json::json;

use super::support::{World, admin_session};

fn missing<T: std::fmt::Debug>(result: Result<T, SessionError>) {
    assert!(matches!(result, Err(SessionError::Store(StoreError::NotFound { .. }))), "{result:?}");
}

fn denied<T: std::fmt::Debug>(result: Result<T, SessionError>) {
    assert!(matches!(result, Err(SessionError::Denied(_))), "{result:?}");
}

fn connection(name: &str) -> Connection {
    Connection::new(name, ConnectionValue::SecretText { secret: "a-long-secret".into() }, vec![], vec![]).unwrap()
}

const FLOW: &[u8] = br#"{"displayName":"F","triggers":[{"name":"t","type":"manual"}],"steps":[]}"#;

#[tokio::test(start_paused = true)]
async fn nothing_of_another_project_exists() {
    let world = World::new(11).await;
    let (flow, _) = world.publish(json!([{ "name": "a", "type": "fake.pure", "settings": { "value": 1 } }])).await;
    let ours = world.admin();
    ours.put_connection(&connection("api")).await.unwrap();
    let run = ours.start_run(flow, json!({})).await.unwrap();
    let version = ours.flow(flow).await.unwrap().published.unwrap();

    let other: ProjectId = admin_session(&world.runtime, None).create_project("Other").await.unwrap();
    let theirs = admin_session(&world.runtime, Some(other)).project(other).unwrap();
    missing(theirs.flow(flow).await);
    missing(theirs.update_flow(flow, Revision(2), FLOW).await);
    missing(theirs.publish_flow(flow).await);
    missing(theirs.roll_back_flow(flow, version).await);
    missing(theirs.set_flow_enabled(flow, false).await);
    missing(theirs.webhook_token(flow).await.map(|_| ()));
    missing(theirs.rotate_webhook_token(flow).await.map(|_| ()));
    missing(theirs.flow_source(version).await);
    missing(theirs.start_run(flow, json!({})).await);
    missing(theirs.run(run).await);
    missing(theirs.wait_for_run(run, std::time::Duration::ZERO).await);
    missing(theirs.delete_connection("api", IfUsed::DeleteAnyway).await);
    assert!(theirs.flows(&PageRequest::default()).await.unwrap().items.is_empty());
    assert!(theirs.flow_versions(flow, &PageRequest::default()).await.unwrap().items.is_empty());
    assert!(theirs.runs(RunFilter::default(), &PageRequest::default()).await.unwrap().items.is_empty());
    assert!(theirs.connections(&PageRequest::default()).await.unwrap().items.is_empty());
    let audit = theirs.audit(&PageRequest::default()).await.unwrap();
    assert!(audit.items.iter().all(|event| event.scope() == other.into()));
    // Ours is untouched by all of that.
    assert!(ours.flow(flow).await.unwrap().enabled);
}

#[tokio::test(start_paused = true)]
async fn a_principal_without_a_role_gets_nowhere() {
    let world = World::new(12).await;
    let nobody = world.runtime.session(Principal::user(UserId::from_u128(9)));
    denied(nobody.project(world.project));
    denied(nobody.create_project("x").await);
    denied(nobody.project(ProjectId::from_u128(99)));
}

fn with_role(world: &World, role: Role) -> ProjectSession {
    let principal = Principal::user(UserId::from_u128(5)).with_role(world.project, role);
    world.runtime.session(principal).project(world.project).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_viewer_reads_and_changes_nothing() {
    let world = World::new(13).await;
    let (flow, _) = world.publish(json!([])).await;
    let viewer = with_role(&world, Role::Viewer);
    assert!(viewer.flow(flow).await.is_ok());
    assert!(viewer.runs(RunFilter::default(), &PageRequest::default()).await.is_ok());
    denied(viewer.create_flow(FLOW).await);
    denied(viewer.update_flow(flow, Revision(2), FLOW).await);
    denied(viewer.publish_flow(flow).await);
    denied(viewer.roll_back_flow(flow, FlowVersionId::from_u128(1)).await);
    denied(viewer.set_flow_enabled(flow, false).await);
    denied(viewer.webhook_token(flow).await.map(|_| ()));
    denied(viewer.start_run(flow, json!({})).await);
    denied(viewer.put_connection(&connection("x")).await);
    denied(viewer.delete_connection("x", IfUsed::DeleteAnyway).await);
    denied(viewer.audit(&PageRequest::default()).await);
    assert!(matches!(viewer.run(RunId::from_u128(1)).await, Err(SessionError::Store(_))));
}

#[tokio::test(start_paused = true)]
async fn denials_reach_the_audit_trail() {
    let world = World::new(14).await;
    let viewer = with_role(&world, Role::Viewer);
    denied(viewer.create_flow(FLOW).await);
    tokio::time::sleep(std::time::Duration::from_secs(61)).await;
    let trail = world.admin().audit(&PageRequest::first(500)).await.unwrap();
    let event = trail.items.iter().find(|event| event.outcome() == AuditOutcome::Denied).expect("a denial");
    assert_eq!(event.action(), "flow.write");
    assert_eq!(event.actor().to_string(), UserId::from_u128(5).to_string());
}

#[tokio::test(start_paused = true)]
async fn every_change_leaves_an_audit_record_with_who_and_what() {
    let world = World::new(15).await;
    let (flow, _) = world.publish(json!([])).await;
    // Ids order by time, and paused time moves only when it is told to.
    let tick = || tokio::time::sleep(std::time::Duration::from_millis(1));
    world.admin().put_connection(&connection("api")).await.unwrap();
    tick().await;
    world.admin().delete_connection("api", IfUsed::DeleteAnyway).await.unwrap();
    tick().await;
    world.admin().start_run(flow, json!({})).await.unwrap();
    let trail = world.admin().audit(&PageRequest::first(500)).await.unwrap();
    let mut actions: Vec<&str> = trail.items.iter().map(|event| event.action()).collect();
    assert_eq!(actions[4..], ["connection.delete", "run.start"]);
    actions[..4].sort_unstable();
    assert_eq!(actions[..4], ["connection.write", "flow.publish", "flow.webhook.reveal", "flow.write"]);
    assert!(trail.items.iter().all(|event| event.actor().to_string() == UserId::from_u128(1).to_string()));
    let published = trail.items.iter().find(|event| event.action() == "flow.publish").unwrap();
    assert!(published.resources().contains(&flow.to_string()));
}
