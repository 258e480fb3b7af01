//! Runs: starting by hand, looking, waiting, ending, trying again.

use std::{sync::Arc, time::Duration};

use ap_auth::{
    audit::AuditEvent,
    authorizer::{Authorized, Resource},
    permission::{PermissionMarker, RunCancel, RunRead, RunRetry, RunStart},
};
use ap_core::{
    flow::ValidFlow,
    id::{FlowId, ProjectId, RunId},
    json,
    run::RunStatus,
    store::{Entity, Page, PageRequest, Revision, StoreError},
};
use ap_crypto::{subject::SubjectKey, vault::TenantKeys};
use serde_json::Value;

use super::{ProjectSession, SessionError, records_failed};
use crate::{
    accept,
    engine::{Event, RunView, Signal},
    flow_control::{Origin, control_of},
    journal::{self, Batch, Replayed, RunError},
    records,
    store::{Accepted, RunFilter, RunRecord},
    subject::{REKEYED_TRIES, RunKeys, RunSubject, SharedSubjects, check_subject, is_rekeyed, subject_of},
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
        self.begin(&proof, proof.resource(), Arc::new(payload), About::AsTheFlowSays).await
    }

    /// Starts a run as [`ProjectSession::start_run`] does, about the data subject `subject`, whatever the flow says: all that is
    /// sealed of the run, and of the runs it starts, is gone once [`ProjectSession::erase`] has destroyed the subject's key. Needs
    /// `run.start`.
    ///
    /// `subject` is what the host calls a person or an account, 1 to 1,024 bytes. Only a keyed hash of it is kept.
    ///
    /// # Errors
    /// As [`ProjectSession::start_run`].
    pub async fn start_run_about(&self, id: FlowId, payload: Value, subject: &str) -> Result<RunId, SessionError> {
        let proof = self.authorize::<RunStart, _>(id)?;
        json::check_stored(&payload)
            .map_err(|limit| SessionError::InvalidArgument { reason: format!("the payload {limit}") })?;
        check_subject(subject).map_err(|reason| SessionError::InvalidArgument { reason })?;
        self.begin(&proof, proof.resource(), Arc::new(payload), About::Subject(subject)).await
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
        let subject = match kernel.subject_of_run(&keys, run.project, run.subject).await {
            // It is being ended.
            Err(RunError::Erased { .. }) => return Ok(()),
            subject => subject?,
        };
        let sealing = RunKeys::new(&keys, subject.as_deref());
        let signal = Signal::Canceled { reason: reason.chars().take(MAX_REASON).collect() };
        let event = AuditEvent::of(&proof, kernel.clock.now());
        kernel.tell(sealing, (run.project, run.id, records::cancel_slot(&keys)), &signal, &event).await?;
        Ok(())
    }

    /// Tries a run again that ended without success, and returns the run that does. Needs `run.retry`.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] if the run has not ended, or cannot be tried again: it succeeded, or outgrew its log;
    /// [`SessionError::Erased`] if its data was erased. For [`RetryStrategy::OnLatestVersion`] also what [`ProjectSession::start_run`] lists. [`SessionError`] lists the rest.
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
                let kernel = &self.session.parts.kernel;
                let trigger = Arc::clone(kernel.replay(&run, &keys).await?.trigger());
                let about = match kernel.subject_of_run(&keys, run.project, run.subject).await? {
                    Some(key) => About::Key(key),
                    None => About::AsTheFlowSays,
                };
                self.begin(&proof, run.flow, trigger, about).await
            }
        }
    }

    async fn reopen(&self, proof: &Authorized<RunRetry, RunId>, run: &RunRecord) -> Result<(), SessionError> {
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let subject = kernel.subject_of_run(&keys, run.project, run.subject).await?;
        let sealing = RunKeys::new(&keys, subject.as_deref());
        // What cannot be executed here any more is not opened again.
        let flow = kernel.flow_version(run.version, run.project).await?;
        let ids = (run.project, run.id);
        let entries = kernel.backend.journal(run.id, run.project).await?;
        let resume = kernel.resume_tokens(&keys, ids);
        let Replayed { state, next_seq: seq } =
            journal::replay(&*kernel.backend, sealing, ids, &flow, (&entries, resume)).await?;
        // The run goes by the answers it has, so their tokens must not work again.
        let used = state.answered_slots();
        let at = kernel.clock.now();
        let mut batch = Batch::default();
        batch.push(&Event::Retried { at })?;
        let entry = batch.seal(sealing, (run.project, run.id), seq, &*kernel.entropy)?;
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
        about: About<'_>,
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
        for _ in 0..REKEYED_TRIES {
            let start = accept::RunStart {
                project: proof.target(),
                flow: flow.id,
                version,
                generation: flow.generation,
                dedupe: None,
                parent: None,
                control,
                subject: self.subject(&about, (&valid, &payload), &keys).await?,
                payload: Arc::clone(&payload),
            };
            let (run, submission) = kernel.prepare_run(start, Arc::clone(&valid), &keys, |at| {
                let event = AuditEvent::by(proof.actor(), proof.permission().as_str(), proof.scope(), at);
                // The preparation adds flow and run; a run that is tried again is named before.
                let tried = proof.resource().id_text().filter(|text| *text != flow.id.to_string());
                tried.into_iter().fold(event, AuditEvent::with_resource)
            })?;
            return match self.session.parts.worker.submit(submission).await.map_err(records_failed)? {
                // Somebody else gave the subject its key, or destroyed it, in this instant: look again.
                Err(error) if is_rekeyed(&error) => continue,
                Err(error) => Err(error.into()),
                Ok(Accepted::Created { .. } | Accepted::Duplicate(_)) => Ok(run),
                Ok(Accepted::Limited { retry }) => Err(SessionError::Limited { retry }),
                Ok(Accepted::Skipped) => Err(SessionError::Skipped),
                Ok(Accepted::Stale) => Err(SessionError::NotPublished),
            };
        }
        Err(StoreError::Conflict { entity: Entity::Subject, current: Revision(0) }.into())
    }

    /// Whom a new run is about.
    async fn subject(
        &self,
        about: &About<'_>,
        (flow, payload): (&ValidFlow, &Value),
        keys: &TenantKeys,
    ) -> Result<Option<RunSubject>, SessionError> {
        let named = match about {
            About::Key(key) => return Ok(Some(RunSubject::known(Arc::clone(key)))),
            About::Subject(subject) => Some((*subject).to_owned()),
            About::AsTheFlowSays => subject_of(flow, payload, Origin::Caller)
                .map_err(|reason| SessionError::InvalidArgument { reason: format!("the data subject: {reason}") })?,
        };
        let Some(named) = named else { return Ok(None) };
        let (kernel, mut shared) = (&self.session.parts.kernel, SharedSubjects::new());
        Ok(Some(kernel.subject_for(keys, self.project, &named, &mut shared).await?))
    }

    /// A run with all its steps, inputs and outputs; credentials show as their names. Needs `run.read`.
    ///
    /// # Errors
    /// [`SessionError::Erased`] if the data of whom it was about was erased; [`SessionError`] lists the rest.
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

/// Whom a run is about.
enum About<'a> {
    /// The flow says.
    AsTheFlowSays,
    /// The same as another run.
    Key(Arc<SubjectKey>),
    /// The caller says.
    Subject(&'a str),
}

/// How often a waiting caller asks the store, if nothing is heard.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Characters of a reason that are kept.
const MAX_REASON: usize = 500;
