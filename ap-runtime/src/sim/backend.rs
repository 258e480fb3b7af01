//! [`SimBackend`]: one worker's view of the shared store, through which every fault reaches it.
//!
//! The durability model: each call that may change something is one point. What the store acknowledged survives the death
//! of every worker; what was under way when its worker died happens or does not.

use std::{fmt, sync::Arc, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{AuditId, ConnectionId, FileId, FlowId, FlowVersionId, KeyId, ProjectId, RunId, ValueId, WorkerId},
    scope::Scope,
    store::{LookupHash, Page, PageRequest, Precondition, Revision, StoreError},
    time::Timestamp,
};
use ap_crypto::{
    keyring::{KeyStore, WrappedKey},
    subject::WrappedSubjectKey,
};
use async_trait::async_trait;

use super::{
    history::{Call, Committed, NewRun, Observed, answer},
    life::Life,
    shared::Shared,
};
use crate::{
    clock::Clock,
    store::{
        Accept, Accepted, AuditStore, Beat, CellKey, CellStore, CellTable, ClaimRequest, Claimed, ClaimedTrigger,
        ConnectionRecord, ConnectionStore, Erasure, FileRecord, FileStore, FlowRecord, FlowStore, FlowVersionRecord,
        FlowWrite, HeldJobs, JobRequest, JournalEntry, KeyValueStore, Lease, ProjectRecord, ProjectShare, ProjectStore,
        QueueCounts, QueueStore, ResealedCell, Residue, Route, RunCommit, RunFilter, RunRecord, RunStore, SealedCell,
        SharedConnection, SignalRecord, Signaled, SubjectStore, SystemStore, TriggerFire, ValueChange, ValueRecord,
        ValueScope, ValueUsage, WorkerRecord,
    },
};

/// One worker's view of the store.
pub(super) struct SimBackend {
    pub(super) shared: Arc<Shared>,
    pub(super) life: Arc<Life>,
    pub(super) store_clock: Arc<dyn Clock>,
}

impl SimBackend {
    fn called(&self, call: Call) {
        let (worker, incarnation) = (self.life.worker, self.life.incarnation);
        self.shared.record(Observed::Called { worker, incarnation, call: Box::new(call) });
    }
}

impl fmt::Debug for SimBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimBackend").field("worker", &self.life.worker).finish_non_exhaustive()
    }
}

fn ids(audit: &[AuditRecord]) -> Vec<AuditId> {
    audit.iter().map(|record| record.id).collect()
}

/// A call that changes nothing.
macro_rules! read {
    ($self:ident, $call:expr) => {{
        $self.shared.read(&$self.life).await?;
        let result = $call.await;
        $self.life.pass().await;
        result
    }};
}

/// A call that may change something: a point. `$observed` says what of it and of its `$result` is written down.
macro_rules! change {
    ($self:ident, $call:expr, |$result:ident| $observed:expr) => {{
        let aftermath = $self.shared.set_out(&$self.life, true).await?;
        let $result = $call.await;
        let observed = $observed;
        $self.called(observed);
        $self.shared.come_back(&$self.life, aftermath).await?;
        $result
    }};
}

/// As `change!`, for calls of which only name, audit records and success matter.
macro_rules! other {
    ($self:ident, $name:literal, $audit:expr, $call:expr) => {{
        let audit = ids($audit);
        $self.shared.store.writing();
        change!($self, $call, |result| Call::Other {
            name: $name,
            audit,
            answer: match &result {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
        })
    }};
}

#[async_trait]
impl ProjectStore for SimBackend {
    async fn create_project(
        &self,
        project: ProjectRecord,
        key: WrappedKey,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        other!(self, "create project", audit, self.shared.store.inner.create_project(project, key, audit))
    }

    async fn project(&self, id: ProjectId) -> Result<ProjectRecord, StoreError> {
        read!(self, self.shared.store.inner.project(id))
    }

    async fn set_share(&self, id: ProjectId, share: ProjectShare, audit: &[AuditRecord]) -> Result<(), StoreError> {
        other!(self, "set share", audit, self.shared.store.inner.set_share(id, share, audit))
    }
}

#[async_trait]
impl FlowStore for SimBackend {
    async fn write_flow(&self, write: FlowWrite, audit: &[AuditRecord]) -> Result<(), StoreError> {
        other!(self, "write flow", audit, self.shared.store.inner.write_flow(write, audit))
    }

    async fn flow(&self, id: FlowId, project: ProjectId) -> Result<FlowRecord, StoreError> {
        read!(self, self.shared.store.inner.flow(id, project))
    }

    async fn flows(&self, project: ProjectId, page: &PageRequest) -> Result<Page<FlowRecord>, StoreError> {
        read!(self, self.shared.store.inner.flows(project, page))
    }

    async fn flow_version(&self, id: FlowVersionId, project: ProjectId) -> Result<FlowVersionRecord, StoreError> {
        read!(self, self.shared.store.inner.flow_version(id, project))
    }

    async fn flow_versions(
        &self,
        flow: FlowId,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<FlowVersionRecord>, StoreError> {
        read!(self, self.shared.store.inner.flow_versions(flow, project, page))
    }
}

#[async_trait]
impl ConnectionStore for SimBackend {
    async fn write_connection(
        &self,
        connection: ConnectionRecord,
        precondition: Precondition,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.shared.store.look("connection", &connection.sealed);
        let inner = &self.shared.store.inner;
        other!(self, "write connection", audit, inner.write_connection(connection, precondition, audit))
    }

    async fn write_leased_connection(
        &self,
        connection: ConnectionRecord,
        lease: (Revision, u64),
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.shared.store.look("connection", &connection.sealed);
        let inner = &self.shared.store.inner;
        other!(self, "write leased connection", audit, inner.write_leased_connection(connection, lease, audit))
    }

    async fn connection(&self, name: LookupHash, owner: Scope) -> Result<ConnectionRecord, StoreError> {
        read!(self, self.shared.store.inner.connection(name, owner))
    }

    async fn connections(&self, owner: Scope, page: &PageRequest) -> Result<Page<ConnectionRecord>, StoreError> {
        read!(self, self.shared.store.inner.connections(owner, page))
    }

    async fn delete_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let inner = &self.shared.store.inner;
        other!(self, "delete connection", audit, inner.delete_connection(id, owner, revision, audit))
    }

    async fn lease_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        lease: Duration,
    ) -> Result<Option<u64>, StoreError> {
        let inner = &self.shared.store.inner;
        other!(self, "lease connection", &[], inner.lease_connection(id, owner, revision, lease))
    }

    async fn release_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        epoch: u64,
        rest: Duration,
    ) -> Result<(), StoreError> {
        let inner = &self.shared.store.inner;
        other!(self, "release connection", &[], inner.release_connection(id, owner, epoch, rest))
    }

    async fn share_connection(&self, shared: SharedConnection, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.shared.store.look("shared connection", &shared.sealed);
        other!(self, "share connection", audit, self.shared.store.inner.share_connection(shared, audit))
    }

    async fn unshare_connection(
        &self,
        connection: ConnectionId,
        project: ProjectId,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let inner = &self.shared.store.inner;
        other!(self, "unshare connection", audit, inner.unshare_connection(connection, project, audit))
    }

    async fn shared_connection(
        &self,
        name: LookupHash,
        project: ProjectId,
    ) -> Result<(SharedConnection, ConnectionRecord), StoreError> {
        read!(self, self.shared.store.inner.shared_connection(name, project))
    }

    async fn shared_connections(
        &self,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<(SharedConnection, ConnectionRecord)>, StoreError> {
        read!(self, self.shared.store.inner.shared_connections(project, page))
    }
}

#[async_trait]
impl RunStore for SimBackend {
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        let (observed, audit_ids, at) = (Committed::of(&commit), ids(audit), self.store_clock.now());
        change!(self, self.shared.store.commit(commit, audit), |result| Call::Commit {
            commit: observed,
            at,
            audit: audit_ids,
            answer: answer(&result),
        })
    }

    async fn reopen(
        &self,
        id: RunId,
        project: ProjectId,
        entry: JournalEntry,
        used: &[LookupHash],
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let audit_ids = ids(audit);
        change!(self, self.shared.store.inner.reopen(id, project, entry, used, audit), |result| Call::Reopen {
            run: id,
            audit: audit_ids,
            answer: answer(&result),
        })
    }

    async fn signal(&self, signal: SignalRecord, audit: &[AuditRecord]) -> Result<Signaled, StoreError> {
        let (id, run, slot, audit_ids) = (signal.id, signal.run, signal.slot, ids(audit));
        change!(self, self.shared.store.signal(signal, audit), |result| Call::Signal {
            id,
            run,
            slot,
            audit: audit_ids,
            answer: answer(&result),
        })
    }

    async fn signals(&self, run: RunId, project: ProjectId) -> Result<Vec<SignalRecord>, StoreError> {
        read!(self, self.shared.store.inner.signals(run, project))
    }

    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError> {
        read!(self, self.shared.store.inner.run(id, project))
    }

    async fn runs(
        &self,
        filter: RunFilter,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        read!(self, self.shared.store.inner.runs(filter, project, page))
    }

    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError> {
        read!(self, self.shared.store.journal(id, project))
    }
}

#[async_trait]
impl QueueStore for SimBackend {
    async fn take_jobs(&self, request: JobRequest) -> Result<HeldJobs, StoreError> {
        let at = self.store_clock.now();
        change!(self, self.shared.store.take_jobs(request), |result| Call::TakeJobs {
            request,
            at,
            answer: match &result {
                Ok(held) => Ok(held.jobs.iter().map(|job| job.id).collect()),
                Err(error) => Err(error.to_string()),
            },
        })
    }

    async fn queue_counts(&self, queue: LookupHash, project: ProjectId) -> Result<QueueCounts, StoreError> {
        read!(self, self.shared.store.inner.queue_counts(queue, project))
    }

    async fn redrive(
        &self,
        queue: LookupHash,
        project: ProjectId,
        limit: u32,
        audit: &[AuditRecord],
    ) -> Result<u64, StoreError> {
        other!(self, "redrive", audit, self.shared.store.inner.redrive(queue, project, limit, audit))
    }
}

#[async_trait]
impl FileStore for SimBackend {
    async fn write_file(&self, file: FileRecord, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.shared.store.look("file", &file.sealed);
        other!(self, "write file", audit, self.shared.store.inner.write_file(file, audit))
    }

    async fn file(&self, id: FileId, project: ProjectId) -> Result<FileRecord, StoreError> {
        read!(self, self.shared.store.inner.file(id, project))
    }

    async fn delete_file(&self, id: FileId, project: ProjectId, audit: &[AuditRecord]) -> Result<(), StoreError> {
        other!(self, "delete file", audit, self.shared.store.inner.delete_file(id, project, audit))
    }
}

#[async_trait]
impl KeyValueStore for SimBackend {
    async fn change_values(
        &self,
        changes: &[ValueChange],
        project: ProjectId,
        limit: ValueUsage,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.shared.store.look_at_values(changes);
        other!(self, "change values", audit, self.shared.store.inner.change_values(changes, project, limit, audit))
    }

    async fn value(&self, id: ValueId, project: ProjectId) -> Result<ValueRecord, StoreError> {
        read!(self, self.shared.store.inner.value(id, project))
    }

    async fn values(
        &self,
        scope: ValueScope,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<ValueRecord>, StoreError> {
        read!(self, self.shared.store.inner.values(scope, project, page))
    }

    async fn value_usage(&self, project: ProjectId) -> Result<ValueUsage, StoreError> {
        read!(self, self.shared.store.inner.value_usage(project))
    }
}

#[async_trait]
impl AuditStore for SimBackend {
    async fn append_audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        other!(self, "append audit", records, self.shared.store.inner.append_audit(records))
    }

    async fn audit(&self, scope: Scope, page: &PageRequest) -> Result<Page<AuditRecord>, StoreError> {
        read!(self, self.shared.store.inner.audit(scope, page))
    }
}

#[async_trait]
impl KeyStore for SimBackend {
    async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError> {
        read!(self, self.shared.store.inner.keys(scope))
    }

    async fn key_page(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappedKey>, StoreError> {
        read!(self, self.shared.store.inner.key_page(after, limit))
    }

    async fn insert_key(&self, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        other!(self, "insert key", audit, self.shared.store.inner.insert_key(key, audit))
    }

    async fn replace_key(&self, stored: &WrappedKey, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        other!(self, "replace key", audit, self.shared.store.inner.replace_key(stored, key, audit))
    }

    async fn delete_key(&self, stored: &WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        other!(self, "delete key", audit, self.shared.store.inner.delete_key(stored, audit))
    }
}

#[async_trait]
impl CellStore for SimBackend {
    async fn count_cells(&self, table: CellTable, current: KeyId, scope: Scope) -> Result<u64, StoreError> {
        read!(self, self.shared.store.inner.count_cells(table, current, scope))
    }

    async fn cells(
        &self,
        table: CellTable,
        current: KeyId,
        after: Option<CellKey>,
        limit: u32,
        scope: Scope,
    ) -> Result<Vec<SealedCell>, StoreError> {
        read!(self, self.shared.store.inner.cells(table, current, after, limit, scope))
    }

    async fn reseal_cells(&self, cells: &[ResealedCell], scope: Scope) -> Result<u64, StoreError> {
        other!(self, "reseal cells", &[], self.shared.store.inner.reseal_cells(cells, scope))
    }
}

#[async_trait]
impl SubjectStore for SimBackend {
    async fn subject_key(
        &self,
        subject: LookupHash,
        project: ProjectId,
    ) -> Result<Option<WrappedSubjectKey>, StoreError> {
        read!(self, self.shared.store.inner.subject_key(subject, project))
    }

    async fn subject_key_by_id(&self, id: KeyId, project: ProjectId) -> Result<WrappedSubjectKey, StoreError> {
        read!(self, self.shared.store.inner.subject_key_by_id(id, project))
    }

    async fn erase_subject(
        &self,
        id: KeyId,
        project: ProjectId,
        at: Timestamp,
        audit: &[AuditRecord],
    ) -> Result<Erasure, StoreError> {
        other!(self, "erase subject", audit, self.shared.store.inner.erase_subject(id, project, at, audit))
    }

    async fn end_erased_runs(&self, id: KeyId, project: ProjectId) -> Result<u64, StoreError> {
        other!(self, "end erased runs", &[], self.shared.store.inner.end_erased_runs(id, project))
    }

    async fn finish_erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        other!(self, "finish erasure", &[], self.shared.store.inner.finish_erasure(id, project))
    }

    fn residue(&self) -> Residue {
        self.shared.store.inner.residue()
    }

    async fn erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        read!(self, self.shared.store.inner.erasure(id, project))
    }

    async fn last_erasure(&self, subject: LookupHash, project: ProjectId) -> Result<Option<Erasure>, StoreError> {
        read!(self, self.shared.store.inner.last_erasure(subject, project))
    }

    async fn unfinished_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        read!(self, self.shared.store.inner.unfinished_erasures(limit))
    }

    async fn subject_key_page(
        &self,
        after: Option<(ProjectId, KeyId)>,
        limit: u32,
    ) -> Result<Vec<WrappedSubjectKey>, StoreError> {
        read!(self, self.shared.store.inner.subject_key_page(after, limit))
    }

    async fn replace_subject_key(&self, stored: &WrappedSubjectKey, key: WrappedSubjectKey) -> Result<(), StoreError> {
        other!(self, "replace subject key", &[], self.shared.store.inner.replace_subject_key(stored, key))
    }
}

#[async_trait]
impl SystemStore for SimBackend {
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        let (new, audit_ids) = (NewRun::of(&accept), ids(audit));
        change!(self, self.shared.store.accept(accept, audit), |result| Call::Accept {
            new,
            audit: audit_ids,
            answer: answer(&result),
        })
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        change!(self, self.shared.store.claim(request), |result| Call::Claim {
            at: self.store_clock.now(),
            answer: answer(&result),
        })
    }

    async fn heartbeat(&self, worker: &WorkerRecord, leases: &[Lease], lease: Duration) -> Result<Beat, StoreError> {
        change!(self, self.shared.store.heartbeat(worker, leases, lease), |result| Call::Heartbeat {
            leases: leases.to_vec(),
            answer: answer(&result),
        })
    }

    async fn workers(&self, within: Duration) -> Result<Vec<WorkerRecord>, StoreError> {
        read!(self, self.shared.store.inner.workers(within))
    }

    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError> {
        other!(self, "retire", &[], self.shared.store.inner.retire(worker))
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        read!(self, self.shared.store.inner.next_due())
    }

    async fn claim_triggers(
        &self,
        limit: u32,
        per_project: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedTrigger>, StoreError> {
        change!(self, self.shared.store.claim_triggers(limit, per_project, lease), |result| Call::ClaimTriggers {
            at: self.store_clock.now(),
            answer: match &result {
                Ok(claimed) => Ok(claimed.iter().map(|one| (one.flow, one.epoch, one.due)).collect()),
                Err(error) => Err(error.to_string()),
            },
        })
    }

    async fn fire_trigger(&self, fire: TriggerFire) -> Result<Vec<Accepted>, StoreError> {
        let runs = fire.runs.iter().map(|(accept, _)| NewRun::of(accept)).collect();
        let audit = fire.runs.iter().flat_map(|(_, audit)| ids(audit)).collect();
        let (flow, epoch) = (fire.flow, fire.epoch);
        change!(self, self.shared.store.inner.fire_trigger(fire), |result| Call::FireTrigger {
            flow,
            epoch,
            runs,
            audit,
            answer: answer(&result),
        })
    }

    async fn route(&self, token: LookupHash) -> Result<Option<Route>, StoreError> {
        read!(self, self.shared.store.inner.route(token))
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        other!(self, "sweep", &[], self.shared.store.inner.sweep(limit))
    }

    async fn due_connections(&self, limit: u32) -> Result<Vec<ConnectionRecord>, StoreError> {
        read!(self, self.shared.store.inner.due_connections(limit))
    }
}
