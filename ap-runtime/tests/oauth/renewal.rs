//! Renewal: once over all who need it, and nothing given up on a guess.

use std::time::Duration;

use ap_core::{
    connection::{ConnectionStatus, FaultReason},
    run::RunStatus,
};
use serde_json::json;

use super::{provider::Mood, world::World};

const HOUR: Duration = Duration::from_secs(3_600);
/// Into the window of tokens that live an hour.
const DUE: Duration = Duration::from_secs(2_800);

#[tokio::test]
async fn a_token_is_renewed_before_its_end_and_used_at_once() {
    let world = World::new(1).await;
    world.connect().await;
    let admin = world.admin();
    assert_eq!(admin.validate_connection("api").await.unwrap().problem, None);
    assert_eq!(world.provider.renewals(), 0, "renewed before its time");
    world.clock.forward(DUE);
    let check = admin.validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
    assert_eq!(world.provider.renewals(), 1);
    {
        let state = world.provider.state.lock().unwrap();
        let (form, header) = &state.asked[0];
        assert_eq!(form["refresh_token"], "refresh-token-0");
        assert!(!form.contains_key("client_secret"), "{form:?}");
        assert!(header.as_deref().is_some_and(|header| header.starts_with("Basic ")), "{header:?}");
    }
    assert_eq!(world.audited("connection.renew").await.len(), 1);
    // The rotated refresh token was kept: the next renewal works as well.
    world.clock.forward(HOUR);
    assert_eq!(admin.validate_connection("api").await.unwrap().problem, None);
    assert_eq!(world.provider.renewals(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_that_need_a_token_at_once_ask_once() {
    for over in [DUE, 2 * HOUR] {
        let world = World::new(3).await;
        renew_at_once(&world, over).await;
    }
}

/// Twenty at three runtimes; `over` says whether the old token is still good.
pub(crate) async fn renew_at_once(world: &World, over: Duration) {
    world.connect().await;
    world.clock.forward(over);
    world.provider.state.lock().unwrap().delay = Duration::from_millis(200);
    let asked = (0..20).map(|number| {
        let admin = world.admin_at(number);
        tokio::spawn(async move { admin.validate_connection("api").await })
    });
    for check in futures_util::future::join_all(asked).await {
        let check = check.unwrap().unwrap();
        // Whoever used the old token just after the provider gave a new one was refused by it; that is no error of the grant.
        assert!(check.problem.is_none() || over == DUE, "{check:?}");
    }
    assert_eq!(world.provider.renewals(), 1, "the provider was asked more than once");
    assert_eq!(world.audited("connection.renew").await.len(), 1);
    world.provider.state.lock().unwrap().delay = Duration::ZERO;
    let check = world.admin_at(2).validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
    assert_eq!(world.provider.renewals(), 1);
}

#[tokio::test]
async fn what_may_pass_changes_nothing() {
    let world = World::new(1).await;
    world.connect().await;
    world.clock.forward(2 * HOUR);
    for mood in [
        Mood::Fail(503, 0),
        Mood::Fail(429, 0),
        Mood::Fail(500, 0),
        Mood::Say("<html>"),
        Mood::Say("{}"),
        Mood::Say(r#"{"access_token":"short"}"#),
        Mood::Reject("temporarily_unavailable"),
        Mood::Reject("invalid_scope"),
        Mood::Reject("made-up-canary"),
    ] {
        world.provider.set(mood.clone(), 1);
        let check = world.admin().validate_connection("api").await.unwrap();
        let problem = check.problem.expect("a problem");
        assert!(!problem.contains("canary"), "{problem}");
        assert_eq!(world.summary().await.status, ConnectionStatus::Active, "{mood:?}");
        // Nobody asks again before the provider wants to be asked, or before two seconds are over.
        world.clock.forward(Duration::from_secs(2));
    }
    let check = world.admin().validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
    assert_eq!(world.audited("connection.renew").await.iter().filter(|line| line.starts_with("Failure")).count(), 9);
}

#[tokio::test]
async fn a_provider_that_wants_to_be_left_alone_is() {
    let world = World::new(2).await;
    world.connect().await;
    world.clock.forward(DUE);
    world.provider.set(Mood::Fail(429, 60), 1);
    for runtime in 0..4 {
        // The old token is still good, so nobody is the worse for it.
        let check = world.admin_at(runtime).validate_connection("api").await.unwrap();
        assert_eq!(check.problem, None);
    }
    assert_eq!(world.provider.renewals(), 1);
    world.clock.forward(Duration::from_secs(60));
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
    assert_eq!(world.provider.renewals(), 2);
}

#[tokio::test]
async fn only_the_providers_word_puts_a_connection_in_error() {
    let world = World::new(2).await;
    world.connect().await;
    world.clock.forward(2 * HOUR);
    world.provider.set(Mood::Reject("invalid_grant"), 1);
    let check = world.admin().validate_connection("api").await.unwrap();
    assert_eq!(check.status, ConnectionStatus::Error);
    assert_eq!(world.summary().await.fault, Some(FaultReason::GrantRejected));
    let lines = world.audited("connection.renew").await;
    assert_eq!(lines, ["Failure the provider rejected the grant"]);
    // Nobody asks again by itself; the grant is kept all the same, and somebody who looks finds it good.
    let run = start_run(&world).await;
    assert_eq!(run.0, RunStatus::Failed);
    assert!(run.1.contains("connect it again"), "{}", run.1);
    assert_eq!(world.provider.renewals(), 1);
    let check = world.admin_at(1).validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
}

#[tokio::test]
async fn an_answer_that_is_lost_loses_no_grant_where_the_provider_allows_for_it() {
    let world = World::new(2).await;
    world.connect().await;
    world.provider.state.lock().unwrap().grace = true;
    world.clock.forward(2 * HOUR);
    world.provider.set(Mood::AcceptAndDrop, 1);
    let check = world.admin().validate_connection("api").await.unwrap();
    assert!(check.problem.is_some());
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
    world.clock.forward(Duration::from_secs(2));
    let check = world.admin_at(1).validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
    let state = world.provider.state.lock().unwrap();
    let given: Vec<_> = state.asked.iter().map(|(form, _)| form["refresh_token"].as_str()).collect();
    assert_eq!(given, ["refresh-token-0", "refresh-token-0"], "the old refresh token was not kept");
}

#[tokio::test]
async fn where_it_does_not_the_provider_says_so_and_nobody_guesses() {
    let world = World::new(1).await;
    world.connect().await;
    world.clock.forward(2 * HOUR);
    world.provider.set(Mood::AcceptAndDrop, 1);
    world.admin().validate_connection("api").await.unwrap();
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
    world.clock.forward(Duration::from_secs(2));
    // RFC 9700 §4.14.2: to this provider a repeat looks like theft. No client can tell; its owner has to connect it again.
    let check = world.admin().validate_connection("api").await.unwrap();
    assert_eq!(check.status, ConnectionStatus::Error);
}

#[tokio::test]
async fn a_process_that_dies_between_the_answer_and_the_commit_is_followed_by_another() {
    let world = World::new(2).await;
    world.connect().await;
    world.provider.state.lock().unwrap().grace = true;
    world.clock.forward(2 * HOUR);
    world.provider.state.lock().unwrap().answer_delay = Duration::from_secs(10);
    // Its tasks end with it, as those of a process do.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let admin = world.admin();
    process.spawn(async move { admin.validate_connection("api").await });
    while world.provider.state.lock().unwrap().issued == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.shutdown_background();
    world.provider.state.lock().unwrap().answer_delay = Duration::ZERO;
    // Its lease still holds: the others wait for it, and not for ever.
    world.clock.forward(Duration::from_secs(61));
    let check = world.admin_at(1).validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
}

#[tokio::test]
async fn a_renewal_goes_on_when_nobody_waits_for_it_any_more() {
    let world = World::new(1).await;
    world.connect().await;
    world.clock.forward(2 * HOUR);
    world.provider.state.lock().unwrap().answer_delay = Duration::from_millis(500);
    let admin = world.admin();
    let asking = tokio::spawn(async move { admin.validate_connection("api").await });
    while world.provider.state.lock().unwrap().issued == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // As a step does that is out of time. To the provider the old refresh token is used up; the new one is on its way.
    asking.abort();
    assert!(asking.await.is_err());
    while world.audited("connection.renew").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.provider.state.lock().unwrap().answer_delay = Duration::ZERO;
    let check = world.admin().validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
    assert_eq!(world.provider.renewals(), 1);
}

#[tokio::test]
async fn a_connection_that_is_written_during_a_renewal_gets_what_came_of_it() {
    let world = World::new(1).await;
    world.connect().await;
    world.clock.forward(2 * HOUR);
    world.provider.state.lock().unwrap().answer_delay = Duration::from_millis(500);
    let admin = world.admin();
    let renewing = tokio::spawn(async move { admin.validate_connection("api").await.unwrap() });
    while world.provider.state.lock().unwrap().issued == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The refresh token that is stored is used up by now.
    world.admin().rename_connection("api", "Shop").await.unwrap();
    assert_eq!(renewing.await.unwrap().problem, None);
    assert_eq!(world.summary().await.terms.display_name.as_deref(), Some("Shop"));
    let check = world.admin().validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
    assert_eq!(world.provider.renewals(), 1);
}

#[tokio::test]
async fn a_client_gets_its_token_by_itself() {
    let world = World::new(1).await;
    let json = world.json(r#", "grant_type": "client_credentials", "authorization_method": "BODY", "scope": "read""#);
    world.put(&json).await;
    assert_eq!(world.summary().await.status, ConnectionStatus::Active);
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
    world.clock.forward(HOUR);
    assert_eq!(world.admin().validate_connection("api").await.unwrap().problem, None);
    let state = world.provider.state.lock().unwrap();
    assert_eq!((state.issued, state.asked.len()), (2, 2));
    let (form, header) = &state.asked[0];
    assert_eq!((form["grant_type"].as_str(), form["scope"].as_str()), ("client_credentials", "read"));
    assert_eq!((form["client_secret"].as_str(), header), ("canary-client-secret", &None));
}

#[tokio::test]
async fn a_run_renews_what_it_needs_and_holds_no_token() {
    let world = World::new(1).await;
    world.connect().await;
    world.clock.forward(2 * HOUR);
    let (status, text) = start_run(&world).await;
    assert_eq!(status, RunStatus::Succeeded, "{text}");
    assert_eq!(world.provider.renewals(), 1);
    for secret in ["access-token-", "refresh-token-", "canary-client-secret"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(text.contains("redacted:api"), "the peer's echo was not masked: {text}");
}

#[tokio::test]
async fn a_run_tries_again_when_the_provider_is_away() {
    let world = World::new(1).await;
    world.connect().await;
    world.clock.forward(2 * HOUR);
    world.provider.set(Mood::Fail(503, 1), 1);
    let (status, text) = start_run(&world).await;
    assert_eq!(status, RunStatus::Succeeded, "{text}");
    assert_eq!(world.provider.renewals(), 2);
}

/// A run that asks the provider who it is; how it ended, and all that can be seen of it.
async fn start_run(world: &World) -> (RunStatus, String) {
    let flow = json!({
        "displayName": "F", "triggers": [{ "name": "t", "type": "manual" }],
        "steps": [{ "name": "me", "type": "http.request", "retry": { "maxAttempts": 3, "backoff": { "type": "fixed", "initialMs": 2100 } }, "settings": {
            "url": world.provider.url("/me"), "headers": { "Authorization": "Bearer {{connections.api.accessToken}}" } } }],
    });
    let admin = world.admin();
    let flow = admin.create_flow(flow.to_string().as_bytes()).await.unwrap_or_else(|error| panic!("{error}"));
    admin.publish_flow(flow.id).await.unwrap_or_else(|error| panic!("{error}"));
    let run = admin.start_run(flow.id, json!({})).await.unwrap();
    admin.wait_for_run(run, Duration::from_secs(30)).await.unwrap();
    let view = admin.run(run).await.unwrap();
    (view.status, serde_json::to_string(&view).unwrap())
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::sync::Arc;

    use ap_runtime::{
        backend::postgres::{PostgresBackend, PostgresOptions},
        store::Backend,
    };
    use sqlx::{AssertSqlSafe, Connection, PgConnection};

    use super::*;
    use crate::world::MovedClock;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn three_processes_over_postgresql_ask_once() {
        let url =
            std::env::var("AP_TEST_POSTGRES_URL").expect("`AP_TEST_POSTGRES_URL` is not set: run `cargo xtask test`");
        let schema = format!("oauth_{}", std::process::id());
        let mut backends = Vec::new();
        for _ in 0..3 {
            let options = PostgresOptions::from_url(&url).unwrap().with_schema(&schema);
            backends.push(Arc::new(PostgresBackend::open(options).await.unwrap()));
        }
        let views = backends.iter().map(|backend| Arc::clone(backend) as Arc<dyn Backend>).collect();
        let world = World::over(views, Arc::new(MovedClock::default())).await;
        renew_at_once(&world, 2 * HOUR).await;
        for runtime in &world.runtimes {
            runtime.shutdown(Duration::from_secs(5)).await;
        }
        for backend in backends {
            backend.close().await;
        }
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("DROP SCHEMA \"{schema}\" CASCADE")))
            .execute(&mut connection)
            .await
            .unwrap();
    }
}
