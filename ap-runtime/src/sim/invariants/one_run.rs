//! One delivery makes one run.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{
    sim::history::{Call, History},
    store::Accepted,
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "one run",
    promise: "however often a delivery comes, it is one run, and every sender of it is told the same one",
    source: "design §1, nothing doubled; Standard Webhooks, `webhook-id` as idempotency key",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut told = BTreeMap::new();
    for (delivery, identity, run) in history.acknowledged() {
        if let Some(identity) = identity {
            let first = *told.entry(identity).or_insert(run);
            if first != run {
                violations.push(format!("delivery {delivery} was acknowledged as {first} and as {run}"));
            }
        }
    }
    let mut created = BTreeMap::new();
    for call in history.calls() {
        if let Call::Accept { new, answer: Ok(Accepted::Created { .. }), .. } = call
            && let Some(key) = new.dedupe
            && let Some(first) = created.insert(key.0, new.run)
        {
            violations.push(format!("one delivery became {first} and {}", new.run));
        }
    }
}
