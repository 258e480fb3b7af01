//! [`LearningBackend`]: a backend whose records can be opened, whoever changed the keys meanwhile.
//!
//! Another process may have given a tenant a new key, and sealed with it, since this one read the key table. So what is read is
//! looked over before it is handed on: a value under a key that is not known here makes the table be read once more. It is done
//! here and not where values are opened, so that no reader can forget it.

use std::{fmt, sync::Arc, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{ConnectionId, FileId, FlowId, FlowVersionId, KeyId, ProjectId, RunId, ValueId, WorkerId},
    scope::Scope,
    store::{BackendError, LookupHash, Page, PageRequest, Precondition, Revision, Sealed, StoreError},
    time::Timestamp,
};
use ap_crypto::{
    error::KeyError,
    keyring::{KeyStore, Keyring, WrappedKey},
    subject::WrappedSubjectKey,
};
use async_trait::async_trait;

use crate::store::{
    Accept, Accepted, AuditStore, Backend, Beat, CellKey, CellStore, CellTable, ClaimRequest, Claimed, ClaimedTrigger,
    ConnectionRecord, ConnectionStore, Erasure, FileRecord, FileStore, FlowRecord, FlowStore, FlowVersionRecord,
    FlowWrite, HeldJobs, JobRequest, JournalEntry, KeyValueStore, Lease, ProjectRecord, ProjectShare, ProjectStore,
    QueueCounts, QueueStore, ResealedCell, Residue, Route, RunCommit, RunFilter, RunRecord, RunStore, SealedCell,
    SharedConnection, SignalRecord, Signaled, SubjectStore, SystemStore, TriggerFire, ValueChange, ValueRecord,
    ValueScope, ValueUsage, WorkerRecord,
};

/// Hands everything on to another backend, and sees to it that the keys of what comes back are known.
pub(crate) struct LearningBackend {
    inner: Arc<dyn Backend>,
    keyring: Arc<Keyring>,
}

impl LearningBackend {
    pub(crate) const fn new(inner: Arc<dyn Backend>, keyring: Arc<Keyring>) -> Self {
        Self { inner, keyring }
    }

    async fn learn<'s>(
        &self,
        scope: Scope,
        sealed: impl IntoIterator<Item = &'s Sealed> + Send,
    ) -> Result<(), StoreError> {
        match self.keyring.learn(scope, sealed).await {
            Ok(()) => Ok(()),
            Err(KeyError::Store(error)) => Err(error),
            Err(error) => Err(StoreError::Backend(BackendError::new(error))),
        }
    }
}

impl fmt::Debug for LearningBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ProjectStore for LearningBackend {
    async fn create_project(
        &self,
        project: ProjectRecord,
        key: WrappedKey,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.inner.create_project(project, key, audit).await
    }

    async fn project(&self, id: ProjectId) -> Result<ProjectRecord, StoreError> {
        let found = self.inner.project(id).await?;
        self.learn(id.into(), [&found.sealed]).await?;
        Ok(found)
    }

    async fn set_share(&self, id: ProjectId, share: ProjectShare, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.set_share(id, share, audit).await
    }
}

#[async_trait]
impl FlowStore for LearningBackend {
    async fn write_flow(&self, write: FlowWrite, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.write_flow(write, audit).await
    }

    async fn flow(&self, id: FlowId, project: ProjectId) -> Result<FlowRecord, StoreError> {
        let found = self.inner.flow(id, project).await?;
        self.learn(project.into(), [&found.sealed]).await?;
        Ok(found)
    }

    async fn flows(&self, project: ProjectId, page: &PageRequest) -> Result<Page<FlowRecord>, StoreError> {
        let found = self.inner.flows(project, page).await?;
        self.learn(project.into(), found.items.iter().map(|record| &record.sealed)).await?;
        Ok(found)
    }

    async fn flow_version(&self, id: FlowVersionId, project: ProjectId) -> Result<FlowVersionRecord, StoreError> {
        let found = self.inner.flow_version(id, project).await?;
        self.learn(project.into(), [&found.sealed]).await?;
        Ok(found)
    }

    async fn flow_versions(
        &self,
        flow: FlowId,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<FlowVersionRecord>, StoreError> {
        let found = self.inner.flow_versions(flow, project, page).await?;
        self.learn(project.into(), found.items.iter().map(|record| &record.sealed)).await?;
        Ok(found)
    }
}

#[async_trait]
impl ConnectionStore for LearningBackend {
    async fn write_connection(
        &self,
        connection: ConnectionRecord,
        precondition: Precondition,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.inner.write_connection(connection, precondition, audit).await
    }

    async fn write_leased_connection(
        &self,
        connection: ConnectionRecord,
        lease: (Revision, u64),
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.inner.write_leased_connection(connection, lease, audit).await
    }

    async fn connection(&self, name: LookupHash, owner: Scope) -> Result<ConnectionRecord, StoreError> {
        let found = self.inner.connection(name, owner).await?;
        self.learn(owner, [&found.sealed]).await?;
        Ok(found)
    }

    async fn connections(&self, owner: Scope, page: &PageRequest) -> Result<Page<ConnectionRecord>, StoreError> {
        let found = self.inner.connections(owner, page).await?;
        self.learn(owner, found.items.iter().map(|record| &record.sealed)).await?;
        Ok(found)
    }

    async fn delete_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.inner.delete_connection(id, owner, revision, audit).await
    }

    async fn lease_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        lease: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.inner.lease_connection(id, owner, revision, lease).await
    }

    async fn release_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        epoch: u64,
        rest: Duration,
    ) -> Result<(), StoreError> {
        self.inner.release_connection(id, owner, epoch, rest).await
    }

    async fn share_connection(&self, shared: SharedConnection, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.share_connection(shared, audit).await
    }

    async fn unshare_connection(
        &self,
        connection: ConnectionId,
        project: ProjectId,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.inner.unshare_connection(connection, project, audit).await
    }

    async fn shared_connection(
        &self,
        name: LookupHash,
        project: ProjectId,
    ) -> Result<(SharedConnection, ConnectionRecord), StoreError> {
        let found = self.inner.shared_connection(name, project).await?;
        self.learn(project.into(), [&found.0.sealed]).await?;
        self.learn(found.1.owner, [&found.1.sealed]).await?;
        Ok(found)
    }

    async fn shared_connections(
        &self,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<(SharedConnection, ConnectionRecord)>, StoreError> {
        let found = self.inner.shared_connections(project, page).await?;
        self.learn(project.into(), found.items.iter().map(|(shared, _)| &shared.sealed)).await?;
        for (_, record) in &found.items {
            self.learn(record.owner, [&record.sealed]).await?;
        }
        Ok(found)
    }
}

#[async_trait]
impl RunStore for LearningBackend {
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.commit(commit, audit).await
    }

    async fn reopen(
        &self,
        id: RunId,
        project: ProjectId,
        entry: JournalEntry,
        used: &[LookupHash],
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.inner.reopen(id, project, entry, used, audit).await
    }

    async fn signal(&self, signal: SignalRecord, audit: &[AuditRecord]) -> Result<Signaled, StoreError> {
        self.inner.signal(signal, audit).await
    }

    async fn signals(&self, run: RunId, project: ProjectId) -> Result<Vec<SignalRecord>, StoreError> {
        let found = self.inner.signals(run, project).await?;
        self.learn(project.into(), found.iter().map(|record| &record.sealed)).await?;
        Ok(found)
    }

    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError> {
        self.inner.run(id, project).await
    }

    async fn runs(
        &self,
        filter: RunFilter,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.inner.runs(filter, project, page).await
    }

    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError> {
        let found = self.inner.journal(id, project).await?;
        self.learn(project.into(), found.iter().map(|entry| &entry.sealed)).await?;
        Ok(found)
    }
}

#[async_trait]
impl QueueStore for LearningBackend {
    async fn take_jobs(&self, request: JobRequest) -> Result<HeldJobs, StoreError> {
        let found = self.inner.take_jobs(request).await?;
        self.learn(request.lease.project.into(), found.jobs.iter().map(|job| &job.sealed)).await?;
        Ok(found)
    }

    async fn queue_counts(&self, queue: LookupHash, project: ProjectId) -> Result<QueueCounts, StoreError> {
        self.inner.queue_counts(queue, project).await
    }

    async fn redrive(
        &self,
        queue: LookupHash,
        project: ProjectId,
        limit: u32,
        audit: &[AuditRecord],
    ) -> Result<u64, StoreError> {
        self.inner.redrive(queue, project, limit, audit).await
    }
}

#[async_trait]
impl FileStore for LearningBackend {
    async fn write_file(&self, file: FileRecord, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.write_file(file, audit).await
    }

    async fn file(&self, id: FileId, project: ProjectId) -> Result<FileRecord, StoreError> {
        let found = self.inner.file(id, project).await?;
        self.learn(project.into(), [&found.sealed]).await?;
        Ok(found)
    }

    async fn delete_file(&self, id: FileId, project: ProjectId, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.delete_file(id, project, audit).await
    }
}

#[async_trait]
impl KeyValueStore for LearningBackend {
    async fn change_values(
        &self,
        changes: &[ValueChange],
        project: ProjectId,
        limit: ValueUsage,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.inner.change_values(changes, project, limit, audit).await
    }

    async fn value(&self, id: ValueId, project: ProjectId) -> Result<ValueRecord, StoreError> {
        let found = self.inner.value(id, project).await?;
        self.learn(project.into(), [&found.sealed]).await?;
        Ok(found)
    }

    async fn values(
        &self,
        scope: ValueScope,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<ValueRecord>, StoreError> {
        let found = self.inner.values(scope, project, page).await?;
        self.learn(project.into(), found.items.iter().map(|record| &record.sealed)).await?;
        Ok(found)
    }

    async fn value_usage(&self, project: ProjectId) -> Result<ValueUsage, StoreError> {
        self.inner.value_usage(project).await
    }
}

#[async_trait]
impl AuditStore for LearningBackend {
    async fn append_audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.append_audit(records).await
    }

    async fn audit(&self, scope: Scope, page: &PageRequest) -> Result<Page<AuditRecord>, StoreError> {
        let found = self.inner.audit(scope, page).await?;
        self.learn(scope, found.items.iter().map(|record| &record.body)).await?;
        Ok(found)
    }
}

#[async_trait]
impl SystemStore for LearningBackend {
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        self.inner.accept(accept, audit).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.inner.claim(request).await
    }

    async fn heartbeat(&self, worker: &WorkerRecord, leases: &[Lease], lease: Duration) -> Result<Beat, StoreError> {
        self.inner.heartbeat(worker, leases, lease).await
    }

    async fn workers(&self, within: Duration) -> Result<Vec<WorkerRecord>, StoreError> {
        self.inner.workers(within).await
    }

    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError> {
        self.inner.retire(worker).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.next_due().await
    }

    async fn claim_triggers(
        &self,
        limit: u32,
        per_project: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedTrigger>, StoreError> {
        let found = self.inner.claim_triggers(limit, per_project, lease).await?;
        for trigger in &found {
            let state = trigger.state.iter().map(|(_, sealed)| sealed);
            self.learn(trigger.project.into(), state).await?;
        }
        Ok(found)
    }

    async fn fire_trigger(&self, fire: TriggerFire) -> Result<Vec<Accepted>, StoreError> {
        self.inner.fire_trigger(fire).await
    }

    async fn route(&self, token: LookupHash) -> Result<Option<Route>, StoreError> {
        self.inner.route(token).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        self.inner.sweep(limit).await
    }

    async fn due_connections(&self, limit: u32) -> Result<Vec<ConnectionRecord>, StoreError> {
        let records = self.inner.due_connections(limit).await?;
        for record in &records {
            self.learn(record.owner, [&record.sealed]).await?;
        }
        Ok(records)
    }
}

#[async_trait]
impl CellStore for LearningBackend {
    async fn count_cells(&self, table: CellTable, current: KeyId, scope: Scope) -> Result<u64, StoreError> {
        self.inner.count_cells(table, current, scope).await
    }

    async fn cells(
        &self,
        table: CellTable,
        current: KeyId,
        after: Option<CellKey>,
        limit: u32,
        scope: Scope,
    ) -> Result<Vec<SealedCell>, StoreError> {
        self.inner.cells(table, current, after, limit, scope).await
    }

    async fn reseal_cells(&self, cells: &[ResealedCell], scope: Scope) -> Result<u64, StoreError> {
        self.inner.reseal_cells(cells, scope).await
    }
}

#[async_trait]
impl SubjectStore for LearningBackend {
    async fn subject_key(
        &self,
        subject: LookupHash,
        project: ProjectId,
    ) -> Result<Option<WrappedSubjectKey>, StoreError> {
        let found = self.inner.subject_key(subject, project).await?;
        self.learn(project.into(), found.iter().map(|key| &key.wrapped)).await?;
        Ok(found)
    }

    async fn subject_key_by_id(&self, id: KeyId, project: ProjectId) -> Result<WrappedSubjectKey, StoreError> {
        let found = self.inner.subject_key_by_id(id, project).await?;
        self.learn(project.into(), [&found.wrapped]).await?;
        Ok(found)
    }

    async fn erase_subject(
        &self,
        id: KeyId,
        project: ProjectId,
        at: Timestamp,
        audit: &[AuditRecord],
    ) -> Result<Erasure, StoreError> {
        self.inner.erase_subject(id, project, at, audit).await
    }

    async fn end_erased_runs(&self, id: KeyId, project: ProjectId) -> Result<u64, StoreError> {
        self.inner.end_erased_runs(id, project).await
    }

    async fn finish_erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        self.inner.finish_erasure(id, project).await
    }

    fn residue(&self) -> Residue {
        self.inner.residue()
    }

    async fn erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        self.inner.erasure(id, project).await
    }

    async fn last_erasure(&self, subject: LookupHash, project: ProjectId) -> Result<Option<Erasure>, StoreError> {
        self.inner.last_erasure(subject, project).await
    }

    async fn unfinished_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        self.inner.unfinished_erasures(limit).await
    }

    async fn subject_key_page(
        &self,
        after: Option<(ProjectId, KeyId)>,
        limit: u32,
    ) -> Result<Vec<WrappedSubjectKey>, StoreError> {
        let found = self.inner.subject_key_page(after, limit).await?;
        for key in &found {
            self.learn(key.scope, [&key.wrapped]).await?;
        }
        Ok(found)
    }

    async fn replace_subject_key(&self, stored: &WrappedSubjectKey, key: WrappedSubjectKey) -> Result<(), StoreError> {
        self.inner.replace_subject_key(stored, key).await
    }
}

#[async_trait]
impl KeyStore for LearningBackend {
    async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError> {
        self.inner.keys(scope).await
    }

    async fn key_page(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappedKey>, StoreError> {
        self.inner.key_page(after, limit).await
    }

    async fn insert_key(&self, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.insert_key(key, audit).await
    }

    async fn replace_key(&self, stored: &WrappedKey, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.replace_key(stored, key, audit).await
    }

    async fn delete_key(&self, stored: &WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.inner.delete_key(stored, audit).await
    }
}
