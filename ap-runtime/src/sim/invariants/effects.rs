//! What must not happen twice does not.

use std::collections::BTreeMap;

use super::Invariant;
use crate::sim::history::{History, Observed, Repeats};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "effects",
    promise: "an effect that must not be repeated reaches its peer once; one that may be is repeated with the same key and \
              the same input, so that a peer that honours the key does it once",
    source: "design §4, effects; draft-ietf-httpapi-idempotency-key-header, §2.2: a key is never reused with another payload",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut reached: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut inputs: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, observed) in &history.observed {
        match observed {
            Observed::Performed { key, input, repeats, .. } => {
                if *inputs.entry(key).or_insert(*input) != *input {
                    violations.push(format!("`{key}` was used with two different inputs"));
                }
                if *repeats == Repeats::Never {
                    reached.entry(key).or_default().0 += 1;
                }
            }
            // The peer said that it did not act.
            Observed::Heard { key, succeeded: false, .. } => {
                if let Some((_, refused)) = reached.get_mut(&**key) {
                    *refused += 1;
                }
            }
            _ => {}
        }
    }
    for (key, (times, refused)) in reached {
        if times > refused + 1 {
            violations.push(format!("`{key}` must not be repeated and reached its peer {times} times"));
        }
    }
}
