//! The webhook door: from an HTTP request to a durable run, and to its reply.
//!
//! Framework-neutral: [`WebhookDoor::handle`] works on the types of the `http` crate, and [`WebhookDoor`] is a
//! `tower::Service`. Order of work: route → method → capacity → what of the authentication needs no body → bounded body
//! read → signature over the raw bytes → payload → *accept transaction* (delivery, run and audit in one) → answer.
//! Nothing before the acceptance writes to the store; what was refused is counted and audited once a minute.

mod auth;
mod payload;
mod response;
mod route;
mod service;

use std::{net::IpAddr, sync::Arc, time::Duration};

use ap_auth::{
    audit::AuditEvent,
    principal::{Actor, Identity},
};
use ap_core::{
    id::RunId,
    run::{RunStatus, StepError, StepErrorKind},
    time::Timestamp,
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio::sync::Semaphore;

#[cfg(feature = "sim")]
pub(crate) use self::payload::delivery_id;
pub(crate) use self::{
    payload::parse_body,
    route::{Forget, Routes, TOKEN_PREFIX, token_hash},
};
use self::{
    response::{Rejection, accepted, outcome, still_running},
    route::Endpoint,
};
use crate::{
    accept::RunStart,
    engine::RunEnd,
    executor::Worker,
    flow_control::{Origin, control_of},
    journal::RunError,
    kernel::Kernel,
    replies::{Heard, Outcome, Waiter},
    store::{Accepted, Dedupe, RunRecord},
    subject::{SharedSubjects, is_rekeyed, subject_of},
};

/// The address a request came from, as the host knows it: put it into the request's extensions and the audit trail has it.
///
/// Behind a proxy it is the host's duty to take the right address from the right header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Accepts webhook requests. Cheap to clone; every clone is the same door.
#[derive(Clone, Debug)]
pub struct WebhookDoor {
    inner: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    kernel: Arc<Kernel>,
    worker: Arc<Worker>,
    routes: Arc<Routes>,
    /// Requests whose body is being read or whose acceptance is being committed.
    receiving: Semaphore,
    /// Callers that wait for a reply.
    waiting: Semaphore,
}

/// A request whose run exists.
struct Delivered {
    run: RunId,
    duplicate: bool,
}

impl WebhookDoor {
    pub(crate) fn new(kernel: Arc<Kernel>, worker: Arc<Worker>, routes: Arc<Routes>) -> Self {
        let receiving = Semaphore::new(MAX_RECEIVING);
        let waiting = Semaphore::new(MAX_WAITING);
        Self { inner: Arc::new(Door { kernel, worker, routes, receiving, waiting }) }
    }

    /// Handles one request whose path ends in `/{token}` (answered 202 with the run's id) or `/{token}/sync` (answered
    /// with what the run replies). Whatever stands before is the host's to choose and is not looked at.
    ///
    /// A 2xx means the run is durable. The answer to a failure names no inside; see the module for the order of work.
    ///
    /// # Cancel safety
    /// Dropping the future, as servers do when the sender hangs up, loses nothing that was accepted.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Bytes>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.inner.handle(request).await {
            Ok(response) => response,
            Err(rejection) => rejection.into_response(),
        }
    }

    /// Takes in a delivery as if its request had just been verified; `None` if it was refused. The sender may try again.
    #[cfg(feature = "sim")]
    pub(crate) async fn accept_verified(&self, token: &str, payload: &Value) -> Option<RunId> {
        let actor = Actor::new(Identity::Anonymous);
        for _ in 0..ROUTE_ATTEMPTS {
            let endpoint = self.inner.routes.find(token).await.ok()?;
            match self.inner.accept(&endpoint, payload.clone(), &actor, false).await.ok()? {
                Some((delivered, _)) => return Some(delivered.run),
                None => self.inner.routes.forget(endpoint.route.project),
            }
        }
        None
    }
}

impl Door {
    async fn handle<B>(&self, request: Request<B>) -> Result<Response<Bytes>, Rejection>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let uri = request.uri().clone();
        let (token, sync) = token_of(uri.path()).ok_or(Rejection::NotFound)?;
        let endpoint = self.routes.find(token).await?;
        let actor = actor_of(&request);
        match self.deliver(token, &endpoint, request, &actor, sync).await {
            Ok((Delivered { run, duplicate }, None)) => Ok(accepted(run, duplicate)),
            Ok((delivered, Some(waiter))) => self.reply(&endpoint, delivered, waiter).await,
            Err(rejection) => {
                if let Some(reason) = rejection.audit_reason() {
                    self.kernel.denials.webhook(endpoint.route.project, endpoint.route.flow, reason);
                }
                Err(rejection)
            }
        }
    }

    async fn deliver<B>(
        &self,
        token: &str,
        endpoint: &Arc<Endpoint>,
        request: Request<B>,
        actor: &Actor,
        sync: bool,
    ) -> Result<(Delivered, Option<Waiter>), Rejection>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
            return Err(Rejection::MethodNotAllowed);
        }
        let _slot = self.receiving.try_acquire().map_err(|_| Rejection::Busy)?;
        // One webhook's senders must not take the door from everybody else's.
        let receiving = Arc::clone(endpoint);
        let _share = receiving.receiving.try_acquire().map_err(|_| Rejection::Busy)?;
        let (parts, body) = request.into_parts();
        let now = self.kernel.clock.now();
        endpoint.authentication.precheck(&parts.headers, now).map_err(|_| Rejection::Unauthenticated)?;
        let body = self.read_body(&parts.headers, body).await?;
        let mut endpoint = Arc::clone(endpoint);
        for _ in 0..ROUTE_ATTEMPTS {
            let verified = endpoint
                .authentication
                .verify(&parts.headers, &body, self.kernel.clock.now())
                .map_err(|_| Rejection::Unauthenticated)?;
            let query = parts.uri.query().unwrap_or_default();
            let payload = payload::trigger_payload(&parts.method, query, verified)
                .map_err(|malformed| Rejection::BadRequest(malformed.0))?;
            if let Some(delivered) = self.accept(&endpoint, payload, actor, sync).await? {
                return Ok(delivered);
            }
            // Republished or disabled since the endpoint was looked up: look again, and judge the request anew.
            self.routes.forget(endpoint.route.project);
            endpoint = self.routes.find(token).await?;
        }
        Err(Rejection::Busy)
    }

    async fn read_body<B>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, Rejection>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = self.kernel.webhook_options.body_bytes();
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes > limit as u64) {
            return Err(Rejection::TooLarge(limit));
        }
        let until = self.kernel.clock.now().saturating_add(BODY_TIMEOUT);
        let collected = tokio::select! {
            biased;
            collected = Limited::new(body, limit).collect() => collected,
            () = async { self.kernel.clock.sleep_until(until).await } => return Err(Rejection::RequestTimeout),
        };
        match collected {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Rejection::TooLarge(limit)),
            Err(_) => Err(Rejection::RequestTimeout),
        }
    }

    /// Makes the run durable. `None` if the endpoint, or a key, is out of date.
    async fn accept(
        &self,
        endpoint: &Endpoint,
        payload: Value,
        actor: &Actor,
        sync: bool,
    ) -> Result<Option<(Delivered, Option<Waiter>)>, Rejection> {
        let control = control_of(&endpoint.flow, endpoint.route.flow, &endpoint.keys, &payload, Origin::Caller)
            .map_err(|error| Rejection::BadRequest(format!("a flow control key cannot be read: {error}")))?;
        let subject = match subject_of(&endpoint.flow, &payload, Origin::Caller)
            .map_err(|reason| Rejection::BadRequest(format!("the data subject cannot be told: {reason}")))?
        {
            Some(subject) => {
                let (project, mut shared) = (endpoint.route.project, SharedSubjects::new());
                let found = self.kernel.subject_for(&endpoint.keys, project, &subject, &mut shared).await;
                Some(found.map_err(|error| internal(&error))?)
            }
            None => None,
        };
        let delivery = payload::delivery_id(endpoint.dedupe_place(), &payload);
        let trigger = endpoint.flow.trigger().name.as_str();
        let flow = endpoint.route.flow;
        let dedupe = delivery.map(|id| Dedupe {
            key: endpoint.keys.lookup_hash("delivery", &[flow.as_bytes(), trigger.as_bytes(), id.as_bytes()]),
            expires: self.kernel.clock.now().saturating_add(self.kernel.webhook_options.dedupe_window()),
        });
        let start = RunStart {
            project: endpoint.route.project,
            flow,
            version: endpoint.version,
            generation: endpoint.route.generation,
            dedupe,
            parent: None,
            control,
            payload: Arc::new(payload),
            subject,
        };
        let (run, submission) = self
            .kernel
            .prepare_run(start, Arc::clone(&endpoint.flow), &endpoint.keys, |at| {
                AuditEvent::by(actor, "run.start", endpoint.route.project.into(), at)
            })
            .map_err(|error| internal(&error))?;
        let waiter = sync.then(|| self.kernel.replies.subscribe(run));
        let answer = self.worker.submit(submission).await.map_err(|error| internal(&error))?;
        if answer.as_ref().is_err_and(is_rekeyed) {
            return Ok(None);
        }
        match answer.map_err(|error| internal(&error))? {
            Accepted::Created { .. } => Ok(Some((Delivered { run, duplicate: false }, waiter))),
            Accepted::Limited { retry } => Err(Rejection::Limited(retry.saturating_since(self.kernel.clock.now()))),
            Accepted::Skipped => Err(Rejection::Skipped),
            Accepted::Duplicate(first) => {
                let waiter = sync.then(|| self.kernel.replies.subscribe(first));
                Ok(Some((Delivered { run: first, duplicate: true }, waiter)))
            }
            Accepted::Stale => Ok(None),
        }
    }

    /// Waits for the run's reply. A duplicate of a run that has answered gets what was stored.
    async fn reply(
        &self,
        endpoint: &Endpoint,
        Delivered { run, duplicate }: Delivered,
        mut waiter: Waiter,
    ) -> Result<Response<Bytes>, Rejection> {
        let Ok(_slot) = self.waiting.try_acquire() else { return Ok(still_running(run)) };
        if duplicate && let Some(stored) = self.stored_outcome(endpoint, run).await.map_err(|error| internal(&error))? {
            return Ok(outcome(run, &stored));
        }
        let until = self.kernel.clock.now().saturating_add(self.kernel.webhook_options.reply_timeout());
        loop {
            let now = self.kernel.clock.now();
            if now >= until {
                return Ok(still_running(run));
            }
            let look_again = now.saturating_add(LOOK_AGAIN).min(until);
            let heard = tokio::select! {
                biased;
                heard = waiter.heard() => heard,
                () = self.kernel.clock.sleep_until(look_again) => Some(Heard::Look),
            };
            match heard {
                Some(Heard::Outcome(answered)) => return Ok(outcome(run, &answered)),
                // Who executes it here will say so here.
                Some(Heard::Look) if self.worker.holds(run) => {}
                Some(Heard::Look) => {
                    let stored = self.stored_outcome(endpoint, run).await.map_err(|error| internal(&error))?;
                    if let Some(stored) = stored {
                        return Ok(outcome(run, &stored));
                    }
                }
                None => return Ok(still_running(run)),
            }
        }
    }

    async fn stored_outcome(&self, endpoint: &Endpoint, run: RunId) -> Result<Option<Outcome>, RunError> {
        let project = endpoint.route.project;
        let record = self.kernel.backend.run(run, project).await?;
        let state = match self.kernel.replay(&record, &endpoint.keys).await {
            // Whoever erased the data ends the run; until then it is as good as ended.
            Err(RunError::Erased { at }) => {
                return Ok(Some(Outcome::Ended { end: erased(at), last_output: None }));
            }
            replayed => replayed?,
        };
        Ok(match (state.reply(), state.end()) {
            (Some(reply), _) => Some(Outcome::Replied(reply.clone())),
            (None, Some(end)) => Some(Outcome::Ended { end: end.clone(), last_output: state.last_output().cloned() }),
            // Replaced by a later delivery before it began: it has an end and no journal of it.
            (None, None) if record.status.is_terminal() => {
                Some(Outcome::Ended { end: replaced(&record), last_output: None })
            }
            (None, None) => None,
        })
    }
}

/// The end of a run that the store ended by itself.
fn replaced(run: &RunRecord) -> RunEnd {
    let error = StepError::new(StepErrorKind::Explicit, "the run was replaced by a later one");
    let at = run.finished.unwrap_or(run.created);
    RunEnd { status: run.status, at, failed_step: None, error: Some(error) }
}

/// The end of a run whose data was erased.
fn erased(at: Timestamp) -> RunEnd {
    let error = StepError::new(StepErrorKind::Explicit, "the data of the run was erased");
    RunEnd { status: RunStatus::Canceled, at, failed_step: None, error: Some(error) }
}

/// Who sends, as far as the audit trail wants to know.
pub(crate) fn actor_of<B>(request: &Request<B>) -> Actor {
    let actor = Actor::new(Identity::Anonymous);
    let actor = match request.extensions().get::<ClientAddress>() {
        Some(ClientAddress(address)) => actor.with_ip(*address),
        None => actor,
    };
    match request.headers().get(header::USER_AGENT) {
        Some(agent) => actor.with_user_agent(&*String::from_utf8_lossy(agent.as_bytes())),
        None => actor,
    }
}

/// The token in `…/{token}` or `…/{token}/sync`, and which of them it is.
fn token_of(path: &str) -> Option<(&str, bool)> {
    let (path, sync) = match path.strip_suffix("/sync") {
        Some(path) => (path, true),
        None => (path, false),
    };
    path.rsplit('/').next().filter(|token| !token.is_empty()).map(|token| (token, sync))
}

fn internal(error: &dyn std::fmt::Display) -> Rejection {
    tracing::error!(error = %error, "a webhook request could not be accepted");
    Rejection::Internal
}

/// Requests being received at once; more are answered 503 before their body is read.
const MAX_RECEIVING: usize = 1_024;
/// Callers kept waiting for a reply at once; more are answered 408 at once, and their run goes on.
const MAX_WAITING: usize = 10_000;
/// How often a caller whose run another process executes looks into the store, if nothing is heard of it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a request is judged anew because its flow changed under it.
const ROUTE_ATTEMPTS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_the_last_segment_but_sync() {
        assert_eq!(token_of("/hooks/whk_a"), Some(("whk_a", false)));
        assert_eq!(token_of("/whk_a/sync"), Some(("whk_a", true)));
        assert_eq!(token_of("whk_a"), Some(("whk_a", false)));
        assert_eq!(token_of("/"), None);
        assert_eq!(token_of("/sync"), None);
        assert_eq!(token_of(""), None);
    }
}
