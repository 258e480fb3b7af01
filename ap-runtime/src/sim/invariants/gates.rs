//! No more runs are past a gate than it lets through.

use std::collections::{BTreeMap, BTreeSet};

use super::Invariant;
use crate::{
    sim::history::{Call, History},
    store::{Accepted, RunChange},
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "gates",
    promise: "no more runs of a concurrency key are under way at once, paused ones included, than its limit says",
    source: "guide §6.3, concurrent runs; the contract of `store::Gate`",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut gates = BTreeMap::new();
    let mut past: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for call in history.calls() {
        let begun = match call {
            Call::Accept { new, answer: Ok(Accepted::Created { leased }), .. } => {
                gates.extend(new.gate.map(|gate| (new.run, gate)));
                if *leased { vec![new.run] } else { Vec::new() }
            }
            Call::FireTrigger { runs, answer: Ok(_), .. } => {
                gates.extend(runs.iter().filter_map(|new| Some((new.run, new.gate?))));
                Vec::new()
            }
            Call::Claim { answer: Ok(claimed), .. } => claimed.iter().map(|one| one.lease.run).collect(),
            Call::Commit { commit, answer: Ok(()), .. } => {
                for new in &commit.starts {
                    gates.extend(new.gate.map(|gate| (new.run, gate)));
                }
                if matches!(commit.change, RunChange::End { .. })
                    && let Some(gate) = gates.get(&commit.lease.run)
                    && let Some(past) = past.get_mut(&gate.key.0)
                {
                    past.remove(&commit.lease.run);
                }
                Vec::new()
            }
            _ => Vec::new(),
        };
        for run in begun {
            let Some(gate) = gates.get(&run) else { continue };
            let past = past.entry(gate.key.0).or_default();
            past.insert(run);
            if past.len() > gate.limit as usize {
                violations.push(format!("{} runs are past a gate for {}", past.len(), gate.limit));
            }
        }
    }
}
