//! [`Admission`]: may a new run be executed at once by the process that accepts it, or does it wait its turn?
//!
//! Waiting means being accepted into the queue, from which the store hands runs out fairly between projects. Running at once
//! is what makes a quiet system quick; what keeps it fair:
//!
//! * A project that has runs waiting does not overtake them.
//! * While any project waits, none takes up more than half of this process at once.
//! * An eighth of this process is kept for projects that have next to nothing under way here.

use std::collections::{BTreeMap, BTreeSet};

use ap_core::id::ProjectId;

/// What this process executes, by project, and which projects wait for it.
#[derive(Debug)]
pub(super) struct Admission {
    capacity: usize,
    held: BTreeMap<ProjectId, usize>,
    waiting: BTreeSet<ProjectId>,
}

/// How many runs may be executed, as far as this process can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Runs of the project.
    pub(super) project: usize,
    /// Runs of all projects.
    pub(super) total: usize,
}

impl Admission {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity, held: BTreeMap::new(), waiting: BTreeSet::new() }
    }

    /// Permits that claims leave alone.
    pub(super) const fn reserve(&self) -> usize {
        self.capacity / RESERVED_PART
    }

    /// Whether a new run of `project` may be executed at once, given that `free` permits are left.
    pub(super) fn admits(&self, project: ProjectId, free: usize, bounds: Bounds) -> bool {
        let mine = self.count(project);
        let within = mine < bounds.project && self.held.values().sum::<usize>() < bounds.total;
        let modest = self.waiting.is_empty() || mine.saturating_mul(2) < self.capacity;
        let reserved = free <= self.reserve() && mine >= (self.reserve() / RESERVED_PART).max(1);
        free > 0 && within && modest && !reserved && !self.waiting.contains(&project)
    }

    /// How many runs of `project` are executed here.
    pub(super) fn count(&self, project: ProjectId) -> usize {
        self.held.get(&project).copied().unwrap_or_default()
    }

    /// How many runs are executed here.
    pub(super) fn running(&self) -> usize {
        self.held.values().sum()
    }

    /// A run of `project` was accepted into the queue for want of room.
    pub(super) fn waits(&mut self, project: ProjectId) {
        self.waiting.insert(project);
    }

    /// The store had fewer runs to hand out than there was room for.
    pub(super) fn nobody_waits(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn begins(&mut self, project: ProjectId) {
        *self.held.entry(project).or_default() += 1;
    }

    pub(super) fn ends(&mut self, project: ProjectId) {
        if let Some(count) = self.held.get_mut(&project) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.held.remove(&project);
            }
        }
    }
}

/// One in so many permits is reserved.
const RESERVED_PART: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { project: usize::MAX, total: usize::MAX };
    const BUSY: ProjectId = ProjectId::from_u128(1);
    const QUIET: ProjectId = ProjectId::from_u128(2);

    /// `held` runs of the busy project, in a process of 16.
    fn busy(held: usize) -> Admission {
        let mut admission = Admission::new(16);
        (0..held).for_each(|_| admission.begins(BUSY));
        admission
    }

    #[test]
    fn alone_a_project_has_all_but_the_reserve() {
        assert!(busy(13).admits(BUSY, 3, BOUNDS));
        assert!(!busy(14).admits(BUSY, 2, BOUNDS));
        assert!(busy(14).admits(QUIET, 2, BOUNDS));
        assert!(!busy(16).admits(QUIET, 0, BOUNDS));
    }

    #[test]
    fn a_small_process_reserves_nothing() {
        let mut admission = Admission::new(2);
        assert!(admission.admits(BUSY, 2, BOUNDS));
        admission.begins(BUSY);
        assert!(admission.admits(BUSY, 1, BOUNDS));
    }

    #[test]
    fn nobody_overtakes_his_own_and_all_make_room_for_those_that_wait() {
        let mut admission = busy(8);
        admission.waits(QUIET);
        assert!(!admission.admits(QUIET, 8, BOUNDS), "it has runs in the queue");
        assert!(!admission.admits(BUSY, 8, BOUNDS), "it has half of the process");
        admission.ends(BUSY);
        assert!(admission.admits(BUSY, 9, BOUNDS));
        admission.nobody_waits();
        assert!(admission.admits(QUIET, 9, BOUNDS));
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let bounds = |project, total| Bounds { project, total };
        assert!(busy(3).admits(BUSY, 13, bounds(4, 4)));
        assert!(!busy(4).admits(BUSY, 12, bounds(4, 9)));
        assert!(!busy(4).admits(QUIET, 12, bounds(9, 4)));
        assert!(!busy(0).admits(QUIET, 16, bounds(0, 9)));
    }
}
