//! [`Frame`]: where in the flow a run stands. A stack of frames leads from the top list to the current step.

use std::sync::Arc;

use ap_core::{
    flow::{Step, StepKind, StepName, ValidFlow},
    run::StepPath,
};
use serde_json::Value;

/// A position in one list of steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    pub(super) list: List,
    /// Index of the current step in the list.
    pub(super) index: usize,
    /// The step that ran before the current one in this list.
    pub(super) previous: Option<StepPath>,
}

/// Which list of steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum List {
    /// The flow's own.
    Top,
    /// One side of a branch.
    Branch { owner: StepName, path: StepPath, side: bool },
    /// The body of a loop.
    Body { owner: StepName, path: StepPath, items: Arc<Vec<Value>>, iteration: usize },
}

impl Frame {
    pub(super) const fn new(list: List) -> Self {
        Self { list, index: 0, previous: None }
    }

    /// The steps of this list.
    pub(super) fn steps<'f>(&self, flow: &'f ValidFlow) -> &'f [Step] {
        let kind_of = |owner: &StepName| flow.step(owner.as_str()).map(|step| &step.kind);
        match &self.list {
            List::Top => flow.steps(),
            List::Branch { owner, side, .. } => match kind_of(owner) {
                Some(StepKind::Branch(branch)) if *side => &branch.if_true,
                Some(StepKind::Branch(branch)) => &branch.if_false,
                _ => &[],
            },
            List::Body { owner, .. } => match kind_of(owner) {
                Some(StepKind::Loop(inner)) => &inner.steps,
                _ => &[],
            },
        }
    }

    pub(super) fn current<'f>(&self, flow: &'f ValidFlow) -> Option<&'f Step> {
        self.steps(flow).get(self.index)
    }

    /// The step this list belongs to, unless it is the top one.
    pub(super) const fn owner(&self) -> Option<(&StepName, &StepPath)> {
        match &self.list {
            List::Top => None,
            List::Branch { owner, path, .. } | List::Body { owner, path, .. } => Some((owner, path)),
        }
    }

    /// Goes on to the next step of the list.
    pub(super) fn proceed(&mut self, finished: StepPath) {
        self.previous = Some(finished);
        self.index += 1;
    }
}

/// The path of a step called `name` that stands in the innermost list of `frames`.
pub(super) fn path_of(frames: &[Frame], name: &StepName) -> StepPath {
    scopes_outwards(frames)
        .next()
        .map_or_else(|| StepPath::top(name.as_str()), |(path, iteration)| path.in_iteration(iteration, name.as_str()))
}

/// The loop iterations around the current step, innermost first.
pub(super) fn scopes_outwards(frames: &[Frame]) -> impl Iterator<Item = (&StepPath, usize)> {
    frames.iter().rev().filter_map(|frame| match &frame.list {
        List::Body { path, iteration, .. } => Some((path, *iteration)),
        List::Top | List::Branch { .. } => None,
    })
}

/// The item of the innermost loop and its index.
pub(super) fn item(frames: &[Frame]) -> Option<(&Value, usize)> {
    frames.iter().rev().find_map(|frame| match &frame.list {
        List::Body { items, iteration, .. } => items.get(*iteration).map(|item| (item, *iteration)),
        List::Top | List::Branch { .. } => None,
    })
}
