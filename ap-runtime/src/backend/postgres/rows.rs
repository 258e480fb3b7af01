//! Statements over many rows at once: arrays in, one round trip each.

use std::collections::BTreeMap;

use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    id::ProjectId,
    run::RunStatus,
    store::LookupHash,
    time::Timestamp,
};
use sqlx::{
    Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{
    link::{Lock, Transaction},
    value::{Columns, Id, signed, signed_small},
    writer::RunKey,
};
use crate::store::{FileRecord, Gate, JournalEntry, Lease, RunChange, RunRecord};

/// What a write has to know of a stored run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) status: RunStatus,
    pub(super) epoch: u64,
    pub(super) gate: Option<LookupHash>,
    pub(super) passed: bool,
    /// Whether it has signals that no commit has taken.
    pub(super) signaled: bool,
    /// Whether slots of it are used.
    pub(super) slots: bool,
    /// Whether it may hold jobs.
    pub(super) holds: bool,
}

impl Stored {
    /// Whether something else changes when the run ends: its signals, the jobs it holds, who waits at its gate.
    pub(super) const fn has_followers(&self) -> bool {
        self.slots || self.holds || self.gate.is_some()
    }

    /// Whether this lease is the right to write to the run.
    pub(super) fn is_held_under(&self, lease: &Lease) -> bool {
        self.epoch == lease.epoch && self.status == RunStatus::Running
    }
}

/// What a commit does to its run, which is stored like that.
pub(super) type Change = (RunKey, RunChange, Stored);

/// A run to be inserted, with its columns that no record has.
pub(super) struct NewRun<'a> {
    pub(super) run: &'a RunRecord,
    /// Until when it is leased; then it is `RUNNING` with epoch 1.
    pub(super) lease: Option<Timestamp>,
    pub(super) priority: i16,
    pub(super) due: Option<Timestamp>,
    pub(super) gate: Option<Gate>,
    pub(super) passed: bool,
}

impl Transaction<'_> {
    /// Reads runs and keeps everybody else from changing them. They are locked in an order that all share.
    pub(super) async fn lock_runs(
        &mut self,
        keys: impl IntoIterator<Item = RunKey>,
    ) -> sqlx::Result<BTreeMap<RunKey, Stored>> {
        let (projects, runs) = pairs(keys);
        if runs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = sqlx::query(LOCK_RUNS).bind(projects).bind(runs).fetch_all(&mut *self.connection).await?;
        rows.iter().map(read_stored).collect()
    }

    /// Changes runs that were locked, and does what follows from those that end.
    pub(super) async fn change_runs(&mut self, changes: &[Change]) -> sqlx::Result<()> {
        let columns = ChangeColumns::of(changes, self.now);
        if columns.is_empty() {
            return Ok(());
        }
        columns.bind(sqlx::query(CHANGE_RUNS)).execute(&mut *self.connection).await?;
        let ended = changes.iter().filter(|(_, change, _)| matches!(change, RunChange::End { .. }));
        self.follow_ends(ended.map(|(key, _, stored)| (*key, *stored)).collect()).await
    }

    /// Changes runs from whose end nothing follows, and inserts runs, journal entries and audit records: one round trip, for
    /// each costs a process on either side a turn.
    pub(super) async fn write(
        &mut self,
        changes: &[Change],
        new: &[NewRun<'_>],
        entries: &[(RunKey, &JournalEntry)],
        audit: &[&AuditRecord],
    ) -> sqlx::Result<()> {
        let changes = ChangeColumns::of(changes, self.now);
        if changes.is_empty() && new.is_empty() && entries.is_empty() && audit.is_empty() {
            return Ok(());
        }
        let query = changes.bind(sqlx::query(WRITE));
        let query = bind_audit(bind_journal(bind_runs(query, new), entries), audit);
        query.execute(&mut *self.connection).await.map(|_| ())
    }

    /// Forgets the signals of runs that have ended, gives back what jobs they held, and lets the next ones pass their gates.
    pub(super) async fn follow_ends(&mut self, ended: Vec<(RunKey, Stored)>) -> sqlx::Result<()> {
        let (projects, runs) = pairs(ended.iter().filter(|(_, stored)| stored.slots).map(|(key, _)| *key));
        if !runs.is_empty() {
            sqlx::query(FORGET_SIGNALS).bind(projects).bind(runs).execute(&mut *self.connection).await?;
        }
        let (projects, runs) = pairs(ended.iter().filter(|(_, stored)| stored.holds).map(|(key, _)| *key));
        if !runs.is_empty() {
            sqlx::query(GIVE_BACK_JOBS).bind(projects).bind(runs).execute(&mut *self.connection).await?;
        }
        let mut gates: Vec<(ProjectId, LookupHash)> =
            ended.iter().filter_map(|((project, _), stored)| Some((*project, stored.gate?))).collect();
        gates.sort_unstable();
        gates.dedup();
        let locks: Vec<Lock> = gates.iter().map(|(project, key)| Lock::Gate(*project, *key)).collect();
        self.lock(&locks).await?;
        for (project, key) in gates {
            self.promote(project, key).await?;
        }
        Ok(())
    }

    pub(super) async fn insert_runs(&mut self, new: &[NewRun<'_>]) -> sqlx::Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        bind_runs(sqlx::query(INSERT_RUNS), new).execute(&mut *self.connection).await.map(|_| ())
    }

    pub(super) async fn insert_journal(&mut self, entries: &[(RunKey, &JournalEntry)]) -> sqlx::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        bind_journal(sqlx::query(INSERT_JOURNAL), entries).execute(&mut *self.connection).await.map(|_| ())
    }

    pub(super) async fn insert_files<'f>(
        &mut self,
        files: impl IntoIterator<Item = &'f FileRecord>,
    ) -> sqlx::Result<()> {
        let files: Vec<&FileRecord> = files.into_iter().collect();
        if files.is_empty() {
            return Ok(());
        }
        sqlx::query(INSERT_FILES)
            .bind(files.iter().map(|file| Id::from(file.project)).collect::<Vec<_>>())
            .bind(files.iter().map(|file| Id::from(file.id)).collect::<Vec<_>>())
            .bind(files.iter().map(|file| file.run.map(Id::from)).collect::<Vec<_>>())
            .bind(files.iter().map(|file| file.created.as_micros()).collect::<Vec<_>>())
            .bind(files.iter().map(|file| file.sealed.as_bytes().as_ref()).collect::<Vec<&[u8]>>())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }

    pub(super) async fn insert_audit<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a AuditRecord>,
    ) -> sqlx::Result<()> {
        let records: Vec<&AuditRecord> = records.into_iter().collect();
        if records.is_empty() {
            return Ok(());
        }
        bind_audit(sqlx::query(INSERT_AUDIT), &records).execute(&mut *self.connection).await.map(|_| ())
    }
}

/// A statement that arrays are bound to, in the order of their columns.
type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// What becomes of runs, by column.
#[derive(Default)]
struct ChangeColumns {
    projects: Vec<Id>,
    runs: Vec<Id>,
    statuses: Vec<&'static str>,
    finished: Vec<Option<i64>>,
    dues: Vec<Option<i64>>,
    ready: Vec<bool>,
    over: Vec<bool>,
}

impl ChangeColumns {
    fn of(changes: &[Change], now: Timestamp) -> Self {
        let mut columns = Self::default();
        for ((project, run), change, stored) in changes {
            let (status, end, due, at_once) = match *change {
                RunChange::End { status, at } => (status, Some(at), None, false),
                RunChange::Park { due } => {
                    (RunStatus::Paused, None, due, stored.signaled || due.is_some_and(|due| due <= now))
                }
                RunChange::Release => (RunStatus::Queued, None, None, true),
                RunChange::Stay => continue,
            };
            columns.projects.push(Id::from(*project));
            columns.runs.push(Id::from(*run));
            columns.statuses.push(status.as_str());
            columns.finished.push(end.map(Timestamp::as_micros));
            columns.dues.push(due.filter(|_| !at_once).map(Timestamp::as_micros));
            columns.ready.push(at_once);
            columns.over.push(end.is_some());
        }
        columns
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn bind(self, query: Statement<'_>) -> Statement<'_> {
        let query = query.bind(self.projects).bind(self.runs).bind(self.statuses).bind(self.finished);
        query.bind(self.dues).bind(self.ready).bind(self.over)
    }
}

fn bind_runs<'q>(query: Statement<'q>, new: &'q [NewRun<'q>]) -> Statement<'q> {
    let (projects, runs) = pairs(new.iter().map(|new| (new.run.project, new.run.id)));
    let statuses: Vec<&str> = new.iter().map(|new| if new.lease.is_some() { RUNNING } else { QUEUED }).collect();
    let ready = |new: &NewRun<'_>| new.passed && new.due.is_none() && new.lease.is_none();
    query
        .bind(projects)
        .bind(runs)
        .bind(new.iter().map(|new| Id::from(new.run.flow)).collect::<Vec<_>>())
        .bind(new.iter().map(|new| Id::from(new.run.version)).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.run.parent.map(Id::from)).collect::<Vec<_>>())
        .bind(statuses)
        .bind(new.iter().map(|new| new.run.created.as_micros()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.lease.map(Timestamp::as_micros)).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.priority).collect::<Vec<_>>())
        .bind(new.iter().map(ready).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.due.map(Timestamp::as_micros)).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.gate.as_ref().map(|gate| gate.key.0.as_slice())).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.gate.map(|gate| signed_small(gate.limit))).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.passed).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.run.subject.map(Id::from)).collect::<Vec<_>>())
}

fn bind_journal<'q>(query: Statement<'q>, entries: &'q [(RunKey, &'q JournalEntry)]) -> Statement<'q> {
    let (projects, runs) = pairs(entries.iter().map(|(key, _)| *key));
    query
        .bind(projects)
        .bind(runs)
        .bind(entries.iter().map(|(_, entry)| signed(entry.seq)).collect::<Vec<_>>())
        .bind(entries.iter().map(|(_, entry)| entry.sealed.as_bytes().as_ref()).collect::<Vec<&[u8]>>())
}

fn bind_audit<'q>(query: Statement<'q>, records: &'q [&'q AuditRecord]) -> Statement<'q> {
    query
        .bind(records.iter().map(|record| record.scope.to_bytes().to_vec()).collect::<Vec<_>>())
        .bind(records.iter().map(|record| Id::from(record.id)).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.at.as_micros()).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.action.as_str()).collect::<Vec<_>>())
        .bind(records.iter().map(|record| outcome_text(record.outcome)).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.body.as_bytes().as_ref()).collect::<Vec<&[u8]>>())
}

/// How outcomes are spelled in the database.
pub(super) const fn outcome_text(outcome: AuditOutcome) -> &'static str {
    match outcome {
        AuditOutcome::Denied => "DENIED",
        AuditOutcome::Failure => "FAILURE",
        AuditOutcome::Success => "SUCCESS",
    }
}

/// Two arrays of ids.
pub(super) fn pairs(keys: impl IntoIterator<Item = RunKey>) -> (Vec<Id>, Vec<Id>) {
    keys.into_iter().map(|(project, run)| (Id::from(project), Id::from(run))).unzip()
}

fn read_stored(row: &PgRow) -> sqlx::Result<(RunKey, Stored)> {
    let mut columns = Columns::of(row);
    let key = (columns.id()?, columns.id()?);
    let (status, epoch) = (columns.status()?, columns.count()?);
    let gate = columns.value::<Option<&[u8]>>()?.and_then(|bytes| bytes.try_into().ok()).map(LookupHash);
    let (passed, signaled) = (columns.value()?, columns.value()?);
    Ok((key, Stored { status, epoch, gate, passed, signaled, slots: columns.value()?, holds: columns.value()? }))
}

const QUEUED: &str = RunStatus::Queued.as_str();
const RUNNING: &str = RunStatus::Running.as_str();
const LOCK_RUNS: &str = "SELECT project, id, status, epoch, gate, passed, signaled, slots, holds FROM ap_runs \
    WHERE (project, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[])) \
    ORDER BY project, id FOR NO KEY UPDATE";
macro_rules! change_runs {
    ($a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal) => {
        concat!(
            "UPDATE ap_runs AS run SET status = new.status, finished = new.finished, lease = NULL, due = new.due, \
             ready = new.ready, signaled = run.signaled AND NOT new.over, slots = run.slots AND NOT new.over, \
             holds = run.holds AND NOT new.over FROM unnest($",
            $a,
            "::uuid[], $",
            $b,
            "::uuid[], $",
            $c,
            "::text[], $",
            $d,
            "::bigint[], $",
            $e,
            "::bigint[], $",
            $f,
            "::boolean[], $",
            $g,
            "::boolean[]) AS new (project, id, status, finished, due, ready, over) \
             WHERE run.project = new.project AND run.id = new.id"
        )
    };
}
macro_rules! insert_runs {
    ($a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal
     $h:literal $i:literal $j:literal $k:literal $l:literal $m:literal $n:literal $o:literal) => {
        concat!(
            "INSERT INTO ap_runs (project, id, flow, version, parent, status, created, epoch, lease, \
                 priority, ready, due, gate, gate_limit, passed, subject) \
             SELECT project, id, flow, version, parent, status, created, CASE WHEN lease IS NULL THEN 0 ELSE 1 END, lease, \
                 priority, ready, due, gate, gate_limit, passed, subject FROM unnest($",
            $a, "::uuid[], $", $b, "::uuid[], $", $c, "::uuid[], $", $d, "::uuid[], $", $e, "::uuid[], $", $f,
            "::text[], $", $g, "::bigint[], $", $h, "::bigint[], $", $i, "::smallint[], $", $j, "::boolean[], $", $k,
            "::bigint[], $", $l, "::bytea[], $", $m, "::integer[], $", $n, "::boolean[], $", $o, "::uuid[]) AS new (project, \
             id, flow, version, parent, status, created, lease, priority, ready, due, gate, gate_limit, passed, subject)"
        )
    };
}
macro_rules! insert_journal {
    ($a:literal $b:literal $c:literal $d:literal) => {
        concat!(
            "INSERT INTO ap_journal (project, run, seq, sealed) SELECT * FROM unnest($",
            $a,
            "::uuid[], $",
            $b,
            "::uuid[], $",
            $c,
            "::bigint[], $",
            $d,
            "::bytea[])"
        )
    };
}
macro_rules! insert_audit {
    ($a:literal $b:literal $c:literal $d:literal $e:literal $f:literal) => {
        concat!(
            "INSERT INTO ap_audit (scope, id, at, action, outcome, sealed) SELECT * FROM unnest($",
            $a,
            "::bytea[], $",
            $b,
            "::uuid[], $",
            $c,
            "::bigint[], $",
            $d,
            "::text[], $",
            $e,
            "::text[], $",
            $f,
            "::bytea[])"
        )
    };
}
const CHANGE_RUNS: &str = change_runs!(1 2 3 4 5 6 7);
const INSERT_RUNS: &str = insert_runs!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
const INSERT_JOURNAL: &str = insert_journal!(1 2 3 4);
const INSERT_AUDIT: &str = insert_audit!(1 2 3 4 5 6);
/// All of these. Of what exists already, a run is noticed before its journal, and that before the audit: each waits for the
/// one before.
const WRITE: &str = concat!(
    "WITH changed AS (",
    change_runs!(1 2 3 4 5 6 7),
    "), created AS (",
    insert_runs!(8 9 10 11 12 13 14 15 16 17 18 19 20 21 22),
    " RETURNING 1), written AS (",
    insert_journal!(23 24 25 26),
    " WHERE (SELECT count(*) FROM created) >= 0 RETURNING 1) ",
    insert_audit!(27 28 29 30 31 32),
    " WHERE (SELECT count(*) FROM written) >= 0"
);
const FORGET_SIGNALS: &str = "DELETE FROM ap_signals \
    WHERE (project, run) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))";
const GIVE_BACK_JOBS: &str = "UPDATE ap_jobs SET state = 'WAITING', run = NULL, holder = NULL, start = NULL \
    WHERE (project, run) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))";
const INSERT_FILES: &str = "INSERT INTO ap_files (project, id, run, created, sealed) \
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bytea[])";
