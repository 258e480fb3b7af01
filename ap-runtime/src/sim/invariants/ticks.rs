//! A schedule ticks once.

use std::collections::{BTreeMap, BTreeSet};

use super::Invariant;
use crate::sim::history::{Call, History};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "ticks",
    promise: "what is due is handed out under a rising epoch, not before its time, and fired once, over all workers",
    source: "the contract of `store::SystemStore::claim_triggers`; DBOS, scheduled workflows: once per interval",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut epochs = BTreeMap::new();
    let mut due_at = BTreeMap::new();
    let mut fired = BTreeSet::new();
    for call in history.calls() {
        match call {
            Call::ClaimTriggers { at, answer: Ok(claimed) } => {
                for (flow, epoch, due) in claimed {
                    if epochs.insert(*flow, *epoch).is_some_and(|before| before >= *epoch) {
                        violations.push(format!("the trigger of {flow} was handed out twice under epoch {epoch}"));
                    }
                    if due > at {
                        violations.push(format!("the trigger of {flow} was handed out before it was due"));
                    }
                    due_at.insert((*flow, *epoch), *due);
                }
            }
            Call::FireTrigger { flow, epoch, answer: Ok(_), .. } => {
                if let Some(due) = due_at.get(&(*flow, *epoch))
                    && !fired.insert((*flow, *due))
                {
                    violations.push(format!("what was due at {due} for {flow} was fired twice"));
                }
            }
            _ => {}
        }
    }
}
