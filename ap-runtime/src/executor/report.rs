//! What a worker tells the store of itself, and what it hears back: leases lost, runs signaled, how many workers there are.

use std::sync::atomic::Ordering;

use ap_core::time::Timestamp;

use super::worker::Worker;
use crate::store::{Beat, Lease, WorkerRecord};

impl Worker {
    /// Whether there is something to report: leases to extend, a drain, or a sign of life.
    pub(super) fn is_due_to_report(&self) -> bool {
        let last = Timestamp::from_micros(self.last_beat.load(Ordering::SeqCst));
        let silent = self.kernel.clock.now().saturating_since(last) >= self.kernel.worker_options.lease();
        silent || self.closing.is_cancelled() || !self.held().is_empty()
    }

    /// Whether some lease may be past its half: each was granted, or extended, at the last heartbeat or later.
    pub(super) fn leases_are_old(&self) -> bool {
        let last = Timestamp::from_micros(self.last_beat.load(Ordering::SeqCst));
        let age = self.kernel.clock.now().saturating_since(last);
        age > self.kernel.worker_options.lease() / 2 && !self.held().is_empty()
    }

    /// Reports the worker and extends its leases; `false` if the store did not answer.
    pub(super) async fn heartbeat(&self) -> bool {
        let leases: Vec<Lease> = self.held().values().map(|held| held.lease).collect();
        let options = &self.kernel.worker_options;
        let now = self.kernel.clock.now();
        let worker = WorkerRecord {
            id: self.id,
            name: options.name().to_owned(),
            started: self.started,
            seen: now,
            capacity: options.concurrency(),
            running: u32::try_from(self.admission().running()).unwrap_or(u32::MAX),
            draining: self.closing.is_cancelled(),
        };
        match self.kernel.backend.heartbeat(&worker, &leases, options.lease()).await {
            Ok(Beat { lost, signaled }) => {
                self.last_beat.store(now.as_micros(), Ordering::SeqCst);
                let held = self.held();
                let mine = |lease: &Lease| held.get(&lease.run).filter(|entry| entry.lease == *lease);
                lost.iter().filter_map(mine).for_each(|entry| entry.signals.lost.cancel());
                signaled.iter().filter_map(mine).for_each(|entry| entry.signals.signaled.notify_one());
                true
            }
            Err(error) => {
                tracing::warn!(%error, "extending leases failed");
                false
            }
        }
    }

    /// Runs were ended by an erasure: those that this process executes are let go of at once, and others may have room.
    pub(crate) async fn erased(&self) {
        if !self.held().is_empty() {
            self.heartbeat().await;
        }
        self.announce();
    }

    /// Looks how many workers share the limits.
    pub(super) async fn count_workers(&self) {
        match self.kernel.backend.workers(self.kernel.worker_options.lease() * 2).await {
            Ok(workers) => {
                let alive = workers.iter().filter(|worker| !worker.draining).count();
                self.workers.store(u32::try_from(alive).unwrap_or(u32::MAX).max(1), Ordering::SeqCst);
            }
            Err(error) => tracing::debug!(%error, "how many workers there are is not known"),
        }
    }
}
