//! What was acknowledged is there.

use std::collections::BTreeSet;

use super::Invariant;
use crate::sim::history::{Call, History};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "acknowledged",
    promise: "a run that a sender was told of, and an entry that a commit was told is written, are in the store in the end",
    source: "design §1, nothing lost; DBOS, workflow guarantees: a started workflow runs to completion",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    for (delivery, _, run) in history.acknowledged() {
        if !history.runs.contains_key(&run) {
            violations.push(format!("delivery {delivery} was acknowledged as {run}, which is not there"));
        }
    }
    let mut told = BTreeSet::new();
    for call in history.calls() {
        if let Call::Commit { commit, answer: Ok(()), .. } = call {
            told.extend(commit.seqs.iter().map(|seq| (commit.lease.run, *seq)));
        }
    }
    for (run, seq) in told {
        if !history.runs.get(&run).is_some_and(|run| run.seqs.contains(&seq)) {
            violations.push(format!("entry {seq} of {run} was acknowledged and is not there"));
        }
    }
}
