//! Waits are over when they are due: not early, and once.

use super::Invariant;
use crate::sim::history::History;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "timers",
    promise: "a wait is over no earlier than it was to be, by the clock that decided it",
    source: "design §4, pause; Restate, durable timers fire at or after their time",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    for (id, run) in &history.runs {
        for wait in &run.waits {
            // Host clocks are a second apart from the store's at most, and may have been set back during the wait.
            let early = wait.until.saturating_since(wait.over);
            if early > history.set_back + CLOCK_SPREAD {
                violations.push(format!("a wait of `{}` in {id} was over {} ms early", wait.path, early.as_millis()));
            }
        }
    }
}

/// How far two clocks are apart at most before any of them jumps.
const CLOCK_SPREAD: std::time::Duration = std::time::Duration::from_secs(2);
