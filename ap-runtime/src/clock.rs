//! [`Clock`]: the only place time comes from, so that a test or a simulation can be in charge of it.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ap_core::time::Timestamp;
use async_trait::async_trait;

/// Tells the time and waits.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now, UTC.
    fn now(&self) -> Timestamp;

    /// Returns after the time that lies between [`Clock::now`] and `at` when this is called; at once if it has come.
    ///
    /// A clock that is set meanwhile neither shortens nor lengthens the wait: an hour put back must not make a timeout of
    /// a second an hour longer.
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait and has no other effect.
    async fn sleep_until(&self, at: Timestamp);
}

/// The machine's clock, waiting on tokio's timer.
///
/// Under a paused tokio clock (`tokio::time::pause`) waits return at once and time does not move: use
/// [`TokioClock`] there.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::EPOCH.saturating_add(since)
    }

    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep(at.saturating_since(self.now())).await;
    }
}

/// A clock that starts at a fixed time and moves with tokio's own clock, paused or not: for tests and simulation.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    origin: tokio::time::Instant,
    start: Timestamp,
}

impl TokioClock {
    /// A clock that reads `start` now. Call it inside the runtime whose time it follows.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self { origin: tokio::time::Instant::now(), start }
    }
}

#[async_trait]
impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.start.saturating_add(self.origin.elapsed())
    }

    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep_until(self.origin + at.saturating_since(self.start)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_moves_with_paused_time() {
        let clock = TokioClock::starting_at(Timestamp::from_millis(5));
        clock.sleep_until(Timestamp::from_millis(1_005)).await;
        assert_eq!(clock.now(), Timestamp::from_millis(1_005));
        clock.sleep_until(Timestamp::from_millis(3)).await;
        assert_eq!(clock.now(), Timestamp::from_millis(1_005));
    }

    #[tokio::test]
    async fn the_system_clock_waits() {
        let started = std::time::Instant::now();
        SystemClock.sleep_until(SystemClock.now().saturating_add(Duration::from_millis(20))).await;
        assert!(started.elapsed() >= Duration::from_millis(15));
        SystemClock.sleep_until(Timestamp::EPOCH).await;
    }
}
