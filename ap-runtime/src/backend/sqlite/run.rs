//! Runs, their journals and their signals.

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, KeyId, ProjectId, RunId, SignalId},
    run::RunStatus,
    store::{Entity, LookupHash, Page, PageRequest, Revision, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use rusqlite::params;

use super::{
    SqliteBackend,
    commit::Commit,
    connect, gate,
    project::{append, audit_bytes},
    queue,
    row::{Columns, decode, uint},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{can_reopen, check_commit},
    store::{JournalEntry, RunCommit, RunFilter, RunRecord, RunStore, SignalRecord, Signaled},
};

#[async_trait]
impl RunStore for SqliteBackend {
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_commit(&commit)?;
        self.writer.write(Commit { commit, audit: audit.to_vec() }).await
    }

    async fn reopen(
        &self,
        id: RunId,
        project: ProjectId,
        entry: JournalEntry,
        used: &[LookupHash],
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write(Reopen { id, project, entry, used: used.to_vec(), audit: audit.to_vec() }).await
    }

    async fn signal(&self, signal: SignalRecord, audit: &[AuditRecord]) -> Result<Signaled, StoreError> {
        self.writer.write(Signal { signal, audit: audit.to_vec() }).await
    }

    async fn signals(&self, run: RunId, project: ProjectId) -> Result<Vec<SignalRecord>, StoreError> {
        let sql = "SELECT id, slot, at, sealed FROM ap_signals WHERE project = ? AND run = ? ORDER BY id";
        let read = move |columns: &mut Columns<'_>| {
            Ok(SignalRecord {
                id: columns.id(SignalId::from_slice)?,
                project,
                run,
                slot: columns.hash()?,
                at: columns.time()?,
                sealed: columns.sealed()?,
            })
        };
        self.readers.read(move |open| connect::rows(open, sql, [project.as_bytes(), run.as_bytes()], read)).await
    }

    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError> {
        let sql = "SELECT id, project, flow, version, parent, status, created, finished, subject FROM ap_runs \
            WHERE project = ? AND id = ?";
        let read = move |open: &_| connect::row(open, sql, [project.as_bytes(), id.as_bytes()], read_run);
        self.readers.read(read).await?.ok_or(StoreError::NotFound { entity: Entity::Run })
    }

    async fn runs(
        &self,
        filter: RunFilter,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        let mut of = vec![project.as_bytes().to_vec()];
        of.extend(filter.parent.map(|parent| parent.as_bytes().to_vec()));
        of.extend(filter.flow.map(|flow| flow.as_bytes().to_vec()));
        self.page(listing(&filter), of, page, read_run, |run| run.id.as_u128()).await
    }

    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError> {
        let read = move |open: &_| connect::rows(open, JOURNAL, [project.as_bytes(), id.as_bytes()], read_entry);
        let rows = self.readers.read(read).await?;
        if rows.is_empty() {
            return Err(StoreError::NotFound { entity: Entity::Run });
        }
        Ok(rows.into_iter().flatten().collect())
    }
}

/// A journal: one statement, hence one state of the database. A run without entries is one row without a sequence number.
pub(super) const JOURNAL: &str = "SELECT entry.seq, entry.sealed FROM ap_runs AS run \
    LEFT JOIN ap_journal AS entry ON entry.run = run.number WHERE run.project = ? AND run.id = ? ORDER BY entry.seq";
pub(super) const APPEND_ENTRY: &str = "INSERT INTO ap_journal (run, seq, sealed) VALUES (?, ?, ?)";
pub(super) const FORGET_SLOTS: &str = "DELETE FROM ap_slots WHERE project = ? AND run = ?";
/// All live runs of a project: of each flow as many as are asked for, and of those the first. No index has them in the order
/// of their ids, because every run would write to it.
pub(super) const LIVE: &str = "SELECT run.id, run.project, run.flow, run.version, run.parent, run.status, run.created, \
    run.finished, run.subject FROM ap_flows AS owner CROSS JOIN ap_runs AS run WHERE owner.project = ?1 AND run.number IN (\
    SELECT number FROM ap_runs INDEXED BY ap_runs_live WHERE project = ?1 AND flow = owner.id AND finished IS NULL AND id > ?2 \
    ORDER BY id LIMIT ?3) ORDER BY run.id LIMIT ?3";

/// The listing that a filter asks for: its arguments are the project, the parent and the flow, as far as they are asked for,
/// the id to start behind and the number of rows.
pub(super) const fn listing(filter: &RunFilter) -> &'static str {
    macro_rules! of {
        ($index:literal, $condition:literal) => {
            concat!(
                "SELECT id, project, flow, version, parent, status, created, finished, subject FROM ap_runs ",
                $index,
                " WHERE project = ?1 ",
                $condition
            )
        };
    }
    macro_rules! listing {
        ($index:literal, $condition:literal) => {
            concat!(of!($index, $condition), " AND id > ? ORDER BY id LIMIT ?")
        };
    }
    // By name: the key of the table starts with the project too, and to SQLite that looks as good.
    match (filter.parent.is_some(), filter.flow.is_some(), filter.live) {
        (false, false, false) => listing!("", ""),
        (false, false, true) => LIVE,
        (false, true, false) => concat!(
            of!("INDEXED BY ap_runs_live", "AND flow = ?2 AND finished IS NULL AND id > ?3"),
            " UNION ALL ",
            of!("INDEXED BY ap_runs_ended", "AND flow = ?2 AND finished IS NOT NULL AND id > ?3"),
            " ORDER BY id LIMIT ?4"
        ),
        (false, true, true) => listing!("INDEXED BY ap_runs_live", "AND flow = ? AND finished IS NULL"),
        (true, false, false) => listing!("INDEXED BY ap_runs_parent", "AND parent = ?"),
        (true, false, true) => listing!("INDEXED BY ap_runs_parent", "AND parent = ? AND finished IS NULL"),
        (true, true, false) => listing!("INDEXED BY ap_runs_parent", "AND parent = ? AND flow = ?"),
        (true, true, true) => {
            listing!("INDEXED BY ap_runs_parent", "AND parent = ? AND flow = ? AND finished IS NULL")
        }
    }
}

struct Reopen {
    id: RunId,
    project: ProjectId,
    entry: JournalEntry,
    used: Vec<LookupHash>,
    audit: Vec<AuditRecord>,
}

impl Operation for Reopen {
    type Output = ();

    fn bytes(&self) -> usize {
        entry_bytes(std::slice::from_ref(&self.entry)) + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let key = [self.project.as_bytes(), self.id.as_bytes()];
        let stored = transaction.row(
            "SELECT number, status, gate, gate_limit, \
             (SELECT max(seq) FROM ap_journal AS entry WHERE entry.run = run.number) \
             FROM ap_runs AS run WHERE project = ? AND id = ?",
            key,
            |columns| {
                let (number, status) = (columns.int()?, columns.text()?.parse::<RunStatus>().map_err(decode)?);
                let gate = (columns.maybe_hash()?, columns.get::<Option<u32>>()?);
                Ok((number, status, gate, columns.get::<Option<i64>>()?))
            },
        )?;
        let (number, status, (gate, limit), last) = stored.ok_or(StoreError::NotFound { entity: Entity::Run })?;
        if !can_reopen(status) || uint(self.entry.seq)? != last.map_or(0, |last| last.saturating_add(1)) {
            return Err(StoreError::Conflict { entity: Entity::Run, current: Revision(0) }.into());
        }
        let passed = match gate {
            Some(key) => {
                let gate = crate::store::Gate { key, limit: limit.unwrap_or(1), skip: false };
                gate::has_room(transaction, self.project, &gate, 0)?
            }
            None => true,
        };
        transaction.run(
            "UPDATE ap_runs SET status = 'QUEUED', finished = NULL, ready = ?, passed = ? WHERE project = ? AND id = ?",
            params![passed, passed, self.project.as_bytes(), self.id.as_bytes()],
        )?;
        for slot in &self.used {
            use_slot(transaction, (self.project, self.id), slot)?;
        }
        append_entry(transaction, number, &self.entry)?;
        append(transaction, &self.audit)
    }
}

struct Signal {
    signal: SignalRecord,
    audit: Vec<AuditRecord>,
}

impl Operation for Signal {
    type Output = Signaled;

    fn bytes(&self) -> usize {
        self.signal.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Signaled, Failure> {
        let signaled = deliver(transaction, &self.signal)?;
        if signaled == Signaled::Delivered {
            append(transaction, &self.audit)?;
        }
        Ok(signaled)
    }
}

/// Keeps a signal, if its run is there and its slot is free, and makes the run claimable if it is paused.
pub(super) fn deliver(transaction: &Transaction<'_>, signal: &SignalRecord) -> rusqlite::Result<Signaled> {
    let SignalRecord { id, project, run, slot, at, sealed } = signal;
    let paused = transaction.row(
        "SELECT status = 'PAUSED' FROM ap_runs WHERE project = ? AND id = ? AND finished IS NULL",
        [project.as_bytes(), run.as_bytes()],
        |columns| columns.flag(),
    )?;
    let Some(paused) = paused else { return Ok(Signaled::Over) };
    if !use_slot(transaction, (*project, *run), slot)? {
        return Ok(Signaled::Used);
    }
    transaction.run(
        "INSERT INTO ap_signals (project, run, id, slot, at, sealed) VALUES (?, ?, ?, ?, ?, ?)",
        params![project.as_bytes(), run.as_bytes(), id.as_bytes(), slot.0, at.as_micros(), sealed.as_bytes().as_ref()],
    )?;
    if paused {
        transaction.run(
            "UPDATE ap_runs SET ready = 1, due = NULL WHERE project = ? AND id = ?",
            [project.as_bytes(), run.as_bytes()],
        )?;
    }
    Ok(Signaled::Delivered)
}

/// Marks a slot of a run as used; `false` if it was before.
fn use_slot(
    transaction: &Transaction<'_>,
    (project, run): (ProjectId, RunId),
    slot: &LookupHash,
) -> rusqlite::Result<bool> {
    let new = transaction.run(
        "INSERT INTO ap_slots (project, run, slot) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        params![project.as_bytes(), run.as_bytes(), slot.0],
    )?;
    Ok(new > 0)
}

/// Whether signals wait for a run to take them.
pub(super) fn is_signaled(transaction: &Transaction<'_>, project: ProjectId, run: RunId) -> rusqlite::Result<bool> {
    transaction
        .exists("SELECT 1 FROM ap_signals WHERE project = ? AND run = ? LIMIT 1", [project.as_bytes(), run.as_bytes()])
}

/// Ends a run that has not ended; returns the gate it left, whose next runs the caller lets pass.
pub(super) fn end_run(
    transaction: &Transaction<'_>,
    project: ProjectId,
    run: RunId,
    status: RunStatus,
    at: Timestamp,
) -> rusqlite::Result<Option<LookupHash>> {
    let gate = transaction.row(
        "UPDATE ap_runs SET status = ?, finished = ?, lease = NULL, ready = 0, due = NULL \
         WHERE project = ? AND id = ? AND finished IS NULL RETURNING gate",
        params![status.as_str(), at.as_micros(), project.as_bytes(), run.as_bytes()],
        |columns| columns.maybe_hash(),
    )?;
    forget(transaction, project, run)?;
    Ok(gate.flatten())
}

/// Forgets the signals of a run that has ended and gives back the jobs it held.
pub(super) fn forget(transaction: &Transaction<'_>, project: ProjectId, run: RunId) -> rusqlite::Result<()> {
    let key = [project.as_bytes(), run.as_bytes()];
    if transaction.run(FORGET_SLOTS, key)? > 0 {
        transaction.run("DELETE FROM ap_signals WHERE project = ? AND run = ?", key)?;
    }
    queue::give_back(transaction, project, run)
}

/// Appends an entry to the journal of the run with this number; one whose sequence number is taken fails the transaction.
pub(super) fn append_entry(transaction: &Transaction<'_>, number: i64, entry: &JournalEntry) -> rusqlite::Result<()> {
    transaction.run(APPEND_ENTRY, params![number, uint(entry.seq)?, entry.sealed.as_bytes().as_ref()])?;
    Ok(())
}

/// Payload of journal entries, in bytes.
pub(super) fn entry_bytes(entries: &[JournalEntry]) -> usize {
    entries.iter().map(|entry| entry.sealed.as_bytes().len() + ROW_BYTES).sum()
}

fn read_run(columns: &mut Columns<'_>) -> rusqlite::Result<RunRecord> {
    Ok(RunRecord {
        id: columns.id(RunId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        flow: columns.id(FlowId::from_slice)?,
        version: columns.id(FlowVersionId::from_slice)?,
        parent: columns.maybe_id(RunId::from_slice)?,
        status: columns.text()?.parse::<RunStatus>().map_err(decode)?,
        created: columns.time()?,
        finished: columns.maybe_time()?,
        subject: columns.maybe_id(KeyId::from_slice)?,
    })
}

fn read_entry(columns: &mut Columns<'_>) -> rusqlite::Result<Option<JournalEntry>> {
    let Some(seq) = columns.get::<Option<i64>>()? else { return Ok(None) };
    Ok(Some(JournalEntry { seq: u64::try_from(seq).map_err(decode)?, sealed: columns.sealed()? }))
}

/// What a row takes beside its payload, roughly.
const ROW_BYTES: usize = 100;
