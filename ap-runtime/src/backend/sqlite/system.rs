//! What crosses projects: acceptance, claims, leases, routes, sweeping.

use std::time::Duration;

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId, RunId},
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;

use super::{
    SqliteBackend,
    error::store_error,
    project::audit_bytes,
    run::{HELD, bind_lease, entry_bytes},
    script::{Columns, Script},
    writer::{Failure, Operation, Shape, Transaction},
};
use crate::{
    backend::check_accept,
    store::{Accept, Accepted, Claimed, Lease, Route, SystemStore},
};

#[async_trait]
impl SystemStore for SqliteBackend {
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        check_accept(&accept)?;
        self.writer.write_if_room(AcceptRun { accept, audit: audit.to_vec() }).await
    }

    async fn claim(&self, request: crate::store::ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let (limit, lease) = (request.limit, request.lease);
        self.writer.write(Claim { limit, lease }).await
    }

    async fn heartbeat(
        &self,
        _worker: &crate::store::WorkerRecord,
        leases: &[Lease],
        lease: Duration,
    ) -> Result<crate::store::Beat, StoreError> {
        let lost = self.writer.write(Heartbeat { leases: leases.to_vec(), lease }).await?;
        Ok(crate::store::Beat { lost, signaled: Vec::new() })
    }

    async fn workers(&self, _within: Duration) -> Result<Vec<crate::store::WorkerRecord>, StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn retire(&self, _worker: ap_core::id::WorkerId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn next_due(&self) -> Result<Option<ap_core::time::Timestamp>, StoreError> {
        Ok(None)
    }

    async fn claim_triggers(
        &self,
        _limit: u32,
        _lease: Duration,
    ) -> Result<Vec<crate::store::ClaimedTrigger>, StoreError> {
        Ok(Vec::new())
    }

    async fn fire_trigger(&self, _fire: crate::store::TriggerFire) -> Result<Vec<Accepted>, StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn route(&self, token: LookupHash) -> Result<Option<Route>, StoreError> {
        let mut script =
            Script::new("SELECT project, id, published, enabled, generation FROM ap_flows WHERE webhook = ?");
        script.bytes(&token.0);
        let row = self.row(script).await?;
        row.as_ref().map(read_route).transpose().map_err(store_error)
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        self.writer.write(Sweep { limit }).await
    }
}

#[async_trait]
impl crate::store::QueueStore for SqliteBackend {
    async fn take_jobs(&self, _request: crate::store::JobRequest) -> Result<crate::store::HeldJobs, StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn queue_counts(
        &self,
        _queue: LookupHash,
        _project: ProjectId,
    ) -> Result<crate::store::QueueCounts, StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn redrive(
        &self,
        _queue: LookupHash,
        _project: ProjectId,
        _limit: u32,
        _audit: &[AuditRecord],
    ) -> Result<u64, StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }
}

#[async_trait]
impl crate::store::FileStore for SqliteBackend {
    async fn write_file(&self, _file: crate::store::FileRecord, _audit: &[AuditRecord]) -> Result<(), StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn file(
        &self,
        _id: ap_core::id::FileId,
        _project: ProjectId,
    ) -> Result<crate::store::FileRecord, StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn delete_file(
        &self,
        _id: ap_core::id::FileId,
        _project: ProjectId,
        _audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }
}

struct AcceptRun {
    accept: Accept,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for AcceptRun {
    type Output = Accepted;

    fn bytes(&self) -> usize {
        entry_bytes(std::slice::from_ref(&self.accept.entry)) + audit_bytes(&self.audit)
    }

    fn shape(&self) -> Option<Shape> {
        let kind = if self.accept.dedupe.is_some() { "accept-once" } else { "accept" };
        Some(Shape { kind, entries: 1, audit: self.audit.len() })
    }

    /// The first statement looks whether the route is open and the delivery new, and thereby lets the others happen.
    fn write(&self, script: &mut Script, now: Timestamp) {
        let Accept { run, dedupe, entry, lease, .. } = &self.accept;
        if let Some(dedupe) = dedupe {
            script
                .then("INSERT INTO ap_deliveries (project, key, run, expires) SELECT ?, ?, ?, ?")
                .with(OPEN_ROUTE)
                .with(
                    " ON CONFLICT (project, key) DO UPDATE SET run = excluded.run, expires = excluded.expires \
                  WHERE ap_deliveries.expires <= ?",
                );
            script.bytes(run.project.as_bytes()).bytes(&dedupe.key.0).bytes(run.id.as_bytes()).time(dedupe.expires);
            self.bind_route(script);
            script.time(now);
        }
        script.then(
            "INSERT INTO ap_runs (project, id, flow, version, status, created, epoch, lease) \
             SELECT ?, ?, ?, ?, ?, ?, ?, ?",
        );
        script.with(if dedupe.is_some() { " WHERE changes() = 1" } else { OPEN_ROUTE });
        script.bytes(run.project.as_bytes()).bytes(run.id.as_bytes()).bytes(run.flow.as_bytes());
        script.bytes(run.version.as_bytes()).bind(if lease.is_some() { "RUNNING" } else { "QUEUED" }).time(run.created);
        script.bind(i64::from(lease.is_some())).bind(lease.map(|lease| now.saturating_add(lease).as_micros()));
        if dedupe.is_none() {
            self.bind_route(script);
        }
        script.then("INSERT INTO ap_journal (project, run, seq, sealed) SELECT ?, ?, ?, ? WHERE changes() = 1");
        script.bytes(run.project.as_bytes()).bytes(run.id.as_bytes()).uint(entry.seq).sealed(&entry.sealed);
        script.audit_after_change(&self.audit);
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, changes: &[u64]) -> Result<Accepted, Failure> {
        if changes.first() == Some(&1) {
            return Ok(Accepted::Created { leased: self.accept.lease.is_some() });
        }
        let Some(dedupe) = &self.accept.dedupe else { return Ok(Accepted::Stale) };
        let mut script = Script::new("SELECT run FROM ap_deliveries WHERE project = ? AND key = ? AND expires > ?");
        script.bytes(self.accept.run.project.as_bytes()).bytes(&dedupe.key.0).time(transaction.now);
        Ok(match transaction.row(script).await? {
            Some(row) => Accepted::Duplicate(Columns::of(&row).id(RunId::from_slice)?),
            None => Accepted::Stale,
        })
    }
}

impl AcceptRun {
    /// Binds what [`OPEN_ROUTE`] asks for.
    fn bind_route(&self, script: &mut Script) {
        let run = &self.accept.run;
        script.bytes(run.project.as_bytes()).bytes(run.flow.as_bytes()).bytes(run.version.as_bytes());
        script.uint(self.accept.generation);
    }
}

struct Claim {
    limit: u32,
    lease: Duration,
}

#[async_trait]
impl Operation for Claim {
    type Output = Vec<Claimed>;

    fn bytes(&self) -> usize {
        0
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<Vec<Claimed>, Failure> {
        let now = transaction.now;
        let mut script = Script::new(CLAIM);
        script.time(now.saturating_add(self.lease)).bind(self.limit).time(now).bind(self.limit).bind(self.limit);
        let rows = script.rows(&mut *transaction.connection).await?;
        let mut claimed = rows.iter().map(read_claimed).collect::<sqlx::Result<Vec<_>>>()?;
        claimed.sort_by_key(|(created, claimed)| (*created, claimed.lease.run, claimed.lease.project));
        Ok(claimed.into_iter().map(|(_, claimed)| claimed).collect())
    }
}

struct Heartbeat {
    leases: Vec<Lease>,
    lease: Duration,
}

#[async_trait]
impl Operation for Heartbeat {
    type Output = Vec<Lease>;

    fn bytes(&self) -> usize {
        self.leases.len() * std::mem::size_of::<Lease>()
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<Vec<Lease>, Failure> {
        let until = transaction.now.saturating_add(self.lease);
        let mut lost = Vec::new();
        for leases in self.leases.chunks(HEARTBEAT_GROUP) {
            let mut script = Script::default();
            for lease in leases {
                script.then("UPDATE ap_runs SET lease = ?").with(HELD).time(until);
                bind_lease(&mut script, lease);
            }
            if leases.len() < HEARTBEAT_GROUP {
                script.once();
            }
            let changes = script.run(&mut *transaction.connection).await?;
            lost.extend(leases.iter().zip(changes).filter(|(_, changed)| *changed == 0).map(|(lease, _)| *lease));
        }
        Ok(lost)
    }
}

struct Sweep {
    limit: u32,
}

#[async_trait]
impl Operation for Sweep {
    type Output = u64;

    fn bytes(&self) -> usize {
        0
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<u64, Failure> {
        let mut script = Script::new(
            "DELETE FROM ap_deliveries WHERE (project, key) IN \
             (SELECT project, key FROM ap_deliveries WHERE expires <= ? ORDER BY expires LIMIT ?)",
        );
        script.time(transaction.now).bind(self.limit);
        Ok(script.run(&mut *transaction.connection).await?.first().copied().unwrap_or_default())
    }
}

fn read_route(row: &SqliteRow) -> sqlx::Result<Route> {
    let mut columns = Columns::of(row);
    Ok(Route {
        project: columns.id(ProjectId::from_slice)?,
        flow: columns.id(FlowId::from_slice)?,
        published: columns.maybe_id(FlowVersionId::from_slice)?,
        enabled: columns.int()? != 0,
        generation: columns.uint()?,
    })
}

fn read_claimed(row: &SqliteRow) -> sqlx::Result<(Timestamp, Claimed)> {
    let mut columns = Columns::of(row);
    let project = columns.id(ProjectId::from_slice)?;
    let run = columns.id(RunId::from_slice)?;
    let lease = Lease { project, run, epoch: columns.uint()? };
    let flow = columns.id(FlowId::from_slice)?;
    let version = columns.id(FlowVersionId::from_slice)?;
    Ok((columns.time()?, Claimed { lease, flow, version }))
}

/// Restricts an insert to a route that is as the caller saw it.
const OPEN_ROUTE: &str = " WHERE EXISTS (SELECT 1 FROM ap_flows \
    WHERE project = ? AND id = ? AND enabled = 1 AND published = ? AND generation = ?)";

/// The oldest of what is queued and of what has expired; each half is a range of `ap_runs_active`.
const CLAIM: &str = "UPDATE ap_runs SET epoch = epoch + 1, status = 'RUNNING', lease = ? WHERE (project, id) IN ( \
    SELECT project, id FROM ( \
        SELECT * FROM (SELECT project, id, created FROM ap_runs \
            WHERE finished IS NULL AND status = 'QUEUED' AND lease IS NULL ORDER BY created, id, project LIMIT ?) \
        UNION ALL \
        SELECT * FROM (SELECT project, id, created FROM ap_runs \
            WHERE finished IS NULL AND status = 'RUNNING' AND lease <= ? ORDER BY created, id, project LIMIT ?) \
    ) ORDER BY created, id, project LIMIT ?) \
    RETURNING project, id, epoch, flow, version, created";

/// Leases in one script.
const HEARTBEAT_GROUP: usize = 64;
