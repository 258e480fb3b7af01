//! When two steps mean the same.

use crate::flow::Step;

/// Whether two steps of one name do the same in the same way: everything but their places in the source.
pub(super) fn same_step(one: &Step, two: &Step) -> bool {
    placeless(one) == placeless(two)
}

fn placeless(step: &Step) -> Step {
    let mut step = step.clone();
    displace(&mut step);
    step
}

fn displace(step: &mut Step) {
    step.pointer.clear();
    step.lists_mut().into_iter().flatten().for_each(displace);
}
