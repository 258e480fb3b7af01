//! What crosses projects: acceptance, claims, workers, triggers, routes, sweeping.

use std::{collections::BTreeMap, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, RunId, WorkerId},
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    PostgresBackend,
    claim::Claim,
    connection::read_connection,
    link::{Failure, Transaction, read_all},
    trigger::{ClaimTriggers, Fire},
    value::{Columns, Id, signed, signed_small},
    writer::Operation,
};
use crate::{
    backend::{check_accept, check_fire},
    store::{
        Accept, Accepted, Beat, ClaimRequest, Claimed, ClaimedTrigger, ConnectionRecord, Lease, Route, SystemStore,
        TriggerFire, WorkerRecord,
    },
};

#[async_trait]
impl SystemStore for PostgresBackend {
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        check_accept(&accept)?;
        self.writer.accept(accept, audit).await
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
        let now = self.connector.given_time().map(Timestamp::as_micros);
        let next = self.row(sqlx::query(NEXT_DUE).bind(now), |row| Columns::of(row).maybe_time()).await?;
        Ok(next.flatten())
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
        self.writer.write(Fire(fire)).await
    }

    async fn route(&self, token: LookupHash) -> Result<Option<Route>, StoreError> {
        self.row(sqlx::query(ROUTE).bind(token.0.to_vec()), read_route).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        self.writer.write(Sweep(limit)).await
    }

    async fn due_connections(&self, limit: u32) -> Result<Vec<ConnectionRecord>, StoreError> {
        let now = self.connector.given_time().map(Timestamp::as_micros);
        let query = sqlx::query(DUE_CONNECTIONS).bind(now).bind(i64::from(limit));
        self.rows(query, |row| read_connection(&mut Columns::of(row))).await
    }
}

struct Heartbeat {
    worker: WorkerRecord,
    leases: Vec<Lease>,
    lease: Duration,
}

#[async_trait]
impl Operation for Heartbeat {
    type Output = Beat;

    fn bytes(&self) -> usize {
        self.leases.len() * std::mem::size_of::<Lease>()
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Beat, Failure> {
        let WorkerRecord { id, name, started, capacity, running, draining, .. } = &self.worker;
        sqlx::query(REPORT)
            .bind(Id::from(*id))
            .bind(name)
            .bind(started.as_micros())
            .bind(transaction.now.as_micros())
            .bind(signed_small(*capacity))
            .bind(signed_small(*running))
            .bind(draining)
            .execute(&mut *transaction.connection)
            .await?;
        if self.leases.is_empty() {
            return Ok(Beat::default());
        }
        let rows = sqlx::query(EXTEND)
            .bind(self.leases.iter().map(|lease| Id::from(lease.project)).collect::<Vec<_>>())
            .bind(self.leases.iter().map(|lease| Id::from(lease.run)).collect::<Vec<_>>())
            .bind(self.leases.iter().map(|lease| signed(lease.epoch)).collect::<Vec<_>>())
            .bind(transaction.now.saturating_add(self.lease).as_micros())
            .fetch_all(&mut *transaction.connection)
            .await?;
        let read = |row: &PgRow| {
            let mut columns = Columns::of(row);
            Ok(((columns.id()?, columns.id()?, columns.count()?), columns.value()?))
        };
        let held: BTreeMap<(ProjectId, RunId, u64), bool> = read_all(&rows, read)?.into_iter().collect();
        let mut beat = Beat::default();
        for lease in &self.leases {
            match held.get(&(lease.project, lease.run, lease.epoch)) {
                Some(false) => {}
                Some(true) => beat.signaled.push(*lease),
                None => beat.lost.push(*lease),
            }
        }
        Ok(beat)
    }
}

struct Workers(Duration);

#[async_trait]
impl Operation for Workers {
    type Output = Vec<WorkerRecord>;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Vec<WorkerRecord>, Failure> {
        let forgotten = transaction.now.saturating_sub(REMEMBERED).as_micros();
        let query = sqlx::query("DELETE FROM ap_workers WHERE seen < $1").bind(forgotten);
        query.execute(&mut *transaction.connection).await?;
        let since = transaction.now.saturating_sub(self.0).as_micros();
        let rows = sqlx::query(WORKERS).bind(since).fetch_all(&mut *transaction.connection).await?;
        Ok(read_all(&rows, read_worker)?)
    }
}

struct Retire(WorkerId);

#[async_trait]
impl Operation for Retire {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let query = sqlx::query("DELETE FROM ap_workers WHERE id = $1").bind(Id::from(self.0));
        query.execute(&mut *transaction.connection).await?;
        Ok(())
    }
}

struct Sweep(u32);

#[async_trait]
impl Operation for Sweep {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, Failure> {
        let mut most = 0;
        for (text, counts) in [(SWEEP_DELIVERIES, true), (SWEEP_PACES, true), (SWEEP_SERIES, false)] {
            let query = sqlx::query(text).bind(transaction.now.as_micros()).bind(i64::from(self.0));
            let swept = query.execute(&mut *transaction.connection).await?.rows_affected();
            if counts {
                most = swept.max(most);
            }
        }
        Ok(most)
    }
}

fn read_worker(row: &PgRow) -> sqlx::Result<WorkerRecord> {
    let mut columns = Columns::of(row);
    Ok(WorkerRecord {
        id: columns.id()?,
        name: columns.value()?,
        started: columns.time()?,
        seen: columns.time()?,
        capacity: columns.small()?,
        running: columns.small()?,
        draining: columns.value()?,
    })
}

fn read_route(row: &PgRow) -> sqlx::Result<Route> {
    let mut columns = Columns::of(row);
    Ok(Route {
        project: columns.id()?,
        flow: columns.id()?,
        published: columns.maybe_id()?,
        enabled: columns.value()?,
        generation: columns.count()?,
    })
}

const REPORT: &str = "INSERT INTO ap_workers (id, name, started, seen, capacity, running, draining) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE SET name = excluded.name, \
    started = excluded.started, seen = excluded.seen, capacity = excluded.capacity, running = excluded.running, \
    draining = excluded.draining";
const EXTEND: &str = "WITH held AS ( \
        SELECT run.project, run.id FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS lease (project, id, epoch) \
        JOIN ap_runs AS run ON run.project = lease.project AND run.id = lease.id \
        WHERE run.epoch = lease.epoch AND run.status = 'RUNNING' \
        ORDER BY run.project, run.id FOR NO KEY UPDATE OF run \
    ) UPDATE ap_runs AS run SET lease = $4 FROM held WHERE run.project = held.project AND run.id = held.id \
    RETURNING run.project, run.id, run.epoch, run.signaled";
const WORKERS: &str = "SELECT id, name, started, seen, capacity, running, draining FROM ap_workers \
    WHERE seen >= $1 ORDER BY id";
const ROUTE: &str = "SELECT project, id, published, enabled, generation FROM ap_flows WHERE webhook = $1";
const DUE_CONNECTIONS: &str = "SELECT id, scope, name, created, updated, due, revision, sealed FROM ap_connections \
    WHERE due <= coalesce($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) ORDER BY due LIMIT $2";
const NEXT_DUE: &str = "WITH clock AS MATERIALIZED ( \
        SELECT coalesce($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS now \
    ) SELECT min(at) FROM ( \
        (SELECT due AS at FROM ap_runs WHERE due > (SELECT now FROM clock) AND passed ORDER BY due LIMIT 1) \
        UNION ALL SELECT min(lease) FROM ap_runs WHERE status = 'RUNNING' AND lease > (SELECT now FROM clock) \
        UNION ALL (SELECT waiting.due FROM ap_triggers AS waiting \
            JOIN ap_flows AS flow ON flow.project = waiting.project AND flow.id = waiting.flow \
            WHERE waiting.due > (SELECT now FROM clock) AND waiting.lease IS NULL \
            AND flow.enabled AND flow.published IS NOT NULL ORDER BY waiting.due LIMIT 1) \
        UNION ALL SELECT min(greatest(claimed.due, claimed.lease)) FROM ap_triggers AS claimed \
            JOIN ap_flows AS flow ON flow.project = claimed.project AND flow.id = claimed.flow \
            WHERE claimed.lease IS NOT NULL AND claimed.due IS NOT NULL \
            AND greatest(claimed.due, claimed.lease) > (SELECT now FROM clock) \
            AND flow.enabled AND flow.published IS NOT NULL \
    ) AS times";
const SWEEP_DELIVERIES: &str = "DELETE FROM ap_deliveries WHERE (project, key) IN (SELECT project, key FROM ap_deliveries \
    WHERE expires <= $1 ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED)";
const SWEEP_PACES: &str = "DELETE FROM ap_paces WHERE (project, kind, key) IN (SELECT project, kind, key FROM ap_paces \
    WHERE due <= $1 ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED)";
const SWEEP_SERIES: &str = "DELETE FROM ap_series WHERE (project, key) IN (SELECT project, key FROM ap_series \
    WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED)";
/// How long a worker is remembered that no longer reports.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
