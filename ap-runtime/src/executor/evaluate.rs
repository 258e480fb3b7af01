//! The expressions of a step: evaluated by the sandbox, together as far as that goes.

use std::{sync::Arc, time::Duration};

use ap_core::{
    expr::{MAX_ENVIRONMENT_BYTES, ScriptBatch},
    id::ProjectId,
    run::{StepError, StepErrorKind, StepPath},
};
use ap_crypto::{entropy::random_array, redact::Redactor};
use bytes::Bytes;

use super::{
    attempt::redact_error,
    driver::{Driver, Stopped},
    script::step_error,
    under_way::{Done, UnderWay},
};
use crate::{
    engine::{EvaluateCall, Event, ScriptResult},
    journal::RunError,
    kernel::Kernel,
    sandbox::{CodeError, CodeLimits, CodeSandbox, ExpressionRequest},
};

/// Evaluates the expressions of a step, within [`LONGEST`].
pub(crate) async fn evaluate(kernel: &Kernel, project: ProjectId, call: &EvaluateCall) -> Vec<ScriptResult> {
    let count = call.scripts().count();
    let Some(sandbox) = &kernel.sandbox else {
        let message = "this runtime was built without a code sandbox, which evaluates JavaScript";
        return failed(count, &StepError::new(StepErrorKind::Internal, message));
    };
    let evaluator = Evaluator { kernel, sandbox: &**sandbox, project, call };
    let until = kernel.clock.now().saturating_add(LONGEST);
    tokio::select! {
        biased;
        results = evaluator.all() => results,
        () = async { kernel.clock.sleep_until(until).await } => {
            let message = format!("the expressions of the step were not evaluated within {} s", LONGEST.as_secs());
            failed(count, &StepError::new(StepErrorKind::Timeout, message))
        }
    }
}

struct Evaluator<'a> {
    kernel: &'a Kernel,
    sandbox: &'a dyn CodeSandbox,
    project: ProjectId,
    call: &'a EvaluateCall,
}

impl Evaluator<'_> {
    async fn all(&self) -> Vec<ScriptResult> {
        let mut results = Vec::new();
        for batch in &*self.call.batches {
            results.extend(self.batch(batch).await);
        }
        results
    }

    async fn batch(&self, batch: &ScriptBatch) -> Vec<ScriptResult> {
        let count = batch.scripts.len();
        let Some(variables) = &batch.variables else {
            let limit = MAX_ENVIRONMENT_BYTES >> 20;
            let message = format!("what the expressions of the step read is larger than {limit} MiB");
            return failed(count, &StepError::new(StepErrorKind::Limit, message));
        };
        let Ok(variables) = serde_json::to_vec(variables).map(Bytes::from) else {
            let message = "what the expressions read could not be prepared";
            return failed(count, &StepError::new(StepErrorKind::Internal, message));
        };
        let together = self.together(&batch.scripts, &variables).await;
        let mut results = together.unwrap_or_else(|error| vec![Err(error); count]);
        if count > 1 {
            self.one_by_one(batch, &variables, &mut results).await;
        }
        results.into_iter().map(result).collect()
    }

    /// Evaluates those again that may have failed by another's fault, each with all that was given to all of them, as long as
    /// there is time.
    async fn one_by_one(
        &self,
        batch: &ScriptBatch,
        variables: &Bytes,
        results: &mut [Result<serde_json::Value, CodeError>],
    ) {
        let until = self.kernel.clock.now().saturating_add(ONE_BY_ONE);
        for (script, result) in batch.scripts.iter().zip(results) {
            if result.as_ref().is_err_and(may_be_anothers_fault) && self.kernel.clock.now() < until {
                let alone = self.together(std::slice::from_ref(script), variables).await;
                *result = alone.and_then(|mut one| one.pop().unwrap_or(Err(CodeError::NoValue)));
            }
        }
    }

    /// Evaluates in one world; waits while the sandbox is busy.
    async fn together(
        &self,
        scripts: &[Arc<str>],
        variables: &Bytes,
    ) -> Result<Vec<Result<serde_json::Value, CodeError>>, CodeError> {
        let bug = |message: &str| CodeError::Bug { message: message.to_owned() };
        let mut wait = FIRST_WAIT;
        loop {
            let request = ExpressionRequest {
                project: self.project,
                expressions: scripts.to_vec(),
                variables: variables.clone(),
                now: self.call.now,
                seed: random_array(&*self.kernel.entropy).map_err(|_| bug("no randomness is to be had"))?,
                limits: limits(),
            };
            match self.sandbox.evaluate(request).await {
                Err(CodeError::Busy) => {
                    self.kernel.clock.sleep_until(self.kernel.clock.now().saturating_add(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Ok(results) if results.len() != scripts.len() => return Err(bug("results are missing")),
                done => return done,
            }
        }
    }
}

impl Driver {
    /// Begins to evaluate the expressions of a step.
    pub(super) fn begin_evaluation(&mut self, call: EvaluateCall) {
        let (kernel, project, path) = (Arc::clone(&self.kernel), self.lease.project, call.path.clone());
        let results = async move { Done::Evaluated(evaluate(&kernel, project, &call).await) };
        self.under_way.push(UnderWay { path, attempt: 0, outcome: Box::pin(results), values: None });
    }

    /// Records what the expressions of a step came to.
    pub(super) async fn evaluated(
        &mut self,
        path: StepPath,
        results: Vec<ScriptResult>,
    ) -> Result<Option<Stopped>, RunError> {
        let mut results = results;
        if self.kernel.egress.scrubs() {
            let credentials = self.credentials.current();
            results = results.into_iter().map(|result| redacted(result, credentials.redactor())).collect();
        }
        let bytes = results.iter().map(ScriptResult::bytes).sum();
        let kept = self.kernel.spill(self.sealing(), (self.lease.project, self.lease.run), bytes, &results);
        let spilled = match kept {
            Ok(kept) => kept,
            Err(RunError::Seal(_)) => {
                let error =
                    StepError::new(StepErrorKind::Limit, "the results of the expressions are too large to be kept");
                results = failed(results.len(), &error);
                None
            }
            Err(error) => return Err(error),
        };
        let spilled = spilled.map(|(file, spilled)| {
            self.carry.files.push(file);
            spilled
        });
        let (at, results) = (self.kernel.clock.now(), Arc::new(results));
        self.record(Event::Evaluated { at, path, results, spilled }).await
    }
}

/// The result without any live credential.
pub(crate) fn redacted(result: ScriptResult, redactor: &Redactor) -> ScriptResult {
    match result {
        ScriptResult::Value(value) if !redactor.is_empty() => ScriptResult::Value(redactor.redact_json(value)),
        ScriptResult::Failed(error) => ScriptResult::Failed(redact_error(error, redactor)),
        other => other,
    }
}

/// Whether an expression may end so because of those that were evaluated before it in the same world.
fn may_be_anothers_fault(error: &CodeError) -> bool {
    !matches!(
        error,
        CodeError::Thrown { .. }
            | CodeError::NoValue
            | CodeError::InvalidSource { .. }
            | CodeError::InvalidParams { .. }
            | CodeError::SourceTooLarge { .. }
            | CodeError::StackExhausted
            | CodeError::OutputTooDeep { .. }
            | CodeError::OutputTooLarge { .. }
    )
}

fn result(evaluated: Result<serde_json::Value, CodeError>) -> ScriptResult {
    match evaluated {
        Ok(value) => ScriptResult::Value(value),
        Err(CodeError::NoValue) => ScriptResult::Undefined,
        Err(error) => ScriptResult::Failed(step_error(error).0),
    }
}

fn failed(count: usize, error: &StepError) -> Vec<ScriptResult> {
    vec![ScriptResult::Failed(error.clone()); count]
}

/// What the expressions of a batch may use together.
fn limits() -> CodeLimits {
    let limits = CodeLimits::default();
    let limits = limits.clone().with_timeout(TIME).unwrap_or(limits);
    limits.clone().with_memory_bytes(MEMORY_BYTES).unwrap_or(limits)
}

/// Longest time the expressions of a batch may take together.
const TIME: Duration = Duration::from_secs(1);
/// Unit: bytes.
const MEMORY_BYTES: usize = 16 << 20;
/// For how long expressions are evaluated one by one.
const ONE_BY_ONE: Duration = Duration::from_secs(5);
/// Longest time from the wish to evaluate the expressions of a step to their results, waiting for the sandbox included.
const LONGEST: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);
