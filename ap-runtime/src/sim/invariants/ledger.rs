//! The ledger says of an effect what is known of it.

use std::collections::BTreeMap;

use ap_core::run::StepStatus;

use super::Invariant;
use crate::{
    engine::RunView,
    sim::history::{History, Observed, Repeats},
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "ledger",
    promise: "an effect that must not be repeated and whose answer nobody heard is unknown, and no step succeeds with an \
              effect whose answer nobody heard",
    source: "design §4, effects: after a crash a planned effect without outcome is unknown",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let mut known: BTreeMap<&str, (Repeats, bool, bool)> = BTreeMap::new();
    for (_, observed) in &history.observed {
        match observed {
            Observed::Performed { key, repeats, .. } => {
                known.entry(key).or_insert((*repeats, false, false));
            }
            Observed::Heard { key, succeeded, .. } => {
                if let Some((_, heard, good)) = known.get_mut(&**key) {
                    *heard = true;
                    *good |= *succeeded;
                }
            }
            _ => {}
        }
    }
    for (id, run) in &history.runs {
        let Ok((_, state)) = &run.replayed else { continue };
        for step in RunView::new(state, run.record.status).steps {
            let (path, Some(effect)) = (step.path, step.effect) else { continue };
            let seen = known.get(effect.key.as_str()).copied();
            let (repeats, heard, good) = seen.unwrap_or((Repeats::Harmless, false, false));
            if repeats == Repeats::Never && !heard && effect.state == "committed" {
                violations.push(format!("`{path}` of {id} is settled, and nobody heard how it went"));
            }
            if step.status == StepStatus::Succeeded && !good {
                violations.push(format!("`{path}` of {id} succeeded, and no peer said so"));
            }
        }
    }
}
