//! The audit trail has what happened, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::Invariant;
use crate::sim::history::{Call, History};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "audit",
    promise: "an audit record is there if and only if the change it came with is",
    source: "design §4, seams: mutating methods commit the audit records with the change",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let there: BTreeSet<_> = history.audit.iter().collect();
    let mut expected = BTreeMap::new();
    for call in history.calls() {
        let Some((ids, done)) = call.audit() else { continue };
        if matches!(call, Call::Accept { .. }) && ids.is_empty() {
            violations.push("a run was accepted without an audit record".to_owned());
        }
        for id in ids {
            *expected.entry(id).or_insert(false) |= done == Some(true);
        }
    }
    for (id, done) in expected {
        match (done, there.contains(id)) {
            (true, false) => violations.push(format!("{id} belongs to a change that happened, and is not there")),
            (false, true) => violations.push(format!("{id} belongs to a change that did not happen, and is there")),
            _ => {}
        }
    }
}
