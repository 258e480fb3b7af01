//! One step by itself, with sample data in place of what came before it.

use std::{collections::BTreeMap, sync::Arc};

use ap_core::{
    flow::{StepKind, ValidFlow},
    run::{StepError, StepErrorKind, StepPath, StepStatus},
    time::Timestamp,
};
use serde_json::Value;

use super::{
    ActionCall, CodeCall, Command, ConnectionViews, EngineLimits, EvaluateCall, Event, ResumeTokens, RunState,
    ScriptResult,
    begin::{Moment, begun},
    evaluate::Results,
    frame::{Frame, Items, Iteration, List, Nested, Place, Then},
    strand::{Strand, StrandId},
};

/// What stands in place of everything before a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepSample {
    /// What the trigger delivered.
    pub trigger: Value,
    /// Outputs of other steps, by name.
    pub outputs: BTreeMap<String, Value>,
    /// `item` and `index`, for a step inside a loop or a queue.
    pub item: Option<(Value, usize)>,
}

/// What one step by itself comes to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StepTrial {
    /// Run this action.
    Action(ActionCall),
    /// Run this script.
    Code(CodeCall),
    /// A branch or a router: which way it goes, as its output says.
    Decided(Arc<Value>),
}

/// A step by itself, about to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRehearsal {
    state: RunState,
    strand: StrandId,
    path: StepPath,
    at: Timestamp,
    expressions: Option<EvaluateCall>,
}

impl RunState {
    /// The step called `name` with sample data, about to begin. Nothing else of the flow is executed.
    ///
    /// `run` and `resume` belong to no run: tokens that the step reads answer nothing.
    ///
    /// # Errors
    /// [`StepErrorKind::Input`] if there is no such step, or it is neither an action, a script, a branch nor a router.
    pub fn for_step(
        flow: &ValidFlow,
        name: &str,
        sample: StepSample,
        (run, at): (ap_core::id::RunId, Timestamp),
        (limits, connections, resume): (EngineLimits, Arc<ConnectionViews>, Arc<ResumeTokens>),
    ) -> Result<StepRehearsal, StepError> {
        let refuse = |message: &str| StepError::new(StepErrorKind::Input, message);
        let step = flow.step(name).ok_or_else(|| refuse("the flow has no such step"))?;
        if !matches!(step.kind, StepKind::Branch(_) | StepKind::Code(_) | StepKind::Piece(_) | StepKind::Router(_)) {
            return Err(refuse("only actions, scripts, branches and routers can be tested by themselves"));
        }
        let accepted = Event::Accepted { at, trigger: Arc::new(sample.trigger), limits, parent: None };
        let internal = |_| StepError::new(StepErrorKind::Internal, "the sample cannot be set up");
        let mut state = Self::accepted(run, &accepted, resume).map_err(internal)?;
        state.set_connections(connections);
        for (other, output) in sample.outputs {
            let path = StepPath::top(&other);
            let mut given = begun(StepStatus::Succeeded, at);
            given.output = Some(Arc::new(output));
            state.steps.insert(path, given);
        }
        let frames = sample.item.map(|(item, index)| {
            let iteration = Iteration { items: Items::Job(Arc::new(item)), index };
            let (owner, path) = (step.name.clone(), StepPath::top("sample"));
            let nested =
                Nested { owner, path, place: Place::List(0), iteration: Some(iteration), then: Then::EndStrand };
            Frame::new(List::Nested(nested))
        });
        let strand = state.strands.begin(None, frames.into_iter().collect());
        let path = StepPath::top(name);
        state.steps.insert(path.clone(), begun(StepStatus::Running, at));
        let expressions = state.evaluation(flow, strand, step, (&path, at));
        Ok(StepRehearsal { state, strand, path, at, expressions })
    }
}

impl StepRehearsal {
    /// What is to be evaluated before the step begins.
    #[must_use]
    pub const fn expressions(&self) -> Option<&EvaluateCall> {
        self.expressions.as_ref()
    }

    /// What the step comes to, with the results of its expressions in their order.
    ///
    /// # Errors
    /// What the step fails with, say because a template cannot be resolved.
    pub fn begin(self, flow: &ValidFlow, results: &[ScriptResult]) -> Result<StepTrial, StepError> {
        let internal =
            || StepError::new(StepErrorKind::Internal, "the results are not those of the step's expressions");
        let Self { mut state, strand, path, at, expressions } = self;
        let results = match &expressions {
            Some(call) => Results::new(call, results).ok_or_else(internal)?,
            None => Results::default(),
        };
        let step = flow.step(path.step_name()).ok_or_else(internal)?;
        state.begin_kind(&Moment { flow, id: strand, at, now: at, results: &results }, step, &path)?;
        if let Some(error) = state.end().and_then(|end| end.error.clone()) {
            return Err(error);
        }
        let stands = state.strands.get(strand);
        match stands.and_then(Strand::pending).and_then(super::strand::Pending::command) {
            Some(Command::RunAction(call)) => return Ok(StepTrial::Action(call)),
            Some(Command::RunCode(call)) => return Ok(StepTrial::Code(call)),
            _ => {}
        }
        match stands.and_then(|strand| strand.frames.last()).and_then(Frame::nested).map(|nested| &nested.then) {
            Some(Then::Succeed { output, .. }) => Ok(StepTrial::Decided(Arc::clone(output))),
            _ => Err(StepError::new(StepErrorKind::Internal, "the step came to nothing")),
        }
    }
}
