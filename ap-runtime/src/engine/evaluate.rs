//! Expressions in templates: before a step begins whose templates hold any, all of them are evaluated at once.
//!
//! What comes back is kept until the step has begun and no longer. A failed expression fails the step only if it is really
//! resolved: one in a branch that is not looked at harms nobody.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use ap_core::{
    expr::{Evaluated, ResolveError, Script, ScriptBatch},
    flow::{ConditionError, Step, ValidFlow},
    json::size_of,
    run::{StepError, StepErrorKind, StepPath},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Spilled,
    begin::Moment,
    environment::Scope,
    join::input_error,
    state::{ApplyError, RunState},
    strand::{Pending, StrandId},
};

/// Expressions to be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluateCall {
    /// The step execution.
    pub path: StepPath,
    /// The expressions, with what they read.
    pub batches: Arc<[ScriptBatch]>,
    /// The time they see.
    pub now: Timestamp,
}

impl EvaluateCall {
    /// Every expression once, in the order in which results are expected.
    pub fn scripts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.batches.iter().flat_map(|batch| &batch.scripts)
    }
}

/// What evaluating one expression came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScriptResult {
    /// It threw, or could not be evaluated.
    Failed(StepError),
    /// It gave `undefined`, or something that JSON has no form for.
    Undefined,
    /// It gave a value.
    #[serde(rename = "ok")]
    Value(Value),
}

impl ScriptResult {
    /// What it takes in the journal, roughly. Unit: bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Failed(error) => error.message.len() as u64 + error.detail.as_ref().map_or(0, size_of) + 32,
            Self::Undefined => 16,
            Self::Value(value) => size_of(value),
        }
    }
}

/// Results by expression, while their step begins.
#[derive(Default)]
pub(super) struct Results<'a>(BTreeMap<&'a str, &'a ScriptResult>);

impl<'a> Results<'a> {
    /// `None` if these are not the results of that call.
    pub(super) fn new(call: &'a EvaluateCall, results: &'a [ScriptResult]) -> Option<Self> {
        let scripts = call.scripts().map(AsRef::as_ref);
        (call.scripts().count() == results.len()).then(|| Self(scripts.zip(results).collect()))
    }

    pub(super) fn of(&self, script: &Script) -> Evaluated<'a> {
        match self.0.get(&**script.source()) {
            Some(ScriptResult::Failed(error)) => Evaluated::Failed { message: Cow::Borrowed(&error.message) },
            Some(ScriptResult::Undefined) => Evaluated::Undefined,
            Some(ScriptResult::Value(value)) => Evaluated::Value(Cow::Borrowed(value)),
            None => Evaluated::Failed { message: Cow::Borrowed("it was not evaluated") },
        }
    }

    /// Why a template did not resolve: a failed expression fails the step as it failed itself.
    pub(super) fn unresolved(&self, error: &ResolveError) -> StepError {
        let message = error.to_string();
        match error {
            ResolveError::Script { script, .. } => match self.0.get(&**script) {
                Some(ScriptResult::Failed(failed)) => StepError { message, ..(*failed).clone() },
                _ => StepError::new(StepErrorKind::Internal, message),
            },
            _ => input_error(message),
        }
    }

    /// As [`Results::unresolved`], of a condition.
    pub(super) fn undecided(&self, error: &ConditionError) -> StepError {
        match error {
            ConditionError::Resolve { source, .. } => self.unresolved(source),
            other => input_error(other.to_string()),
        }
    }
}

impl RunState {
    /// What has to be evaluated before the step begins, if anything does.
    pub(super) fn evaluation(
        &self,
        flow: &ValidFlow,
        id: StrandId,
        step: &Step,
        (path, now): (&StepPath, Timestamp),
    ) -> Option<EvaluateCall> {
        let scripts = flow.scripts(&step.name);
        if scripts.is_empty() {
            return None;
        }
        let results = Results::default();
        let scope = Scope { state: self, flow, strand: id, now, results: &results };
        let batches = ScriptBatch::of(scripts.iter().map(|used| &*used.script), &scope);
        Some(EvaluateCall { path: path.clone(), batches: batches.into(), now })
    }

    /// Expressions came back: the step they stand in begins.
    pub(super) fn evaluated(
        &mut self,
        flow: &ValidFlow,
        at: Timestamp,
        path: &StepPath,
        (results, spilled): (&[ScriptResult], Option<&Spilled>),
    ) -> Result<(), ApplyError> {
        const UNASKED: ApplyError = ApplyError { reason: "expressions came back that nobody asked for" };
        let Some((id, Pending::Evaluate(call))) =
            self.take_pending(path, |pending| matches!(pending, Pending::Evaluate(_)))
        else {
            return Err(UNASKED);
        };
        let results = Results::new(&call, results).ok_or(UNASKED)?;
        let step = self.current_step(flow, id).ok_or(UNASKED)?;
        self.recoveries = 0;
        if self.charge_results(path, at, &results, spilled) {
            let moment = Moment { flow, id, at, now: call.now, results: &results };
            if let Err(error) = self.begin_kind(&moment, step, path) {
                self.fail(flow, id, path, at, error);
            }
        }
        self.advance(flow, at);
        Ok(())
    }

    fn charge_results(
        &mut self,
        path: &StepPath,
        at: Timestamp,
        results: &Results<'_>,
        spilled: Option<&Spilled>,
    ) -> bool {
        match spilled {
            None => self.charge(path, at, results.0.values().map(|result| result.bytes()).sum()),
            Some(spilled) => self.charge_spilled(path, at, spilled),
        }
    }
}
