//! Waiting: letting go of a run that has long to wait, and timers.

use std::time::Duration;

use ap_core::{run::StepPath, time::Timestamp};

use super::driver::{Driver, Stopped};
use crate::{engine::Event, journal::RunError, store::RunChange};

impl Driver {
    /// Lets go of a run that only waits, if it has long to wait. Like every wait it is one that a crash may interrupt: what
    /// led here is durable first.
    pub(super) async fn rest(&mut self) -> Result<Option<Stopped>, RunError> {
        if !self.under_way.is_empty() {
            return Ok(None);
        }
        let Some(due) = self.state.waits_until() else { return Ok(None) };
        let now = self.kernel.clock.now();
        if self.lingers || due.is_some_and(|due| due <= now.saturating_add(PARK_AFTER)) {
            return self.commit(RunChange::Stay).await;
        }
        let event = Event::Parked { at: now };
        self.state.apply(&self.flow, &event)?;
        self.carry.batch.push(&event)?;
        Ok(Some(self.commit(RunChange::Park { due }).await?.unwrap_or(Stopped::Parked)))
    }

    /// The time has come that a step waited for, unless an answer was there before: a hint that was lost must not make a
    /// timeout of an answer that somebody was thanked for.
    pub(super) async fn time_came(&mut self, timer: (Timestamp, StepPath)) -> Result<Option<Stopped>, RunError> {
        if let Some(stopped) = self.take_signals().await? {
            return Ok(Some(stopped));
        }
        if self.state.end().is_some() || self.state.next_timer().as_ref() != Some(&timer) {
            return Ok(None);
        }
        self.record(Event::WaitOver { at: self.kernel.clock.now(), path: timer.1 }).await
    }
}

/// A run that waits for longer than this holds neither memory nor a place among the runs of this process.
const PARK_AFTER: Duration = Duration::from_secs(5);
