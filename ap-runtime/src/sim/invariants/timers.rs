//! Waits are over when they are due: not early, and once.

use std::collections::{BTreeMap, BTreeSet};

use super::Invariant;
use crate::{
    sim::history::{Call, History},
    store::{RunChange, Signaled},
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "timers",
    promise: "a wait is over no earlier than it was to be, and a paused run that nobody told anything is handed out no earlier \
              than it asked for, by the store's clock",
    source: "design §4, pause; Restate, durable timers fire at or after their time",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut parked = BTreeMap::new();
    let mut told = BTreeSet::new();
    for call in history.calls() {
        match call {
            Call::Commit { commit, answer: Ok(()), .. } => {
                told.extend(commit.signals.iter().map(|(_, run, _)| *run));
                if let RunChange::Park { due } = commit.change {
                    parked.insert(commit.lease.run, due);
                }
            }
            Call::Signal { run, answer: Ok(Signaled::Delivered), .. } => drop(told.insert(*run)),
            Call::Claim { at, answer: Ok(claimed) } => {
                for one in claimed {
                    let Some(due) = parked.remove(&one.lease.run) else { continue };
                    if !told.contains(&one.lease.run) && due.is_none_or(|due| due > *at) {
                        violations.push(format!("{} was handed out before its time", one.lease.run));
                    }
                }
            }
            _ => {}
        }
    }
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
