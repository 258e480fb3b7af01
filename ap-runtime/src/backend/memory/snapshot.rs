//! Keeping and bringing back everything a backend holds, for simulation.

use std::fmt;

use super::{MemoryBackend, State};

/// Everything a backend held at one moment.
#[derive(Clone)]
pub(crate) struct MemorySnapshot(State);

impl fmt::Debug for MemorySnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySnapshot").finish_non_exhaustive()
    }
}

impl MemoryBackend {
    /// What the backend holds now.
    pub(crate) fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.lock().clone())
    }

    /// Goes back to what it held then.
    pub(crate) fn restore(&self, snapshot: &MemorySnapshot) {
        self.lock().clone_from(&snapshot.0);
    }
}
