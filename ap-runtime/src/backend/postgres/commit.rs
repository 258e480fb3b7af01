//! A commit to a run that concerns more than the run itself: signals, subflows, jobs.

use ap_core::{audit::AuditRecord, id::SignalId, store::StoreError};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    accept::{another_flow, locks},
    link::{Failure, Lock, Transaction, Work},
    rows::Stored,
    value::{Columns, Id},
    writer::RunKey,
};
use crate::store::{Accepted, JobEnd, NewJob, RunChange, RunCommit, SignalRecord, Signaled};

/// Does one commit, in the order in which the seam looks at its parts.
pub(super) struct CommitOne<'a>(pub(super) &'a RunCommit, pub(super) &'a [AuditRecord]);

#[async_trait]
impl Work for CommitOne<'_> {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let (commit, audit) = (self.0, self.1);
        let own = (commit.lease.project, commit.lease.run);
        let mut wanted: Vec<Lock> = commit.starts.iter().flat_map(|(start, _)| locks(start)).collect();
        if matches!(commit.change, RunChange::End { .. }) {
            wanted.extend(transaction.gate_of(own).await?);
        }
        wanted.extend((!commit.values.is_empty()).then_some(Lock::Values(own.0)));
        transaction.lock(&wanted).await?;
        let targets = commit.signals.iter().map(|signal| (signal.project, signal.run));
        let stored = transaction.lock_runs(targets.chain([own])).await?;
        let held = stored.get(&own).filter(|stored| stored.is_held_under(&commit.lease));
        let mut held = *held.ok_or(StoreError::Fenced)?;

        let entries: Vec<_> = commit.entries.iter().map(|entry| (own, entry)).collect();
        transaction.insert_journal(&entries).await?;
        transaction.insert_files(&commit.files).await?;
        transaction.change_values(&commit.values, own.0, commit.value_limit).await?;
        transaction.insert_jobs(own, &commit.jobs).await?;
        transaction.take_signals(own, &commit.taken).await?;
        transaction.end_jobs(own, &commit.job_ends).await?;
        for (start, _) in &commit.starts {
            match transaction.accept(start, true).await? {
                Accepted::Created { .. } => {}
                _ => return Err(another_flow(transaction.revision_of_flow(start).await?)),
            }
        }
        for signal in &commit.signals {
            transaction.deliver(signal, stored.get(&(signal.project, signal.run))).await?;
        }
        if !commit.taken.is_empty() || commit.signals.iter().any(|signal| signal.run == own.1) {
            (held.signaled, held.slots) = transaction.note_signals(own).await?;
        }
        transaction.change_runs(&[(own, commit.change, held)]).await?;
        let starts = commit.starts.iter().flat_map(|(_, audit)| audit);
        transaction.insert_audit(audit.iter().chain(starts)).await?;
        Ok(())
    }
}

impl Transaction<'_> {
    /// The lock of the gate that a run is at. A run's gate never changes.
    async fn gate_of(&mut self, (project, run): RunKey) -> sqlx::Result<Option<Lock>> {
        let row = sqlx::query("SELECT gate FROM ap_runs WHERE project = $1 AND id = $2 AND gate IS NOT NULL")
            .bind(Id::from(project))
            .bind(Id::from(run))
            .fetch_optional(&mut *self.connection)
            .await?;
        row.map(|row| Ok(Lock::Gate(project, Columns::of(&row).hash()?))).transpose()
    }

    /// Keeps a signal for a run that was locked and read; says what became of it.
    pub(super) async fn deliver(
        &mut self,
        signal: &SignalRecord,
        run: Option<&Stored>,
    ) -> Result<Signaled, sqlx::Error> {
        if run.is_none_or(|run| run.status.is_terminal()) {
            return Ok(Signaled::Over);
        }
        let inserted = sqlx::query(INSERT_SIGNAL)
            .bind(Id::from(signal.project))
            .bind(Id::from(signal.run))
            .bind(signal.slot.0.as_slice())
            .bind(Id::from(signal.id))
            .bind(signal.at.as_micros())
            .bind(signal.sealed.as_bytes().as_ref())
            .execute(&mut *self.connection)
            .await?;
        if inserted.rows_affected() == 0 {
            return Ok(Signaled::Used);
        }
        sqlx::query(NOTE_SIGNAL)
            .bind(Id::from(signal.project))
            .bind(Id::from(signal.run))
            .execute(&mut *self.connection)
            .await?;
        Ok(Signaled::Delivered)
    }

    /// Keeps the slots of signals that were taken in, without their content.
    async fn take_signals(&mut self, (project, run): RunKey, taken: &[SignalId]) -> sqlx::Result<()> {
        if taken.is_empty() {
            return Ok(());
        }
        sqlx::query(TAKE_SIGNALS)
            .bind(Id::from(project))
            .bind(Id::from(run))
            .bind(taken.iter().copied().map(Id::from).collect::<Vec<_>>())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }

    /// Notes at a run whether it has signals that were not taken; returns that, and whether it has used slots.
    async fn note_signals(&mut self, (project, run): RunKey) -> sqlx::Result<(bool, bool)> {
        let row = sqlx::query(COUNT_SIGNALS)
            .bind(Id::from(project))
            .bind(Id::from(run))
            .fetch_one(&mut *self.connection)
            .await?;
        let mut columns = Columns::of(&row);
        Ok((columns.value()?, columns.value()?))
    }

    async fn insert_jobs(&mut self, (project, _): RunKey, jobs: &[NewJob]) -> sqlx::Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        sqlx::query(INSERT_JOBS)
            .bind(Id::from(project))
            .bind(jobs.iter().map(|job| Id::from(job.id)).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.queue.0.as_slice()).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.sealed.as_bytes().as_ref()).collect::<Vec<&[u8]>>())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }

    /// Does what became of jobs. One that the run does not hold is passed over.
    async fn end_jobs(&mut self, (project, run): RunKey, ends: &[(ap_core::id::JobId, JobEnd)]) -> sqlx::Result<()> {
        for (wanted, statement) in [(JobEnd::Back, RETURN_JOBS), (JobEnd::Done, FORGET_JOBS), (JobEnd::Dead, BURY_JOBS)]
        {
            let ids: Vec<Id> = ends.iter().filter(|(_, end)| *end == wanted).map(|(id, _)| Id::from(*id)).collect();
            if !ids.is_empty() {
                let query = sqlx::query(statement).bind(Id::from(project)).bind(Id::from(run)).bind(ids);
                query.execute(&mut *self.connection).await?;
            }
        }
        Ok(())
    }
}

/// A signal of a run, as a row has it.
pub(super) fn read_signal(row: &PgRow) -> sqlx::Result<SignalRecord> {
    let mut columns = Columns::of(row);
    Ok(SignalRecord {
        id: columns.id()?,
        project: columns.id()?,
        run: columns.id()?,
        slot: columns.hash()?,
        at: columns.time()?,
        sealed: columns.sealed()?,
    })
}

const INSERT_SIGNAL: &str = "INSERT INTO ap_signals (project, run, slot, id, at, taken, sealed) \
    VALUES ($1, $2, $3, $4, $5, false, $6) ON CONFLICT (project, run, slot) DO NOTHING";
const NOTE_SIGNAL: &str = "UPDATE ap_runs SET signaled = true, slots = true, \
    ready = ready OR status = 'PAUSED', due = CASE status WHEN 'PAUSED' THEN NULL ELSE due END \
    WHERE project = $1 AND id = $2";
const TAKE_SIGNALS: &str = "UPDATE ap_signals SET taken = true, sealed = '' \
    WHERE project = $1 AND run = $2 AND id = ANY ($3) AND NOT taken";
const COUNT_SIGNALS: &str = "UPDATE ap_runs AS run SET signaled = EXISTS (SELECT FROM ap_signals AS signal \
        WHERE signal.project = run.project AND signal.run = run.id AND NOT signal.taken) \
    WHERE project = $1 AND id = $2 RETURNING signaled, slots";
const INSERT_JOBS: &str = "INSERT INTO ap_jobs (project, id, queue, state, sealed) \
    SELECT $1, id, queue, 'WAITING', sealed FROM unnest($2::uuid[], $3::bytea[], $4::bytea[]) AS new (id, queue, sealed)";
const FORGET_JOBS: &str = "DELETE FROM ap_jobs WHERE project = $1 AND run = $2 AND id = ANY ($3)";
const RETURN_JOBS: &str = "UPDATE ap_jobs SET state = 'WAITING', run = NULL, holder = NULL, start = NULL \
    WHERE project = $1 AND run = $2 AND id = ANY ($3)";
const BURY_JOBS: &str = "UPDATE ap_jobs SET state = 'DEAD', run = NULL, holder = NULL, start = NULL \
    WHERE project = $1 AND run = $2 AND id = ANY ($3)";
