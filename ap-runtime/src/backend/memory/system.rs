//! What crosses projects: acceptance, claims, workers, triggers, routes, sweeping.

use std::time::Duration;

use ap_core::{
    audit::AuditRecord,
    id::WorkerId,
    store::{Entity, LookupHash, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::MemoryBackend;
use crate::{
    backend::{check_accept, check_fire},
    store::{
        Accept, Accepted, Beat, ClaimRequest, Claimed, ClaimedTrigger, ConnectionRecord, Lease, Route, SystemStore,
        TriggerFire, WorkerRecord,
    },
};

#[async_trait]
impl SystemStore for MemoryBackend {
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        check_accept(&accept)?;
        let now = self.clock.now();
        let mut state = self.lock();
        state.check_subject(&accept)?;
        let terms = match state.terms(&accept, false, now) {
            Ok(terms) => terms,
            Err(refused) => return Ok(refused),
        };
        if state.runs.contains_key(&(accept.run.project, accept.run.id)) {
            return Err(StoreError::AlreadyExists { entity: Entity::Run });
        }
        state.append_audit(audit)?;
        Ok(Accepted::Created { leased: state.create_run(accept, terms, now) })
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let now = self.clock.now();
        Ok(self.lock().claim(&request, now))
    }

    async fn heartbeat(&self, worker: &WorkerRecord, leases: &[Lease], lease: Duration) -> Result<Beat, StoreError> {
        let now = self.clock.now();
        let until = now.saturating_add(lease);
        let mut state = self.lock();
        state.workers.insert(worker.id, WorkerRecord { seen: now, ..worker.clone() });
        let mut beat = Beat::default();
        for held in leases {
            let Some(signaled) = state.held(held).map(|run| !run.signals.is_empty()) else {
                beat.lost.push(*held);
                continue;
            };
            state.change_run((held.project, held.run), now, |run| run.leased_until = Some(until));
            if signaled {
                beat.signaled.push(*held);
            }
        }
        Ok(beat)
    }

    async fn workers(&self, within: Duration) -> Result<Vec<WorkerRecord>, StoreError> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.workers.retain(|_, worker| now.saturating_since(worker.seen) <= REMEMBERED);
        let recent = |worker: &&WorkerRecord| now.saturating_since(worker.seen) <= within;
        Ok(state.workers.values().filter(recent).cloned().collect())
    }

    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError> {
        self.lock().workers.remove(&worker);
        Ok(())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let now = self.clock.now();
        let state = self.lock();
        Ok([state.schedule.next_timer(now), state.next_trigger(now)].into_iter().flatten().min())
    }

    async fn claim_triggers(
        &self,
        limit: u32,
        per_project: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedTrigger>, StoreError> {
        let now = self.clock.now();
        Ok(self.lock().claim_triggers((limit, per_project), now.saturating_add(lease), now))
    }

    async fn fire_trigger(&self, fire: TriggerFire) -> Result<Vec<Accepted>, StoreError> {
        check_fire(&fire)?;
        let now = self.clock.now();
        self.lock().fire_trigger(fire, now)
    }

    async fn route(&self, token: LookupHash) -> Result<Option<Route>, StoreError> {
        let state = self.lock();
        let flow = state.webhooks.get(&token).and_then(|key| state.flows.get(key));
        Ok(flow.map(|flow| Route {
            project: flow.project,
            flow: flow.id,
            published: flow.published,
            enabled: flow.enabled,
            generation: flow.generation,
        }))
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let (mut deliveries, mut paces) = (0, 0);
        state.deliveries.retain(|_, delivery| keep(delivery.expires, now, limit, &mut deliveries));
        state.paces.retain(|_, due| keep(*due, now, limit, &mut paces));
        state.series.retain(|_, series| series.until > now);
        Ok(deliveries.max(paces))
    }

    async fn due_connections(&self, limit: u32) -> Result<Vec<ConnectionRecord>, StoreError> {
        let now = self.clock.now();
        let state = self.lock();
        let records = state.connections.values().map(|stored| &stored.record);
        let mut due: Vec<_> = records.filter(|record| record.due.is_some_and(|due| due <= now)).cloned().collect();
        due.sort_by_key(|record| record.due);
        due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(due)
    }
}

/// Whether something stays that may go from `until` on; counts what goes, up to `limit`.
fn keep(until: Timestamp, now: Timestamp, limit: u32, swept: &mut u64) -> bool {
    let goes = until <= now && *swept < u64::from(limit);
    *swept += u64::from(goes);
    !goes
}

/// How long a worker is remembered that no longer reports.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
