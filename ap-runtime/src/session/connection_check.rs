//! Asking a peer whether a connection is good.

use std::{collections::BTreeSet, time::Duration};

use ap_auth::{audit::AuditEvent, permission::ConnectionWrite};
use ap_core::{
    audit::AuditOutcome,
    capability::{HttpError, HttpRequest},
    connection::{ConnectionFault, ConnectionStatus, FaultReason, ValidationRequest},
    id::{FlowId, FlowVersionId, RunId},
    scope::Scope,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    ProjectSession, SessionError,
    connections::{NOT_FOUND, summary},
    records_failed,
};
use crate::{
    credentials::{CredentialLoader, Found},
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
    /// A success clears an error. 401 and 403 put the project's own connection in error; whatever else happens changes nothing
    /// and is told as the problem. The platform's connections are asked as well, and never changed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`](ap_core::store::StoreError::NotFound); [`SessionError`] lists the rest.
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
        let asked = self.ask(name, validation.as_ref()).await?;
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
        if let (Some(reason), true) = (fault, own && found.connection.fault().is_none()) {
            let Found { record, connection } = found;
            let connection = connection.with_fault(Some(ConnectionFault { at: now, reason }));
            self.session.rewrite(&keys, record, &connection, event).await?;
            return Ok(ConnectionCheck { status: ConnectionStatus::Error, problem });
        }
        kernel.backend.append_audit(&[kernel.seal_event(&keys, &event)?]).await?;
        Ok(ConnectionCheck { status: summary(&found.record, &found.connection, now).status, problem })
    }

    async fn ask(&self, name: &str, validation: Option<&ValidationRequest>) -> Result<Asked, SessionError> {
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        // Placeholders of a check mean nothing in any run.
        let run = RunId::from_parts(kernel.clock.now(), kernel.id_entropy().map_err(records_failed)?);
        let lease = Lease { project: self.project, run, epoch: 0 };
        let (flow, version) = (FlowId::from_u128(run.as_u128()), FlowVersionId::from_u128(run.as_u128()));
        let names = BTreeSet::from([name.to_owned()]);
        let mut loader = CredentialLoader::of_names(Claimed { lease, flow, version, subject: None }, names);
        loader.refresh(kernel, &keys).await?;
        let Some(placeholder) = loader.whole(name).map(str::to_owned) else { return Err(NOT_FOUND.into()) };
        let input = Value::from(placeholder.as_str());
        let credentials = match loader.ready_to_check(kernel, &keys, &input).await {
            Ok(credentials) => credentials,
            Err(failed) => return Ok(Asked::Unknown(failed.error.message)),
        };
        let Some(ValidationRequest { method, url }) = validation else { return Ok(Asked::Good) };
        let uses = loader.audit_uses_in(kernel, &keys, &input, |event| event.with_detail("validation", true))?;
        kernel.backend.append_audit(&uses).await?;
        let mut request = HttpRequest::new(method.as_str(), url.as_str());
        (request.credential, request.timeout, request.max_response_bytes) = (Some(placeholder), TIMEOUT, MAX_BYTES);
        let (ways, key) = (kernel.egress.for_attempt(&credentials, &kernel.entropy, None), run.to_string());
        let context = ways.context((&key, false), TIMEOUT, kernel.clock.now());
        Ok(match context.http.send(request).await {
            Ok(response) if (200..300).contains(&response.status) => Asked::Good,
            Ok(response) if matches!(response.status, 401 | 403) => Asked::Bad(FaultReason::ValidationFailed),
            Ok(response) => Asked::Unknown(format!("the peer answered HTTP {}", response.status)),
            // It was there, and said much.
            Err(HttpError::ResponseTooLarge { .. }) => Asked::Unknown("the peer's answer is too large".to_owned()),
            Err(error) => Asked::Unknown(error.to_string()),
        })
    }
}

enum Asked {
    Good,
    Bad(FaultReason),
    Unknown(String),
}

const TIMEOUT: Duration = Duration::from_secs(20);
const MAX_BYTES: usize = 1 << 20;
