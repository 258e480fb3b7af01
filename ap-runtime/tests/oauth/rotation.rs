//! New secrets are tried at the peer before they are used, and what a peer says of an old one is said of no new one.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ap_core::connection::{Connection, ConnectionStatus, NewSecrets, RotationState, SecretReference};
use ap_runtime::{
    secret::{SecretError, SecretResolver},
    session::{SecretRotationOptions, SessionError},
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::SecretString;

use super::world::{World, platform_admin};

const HOUR: Duration = Duration::from_secs(3_600);

async fn with_key(key: &str) -> World {
    let world = World::new(1).await;
    let me = world.provider.url("/me");
    world.provider.accept("canary-old-key");
    put_key(&world, key, &format!(r#", "validation": {{ "url": "{me}" }}"#)).await;
    world
}

async fn put_key(world: &World, key: &str, more: &str) {
    let me = world.provider.url("/me");
    world.put(&format!(r#"{{ "type": "SECRET_TEXT", "secret_text": "{key}", "origins": ["{me}"] {more} }}"#)).await;
}

fn new_key(key: &str) -> NewSecrets {
    NewSecrets::from_json(format!(r#"{{ "secret_text": "{key}" }}"#).as_bytes()).unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, SessionError>) -> String {
    match result {
        Err(SessionError::Rotation { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// What the token endpoint was given as the client's secret, last.
fn last_client_secret(world: &World) -> String {
    let state = world.provider.state.lock().unwrap();
    let header = state.asked.last().unwrap().1.clone().unwrap();
    let decoded = STANDARD.decode(header.strip_prefix("Basic ").unwrap()).unwrap();
    String::from_utf8(decoded).unwrap().split_once(':').unwrap().1.to_owned()
}

#[tokio::test]
async fn a_key_is_used_once_it_was_found_good() {
    let world = with_key("canary-old-key").await;
    let admin = world.admin();
    let rotation = admin.secret_rotation("api");
    let status = rotation.stage(new_key("canary-new-key")).await.unwrap();
    assert_eq!(status.state, RotationState::Pending);
    let early = rotation.activate().await.unwrap_err().to_string();
    assert!(early.contains("were not found good"), "{early}");
    // The peer does not know it yet: the old one stays in use, and the new one can be tried again.
    let reason = refused(rotation.verify().await);
    assert!(reason.contains("nothing was changed"), "{reason}");
    assert_eq!(admin.validate_connection("api").await.unwrap().status, ConnectionStatus::Active);
    assert_eq!(world.provider.last_bearer(), "canary-old-key");
    world.provider.accept("canary-new-key");
    assert_eq!(rotation.verify().await.unwrap().state, RotationState::Verified);
    assert_eq!(world.provider.last_bearer(), "canary-new-key");
    admin.validate_connection("api").await.unwrap();
    assert_eq!(world.provider.last_bearer(), "canary-old-key", "used before it was activated");
    let status = rotation.activate().await.unwrap();
    let kept = status.retires.unwrap().saturating_since(status.since);
    assert_eq!((status.state, kept), (RotationState::Retiring, HOUR));
    assert_eq!(admin.validate_connection("api").await.unwrap().problem, None);
    assert_eq!(world.provider.last_bearer(), "canary-new-key");
    // What was staged anew would push the retiring one out.
    let busy = rotation.stage(new_key("canary-third-key")).await.unwrap_err().to_string();
    assert!(busy.contains("still retiring"), "{busy}");
    rotation.roll_back().await.unwrap();
    admin.validate_connection("api").await.unwrap();
    assert_eq!(world.provider.last_bearer(), "canary-old-key");
    assert_eq!(rotation.status().await.unwrap(), None);
    let summary = serde_json::to_string(&world.summary().await).unwrap();
    assert!(!summary.contains("canary"), "{summary}");
}

#[tokio::test]
async fn in_one_go_it_is_used_or_everything_is_as_it_was() {
    let world = with_key("canary-old-key").await;
    let rotation = world.admin().secret_rotation("api");
    let before = world.summary().await;
    refused(rotation.rotate(new_key("canary-new-key")).await);
    let after = world.summary().await;
    assert_eq!((after.status, after.rotation.clone()), (ConnectionStatus::Active, None));
    assert_eq!((after.origins, after.placements, after.terms), (before.origins, before.placements, before.terms));
    world.provider.accept("canary-new-key");
    let at_once = SecretRotationOptions::default().with_grace(Duration::ZERO).unwrap();
    let done = rotation.clone().with_options(at_once).rotate(new_key("canary-new-key")).await.unwrap();
    assert_eq!(done.retires, Some(done.since));
    assert_eq!(world.summary().await.rotation, None, "without a grace nothing is kept");
    assert!(rotation.roll_back().await.is_err());
    let outcomes = world.audited("connection.write").await;
    assert!(outcomes.iter().any(|line| line.starts_with("Failure")), "{outcomes:?}");
    assert!(outcomes.iter().all(|line| !line.contains("canary")), "{outcomes:?}");
}

#[tokio::test]
async fn where_nobody_can_be_asked_somebody_says_that_it_does_not_matter() {
    let world = World::new(1).await;
    put_key(&world, "canary-old-key", "").await;
    let rotation = world.admin().secret_rotation("api");
    let refused = rotation.rotate(new_key("canary-new-key")).await.unwrap_err().to_string();
    assert!(refused.contains("no `validation` request"), "{refused}");
    assert_eq!(world.summary().await.rotation, None);
    let blind = rotation.with_options(SecretRotationOptions::default().unverified());
    assert_eq!(blind.rotate(new_key("canary-new-key")).await.unwrap().state, RotationState::Retiring);
}

#[tokio::test]
async fn a_peer_that_answers_late_says_nothing_of_the_key_that_came_meanwhile() {
    let world = with_key("canary-bad-key").await;
    world.provider.state.lock().unwrap().me_delay = Duration::from_millis(300);
    let admin = world.admin();
    let checking = tokio::spawn(async move { admin.validate_connection("api").await.unwrap() });
    while world.provider.last_bearer() != "canary-bad-key" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let me = world.provider.url("/me");
    put_key(&world, "canary-old-key", &format!(r#", "validation": {{ "url": "{me}" }}"#)).await;
    let check = checking.await.unwrap();
    assert_eq!(check.status, ConnectionStatus::Active);
    assert!(check.problem.is_some_and(|problem| problem.contains("check it again")));
    assert_eq!((world.summary().await.status, world.summary().await.fault), (ConnectionStatus::Active, None));
    // Of the one that is there it counts.
    put_key(&world, "canary-bad-key", &format!(r#", "validation": {{ "url": "{me}" }}"#)).await;
    let check = world.admin().validate_connection("api").await.unwrap();
    assert_eq!((check.status, world.summary().await.status), (ConnectionStatus::Error, ConnectionStatus::Error));
}

#[tokio::test]
async fn a_clients_secret_is_used_once_the_provider_gave_tokens_for_it() {
    let world = World::new(2).await;
    world.connect().await;
    let secrets = |known: &[&str]| {
        let known = known.iter().map(|secret| (*secret).to_owned()).collect();
        world.provider.state.lock().unwrap().client_secrets = Some(known);
    };
    secrets(&["canary-client-secret"]);
    let rotation = world.admin().secret_rotation("api");
    let new = || NewSecrets::new().with("client_secret", "canary-new-secret".into());
    let reason = refused(rotation.rotate(new()).await);
    assert!(reason.contains("does not take the client"), "{reason}");
    assert_eq!((world.summary().await.status, world.summary().await.rotation), (ConnectionStatus::Active, None));
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
    secrets(&["canary-client-secret", "canary-new-secret"]);
    rotation.stage(new()).await.unwrap();
    // Asked with it although the tokens are good, once, and what came of it is kept: the refresh token is used up by that.
    assert_eq!(rotation.verify().await.unwrap().state, RotationState::Verified);
    assert_eq!(last_client_secret(&world), "canary-new-secret");
    assert_eq!(world.provider.renewals(), 2);
    assert_eq!(world.admin_at(1).validate_connection("api").await.unwrap().problem, None);
    world.clock.forward(2 * HOUR);
    assert_eq!(world.admin_at(1).validate_connection("api").await.unwrap().problem, None);
    assert_eq!(last_client_secret(&world), "canary-client-secret", "used before it was activated");
    rotation.activate().await.unwrap();
    secrets(&["canary-new-secret"]);
    world.clock.forward(2 * HOUR);
    assert_eq!(world.admin_at(1).validate_connection("api").await.unwrap().problem, None);
    assert_eq!(last_client_secret(&world), "canary-new-secret");
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
}

#[tokio::test]
async fn a_revoked_client_gets_a_new_secret_and_is_out_of_error() {
    let world = World::new(1).await;
    world.connect().await;
    world.provider.state.lock().unwrap().client_secrets = Some(["canary-new-secret".to_owned()].into());
    world.clock.forward(2 * HOUR);
    assert_eq!(world.admin().validate_connection("api").await.unwrap().status, ConnectionStatus::Error);
    let new = NewSecrets::new().with("client_secret", "canary-new-secret".into());
    world.admin().secret_rotation("api").rotate(new).await.unwrap();
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
}

/// Gives the secret of the moment, or is out of reach.
#[derive(Clone, Debug)]
struct Manager(Arc<Mutex<Option<&'static str>>>);

#[async_trait]
impl SecretResolver for Manager {
    fn scheme(&self) -> &str {
        "vault"
    }

    fn check(&self, _: &str) -> Result<(), SecretError> {
        Ok(())
    }

    async fn resolve(&self, _: &str) -> Result<SecretString, SecretError> {
        self.0.lock().unwrap().map(SecretString::from).ok_or(SecretError::Unavailable)
    }
}

#[tokio::test]
async fn a_clients_secret_is_resolved_when_the_token_endpoint_is_asked() {
    let manager = Manager(Arc::default());
    let resolver = manager.clone();
    let world = World::with(1, move |builder| builder.secrets(resolver.clone())).await;
    let tokens = r#", "access_token": "access-token-0", "refresh_token": "refresh-token-0", "expires_in": 3600"#;
    let json = world.json(tokens).replace(r#""canary-client-secret""#, r#"{ "from": "vault:secret/data/crm#client" }"#);
    let connection =
        Connection::from_json("api", json.as_bytes(), None, ap_runtime::clock::Clock::now(&*world.clock)).unwrap();
    platform_admin(&world.runtimes[0]).provision_connection(world.project, connection).await.unwrap();
    world.clock.forward(2 * HOUR);
    // The manager is away: nothing is asked of the provider, and nothing is lost.
    let problem = world.admin().validate_connection("api").await.unwrap().problem.unwrap();
    assert!(problem.contains("`vault:secret/data/crm#client`"), "{problem}");
    assert_eq!((world.provider.renewals(), world.summary().await.status), (0, ConnectionStatus::Active));
    *manager.0.lock().unwrap() = Some("canary-kept-elsewhere");
    world.clock.forward(Duration::from_secs(3));
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
    assert_eq!(last_client_secret(&world), "canary-kept-elsewhere");
    // The host changes to another reference the same way.
    let rotation = platform_admin(&world.runtimes[0]).provisioned_secret_rotation(world.project, "api");
    let reference = SecretReference::parse("vault:secret/data/crm?version=2#client").unwrap();
    *manager.0.lock().unwrap() = Some("canary-second-version");
    let new = NewSecrets::new().with_reference("client_secret", reference);
    assert_eq!(rotation.rotate(new).await.unwrap().state, RotationState::Retiring);
    assert_eq!(last_client_secret(&world), "canary-second-version");
}
