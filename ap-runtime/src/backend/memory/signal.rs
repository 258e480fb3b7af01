//! Signals: what runs are told from outside.

use ap_core::{
    store::{Entity, StoreError},
    time::Timestamp,
};

use super::State;
use crate::store::{SignalRecord, Signaled};

impl State {
    /// What would become of a signal.
    pub(super) fn judge_signal(&self, signal: &SignalRecord) -> Result<Signaled, StoreError> {
        match self.runs.get(&(signal.project, signal.run)) {
            None => Ok(Signaled::Over),
            Some(run) if run.record.status.is_terminal() => Ok(Signaled::Over),
            Some(run) if run.slots.contains(&signal.slot) => Ok(Signaled::Used),
            Some(run) if run.signals.contains_key(&signal.id) => {
                Err(StoreError::AlreadyExists { entity: Entity::Signal })
            }
            Some(_) => Ok(Signaled::Delivered),
        }
    }

    /// Keeps a signal that was judged to be delivered.
    pub(super) fn deliver(&mut self, signal: SignalRecord, now: Timestamp) {
        self.change_run((signal.project, signal.run), now, |run| {
            run.slots.insert(signal.slot);
            run.signals.insert(signal.id, signal);
        });
    }
}
