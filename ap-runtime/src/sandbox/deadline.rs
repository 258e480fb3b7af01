//! Stopping steps at their deadline, to a fraction of a millisecond.
//!
//! Compiled guest code compares its engine's epoch with its store's at every loop and call. One thread sleeps until shortly
//! before the earliest deadline, looks at the clock until then, and advances the epoch; each running step then looks at its own clock.

use std::hint;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

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
    /// When the epoch advances once more.
    once: Option<Instant>,
    /// When the timer thread will wake by itself.
    wakes_at: Option<Instant>,
    stopped: bool,
}

impl DeadlineTimer {
    /// Starts the timer for `slots` threads.
    pub(crate) fn start(engines: Arc<Engines>, slots: usize) -> io::Result<Self> {
        let schedule = Schedule { deadlines: vec![None; slots], once: None, wakes_at: None, stopped: false };
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

    /// Advances the epoch at `deadline`, and again and again from then on, until the guard is dropped.
    pub(crate) fn arm(&self, slot: usize, deadline: Instant) -> Armed<'_> {
        let mut schedule = self.shared.lock();
        if let Some(entry) = schedule.deadlines.get_mut(slot) {
            *entry = Some(deadline);
        }
        self.shared.wake_by(deadline, schedule);
        Armed { shared: &self.shared, slot }
    }

    /// Advances the epoch once more a little later, after somebody advanced it.
    pub(crate) fn advance_again(&self) {
        let (at, mut schedule) = (Instant::now() + AGAIN, self.shared.lock());
        schedule.once = Some(at);
        self.shared.wake_by(at, schedule);
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

    /// A timer that wakes early finds nothing to do; one that is never woken for nothing costs steps less.
    fn wake_by(&self, at: Instant, schedule: MutexGuard<'_, Schedule>) {
        let too_late = schedule.wakes_at.is_none_or(|wakes_at| at < wakes_at);
        drop(schedule);
        if too_late {
            self.changed.notify_one();
        }
    }

    fn run(&self, engines: &Engines) {
        let mut schedule = self.lock();
        while !schedule.stopped {
            let now = Instant::now();
            if schedule.take_due(now) {
                engines.increment_epoch();
            }
            let next = schedule.next();
            schedule.wakes_at = next.map(|at| at.checked_sub(LEAD).unwrap_or(at));
            schedule = match (schedule.wakes_at, next) {
                (Some(wakes_at), Some(next)) if now >= wakes_at => {
                    // The system wakes threads too late by more than what is left.
                    drop(schedule);
                    while Instant::now() < next {
                        hint::spin_loop();
                    }
                    self.lock()
                }
                (Some(wakes_at), _) => {
                    let wait = self.changed.wait_timeout(schedule, wakes_at.saturating_duration_since(now));
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
                (None, _) => self.changed.wait(schedule).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Schedule {
    /// Whether the epoch must advance. What was due is due again a little later: a guest that was just looking at its clock when
    /// the epoch advanced takes that for what it has looked at already.
    fn take_due(&mut self, now: Instant) -> bool {
        let mut any = self.once.take_if(|at| *at <= now).is_some();
        for deadline in self.deadlines.iter_mut().flatten() {
            if *deadline <= now {
                *deadline = now + AGAIN;
                any = true;
            }
        }
        any
    }

    fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().chain(&self.once).min().copied()
    }
}

/// How long before a deadline the timer is awake.
const LEAD: Duration = Duration::from_micros(150);

/// How much later the epoch advances again.
const AGAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deadline_fires_when_due_and_again_until_it_is_disarmed() {
        let start = Instant::now();
        let [first, second] = [1, 2].map(|seconds| start + Duration::from_secs(seconds));
        let deadlines = vec![Some(second), None, Some(first)];
        let mut schedule = Schedule { deadlines, once: None, wakes_at: None, stopped: false };
        assert!(!schedule.take_due(first - Duration::from_nanos(1)));
        assert!(schedule.take_due(first));
        assert!(!schedule.take_due(first));
        assert_eq!(schedule.next(), Some(first + AGAIN));
        assert!(schedule.take_due(first + AGAIN));
        schedule.deadlines[2] = None;
        assert!(schedule.take_due(second + Duration::from_nanos(1)));
        schedule.deadlines[0] = None;
        schedule.once = Some(second);
        assert_eq!(schedule.next(), Some(second));
        assert!(schedule.take_due(second) && !schedule.take_due(second));
        assert_eq!(schedule.next(), None);
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
