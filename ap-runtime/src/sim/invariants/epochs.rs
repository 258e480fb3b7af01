//! Whoever lost a run cannot write to it.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{
    sim::history::{Call, History},
    store::Accepted,
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "epochs",
    promise: "the epoch of a run rises with every claim, and no commit and no heartbeat under an older one is accepted",
    source: "design §4, claim and fence; openraft, a vote only grows and a smaller one is rejected",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut epochs = BTreeMap::new();
    for call in history.calls() {
        match call {
            Call::Accept { new, answer: Ok(Accepted::Created { leased: true }), .. } => {
                epochs.insert(new.run, 1);
            }
            Call::Claim { answer: Ok(claimed), .. } => {
                for one in claimed {
                    let run = one.lease.run;
                    let before = epochs.insert(run, one.lease.epoch);
                    if before.is_some_and(|before| before >= one.lease.epoch) {
                        violations.push(format!("{run} was claimed under epoch {} after {before:?}", one.lease.epoch));
                    }
                }
            }
            Call::Commit { commit, answer: Ok(()), .. } => {
                let (run, epoch) = (commit.lease.run, commit.lease.epoch);
                if epochs.get(&run).is_some_and(|current| *current > epoch) {
                    violations.push(format!("a commit to {run} under the old epoch {epoch} was accepted"));
                }
            }
            Call::Heartbeat { leases, answer: Ok(beat) } => {
                for lease in leases {
                    let old = epochs.get(&lease.run).is_some_and(|current| *current > lease.epoch);
                    if old && !beat.lost.contains(lease) {
                        violations.push(format!(
                            "a heartbeat for {} under the old epoch {} was taken",
                            lease.run, lease.epoch
                        ));
                    }
                }
            }
            _ => {}
        }
    }
}
