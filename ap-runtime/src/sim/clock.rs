//! Clocks of a simulated world: the true time, the store's clock and one host clock per worker.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use ap_core::time::Timestamp;
use async_trait::async_trait;

use super::life::Life;
use crate::clock::{Clock, TokioClock};

/// The time of the world. Nobody in it can read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrueClock(TokioClock);

impl TrueClock {
    /// Call it under paused tokio time.
    pub(super) fn starting_at(start: Timestamp) -> Self {
        Self(TokioClock::starting_at(start))
    }

    pub(super) fn now(&self) -> Timestamp {
        Clock::now(&self.0)
    }

    pub(super) async fn sleep_until(&self, at: Timestamp) {
        Clock::sleep_until(&self.0, at).await;
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now().saturating_add(duration)).await;
    }
}

/// How far a clock is off the true time. Unit: microseconds.
#[derive(Debug, Default)]
pub(super) struct Offset(AtomicI64);

impl Offset {
    pub(super) fn jump(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }

    fn read(&self, truth: Timestamp) -> Timestamp {
        Timestamp::from_micros(truth.as_micros().saturating_add(self.0.load(Ordering::SeqCst)))
    }
}

/// The clock of the store: it jumps forward only, as that of a database that fails over.
#[derive(Debug)]
pub(super) struct StoreClock {
    pub(super) truth: TrueClock,
    pub(super) offset: Arc<Offset>,
}

#[async_trait]
impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        self.offset.read(self.truth.now())
    }

    async fn sleep_until(&self, at: Timestamp) {
        self.truth.sleep(at.saturating_since(self.now())).await;
    }
}

/// The clock of one worker's machine: it jumps both ways, and wakes nobody who is dead.
pub(super) struct HostClock {
    pub(super) truth: TrueClock,
    pub(super) offset: Arc<Offset>,
    pub(super) life: Arc<Life>,
}

#[async_trait]
impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        self.offset.read(self.truth.now())
    }

    async fn sleep_until(&self, at: Timestamp) {
        let duration = at.saturating_since(self.now());
        self.life.pass().await;
        self.truth.sleep(duration).await;
        self.life.pass().await;
    }
}

impl fmt::Debug for HostClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostClock").field("worker", &self.life.worker).finish_non_exhaustive()
    }
}
