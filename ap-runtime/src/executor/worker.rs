//! The worker: holds the runs this process executes, one task each. No other file of the executor spawns.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use ap_core::{
    audit::AuditRecord,
    flow::{Overlap, TriggerKind, ValidFlow},
    id::{ProjectId, RunId, WorkerId},
    store::StoreError,
    time::Timestamp,
};
use ap_crypto::subject::SubjectKey;
use futures_util::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::{Admission, Bounds},
    driver::{Driver, FIRST_EPOCH, Fresh, Signals, Stopped},
    loops,
    shares::Shares,
};
use crate::{
    engine::RunState,
    journal::RunError,
    kernel::Kernel,
    store::{Accept, Accepted, ClaimRequest, Claimed, ClaimedTrigger, Lease},
    trigger::{self, TRIGGER_LEASE},
    wakeup::Hint,
};

/// Executes runs of one process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(super) kernel: Arc<Kernel>,
    pub(super) id: WorkerId,
    pub(super) started: Timestamp,
    permits: Arc<Semaphore>,
    admission: Mutex<Admission>,
    shares: Shares,
    /// Leases this process holds, each with what reaches its driver.
    held: Mutex<BTreeMap<RunId, Held>>,
    /// Workers that are alive, this one included, as far as it knows.
    pub(super) workers: AtomicU32,
    /// When leases were extended last. Unit: microseconds since the epoch.
    pub(super) last_beat: AtomicI64,
    /// Wakes the claim loop.
    wake: Arc<Notify>,
    /// Wakes the trigger loop.
    triggers: Arc<Notify>,
    /// Wakes the heartbeat loop: the worker takes up no more runs.
    draining: Arc<Notify>,
    /// Triggers that may be fired at once.
    firing: Arc<Semaphore>,
    /// Whether runs may be waiting in the queue for a permit.
    backlog: AtomicBool,
    /// No more runs are taken up.
    pub(super) closing: CancellationToken,
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
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) signals: Signals,
}

/// What came of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// As much as there was room for: there may be more.
    Full,
    /// Something, and no more is ready.
    Some,
    /// Nothing is ready.
    None,
    /// There was no room.
    Saturated,
    /// The store did not answer.
    Failed,
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
        self.worker.admission().ends(self.lease.project);
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
    /// The key of whom the run is about.
    pub(crate) subject: Option<Arc<SubjectKey>>,
}

impl Worker {
    /// Starts claiming. Runs that an earlier process left behind are taken up at once.
    pub(crate) fn start(kernel: Arc<Kernel>, id: WorkerId) -> Arc<Self> {
        let permits = usize::try_from(kernel.worker_options.concurrency()).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = permits.min(Semaphore::MAX_PERMITS);
        let worker = Arc::new(Self {
            id,
            started: kernel.clock.now(),
            permits: Arc::new(Semaphore::new(permits)),
            admission: Mutex::new(Admission::new(permits)),
            shares: Shares::default(),
            held: Mutex::default(),
            workers: AtomicU32::new(1),
            last_beat: AtomicI64::new(i64::MIN),
            wake: Arc::default(),
            triggers: Arc::default(),
            draining: Arc::default(),
            firing: Arc::new(Semaphore::new(MAX_FIRING)),
            backlog: AtomicBool::new(false),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
            drained: CancellationToken::new(),
            runs: TaskTracker::new(),
            loops: TaskTracker::new(),
            kernel,
        });
        let (weak, kernel) = (Arc::downgrade(&worker), Arc::clone(&worker.kernel));
        let (closing, drained) = (&worker.closing, &worker.drained);
        worker.loops.spawn(loops::hint_loop(weak.clone(), Arc::clone(&kernel), drained.clone()));
        worker.loops.spawn(loops::claim_loop(weak.clone(), closing.clone()));
        worker.loops.spawn(loops::trigger_loop(weak.clone(), closing.clone()));
        worker.loops.spawn(loops::heartbeat_loop(weak, drained.clone()));
        worker.loops.spawn(loops::key_loop(Arc::clone(&kernel), drained.clone()));
        worker.loops.spawn(loops::housekeeping_loop(kernel, drained.clone()));
        worker
    }

    pub(super) const fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// The right to execute a new run of `project` at once, if nobody has to wait for it: what decides whether a run is
    /// accepted leased.
    async fn try_permit(&self, project: ProjectId) -> Option<Permit> {
        if self.closing.is_cancelled() {
            return None;
        }
        let bounds = Bounds { project: self.room(project).await, total: self.total_room() };
        let mut admission = self.admission();
        let permit = if admission.admits(project, self.permits.available_permits(), bounds) {
            Arc::clone(&self.permits).try_acquire_owned().ok()
        } else {
            None
        };
        match &permit {
            // Counted at once, so that many acceptances side by side see each other.
            Some(_) => admission.begins(project),
            None => admission.waits(project),
        }
        permit
    }

    /// How many runs of a project this process may execute without asking the store, which alone knows how many there are
    /// in all.
    async fn room(&self, project: ProjectId) -> usize {
        let workers = self.workers.load(Ordering::SeqCst).max(1);
        let room = match self.shares.limit(&self.kernel, project).await {
            None => (self.kernel.worker_options.project_concurrency() / workers).max(1),
            Some(limit) if workers == 1 => limit,
            // A limit that somebody set is kept to the letter: only the store hands runs out.
            Some(_) => 0,
        };
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    fn total_room(&self) -> usize {
        match self.kernel.worker_options.total_concurrency() {
            u32::MAX => usize::MAX,
            total if self.workers.load(Ordering::SeqCst) <= 1 => usize::try_from(total).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Accepts a run and, if it was leased to this process, executes it.
    ///
    /// # Cancel safety
    /// Acceptance and execution belong to a task of the worker: dropping the receiver cancels neither.
    pub(crate) fn submit(self: &Arc<Self>, submission: Submission) -> oneshot::Receiver<Result<Accepted, StoreError>> {
        let (answer, accepted) = oneshot::channel();
        let worker = Arc::clone(self);
        self.runs.spawn(async move {
            let Submission { accept, audit, flow, state, subject } = submission;
            let ids = (accept.run.project, accept.run.id, accept.run.flow, accept.run.version);
            let (project, run, flow_id, version) = ids;
            let permit = worker.try_permit(project).await;
            let accept = Accept { lease: permit.is_some().then(|| worker.kernel.worker_options.lease()), ..accept };
            let result = worker.kernel.backend.accept(accept, &audit).await;
            let created = matches!(result, Ok(Accepted::Created { .. }));
            let leased = matches!(result, Ok(Accepted::Created { leased: true }));
            // Nobody listening any more changes nothing.
            let _ = answer.send(result);
            match (leased, permit) {
                (true, Some(permit)) => {
                    let lease = Lease { project, run, epoch: FIRST_EPOCH };
                    let claimed =
                        Claimed { lease, flow: flow_id, version, subject: subject.as_ref().map(|key| key.id()) };
                    worker.drive(claimed, permit, Some(Fresh { flow, state, subject })).await;
                }
                (_, Some(permit)) => {
                    worker.admission().ends(project);
                    worker.give_back(permit);
                }
                (_, None) => {}
            }
            if created && !leased {
                worker.announce();
            }
        });
        accepted
    }

    /// Says here and elsewhere that a run may be claimable, or due, that was not before.
    pub(crate) fn announce(&self) {
        self.wake();
        self.kernel.wakeup.notify(Hint::Ready);
    }

    /// Says that something may be waiting in the queue.
    fn wake(&self) {
        self.backlog.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Another worker says that something may be waiting, or a trigger due.
    pub(super) fn ready(&self) {
        self.wake();
        self.triggers.notify_one();
    }

    /// A run has a signal: its driver looks if it is here; if it is nobody's, it can be claimed.
    pub(super) fn signaled(&self, run: RunId) {
        match self.held().get(&run) {
            Some(held) => held.signals.signaled.notify_one(),
            None => self.wake(),
        }
    }

    /// Whether this process executes the run.
    pub(crate) fn holds(&self, run: RunId) -> bool {
        self.held().contains_key(&run)
    }

    /// The share of a project was changed.
    pub(crate) fn share_changed(&self, project: ProjectId) {
        self.shares.forget(project);
        self.announce();
    }

    pub(super) fn woken(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    pub(super) fn triggers_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.triggers)
    }

    pub(super) fn draining(&self) -> Arc<Notify> {
        Arc::clone(&self.draining)
    }

    /// Stops claiming, waits up to `grace` for runs under way, then has the rest given back to the queue: what is known of
    /// them is made durable, and an attempt under way is cut short. A later process takes them up.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        self.closing.cancel();
        self.draining.notify_one();
        self.runs.close();
        self.wait_for_runs(grace).await;
        self.stop.cancel();
        // Giving back is a commit; one that cannot be had is left to the lease.
        self.wait_for_runs(GIVE_BACK).await;
        for held in self.held().values() {
            held.signals.lost.cancel();
        }
        self.drained.cancel();
        self.loops.close();
        self.loops.wait().await;
        // A token that a provider gives away now may be the only one there is from then on.
        self.kernel.renewals.close();
        let until = self.kernel.clock.now().saturating_add(RENEWALS);
        tokio::select! {
            biased;
            () = self.kernel.renewals.wait() => {}
            () = self.kernel.clock.sleep_until(until) => tracing::warn!("tokens are being renewed at the shutdown"),
        }
        // A store that is gone must not keep the process: the worker is forgotten by time then.
        let until = self.kernel.clock.now().saturating_add(GIVE_BACK);
        tokio::select! {
            biased;
            retired = self.kernel.backend.retire(self.id) => {
                if let Err(error) = retired {
                    tracing::warn!(%error, "the worker could not be signed off");
                }
            }
            () = self.kernel.clock.sleep_until(until) => {}
        }
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
        self.admission().begins(claimed.lease.project);
        self.runs.spawn(async move { worker.drive(claimed, permit, None).await });
    }

    /// Carries a run out, and lets go of it whatever happens.
    async fn drive(self: &Arc<Self>, claimed: Claimed, permit: Permit, fresh: Option<Fresh>) {
        let hold = self.hold(claimed.lease, permit);
        let (kernel, signals) = (Arc::clone(&self.kernel), hold.signals.clone());
        let driven = async move {
            let driver = match fresh {
                Some(fresh) => Driver::fresh(kernel, claimed, fresh, signals).await?,
                None => Driver::resume(kernel, claimed, signals).await?,
            };
            driver.run().await
        };
        let run = claimed.lease.run;
        let (mut frees, mut given_back, mut parked) = (false, false, false);
        match AssertUnwindSafe(driven).catch_unwind().await {
            Ok(Ok(Stopped::Ended)) => frees = self.frees_others(&claimed).await,
            Ok(Ok(Stopped::Parked)) => parked = true,
            Ok(Ok(Stopped::GivenBack)) => {
                tracing::info!(%run, "the run is given back");
                given_back = true;
            }
            Ok(Ok(Stopped::LeaseLost)) => tracing::info!(%run, "another owner took the run over"),
            // Whoever destroyed the key ends the runs it finds; this one came in between.
            Ok(Err(RunError::Erased { .. })) => {
                tracing::info!(%run, "the data of the run was erased; it is ended");
                self.end_erased(claimed.lease, &hold.signals.lost).await;
                frees = true;
            }
            Ok(Err(error)) if error.is_final() => {
                tracing::error!(%run, %error, "the run cannot be continued and is ended");
                self.end_broken(claimed.lease, &hold.signals.lost).await;
                frees = true;
            }
            // The lease expires, and whoever claims the run then tries again; a run that never gets further is given up.
            Ok(Err(error)) => tracing::error!(%run, %error, "the run is put off"),
            Err(_) => tracing::error!(%run, "carrying the run out panicked; it is put off"),
        }
        drop(hold);
        if frees || given_back {
            self.announce();
        } else if parked {
            // It may be due before anything that the claim loop knows of. Others look by themselves should this process die.
            self.wake();
        }
    }

    /// Whether the end of a run may let another one go that was kept back: by a gate, or by the limit of its project.
    async fn frees_others(&self, claimed: &Claimed) -> bool {
        let project = claimed.lease.project;
        let gated = self.kernel.flows.get(claimed.version, project).is_none_or(|flow| is_gated(&flow));
        let held = self.admission().count(project);
        gated || held >= self.room(project).await || self.total_room() != usize::MAX
    }

    fn hold(self: &Arc<Self>, lease: Lease, permit: Permit) -> Hold {
        let signals = Signals { stop: self.stop.clone(), ..Signals::default() };
        let previous = self.held().insert(lease.run, Held { lease, signals: signals.clone() });
        // This very process lost the lease, say while it was suspended, and has just claimed the run again.
        if let Some(previous) = previous {
            previous.signals.lost.cancel();
        }
        Hold { worker: Arc::clone(self), lease, signals, permit: Some(permit) }
    }

    fn give_back(&self, permit: Permit) {
        drop(permit);
        if self.backlog.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    pub(super) fn held(&self) -> MutexGuard<'_, BTreeMap<RunId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Permits for a claim: all but the reserve.
    fn claim_permits(&self) -> Vec<Permit> {
        let reserve = self.admission().reserve();
        let mut permits = Vec::new();
        while permits.len() < CLAIM_BATCH
            && !self.closing.is_cancelled()
            && self.permits.available_permits() > reserve
            && let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned()
        {
            permits.push(permit);
        }
        permits
    }

    /// Whether a claim could take something up.
    pub(super) fn has_room(&self) -> bool {
        !self.closing.is_cancelled() && self.permits.available_permits() > self.admission().reserve()
    }

    /// Claims as many runs as there are permits.
    pub(super) async fn claim(self: &Arc<Self>) -> Claim {
        // Set before looking for permits: a run that ends from here on sees it and wakes the loop.
        self.backlog.store(true, Ordering::SeqCst);
        let permits = self.claim_permits();
        if permits.is_empty() {
            return Claim::Saturated;
        }
        // What this process holds must not look expired to its own claim, say after it was suspended.
        if self.leases_are_old() && !self.heartbeat().await {
            return Claim::Failed;
        }
        self.backlog.store(false, Ordering::SeqCst);
        let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
        let options = &self.kernel.worker_options;
        let request = ClaimRequest {
            limit,
            lease: options.lease(),
            per_project: options.project_concurrency(),
            total: options.total_concurrency(),
        };
        match self.kernel.backend.claim(request).await {
            Ok(claimed) => {
                let (room, found) = (permits.len(), claimed.len());
                for (claimed, permit) in claimed.into_iter().zip(permits) {
                    self.resume(claimed, permit);
                }
                if found < room {
                    self.admission().nobody_waits();
                }
                match found {
                    0 => Claim::None,
                    _ if found == room => Claim::Full,
                    _ => Claim::Some,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "claiming runs failed");
                self.backlog.store(true, Ordering::SeqCst);
                Claim::Failed
            }
        }
    }

    /// Claims triggers that are due and fires them, each in a task of its own.
    pub(super) async fn claim_triggers(self: &Arc<Self>) -> Claim {
        let mut permits = Vec::new();
        while permits.len() < TRIGGER_BATCH
            && !self.closing.is_cancelled()
            && let Ok(permit) = Arc::clone(&self.firing).try_acquire_owned()
        {
            permits.push(permit);
        }
        let room = permits.len();
        if room == 0 {
            return Claim::Saturated;
        }
        let limit = u32::try_from(room).unwrap_or(u32::MAX);
        let per_project = FIRING_PER_PROJECT.saturating_mul(self.workers.load(Ordering::SeqCst).max(1));
        let claimed = match self.kernel.backend.claim_triggers(limit, per_project, TRIGGER_LEASE).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%error, "claiming triggers failed");
                return Claim::Failed;
            }
        };
        let found = claimed.len();
        for (claimed, permit) in claimed.into_iter().zip(permits) {
            let worker = Arc::clone(self);
            self.runs.spawn(async move { worker.fire(claimed, permit).await });
        }
        match found {
            0 => Claim::None,
            _ if found == room => Claim::Full,
            _ => Claim::Some,
        }
    }

    /// Fires one trigger. A process that stops drops it, like a crash would: nothing is half done.
    async fn fire(self: Arc<Self>, claimed: ClaimedTrigger, permit: Permit) {
        let flow = claimed.flow;
        let kernel = Arc::clone(&self.kernel);
        let fired = AssertUnwindSafe(trigger::fire(&kernel, claimed)).catch_unwind();
        let fired = tokio::select! {
            biased;
            fired = fired => fired,
            () = self.stop.cancelled() => return,
        };
        drop(permit);
        match fired {
            Ok(Ok(true)) => self.announce(),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::error!(%flow, %error, "a trigger could not be fired; it is tried again"),
            Err(_) => tracing::error!(%flow, "firing a trigger panicked; it is tried again"),
        }
        // It is due again at another time now.
        self.triggers.notify_one();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.closing.cancel();
        self.drained.cancel();
    }
}

/// Whether runs of the flow may wait for each other.
fn is_gated(flow: &ValidFlow) -> bool {
    let scheduled =
        matches!(&flow.trigger().kind, TriggerKind::Schedule(schedule) if schedule.overlap != Overlap::Allow);
    scheduled || flow.definition().control().concurrency.is_some()
}

/// How long a shutdown waits for renewals of tokens: as long as an exchange with a provider takes, and its commit.
const RENEWALS: Duration = Duration::from_secs(25);
/// How long runs may take to be given back at shutdown.
const GIVE_BACK: Duration = Duration::from_secs(5);
/// Runs taken from the queue in one claim.
const CLAIM_BATCH: usize = 64;
/// Schedules and polls taken in one claim.
const TRIGGER_BATCH: usize = 32;
/// Schedules and polls being fired at once. A poll may hang for as long as it may take.
const MAX_FIRING: usize = 128;
/// Those of one project, for each worker: what hangs of one project delays no other.
const FIRING_PER_PROJECT: u32 = 8;
