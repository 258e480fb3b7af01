//! Runs: starting by hand, looking, waiting, ending, trying again.

use std::{sync::Arc, time::Duration};

use ap_auth::{
    audit::AuditEvent,
    authorizer::{Authorized, Resource},
    permission::{PermissionMarker, RunCancel, RunRead, RunRetry, RunStart},
};
use ap_core::{
    id::{FlowId, ProjectId, RunId},
    json,
    run::RunStatus,
    store::{Entity, Page, PageRequest, StoreError},
};
use serde_json::Value;

use super::{ProjectSession, SessionError, records_failed};
use crate::{
    accept,
    engine::{Event, RunView, Signal},
    flow_control::{Origin, control_of},
    journal::{self, Batch, Replayed},
    records,
    store::{Accepted, RunFilter, RunRecord},
};

/// How a run that did not succeed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryStrategy {
    /// The same run goes on from the step that failed, with the version it is pinned to: what succeeded is not done again.
    FromFailedStep,
    /// A new run of the flow's published version, from the beginning, with what the trigger of the old one delivered.
    OnLatestVersion,
}

impl ProjectSession {
    /// Starts a run of the flow's published version with `payload` as what the trigger delivered. Needs `run.start`.
    ///
    /// Once this returns, the run is durable. The flow's own rules about its runs hold.
    ///
    /// # Errors
    /// [`SessionError::NotPublished`]; [`SessionError::Limited`] and [`SessionError::Skipped`] as the flow says;
    /// [`SessionError::InvalidArgument`] if the payload is larger than 10 MiB, nested deeper than 100 levels, or lacks what a
    /// key of the flow's concurrency or pace is made of; [`SessionError`] lists the rest.
    pub async fn start_run(&self, id: FlowId, payload: Value) -> Result<RunId, SessionError> {
        let proof = self.authorize::<RunStart, _>(id)?;
        json::check_stored(&payload)
            .map_err(|limit| SessionError::InvalidArgument { reason: format!("the payload {limit}") })?;
        self.begin(&proof, proof.resource(), Arc::new(payload)).await
    }

    /// Ends a run as `CANCELED`, with its subflows. Needs `run.cancel`. `reason` is for people: at most 500 characters of it
    /// are kept, with the run.
    ///
    /// Once this returns, that is durable; the run ends as soon as whoever executes it notices, or somebody can take it up. An
    /// effect under way is not undone. A run that has ended stays as it is, and one is canceled once however often this is
    /// called.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn cancel_run(&self, id: RunId, reason: &str) -> Result<(), SessionError> {
        let proof = self.authorize::<RunCancel, _>(id)?;
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let run = kernel.backend.run(proof.resource(), proof.target()).await?;
        if run.status.is_terminal() {
            return Ok(());
        }
        let signal = Signal::Canceled { reason: reason.chars().take(MAX_REASON).collect() };
        let event = AuditEvent::of(&proof, kernel.clock.now());
        kernel.tell(&keys, (run.project, run.id, records::cancel_slot(&keys)), &signal, &event).await?;
        Ok(())
    }

    /// Tries a run again that ended without success, and returns the run that does. Needs `run.retry`.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] if the run has not ended, or cannot be tried again: it succeeded, or outgrew its log.
    /// For [`RetryStrategy::OnLatestVersion`] also what [`ProjectSession::start_run`] lists. [`SessionError`] lists the rest.
    pub async fn retry_run(&self, id: RunId, strategy: RetryStrategy) -> Result<RunId, SessionError> {
        let proof = self.authorize::<RunRetry, _>(id)?;
        let run = self.session.parts.kernel.backend.run(proof.resource(), proof.target()).await?;
        if !run.status.is_terminal() || run.status == RunStatus::Succeeded {
            let reason = format!("a run that is {} is not tried again", run.status);
            return Err(SessionError::InvalidArgument { reason });
        }
        match strategy {
            RetryStrategy::FromFailedStep => self.reopen(&proof, &run).await.map(|()| id),
            RetryStrategy::OnLatestVersion => {
                let keys = self.keys().await?;
                let trigger = Arc::clone(self.session.parts.kernel.replay(&run, &keys).await?.trigger());
                self.begin(&proof, run.flow, trigger).await
            }
        }
    }

    async fn reopen(&self, proof: &Authorized<RunRetry, RunId>, run: &RunRecord) -> Result<(), SessionError> {
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        // What cannot be executed here any more is not opened again.
        let flow = kernel.flow_version(run.version, run.project).await?;
        let ids = (run.project, run.id);
        let entries = kernel.backend.journal(run.id, run.project).await?;
        let resume = kernel.resume_tokens(&keys, ids);
        let Replayed { state, next_seq: seq } =
            journal::replay(&*kernel.backend, &keys, ids, &flow, (&entries, resume)).await?;
        // The run goes by the answers it has, so their tokens must not work again.
        let used = state.answered_slots();
        let at = kernel.clock.now();
        let mut batch = Batch::default();
        batch.push(&Event::Retried { at })?;
        let entry = batch.seal(&keys, (run.project, run.id), seq, &*kernel.entropy)?;
        let audit = [kernel.seal_event(&keys, &AuditEvent::of(proof, at))?];
        match kernel.backend.reopen(run.id, run.project, entry, &used, &audit).await {
            Ok(()) => self.session.parts.worker.announce(),
            Err(StoreError::Conflict { entity: Entity::Run, .. }) => {
                let reason =
                    format!("a run that is {} is not tried again, nor one that somebody else just opened", run.status);
                return Err(SessionError::InvalidArgument { reason });
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Creates a run of the published version of a flow.
    async fn begin<P, R>(
        &self,
        proof: &Authorized<P, R>,
        flow: FlowId,
        payload: Arc<Value>,
    ) -> Result<RunId, SessionError>
    where
        P: PermissionMarker<Target = ProjectId>,
        R: Resource,
    {
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let flow = kernel.backend.flow(flow, proof.target()).await?;
        let (true, Some(version)) = (flow.enabled, flow.published) else { return Err(SessionError::NotPublished) };
        let valid = kernel.flow_version(version, proof.target()).await?;
        let control = control_of(&valid, flow.id, &keys, &payload, Origin::Caller)
            .map_err(|error| SessionError::InvalidArgument { reason: format!("a flow control key: {error}") })?;
        let start = accept::RunStart {
            project: proof.target(),
            flow: flow.id,
            version,
            generation: flow.generation,
            dedupe: None,
            parent: None,
            control,
            payload,
        };
        let (run, submission) = kernel.prepare_run(start, valid, &keys, |at| {
            let event = AuditEvent::by(proof.actor(), proof.permission().as_str(), proof.scope(), at);
            // The preparation adds flow and run; a run that is tried again is named before.
            let tried = proof.resource().id_text().filter(|text| *text != flow.id.to_string());
            tried.into_iter().fold(event, AuditEvent::with_resource)
        })?;
        match self.session.parts.worker.submit(submission).await.map_err(records_failed)?? {
            Accepted::Created { .. } | Accepted::Duplicate(_) => Ok(run),
            Accepted::Limited { retry } => Err(SessionError::Limited { retry }),
            Accepted::Skipped => Err(SessionError::Skipped),
            Accepted::Stale => Err(SessionError::NotPublished),
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
            // A reply may come before the end, and news of another process may be lost: look again every now and then.
            let look_again = now.saturating_add(LOOK_AGAIN).min(until);
            tokio::select! {
                biased;
                _ = waiter.heard() => {}
                () = kernel.clock.sleep_until(look_again) => {}
            }
        }
    }
}

/// How often a waiting caller asks the store, if nothing is heard.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Characters of a reason that are kept.
const MAX_REASON: usize = 500;
