//! A commit of a run: its journal, what becomes of it, and what it does to others.

use ap_core::{
    audit::AuditRecord,
    id::FlowId,
    run::RunStatus,
    store::{Entity, LookupHash, Revision, StoreError},
    time::Timestamp,
};
use rusqlite::params;

use super::{
    accept::{create, is_open, terms},
    file, gate,
    project::{append, audit_bytes},
    queue,
    row::uint,
    run::{append_entry, deliver, entry_bytes, forget, is_signaled},
    value,
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::misuse,
    store::{Accept, Lease, RunChange, RunCommit, ValueChange, ValueUsage},
};

/// Writes to a run under its lease.
pub(super) struct Commit {
    pub(super) commit: RunCommit,
    pub(super) audit: Vec<AuditRecord>,
}

impl Operation for Commit {
    type Output = ();

    fn bytes(&self) -> usize {
        let RunCommit { entries, files, signals, starts, jobs, values, .. } = &self.commit;
        let starts = starts.iter().map(|(start, audit)| start.entry.sealed.as_bytes().len() + audit_bytes(audit));
        entry_bytes(entries)
            + files.iter().map(|file| file.sealed.as_bytes().len()).sum::<usize>()
            + signals.iter().map(|signal| signal.sealed.as_bytes().len()).sum::<usize>()
            + jobs.iter().map(|job| job.sealed.as_bytes().len()).sum::<usize>()
            + starts.sum::<usize>()
            + value::bytes(values)
            + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let RunCommit { lease, entries, files, change, taken, signals, starts, jobs, job_ends, values, value_limit } =
            &self.commit;
        let (project, run) = (lease.project, lease.run);
        let values = self.judge_values(transaction, values, *value_limit)?;
        let (number, gate) = change_held(transaction, lease, change)?.ok_or(StoreError::Fenced)?;
        for entry in entries {
            append_entry(transaction, number, entry)?;
        }
        for file in files {
            file::put(transaction, file)?;
        }
        values.into_iter().try_for_each(|values| values.write(transaction))?;
        for signal in taken {
            transaction.run(
                "DELETE FROM ap_signals WHERE project = ? AND run = ? AND id = ?",
                [project.as_bytes(), run.as_bytes(), signal.as_bytes()],
            )?;
        }
        for (job, end) in job_ends {
            queue::end(transaction, lease, *job, *end)?;
        }
        for job in jobs {
            queue::add(transaction, project, job)?;
        }
        for (start, _) in starts {
            check_open(transaction, start)?;
        }
        for (start, audit) in starts {
            start_run(transaction, start)?;
            append(transaction, audit)?;
        }
        for signal in signals {
            deliver(transaction, signal)?;
        }
        match change {
            RunChange::End { .. } => {
                forget(transaction, project, run)?;
                if let Some(gate) = gate {
                    gate::promote(transaction, project, &gate)?;
                }
            }
            RunChange::Park { due } => park(transaction, lease, number, *due)?,
            RunChange::Release | RunChange::Stay => {}
        }
        append(transaction, &self.audit)
    }
}

impl Commit {
    /// Looks at stored values before anything is written, so that a conflict, which is nothing unusual, undoes nobody's work.
    fn judge_values<'v>(
        &self,
        transaction: &Transaction<'_>,
        values: &'v [ValueChange],
        limit: ValueUsage,
    ) -> Result<Option<value::Judged<'v>>, Failure> {
        if values.is_empty() {
            return Ok(None);
        }
        let lease = &self.commit.lease;
        let (number, _) = held(transaction, lease)?.ok_or(StoreError::Fenced)?;
        // A commit that is tried again after it happened finds what it wrote itself: its journal entry comes first.
        for entry in &self.commit.entries {
            if transaction.exists(HAS_ENTRY, params![number, uint(entry.seq)?])? {
                return Err(StoreError::AlreadyExists { entity: Entity::JournalEntry }.into());
            }
        }
        value::judge(transaction, values, lease.project, limit).map(Some)
    }
}

/// Changes the run's own row if the lease is held, parking apart: that needs to know which signals are left. `None` if the
/// lease is not held, else the run's number, and its gate if it ended.
///
/// Two statements rather than one with `RETURNING`, for which SQLite makes a table each time.
fn change_held(
    transaction: &Transaction<'_>,
    lease: &Lease,
    change: &RunChange,
) -> rusqlite::Result<Option<(i64, Option<LookupHash>)>> {
    let Some((number, gate)) = held(transaction, lease)? else { return Ok(None) };
    match change {
        RunChange::End { status, at } => {
            transaction.run(END_RUN, params![status.as_str(), at.as_micros(), number])?;
            Ok(Some((number, gate)))
        }
        RunChange::Release => {
            transaction
                .run("UPDATE ap_runs SET status = 'QUEUED', lease = NULL, ready = 1 WHERE number = ?", [number])?;
            Ok(Some((number, None)))
        }
        RunChange::Park { .. } | RunChange::Stay => Ok(Some((number, None))),
    }
}

/// Whether this lease is the right to write to its run. An expired one is, until somebody claims the run.
pub(super) fn is_held(transaction: &Transaction<'_>, lease: &Lease) -> rusqlite::Result<bool> {
    Ok(held(transaction, lease)?.is_some())
}

/// The number and the gate of the run, if the lease is held.
fn held(transaction: &Transaction<'_>, lease: &Lease) -> rusqlite::Result<Option<(i64, Option<LookupHash>)>> {
    transaction.row(HELD, params![lease.project.as_bytes(), lease.run.as_bytes(), uint(lease.epoch)?], |columns| {
        Ok((columns.int()?, columns.maybe_hash()?))
    })
}

fn park(transaction: &Transaction<'_>, lease: &Lease, number: i64, due: Option<Timestamp>) -> rusqlite::Result<()> {
    let ready = due.is_some_and(|due| due <= transaction.now) || is_signaled(transaction, lease.project, lease.run)?;
    transaction.run(
        PARK,
        params![RunStatus::Paused.as_str(), ready, due.filter(|_| !ready).map(Timestamp::as_micros), number],
    )?;
    Ok(())
}

/// Refuses a start whose flow is not as it was when the step was executed.
fn check_open(transaction: &Transaction<'_>, start: &Accept) -> Result<(), Failure> {
    if is_open(transaction, start)? {
        return Ok(());
    }
    let current = flow_revision(transaction, start.run.project, start.run.flow)?;
    // Entries have been written, so a refusal undoes the transaction.
    Err(Failure::Undone(StoreError::Conflict { entity: Entity::Flow, current }))
}

/// Creates a run that a step starts, patient with what bounds it.
fn start_run(transaction: &Transaction<'_>, start: &Accept) -> Result<(), Failure> {
    match terms(transaction, start, true)? {
        Ok(terms) => create(transaction, start, &terms).map(|_| ()),
        // It has no dedupe key, was found open, and is patient: nothing refuses it.
        Err(_) => Err(Failure::Undone(misuse("a start was refused"))),
    }
}

fn flow_revision(
    transaction: &Transaction<'_>,
    project: ap_core::id::ProjectId,
    flow: FlowId,
) -> rusqlite::Result<Revision> {
    let stored = transaction.row(
        "SELECT revision FROM ap_flows WHERE project = ? AND id = ?",
        [project.as_bytes(), flow.as_bytes()],
        |columns| columns.revision(),
    )?;
    Ok(stored.unwrap_or(Revision(0)))
}

pub(super) const HELD: &str =
    "SELECT number, gate FROM ap_runs WHERE project = ? AND id = ? AND epoch = ? AND status = 'RUNNING'";
const HAS_ENTRY: &str = "SELECT 1 FROM ap_journal WHERE run = ? AND seq = ?";
pub(super) const END_RUN: &str = "UPDATE ap_runs SET status = ?, finished = ?, lease = NULL WHERE number = ?";
pub(super) const PARK: &str = "UPDATE ap_runs SET status = ?, lease = NULL, ready = ?, due = ? WHERE number = ?";
