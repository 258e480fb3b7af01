//! Runs, their journals, and what crosses projects.

use std::{collections::BTreeMap, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, RunId},
    run::RunStatus,
    store::{Entity, LookupHash, Page, PageRequest, StoreError},
};
use async_trait::async_trait;

use super::{Delivery, MemoryBackend, Run, State, page_of};
use crate::{
    backend::{check_accept, check_commit},
    store::{
        Accept, Accepted, Claimed, JournalEntry, Lease, Route, RunChange, RunCommit, RunRecord, RunStore, SystemStore,
    },
};

#[async_trait]
impl RunStore for MemoryBackend {
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_commit(&commit)?;
        let mut state = self.lock();
        let held = state.held(&commit.lease).ok_or(StoreError::Fenced)?;
        if commit.entries.iter().any(|entry| held.journal.contains_key(&entry.seq)) {
            return Err(StoreError::AlreadyExists { entity: Entity::JournalEntry });
        }
        state.append_audit(audit)?;
        let held = state.held(&commit.lease).ok_or(StoreError::Fenced)?;
        held.journal.extend(commit.entries.into_iter().map(|entry| (entry.seq, entry)));
        match commit.change {
            RunChange::End { status, at } => {
                held.record.status = status;
                held.record.finished = Some(at);
                held.leased_until = None;
            }
            RunChange::Release => {
                held.record.status = RunStatus::Queued;
                held.leased_until = None;
            }
            RunChange::Park { .. } => return Err(crate::backend::misuse("not built yet")),
            RunChange::Stay => {}
        }
        Ok(())
    }

    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError> {
        let state = self.lock();
        state.runs.get(&(project, id)).map(|run| run.record.clone()).ok_or(StoreError::NotFound { entity: Entity::Run })
    }

    async fn runs(
        &self,
        filter: crate::store::RunFilter,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        let state = self.lock();
        let wanted = |run: &&RunRecord| run.project == project && filter.flow.is_none_or(|flow| run.flow == flow);
        let rows = state.runs.values().map(|run| &run.record).filter(wanted).map(|run| (run.id.as_u128(), run));
        Ok(page_of(rows, page))
    }

    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError> {
        let state = self.lock();
        let run = state.runs.get(&(project, id)).ok_or(StoreError::NotFound { entity: Entity::Run })?;
        Ok(run.journal.values().cloned().collect())
    }

    async fn reopen(
        &self,
        _id: RunId,
        _project: ProjectId,
        _entry: JournalEntry,
        _audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn signal(
        &self,
        _signal: crate::store::SignalRecord,
        _audit: &[AuditRecord],
    ) -> Result<crate::store::Signaled, StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }

    async fn signals(&self, _run: RunId, _project: ProjectId) -> Result<Vec<crate::store::SignalRecord>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl SystemStore for MemoryBackend {
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        check_accept(&accept)?;
        let now = self.clock.now();
        let mut state = self.lock();
        let Accept { mut run, generation, dedupe, entry, lease, .. } = accept;
        if lease.is_some() {
            run.status = RunStatus::Running;
        }
        let delivery = dedupe.and_then(|dedupe| state.deliveries.get(&(run.project, dedupe.key)));
        if let Some(delivery) = delivery.filter(|delivery| delivery.expires > now) {
            return Ok(Accepted::Duplicate(delivery.run));
        }
        let open = state
            .flows
            .get(&(run.project, run.flow))
            .is_some_and(|flow| flow.enabled && flow.published == Some(run.version) && flow.generation == generation);
        if !open {
            return Ok(Accepted::Stale);
        }
        if state.runs.contains_key(&(run.project, run.id)) {
            return Err(StoreError::AlreadyExists { entity: Entity::Run });
        }
        state.append_audit(audit)?;
        if let Some(dedupe) = dedupe {
            let delivery = Delivery { run: run.id, expires: dedupe.expires };
            state.deliveries.insert((run.project, dedupe.key), delivery);
        }
        let stored = Run {
            epoch: u64::from(lease.is_some()),
            leased_until: lease.map(|lease| now.saturating_add(lease)),
            journal: BTreeMap::from([(entry.seq, entry)]),
            record: run,
        };
        state.runs.insert((stored.record.project, stored.record.id), stored);
        Ok(Accepted::Created { leased: lease.is_some() })
    }

    async fn claim(&self, request: crate::store::ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let (limit, lease) = (request.limit, request.lease);
        let now = self.clock.now();
        let mut state = self.lock();
        let mut free: Vec<&mut Run> = state
            .runs
            .values_mut()
            .filter(|run| match run.record.status {
                RunStatus::Queued => true,
                RunStatus::Running => run.leased_until.is_none_or(|until| until <= now),
                _ => false,
            })
            .collect();
        free.sort_by_key(|run| (run.record.created, run.record.id, run.record.project));
        let claim = |run: &mut Run| {
            run.epoch = run.epoch.saturating_add(1);
            run.leased_until = Some(now.saturating_add(lease));
            run.record.status = RunStatus::Running;
            let RunRecord { id, project, flow, version, .. } = run.record;
            Claimed { lease: Lease { project, run: id, epoch: run.epoch }, flow, version }
        };
        Ok(free.into_iter().take(limit as usize).map(claim).collect())
    }

    async fn heartbeat(
        &self,
        _worker: &crate::store::WorkerRecord,
        leases: &[Lease],
        lease: Duration,
    ) -> Result<crate::store::Beat, StoreError> {
        let until = self.clock.now().saturating_add(lease);
        let mut state = self.lock();
        let mut lost = Vec::new();
        for held in leases {
            match state.held(held) {
                Some(run) => run.leased_until = Some(until),
                None => lost.push(*held),
            }
        }
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
        let mut swept = 0;
        state.deliveries.retain(|_, delivery| {
            let keep = swept == u64::from(limit) || delivery.expires > now;
            swept += u64::from(!keep);
            keep
        });
        Ok(swept)
    }
}

#[async_trait]
impl crate::store::QueueStore for MemoryBackend {
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
impl crate::store::FileStore for MemoryBackend {
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

impl State {
    /// The run, if this lease is the right to write to it. An expired lease is held until somebody claims the run.
    fn held(&mut self, lease: &Lease) -> Option<&mut Run> {
        let run = self.runs.get_mut(&(lease.project, lease.run))?;
        (run.epoch == lease.epoch && run.record.status == RunStatus::Running).then_some(run)
    }
}
