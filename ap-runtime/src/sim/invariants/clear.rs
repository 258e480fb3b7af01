//! Nothing is stored in clear.

use super::Invariant;
use crate::sim::history::History;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "clear",
    promise: "no text of a payload, of a flow or of a token stands in what is stored",
    source: "design §6: payloads cross store seams only as `Sealed`",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    violations.extend(history.clear.iter().map(|place| format!("clear text was stored in a {place}")));
}
