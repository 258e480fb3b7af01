//! [`Event`]: what happened to a run. The journal is a list of these and nothing else.

use std::{sync::Arc, time::Duration};

use ap_core::{
    id::{FileId, JobId, RunId},
    run::{RunStatus, StepError, StepPath},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ConnectionViews, EngineLimits, ScriptResult};

/// One thing that happened to a run. Whatever an engine decision depends on stands in an event: times, entropy, results.
///
/// The serialised form is stored forever; a test pins it. It is JSON without what goes without saying: times are
/// microseconds, and what is as it mostly is has no member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// The run was created. Always the first event.
    Accepted {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// What the trigger delivered.
        trigger: Arc<Value>,
        /// What the run may use, as configured when it was accepted.
        #[serde(default, skip_serializing_if = "EngineLimits::is_usual")]
        limits: EngineLimits,
        /// The step of another run that started it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<ParentStep>,
    },
    /// An attempt of a step came back.
    #[serde(rename = "finished")]
    AttemptFinished {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The step execution.
        path: StepPath,
        /// Which attempt, from 1.
        #[serde(default = "first", skip_serializing_if = "is_first")]
        attempt: u32,
        /// What came back.
        outcome: AttemptOutcome,
        /// Entropy for the jitter of a following wait; 0 if the attempt did not fail.
        #[serde(default, skip_serializing_if = "is_zero")]
        entropy: u32,
    },
    /// A `subflow` step created a run.
    ChildStarted {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The step execution.
        path: StepPath,
        /// The run it created.
        run: RunId,
    },
    /// An effect is about to be performed; durable before it is.
    #[serde(rename = "planned")]
    EffectPlanned {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The step execution.
        path: StepPath,
        /// Which attempt, from 1.
        #[serde(default = "first", skip_serializing_if = "is_first")]
        attempt: u32,
        /// The resolved input, credentials as placeholder text.
        input: Arc<Value>,
        /// The idempotency key of the step execution.
        key: String,
        /// Whether performing it again is harmless.
        repeatable: bool,
    },
    /// A `queue.enqueue` step put its jobs into the queue.
    Enqueued {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The step execution.
        path: StepPath,
    },
    /// The expressions of a step that is to begin were evaluated.
    Evaluated {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The step execution.
        path: StepPath,
        /// What they came to, in the order of the call.
        results: Arc<Vec<ScriptResult>>,
        /// Where the results are, if the stored event has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spilled: Option<Spilled>,
    },
    /// Something outside the flow ended the run: a limit, a fault.
    Interrupted {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The terminal status.
        status: RunStatus,
        /// Why.
        error: StepError,
    },
    /// A `queue.process` step asked for jobs.
    JobsTaken {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The step execution.
        path: StepPath,
        /// Jobs the step holds; those of earlier answers are known already, and may be left out.
        jobs: Vec<TakenJob>,
        /// Whether jobs wait that could not be had, because others hold as many as may be held.
        more: bool,
    },
    /// The run was let go of while it waits: it holds no memory and no worker.
    Parked {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
    },
    /// A run that had failed is tried again from the failed step. Always follows the end.
    Retried {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
    },
    /// Another owner took over after a crash: what was being performed has an unknown outcome.
    Recovered {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
    },
    /// A run that was let go of goes on.
    Resumed {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
    },
    /// The run was told something.
    Signaled {
        /// When it was taken in.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The signal's slot: base64url of its hash.
        slot: String,
        /// What it says.
        content: Signal,
    },
    /// Work began.
    Started {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// What the flow may see of its connections: clear fields, and placeholder text for the secret ones.
        #[serde(default, skip_serializing_if = "has_none")]
        connections: Arc<ConnectionViews>,
    },
    /// The time has come that a step waited for.
    WaitOver {
        /// When.
        #[serde(rename = "t", with = "micros")]
        at: Timestamp,
        /// The step execution.
        path: StepPath,
    },
}

impl Event {
    /// When it happened.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Accepted { at, .. }
            | Self::AttemptFinished { at, .. }
            | Self::ChildStarted { at, .. }
            | Self::EffectPlanned { at, .. }
            | Self::Enqueued { at, .. }
            | Self::Evaluated { at, .. }
            | Self::Interrupted { at, .. }
            | Self::JobsTaken { at, .. }
            | Self::Parked { at }
            | Self::Recovered { at }
            | Self::Resumed { at }
            | Self::Retried { at }
            | Self::Signaled { at, .. }
            | Self::Started { at, .. }
            | Self::WaitOver { at, .. } => *at,
        }
    }
}

/// A job that a `queue.process` step holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenJob {
    /// The job.
    pub id: JobId,
    /// When it may start.
    pub start: Timestamp,
    /// What is to be done.
    pub data: Arc<Value>,
}

/// Where an output, or the results of expressions, are kept that are too large for the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spilled {
    /// The file.
    pub file: FileId,
    /// How large they are, roughly that of its JSON. Unit: bytes.
    pub bytes: u64,
}

/// The `subflow` step that started a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStep {
    /// Its run.
    pub run: RunId,
    /// The step execution.
    pub path: StepPath,
    /// Whether it waits for the end.
    pub waits: bool,
    /// How many runs are above: 1 for the child of a run that nobody started so.
    pub depth: u32,
}

/// Something a run is told from outside: the content of a [`SignalRecord`](crate::store::SignalRecord).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Signal {
    /// Somebody it waits for, or will wait for, answered; the signal's slot says who.
    Answered {
        /// What the answer is.
        decision: AnswerDecision,
        /// What came with it.
        body: Arc<Value>,
    },
    /// It is to be ended as `CANCELED`.
    Canceled {
        /// Why, for people.
        reason: String,
    },
    /// A run that one of its `subflow` steps waits for has ended.
    ChildEnded {
        /// That run.
        run: RunId,
        /// How.
        status: RunStatus,
        /// Its reply, or its last output.
        output: Arc<Value>,
        /// Why it did not succeed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<StepError>,
    },
}

/// What an answer to a `wait` step says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AnswerDecision {
    /// An answer to a webhook or a barrier.
    Answer,
    /// An approval.
    Approve,
    /// A rejection.
    Reject,
}

/// What an attempt came back with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AttemptOutcome {
    /// It failed.
    Failed {
        /// How.
        error: StepError,
        /// How long the peer asked us to wait. Unit: milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        /// What a script wrote to `console`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        console: Vec<String>,
    },
    /// It ended well.
    #[serde(rename = "ok")]
    Succeeded {
        /// The output.
        output: Arc<Value>,
        /// Where the output is, if the stored event has `null` in its place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spilled: Option<Spilled>,
        /// What a script wrote to `console`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        console: Vec<String>,
    },
}

impl AttemptOutcome {
    /// Success without console output.
    #[must_use]
    pub fn succeeded(output: Value) -> Self {
        Self::Succeeded { output: Arc::new(output), spilled: None, console: Vec::new() }
    }

    /// A failure, with what the peer said about waiting.
    #[must_use]
    pub fn failed(error: StepError, retry_after: Option<Duration>) -> Self {
        let retry_after_ms = retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        Self::Failed { error, retry_after_ms, console: Vec::new() }
    }
}

const fn first() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_first(attempt: &u32) -> bool {
    *attempt == first()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(entropy: &u32) -> bool {
    *entropy == 0
}

fn has_none(connections: &ConnectionViews) -> bool {
    connections.is_empty()
}

/// Times as microseconds since the epoch.
mod micros {
    use ap_core::time::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(at.as_micros())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use ap_core::run::StepErrorKind;
    use serde_json::json;

    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    /// Each stored form, and what it is read as: neither may ever change.
    #[test]
    fn the_stored_form_is_pinned() {
        let path = || StepPath::top("a");
        let run = RunId::from_u128(5);
        let limits = EngineLimits { log_bytes: 9, ..EngineLimits::default() };
        let parent = ParentStep { run, path: path(), waits: true, depth: 1 };
        let error = StepError::new(StepErrorKind::Script, "no");
        let ok = |output| AttemptOutcome::succeeded(output);
        let finished =
            |attempt, outcome, entropy| Event::AttemptFinished { at: AT, path: path(), attempt, outcome, entropy };
        let accepted = |limits, parent| Event::Accepted { at: AT, trigger: Arc::new(json!({})), limits, parent };
        let planned = |attempt| Event::EffectPlanned {
            at: AT,
            path: path(),
            attempt,
            input: Arc::new(json!(1)),
            key: "k".to_owned(),
            repeatable: false,
        };
        for (event, stored) in [
            (accepted(EngineLimits::default(), None), r#"{"e":"accepted","t":1800000000000000,"trigger":{}}"#),
            (
                accepted(limits, Some(parent)),
                concat!(
                    r#"{"e":"accepted","t":1800000000000000,"trigger":{},"limits":{"logBytes":9},"#,
                    r#""parent":{"run":"run_00000000000000000000000005","path":"a","waits":true,"depth":1}}"#
                ),
            ),
            (
                finished(1, ok(json!("x")), 0),
                r#"{"e":"finished","t":1800000000000000,"path":"a","outcome":{"ok":{"output":"x"}}}"#,
            ),
            (
                finished(2, AttemptOutcome::failed(error, Some(Duration::from_secs(1))), 7),
                concat!(
                    r#"{"e":"finished","t":1800000000000000,"path":"a","attempt":2,"outcome":{"failed":"#,
                    r#"{"error":{"kind":"script","message":"no"},"retryAfterMs":1000}},"entropy":7}"#
                ),
            ),
            (planned(1), r#"{"e":"planned","t":1800000000000000,"path":"a","input":1,"key":"k","repeatable":false}"#),
            (
                Event::ChildStarted { at: AT, path: path(), run },
                r#"{"e":"childStarted","t":1800000000000000,"path":"a","run":"run_00000000000000000000000005"}"#,
            ),
            (Event::Enqueued { at: AT, path: path() }, r#"{"e":"enqueued","t":1800000000000000,"path":"a"}"#),
            (
                Event::Evaluated {
                    at: AT,
                    path: path(),
                    results: Arc::new(vec![
                        ScriptResult::Value(json!(2)),
                        ScriptResult::Undefined,
                        ScriptResult::Failed(StepError::new(StepErrorKind::Script, "no")),
                    ]),
                    spilled: None,
                },
                concat!(
                    r#"{"e":"evaluated","t":1800000000000000,"path":"a","results":[{"ok":2},"undefined","#,
                    r#"{"failed":{"kind":"script","message":"no"}}]}"#
                ),
            ),
            (
                Event::Signaled { at: AT, slot: "s".to_owned(), content: Signal::Canceled { reason: "r".to_owned() } },
                concat!(
                    r#"{"e":"signaled","t":1800000000000000,"slot":"s","#,
                    r#""content":{"signal":"canceled","reason":"r"}}"#
                ),
            ),
            (Event::Started { at: AT, connections: Arc::default() }, r#"{"e":"started","t":1800000000000000}"#),
            (Event::WaitOver { at: AT, path: path() }, r#"{"e":"waitOver","t":1800000000000000,"path":"a"}"#),
            (Event::Parked { at: AT }, r#"{"e":"parked","t":1800000000000000}"#),
            (Event::Recovered { at: AT }, r#"{"e":"recovered","t":1800000000000000}"#),
            (Event::Resumed { at: AT }, r#"{"e":"resumed","t":1800000000000000}"#),
            (Event::Retried { at: AT }, r#"{"e":"retried","t":1800000000000000}"#),
        ] {
            assert_eq!(serde_json::to_string(&event).expect("serialises"), stored);
            assert_eq!(serde_json::from_str::<Event>(stored).expect("reads"), event, "{stored}");
        }
    }
}
