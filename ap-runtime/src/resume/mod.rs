//! The resume door: somebody a run waits for answers with a token.
//!
//! Framework-neutral like the webhook door: [`ResumeDoor::handle`] works on the types of the `http` crate, and
//! [`ResumeDoor`] is a `tower::Service`. A token works once, until it expires, while its run has not ended. One that is
//! expired, used, forged or of a run that is over gets one and the same answer, changes nothing, and is counted in the
//! audit trail of its project.
//!
//! `GET` never acts, because scanners of mail follow links: it shows a page with a button, which sends the `POST` that
//! does. Order of work for a `POST`: form of the token → the tenant's key → genuine → not expired → bounded body read →
//! the store takes the answer.

mod page;
mod service;
#[cfg(test)]
mod tests;
mod unknown;

use std::{sync::Arc, time::Duration};

use ap_auth::{audit::AuditEvent, principal::Actor};
use ap_core::{store::StoreError, time::Timestamp};
use ap_crypto::{
    error::KeyError,
    resume::{Decision, RESUME_PREFIX, ResumeClaims, UncheckedToken},
    vault::TenantKeys,
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio::sync::Semaphore;

use self::unknown::Unknown;
use crate::{
    engine::{AnswerDecision, Signal},
    journal::RunError,
    kernel::Kernel,
    store::Signaled,
    subject::RunKeys,
    webhook::{actor_of, parse_body},
};

/// Takes answers in. Cheap to clone; every clone is the same door.
#[derive(Clone, Debug)]
pub struct ResumeDoor {
    inner: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    kernel: Arc<Kernel>,
    /// Answers being read or committed.
    receiving: Semaphore,
    unknown: Unknown,
}

/// What becomes of a request, alphabetical.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The body is not what its content type says.
    BadRequest(String),
    /// Too much is going on; nothing was read.
    Busy,
    /// The token does not work. Why, is nobody's business.
    Gone,
    /// No such method here.
    MethodNotAllowed,
    /// The body did not arrive in time, or broke off.
    RequestTimeout,
    /// The answer is kept, and the run will take it in.
    Taken,
    /// The body is larger than allowed.
    TooLarge,
    /// Storage or keys failed; the same token works later.
    Unavailable,
}

impl ResumeDoor {
    /// Largest body of an answer. Unit: bytes.
    pub const MAX_BODY_BYTES: usize = 1 << 20;

    pub(crate) fn new(kernel: Arc<Kernel>) -> Self {
        Self { inner: Arc::new(Door { kernel, receiving: Semaphore::new(MAX_RECEIVING), unknown: Unknown::default() }) }
    }

    /// Handles one request whose path ends in `/{token}`. Whatever stands before is the host's to choose and is not looked
    /// at.
    ///
    /// `POST` answers: the body, at most 1 MiB of JSON, form, text or anything else as at the webhook door, is what the run
    /// gets. 200 means that the answer is durable. `GET` and `HEAD` show a page that asks for the `POST`.
    ///
    /// # Security
    /// Whoever has a token can use it. The page carries no script and no outside resource, allows no framing, and keeps its
    /// address, which is the token, from referrers and caches.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing that was answered 200.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Bytes>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let wants_page = page::is_wanted(request.headers());
        let token = request.uri().path().rsplit('/').next().and_then(UncheckedToken::parse);
        match *request.method() {
            Method::GET => return page::ask(token.as_ref().map(|token| token.claims().decision)),
            Method::HEAD => return page::ask(None).map(|_| Bytes::new()),
            Method::POST => {}
            _ => return page::answer(&Outcome::MethodNotAllowed, wants_page),
        }
        let outcome = self.inner.answer(token, request).await.unwrap_or_else(|refused| refused);
        page::answer(&outcome, wants_page)
    }
}

impl Door {
    async fn answer<B>(&self, token: Option<UncheckedToken>, request: Request<B>) -> Result<Outcome, Outcome>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let _slot = self.receiving.try_acquire().map_err(|_| Outcome::Busy)?;
        let token = token.ok_or(Outcome::Gone)?;
        let keys = self.check(&token).await?;
        let actor = actor_of(&request);
        let (parts, body) = request.into_parts();
        let body = self.read(&parts.headers, body).await?;
        self.take(&token, &keys, &actor, body).await
    }

    /// The keys of the project whose run made the token, if one did and it has not expired.
    async fn check(&self, token: &UncheckedToken) -> Result<Arc<TenantKeys>, Outcome> {
        let claims = token.claims();
        let now = self.kernel.clock.now();
        if self.unknown.has(claims.project, now) {
            return Err(Outcome::Gone);
        }
        let keys = match self.kernel.keyring.tenant(claims.project.into()).await {
            Ok(keys) => keys,
            Err(KeyError::NoKey { .. }) => {
                self.unknown.add(claims.project, now);
                return Err(Outcome::Gone);
            }
            Err(error) => return Err(unavailable(&error)),
        };
        if !keys.resume_key(claims.run).is_genuine(token) {
            self.kernel.denials.resume(claims.project, "the resume token is forged");
            return Err(Outcome::Gone);
        }
        self.fresh(claims.expires).inspect_err(|_| {
            self.kernel.denials.resume(claims.project, "the resume token has expired");
        })?;
        Ok(keys)
    }

    fn fresh(&self, expires: Timestamp) -> Result<(), Outcome> {
        if self.kernel.clock.now() < expires { Ok(()) } else { Err(Outcome::Gone) }
    }

    async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Value, Outcome>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes > ResumeDoor::MAX_BODY_BYTES as u64) {
            return Err(Outcome::TooLarge);
        }
        let until = self.kernel.clock.now().saturating_add(BODY_TIMEOUT);
        let collected = tokio::select! {
            biased;
            collected = Limited::new(body, ResumeDoor::MAX_BODY_BYTES).collect() => collected,
            () = self.kernel.clock.sleep_until(until) => return Err(Outcome::RequestTimeout),
        };
        let body = match collected {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(Outcome::TooLarge),
            Err(_) => return Err(Outcome::RequestTimeout),
        };
        parse_body(headers, &body).map_err(|malformed| Outcome::BadRequest(malformed.0))
    }

    /// Hands the answer to the store, which takes one per slot.
    async fn take(
        &self,
        token: &UncheckedToken,
        keys: &TenantKeys,
        actor: &Actor,
        body: Value,
    ) -> Result<Outcome, Outcome> {
        let claims = token.claims();
        let decision = match claims.decision {
            Decision::Answer => AnswerDecision::Answer,
            Decision::Approve => AnswerDecision::Approve,
            Decision::Reject => AnswerDecision::Reject,
            // A decision that this version does not know.
            _ => return Err(Outcome::Gone),
        };
        // Reading the body takes its time.
        self.fresh(claims.expires)?;
        let signal = Signal::Answered { decision, body: Arc::new(body) };
        let event = AuditEvent::by(actor, "run.resume", claims.project.into(), self.kernel.clock.now())
            .with_resource(claims.run)
            .with_detail("decision", word(decision));
        match self.tell(claims, keys, &signal, &event).await? {
            Signaled::Delivered => Ok(Outcome::Taken),
            Signaled::Used => {
                self.kernel.denials.resume(claims.project, "the resume token was used before");
                Err(Outcome::Gone)
            }
            Signaled::Over => {
                self.kernel.denials.resume(claims.project, "the run of the resume token is over");
                Err(Outcome::Gone)
            }
        }
    }
}

impl Door {
    /// Tells the run, sealed like everything else of it. One that is not there, or whose data was erased, is over.
    async fn tell(
        &self,
        claims: &ResumeClaims,
        keys: &TenantKeys,
        signal: &Signal,
        event: &AuditEvent,
    ) -> Result<Signaled, Outcome> {
        let kernel = &self.kernel;
        let about = match kernel.backend.run(claims.run, claims.project).await {
            Ok(run) => run.subject,
            Err(StoreError::NotFound { .. }) => return Ok(Signaled::Over),
            Err(error) => return Err(unavailable(&error)),
        };
        let subject = match kernel.subject_of_run(keys, claims.project, about).await {
            Ok(subject) => subject,
            Err(RunError::Erased { .. }) => return Ok(Signaled::Over),
            Err(error) => return Err(unavailable(&error)),
        };
        let sealing = RunKeys::new(keys, subject.as_deref());
        let told = kernel.tell(sealing, (claims.project, claims.run, claims.slot), signal, event).await;
        told.map_err(|error| unavailable(&error))
    }
}

impl Outcome {
    /// Status, code for programs, words for people.
    fn parts(&self) -> (StatusCode, &'static str, &str) {
        match self {
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, "bad_request", reason),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "try again shortly"),
            Self::Gone => (StatusCode::GONE, "gone", "this link does not work, or does not work any more"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method", "use POST"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "body", "the body did not arrive whole"),
            Self::Taken => (StatusCode::OK, "taken", "thank you, your answer has been taken"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "a body may have 1048576 bytes"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "try again later"),
        }
    }
}

const fn word(decision: AnswerDecision) -> &'static str {
    match decision {
        AnswerDecision::Answer => "answer",
        AnswerDecision::Approve => "approve",
        AnswerDecision::Reject => "reject",
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Outcome {
    tracing::error!(error = %error, prefix = RESUME_PREFIX, "an answer to a run could not be taken");
    Outcome::Unavailable
}

/// Answers being received at once; more are answered 503 before anything is looked at.
const MAX_RECEIVING: usize = 1_024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
