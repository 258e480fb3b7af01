//! What a worker does all the time: claim, report itself, listen for hints, fire triggers, keep house.
//!
//! Nothing here polls: a loop sleeps until something is due by time, a hint comes, or half a lease has passed, which bounds
//! what a lost hint can cost. A store out of reach makes every loop wait longer each time, up to that bound, and go on by
//! itself. The loops hold the worker weakly: a runtime that is dropped without `shutdown` stops them too.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use ap_core::time::Timestamp;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::worker::{Claim, Worker};
use crate::{kernel::Kernel, wakeup::Hint};

/// Claims at start, whenever something was queued or a run ended, when a run is due, and now and then for leases that
/// expired elsewhere.
pub(super) async fn claim_loop(worker: Weak<Worker>, closing: CancellationToken) {
    let mut pause = Pause::new();
    loop {
        let Some(strong) = worker.upgrade() else { return };
        let kernel = Arc::clone(strong.kernel());
        // Woken from here on, it looks again: nothing falls in between.
        let wake = strong.woken();
        let (next, failed) = loop {
            // Asked before the claim: what becomes ready after this is due later, and what was ready before is claimed.
            let due = if strong.has_room() { pause.until_due(&kernel).await } else { half_a_lease(&kernel) };
            match strong.claim().await {
                Claim::Full => {}
                // Whoever ends gives its permit back, and wakes this loop.
                Claim::None | Claim::Saturated | Claim::Some => break (due, false),
                Claim::Failed => break (pause.after_failure(&kernel), true),
            }
        };
        drop(strong);
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            // A store that failed is not asked again before its time, however much is going on.
            () = wake.notified(), if !failed => {}
            () = kernel.clock.sleep_until(next) => {}
        }
    }
}

/// Fires schedules and polls that are due.
pub(super) async fn trigger_loop(worker: Weak<Worker>, closing: CancellationToken) {
    let mut pause = Pause::new();
    loop {
        let Some(strong) = worker.upgrade() else { return };
        let kernel = Arc::clone(strong.kernel());
        let due = pause.until_due(&kernel).await;
        let next = match strong.claim_triggers().await {
            Claim::Failed => pause.after_failure(&kernel),
            Claim::Full => kernel.clock.now(),
            Claim::None | Claim::Saturated | Claim::Some => due,
        };
        let changed = strong.triggers_changed();
        drop(strong);
        // However many hints come, triggers are looked for so often only.
        let pace = kernel.clock.now().saturating_add(TRIGGER_PACE);
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = changed.notified() => {}
            () = kernel.clock.sleep_until(next) => {}
        }
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = kernel.clock.sleep_until(pace) => {}
        }
    }
}

/// Reports the worker and keeps its leases alive: three times per lease while it holds some, else once.
pub(super) async fn heartbeat_loop(worker: Weak<Worker>, drained: CancellationToken) {
    let mut pause = Pause::new();
    loop {
        let Some(strong) = worker.upgrade() else { return };
        let kernel = Arc::clone(strong.kernel());
        let lease = kernel.worker_options.lease();
        let next = if !strong.is_due_to_report() {
            kernel.clock.now().saturating_add(lease / 3)
        } else if strong.heartbeat().await {
            pause.reset();
            strong.count_workers().await;
            kernel.clock.now().saturating_add(lease / 3)
        } else {
            pause.after_failure(&kernel).min(kernel.clock.now().saturating_add(lease / 3))
        };
        let draining = strong.draining();
        drop(strong);
        tokio::select! {
            biased;
            () = drained.cancelled() => return,
            () = draining.notified() => {}
            () = kernel.clock.sleep_until(next) => {}
        }
    }
}

/// Hears what other workers, and this one, have to tell.
pub(super) async fn hint_loop(worker: Weak<Worker>, kernel: Arc<Kernel>, drained: CancellationToken) {
    let mut hints = kernel.wakeup.listen();
    loop {
        let hint = tokio::select! {
            biased;
            () = drained.cancelled() => return,
            hint = hints.next() => hint,
        };
        let (Some(hint), Some(worker)) = (hint, worker.upgrade()) else { return };
        match hint {
            Hint::Ended(run) => kernel.replies.look(run),
            Hint::Ready => worker.ready(),
            Hint::Signaled(run) => worker.signaled(run),
        }
    }
}

/// Forgets old deliveries and secrets that were replaced, writes refusals to the audit trail, and finishes erasures that were left
/// half-way.
///
/// Holds the kernel, not the worker: it ends with `drained`, which a dropped worker cancels.
pub(super) async fn housekeeping_loop(kernel: Arc<Kernel>, drained: CancellationToken) {
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
        kernel.finish_erasures().await;
        kernel.retire_secrets().await;
    }
}

/// Reads tenants' keys again that are in use: another process may have added one, and this one should seal under it soon.
pub(super) async fn key_loop(kernel: Arc<Kernel>, drained: CancellationToken) {
    loop {
        let next = kernel.clock.now().saturating_add(KEY_PACE);
        tokio::select! {
            biased;
            () = drained.cancelled() => return,
            () = kernel.clock.sleep_until(next) => {}
        }
        if let Err(error) = kernel.keyring.refresh().await {
            tracing::warn!(%error, "tenants' keys could not be read again");
        }
    }
}

/// How long a loop rests: longer each time, until something comes of it.
struct Pause(Duration);

impl Pause {
    const fn new() -> Self {
        Self(SHORTEST_PAUSE)
    }

    const fn reset(&mut self) {
        self.0 = SHORTEST_PAUSE;
    }

    /// Until the store says that something is due, at most half a lease. A store that names a time that has passed is not
    /// asked again and again.
    async fn until_due(&mut self, kernel: &Kernel) -> Timestamp {
        let (now, latest) = (kernel.clock.now(), half_a_lease(kernel));
        match kernel.backend.next_due().await {
            Ok(Some(due)) if due > now => {
                self.reset();
                due.min(latest)
            }
            Ok(Some(_)) => self.step(kernel).min(latest),
            Ok(None) => {
                self.reset();
                latest
            }
            Err(error) => {
                tracing::debug!(%error, "what is due next is not known");
                latest
            }
        }
    }

    /// Waits twice as long as the last time, of which chance takes up to a half: workers that lost one store do not come
    /// back to it all at once.
    fn after_failure(&mut self, kernel: &Kernel) -> Timestamp {
        self.step(kernel).min(half_a_lease(kernel))
    }

    fn step(&mut self, kernel: &Kernel) -> Timestamp {
        let whole = self.0;
        self.0 = (whole * 2).min(kernel.worker_options.lease() / 2);
        let share = kernel.random_u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        kernel.clock.now().saturating_add(whole / 2 + (whole / 2).mul_f64(share))
    }
}

fn half_a_lease(kernel: &Kernel) -> Timestamp {
    kernel.clock.now().saturating_add(kernel.worker_options.lease() / 2)
}

/// How often old deliveries are forgotten and refusals written.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How often keys are read again. A new one is noticed after twice that at the latest, which a rotation's grace has to exceed.
const KEY_PACE: Duration = Duration::from_secs(15);
/// Deliveries forgotten in one transaction.
const SWEEP_BATCH: u32 = 1_000;
/// The first rest of a loop that came to nothing.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// How often triggers are looked for at most.
const TRIGGER_PACE: Duration = Duration::from_millis(200);
