//! Statements over many rows at once: arrays in, one round trip each.

use std::collections::BTreeMap;

use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    id::ProjectId,
    run::RunStatus,
    store::LookupHash,
    time::Timestamp,
};
use sqlx::postgres::PgRow;

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
    /// Whether this lease is the right to write to the run.
    pub(super) fn is_held_under(&self, lease: &Lease) -> bool {
        self.epoch == lease.epoch && self.status == RunStatus::Running
    }
}

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
    pub(super) async fn change_runs(&mut self, changes: &[(RunKey, RunChange, Stored)]) -> sqlx::Result<()> {
        let changes: Vec<_> = changes.iter().filter(|(_, change, _)| *change != RunChange::Stay).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let (projects, runs) = pairs(changes.iter().map(|(key, ..)| *key));
        let (mut statuses, mut finished, mut dues) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ready, mut over) = (Vec::new(), Vec::new());
        for (_, change, stored) in &changes {
            let (status, end, due, at_once) = match *change {
                RunChange::End { status, at } => (status, Some(at), None, false),
                RunChange::Park { due } => {
                    (RunStatus::Paused, None, due, stored.signaled || due.is_some_and(|due| due <= self.now))
                }
                RunChange::Release | RunChange::Stay => (RunStatus::Queued, None, None, true),
            };
            statuses.push(status.as_str());
            finished.push(end.map(Timestamp::as_micros));
            dues.push(due.filter(|_| !at_once).map(Timestamp::as_micros));
            ready.push(at_once);
            over.push(end.is_some());
        }
        sqlx::query(CHANGE_RUNS)
            .bind(projects)
            .bind(runs)
            .bind(statuses)
            .bind(finished)
            .bind(dues)
            .bind(ready)
            .bind(over)
            .execute(&mut *self.connection)
            .await?;
        let ended = changes.iter().filter(|(_, change, _)| matches!(change, RunChange::End { .. }));
        self.follow_ends(ended.map(|(key, _, stored)| (*key, *stored)).collect()).await
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
        let (projects, runs) = pairs(new.iter().map(|new| (new.run.project, new.run.id)));
        let statuses: Vec<&str> = new.iter().map(|new| if new.lease.is_some() { RUNNING } else { QUEUED }).collect();
        let ready = |new: &NewRun<'_>| new.passed && new.due.is_none() && new.lease.is_none();
        sqlx::query(INSERT_RUNS)
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
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }

    pub(super) async fn insert_journal(&mut self, entries: &[(RunKey, &JournalEntry)]) -> sqlx::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let (projects, runs) = pairs(entries.iter().map(|(key, _)| *key));
        sqlx::query(INSERT_JOURNAL)
            .bind(projects)
            .bind(runs)
            .bind(entries.iter().map(|(_, entry)| signed(entry.seq)).collect::<Vec<_>>())
            .bind(entries.iter().map(|(_, entry)| entry.sealed.as_bytes().as_ref()).collect::<Vec<&[u8]>>())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
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
        sqlx::query(INSERT_AUDIT)
            .bind(records.iter().map(|record| record.scope.to_bytes().to_vec()).collect::<Vec<_>>())
            .bind(records.iter().map(|record| Id::from(record.id)).collect::<Vec<_>>())
            .bind(records.iter().map(|record| record.at.as_micros()).collect::<Vec<_>>())
            .bind(records.iter().map(|record| record.action.as_str()).collect::<Vec<_>>())
            .bind(records.iter().map(|record| outcome_text(record.outcome)).collect::<Vec<_>>())
            .bind(records.iter().map(|record| record.body.as_bytes().as_ref()).collect::<Vec<&[u8]>>())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }
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
const CHANGE_RUNS: &str = "UPDATE ap_runs AS run SET status = new.status, finished = new.finished, lease = NULL, \
    due = new.due, ready = new.ready, signaled = run.signaled AND NOT new.over, slots = run.slots AND NOT new.over, \
    holds = run.holds AND NOT new.over \
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::boolean[], $7::boolean[]) \
        AS new (project, id, status, finished, due, ready, over) \
    WHERE run.project = new.project AND run.id = new.id";
const FORGET_SIGNALS: &str = "DELETE FROM ap_signals \
    WHERE (project, run) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))";
const GIVE_BACK_JOBS: &str = "UPDATE ap_jobs SET state = 'WAITING', run = NULL, holder = NULL, start = NULL \
    WHERE (project, run) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))";
const INSERT_RUNS: &str = "INSERT INTO ap_runs (project, id, flow, version, parent, status, created, epoch, lease, \
        priority, ready, due, gate, gate_limit, passed) \
    SELECT project, id, flow, version, parent, status, created, CASE WHEN lease IS NULL THEN 0 ELSE 1 END, lease, \
        priority, ready, due, gate, gate_limit, passed \
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[], $8::bigint[], \
        $9::smallint[], $10::boolean[], $11::bigint[], $12::bytea[], $13::integer[], $14::boolean[]) \
        AS new (project, id, flow, version, parent, status, created, lease, priority, ready, due, gate, gate_limit, \
        passed)";
const INSERT_JOURNAL: &str = "INSERT INTO ap_journal (project, run, seq, sealed) \
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bytea[])";
const INSERT_FILES: &str = "INSERT INTO ap_files (project, id, run, created, sealed) \
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bytea[])";
const INSERT_AUDIT: &str = "INSERT INTO ap_audit (scope, id, at, action, outcome, sealed) \
    SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::bytea[])";
