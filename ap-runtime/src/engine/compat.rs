//! Could a run that is under way go on with another version of its flow?
//!
//! It could if nothing that it has begun would be different: every step execution so far belongs to a step that is the same in
//! both versions, and each list it stands in has the same steps up to where it stands. Runs are pinned to their version all the
//! same; the answer tells an author what a change means for them.

use std::collections::BTreeSet;

use ap_core::flow::{Step, ValidFlow};

use super::{
    frame::{Frame, List},
    state::RunState,
};

/// Whether the run could go on with `new` instead of `old`, the version it is pinned to.
///
/// # Errors
/// The first thing that is different, for people.
pub fn compatibility(state: &RunState, old: &ValidFlow, new: &ValidFlow) -> Result<(), String> {
    let begun: BTreeSet<&str> = state.order.iter().map(ap_core::run::StepPath::step_name).collect();
    if let Some(name) = begun.iter().find(|name| !old.same_step(new, name)) {
        let what = if new.step(name).is_some() { "changed" } else { "removed" };
        return Err(format!("step `{name}` has begun and was {what}"));
    }
    // A list inside a step belongs to it: the step is the same, so the list is. That leaves the flow's own.
    let top = |frame: &&Frame| matches!(frame.list, List::Top);
    let position = state.strands.iter().flat_map(|(_, strand)| &strand.frames).find(top).map(|frame| frame.index);
    let Some(position) = position else { return Ok(()) };
    let name = |steps: &[Step], index: usize| steps.get(index).map(|step| step.name.clone());
    let last = position.min(old.steps().len().saturating_sub(1));
    match (0..=last).find(|index| name(old.steps(), *index) != name(new.steps(), *index)) {
        Some(index) => {
            let moved = name(old.steps(), index).map_or_else(String::new, |name| format!(", where `{name}` stood"));
            Err(format!("the run has passed place {} of the flow{moved}, and another step stands there", index + 1))
        }
        None => Ok(()),
    }
}
