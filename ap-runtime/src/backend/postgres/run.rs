//! Runs, their journals and signals.

use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, RunId},
    store::{Entity, LookupHash, Page, PageRequest, Revision, StoreError},
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    PostgresBackend,
    commit::read_signal,
    link::{Failure, Lock, Transaction},
    value::{Columns, Id, signed},
    writer::{Operation, RunKey, audit_bytes},
};
use crate::{
    backend::{can_reopen, check_commit},
    store::{Gate, JournalEntry, RunCommit, RunFilter, RunRecord, RunStore, SignalRecord, Signaled},
};

#[async_trait]
impl RunStore for PostgresBackend {
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_commit(&commit)?;
        self.writer.commit(commit, audit).await
    }

    async fn reopen(
        &self,
        id: RunId,
        project: ProjectId,
        entry: JournalEntry,
        used: &[LookupHash],
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write(Reopen { key: (project, id), entry, used: used.to_vec(), audit: audit.to_vec() }).await
    }

    async fn signal(&self, signal: SignalRecord, audit: &[AuditRecord]) -> Result<Signaled, StoreError> {
        self.writer.write(Deliver { signal, audit: audit.to_vec() }).await
    }

    async fn signals(&self, run: RunId, project: ProjectId) -> Result<Vec<SignalRecord>, StoreError> {
        let query = sqlx::query(SIGNALS).bind(Id::from(project)).bind(Id::from(run));
        self.rows(query, read_signal).await
    }

    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError> {
        let query = sqlx::query(RUN).bind(Id::from(project)).bind(Id::from(id));
        self.row(query, read_run).await?.ok_or(StoreError::NotFound { entity: Entity::Run })
    }

    async fn runs(
        &self,
        filter: RunFilter,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        // A text for each, so that each is planned by itself.
        let text = match (filter.parent, filter.flow, filter.live) {
            (Some(_), _, _) => RUNS_OF_PARENT,
            (None, _, true) => LIVE_RUNS,
            (None, Some(_), false) => RUNS_OF_FLOW,
            (None, None, false) => RUNS,
        };
        let query = sqlx::query(text)
            .bind(Id::from(project))
            .bind(filter.parent.map(Id::from))
            .bind(filter.flow.map(Id::from))
            .bind(filter.live);
        self.page(query, page, read_run, |run| run.id.as_u128()).await
    }

    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError> {
        let query = sqlx::query(JOURNAL).bind(Id::from(project)).bind(Id::from(id));
        let entries = self.rows(query, read_entry).await?;
        if entries.is_empty() {
            // Every run has an entry; so this one is not there, unless it came this very moment.
            self.run(id, project).await?;
        }
        Ok(entries)
    }
}

struct Reopen {
    key: RunKey,
    entry: JournalEntry,
    used: Vec<LookupHash>,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for Reopen {
    type Output = ();

    fn bytes(&self) -> usize {
        self.entry.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn run(&self) -> Option<RunKey> {
        Some(self.key)
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let (project, run) = self.key;
        let gate = transaction.gate_with_limit(self.key).await?;
        let locks: Vec<Lock> = gate.iter().map(|gate| Lock::Gate(project, gate.key)).collect();
        transaction.lock(&locks).await?;
        let stored = transaction.lock_runs([self.key]).await?;
        let stored = stored.get(&self.key).ok_or(StoreError::NotFound { entity: Entity::Run })?;
        let row = sqlx::query("SELECT max(seq) FROM ap_journal WHERE project = $1 AND run = $2")
            .bind(Id::from(project))
            .bind(Id::from(run))
            .fetch_one(&mut *transaction.connection)
            .await?;
        let last: Option<i64> = Columns::of(&row).value()?;
        let next = last.map_or(0, |last| last.saturating_add(1));
        if !can_reopen(stored.status) || signed(self.entry.seq) != next {
            return Err(StoreError::Conflict { entity: Entity::Run, current: Revision(0) }.into());
        }
        let passed = match &gate {
            Some(gate) => transaction.has_room(project, gate, 0).await?,
            None => true,
        };
        sqlx::query(REOPEN)
            .bind(Id::from(project))
            .bind(Id::from(run))
            .bind(passed)
            .bind(!self.used.is_empty())
            .execute(&mut *transaction.connection)
            .await?;
        if !self.used.is_empty() {
            sqlx::query(USE_SLOTS)
                .bind(Id::from(project))
                .bind(Id::from(run))
                .bind(self.used.iter().map(|slot| slot.0.as_slice()).collect::<Vec<_>>())
                .execute(&mut *transaction.connection)
                .await?;
        }
        transaction.insert_journal(&[(self.key, &self.entry)]).await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

impl Transaction<'_> {
    /// The gate of a run. It never changes.
    async fn gate_with_limit(&mut self, (project, run): RunKey) -> sqlx::Result<Option<Gate>> {
        let row =
            sqlx::query("SELECT gate, gate_limit FROM ap_runs WHERE project = $1 AND id = $2 AND gate IS NOT NULL")
                .bind(Id::from(project))
                .bind(Id::from(run))
                .fetch_optional(&mut *self.connection)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let mut columns = Columns::of(&row);
        Ok(Some(Gate { key: columns.hash()?, limit: columns.small()?, skip: false }))
    }
}

struct Deliver {
    signal: SignalRecord,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for Deliver {
    type Output = Signaled;

    fn bytes(&self) -> usize {
        self.signal.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn run(&self) -> Option<RunKey> {
        Some((self.signal.project, self.signal.run))
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Signaled, Failure> {
        let key = (self.signal.project, self.signal.run);
        let stored = transaction.lock_runs([key]).await?;
        let signaled = transaction.deliver(&self.signal, stored.get(&key)).await?;
        if signaled == Signaled::Delivered {
            transaction.insert_audit(&self.audit).await?;
        }
        Ok(signaled)
    }
}

fn read_run(row: &PgRow) -> sqlx::Result<RunRecord> {
    let mut columns = Columns::of(row);
    Ok(RunRecord {
        id: columns.id()?,
        project: columns.id()?,
        flow: columns.id()?,
        version: columns.id()?,
        parent: columns.maybe_id()?,
        status: columns.status()?,
        created: columns.time()?,
        finished: columns.maybe_time()?,
        subject: columns.maybe_id()?,
    })
}

fn read_entry(row: &PgRow) -> sqlx::Result<JournalEntry> {
    let mut columns = Columns::of(row);
    Ok(JournalEntry { seq: columns.count()?, sealed: columns.sealed()? })
}

const SIGNALS: &str = "SELECT id, project, run, slot, at, sealed FROM ap_signals \
    WHERE project = $1 AND run = $2 AND NOT taken ORDER BY id";
const RUN: &str = "SELECT id, project, flow, version, parent, status, created, finished, subject FROM ap_runs \
    WHERE project = $1 AND id = $2";
const RUNS: &str = "SELECT id, project, flow, version, parent, status, created, finished, subject FROM ap_runs \
    WHERE project = $1 AND ($2::uuid IS NULL OR parent = $2) AND ($3::uuid IS NULL OR flow = $3) \
    AND (NOT $4::boolean OR finished IS NULL) AND id >= $5 ORDER BY id LIMIT $6";
const RUNS_OF_FLOW: &str = "SELECT id, project, flow, version, parent, status, created, finished, subject FROM ap_runs \
    WHERE project = $1 AND ($2::uuid IS NULL OR parent = $2) AND flow = $3 \
    AND (NOT $4::boolean OR finished IS NULL) AND id >= $5 ORDER BY id LIMIT $6";
const RUNS_OF_PARENT: &str = "SELECT id, project, flow, version, parent, status, created, finished, subject FROM ap_runs \
    WHERE project = $1 AND parent = $2 AND ($3::uuid IS NULL OR flow = $3) \
    AND (NOT $4::boolean OR finished IS NULL) AND id >= $5 ORDER BY id LIMIT $6";
const LIVE_RUNS: &str = "SELECT id, project, flow, version, parent, status, created, finished, subject FROM ap_runs \
    WHERE project = $1 AND ($2::uuid IS NULL OR parent = $2) AND ($3::uuid IS NULL OR flow = $3) \
    AND ($4::boolean AND finished IS NULL) AND id >= $5 ORDER BY id LIMIT $6";
const JOURNAL: &str = "SELECT seq, sealed FROM ap_journal WHERE project = $1 AND run = $2 ORDER BY seq";
const REOPEN: &str = "UPDATE ap_runs SET status = 'QUEUED', finished = NULL, lease = NULL, due = NULL, ready = $3, \
    passed = $3, slots = $4 WHERE project = $1 AND id = $2";
/// Of a signal that was taken nothing but the slot is looked at.
const USE_SLOTS: &str = "INSERT INTO ap_signals (project, run, slot, id, at, taken, sealed) \
    SELECT DISTINCT $1::uuid, $2::uuid, slot, $2::uuid, 0, true, ''::bytea FROM unnest($3::bytea[]) AS used (slot)";
