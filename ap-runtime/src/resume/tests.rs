//! The resume door on the memory backend, with a run that is kept under way.

use std::{sync::Arc, time::Duration};

use ap_auth::{audit::AuditEvent, principal::Principal, role::Role};
use ap_core::{
    id::{ProjectId, RunId, UserId},
    store::PageRequest,
    time::Timestamp,
};
use ap_crypto::{
    entropy::SystemEntropy,
    provider::MemoryKeyProvider,
    resume::{Decision, ResumeClaims},
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    backend::memory::MemoryBackend,
    clock::{Clock, TokioClock},
    engine::{AnswerDecision, Signal},
    records,
    runtime::Runtime,
    sandbox::{CodeError, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest},
    session::ProjectSession,
};

/// Never comes back.
#[derive(Debug)]
struct Hanging;

#[async_trait]
impl CodeSandbox for Hanging {
    async fn check(&self, _: ProjectId, _: CodeUnit) -> Result<(), CodeError> {
        Ok(())
    }

    async fn run(&self, _: CodeRequest) -> Result<CodeOutput, CodeError> {
        std::future::pending().await
    }

    async fn evaluate(&self, _: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        std::future::pending().await
    }
}

struct World {
    runtime: Runtime,
    project: ProjectId,
    session: ProjectSession,
    run: RunId,
}

impl World {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_750_000_000_000)));
        let keys = MemoryKeyProvider::generate(&SystemEntropy).expect("entropy");
        let backend = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
        let runtime = Runtime::builder(backend, keys).clock(clock).sandbox(Hanging).build().await.expect("built");
        let admin = Principal::user(UserId::from_u128(1)).with_role(runtime.platform(), Role::Admin);
        let project = runtime.session(admin.clone()).create_project("Test").await.expect("a project");
        let session = runtime.session(admin.with_role(project, Role::Admin)).project(project).expect("allowed");
        let source = json!({
            "triggers": [{ "type": "manual" }],
            "steps": [{ "name": "hang", "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" } } }],
        });
        let flow = session.create_flow(source.to_string().as_bytes()).await.expect("a flow");
        session.publish_flow(flow.id).await.expect("published");
        let run = session.start_run(flow.id, json!({})).await.expect("a run");
        Self { runtime, project, session, run }
    }

    async fn token(&self, party: &str, decision: Decision, valid: Duration) -> String {
        let kernel = &self.runtime.parts.kernel;
        let key = kernel.keyring.tenant(self.project.into()).await.expect("keys").resume_key(self.run);
        let expires = kernel.clock.now().saturating_add(valid);
        let slot = key.slot("approval", party);
        key.token(&ResumeClaims { project: self.project, run: self.run, slot, expires, decision })
    }

    async fn send(
        &self,
        method: &str,
        token: &str,
        headers: &[(header::HeaderName, &str)],
        body: &str,
    ) -> Response<Bytes> {
        let mut request = Request::builder().method(method).uri(format!("/any/where/{token}"));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        self.runtime.resumes().handle(request.body(body).expect("a request")).await
    }

    async fn post(&self, token: &str, body: &str) -> Response<Bytes> {
        self.send("POST", token, &[(header::CONTENT_TYPE, "application/json")], body).await
    }

    async fn signals(&self) -> Vec<Signal> {
        let kernel = &self.runtime.parts.kernel;
        let keys = kernel.keyring.tenant(self.project.into()).await.expect("keys");
        let stored = kernel.backend.signals(self.run, self.project).await.expect("signals");
        let open = |signal: &crate::store::SignalRecord| {
            let key = records::signal_key(signal.run, signal.id, &signal.slot);
            let plain = keys.open(&records::signal(&key, self.project), &signal.sealed).expect("opened");
            serde_json::from_slice(&plain).expect("a signal")
        };
        stored.iter().map(open).collect()
    }

    async fn audit(&self) -> Vec<AuditEvent> {
        self.session.audit(&PageRequest::first(500)).await.expect("a trail").items
    }
}

fn answer(decision: AnswerDecision, body: Value) -> Signal {
    Signal::Answered { decision, body: Arc::new(body) }
}

#[tokio::test(start_paused = true)]
async fn a_token_works_once_and_says_what_it_means() {
    let world = World::new().await;
    let approve = world.token("ann", Decision::Approve, Duration::from_secs(60)).await;
    let answered = world.post(&approve, r#"{"note":"fine"}"#).await;
    assert_eq!((answered.status(), &answered.body()[..]), (StatusCode::OK, &br#"{"status":"taken"}"#[..]));
    assert_eq!(world.signals().await, [answer(AnswerDecision::Approve, json!({ "note": "fine" }))]);
    assert_eq!(world.post(&approve, "{}").await.status(), StatusCode::GONE);
    // The other answer of the same person has the same slot.
    let reject = world.token("ann", Decision::Reject, Duration::from_secs(60)).await;
    assert_eq!(world.post(&reject, "{}").await.status(), StatusCode::GONE);
    let other = world.token("bob", Decision::Answer, Duration::from_secs(60)).await;
    assert_eq!(world.post(&other, "").await.status(), StatusCode::OK);
    assert_eq!(world.signals().await.len(), 2);
    let resumed = world.audit().await.into_iter().filter(|event| event.action() == "run.resume").count();
    assert_eq!(resumed, 2);
}

#[tokio::test(start_paused = true)]
async fn looking_never_acts() {
    let world = World::new().await;
    let token = world.token("ann", Decision::Approve, Duration::from_secs(60)).await;
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let response = world.send(method, &token, &[], "").await;
        let shown = matches!(method, "GET" | "HEAD");
        assert_eq!(response.status(), if shown { StatusCode::OK } else { StatusCode::METHOD_NOT_ALLOWED }, "{method}");
    }
    let page = world.send("GET", &token, &[], "").await;
    let text = String::from_utf8_lossy(page.body()).into_owned();
    assert!(text.contains("<form method=\"post\">") && text.contains("Approve") && !text.contains(&token), "{text}");
    assert!(world.send("HEAD", &token, &[], "").await.body().is_empty());
    assert!(world.signals().await.is_empty());
    assert_eq!(world.post(&token, "{}").await.status(), StatusCode::OK, "it is still good");
}

#[tokio::test(start_paused = true)]
async fn whatever_is_wrong_with_a_token_the_answer_is_one_and_nothing_happens() {
    let world = World::new().await;
    let good = world.token("ann", Decision::Answer, Duration::from_secs(60)).await;
    let used = world.token("bob", Decision::Answer, Duration::from_secs(3_600)).await;
    assert_eq!(world.post(&used, "{}").await.status(), StatusCode::OK);
    let before = (world.signals().await, world.session.run(world.run).await.expect("a run").status);
    let mut forged = good.clone().into_bytes();
    let last = forged.len() - 2;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("text");
    // Genuine in form, of a project that does not exist.
    let key =
        world.runtime.parts.kernel.keyring.tenant(world.project.into()).await.expect("keys").resume_key(world.run);
    let elsewhere = key.token(&ResumeClaims {
        project: ProjectId::from_u128(99),
        run: world.run,
        slot: key.slot("a", "b"),
        expires: Timestamp::from_micros(i64::MAX),
        decision: Decision::Answer,
    });
    let expired = world.token("cy", Decision::Answer, Duration::ZERO).await;
    let long = format!("aprs_{}", "A".repeat(60_000));
    let wrong = [&forged, &used, &expired, &elsewhere, &long, "aprs_", "", "x", "aprs_é"];
    let mut answers = Vec::new();
    for token in wrong {
        let request = Request::builder().method("POST").uri(format!("/r/{}", token.replace('é', "%C3%A9")));
        let response = world.runtime.resumes().handle(request.body(Full::new(Bytes::new())).expect("a request")).await;
        answers.push((response.status(), format!("{:?}", response.headers()), response.body().clone()));
    }
    assert_eq!(answers[0].0, StatusCode::GONE);
    assert!(answers.iter().all(|other| other == &answers[0]), "{answers:?}");
    assert_eq!(before, (world.signals().await, world.session.run(world.run).await.expect("a run").status));
    tokio::time::sleep(Duration::from_secs(61)).await;
    let counted: Vec<String> = world
        .audit()
        .await
        .iter()
        .filter(|event| event.action() == "run.resume.deny")
        .filter_map(|event| event.reason().map(str::to_owned))
        .collect();
    for reason in ["forged", "expired", "used before"] {
        assert!(counted.iter().any(|counted| counted.contains(reason)), "{reason}: {counted:?}");
    }
    assert_eq!(world.post(&good, "{}").await.status(), StatusCode::GONE, "its time has passed meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_run_that_is_over_is_gone() {
    let world = World::new().await;
    let token = world.token("ann", Decision::Answer, Duration::from_secs(36_000)).await;
    let status = world.session.wait_for_run(world.run, Duration::from_secs(3_600)).await.expect("a status");
    assert!(status.is_terminal());
    let gone = world.post(&token, "{}").await;
    assert_eq!((gone.status(), gone.body()), (StatusCode::GONE, world.post("x", "").await.body()));
}

#[tokio::test(start_paused = true)]
async fn bodies_are_bounded_and_a_refused_one_uses_nothing_up() {
    let world = World::new().await;
    let token = world.token("ann", Decision::Answer, Duration::from_secs(60)).await;
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let limit = super::ResumeDoor::MAX_BODY_BYTES;
    assert_eq!(world.post(&token, &text(limit + 1)).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.post(&token, "{").await.status(), StatusCode::BAD_REQUEST);
    assert!(world.signals().await.is_empty());
    assert_eq!(world.post(&token, &text(limit)).await.status(), StatusCode::OK);
    let other = world.token("bob", Decision::Answer, Duration::from_secs(60)).await;
    let form = [(header::CONTENT_TYPE, "application/x-www-form-urlencoded"), (header::ACCEPT, "text/html")];
    let page = world.send("POST", &other, &form, "a=1&b=x+y").await;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(String::from_utf8_lossy(page.body()).contains("Thank you"));
    // Both came in the same instant, so chance decides which is listed first.
    assert!(world.signals().await.contains(&answer(AnswerDecision::Answer, json!({ "a": "1", "b": "x y" }))));
}

#[tokio::test(start_paused = true)]
async fn made_up_tokens_of_a_project_that_is_not_there_ask_the_store_once() {
    let world = World::new().await;
    let kernel = &world.runtime.parts.kernel;
    let key = kernel.keyring.tenant(world.project.into()).await.expect("keys").resume_key(world.run);
    let (project, expires) =
        (ap_core::id::ProjectId::from_u128(7), kernel.clock.now().saturating_add(Duration::from_secs(9)));
    let slot = key.slot("approval", "ann");
    let token = key.token(&ResumeClaims { project, run: world.run, slot, expires, decision: Decision::Answer });
    let door = world.runtime.resumes();
    let unknown = &door.inner.unknown;
    assert!(!unknown.has(project, kernel.clock.now()));
    for _ in 0..2 {
        assert_eq!(world.post(&token, "{}").await.status(), StatusCode::GONE);
        assert!(unknown.has(project, kernel.clock.now()));
    }
    assert!(!unknown.has(world.project, kernel.clock.now()));
}
