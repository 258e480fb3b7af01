//! [`Report`]: what an exploration found.

use std::fmt;

use super::{fault::Plan, history::Fnv};

/// What an exploration found. Its text names the seed and the shortest trace of what is wrong.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) schedules: usize,
    pub(super) points: u64,
    pub(super) quiet_points: u64,
    pub(super) faults: usize,
    pub(super) exhaustive: bool,
    pub(super) hash: u64,
    pub(super) failures: Vec<Failure>,
}

impl Report {
    pub(super) fn new(quiet_points: u64) -> Self {
        let hash = Fnv::default().0;
        Self { schedules: 0, points: 0, quiet_points, faults: 0, exhaustive: false, hash, failures: Vec::new() }
    }

    /// How many schedules were played.
    #[must_use]
    pub const fn schedules(&self) -> usize {
        self.schedules
    }

    /// How many points they had altogether: writes to the store, and calls of actions that act outside.
    #[must_use]
    pub const fn points(&self) -> u64 {
        self.points
    }

    /// How many faults were brought about altogether.
    #[must_use]
    pub const fn faults(&self) -> usize {
        self.faults
    }

    /// Whether every fault was tried at every point of the schedule without faults, with and without duplicates.
    #[must_use]
    pub const fn is_exhaustive(&self) -> bool {
        self.exhaustive
    }

    /// A hash over everything that was observed, in order. The same exploration gives the same one.
    #[must_use]
    pub const fn trace_hash(&self) -> u64 {
        self.hash
    }

    /// Whether every promise was kept.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// Schedules that broke a promise, each as small as it could be made.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Does nothing if every promise was kept.
    ///
    /// # Panics
    /// With the seed and the shortest trace otherwise.
    #[expect(clippy::panic, reason = "this is what a test calls instead of `assert!`")]
    #[track_caller]
    pub fn assert_clean(&self) {
        if !self.is_clean() {
            panic!("{self}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedules, points, faults, hash, .. } = self;
        let reach = if self.exhaustive { "every point" } else { "a sample" };
        writeln!(
            f,
            "{schedules} schedules ({reach} of {} and more), {points} points, {faults} faults, {} violations, hash {hash:016x}",
            self.quiet_points,
            self.failures.len()
        )?;
        self.failures.iter().try_for_each(|failure| write!(f, "{failure}"))
    }
}

/// A schedule that broke a promise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What went wrong in it; nothing in here can be left out.
    pub plan: Plan,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// Everything that was observed, a line each.
    pub trace: Vec<String>,
    /// The hash over that.
    pub hash: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.plan)?;
        for Violation { invariant, detail } in &self.violations {
            writeln!(f, "  broken, {invariant}: {detail}")?;
        }
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The name of the [`Invariant`](super::Invariant).
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}
