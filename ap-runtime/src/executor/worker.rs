//! The worker: claims runs, keeps their leases alive, and spawns one task per run under way. No other file spawns.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ap_core::{
    audit::AuditRecord,
    flow::ValidFlow,
    id::{RunId, WorkerId},
    run::RunStatus,
    store::StoreError,
};
use futures_util::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::driver::{Driver, FIRST_EPOCH, Signals, Stopped};
use crate::{
    engine::RunState,
    kernel::Kernel,
    store::{Accept, Accepted, Beat, ClaimRequest, Claimed, Lease, RunChange, RunCommit, WorkerRecord},
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
    /// No more runs are taken up.
    closing: CancellationToken,
    /// Runs under way are to be given back.
    stop: CancellationToken,
    /// Every driver has let go: leases need no heartbeat any more, and what was refused can be written down.
    drained: CancellationToken,
    /// One task per run under way or being accepted.
    runs: TaskTracker,
    /// The loops of the worker itself.
    loops: TaskTracker,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    lost: CancellationToken,
}

/// A run in the hands of this process. Lets go when dropped, whatever became of its driver.
struct Hold {
    worker: Arc<Worker>,
    lease: Lease,
    signals: Signals,
    /// The right to execute it; given back after the lease is let go.
    permit: Option<Permit>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.worker.held();
        if held.get(&self.lease.run).is_some_and(|entry| entry.lease == self.lease) {
            held.remove(&self.lease.run);
        }
        drop(held);
        if let Some(permit) = self.permit.take() {
            self.worker.give_back(permit);
        }
    }
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
            stop: CancellationToken::new(),
            drained: CancellationToken::new(),
            runs: TaskTracker::new(),
            loops: TaskTracker::new(),
        });
        // The loops hold the worker weakly: a runtime that is dropped without `shutdown` stops them too.
        worker.loops.spawn(claim_loop(Arc::downgrade(&worker), worker.closing.clone()));
        worker.loops.spawn(heartbeat_loop(Arc::downgrade(&worker), worker.drained.clone()));
        worker.loops.spawn(housekeeping_loop(Arc::clone(&worker.kernel), worker.drained.clone()));
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
        self.runs.spawn(async move {
            let permit = worker.try_permit();
            let Submission { accept, audit, flow, state } = submission;
            let ids = (accept.run.project, accept.run.id, accept.run.flow, accept.run.version);
            let accept = Accept { lease: permit.is_some().then(|| worker.kernel.worker_options.lease()), ..accept };
            let result = worker.kernel.backend.accept(accept, &audit).await;
            let created = matches!(result, Ok(Accepted::Created { .. }));
            let leased = matches!(result, Ok(Accepted::Created { leased: true }));
            // Nobody listening any more changes nothing.
            let _ = answer.send(result);
            match (leased, permit) {
                (true, Some(permit)) => {
                    let (project, run, flow_id, version) = ids;
                    let claimed = Claimed { lease: Lease { project, run, epoch: FIRST_EPOCH }, flow: flow_id, version };
                    worker.drive(claimed, permit, Some((flow, state))).await;
                }
                (_, permit) => permit.into_iter().for_each(|permit| worker.give_back(permit)),
            }
            if created && !leased {
                worker.wake();
            }
        });
        accepted
    }

    /// Says that something may be waiting in the queue.
    fn wake(&self) {
        self.backlog.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Stops claiming, waits up to `grace` for runs under way, then has the rest given back to the queue: what is known of
    /// them is made durable, and an attempt under way is cut short. A later process takes them up.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        self.closing.cancel();
        self.runs.close();
        self.wait_for_runs(grace).await;
        self.stop.cancel();
        // Giving back is a commit; one that cannot be had is left to the lease.
        self.wait_for_runs(GIVE_BACK).await;
        for held in self.held().values() {
            held.lost.cancel();
        }
        self.drained.cancel();
        self.loops.close();
        self.loops.wait().await;
    }

    async fn wait_for_runs(&self, at_most: Duration) {
        let until = self.kernel.clock.now().saturating_add(at_most);
        tokio::select! {
            biased;
            () = self.runs.wait() => {}
            () = self.kernel.clock.sleep_until(until) => {}
        }
    }

    fn resume(self: &Arc<Self>, claimed: Claimed, permit: Permit) {
        let worker = Arc::clone(self);
        self.runs.spawn(async move { worker.drive(claimed, permit, None).await });
    }

    /// Carries a run out, and lets go of it whatever happens.
    async fn drive(self: &Arc<Self>, claimed: Claimed, permit: Permit, fresh: Option<(Arc<ValidFlow>, RunState)>) {
        let hold = self.hold(claimed.lease, permit);
        let (kernel, signals) = (Arc::clone(&self.kernel), hold.signals.clone());
        let driven = async move {
            let driver = match fresh {
                Some((flow, state)) => Driver::fresh(kernel, claimed, flow, state, signals).await?,
                None => Driver::resume(kernel, claimed, signals).await?,
            };
            driver.run().await
        };
        let run = claimed.lease.run;
        match AssertUnwindSafe(driven).catch_unwind().await {
            Ok(Ok(Stopped::Ended | Stopped::Parked)) => {}
            Ok(Ok(Stopped::GivenBack)) => tracing::info!(%run, "the run is given back"),
            Ok(Ok(Stopped::LeaseLost)) => tracing::info!(%run, "another owner took the run over"),
            Ok(Err(error)) if error.is_final() => {
                tracing::error!(%run, %error, "the run cannot be continued and is ended");
                self.end_broken(claimed.lease).await;
            }
            // The lease expires, and whoever claims the run then tries again; a run that never gets further is given up.
            Ok(Err(error)) => tracing::error!(%run, %error, "the run is put off"),
            Err(_) => tracing::error!(%run, "carrying the run out panicked; it is put off"),
        }
        drop(hold);
    }

    /// Ends a run whose journal cannot be read: nothing can be appended to it, so only its status changes.
    async fn end_broken(&self, lease: Lease) {
        let change = RunChange::End { status: RunStatus::InternalError, at: self.kernel.clock.now() };
        let commit = RunCommit::new(lease, change);
        if let Err(error) = self.kernel.backend.commit(commit, &[]).await {
            tracing::error!(run = %lease.run, %error, "the status of a broken run could not be written");
        }
    }

    fn hold(self: &Arc<Self>, lease: Lease, permit: Permit) -> Hold {
        let signals = Signals { stop: self.stop.clone(), ..Signals::default() };
        let previous = self.held().insert(lease.run, Held { lease, lost: signals.lost.clone() });
        // This very process lost the lease, say while it was suspended, and has just claimed the run again.
        if let Some(previous) = previous {
            previous.lost.cancel();
        }
        Hold { worker: Arc::clone(self), lease, signals, permit: Some(permit) }
    }

    fn give_back(&self, permit: Permit) {
        drop(permit);
        if self.backlog.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<RunId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims as many runs as there are permits. Returns whether to claim again at once.
    async fn claim(self: &Arc<Self>) -> bool {
        // Set before looking for permits: a run that ends from here on sees it and wakes the loop.
        self.backlog.store(true, Ordering::SeqCst);
        let mut permits = Vec::new();
        while permits.len() < CLAIM_BATCH
            && let Some(permit) = self.try_permit()
        {
            permits.push(permit);
        }
        if permits.is_empty() {
            return false;
        }
        // What this process holds must not look expired to its own claim, say after it was suspended.
        self.heartbeat().await;
        self.backlog.store(false, Ordering::SeqCst);
        let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
        let request =
            ClaimRequest { limit, lease: self.kernel.worker_options.lease(), per_project: u32::MAX, total: u32::MAX };
        match self.kernel.backend.claim(request).await {
            Ok(claimed) => {
                let full = claimed.len() == permits.len();
                for (claimed, permit) in claimed.into_iter().zip(permits) {
                    self.resume(claimed, permit);
                }
                full
            }
            Err(error) => {
                tracing::warn!(%error, "claiming runs failed");
                self.backlog.store(true, Ordering::SeqCst);
                false
            }
        }
    }

    async fn heartbeat(&self) {
        let leases: Vec<Lease> = self.held().values().map(|held| held.lease).collect();
        if leases.is_empty() {
            return;
        }
        let now = self.kernel.clock.now();
        let worker = WorkerRecord {
            id: WorkerId::from_u128(1),
            name: String::new(),
            started: now,
            seen: now,
            capacity: self.kernel.worker_options.concurrency(),
            running: 0,
            draining: self.closing.is_cancelled(),
        };
        match self.kernel.backend.heartbeat(&worker, &leases, self.kernel.worker_options.lease()).await {
            Ok(Beat { lost, .. }) => {
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

async fn heartbeat_loop(worker: Weak<Worker>, drained: CancellationToken) {
    loop {
        let Some(strong) = worker.upgrade() else { return };
        let next = strong.kernel.clock.now().saturating_add(strong.kernel.worker_options.lease() / 3);
        let clock = Arc::clone(&strong.kernel.clock);
        drop(strong);
        tokio::select! {
            biased;
            () = drained.cancelled() => return,
            () = clock.sleep_until(next) => {}
        }
        let Some(strong) = worker.upgrade() else { return };
        strong.heartbeat().await;
    }
}

/// Forgets old deliveries and writes refusals to the audit trail.
///
/// Holds the kernel, not the worker: it ends with `drained`, which a dropped worker cancels.
async fn housekeeping_loop(kernel: Arc<Kernel>, drained: CancellationToken) {
    loop {
        let next = kernel.clock.now().saturating_add(HOUSEKEEPING);
        let done = tokio::select! {
            biased;
            () = drained.cancelled() => true,
            () = kernel.clock.sleep_until(next) => false,
        };
        kernel.denials.flush(&kernel).await;
        if done {
            return;
        }
        while let Ok(swept) = kernel.backend.sweep(SWEEP_BATCH).await
            && swept == u64::from(SWEEP_BATCH)
        {}
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.closing.cancel();
        self.drained.cancel();
    }
}

/// How often old deliveries are forgotten and refusals written.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Deliveries forgotten in one transaction.
const SWEEP_BATCH: u32 = 1_000;
/// How long runs may take to be given back at shutdown.
const GIVE_BACK: Duration = Duration::from_secs(5);
/// Runs taken from the queue in one claim.
const CLAIM_BATCH: usize = 64;
