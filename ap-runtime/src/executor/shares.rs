//! [`Shares`]: how many runs of a project may be executed at once, remembered for a moment.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ap_core::{id::ProjectId, time::Timestamp};

use crate::kernel::Kernel;

/// The limits that projects have of their own.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<BTreeMap<ProjectId, (Option<u32>, Timestamp)>>);

impl Shares {
    /// The project's own limit, if it has one. A store that does not answer is no reason to exceed it: the run then waits.
    pub(super) async fn limit(&self, kernel: &Kernel, project: ProjectId) -> Option<u32> {
        let now = kernel.clock.now();
        let known = self.lock().get(&project).copied().filter(|(_, until)| now < *until);
        if let Some((limit, _)) = known {
            return limit;
        }
        let Ok(record) = kernel.backend.project(project).await else { return Some(0) };
        let limit = record.share.concurrency;
        let mut shares = self.lock();
        if shares.len() >= CAPACITY {
            shares.clear();
        }
        shares.insert(project, (limit, now.saturating_add(KNOWN_FOR)));
        limit
    }

    /// The share was changed.
    pub(super) fn forget(&self, project: ProjectId) {
        self.lock().remove(&project);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProjectId, (Option<u32>, Timestamp)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long another process's change may go unnoticed.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Projects kept at most.
const CAPACITY: usize = 10_000;
