//! Stopping steps at their deadline, to a fraction of a millisecond.
//!
//! Compiled guest code compares its engine's epoch with its store's at every loop and call. One thread sleeps until the
//! earliest deadline and then advances the epoch; each running step then looks at its own clock.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::engine::Engines;

/// The timer thread, and one deadline per sandbox thread.
pub(crate) struct DeadlineTimer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A deadline that stands until this is dropped.
pub(crate) struct Armed<'a> {
    shared: &'a Shared,
    slot: usize,
}

struct Shared {
    schedule: Mutex<Schedule>,
    changed: Condvar,
}

struct Schedule {
    deadlines: Vec<Option<Instant>>,
    /// When the timer thread will wake by itself.
    wakes_at: Option<Instant>,
    stopped: bool,
}

impl DeadlineTimer {
    /// Starts the timer for `slots` threads.
    pub(crate) fn start(engines: Arc<Engines>, slots: usize) -> io::Result<Self> {
        let schedule = Schedule { deadlines: vec![None; slots], wakes_at: None, stopped: false };
        let shared = Arc::new(Shared { schedule: Mutex::new(schedule), changed: Condvar::new() });
        let (running, runs) = mpsc::channel();
        let thread = thread::Builder::new().name("ap-code-timer".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let _ = running.send(()); // nobody waits for it twice
                shared.run(&engines);
            }
        })?;
        // What a thread does at its very start, a worker process may not do later.
        runs.recv().map_err(io::Error::other)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Advances the epoch once at or after `deadline`, unless the guard is dropped before.
    pub(crate) fn arm(&self, slot: usize, deadline: Instant) -> Armed<'_> {
        let mut schedule = self.shared.lock();
        if let Some(entry) = schedule.deadlines.get_mut(slot) {
            *entry = Some(deadline);
        }
        // A timer that wakes early finds nothing to do; one that is never woken for nothing costs steps less.
        let too_late = schedule.wakes_at.is_none_or(|wakes_at| deadline < wakes_at);
        drop(schedule);
        if too_late {
            self.shared.changed.notify_one();
        }
        Armed { shared: &self.shared, slot }
    }
}

impl Drop for DeadlineTimer {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it cannot panic
        }
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.shared.lock().deadlines.get_mut(self.slot) {
            *entry = None;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, engines: &Engines) {
        let mut schedule = self.lock();
        while !schedule.stopped {
            let now = Instant::now();
            if schedule.take_due(now) {
                engines.increment_epoch();
            }
            schedule.wakes_at = schedule.deadlines.iter().flatten().min().copied();
            schedule = match schedule.wakes_at {
                None => self.changed.wait(schedule).unwrap_or_else(PoisonError::into_inner),
                Some(wakes_at) => {
                    let wait = self.changed.wait_timeout(schedule, wakes_at.saturating_duration_since(now));
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Schedule {
    fn take_due(&mut self, now: Instant) -> bool {
        let mut any = false;
        for entry in &mut self.deadlines {
            any |= entry.take_if(|deadline| *deadline <= now).is_some();
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_deadline_fires_once_when_due() {
        let start = Instant::now();
        let [first, second] = [1, 2].map(|seconds| start + Duration::from_secs(seconds));
        let mut schedule =
            Schedule { deadlines: vec![Some(second), None, Some(first)], wakes_at: None, stopped: false };
        assert!(!schedule.take_due(first - Duration::from_nanos(1)));
        assert!(schedule.take_due(first));
        assert!(!schedule.take_due(first));
        assert!(schedule.take_due(second + Duration::from_nanos(1)));
        assert_eq!(schedule.deadlines, [None; 3]);
    }

    #[test]
    fn a_dropped_guard_disarms_its_slot_only() {
        let timer = DeadlineTimer::start(Arc::new(Engines::load(1, 1).unwrap()), 2).unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        let first = timer.arm(0, later);
        let _second = timer.arm(1, later);
        drop(first);
        assert_eq!(timer.shared.lock().deadlines, [None, Some(later)]);
    }
}
