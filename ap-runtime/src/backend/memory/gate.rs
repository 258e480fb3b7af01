//! Gates: how many runs of a key are under way, and which wait before it.

use std::collections::BTreeSet;

use ap_core::{id::ProjectId, store::LookupHash, time::Timestamp};

use super::{HashKey, RunKey, State, claim::Rank};
use crate::store::Gate;

/// Runs at one gate.
#[derive(Clone, Default)]
pub(super) struct GateState {
    /// How many are past it.
    holders: u32,
    /// Those before it, in the order in which they pass.
    waiting: BTreeSet<Rank>,
}

impl State {
    /// Whether one more run may pass; `leaving` others are about to leave.
    pub(super) fn has_room(&self, project: ProjectId, gate: &Gate, leaving: u32) -> bool {
        let holders = self.gates.get(&(project, gate.key)).map_or(0, |gate| gate.holders);
        holders.saturating_sub(leaving) < gate.limit
    }

    /// Counts a run that is at its gate now, past it or before it.
    pub(super) fn enter_gate(&mut self, key: RunKey) {
        let Some(run) = self.runs.get(&key) else { return };
        let Some(gate) = run.gate else { return };
        let at = self.gates.entry((key.0, gate.key)).or_default();
        if run.past_gate {
            at.holders = at.holders.saturating_add(1);
        } else {
            at.waiting.insert(run.rank());
        }
    }

    /// Counts a run out that has ended; returns the gate whose next runs may pass now.
    pub(super) fn leave_gate(&mut self, key: RunKey) -> Option<LookupHash> {
        let run = self.runs.get(&key)?;
        let gate = run.gate?;
        let at = self.gates.get_mut(&(key.0, gate.key))?;
        if run.past_gate {
            at.holders = at.holders.saturating_sub(1);
        } else {
            at.waiting.remove(&run.rank());
        }
        Some(gate.key)
    }

    /// Lets waiting runs pass, in order, as long as the next one's own limit allows.
    pub(super) fn promote(&mut self, gate: HashKey, now: Timestamp) {
        while let Some(next) = self.next_to_pass(gate) {
            self.change_run((gate.0, next.2), now, |run| run.past_gate = true);
            if let Some(at) = self.gates.get_mut(&gate) {
                at.waiting.remove(&next);
                at.holders = at.holders.saturating_add(1);
            }
        }
        if self.gates.get(&gate).is_some_and(|at| at.holders == 0 && at.waiting.is_empty()) {
            self.gates.remove(&gate);
        }
    }

    pub(super) fn next_to_pass(&self, gate: HashKey) -> Option<Rank> {
        let at = self.gates.get(&gate)?;
        let next = *at.waiting.first()?;
        let limit = self.runs.get(&(gate.0, next.2))?.gate?.limit;
        (at.holders < limit).then_some(next)
    }

    /// How many runs are past a gate, and how many before it.
    #[cfg(test)]
    pub(super) fn gate_sizes(&self, gate: HashKey) -> (usize, usize) {
        self.gates.get(&gate).map_or((0, 0), |at| (at.holders as usize, at.waiting.len()))
    }
}
