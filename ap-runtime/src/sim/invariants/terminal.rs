//! Over is over.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{
    sim::history::{Call, History},
    store::RunChange,
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "terminal",
    promise: "a run ends once, in the status that was acknowledged, and nobody claims it or writes to it after that unless it \
              is opened again on purpose",
    source: "design §4, run statuses; Restate, an invocation completes once",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut over = BTreeMap::new();
    for call in history.calls() {
        match call {
            Call::Reopen { run, answer: Ok(()), .. } => {
                over.remove(run);
            }
            Call::Commit { commit, answer: Ok(()), .. } => {
                let run = commit.lease.run;
                if over.contains_key(&run) {
                    violations.push(format!("{run} was written to after its end"));
                }
                if let RunChange::End { status, .. } = commit.change {
                    over.insert(run, status);
                }
            }
            Call::Claim { answer: Ok(claimed), .. } => {
                for one in claimed.iter().filter(|one| over.contains_key(&one.lease.run)) {
                    violations.push(format!("{} was claimed after its end", one.lease.run));
                }
            }
            _ => {}
        }
    }
    for (id, status) in over {
        let stored = history.runs.get(&id).map(|run| run.record.status);
        if stored != Some(status) {
            violations.push(format!("{id} ended as {status} and the store says {stored:?}"));
        }
    }
}
