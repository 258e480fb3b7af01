//! [`Command`]: what the engine wants done. The executor does it and reports back with an event.

use std::{sync::Arc, time::Duration};

use ap_core::{
    flow::{CodeLanguage, StepName},
    id::{FlowId, JobId, RunId},
    run::{RunStatus, StepError, StepPath},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::EvaluateCall;
use crate::store::JobEnd;

/// One thing to be done for a run.
///
/// Some are said once, by [`RunState::apply`](super::RunState::apply), and belong to the very commit that carries the event;
/// the others stand until an event answers them, see [`RunState::outstanding`](super::RunState::outstanding).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Said once: end a run that a `subflow` step no longer waits for.
    CancelChild {
        /// That run.
        run: RunId,
    },
    /// Stands: the run is over; make that durable.
    End(RunEnd),
    /// Said once: the run is done with a job it holds.
    EndJob {
        /// The job.
        job: JobId,
        /// What became of it.
        end: JobEnd,
    },
    /// Stands: put jobs into a queue, and report `Enqueued` in the same commit.
    Enqueue(EnqueueCall),
    /// Stands: evaluate the expressions of a step that is to begin, and report `Evaluated`.
    Evaluate(EvaluateCall),
    /// Said once: answer whoever waits for the run's reply. An outside act: everything before it is durable first.
    Reply(Reply),
    /// Stands: run an action of a piece, and report `AttemptFinished`.
    RunAction(ActionCall),
    /// Stands: run a script, and report `AttemptFinished`.
    RunCode(CodeCall),
    /// Stands: create a run, and report `ChildStarted` in the same commit; or a failed `AttemptFinished`.
    StartChild(ChildCall),
    /// Stands: take jobs of a queue, and report `JobsTaken`.
    TakeJobs(JobsCall),
    /// Stands: report `WaitOver` once the time has come.
    Wait {
        /// The step execution.
        path: StepPath,
        /// When.
        until: Timestamp,
    },
}

impl Command {
    /// The step execution a standing command belongs to.
    #[must_use]
    pub const fn path(&self) -> Option<&StepPath> {
        match self {
            Self::Enqueue(call) => Some(&call.path),
            Self::Evaluate(call) => Some(&call.path),
            Self::RunAction(call) => Some(&call.path),
            Self::RunCode(call) => Some(&call.path),
            Self::StartChild(call) => Some(&call.path),
            Self::TakeJobs(call) => Some(&call.path),
            Self::Wait { path, .. } => Some(path),
            Self::CancelChild { .. } | Self::End(_) | Self::EndJob { .. } | Self::Reply(_) => None,
        }
    }
}

/// A call of an action.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionCall {
    /// The step execution.
    pub path: StepPath,
    /// The step.
    pub step: StepName,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The resolved and checked input.
    pub input: Arc<Value>,
    /// The idempotency key of the step execution, the same for every attempt.
    pub key: String,
    /// Whether the flow says that the peer honours the key.
    pub send_key: bool,
    /// Whether the ledger has this attempt already: it is repeated after a crash.
    pub planned: bool,
    /// Longest time of the attempt.
    pub timeout: Duration,
}

/// A call of a script.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeCall {
    /// The step execution.
    pub path: StepPath,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The script.
    pub source: Arc<str>,
    /// What it is written in.
    pub language: CodeLanguage,
    /// Its parameters.
    pub params: Arc<Value>,
    /// Longest time of the attempt.
    pub timeout: Duration,
}

/// A run to be created by a `subflow` step.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildCall {
    /// The step execution.
    pub path: StepPath,
    /// The flow.
    pub flow: FlowId,
    /// What its trigger delivers.
    pub payload: Arc<Value>,
    /// Whether the step waits for its end.
    pub waits: bool,
    /// How many runs are above it.
    pub depth: u32,
}

/// Jobs to be put into a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct EnqueueCall {
    /// The step execution.
    pub path: StepPath,
    /// The queue's name.
    pub queue: String,
    /// One job each.
    pub jobs: Arc<Vec<Value>>,
}

/// Jobs to be taken from a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobsCall {
    /// The step execution.
    pub path: StepPath,
    /// The queue's name.
    pub queue: String,
    /// How many the step wants to hold in all, and how many may be held over all runs.
    pub max_concurrent: u32,
    /// Least time between the starts of two jobs of the queue.
    pub spacing: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunEnd {
    /// A terminal status.
    pub status: RunStatus,
    /// When.
    pub at: Timestamp,
    /// The step whose failure ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_step: Option<StepPath>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}

/// What the caller of a synchronous webhook is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Status code, 200 to 599.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Arc<Value>,
}
