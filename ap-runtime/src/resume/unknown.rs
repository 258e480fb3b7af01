//! Projects that do not exist: whoever makes tokens up must not cost the store a read each.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ap_core::{id::ProjectId, time::Timestamp};

/// Projects that were looked for in vain, and until when that is taken for granted.
#[derive(Debug, Default)]
pub(super) struct Unknown(Mutex<BTreeMap<ProjectId, Timestamp>>);

impl Unknown {
    pub(super) fn has(&self, project: ProjectId, now: Timestamp) -> bool {
        self.lock().get(&project).is_some_and(|until| now < *until)
    }

    pub(super) fn add(&self, project: ProjectId, now: Timestamp) {
        let mut unknown = self.lock();
        if unknown.len() >= CAPACITY {
            unknown.clear();
        }
        unknown.insert(project, now.saturating_add(UNKNOWN_FOR));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProjectId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A project that was asked for a moment before it was created is found after this.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// Unit: projects.
const CAPACITY: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_kept_for_a_while_and_within_bounds() {
        let (unknown, now) = (Unknown::default(), Timestamp::EPOCH);
        let project = ProjectId::from_u128(1);
        assert!(!unknown.has(project, now));
        unknown.add(project, now);
        let end = now.saturating_add(UNKNOWN_FOR);
        assert!(unknown.has(project, end.saturating_sub(Duration::from_micros(1))) && !unknown.has(project, end));
        for number in 1..=2 * CAPACITY as u128 {
            unknown.add(ProjectId::from_u128(number), now);
            assert!(unknown.lock().len() <= CAPACITY);
        }
        assert!(unknown.has(ProjectId::from_u128(2 * CAPACITY as u128), now));
    }
}
