//! Preparing what the worker submits: a new run with its first event, and the audit record that goes with it.

use std::sync::Arc;

use ap_auth::audit::AuditEvent;
use ap_core::{
    audit::AuditRecord,
    flow::ValidFlow,
    id::{AuditId, FlowId, FlowVersionId, ProjectId, RunId},
    run::RunStatus,
};
use ap_crypto::vault::TenantKeys;
use serde_json::Value;

use crate::{
    engine::{Event, ParentStep, ResumeTokens, RunState},
    executor::Submission,
    journal::{self, Batch, RunError},
    kernel::Kernel,
    records,
    store::{Accept, Dedupe, RunControl, RunRecord},
    subject::{RunKeys, RunSubject},
};

/// A run to be.
pub(crate) struct RunStart {
    pub(crate) project: ProjectId,
    pub(crate) flow: FlowId,
    pub(crate) version: FlowVersionId,
    pub(crate) generation: u64,
    pub(crate) dedupe: Option<Dedupe>,
    /// The step of another run that starts it.
    pub(crate) parent: Option<ParentStep>,
    /// When and beside which others it may run.
    pub(crate) control: RunControl,
    /// What the trigger delivered.
    pub(crate) payload: Arc<Value>,
    /// Whom it is about.
    pub(crate) subject: Option<RunSubject>,
}

impl Kernel {
    /// Makes the run's id, its first journal entry and the audit record of `event`, which gets flow and run as resources.
    pub(crate) fn prepare_run(
        &self,
        start: RunStart,
        flow: Arc<ValidFlow>,
        keys: &TenantKeys,
        event: impl FnOnce(ap_core::time::Timestamp) -> AuditEvent,
    ) -> Result<(RunId, Submission), RunError> {
        let at = self.clock.now();
        let run = RunId::from_parts(at, self.id_entropy()?);
        let RunStart { project, flow: flow_id, version, generation, dedupe, parent, control, payload, subject } = start;
        let parent_run = parent.as_ref().map(|parent| parent.run);
        let first = Event::Accepted { at, trigger: payload, limits: self.run_limits.engine(), parent };
        let state = RunState::accepted(run, &first, self.resume_tokens(keys, (project, run)))?;
        let mut batch = Batch::default();
        batch.push(&first)?;
        let (key, subject_key) = subject.map_or((None, None), |subject| (Some(subject.key), subject.new));
        let entry = batch.seal(RunKeys::new(keys, key.as_deref()), (project, run), 0, &*self.entropy)?;
        let status = RunStatus::Queued;
        let record = RunRecord {
            id: run,
            project,
            flow: flow_id,
            version,
            parent: parent_run,
            status,
            created: at,
            finished: None,
            subject: key.as_ref().map(|key| key.id()),
        };
        let mut event = event(at).with_resource(flow_id).with_resource(run);
        if control.debounce.is_some() {
            // Which one, if there is one, the store finds out: it ends `CANCELED` in the same transaction.
            event = event.with_detail("debounce", "replaces the run of its key that has not begun");
        }
        let audit = vec![self.seal_event(keys, &event)?];
        let accept = Accept { run: record, generation, dedupe, subject_key, control, entry, lease: None };
        Ok((run, Submission { accept, audit, flow, state, subject: key }))
    }

    /// What the resume tokens of a run are made from.
    pub(crate) fn resume_tokens(&self, keys: &TenantKeys, (project, run): (ProjectId, RunId)) -> Arc<ResumeTokens> {
        Arc::new(ResumeTokens { project, key: keys.resume_key(run), base: self.resume_base.clone() })
    }

    /// Seals an audit event under the keys of its scope.
    pub(crate) fn seal_event(&self, keys: &TenantKeys, event: &AuditEvent) -> Result<AuditRecord, RunError> {
        let id = AuditId::from_parts(event.at(), self.id_entropy()?);
        let body = event.to_record_body().map_err(|_| RunError::Encoding(serde::ser::Error::custom("audit event")))?;
        Ok(records::seal_audit(keys, id, event, &body, &*self.entropy)?)
    }

    /// As [`Kernel::seal_event`], looking the keys up.
    pub(crate) async fn audit_record(&self, event: &AuditEvent) -> Result<AuditRecord, RunError> {
        let keys = self.keyring.tenant(event.scope()).await?;
        self.seal_event(&keys, event)
    }

    /// Rebuilds a run from its journal.
    pub(crate) async fn replay(&self, record: &RunRecord, keys: &TenantKeys) -> Result<RunState, RunError> {
        let subject = self.subject_of_run(keys, record.project, record.subject).await?;
        let flow = self.flow_version(record.version, record.project).await?;
        let entries = self.backend.journal(record.id, record.project).await?;
        let ids = (record.project, record.id);
        let resume = self.resume_tokens(keys, ids);
        let keys = RunKeys::new(keys, subject.as_deref());
        Ok(journal::replay(&*self.backend, keys, ids, &flow, (&entries, resume)).await?.state)
    }
}
