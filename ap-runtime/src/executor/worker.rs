//! The worker: claims runs, keeps their leases alive, and spawns one task per run under way. No other file spawns.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ap_core::{audit::AuditRecord, flow::ValidFlow, id::RunId, run::RunStatus, store::StoreError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::driver::{Driver, Stopped};
use crate::{
    engine::RunState,
    journal::RunError,
    kernel::Kernel,
    store::{Accept, Accepted, Claimed, Lease, RunChange, RunCommit, RunRecord},
};

/// Executes runs of one process.
#[derive(Debug)]
pub(crate) struct Worker {
    kernel: Arc<Kernel>,
    permits: Arc<Semaphore>,
    /// Leases this process holds, each with the switch that stops its driver.
    held: Mutex<BTreeMap<RunId, Held>>,
    /// Wakes the claim loop.
    wake: Arc<Notify>,
    /// Whether runs may be waiting in the queue for a permit.
    backlog: AtomicBool,
    closing: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    lost: CancellationToken,
}

/// The right to execute one more run here.
type Permit = OwnedSemaphorePermit;

/// A run to be accepted.
pub(crate) struct Submission {
    /// What to create; status and lease are the worker's to fill in.
    pub(crate) accept: Accept,
    /// Audit records of the acceptance.
    pub(crate) audit: Vec<AuditRecord>,
    /// The version the run is pinned to.
    pub(crate) flow: Arc<ValidFlow>,
    /// The state after the first event.
    pub(crate) state: RunState,
}

impl Worker {
    /// Starts claiming. Runs that an earlier process left behind are taken up at once.
    pub(crate) fn start(kernel: Arc<Kernel>) -> Arc<Self> {
        let permits = usize::try_from(kernel.worker_options.concurrency()).unwrap_or(Semaphore::MAX_PERMITS);
        let worker = Arc::new(Self {
            permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            kernel,
            held: Mutex::default(),
            wake: Arc::default(),
            backlog: AtomicBool::new(false),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        // The loops hold the worker weakly: a runtime that is dropped without `shutdown` stops them too.
        worker.tasks.spawn(claim_loop(Arc::downgrade(&worker), worker.closing.clone()));
        worker.tasks.spawn(heartbeat_loop(Arc::downgrade(&worker), worker.closing.clone()));
        worker.tasks.spawn(housekeeping_loop(Arc::clone(&worker.kernel), worker.closing.clone()));
        worker
    }

    /// The right to execute one more run here, if there is any left: what decides whether a run is accepted leased.
    fn try_permit(&self) -> Option<Permit> {
        if self.closing.is_cancelled() {
            return None;
        }
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Accepts a run and, if it was leased to this process, executes it.
    ///
    /// # Cancel safety
    /// Acceptance and execution belong to a task of the worker: dropping the receiver cancels neither.
    pub(crate) fn submit(self: &Arc<Self>, submission: Submission) -> oneshot::Receiver<Result<Accepted, StoreError>> {
        let (answer, accepted) = oneshot::channel();
        let worker = Arc::clone(self);
        self.tasks.spawn(async move {
            let permit = worker.try_permit();
            let Submission { accept, audit, flow, state } = submission;
            let ids = (accept.run.project, accept.run.id, accept.run.flow, accept.run.version);
            let accept = Accept {
                run: RunRecord {
                    status: if permit.is_some() { RunStatus::Running } else { RunStatus::Queued },
                    ..accept.run
                },
                lease: permit.is_some().then(|| worker.kernel.worker_options.lease()),
                ..accept
            };
            let result = worker.kernel.backend.accept(accept, &audit).await;
            let created = matches!(result, Ok(Accepted::Created));
            // Nobody listening any more changes nothing.
            let _ = answer.send(result);
            match (created, permit) {
                (true, Some(permit)) => {
                    let (project, run, flow_id, version) = ids;
                    let claimed = Claimed { lease: Lease { project, run, epoch: FIRST_EPOCH }, flow: flow_id, version };
                    worker.drive_fresh(claimed, flow, state).await;
                    worker.give_back(permit);
                }
                (true, None) => worker.wake(),
                (false, permit) => permit.into_iter().for_each(|permit| worker.give_back(permit)),
            }
        });
        accepted
    }

    async fn drive_fresh(&self, claimed: Claimed, flow: Arc<ValidFlow>, state: RunState) {
        let lost = self.hold(claimed.lease);
        let result = match Driver::fresh(Arc::clone(&self.kernel), claimed, flow, state, lost).await {
            Ok(driver) => driver.run().await,
            Err(error) => Err(error),
        };
        self.settle(claimed, result).await;
    }

    /// Says that something may be waiting in the queue.
    fn wake(&self) {
        self.backlog.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Stops claiming, waits up to `grace` for runs under way, then gives up the rest; a later process recovers those.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        self.closing.cancel();
        self.tasks.close();
        let until = self.kernel.clock.now().saturating_add(grace);
        tokio::select! {
            biased;
            () = self.tasks.wait() => return,
            () = self.kernel.clock.sleep_until(until) => {}
        }
        for held in self.held().values() {
            held.lost.cancel();
        }
        self.tasks.wait().await;
    }

    fn resume(self: &Arc<Self>, claimed: Claimed, permit: Permit) {
        let lost = self.hold(claimed.lease);
        let worker = Arc::clone(self);
        self.tasks.spawn(async move {
            let result = match Driver::resume(Arc::clone(&worker.kernel), claimed, lost).await {
                Ok(driver) => driver.run().await,
                Err(error) => Err(error),
            };
            worker.settle(claimed, result).await;
            worker.give_back(permit);
        });
    }

    /// Lets go of a run after its driver stopped.
    async fn settle(&self, claimed: Claimed, result: Result<Stopped, RunError>) {
        match result {
            Ok(Stopped::Ended) => {}
            Ok(Stopped::LeaseLost) => tracing::info!(run = %claimed.lease.run, "another owner took the run over"),
            Err(error) if error.is_final() => {
                tracing::error!(run = %claimed.lease.run, error = %error, "the run cannot be continued and is ended");
                self.end_broken(claimed.lease).await;
            }
            Err(error) => {
                // Its lease expires, and whoever claims it then tries again.
                tracing::error!(run = %claimed.lease.run, error = %error, "the run is put off");
            }
        }
        let mut held = self.held();
        if held.get(&claimed.lease.run).is_some_and(|entry| entry.lease == claimed.lease) {
            held.remove(&claimed.lease.run);
        }
    }

    /// Ends a run whose journal cannot be read: nothing can be appended to it, so only its status changes.
    async fn end_broken(&self, lease: Lease) {
        let change = RunChange::End { status: RunStatus::InternalError, at: self.kernel.clock.now() };
        let commit = RunCommit { lease, entries: Vec::new(), change };
        if let Err(error) = self.kernel.backend.commit(commit, &[]).await {
            tracing::error!(run = %lease.run, error = %error, "the status of a broken run could not be written");
        }
    }

    fn hold(&self, lease: Lease) -> CancellationToken {
        let lost = CancellationToken::new();
        let previous = self.held().insert(lease.run, Held { lease, lost: lost.clone() });
        // This very process lost the lease, say while it was suspended, and has just claimed the run again.
        if let Some(previous) = previous {
            previous.lost.cancel();
        }
        lost
    }

    fn give_back(&self, permit: Permit) {
        drop(permit);
        if self.backlog.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<RunId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims as many runs as there are permits. Returns whether the queue may hold more.
    async fn claim(self: &Arc<Self>) -> bool {
        self.backlog.store(false, Ordering::Release);
        let mut permits = Vec::new();
        while permits.len() < CLAIM_BATCH
            && let Some(permit) = self.try_permit()
        {
            permits.push(permit);
        }
        if permits.is_empty() {
            self.backlog.store(true, Ordering::Release);
            return false;
        }
        let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
        match self.kernel.backend.claim(limit, self.kernel.worker_options.lease()).await {
            Ok(claimed) => {
                let full = claimed.len() == permits.len();
                if full {
                    self.backlog.store(true, Ordering::Release);
                }
                for (claimed, permit) in claimed.into_iter().zip(permits) {
                    self.resume(claimed, permit);
                }
                full
            }
            Err(error) => {
                tracing::warn!(error = %error, "claiming runs failed");
                false
            }
        }
    }

    async fn heartbeat(&self) {
        let leases: Vec<Lease> = self.held().values().map(|held| held.lease).collect();
        if leases.is_empty() {
            return;
        }
        match self.kernel.backend.heartbeat(&leases, self.kernel.worker_options.lease()).await {
            Ok(lost) => {
                let held = self.held();
                for lease in lost {
                    if let Some(entry) = held.get(&lease.run).filter(|entry| entry.lease == lease) {
                        entry.lost.cancel();
                    }
                }
            }
            Err(error) => tracing::warn!(error = %error, "extending leases failed"),
        }
    }
}

/// Claims at start, whenever something was queued here or a run ended, and now and then for leases that expired elsewhere.
async fn claim_loop(worker: Weak<Worker>, closing: CancellationToken) {
    loop {
        let Some(strong) = worker.upgrade() else { return };
        while strong.claim().await {}
        let next = strong.kernel.clock.now().saturating_add(strong.kernel.worker_options.lease() / 2);
        let (clock, wake) = (Arc::clone(&strong.kernel.clock), Arc::clone(&strong.wake));
        drop(strong);
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = wake.notified() => {}
            () = clock.sleep_until(next) => {}
        }
    }
}

async fn heartbeat_loop(worker: Weak<Worker>, closing: CancellationToken) {
    loop {
        let Some(strong) = worker.upgrade() else { return };
        let next = strong.kernel.clock.now().saturating_add(strong.kernel.worker_options.lease() / 3);
        let clock = Arc::clone(&strong.kernel.clock);
        drop(strong);
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = clock.sleep_until(next) => {}
        }
        let Some(strong) = worker.upgrade() else { return };
        strong.heartbeat().await;
    }
}

/// Forgets old deliveries and writes refusals to the audit trail.
///
/// Holds the kernel, not the worker: it ends with `closing`, which a dropped worker cancels.
async fn housekeeping_loop(kernel: Arc<Kernel>, closing: CancellationToken) {
    loop {
        let next = kernel.clock.now().saturating_add(HOUSEKEEPING);
        let closed = tokio::select! {
            biased;
            () = closing.cancelled() => true,
            () = kernel.clock.sleep_until(next) => false,
        };
        kernel.denials.flush(&kernel).await;
        if closed {
            return;
        }
        while let Ok(swept) = kernel.backend.sweep_deliveries(SWEEP_BATCH).await
            && swept == u64::from(SWEEP_BATCH)
        {}
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// How often old deliveries are forgotten and refusals written.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Deliveries forgotten in one transaction.
const SWEEP_BATCH: u32 = 1_000;
/// The epoch of a run that was accepted under a lease.
const FIRST_EPOCH: u64 = 1;
/// Runs taken from the queue in one claim.
const CLAIM_BATCH: usize = 64;
