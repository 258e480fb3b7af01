//! Asking a peer whether a connection is good.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ap_auth::{
    audit::AuditEvent,
    permission::ConnectionWrite,
    principal::{Actor, Identity},
};
use ap_core::{
    audit::AuditOutcome,
    capability::{HttpError, HttpRequest},
    connection::{Connection, ConnectionFault, ConnectionStatus, FaultReason, ValidationRequest},
    id::{ConnectionId, FlowId, FlowVersionId, RunId},
    scope::Scope,
    store::{Revision, StoreError},
};
use ap_crypto::vault::TenantKeys;
use serde::Serialize;
use serde_json::Value;

use super::{
    ProjectSession, SessionError,
    connections::{NOT_FOUND, summary},
    records_failed,
};
use crate::{
    credentials::{CredentialLoader, Found, credentials_of},
    egress::credential::RunCredentials,
    kernel::Kernel,
    store::{Claimed, Lease},
};

/// What asking came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConnectionCheck {
    /// How the connection stands now.
    pub status: ConnectionStatus,
    /// Why it could not be found out, or what is wrong.
    pub problem: Option<String>,
}

impl ProjectSession {
    /// Finds out whether a connection is good, the way a run would use it: tokens that are due are renewed, and the request that
    /// the connection has for it (`validation`) is sent through the egress guard with its credential. Needs `connection.write`.
    ///
    /// A success clears an error. 401 and 403 put the project's own connection in error, unless it was changed meanwhile;
    /// whatever else happens changes nothing and is told as the problem. The platform's connections are asked as well, and never changed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`SessionError`] lists the rest.
    pub async fn validate_connection(&self, name: &str) -> Result<ConnectionCheck, SessionError> {
        let proof = self.authorize::<ConnectionWrite, _>(())?;
        let kernel = &self.session.parts.kernel;
        let (keys, project) = (self.keys().await?, proof.target());
        let found = kernel.find_connection(&keys, project, name).await?.ok_or(NOT_FOUND)?;
        let own = found.record.owner == Scope::from(project);
        let validation = found.connection.terms().validation.clone();
        let Found { record, connection } = found;
        let id = record.id;
        if own && connection.fault().is_some() {
            // Whether it is still so, the provider is to say.
            let event = AuditEvent::of(&proof, kernel.clock.now()).with_detail("validation", "begins");
            self.session.rewrite(&keys, record, &connection.with_fault(None), event).await?;
        }
        let (asked, revision) = self.ask(name, validation.as_ref()).await?;
        let event = AuditEvent::of(&proof, kernel.clock.now()).with_detail("name", name).with_resource(id);
        let (fault, problem) = match asked {
            Asked::Good => (None, None),
            Asked::Bad(reason) => (Some(reason), Some(reason.to_string())),
            Asked::Unknown(problem) => (None, Some(problem)),
        };
        let event = match &problem {
            Some(problem) => event.with_outcome(AuditOutcome::Failure, problem),
            None => event.with_detail("validation", "good"),
        };
        let found = kernel.find_connection(&keys, project, name).await?.ok_or(NOT_FOUND)?;
        let now = kernel.clock.now();
        let summary = summary(&found.record, &found.connection, now);
        // What the peer said of a credential that was replaced meanwhile says nothing of the one that is there now.
        let same = found.record.id == id && revision == Some(found.record.revision);
        let problem = match (fault, same) {
            (Some(_), false) => Some(CHANGED.to_owned()),
            _ => problem,
        };
        if let (Some(reason), true, true) = (fault, same, own) {
            let Found { record, connection } = found;
            let connection = connection.with_fault(Some(ConnectionFault { at: now, reason }));
            match self.session.rewrite(&keys, record, &connection, event.clone()).await {
                Ok(()) => return Ok(ConnectionCheck { status: ConnectionStatus::Error, problem }),
                // In this instant.
                Err(SessionError::Store(StoreError::Conflict { .. } | StoreError::NotFound { .. })) => {
                    kernel.backend.append_audit(&[kernel.seal_event(&keys, &event)?]).await?;
                    return Ok(ConnectionCheck { status: summary.status, problem: Some(CHANGED.to_owned()) });
                }
                Err(error) => return Err(error),
            }
        }
        kernel.backend.append_audit(&[kernel.seal_event(&keys, &event)?]).await?;
        Ok(ConnectionCheck { status: summary.status, problem })
    }

    /// What came of it, and at which revision of the connection.
    async fn ask(
        &self,
        name: &str,
        validation: Option<&ValidationRequest>,
    ) -> Result<(Asked, Option<Revision>), SessionError> {
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let run = run_of_check(kernel)?;
        let lease = Lease { project: self.project, run, epoch: 0 };
        let (flow, version) = (FlowId::from_u128(run.as_u128()), FlowVersionId::from_u128(run.as_u128()));
        let names = BTreeSet::from([name.to_owned()]);
        let mut loader = CredentialLoader::of_names(Claimed { lease, flow, version, subject: None }, names);
        loader.refresh(kernel, &keys).await?;
        let Some(placeholder) = loader.whole(name).map(str::to_owned) else { return Err(NOT_FOUND.into()) };
        let input = Value::from(placeholder.as_str());
        let credentials = match loader.ready_to_check(kernel, &keys, &input).await {
            Ok(credentials) => credentials,
            Err(failed) => return Ok((Asked::Unknown(failed.error.message), None)),
        };
        let revision = loader.revision(name);
        let Some(validation) = validation else { return Ok((Asked::Good, revision)) };
        let uses = loader.audit_uses_in(kernel, &keys, &input, |event| event.with_detail("validation", true))?;
        kernel.backend.append_audit(&uses).await?;
        Ok((send(kernel, (&credentials, placeholder), run, validation).await, revision))
    }
}

/// Asking about a connection whoever's it is, as it is given: with secrets that nobody uses yet.
pub(super) struct Check<'a> {
    pub(super) owner: Scope,
    pub(super) keys: &'a TenantKeys,
    pub(super) id: ConnectionId,
}

impl Check<'_> {
    pub(super) async fn ask(
        &self,
        kernel: &Kernel,
        candidate: Connection,
        validation: &ValidationRequest,
    ) -> Result<Asked, SessionError> {
        if candidate.status(kernel.clock.now()) == ConnectionStatus::Expired {
            return Ok(Asked::Unknown("their time is over already".to_owned()));
        }
        let candidate = match kernel.with_secrets(candidate).await {
            Ok(candidate) => candidate,
            Err(unresolved) => return Ok(Asked::Unknown(unresolved.to_string())),
        };
        let run = run_of_check(kernel)?;
        let event = AuditEvent::by(&Actor::new(Identity::Engine), "connection.use", self.owner, kernel.clock.now());
        let event = event.with_resource(self.id).with_detail("name", candidate.name()).with_detail("validation", true);
        kernel.backend.append_audit(&[kernel.seal_event(self.keys, &event)?]).await?;
        let (credentials, placeholder) = credentials_of(self.keys, (self.id, candidate), run)?;
        Ok(send(kernel, (&credentials, placeholder), run, validation).await)
    }
}

/// Placeholders of a check mean nothing in any run.
fn run_of_check(kernel: &Kernel) -> Result<RunId, SessionError> {
    Ok(RunId::from_parts(kernel.clock.now(), kernel.id_entropy().map_err(records_failed)?))
}

async fn send(
    kernel: &Kernel,
    (credentials, placeholder): (&Arc<RunCredentials>, String),
    run: RunId,
    ValidationRequest { method, url }: &ValidationRequest,
) -> Asked {
    let mut request = HttpRequest::new(method.as_str(), url.as_str());
    (request.credential, request.timeout, request.max_response_bytes) = (Some(placeholder), TIMEOUT, MAX_BYTES);
    let (ways, key) = (kernel.egress.for_attempt(credentials, &kernel.entropy, None), run.to_string());
    let context = ways.context((&key, false), TIMEOUT, kernel.clock.now());
    match context.http.send(request).await {
        Ok(response) if (200..300).contains(&response.status) => Asked::Good,
        Ok(response) if matches!(response.status, 401 | 403) => Asked::Bad(FaultReason::ValidationFailed),
        Ok(response) => Asked::Unknown(format!("the peer answered HTTP {}", response.status)),
        // It was there, and said much.
        Err(HttpError::ResponseTooLarge { .. }) => Asked::Unknown("the peer's answer is too large".to_owned()),
        Err(error) => Asked::Unknown(error.to_string()),
    }
}

pub(super) enum Asked {
    Good,
    Bad(FaultReason),
    Unknown(String),
}

const CHANGED: &str = "the connection was changed while it was checked: check it again";
const TIMEOUT: Duration = Duration::from_secs(20);
const MAX_BYTES: usize = 1 << 20;
