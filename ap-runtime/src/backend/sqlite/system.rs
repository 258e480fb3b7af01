//! What crosses projects: acceptance, claims, workers, triggers, routes, sweeping.

use std::time::Duration;

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId, WorkerId},
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use rusqlite::params;

use super::{
    SqliteBackend,
    accept::AcceptRun,
    claim::Claim,
    connect,
    connection::read_connection,
    row::{Columns, uint},
    run::is_signaled,
    trigger::{ClaimTriggers, FireTrigger},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{check_accept, check_fire},
    store::{
        Accept, Accepted, Beat, ClaimRequest, Claimed, ClaimedTrigger, ConnectionRecord, Lease, Route, SystemStore,
        TriggerFire, WorkerRecord,
    },
};

#[async_trait]
impl SystemStore for SqliteBackend {
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        check_accept(&accept)?;
        self.writer.write_if_room(AcceptRun { accept, audit: audit.to_vec() }).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.writer.write(Claim(request)).await
    }

    async fn heartbeat(&self, worker: &WorkerRecord, leases: &[Lease], lease: Duration) -> Result<Beat, StoreError> {
        self.writer.write(Heartbeat { worker: worker.clone(), leases: leases.to_vec(), lease }).await
    }

    async fn workers(&self, within: Duration) -> Result<Vec<WorkerRecord>, StoreError> {
        self.writer.write(Workers(within)).await
    }

    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError> {
        self.writer.write(Retire(worker)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let now = self.clock.now().as_micros();
        let next = move |open: &_| connect::row(open, NEXT_DUE, [now], |columns| columns.maybe_time());
        Ok(self.readers.read(next).await?.flatten())
    }

    async fn claim_triggers(
        &self,
        limit: u32,
        per_project: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedTrigger>, StoreError> {
        self.writer.write(ClaimTriggers { limit, per_project, lease }).await
    }

    async fn fire_trigger(&self, fire: TriggerFire) -> Result<Vec<Accepted>, StoreError> {
        check_fire(&fire)?;
        self.writer.write(FireTrigger(fire)).await
    }

    async fn route(&self, token: LookupHash) -> Result<Option<Route>, StoreError> {
        let sql = "SELECT project, id, published, enabled, generation FROM ap_flows WHERE webhook = ?";
        self.readers.read(move |open| connect::row(open, sql, [token.0], read_route)).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        self.writer.write(Sweep(limit)).await
    }

    async fn due_connections(&self, limit: u32) -> Result<Vec<ConnectionRecord>, StoreError> {
        let sql = "SELECT id, scope, name, created, updated, due, revision, sealed \
            FROM ap_connections WHERE due <= ? ORDER BY due LIMIT ?";
        let of = (self.clock.now().as_micros(), limit);
        self.readers.read(move |open| connect::rows(open, sql, of, read_connection)).await
    }
}

struct Heartbeat {
    worker: WorkerRecord,
    leases: Vec<Lease>,
    lease: Duration,
}

impl Operation for Heartbeat {
    type Output = Beat;

    fn bytes(&self) -> usize {
        self.leases.len() * std::mem::size_of::<Lease>()
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Beat, Failure> {
        let WorkerRecord { id, name, started, capacity, running, draining, .. } = &self.worker;
        let now = transaction.now;
        transaction.run(
            "INSERT INTO ap_workers (id, name, started, seen, capacity, running, draining) \
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, \
             started = excluded.started, seen = excluded.seen, capacity = excluded.capacity, \
             running = excluded.running, draining = excluded.draining",
            params![id.as_bytes(), name, started.as_micros(), now.as_micros(), capacity, running, draining],
        )?;
        let until = now.saturating_add(self.lease).as_micros();
        let mut beat = Beat::default();
        for lease in &self.leases {
            let held = transaction.run(
                "UPDATE ap_runs SET lease = ? WHERE project = ? AND id = ? AND epoch = ? AND status = 'RUNNING'",
                params![until, lease.project.as_bytes(), lease.run.as_bytes(), uint(lease.epoch)?],
            )?;
            if held == 0 {
                beat.lost.push(*lease);
            } else if is_signaled(transaction, lease.project, lease.run)? {
                beat.signaled.push(*lease);
            }
        }
        Ok(beat)
    }
}

struct Workers(Duration);

impl Operation for Workers {
    type Output = Vec<WorkerRecord>;

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Vec<WorkerRecord>, Failure> {
        let long_ago = transaction.now.saturating_sub(REMEMBERED).as_micros();
        transaction.run("DELETE FROM ap_workers WHERE seen < ?", [long_ago])?;
        let recent = transaction.now.saturating_sub(self.0).as_micros();
        let workers = transaction.rows(
            "SELECT id, name, started, seen, capacity, running, draining FROM ap_workers WHERE seen >= ? ORDER BY id",
            [recent],
            read_worker,
        )?;
        Ok(workers)
    }
}

struct Retire(WorkerId);

impl Operation for Retire {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        transaction.run("DELETE FROM ap_workers WHERE id = ?", [self.0.as_bytes()])?;
        Ok(())
    }
}

struct Sweep(u32);

impl Operation for Sweep {
    type Output = u64;

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<u64, Failure> {
        let arguments = params![transaction.now.as_micros(), self.0];
        let deliveries = transaction.run(SWEEP_DELIVERIES, arguments)?;
        let paces = transaction.run(SWEEP_PACES, arguments)?;
        Ok(deliveries.max(paces) as u64)
    }
}

fn read_route(columns: &mut Columns<'_>) -> rusqlite::Result<Route> {
    Ok(Route {
        project: columns.id(ProjectId::from_slice)?,
        flow: columns.id(FlowId::from_slice)?,
        published: columns.maybe_id(FlowVersionId::from_slice)?,
        enabled: columns.flag()?,
        generation: columns.uint()?,
    })
}

fn read_worker(columns: &mut Columns<'_>) -> rusqlite::Result<WorkerRecord> {
    Ok(WorkerRecord {
        id: columns.id(WorkerId::from_slice)?,
        name: columns.text()?.to_owned(),
        started: columns.time()?,
        seen: columns.time()?,
        capacity: columns.small()?,
        running: columns.small()?,
        draining: columns.flag()?,
    })
}

/// Each part is the first entry of an index, triggers that are leased apart, which are few.
pub(super) const NEXT_DUE: &str = "SELECT min(at) FROM ( \
    SELECT * FROM (SELECT due AS at FROM ap_runs WHERE passed = 1 AND due > ?1 ORDER BY due LIMIT 1) \
    UNION ALL SELECT * FROM (SELECT lease FROM ap_runs WHERE lease > ?1 ORDER BY lease LIMIT 1) \
    UNION ALL SELECT * FROM \
        (SELECT due FROM ap_triggers WHERE active = 1 AND due > ?1 AND lease IS NULL ORDER BY due LIMIT 1) \
    UNION ALL SELECT max(lease, due) FROM ap_triggers \
        WHERE lease IS NOT NULL AND active = 1 AND due IS NOT NULL AND max(lease, due) > ?1)";
pub(super) const SWEEP_DELIVERIES: &str = "DELETE FROM ap_deliveries WHERE (project, key) IN \
    (SELECT project, key FROM ap_deliveries WHERE expires <= ? ORDER BY expires LIMIT ?)";
pub(super) const SWEEP_PACES: &str = "DELETE FROM ap_paces WHERE (project, kind, key) IN \
    (SELECT project, kind, key FROM ap_paces WHERE due <= ? ORDER BY due LIMIT ?)";
/// How long a worker is remembered that no longer reports.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
