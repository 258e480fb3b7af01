//! Every run ends once faults have stopped.

use ap_core::run::RunStatus;

use super::Invariant;
use crate::sim::history::History;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "ends",
    promise: "once nothing goes wrong any more, every sender is answered, every run ends, and none of them by a fault of ours",
    source: "design §4, recovery; DBOS, workflow recovery: pending workflows are always resumed",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    if !history.rested {
        let answered = history.acknowledged().map(|(delivery, ..)| delivery).collect::<std::collections::BTreeSet<_>>();
        violations.push(format!(
            "the world did not come to rest: {} of {} deliveries were answered",
            answered.len(),
            history.deliveries
        ));
    }
    for (id, run) in &history.runs {
        if !run.record.status.is_terminal() {
            violations.push(format!("{id} is {} for ever", run.record.status));
        }
        if run.record.status == RunStatus::InternalError {
            let reason = run.replayed.as_ref().ok().and_then(|(_, state)| state.end()?.error.clone());
            violations.push(format!("{id} was given up: {reason:?}"));
        }
    }
}
