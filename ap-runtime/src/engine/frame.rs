//! [`Frame`]: where in the flow a strand stands. A stack of frames leads from its first list to the current step.

use std::sync::Arc;

use ap_core::{
    flow::{Step, StepName, ValidFlow},
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
    /// One nested in a step.
    Nested(Nested),
}

/// A list nested in a step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Nested {
    /// The step it belongs to.
    pub(super) owner: StepName,
    /// That step's execution.
    pub(super) path: StepPath,
    pub(super) place: Place,
    /// The iteration this is, in a loop or a queue.
    pub(super) iteration: Option<Iteration>,
    /// What happens behind its last step.
    pub(super) then: Then,
}

/// Which of the lists nested in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What handles its failure.
    Handler,
    /// See [`Step::nested`].
    List(usize),
}

/// One iteration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Iteration {
    pub(super) items: Items,
    pub(super) index: usize,
}

/// Where an iteration's item comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Items {
    /// A job of a queue.
    Job(Arc<Value>),
    /// An element of a loop's array.
    List(Arc<Vec<Value>>),
}

/// What happens behind the last step of a nested list.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Then {
    /// The strand ends: it was started for this list.
    EndStrand,
    /// Its failure is handled: on behind the owner, which stays failed.
    Handled,
    /// The next iteration of a loop, and behind the last one its end.
    NextIteration,
    /// More lists of the same step, then its end with this output.
    Succeed { rest: Vec<usize>, output: Arc<Value> },
}

impl Iteration {
    pub(super) fn item(&self) -> Option<&Value> {
        match &self.items {
            Items::Job(item) => Some(item),
            Items::List(items) => items.get(self.index),
        }
    }
}

impl Frame {
    pub(super) const fn new(list: List) -> Self {
        Self { list, index: 0, previous: None }
    }

    /// The steps of this list.
    pub(super) fn steps<'f>(&self, flow: &'f ValidFlow) -> &'f [Step] {
        let List::Nested(nested) = &self.list else { return flow.steps() };
        let Some(owner) = flow.step(nested.owner.as_str()) else { return &[] };
        match nested.place {
            Place::Handler => owner.handler(),
            Place::List(index) => owner.nested(index).unwrap_or_default(),
        }
    }

    pub(super) fn current<'f>(&self, flow: &'f ValidFlow) -> Option<&'f Step> {
        self.steps(flow).get(self.index)
    }

    pub(super) const fn nested(&self) -> Option<&Nested> {
        match &self.list {
            List::Nested(nested) => Some(nested),
            List::Top => None,
        }
    }

    /// The execution of the step around this list and the iteration, if the list is one.
    pub(super) fn iteration(&self) -> Option<(&StepPath, &Iteration)> {
        self.nested().and_then(|nested| Some((&nested.path, nested.iteration.as_ref()?)))
    }

    /// Goes on to the next step of the list.
    pub(super) fn proceed(&mut self, finished: StepPath) {
        self.previous = Some(finished);
        self.index += 1;
    }

    /// Goes back to the first step, of another list or iteration.
    pub(super) fn restart(&mut self) {
        self.index = 0;
        self.previous = None;
    }
}
