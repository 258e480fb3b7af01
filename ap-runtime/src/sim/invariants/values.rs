//! What scripts keep is kept once, and nobody overwrites what he has not seen.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{
    sim::history::{Call, History},
    store::ValueExpect,
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "values",
    promise: "what a step writes to its key-value store happens with its end, once or not at all, and only while what it has read \
              is unchanged",
    source: "design §1, nothing doubled; the contract of `store::KeyValueStore`",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut stored: BTreeMap<_, Option<u64>> = BTreeMap::new();
    for call in history.calls() {
        let Call::Commit { commit, answer: Ok(()), .. } = call else { continue };
        for change in &commit.values {
            let before = stored.get(&change.id).copied().flatten();
            let seen = match change.expect {
                ValueExpect::Anything => before,
                ValueExpect::Absent => None,
                ValueExpect::Version(version) => Some(version),
            };
            if seen != before {
                violations
                    .push(format!("{} changed {} and had seen {seen:?}, not {before:?}", commit.lease.run, change.id));
            }
            if let Some(after) = change.after {
                stored.insert(change.id, after);
            }
        }
    }
    if let Some((succeeded, counted)) = history.counted
        && succeeded != counted
    {
        violations.push(format!("{succeeded} scripts have succeeded, and they have counted {counted}"));
    }
}
