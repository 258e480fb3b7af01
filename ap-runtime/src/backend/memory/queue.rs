//! Queues of jobs.

use std::collections::BTreeSet;

use ap_core::{
    audit::AuditRecord,
    id::{JobId, ProjectId},
    store::{LookupHash, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::{
    HashKey, MemoryBackend, RunKey, State,
    accept::{PaceKey, PaceKind},
};
use crate::store::{HeldJob, HeldJobs, JobEnd, JobRequest, NewJob, QueueCounts, QueueStore};

/// A job and who holds it.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) queue: LookupHash,
    pub(super) sealed: Sealed,
    held: Option<Hold>,
}

#[derive(Clone, Copy)]
struct Hold {
    holder: LookupHash,
    start: Timestamp,
}

/// The jobs of one queue, each in one of the sets.
#[derive(Clone, Default)]
pub(super) struct Queue {
    waiting: BTreeSet<JobId>,
    held: BTreeSet<JobId>,
    dead: BTreeSet<JobId>,
}

#[async_trait]
impl QueueStore for MemoryBackend {
    async fn take_jobs(&self, request: JobRequest) -> Result<HeldJobs, StoreError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let JobRequest { lease, queue, holder, limit, max_concurrent, .. } = request;
        let key = (lease.project, lease.run);
        let run = state.held(&lease).ok_or(StoreError::Fenced)?;
        let mut own: BTreeSet<JobId> = run.jobs.clone();
        own.retain(|id| state.jobs.get(&(lease.project, *id)).is_some_and(|job| job.is_held_for(queue, holder)));

        let (waiting, held) =
            state.queues.get(&(lease.project, queue)).map_or((0, 0), |queue| (queue.waiting.len(), queue.held.len()));
        let wanted = (limit as usize).saturating_sub(own.len());
        let wanted = wanted.min((max_concurrent as usize).saturating_sub(held)).min(waiting);
        for _ in 0..wanted {
            own.extend(state.take_job(key, &request, now));
        }
        let jobs = own.into_iter().filter_map(|id| {
            let job = state.jobs.get(&(lease.project, id))?;
            Some(HeldJob { id, start: job.held?.start, sealed: job.sealed.clone() })
        });
        Ok(HeldJobs { jobs: jobs.collect(), waiting: (waiting.saturating_sub(wanted)) as u64 })
    }

    async fn queue_counts(&self, queue: LookupHash, project: ProjectId) -> Result<QueueCounts, StoreError> {
        let state = self.lock();
        let count = |queue: &Queue| QueueCounts {
            waiting: queue.waiting.len() as u64,
            held: queue.held.len() as u64,
            dead: queue.dead.len() as u64,
        };
        Ok(state.queues.get(&(project, queue)).map(count).unwrap_or_default())
    }

    async fn redrive(
        &self,
        queue: LookupHash,
        project: ProjectId,
        limit: u32,
        audit: &[AuditRecord],
    ) -> Result<u64, StoreError> {
        let mut state = self.lock();
        state.append_audit(audit)?;
        let Some(queue) = state.queues.get_mut(&(project, queue)) else { return Ok(0) };
        let again: Vec<JobId> = queue.dead.iter().take(limit as usize).copied().collect();
        for id in &again {
            queue.dead.remove(id);
            queue.waiting.insert(*id);
        }
        Ok(again.len() as u64)
    }
}

impl State {
    pub(super) fn add_job(&mut self, project: ProjectId, job: NewJob) {
        let NewJob { id, queue, sealed } = job;
        self.queues.entry((project, queue)).or_default().waiting.insert(id);
        self.jobs.insert((project, id), Job { queue, sealed, held: None });
    }

    /// Does what became of a job. One that the run does not hold is passed over.
    pub(super) fn end_job(&mut self, key: RunKey, id: JobId, end: JobEnd) {
        if !self.runs.get_mut(&key).is_some_and(|run| run.jobs.remove(&id)) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&(key.0, id)) else { return };
        job.held = None;
        let queue = (key.0, job.queue);
        let sets = self.queues.entry(queue).or_default();
        sets.held.remove(&id);
        match end {
            JobEnd::Back => {
                sets.waiting.insert(id);
            }
            JobEnd::Dead => {
                sets.dead.insert(id);
            }
            JobEnd::Done => {
                self.jobs.remove(&(key.0, id));
            }
        }
        self.forget_empty_queue(queue);
    }

    /// Gives back every job the run holds.
    pub(super) fn give_back_jobs(&mut self, key: RunKey) {
        let held = self.runs.get_mut(&key).map(|run| std::mem::take(&mut run.jobs)).unwrap_or_default();
        for id in held {
            let Some(job) = self.jobs.get_mut(&(key.0, id)) else { continue };
            job.held = None;
            let queue = self.queues.entry((key.0, job.queue)).or_default();
            queue.held.remove(&id);
            queue.waiting.insert(id);
        }
    }

    /// Takes the oldest waiting job of the queue.
    fn take_job(&mut self, key: RunKey, request: &JobRequest, now: Timestamp) -> Option<JobId> {
        let queue = self.queues.get_mut(&(key.0, request.queue))?;
        let id = queue.waiting.pop_first()?;
        queue.held.insert(id);
        let pace: PaceKey = (key.0, PaceKind::Queue, request.queue);
        let start = self.paces.get(&pace).map_or(now, |next| now.max(*next));
        if !request.spacing.is_zero() {
            self.paces.insert(pace, start.saturating_add(request.spacing));
        }
        let job = self.jobs.get_mut(&(key.0, id))?;
        job.held = Some(Hold { holder: request.holder, start });
        self.runs.get_mut(&key)?.jobs.insert(id);
        Some(id)
    }

    fn forget_empty_queue(&mut self, key: HashKey) {
        let empty = |queue: &Queue| queue.waiting.is_empty() && queue.held.is_empty() && queue.dead.is_empty();
        if self.queues.get(&key).is_some_and(empty) {
            self.queues.remove(&key);
        }
    }
}

impl Job {
    fn is_held_for(&self, queue: LookupHash, holder: LookupHash) -> bool {
        self.queue == queue && self.held.is_some_and(|hold| hold.holder == holder)
    }
}
