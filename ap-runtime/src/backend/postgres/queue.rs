//! Queues of jobs.

use ap_core::{
    audit::AuditRecord,
    id::ProjectId,
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    PostgresBackend,
    accept::REMEMBER_PACE,
    link::{Failure, Lock, Transaction, read_all},
    value::{Columns, Id},
    writer::{Operation, RunKey},
};
use crate::store::{HeldJob, HeldJobs, JobRequest, QueueCounts, QueueStore};

#[async_trait]
impl QueueStore for PostgresBackend {
    async fn take_jobs(&self, request: JobRequest) -> Result<HeldJobs, StoreError> {
        self.writer.write(TakeJobs(request)).await
    }

    async fn queue_counts(&self, queue: LookupHash, project: ProjectId) -> Result<QueueCounts, StoreError> {
        let query = sqlx::query(COUNTS).bind(Id::from(project)).bind(queue.0.to_vec());
        let counts = self.row(query, read_counts).await?;
        Ok(counts.unwrap_or_default())
    }

    async fn redrive(
        &self,
        queue: LookupHash,
        project: ProjectId,
        limit: u32,
        audit: &[AuditRecord],
    ) -> Result<u64, StoreError> {
        self.writer.write_after_all(Redrive { queue, project, limit, audit: audit.to_vec() }).await
    }
}

struct TakeJobs(JobRequest);

#[async_trait]
impl Operation for TakeJobs {
    type Output = HeldJobs;

    fn run(&self) -> Option<RunKey> {
        Some((self.0.lease.project, self.0.lease.run))
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<HeldJobs, Failure> {
        let JobRequest { lease, queue, holder, limit, max_concurrent, .. } = &self.0;
        let key = (lease.project, lease.run);
        transaction.lock(&[Lock::Queue(lease.project, *queue)]).await?;
        let stored = transaction.lock_runs([key]).await?;
        stored.get(&key).filter(|stored| stored.is_held_under(lease)).ok_or(StoreError::Fenced)?;

        let row = sqlx::query(COUNTS_TO_TAKE)
            .bind(Id::from(lease.project))
            .bind(queue.0.as_slice())
            .fetch_one(&mut *transaction.connection)
            .await?;
        let counts = read_counts(&row)?;
        let own = transaction.jobs_of(key, *queue, *holder).await?;
        let wanted = u64::from(*limit).saturating_sub(own.len() as u64);
        let wanted = wanted.min(u64::from(*max_concurrent).saturating_sub(counts.held)).min(counts.waiting);
        if wanted == 0 {
            return Ok(HeldJobs { jobs: own, waiting: counts.waiting });
        }
        let taken = transaction.take(&self.0, wanted).await?;
        let jobs = transaction.jobs_of(key, *queue, *holder).await?;
        Ok(HeldJobs { jobs, waiting: counts.waiting.saturating_sub(taken) })
    }
}

impl Transaction<'_> {
    /// What the holder holds, in order of id.
    async fn jobs_of(
        &mut self,
        (project, run): RunKey,
        queue: LookupHash,
        holder: LookupHash,
    ) -> sqlx::Result<Vec<HeldJob>> {
        let rows = sqlx::query(JOBS_OF)
            .bind(Id::from(project))
            .bind(Id::from(run))
            .bind(queue.0.as_slice())
            .bind(holder.0.as_slice())
            .fetch_all(&mut *self.connection)
            .await?;
        read_all(&rows, |row| {
            let mut columns = Columns::of(row);
            Ok(HeldJob { id: columns.id()?, start: columns.time()?, sealed: columns.sealed()? })
        })
    }

    /// Takes the oldest waiting jobs, spaced out; returns how many. The caller has the queue's lock.
    async fn take(&mut self, request: &JobRequest, wanted: u64) -> sqlx::Result<u64> {
        let JobRequest { lease, queue, holder, spacing, .. } = request;
        let rows = sqlx::query(OLDEST)
            .bind(Id::from(lease.project))
            .bind(queue.0.as_slice())
            .bind(super::value::signed(wanted))
            .fetch_all(&mut *self.connection)
            .await?;
        let ids = read_all(&rows, |row| Columns::of(row).value::<Id>())?;
        let mut next = self.remembered(lease.project, QUEUE, *queue).await?.unwrap_or(self.now).max(self.now);
        let mut starts: Vec<i64> = Vec::with_capacity(ids.len());
        for _ in &ids {
            starts.push(next.as_micros());
            next = next.saturating_add(*spacing);
        }
        let taken = ids.len() as u64;
        sqlx::query(TAKE)
            .bind(Id::from(lease.project))
            .bind(ids)
            .bind(starts)
            .bind(Id::from(lease.run))
            .bind(holder.0.as_slice())
            .execute(&mut *self.connection)
            .await?;
        sqlx::query("UPDATE ap_runs SET holds = true WHERE project = $1 AND id = $2 AND NOT holds")
            .bind(Id::from(lease.project))
            .bind(Id::from(lease.run))
            .execute(&mut *self.connection)
            .await?;
        if !spacing.is_zero() {
            self.remember_queue(lease.project, *queue, next).await?;
        }
        Ok(taken)
    }

    async fn remember_queue(&mut self, project: ProjectId, queue: LookupHash, next: Timestamp) -> sqlx::Result<()> {
        sqlx::query(REMEMBER_PACE)
            .bind(Id::from(project))
            .bind(QUEUE)
            .bind(queue.0.as_slice())
            .bind(next.as_micros())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }
}

struct Redrive {
    queue: LookupHash,
    project: ProjectId,
    limit: u32,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for Redrive {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, Failure> {
        transaction.lock(&[Lock::Queue(self.project, self.queue)]).await?;
        let changed = sqlx::query(REDRIVE)
            .bind(Id::from(self.project))
            .bind(self.queue.0.as_slice())
            .bind(i64::from(self.limit))
            .execute(&mut *transaction.connection)
            .await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(changed.rows_affected())
    }
}

fn read_counts(row: &PgRow) -> sqlx::Result<QueueCounts> {
    let mut columns = Columns::of(row);
    Ok(QueueCounts { waiting: columns.count()?, held: columns.count()?, dead: columns.count()? })
}

const QUEUE: &str = "QUEUE";
const COUNTS: &str = "SELECT count(*) FILTER (WHERE state = 'WAITING'), count(*) FILTER (WHERE state = 'HELD'), \
    count(*) FILTER (WHERE state = 'DEAD') FROM ap_jobs WHERE project = $1 AND queue = $2";
/// What taking jobs has to know. Those that wait are counted up to a bound, and the dead not at all: a long queue must not make
/// each of its jobs dearer.
const COUNTS_TO_TAKE: &str = "SELECT \
    (SELECT count(*) FROM (SELECT FROM ap_jobs WHERE project = $1 AND queue = $2 AND state = 'WAITING' LIMIT 10000) AS few), \
    (SELECT count(*) FROM ap_jobs WHERE project = $1 AND queue = $2 AND state = 'HELD'), 0::bigint";
const JOBS_OF: &str = "SELECT id, start, sealed FROM ap_jobs \
    WHERE project = $1 AND run = $2 AND queue = $3 AND holder = $4 AND state = 'HELD' ORDER BY id";
const OLDEST: &str = "SELECT id FROM ap_jobs WHERE project = $1 AND queue = $2 AND state = 'WAITING' \
    ORDER BY id LIMIT $3 FOR UPDATE";
const TAKE: &str = "UPDATE ap_jobs AS job SET state = 'HELD', run = $4, holder = $5, start = new.start \
    FROM unnest($2::uuid[], $3::bigint[]) AS new (id, start) WHERE job.project = $1 AND job.id = new.id";
const REDRIVE: &str = "UPDATE ap_jobs SET state = 'WAITING' WHERE project = $1 AND id IN (SELECT id FROM ap_jobs \
    WHERE project = $1 AND queue = $2 AND state = 'DEAD' ORDER BY id LIMIT $3 FOR UPDATE)";
