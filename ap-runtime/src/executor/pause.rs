//! Waiting: letting go of a run that has long to wait, timers, and keeping apart runs whose owners die.

use std::{sync::Arc, time::Duration};

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

    /// Waits a while before a run is executed again whose owners died: of several runs that were under way when a process
    /// died, one may be to blame. Chance tells them apart, so that the others get on and are not given up with it.
    pub(super) async fn keep_apart(&mut self) -> Result<Option<Stopped>, RunError> {
        let Some(times) = self.state.recoveries().checked_sub(BLAMELESS).filter(|times| *times > 0) else {
            return Ok(None);
        };
        let longest = APART.saturating_mul(1 << times.min(6));
        let share = f64::from(self.kernel.random_u32()?) / f64::from(u32::MAX);
        let until = self.kernel.clock.now().saturating_add(longest.mul_f64(share));
        let (kernel, signals) = (Arc::clone(&self.kernel), self.signals.clone());
        tokio::select! {
            biased;
            () = signals.lost.cancelled() => Ok(Some(Stopped::LeaseLost)),
            () = signals.stop.cancelled() => self.give_back().await.map(Some),
            () = kernel.clock.sleep_until(until) => Ok(None),
        }
    }
}

/// A run that waits for longer than this holds neither memory nor a place among the runs of this process.
const PARK_AFTER: Duration = Duration::from_secs(5);
/// Owners that may die before a run is kept apart.
const BLAMELESS: u32 = 2;
/// How long a run is kept apart at most after one owner more; doubled with each further one, up to 64 times.
const APART: Duration = Duration::from_millis(250);
