//! [`Command`]: what the engine wants done. The executor does it and reports back with an event.

use std::{sync::Arc, time::Duration};

use ap_core::{
    flow::StepName,
    run::{RunStatus, StepError, StepPath},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing to be done for a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// The run is over: make that durable.
    End(RunEnd),
    /// Answer whoever waits for the run's reply. An outside act: everything before it is durable first.
    Reply(Reply),
    /// Run an action of a piece, and report `AttemptFinished`.
    RunAction(ActionCall),
    /// Run a script, and report `AttemptFinished`.
    RunCode(CodeCall),
    /// Report `WaitOver` once the time has come.
    Wait {
        /// The step execution.
        path: StepPath,
        /// When.
        until: Timestamp,
    },
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
    /// Its parameters.
    pub params: Arc<Value>,
    /// Longest time of the attempt.
    pub timeout: Duration,
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
