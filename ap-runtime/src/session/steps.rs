//! Testing one step by itself.

use std::{collections::BTreeSet, sync::Arc};

use ap_auth::{
    audit::AuditEvent,
    permission::{FlowWrite, StepTest},
};
use ap_core::{
    flow::{FlowDefinition, ValidFlow},
    id::{FlowId, FlowVersionId, RunId},
    json,
    run::StepError,
    store::{Entity, StoreError},
};
use serde::Serialize;
use serde_json::Value;

use super::{ProjectSession, SessionError, records_failed};
use crate::{
    credentials::{CredentialLoader, piece_of},
    engine::{AttemptOutcome, RunState, StepRehearsal, StepSample, StepTrial, named, named_error, named_text},
    executor::{self, StepValues},
    records,
    store::{Claimed, Lease},
};

/// Which text of a flow a step is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepSource<'a> {
    /// The draft; the published version if there is none.
    Draft,
    /// The published version.
    Published,
    /// This text, which is kept nowhere. Needs `flow.write` as well.
    Text(&'a [u8]),
}

/// What a step came back with. Credentials show as `‹connection.field›`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StepTested {
    /// What it was given, its templates resolved.
    pub input: Option<Value>,
    /// What came out.
    pub output: Option<Value>,
    /// Why it failed.
    pub error: Option<StepError>,
    /// What its script wrote to `console`.
    pub console: Vec<String>,
}

impl ProjectSession {
    /// Carries out one step by itself, with sample data in place of what comes before it. Needs `step.test`.
    ///
    /// It acts **for real**: an action sends its request, with the credentials of the connections it names, under the same
    /// guard, limits and redaction as in a run. A branch or a router says which way it would go. There is no run, no journal,
    /// no retry and no handler; every test is told from every other by its idempotency key. `$wait` tokens of a test answer
    /// nothing. A script reads the key-value store; what it writes there it finds again itself, and nothing is stored. The attempt is in the audit trail before it acts.
    ///
    /// A step that fails is no error of this call: [`StepTested::error`] has it.
    ///
    /// # Errors
    /// [`SessionError::InvalidFlow`] if the flow as a whole is not valid; [`StoreError::NotFound`] if it has no such version;
    /// [`SessionError::InvalidArgument`] if the sample is larger than 10 MiB or nested deeper than 100 levels;
    /// [`SessionError`] lists the rest.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the attempt short: whether it has acted is not known then.
    pub async fn test_step(
        &self,
        id: FlowId,
        source: StepSource<'_>,
        step: &str,
        sample: StepSample,
    ) -> Result<StepTested, SessionError> {
        let proof = self.authorize::<StepTest, _>(id)?;
        check(&sample)?;
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let now = kernel.clock.now();
        let record = kernel.backend.flow(proof.resource(), proof.target()).await?;
        let version = match source {
            StepSource::Draft => record.draft.or(record.published),
            StepSource::Published => record.published,
            StepSource::Text(_) => None,
        };
        let text = match (source, version) {
            (StepSource::Text(text), _) => {
                self.authorize::<FlowWrite, _>(id)?;
                text.to_vec()
            }
            (_, Some(version)) => {
                let stored = kernel.backend.flow_version(version, proof.target()).await?;
                records::open_flow_version(&keys, &stored)?.to_vec()
            }
            (_, None) => return Err(StoreError::NotFound { entity: Entity::FlowVersion }.into()),
        };
        let definition = FlowDefinition::parse_slice(&text, &kernel.flow_limits).map_err(SessionError::InvalidFlow)?;
        let flow =
            ValidFlow::check(definition, &kernel.pieces, &kernel.flow_limits).map_err(SessionError::InvalidFlow)?;
        let run = RunId::from_parts(now, kernel.id_entropy().map_err(records_failed)?);
        let lease = Lease { project: proof.target(), run, epoch: 0 };
        let version = version.unwrap_or_else(|| FlowVersionId::from_u128(run.as_u128()));
        let mut loader = CredentialLoader::new(Claimed { lease, flow: id, version, subject: None }, &flow);
        loader.refresh(kernel, &keys).await?;
        let views = Arc::new(loader.views());
        let event = AuditEvent::of(&proof, now).with_resource(run).with_detail("step", step);
        let mut audit = vec![kernel.seal_event(&keys, &event)?];
        let around =
            (kernel.run_limits.engine(), Arc::clone(&views), kernel.resume_tokens(&keys, (lease.project, run)));
        let rehearsal = RunState::for_step(&flow, step, sample, (run, now), around);
        let trial = match self.begun(&flow, rehearsal, &loader).await {
            Ok(trial) => trial,
            Err(error) => {
                kernel.backend.append_audit(&audit).await?;
                let error = Some(named_error(&error, &views));
                return Ok(StepTested { input: None, output: None, error, console: Vec::new() });
            }
        };
        let mut refused = None;
        match &trial {
            StepTrial::Action(call) if executor::script_of(&flow, call).is_some() => {
                let used = (&call.path, call.attempt, &*call.input);
                audit.extend(loader.audit_uses(kernel, &keys, used)?);
                audit.extend(loader.audit_reveals(kernel, &keys, used)?);
            }
            StepTrial::Action(call) => {
                let piece = piece_of(&flow, call.step.as_str()).unwrap_or_default();
                let in_test = |event: AuditEvent| event.with_resource(run).with_detail("step", step);
                match loader.denied((kernel, &keys), (piece, &call.input), in_test)? {
                    Some((error, denied)) => {
                        audit.push(denied);
                        refused = Some(error);
                    }
                    None => audit.extend(loader.audit_uses(kernel, &keys, (&call.path, call.attempt, &*call.input))?),
                }
            }
            StepTrial::Code(call) => {
                let used = (&call.path, call.attempt, &*call.params);
                audit.extend(loader.audit_uses(kernel, &keys, used)?);
                audit.extend(loader.audit_reveals(kernel, &keys, used)?);
            }
            StepTrial::Decided(_) => {}
        }
        kernel.backend.append_audit(&audit).await?;
        let input = match &trial {
            StepTrial::Action(call) => Some(named(&call.input, &views)),
            StepTrial::Code(call) => Some(named(&call.params, &views)),
            StepTrial::Decided(_) => None,
        };
        let uses = match &trial {
            StepTrial::Action(call) if executor::script_of(&flow, call).is_some() => {
                loader.named(call.step.as_str(), &call.input)
            }
            StepTrial::Action(call) => {
                let piece = piece_of(&flow, call.step.as_str()).unwrap_or_default();
                loader.named_for(piece, call.step.as_str(), &call.input)
            }
            StepTrial::Code(call) => loader.named(call.path.step_name(), &call.params),
            StepTrial::Decided(_) => BTreeSet::new(),
        };
        let credentials = match (&refused, &trial) {
            (None, StepTrial::Action(call)) if executor::script_of(&flow, call).is_some() => loader
                .ready_for_script(kernel, &keys, (call.step.as_str(), &call.input))
                .await
                .map_err(|failed| failed.error),
            (None, StepTrial::Action(call)) => {
                let piece = piece_of(&flow, call.step.as_str()).unwrap_or_default();
                loader.ready(kernel, &keys, (piece, &call.input)).await.map_err(|failed| failed.error)
            }
            (None, StepTrial::Code(call)) => loader
                .ready_to_reveal(kernel, &keys, (call.path.step_name(), &call.params))
                .await
                .map_err(|failed| failed.error),
            _ => Ok(loader.current()),
        };
        let outcome = match (refused, credentials) {
            (Some(error), _) | (None, Err(error)) => AttemptOutcome::failed(error, None),
            (None, Ok(credentials)) => {
                let credentials = Arc::new(credentials.limited_to(uses));
                let values = StepValues::new(kernel, &keys, (lease.project, id));
                executor::trial(kernel, &flow, (trial, (lease.project, run), values), &credentials).await
            }
        };
        let (output, error, console) = match outcome {
            AttemptOutcome::Succeeded { output, console, .. } => (Some(named(&output, &views)), None, console),
            AttemptOutcome::Failed { error, console, .. } => (None, Some(named_error(&error, &views)), console),
        };
        let console = console.iter().map(|line| named_text(line, &views)).collect();
        Ok(StepTested { input, output, error, console })
    }
}

impl ProjectSession {
    /// Evaluates the expressions of the step, then begins it.
    async fn begun(
        &self,
        flow: &ValidFlow,
        rehearsal: Result<StepRehearsal, StepError>,
        loader: &CredentialLoader,
    ) -> Result<StepTrial, StepError> {
        let (kernel, rehearsal) = (&self.session.parts.kernel, rehearsal?);
        let results = match rehearsal.expressions() {
            Some(call) => {
                let (results, credentials) = (executor::evaluate(kernel, self.project, call).await, loader.current());
                results.into_iter().map(|result| executor::redacted(result, credentials.redactor())).collect()
            }
            None => Vec::new(),
        };
        rehearsal.begin(flow, &results)
    }
}

fn check(sample: &StepSample) -> Result<(), SessionError> {
    let given = sample.outputs.values().chain([&sample.trigger]).chain(sample.item.iter().map(|(item, _)| item));
    let mut bytes = 0_u64;
    for value in given {
        json::check_stored(value)
            .map_err(|limit| SessionError::InvalidArgument { reason: format!("a value of the sample {limit}") })?;
        bytes += json::size_of(value);
    }
    if bytes > json::MAX_STORED_BYTES {
        let reason = format!("the sample is larger than {} bytes", json::MAX_STORED_BYTES);
        return Err(SessionError::InvalidArgument { reason });
    }
    Ok(())
}
