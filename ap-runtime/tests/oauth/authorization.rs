//! Connecting by code: the way there, the way back, and who may take it.

use std::{collections::BTreeMap, time::Duration};

use ap_auth::role::Role;
use ap_core::{
    connection::{Connection, ConnectionStatus, Origin},
    time::Timestamp,
};
use ap_runtime::{clock::Clock, session::SessionError};
use url::Url;

use super::{
    provider::Mood,
    world::{World, platform_admin, user},
};

fn query_of(url: &str) -> BTreeMap<String, String> {
    Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

fn reason<T: std::fmt::Debug>(result: Result<T, SessionError>) -> String {
    match result {
        Err(SessionError::Authorization { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_owner_connects_with_a_code() {
    let world = World::new(2).await;
    world.put(&world.json(r#", "scope": "read""#)).await;
    assert_eq!(world.summary().await.status, ConnectionStatus::Missing);
    let start = world.admin().authorize_connection("api").await.unwrap();
    let query = query_of(&start.url);
    assert_eq!((query["code_challenge_method"].as_str(), query["scope"].as_str()), ("S256", "read"));
    // Any process may take the way back.
    let callback = format!("?code=the-code&state={}", query["state"]);
    assert_eq!(world.admin_at(1).complete_authorization(&callback).await.unwrap(), "api");
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
    {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        use sha2::{Digest, Sha256};
        let state = world.provider.state.lock().unwrap();
        let (form, _) = &state.asked[0];
        assert_eq!((form["grant_type"].as_str(), form["code"].as_str()), ("authorization_code", "the-code"));
        assert_eq!(form["redirect_uri"], "https://host.example/callback");
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(form["code_verifier"].as_bytes()));
        assert_eq!(challenge, query["code_challenge"]);
    }
    // A callback counts once.
    let again = reason(world.admin().complete_authorization(&callback).await);
    assert!(again.contains("used already"), "{again}");
    assert_eq!(world.provider.state.lock().unwrap().asked.len(), 1);
}

#[tokio::test]
async fn nobody_else_and_nothing_else_comes_back() {
    let world = World::new(1).await;
    world.put(&world.json(r#", "issuer": "https://id.example""#)).await;
    let begin = async || query_of(&world.admin().authorize_connection("api").await.unwrap().url)["state"].clone();
    let back = async |query: String| world.admin().complete_authorization(&query).await;
    let issuer = "iss=https%3A%2F%2Fid.example";
    for query in ["", "code=a", "code=a&state=", "code=a&state=AAAA", "code=a&code=b&state=s"] {
        reason(back(format!("{query}&{issuer}")).await);
    }
    // Another principal of the project.
    let state = begin().await;
    let other =
        world.runtimes[0].session(user(2).with_role(world.project, Role::Admin)).project(world.project).unwrap();
    let stolen = reason(other.complete_authorization(&format!("code=a&state={state}&{issuer}")).await);
    assert!(stolen.contains("not known here"), "{stolen}");
    // A state of an earlier beginning.
    let newer = begin().await;
    reason(back(format!("code=a&state={state}&{issuer}")).await);
    // Another project.
    let theirs = super::world::platform_admin(&world.runtimes[0]).create_project("Other").await.unwrap();
    let there = world.runtimes[0].session(user(1).with_role(theirs, Role::Admin)).project(theirs).unwrap();
    reason(there.complete_authorization(&format!("code=a&state={newer}&{issuer}")).await);
    // Another issuer, or none (RFC 9207); the state is used up by it.
    let mixed = reason(back(format!("code=a&state={newer}&iss=https%3A%2F%2Fevil.example")).await);
    assert!(mixed.contains("another issuer"), "{mixed}");
    reason(back(format!("code=a&state={newer}&{issuer}")).await);
    let silent = reason(back(format!("code=a&state={}", begin().await)).await);
    assert!(silent.contains("does not say"), "{silent}");
    // Too late.
    let late = begin().await;
    world.clock.forward(Duration::from_secs(600));
    reason(back(format!("code=a&state={late}&{issuer}")).await);
    // The owner says no; a word from outside is not repeated.
    let denied = reason(back(format!("error=access_denied&state={}&{issuer}", begin().await)).await);
    assert!(denied.contains("access_denied"), "{denied}");
    let strange = reason(back(format!("error=canary&state={}&{issuer}", begin().await)).await);
    assert!(!strange.contains("canary"), "{strange}");
    assert!(world.provider.state.lock().unwrap().asked.is_empty(), "a code was redeemed");
    assert_eq!(world.summary().await.status, ConnectionStatus::Missing);
    // And who may not write connections may not begin.
    let viewer =
        world.runtimes[0].session(user(3).with_role(world.project, Role::Viewer)).project(world.project).unwrap();
    assert!(matches!(viewer.authorize_connection("api").await, Err(SessionError::Denied(_))));
}

#[tokio::test]
async fn a_code_that_is_not_redeemed_changes_nothing() {
    let world = World::new(1).await;
    world.connect().await;
    let before = world.summary().await;
    let state = query_of(&world.admin().authorize_connection("api").await.unwrap().url)["state"].clone();
    world.provider.set(Mood::Reject("invalid_grant"), 1);
    let reason = reason(world.admin().complete_authorization(&format!("code=a&state={state}")).await);
    assert!(reason.contains("rejected"), "{reason}");
    let after = world.summary().await;
    assert_eq!((after.status, after.token_expires), (ConnectionStatus::Active, before.token_expires));
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
}

#[tokio::test]
async fn a_definition_that_is_written_again_keeps_the_grant_of_its_client() {
    let world = World::new(1).await;
    let platform = super::world::platform_admin(&world.runtimes[0]);
    let provision = async |json: &str| {
        let connection = Connection::from_json("api", json.as_bytes(), None, world.clock.now()).unwrap();
        platform.provision_connection(world.project, connection).await.unwrap();
    };
    let definition = world.json("");
    provision(&definition).await;
    // The definition is the host's, the consent the owner's.
    let state = query_of(&world.admin().authorize_connection("api").await.unwrap().url)["state"].clone();
    world.admin().complete_authorization(&format!("code=a&state={state}")).await.unwrap();
    provision(&definition).await;
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
    world.clock.forward(Duration::from_secs(7_200));
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
    provision(&definition.replace(r#""client""#, r#""another-client""#)).await;
    assert_eq!(world.summary().await.status, ConnectionStatus::Missing);
}

#[tokio::test]
async fn who_writes_a_definition_does_not_get_what_another_consented_to() {
    let world = World::new(1).await;
    let editor =
        world.runtimes[0].session(user(2).with_role(world.project, Role::Editor)).project(world.project).unwrap();
    let put = async |json: &str| {
        let connection = Connection::from_json("api", json.as_bytes(), None, world.clock.now()).unwrap();
        editor.put_connection(&connection).await.unwrap();
    };
    let definition = world.json("");
    world.put(&definition).await;
    let state = query_of(&world.admin().authorize_connection("api").await.unwrap().url)["state"].clone();
    world.admin().complete_authorization(&format!("code=a&state={state}")).await.unwrap();
    put(&definition).await;
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
    let me = world.provider.url("/me");
    for (what, other) in [
        (
            "origins",
            definition.replace(
                &format!(r#""origins": ["{me}"]"#),
                &format!(r#""origins": ["{me}", "https://evil.example"]"#),
            ),
        ),
        ("client secret", definition.replace("canary-client-secret", "another-client-secret")),
        ("validation", definition.replace(&format!(r#""url": "{me}" }} }}"#), &format!(r#""url": "{me}/x" }} }}"#))),
    ] {
        assert_ne!(other, definition, "{what}");
        put(&other).await;
        assert_eq!(world.summary().await.status, ConnectionStatus::Missing, "{what}");
        put(&definition).await;
        let state = query_of(&world.admin().authorize_connection("api").await.unwrap().url)["state"].clone();
        world.admin().complete_authorization(&format!("code=a&state={state}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_new_consent_has_nothing_of_an_earlier_one() {
    let world = World::new(1).await;
    world.put(&world.json("")).await;
    for code in ["first", "no-refresh"] {
        let state = query_of(&world.admin().authorize_connection("api").await.unwrap().url)["state"].clone();
        world.admin().complete_authorization(&format!("code={code}&state={state}")).await.unwrap();
    }
    world.clock.forward(Duration::from_secs(7_200));
    // The other account's refresh token would still be good at the provider.
    let check = world.admin().validate_connection("api").await.unwrap();
    assert_eq!(check.status, ConnectionStatus::Expired, "{check:?}");
    assert_eq!(world.provider.renewals(), 0);
}

#[tokio::test]
async fn what_is_not_connected_this_way_is_refused() {
    let world = World::new(1).await;
    world.put(&world.json(r#", "grant_type": "client_credentials""#)).await;
    let refused = world.admin().authorize_connection("api").await;
    assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{refused:?}");
    assert!(world.admin().authorize_connection("other").await.is_err());
}

#[tokio::test]
async fn what_an_owner_consents_to_is_not_sent_to_another_provider() {
    let (page, elsewhere) = ("https://login.acme.com", "https://tokens.elsewhere.example");
    let json = |token: &str| {
        format!(
            r#"{{ "type": "OAUTH2", "value": {{ "client_id": "c", "client_secret": "canary-client-secret",
                "token_url": "{token}/token", "authorization_url": "{page}/auth", "redirect_url": "https://host.example/back" }} }}"#
        )
    };
    let world = World::new(1).await;
    world.put(&json("https://api.acme.com")).await;
    world.admin().authorize_connection("api").await.unwrap();
    let refused = world.admin().put_connection_json("api", json(elsewhere).as_bytes()).await.unwrap_err();
    let SessionError::InvalidConnection(refused) = refused else { panic!("{refused:?}") };
    let refused = refused.to_string();
    assert!(refused.contains("`tokenUrl`") && refused.contains("`tokens.elsewhere.example`"), "{refused}");
    // The host's word counts, for one connection of its own or for a provider.
    let connection = Connection::from_json("theirs", json(elsewhere).as_bytes(), None, Timestamp::EPOCH).unwrap();
    platform_admin(&world.runtimes[0]).provision_connection(world.project, connection).await.unwrap();
    world.admin().authorize_connection("theirs").await.unwrap();
    let origin = |url: &str| Origin::of_url(url).unwrap();
    let world = World::with(1, |builder| builder.oauth_provider(origin(page), origin(elsewhere))).await;
    world.put(&json(elsewhere)).await;
    world.admin().authorize_connection("api").await.unwrap();
}

/// A rotation may begin and end while the owner is at the provider's: the state is older than the key by then.
#[tokio::test]
async fn a_rotation_does_not_end_an_authorization() {
    let world = World::new(1).await;
    world.put(&world.json("")).await;
    let state = query_of(&world.admin().authorize_connection("api").await.unwrap().url)["state"].clone();
    let options = ap_runtime::rotation::RotationOptions::default().with_grace(Duration::from_secs(1)).unwrap();
    let keys = super::world::platform_admin(&world.runtimes[0]).keys().unwrap().with_options(options);
    let report = keys.rotate(world.project).await.unwrap();
    assert_eq!((report.retired, report.damaged), (1, 0));
    let callback = format!("code=the-code&state={state}");
    assert_eq!(world.admin().complete_authorization(&callback).await.unwrap(), "api");
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
}
