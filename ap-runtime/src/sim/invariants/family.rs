//! Runs and the runs they start agree.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{
    engine::{Event, Signal},
    sim::history::History,
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "family",
    promise: "a step starts one run however often it is recovered, that run's parent is there, and the parent is told the end \
              that the run had",
    source: "design §4, effects; DBOS, child workflows: started once, by the id of the parent and the step",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut children = BTreeMap::new();
    for (id, run) in &history.runs {
        let Ok((events, state)) = &run.replayed else { continue };
        if let Some(parent) = state.parent() {
            if !history.runs.contains_key(&parent.run) {
                violations.push(format!("{id} was started by {}, which is not there", parent.run));
            }
            if let Some(first) = children.insert((parent.run, parent.path.clone()), *id) {
                violations.push(format!("`{}` of {} started {first} and {id}", parent.path, parent.run));
            }
        }
        for event in events {
            let Event::Signaled { content: Signal::ChildEnded { run: child, status, .. }, .. } = event else {
                continue;
            };
            let stored = history.runs.get(child).map(|child| child.record.status);
            if stored != Some(*status) {
                violations.push(format!("{id} was told that {child} is {status}, and it is {stored:?}"));
            }
        }
    }
}
