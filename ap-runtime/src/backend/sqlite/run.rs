//! Runs and their journals.

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId, RunId},
    run::RunStatus,
    store::{Entity, Page, PageRequest, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;

use super::{
    SqliteBackend,
    error::store_error,
    project::audit_bytes,
    script::{Columns, Script, decode},
    writer::{Failure, Operation, Shape, Transaction},
};
use crate::{
    backend::check_commit,
    store::{JournalEntry, Lease, RunChange, RunCommit, RunRecord, RunStore},
};

#[async_trait]
impl RunStore for SqliteBackend {
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_commit(&commit)?;
        self.writer.write(Commit { commit, audit: audit.to_vec() }).await
    }

    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError> {
        let mut script = Script::new(
            "SELECT id, project, flow, version, status, created, finished FROM ap_runs WHERE project = ? AND id = ?",
        );
        script.bytes(project.as_bytes()).bytes(id.as_bytes());
        let row = self.row(script).await?.ok_or(StoreError::NotFound { entity: Entity::Run })?;
        read_run(&row).map_err(store_error)
    }

    async fn runs(
        &self,
        filter: crate::store::RunFilter,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        let script = match filter.flow {
            None => {
                let mut script = Script::new(
                    "SELECT id, project, flow, version, status, created, finished FROM ap_runs \
                     WHERE project = ? AND id > ? ORDER BY id LIMIT ?",
                );
                script.bytes(project.as_bytes());
                script
            }
            Some(flow) => {
                let mut script = Script::new(
                    "SELECT id, project, flow, version, status, created, finished FROM ap_runs \
                     WHERE project = ? AND flow = ? AND id > ? ORDER BY id LIMIT ?",
                );
                script.bytes(project.as_bytes()).bytes(flow.as_bytes());
                script
            }
        };
        self.page(script, page, read_run, |run| run.id.as_u128()).await
    }

    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError> {
        // One statement, hence one state of the database: a run without entries is one row without a sequence number.
        let mut script = Script::new(
            "SELECT entry.seq, entry.sealed FROM ap_runs AS run \
             LEFT JOIN ap_journal AS entry ON entry.project = run.project AND entry.run = run.id \
             WHERE run.project = ? AND run.id = ? ORDER BY entry.seq",
        );
        script.bytes(project.as_bytes()).bytes(id.as_bytes());
        let rows = self.rows(script).await?;
        if rows.is_empty() {
            return Err(StoreError::NotFound { entity: Entity::Run });
        }
        rows.iter().filter_map(|row| read_entry(row).transpose()).collect::<sqlx::Result<_>>().map_err(store_error)
    }

    async fn reopen(
        &self,
        _id: RunId,
        _project: ProjectId,
        _entry: JournalEntry,
        _audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn signal(
        &self,
        _signal: crate::store::SignalRecord,
        _audit: &[AuditRecord],
    ) -> Result<crate::store::Signaled, StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn signals(&self, _run: RunId, _project: ProjectId) -> Result<Vec<crate::store::SignalRecord>, StoreError> {
        Ok(Vec::new())
    }
}

struct Commit {
    commit: RunCommit,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for Commit {
    type Output = ();

    fn bytes(&self) -> usize {
        entry_bytes(&self.commit.entries) + audit_bytes(&self.audit)
    }

    fn shape(&self) -> Option<Shape> {
        let kind = match self.commit.change {
            RunChange::End { .. } => "commit-end",
            RunChange::Park { .. } => "commit-park",
            RunChange::Release => "commit-release",
            RunChange::Stay => "commit-stay",
        };
        Some(Shape { kind, entries: self.commit.entries.len(), audit: self.audit.len() })
    }

    /// The first statement changes the run if the lease is held, and thereby lets the others happen.
    fn write(&self, script: &mut Script, _now: Timestamp) {
        let RunCommit { lease, entries, change, .. } = &self.commit;
        match change {
            RunChange::End { status, at } => {
                script
                    .then("UPDATE ap_runs SET status = ?, finished = ?, lease = NULL")
                    .bind(status.as_str())
                    .time(*at);
            }
            RunChange::Park { .. } | RunChange::Release => {
                script.then("UPDATE ap_runs SET status = 'QUEUED', lease = NULL");
            }
            RunChange::Stay => {
                script.then("UPDATE ap_runs SET epoch = epoch");
            }
        }
        script.with(HELD);
        bind_lease(script, lease);
        for entry in entries {
            script.then("INSERT INTO ap_journal (project, run, seq, sealed) SELECT ?, ?, ?, ? WHERE changes() = 1");
            script.bytes(lease.project.as_bytes()).bytes(lease.run.as_bytes()).uint(entry.seq).sealed(&entry.sealed);
        }
        script.audit_after_change(&self.audit);
    }

    async fn finish(&self, _transaction: &mut Transaction<'_>, changes: &[u64]) -> Result<(), Failure> {
        if changes.first() == Some(&1) { Ok(()) } else { Err(StoreError::Fenced.into()) }
    }
}

/// Binds what [`HELD`] asks for.
pub(super) fn bind_lease(script: &mut Script, lease: &Lease) {
    script.bytes(lease.project.as_bytes()).bytes(lease.run.as_bytes()).uint(lease.epoch);
}

/// Payload of journal entries, in bytes.
pub(super) fn entry_bytes(entries: &[JournalEntry]) -> usize {
    entries.iter().map(|entry| entry.sealed.as_bytes().len() + ROW_BYTES).sum()
}

/// Restricts an update of `ap_runs` to a run held under a lease. An expired lease is held until somebody claims the run.
pub(super) const HELD: &str = " WHERE project = ? AND id = ? AND epoch = ? AND status = 'RUNNING'";

fn read_run(row: &SqliteRow) -> sqlx::Result<RunRecord> {
    let mut columns = Columns::of(row);
    Ok(RunRecord {
        id: columns.id(RunId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        flow: columns.id(FlowId::from_slice)?,
        version: columns.id(FlowVersionId::from_slice)?,
        parent: None,
        status: columns.text()?.parse::<RunStatus>().map_err(decode)?,
        created: columns.time()?,
        finished: columns.maybe_int()?.map(Timestamp::from_micros),
    })
}

fn read_entry(row: &SqliteRow) -> sqlx::Result<Option<JournalEntry>> {
    let mut columns = Columns::of(row);
    let Some(seq) = columns.maybe_int()? else { return Ok(None) };
    Ok(Some(JournalEntry { seq: u64::try_from(seq).map_err(decode)?, sealed: columns.sealed()? }))
}

/// What a row takes beside its payload, roughly.
const ROW_BYTES: usize = 100;
