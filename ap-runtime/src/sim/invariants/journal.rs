//! The journal is all there is to know of a run.

use std::collections::BTreeSet;

use super::Invariant;
use crate::sim::history::{Call, History};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "journal",
    promise: "a journal is appended to and never changed, its entries count up from 0 without a gap, and replaying it gives \
              the status the store has",
    source: "design §4, replaying the journal rebuilds the state exactly; openraft, log invariants: consecutive log ids",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut written = BTreeSet::new();
    for call in history.calls() {
        if let Call::Commit { commit, answer: Ok(()), .. } = call {
            for seq in &commit.seqs {
                if !written.insert((commit.lease.run, *seq)) {
                    violations.push(format!("entry {seq} of {} was written twice", commit.lease.run));
                }
            }
        }
    }
    for (id, run) in &history.runs {
        if !run.seqs.iter().copied().eq(0..run.seqs.len() as u64) {
            violations.push(format!("the entries of {id} are {:?}", run.seqs));
        }
        match &run.replayed {
            Err(reason) => violations.push(format!("the journal of {id} cannot be replayed: {reason}")),
            Ok((_, state)) => {
                let replayed = state.end().map(|end| end.status);
                if run.record.status.is_terminal() && replayed != Some(run.record.status) {
                    violations.push(format!("{id} is {} and its journal says {replayed:?}", run.record.status));
                }
                if state.run() != *id {
                    violations.push(format!("the journal of {id} is that of {}", state.run()));
                }
            }
        }
    }
}
