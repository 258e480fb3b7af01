//! Runs: starting by hand, looking, waiting.

use std::{sync::Arc, time::Duration};

use ap_auth::{
    audit::AuditEvent,
    permission::{RunRead, RunStart},
};
use ap_core::{
    id::{FlowId, RunId},
    json,
    run::RunStatus,
    store::{Page, PageRequest},
};
use serde_json::Value;

use super::{ProjectSession, SessionError, records_failed};
use crate::{
    accept,
    engine::RunView,
    store::{Accepted, RunFilter, RunRecord},
};

impl ProjectSession {
    /// Starts a run of the flow's published version with `payload` as what the trigger delivered. Needs `run.start`.
    ///
    /// Once this returns, the run is durable.
    ///
    /// # Errors
    /// [`SessionError::NotPublished`]; [`SessionError::InvalidArgument`] if the payload is larger than 10 MiB or nested
    /// deeper than 100 levels; [`SessionError`] lists the rest.
    pub async fn start_run(&self, id: FlowId, payload: Value) -> Result<RunId, SessionError> {
        let proof = self.authorize::<RunStart, _>(id)?;
        json::check_stored(&payload)
            .map_err(|limit| SessionError::InvalidArgument { reason: format!("the payload {limit}") })?;
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let flow = kernel.backend.flow(proof.resource(), proof.target()).await?;
        let (true, Some(version)) = (flow.enabled, flow.published) else { return Err(SessionError::NotPublished) };
        let valid = kernel.flow_version(version, proof.target()).await?;
        let start = accept::RunStart {
            project: proof.target(),
            flow: flow.id,
            version,
            generation: flow.generation,
            dedupe: None,
            parent: None,
            payload: Arc::new(payload),
        };
        // The proof names the flow already; the preparation adds the run.
        let (run, submission) = kernel.prepare_run(start, valid, &keys, |at| {
            AuditEvent::by(proof.actor(), proof.permission().as_str(), proof.scope(), at)
        })?;
        match self.session.parts.worker.submit(submission).await.map_err(records_failed)?? {
            Accepted::Created { .. } | Accepted::Duplicate(_) => Ok(run),
            _ => Err(SessionError::NotPublished),
        }
    }

    /// A run with all its steps, inputs and outputs; credentials show as their names. Needs `run.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn run(&self, id: RunId) -> Result<RunView, SessionError> {
        let proof = self.authorize::<RunRead, _>(id)?;
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let record = kernel.backend.run(proof.resource(), proof.target()).await?;
        Ok(RunView::new(&kernel.replay(&record, &keys).await?, record.status))
    }

    /// Lists runs, oldest first. Needs `run.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn runs(&self, filter: RunFilter, page: &PageRequest) -> Result<Page<RunRecord>, SessionError> {
        let proof = self.authorize::<RunRead, _>(())?;
        Ok(self.session.parts.kernel.backend.runs(filter, proof.target(), page).await?)
    }

    /// Waits until a run has ended, at most `timeout`, and returns where it stands then. Needs `run.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait and nothing else.
    pub async fn wait_for_run(&self, id: RunId, timeout: Duration) -> Result<RunStatus, SessionError> {
        let proof = self.authorize::<RunRead, _>(id)?;
        let kernel = &self.session.parts.kernel;
        let until = kernel.clock.now().saturating_add(timeout);
        loop {
            // Listen first and look then, so that an end in between is not missed.
            let mut waiter = kernel.replies.subscribe(id);
            let status = kernel.backend.run(proof.resource(), proof.target()).await.map(|run| run.status)?;
            let now = kernel.clock.now();
            if status.is_terminal() || now >= until {
                return Ok(status);
            }
            // A reply may come before the end, and another process may run it: look again every now and then.
            let look_again = now.saturating_add(LOOK_AGAIN).min(until);
            tokio::select! {
                biased;
                _ = waiter.outcome() => {}
                () = kernel.clock.sleep_until(look_again) => {}
            }
        }
    }
}

/// How often a waiting caller asks the store, if nothing is heard.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
