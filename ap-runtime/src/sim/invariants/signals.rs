//! What a run is told, it takes in: once, and also if it came too early.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Invariant;
use crate::{
    engine::Event,
    sim::history::{Call, History, Observed},
    store::{RunChange, Signaled},
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "signals",
    promise: "an answer that was acknowledged is taken in by its run, also if it came before the run waited for it, and a slot \
              works once",
    source: "design §4, pause: a resume that arrives before the pause is persisted is kept; Restate, awakeables complete once",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let (mut slots, mut tokens) = (BTreeSet::new(), BTreeSet::new());
    let mut delivered = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let mut ended = BTreeMap::new();
    for (at, observed) in &history.observed {
        let call = match observed {
            Observed::Called { call, .. } => &**call,
            Observed::Answered { token, taken: true } => {
                if !tokens.insert(*token) {
                    violations.push("a token worked twice".to_owned());
                }
                continue;
            }
            _ => continue,
        };
        match call {
            Call::Signal { id, run, slot, answer: Ok(Signaled::Delivered), .. } => {
                if !slots.insert((*run, slot.0)) {
                    violations.push(format!("a slot of {run} worked twice"));
                }
                delivered.insert(*id, (*run, *at));
            }
            Call::Commit { commit, answer: Ok(()), .. } => {
                for id in &commit.taken {
                    if !taken.insert(*id) {
                        violations.push(format!("{id} was taken in twice"));
                    }
                }
                if matches!(commit.change, RunChange::End { .. }) {
                    ended.insert(commit.lease.run, *at);
                }
            }
            Call::Reopen { run, answer: Ok(()), .. } => slots.retain(|(of, _)| of != run),
            _ => {}
        }
    }
    for (id, (run, at)) in delivered.iter().filter(|(id, _)| !taken.contains(id)) {
        // A run may end before it looks; it looks as soon as somebody executes it.
        if ended.get(run).is_none_or(|end| *end > *at + LONGEST_UNNOTICED) {
            violations.push(format!("{id} was kept for {run}, which never took it in"));
        }
    }
    for (id, run) in &history.runs {
        let Ok((events, _)) = &run.replayed else { continue };
        let mut seen = BTreeSet::new();
        for event in events {
            match event {
                Event::Signaled { slot, .. } if !seen.insert(slot) => {
                    violations.push(format!("the journal of {id} has two signals of one slot"));
                }
                Event::Retried { .. } => seen.clear(),
                _ => {}
            }
        }
    }
}

/// How long it may take until a signal is seen: a few leases.
const LONGEST_UNNOTICED: Duration = Duration::from_secs(120);
