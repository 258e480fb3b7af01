//! One attempt of a step: call the action or the sandbox, and turn what comes back into an outcome.

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use ap_core::{
    flow::ValidFlow,
    id::{ProjectId, RunId},
    json,
    piece::{ActionError, Effect},
    run::{StepError, StepErrorKind},
};
use ap_crypto::redact::Redactor;
use futures_util::FutureExt;

use super::{script, values::StepValues};
use crate::{
    egress::{Egress, credential::RunCredentials},
    engine::{ActionCall, AttemptOutcome, StepTrial},
    kernel::Kernel,
};

/// Carries out one step by itself, within its time limit. A script reads the key-value store, and what it writes is dropped with
/// `values`.
pub(crate) async fn trial(
    kernel: &Kernel,
    flow: &ValidFlow,
    (trial, place, values): (StepTrial, (ProjectId, RunId), Arc<StepValues>),
    credentials: &Arc<RunCredentials>,
) -> AttemptOutcome {
    let bounded = async |timeout: Duration, outcome: Pin<Box<dyn Future<Output = AttemptOutcome> + Send + '_>>| {
        let until = kernel.clock.now().saturating_add(timeout);
        tokio::select! {
            biased;
            outcome = outcome => outcome,
            () = kernel.clock.sleep_until(until) => timed_out(timeout),
        }
    };
    let outcome = match trial {
        StepTrial::Action(call) => {
            bounded(call.timeout, Box::pin(action(kernel, flow, (&call, place, Some(values)), credentials))).await
        }
        StepTrial::Code(call) => {
            bounded(call.timeout, Box::pin(script::run(kernel, &call, (place, None, Some(values)), credentials))).await
        }
        StepTrial::Decided(output) => AttemptOutcome::Succeeded { output, spilled: None, console: Vec::new() },
    };
    masked(kernel, outcome, credentials)
}

/// As [`redact`], unless the host has switched that off.
pub(super) fn masked(kernel: &Kernel, outcome: AttemptOutcome, credentials: &RunCredentials) -> AttemptOutcome {
    if kernel.egress.scrubs() { redact(outcome, credentials.redactor()) } else { outcome }
}

/// Calls an action, or runs the script that is called like one. A panic in a piece is a failed step, not a dead worker.
pub(super) async fn action(
    kernel: &Kernel,
    flow: &ValidFlow,
    (call, place, values): (&ActionCall, (ProjectId, RunId), Option<Arc<StepValues>>),
    credentials: &Arc<RunCredentials>,
) -> AttemptOutcome {
    if let Some(code) = script::source_of(flow, call) {
        let hosts = flow.definition().allowed_hosts();
        return script::run(kernel, &script::outside(code, call), (place, hosts, values), credentials).await;
    }
    let Some(action) = flow.action(&call.step) else {
        return AttemptOutcome::failed(StepError::new(StepErrorKind::Internal, "the step's action is not known"), None);
    };
    let ways = match action.effect(&call.input) {
        Effect::None => Egress::refusing(),
        _ => kernel.egress.for_attempt(credentials, &kernel.entropy, flow.definition().allowed_hosts()),
    };
    let context = ways.context((&call.key, call.send_key), call.timeout, kernel.clock.now());
    let input = call.input.as_ref().clone();
    let result = AssertUnwindSafe(action.run(&context, input)).catch_unwind().await;
    match result {
        Ok(Ok(output)) => match json::check_output(&output) {
            Ok(()) => AttemptOutcome::succeeded(output),
            Err(limit) => {
                AttemptOutcome::failed(StepError::new(StepErrorKind::Limit, format!("the output {limit}")), None)
            }
        },
        Ok(Err(ActionError { mut error, retry_after })) => {
            if let Some(Err(limit)) = error.detail.as_ref().map(json::check_stored) {
                error.detail = Some(format!("the detail {limit}").into());
            }
            AttemptOutcome::failed(error, retry_after)
        }
        Err(_) => {
            tracing::error!(step = %call.path, "a piece panicked");
            AttemptOutcome::failed(StepError::new(StepErrorKind::Internal, "the piece failed unexpectedly"), None)
        }
    }
}

/// Replaces every live credential of the run in what an attempt brought back. The console loses tokens of other kinds as
/// well; the output does not, because a flow may go on with one that it was given.
fn redact(outcome: AttemptOutcome, redactor: &Redactor) -> AttemptOutcome {
    let shown = redactor.with_token_shapes();
    let console_of = |console: Vec<String>| console.iter().map(|line| shown.redact_str(line).into_owned()).collect();
    match outcome {
        AttemptOutcome::Succeeded { output, spilled, console } => AttemptOutcome::Succeeded {
            output: if redactor.is_empty() {
                output
            } else {
                Arc::new(redactor.redact_json(Arc::unwrap_or_clone(output)))
            },
            spilled,
            console: console_of(console),
        },
        AttemptOutcome::Failed { error, retry_after_ms, console } => AttemptOutcome::Failed {
            error: redact_error(error, redactor),
            retry_after_ms,
            console: console_of(console),
        },
    }
}

/// As [`redact`], in a failure: for people to read, so without tokens of other kinds.
pub(super) fn redact_error(error: StepError, redactor: &Redactor) -> StepError {
    let redactor = redactor.with_token_shapes();
    StepError {
        kind: error.kind,
        message: redactor.redact_str(&error.message).into_owned(),
        detail: error.detail.map(|detail| redactor.redact_json(detail)),
    }
}

/// The outcome of an attempt that took longer than it may.
pub(super) fn timed_out(limit: Duration) -> AttemptOutcome {
    let message = format!("the step did not finish within {} ms", limit.as_millis());
    AttemptOutcome::failed(StepError::new(StepErrorKind::Timeout, message), None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn outputs_keep_tokens_that_are_data_and_people_see_none() {
        // Put together here, so that scanners of repositories do not take it for a leak.
        let token = format!("{}_{}", "ghp", "Ab1".repeat(12));
        let secret = "canary-of-the-run".into();
        let text = format!("{token} canary-of-the-run");
        for redactor in [Redactor::default(), Redactor::new([("crm", &secret)]).unwrap()] {
            let mask = if redactor.is_empty() { "canary-of-the-run" } else { "‹redacted:crm›" };
            let shown = format!("‹redacted:github-token› {mask}");
            let outcome = AttemptOutcome::Succeeded {
                output: Arc::new(json!({ "token": text })),
                spilled: None,
                console: vec![text.clone()],
            };
            let AttemptOutcome::Succeeded { output, console, .. } = redact(outcome, &redactor) else {
                panic!("failed")
            };
            assert_eq!(*output, json!({ "token": format!("{token} {mask}") }));
            assert_eq!(console, [shown.as_str()]);
            let error = StepError {
                kind: StepErrorKind::Script,
                message: text.clone(),
                detail: Some(json!({ "body": [text] })),
            };
            let AttemptOutcome::Failed { error, .. } = redact(AttemptOutcome::failed(error, None), &redactor) else {
                panic!("succeeded")
            };
            assert_eq!(error.message, shown);
            assert_eq!(error.detail, Some(json!({ "body": [shown] })));
        }
    }
}
