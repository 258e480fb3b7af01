//! Connections as a host sees them: bound, lent, predefined, revealed, in use.

use std::sync::{Arc, Mutex};

use ap_auth::role::Role;
use ap_core::{
    audit::AuditOutcome,
    connection::{Connection, ConnectionStatus, ConnectionTerms, ConnectionValue},
    id::{ProjectId, UserId},
    run::{RunStatus, StepErrorKind},
    store::{PageRequest, StoreError},
    time::Timestamp,
};
use ap_runtime::{
    engine::RunView,
    sandbox::{CodeError, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest},
    secret::{SecretError, SecretResolver},
    session::{IfUsed, ProjectSession, SessionError, StepSource},
};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::support::{START, World, admin_session};

const CANARY: &str = "canary-secret-of-api";

fn connection(name: &str, terms: ConnectionTerms) -> Connection {
    let value = ConnectionValue::SecretText { secret: CANARY.into() };
    Connection::new(name, value, vec![], vec![]).unwrap().with_terms(terms).unwrap()
}

fn bound_to(piece: &str) -> ConnectionTerms {
    ConnectionTerms { pieces: vec![piece.to_owned()], ..ConnectionTerms::default() }
}

fn as_role(world: &World, role: Role) -> ProjectSession {
    let principal = ap_auth::principal::Principal::user(UserId::from_u128(9)).with_role(world.project, role);
    world.runtime.session(principal).project(world.project).unwrap()
}

async fn run(world: &World, steps: Value) -> RunView {
    let flow = world.publish_manual(steps).await;
    world.run(flow, json!({})).await
}

/// Writes down what each script is given, and gives it back.
#[derive(Clone, Debug, Default)]
struct Recording(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl CodeSandbox for Recording {
    async fn check(&self, _: ProjectId, _: CodeUnit) -> Result<(), CodeError> {
        Ok(())
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        let params = String::from_utf8(request.params.to_vec()).unwrap();
        let value = serde_json::from_str(&params).unwrap();
        self.0.lock().unwrap().push(params);
        Ok(CodeOutput { value, console: vec![], console_truncated: false, fuel: None })
    }

    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        Ok(request.expressions.iter().map(|_| Ok(Value::Null)).collect())
    }
}

async fn audited(world: &World, action: &str) -> Vec<AuditOutcome> {
    let events = world.admin().audit(&PageRequest::first(PageRequest::MAX_LIMIT)).await.unwrap().items;
    let of = events.iter().filter(|event| event.action() == action);
    let mut outcomes: Vec<_> = of.map(|event| event.outcome()).collect();
    // Under paused time, events of one instant have no order.
    outcomes.sort_by_key(|outcome| format!("{outcome:?}"));
    outcomes
}

fn act(name: &str, value: &str) -> Value {
    json!({ "name": name, "type": "fake.act", "settings": { "value": value } })
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_a_connection_is_not_for_never_acts() {
    let world = World::new(31).await;
    let admin = world.admin();
    admin.put_connection(&connection("api", bound_to("http"))).await.unwrap();
    let ended = run(&world, json!([act("a", "{{connections.api}}")])).await;
    assert_eq!(ended.status, RunStatus::Failed);
    let error = ended.steps[0].error.clone().expect("an error");
    assert_eq!(error.kind, StepErrorKind::Connection);
    assert!(error.message.contains("not for the piece `fake`"), "{error}");
    assert!(world.peer.calls.lock().unwrap().is_empty(), "the piece acted");
    assert_eq!(audited(&world, "connection.use").await, [AuditOutcome::Denied]);
    admin.put_connection(&connection("api", bound_to("fake"))).await.unwrap();
    let ended = run(&world, json!([act("a", "{{connections.api}}")])).await;
    assert_eq!(ended.status, RunStatus::Succeeded);
    assert_eq!(audited(&world, "connection.use").await, [AuditOutcome::Denied, AuditOutcome::Success]);
}

#[tokio::test(start_paused = true)]
async fn a_tested_step_is_held_to_the_same() {
    let world = World::new(32).await;
    let admin = world.admin();
    admin.put_connection(&connection("api", bound_to("http"))).await.unwrap();
    let flow = json!({ "displayName": "F", "triggers": [{ "name": "t", "type": "manual" }], "steps": [act("a", "{{connections.api}}")] });
    let flow = admin.create_flow(flow.to_string().as_bytes()).await.unwrap();
    let tested = admin.test_step(flow.id, StepSource::Draft, "a", Default::default()).await.unwrap();
    assert_eq!(tested.error.expect("refused").kind, StepErrorKind::Connection);
    assert!(world.peer.calls.lock().unwrap().is_empty());
    assert_eq!(audited(&world, "connection.use").await, [AuditOutcome::Denied]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_time_is_over_is_not_used() {
    let world = World::new(33).await;
    let soon = Timestamp::from_millis(START + 60_000);
    let terms = ConnectionTerms { expires: Some(soon), ..ConnectionTerms::default() };
    world.admin().put_connection(&connection("api", terms)).await.unwrap();
    assert_eq!(run(&world, json!([act("a", "{{connections.api}}")])).await.status, RunStatus::Succeeded);
    world.clock.sleep_until(soon).await;
    let ended = run(&world, json!([act("a", "{{connections.api}}")])).await;
    let error = ended.steps[0].error.clone().expect("an error");
    assert!(error.message.contains("has expired"), "{error}");
    assert_eq!(world.admin().connection("api").await.unwrap().status, ConnectionStatus::Expired);
    assert_eq!(world.peer.calls.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn scripts_see_a_secret_only_if_an_admin_said_so() {
    let sandbox = Recording::default();
    let world = World::with(34, |builder| builder.sandbox(sandbox.clone())).await;
    let seen = || sandbox.0.lock().unwrap().iter().map(|params| params.contains(CANARY)).collect::<Vec<_>>();
    let script = json!([{ "name": "s", "type": "code", "settings": {
        "input": { "key": "{{connections.api}}" }, "sourceCode": { "code": "export const code = async (p) => p;" } } }]);
    let shown = ConnectionTerms { reveal_to_code: true, ..ConnectionTerms::default() };
    // An editor may not, neither at first nor by writing over.
    let editor = as_role(&world, Role::Editor);
    assert!(matches!(editor.put_connection(&connection("api", shown.clone())).await, Err(SessionError::Denied(_))));
    editor.put_connection(&connection("api", ConnectionTerms::default())).await.unwrap();
    run(&world, script.clone()).await;
    assert_eq!(audited(&world, "connection.reveal").await, []);
    assert_eq!(seen(), [false]);
    world.admin().put_connection(&connection("api", shown)).await.unwrap();
    let taken_back = editor.put_connection(&connection("api", ConnectionTerms::default())).await;
    assert!(matches!(taken_back, Err(SessionError::Denied(_))), "{taken_back:?}");
    let ended = run(&world, script).await;
    assert_eq!(ended.status, RunStatus::Succeeded);
    assert_eq!(seen(), [false, true]);
    assert_eq!(audited(&world, "connection.reveal").await, [AuditOutcome::Success]);
    let text = serde_json::to_string(&ended).unwrap();
    assert!(!text.contains(CANARY), "{text}");
    assert!(text.contains("redacted"), "what the script put out was not masked: {text}");
}

/// Fails as often as it is told, and then gives the secret.
#[derive(Clone, Debug)]
struct Manager(Arc<Mutex<(u32, u32)>>);

#[async_trait]
impl SecretResolver for Manager {
    fn scheme(&self) -> &str {
        "vault"
    }

    fn check(&self, path: &str) -> Result<(), SecretError> {
        if path.contains('#') { Ok(()) } else { Err(SecretError::Malformed { fix: "`vault:path#field`" }) }
    }

    async fn resolve(&self, path: &str) -> Result<SecretString, SecretError> {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        if state.0 > 0 {
            state.0 -= 1;
            return Err(SecretError::Unavailable);
        }
        if path == "crm#key" { Ok(CANARY.into()) } else { Err(SecretError::Denied) }
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_that_are_kept_elsewhere_are_asked_for_when_they_are_used() {
    let (sandbox, manager) = (Recording::default(), Manager(Arc::default()));
    let world = World::with(39, |builder| builder.sandbox(sandbox.clone()).secrets(manager.clone())).await;
    let platform = admin_session(&world.runtime, None);
    let json = |path: &str| {
        format!(r#"{{ "type": "SECRET_TEXT", "secret_text": {{ "from": "vault:{path}" }}, "revealToCode": true }}"#)
    };
    let provision = async |name: &str, path: &str| {
        let connection = Connection::from_json(name, json(path).as_bytes(), None, world.clock.now()).unwrap();
        platform.provision_connection(world.project, connection).await.unwrap();
    };
    // Nobody of the project may name a secret of the host.
    let refused = world.admin().put_connection_json("api", json("crm#key").as_bytes()).await;
    assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{refused:?}");
    provision("api", "crm#key").await;
    assert_eq!(world.admin().connection("api").await.unwrap().secret_fields, ["secret_text"]);
    let script = |name: &str| {
        json!([{ "name": "s", "type": "code", "retry": { "maxAttempts": 3 }, "settings": {
        "input": { "key": format!("{{{{connections.{name}}}}}") }, "sourceCode": { "code": "export const code = async (p) => p;" } } }])
    };
    manager.0.lock().unwrap().0 = 2;
    let ended = run(&world, script("api")).await;
    assert_eq!(ended.status, RunStatus::Succeeded, "{:?}", ended.error);
    assert_eq!(manager.0.lock().unwrap().1, 3, "not tried again by policy");
    assert!(sandbox.0.lock().unwrap()[0].contains(CANARY));
    assert!(!serde_json::to_string(&ended).unwrap().contains(CANARY));
    // Known for a minute, and not for longer.
    run(&world, script("api")).await;
    assert_eq!(manager.0.lock().unwrap().1, 3);
    tokio::time::sleep(std::time::Duration::from_secs(61)).await;
    run(&world, script("api")).await;
    assert_eq!(manager.0.lock().unwrap().1, 4);
    // What the manager refuses is no matter for another try.
    provision("other", "admin#root").await;
    let ended = run(&world, script("other")).await;
    let error = ended.steps[0].error.clone().expect("an error");
    assert_eq!((error.kind, manager.0.lock().unwrap().1), (StepErrorKind::Connection, 5));
    assert!(error.message.contains("does not allow") && error.message.contains("`vault:admin#root`"), "{error}");
    // Pieces are held to the same: nothing is done without the secret.
    let ended = run(&world, json!([act("a", "{{connections.other}}")])).await;
    assert_eq!(ended.status, RunStatus::Failed);
    assert!(world.peer.calls.lock().unwrap().is_empty());
}

/// Gives the secret of the moment.
#[derive(Clone, Debug)]
struct Changing(Arc<Mutex<&'static str>>);

#[async_trait]
impl SecretResolver for Changing {
    fn scheme(&self) -> &str {
        "vault"
    }

    fn check(&self, _: &str) -> Result<(), SecretError> {
        Ok(())
    }

    async fn resolve(&self, _: &str) -> Result<SecretString, SecretError> {
        Ok((*self.0.lock().unwrap()).into())
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_resolved_is_masked_as_long_as_the_run_goes_on() {
    let manager = Changing(Arc::new(Mutex::new("canary-before-the-change")));
    let world = World::with(40, |builder| builder.secrets(manager.clone())).await;
    let json = br#"{ "type": "SECRET_TEXT", "secret_text": { "from": "vault:crm#key" } }"#;
    let connection = Connection::from_json("api", json, None, world.clock.now()).unwrap();
    admin_session(&world.runtime, None).provision_connection(world.project, connection).await.unwrap();
    let echo = json!({ "old": "{{trigger.old}}", "new": "{{trigger.new}}" });
    let steps = json!([
        act("a", "{{connections.api}}"),
        { "name": "b", "type": "fake.act", "settings": { "value": "slow", "ms": 25_000 } },
        { "name": "b2", "type": "fake.act", "settings": { "value": "slow", "ms": 25_000 } },
        { "name": "b3", "type": "fake.act", "settings": { "value": "slow", "ms": 25_000 } },
        { "name": "c", "type": "fake.act", "settings": { "value": echo } },
    ]);
    let flow = world.publish_manual(steps).await;
    let changing = async {
        world.clock.sleep_until(world.clock.now().saturating_add(std::time::Duration::from_secs(30))).await;
        *manager.0.lock().unwrap() = "canary-after-the-change";
    };
    let input = json!({ "old": "canary-before-the-change", "new": "canary-after-the-change" });
    let (ended, ()) = tokio::join!(world.run(flow, input), changing);
    assert_eq!(ended.status, RunStatus::Succeeded, "{:?}", ended.error);
    // The last step uses no connection: a peer that knows what the first one sent may say it all the same.
    let output = ended.steps[4].output.clone().expect("an output").to_string();
    assert_eq!(output, r#"{"new":"‹redacted:api›","old":"‹redacted:api›"}"#);
}

#[tokio::test(start_paused = true)]
async fn a_reference_that_cannot_be_read_is_refused_when_it_is_stored() {
    let manager = Manager(Arc::default());
    let world = World::with(41, |builder| builder.secrets(manager.clone())).await;
    let platform = admin_session(&world.runtime, None);
    let client = |reference: &str| {
        format!(
            r#"{{ "type": "OAUTH2", "client_id": "c", "token_url": "https://id.example/token", "grant_type": "client_credentials",
                "client_secret": {{ "from": "{reference}" }} }}"#
        )
    };
    let text = |reference: &str| format!(r#"{{ "type": "SECRET_TEXT", "secret_text": {{ "from": "{reference}" }} }}"#);
    for (json, field, fix) in [
        (text("vault:canary"), "secret_text", "`vault:path#field`"),
        (text("other:canary#x"), "secret_text", "no secrets of this scheme"),
        (client("vault:canary"), "client_secret", "`vault:path#field`"),
    ] {
        let connection = Connection::from_json("api", json.as_bytes(), None, world.clock.now()).unwrap();
        let refused = platform.put_platform_connection(&connection).await.unwrap_err().to_string();
        assert!(refused.contains(field) && refused.contains(fix) && !refused.contains("canary"), "{refused}");
    }
    let good = Connection::from_json("api", client("vault:crm#key").as_bytes(), None, world.clock.now()).unwrap();
    platform.put_platform_connection(&good).await.unwrap();
    // Of a client, too, nobody of a project may name a secret of the host.
    let refused = world.admin().put_connection_json("api", client("vault:crm#key").as_bytes()).await;
    assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{refused:?}");
    assert_eq!(manager.0.lock().unwrap().1, 0, "asked for nothing");
}

#[tokio::test(start_paused = true)]
async fn what_flows_use_is_not_deleted_unawares() {
    let world = World::new(35).await;
    let admin = world.admin();
    admin.put_connection(&connection("api", ConnectionTerms::default())).await.unwrap();
    admin.put_connection(&connection("other", ConnectionTerms::default())).await.unwrap();
    run(&world, json!([act("a", "{{connections.api}}")])).await;
    let used = admin.connection_usage("api").await.unwrap();
    assert_eq!((used.len(), used[0].published), (1, true));
    let refused = admin.delete_connection("api", IfUsed::Refuse).await;
    assert!(
        matches!(&refused, Err(SessionError::ConnectionInUse { flows }) if flows[0] == used[0].flow),
        "{refused:?}"
    );
    admin.delete_connection("other", IfUsed::Refuse).await.unwrap();
    admin.delete_connection("api", IfUsed::DeleteAnyway).await.unwrap();
    assert!(admin.connections(&PageRequest::default()).await.unwrap().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_name_for_people_is_free_to_change() {
    let world = World::new(36).await;
    let admin = world.admin();
    let json = r#"{ "type": "SECRET_TEXT", "displayName": "My API", "value": { "secret_text": "canary-secret" } }"#;
    let id = admin.put_connection_json("api", json.as_bytes()).await.unwrap();
    admin.rename_connection("api", "Their API").await.unwrap();
    let shown = admin.connection("api").await.unwrap();
    assert_eq!((shown.id, shown.terms.display_name.as_deref()), (id, Some("Their API")));
    // Written again under its external id, it is the same connection.
    assert_eq!(admin.put_connection_json("api", json.as_bytes()).await.unwrap(), id);
    assert!(admin.rename_connection("api", "").await.is_err());
    assert!(!serde_json::to_string(&shown).unwrap().contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn the_platform_lends_to_some_projects_and_takes_back() {
    let world = World::new(37).await;
    let platform = admin_session(&world.runtime, None);
    platform.put_platform_connection(&connection("api", ConnectionTerms::default())).await.unwrap();
    let steps = json!([act("a", "{{connections.api}}")]);
    assert!(world.admin().connection("api").await.is_err());
    let editor = as_role(&world, Role::Editor);
    let denied = world
        .runtime
        .session(ap_auth::principal::Principal::user(UserId::from_u128(9)).with_role(world.project, Role::Admin));
    let denied = denied.share_platform_connection("api", world.project, true).await;
    assert!(matches!(denied, Err(SessionError::Denied(_))), "{denied:?}");
    platform.share_platform_connection("api", world.project, true).await.unwrap();
    assert_eq!(run(&world, steps.clone()).await.status, RunStatus::Succeeded);
    let shown = editor.shared_connections(&PageRequest::default()).await.unwrap().items;
    assert!(shown[0].of_platform && shown[0].name == "api");
    assert!(editor.connections(&PageRequest::default()).await.unwrap().items.is_empty());
    // It is not the project's to delete or to rename.
    assert!(matches!(
        world.admin().delete_connection("api", IfUsed::DeleteAnyway).await,
        Err(SessionError::Store(StoreError::NotFound { .. }))
    ));
    assert!(world.admin().rename_connection("api", "mine").await.is_err());
    let other: ProjectId = platform.create_project("Other").await.unwrap();
    let there = admin_session(&world.runtime, Some(other)).project(other).unwrap();
    assert!(there.connection("api").await.is_err(), "lent to one, seen by another");
    platform.share_platform_connection("api", world.project, false).await.unwrap();
    assert!(world.admin().connection("api").await.is_err());
    platform.share_platform_connection("api", world.project, true).await.unwrap();
    platform.delete_platform_connection("api").await.unwrap();
    assert!(world.admin().connection("api").await.is_err());
    assert!(platform.platform_connections(&PageRequest::default()).await.unwrap().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_predefined_connection_is_the_hosts() {
    let world = World::new(38).await;
    let platform = admin_session(&world.runtime, None);
    platform.provision_connection(world.project, connection("api", bound_to("fake"))).await.unwrap();
    assert_eq!(run(&world, json!([act("a", "{{connections.api}}")])).await.status, RunStatus::Succeeded);
    let admin = world.admin();
    assert!(admin.connection("api").await.unwrap().terms.predefined);
    for refused in [
        admin.put_connection(&connection("api", ConnectionTerms::default())).await.map(|_| ()),
        admin.delete_connection("api", IfUsed::DeleteAnyway).await,
        admin.rename_connection("api", "mine").await,
    ] {
        assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{refused:?}");
    }
    let forged = ConnectionTerms { predefined: true, ..ConnectionTerms::default() };
    assert!(matches!(
        admin.put_connection(&connection("mine", forged)).await,
        Err(SessionError::InvalidArgument { .. })
    ));
    // The host upserts by its external id, and does not write over what is the project's own.
    platform.provision_connection(world.project, connection("api", bound_to("http"))).await.unwrap();
    admin.put_connection(&connection("own", ConnectionTerms::default())).await.unwrap();
    assert!(platform.provision_connection(world.project, connection("own", bound_to("fake"))).await.is_err());
    platform.unprovision_connection(world.project, "api").await.unwrap();
    assert!(platform.unprovision_connection(world.project, "own").await.is_err());
    assert!(admin.connection("api").await.is_err());
}
