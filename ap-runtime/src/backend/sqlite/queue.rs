//! Queues of jobs.

use ap_core::{
    audit::AuditRecord,
    id::{JobId, ProjectId, RunId},
    store::{LookupHash, StoreError},
};
use async_trait::async_trait;
use rusqlite::params;

use super::{
    SqliteBackend,
    accept::{PaceKind, remember, remembered},
    commit::is_held,
    connect,
    project::{append, audit_bytes},
    row::Columns,
    writer::{Failure, Operation, Transaction},
};
use crate::store::{HeldJob, HeldJobs, JobEnd, JobRequest, Lease, NewJob, QueueCounts, QueueStore};

#[async_trait]
impl QueueStore for SqliteBackend {
    async fn take_jobs(&self, request: JobRequest) -> Result<HeldJobs, StoreError> {
        self.writer.write(TakeJobs(request)).await
    }

    async fn queue_counts(&self, queue: LookupHash, project: ProjectId) -> Result<QueueCounts, StoreError> {
        let read = move |open: &_| connect::row(open, COUNTS, params![project.as_bytes(), queue.0], read_counts);
        Ok(self.readers.read(read).await?.unwrap_or_default())
    }

    async fn redrive(
        &self,
        queue: LookupHash,
        project: ProjectId,
        limit: u32,
        audit: &[AuditRecord],
    ) -> Result<u64, StoreError> {
        self.writer.write(Redrive { queue, project, limit, audit: audit.to_vec() }).await
    }
}

struct TakeJobs(JobRequest);

impl Operation for TakeJobs {
    type Output = HeldJobs;

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<HeldJobs, Failure> {
        let JobRequest { lease, queue, holder, limit, max_concurrent, .. } = &self.0;
        let project = lease.project;
        if !is_held(transaction, lease)? {
            return Err(StoreError::Fenced.into());
        }
        let own: Option<u32> = transaction.row(
            "SELECT count(*) FROM ap_jobs WHERE project = ? AND run = ? AND queue = ? AND holder = ?",
            params![project.as_bytes(), lease.run.as_bytes(), queue.0, holder.0],
            |columns| columns.small(),
        )?;
        let counts = counts(transaction, project, queue)?;
        let room = u64::from(*max_concurrent).saturating_sub(counts.held);
        let wanted = u64::from(limit.saturating_sub(own.unwrap_or_default())).min(room).min(counts.waiting);
        if wanted > 0 {
            self.take(transaction, wanted)?;
        }
        let jobs = transaction.rows(
            "SELECT id, start, sealed FROM ap_jobs WHERE project = ? AND run = ? AND queue = ? AND holder = ? \
             ORDER BY id",
            params![project.as_bytes(), lease.run.as_bytes(), queue.0, holder.0],
            |columns| {
                Ok(HeldJob { id: columns.id(JobId::from_slice)?, start: columns.time()?, sealed: columns.sealed()? })
            },
        )?;
        Ok(HeldJobs { jobs, waiting: counts.waiting.saturating_sub(wanted) })
    }
}

impl TakeJobs {
    /// Takes the oldest waiting jobs.
    fn take(&self, transaction: &Transaction<'_>, wanted: u64) -> rusqlite::Result<()> {
        let JobRequest { lease, queue, holder, spacing, .. } = &self.0;
        let project = lease.project;
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let ids = transaction.rows(OLDEST, params![project.as_bytes(), queue.0, WAITING, wanted], |columns| {
            columns.id(JobId::from_slice)
        })?;
        let mut next = remembered(transaction, project, PaceKind::Queue, queue)?;
        for id in ids {
            let start = next.map_or(transaction.now, |next| next.max(transaction.now));
            if !spacing.is_zero() {
                next = Some(start.saturating_add(*spacing));
            }
            transaction.run(
                "UPDATE ap_jobs SET state = ?, run = ?, holder = ?, start = ? WHERE project = ? AND id = ?",
                params![HELD, lease.run.as_bytes(), holder.0, start.as_micros(), project.as_bytes(), id.as_bytes()],
            )?;
        }
        match next {
            Some(next) if !spacing.is_zero() => remember(transaction, project, PaceKind::Queue, queue, next),
            _ => Ok(()),
        }
    }
}

struct Redrive {
    queue: LookupHash,
    project: ProjectId,
    limit: u32,
    audit: Vec<AuditRecord>,
}

impl Operation for Redrive {
    type Output = u64;

    fn bytes(&self) -> usize {
        audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<u64, Failure> {
        let oldest = params![self.project.as_bytes(), self.queue.0, DEAD, self.limit];
        let ids = transaction.rows(OLDEST, oldest, |columns| columns.id(JobId::from_slice))?;
        for id in &ids {
            transaction.run(
                "UPDATE ap_jobs SET state = ? WHERE project = ? AND id = ?",
                params![WAITING, self.project.as_bytes(), id.as_bytes()],
            )?;
        }
        append(transaction, &self.audit)?;
        Ok(ids.len() as u64)
    }
}

/// Adds a job; one whose id is taken fails the transaction.
pub(super) fn add(transaction: &Transaction<'_>, project: ProjectId, job: &NewJob) -> rusqlite::Result<()> {
    transaction.run(
        "INSERT INTO ap_jobs (project, id, queue, state, sealed) VALUES (?, ?, ?, ?, ?)",
        params![project.as_bytes(), job.id.as_bytes(), job.queue.0, WAITING, job.sealed.as_bytes().as_ref()],
    )?;
    Ok(())
}

/// Does what became of a job. One that the run does not hold is passed over.
pub(super) fn end(transaction: &Transaction<'_>, lease: &Lease, job: JobId, end: JobEnd) -> rusqlite::Result<()> {
    let held = params![lease.project.as_bytes(), job.as_bytes(), lease.run.as_bytes()];
    transaction.run(
        match end {
            JobEnd::Back => {
                "UPDATE ap_jobs SET state = 0, run = NULL, holder = NULL, start = NULL \
                 WHERE project = ? AND id = ? AND run = ?"
            }
            JobEnd::Done => "DELETE FROM ap_jobs WHERE project = ? AND id = ? AND run = ?",
            JobEnd::Dead => {
                "UPDATE ap_jobs SET state = 2, run = NULL, holder = NULL, start = NULL \
                 WHERE project = ? AND id = ? AND run = ?"
            }
        },
        held,
    )?;
    Ok(())
}

/// Gives back every job the run holds.
pub(super) fn give_back(transaction: &Transaction<'_>, project: ProjectId, run: RunId) -> rusqlite::Result<()> {
    let key = [project.as_bytes(), run.as_bytes()];
    // Most runs hold none, and the update makes tables of its own before it finds that out.
    if transaction.exists(HOLDS, key)? {
        transaction.run(GIVE_BACK, key)?;
    }
    Ok(())
}

fn counts(transaction: &Transaction<'_>, project: ProjectId, queue: &LookupHash) -> rusqlite::Result<QueueCounts> {
    Ok(transaction.row(COUNTS, params![project.as_bytes(), queue.0], read_counts)?.unwrap_or_default())
}

fn read_counts(columns: &mut Columns<'_>) -> rusqlite::Result<QueueCounts> {
    Ok(QueueCounts { waiting: columns.uint()?, held: columns.uint()?, dead: columns.uint()? })
}

const WAITING: i64 = 0;
const HELD: i64 = 1;
const DEAD: i64 = 2;

const COUNTS: &str = "SELECT waiting, held, dead FROM ap_queues WHERE project = ? AND queue = ?";
pub(super) const OLDEST: &str =
    "SELECT id FROM ap_jobs WHERE project = ? AND queue = ? AND state = ? ORDER BY id LIMIT ?";
pub(super) const HOLDS: &str = "SELECT 1 FROM ap_jobs WHERE project = ? AND run = ? LIMIT 1";
pub(super) const GIVE_BACK: &str =
    "UPDATE ap_jobs SET state = 0, run = NULL, holder = NULL, start = NULL WHERE project = ? AND run = ?";
