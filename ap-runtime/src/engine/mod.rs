//! The engine: a pure state machine, `(state, event) → (state, commands)`.
//!
//! No clock, no ids, no randomness, no I/O: times and entropy arrive in [`Event`]s, results too. Applying the journal of a
//! run to a fresh [`RunState`] rebuilds the state exactly; the executor then asks [`RunState::outstanding`] what is to be
//! done. Whatever the engine decides, it decides from the flow, the state and the event alone.

mod command;
mod environment;
mod event;
mod frame;
mod state;
mod step;
mod view;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use command::{ActionCall, CodeCall, Command, Reply, RunEnd};
pub use event::{AnswerDecision, AttemptOutcome, Event, ParentStep, Signal};
pub use state::{ApplyError, Effect, EffectState, RunState, StepState};
pub use view::{EffectView, RunView, StepView};

/// What a flow may see of its connections, by name.
pub type ConnectionViews = BTreeMap<String, ConnectionView>;

/// What a flow may see of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// Placeholder text of the connection as a whole.
    pub whole: String,
    /// Every field: the text of a clear one, placeholder text of a secret one.
    pub fields: BTreeMap<String, String>,
    /// Which of the fields are secret.
    pub secret: Vec<String>,
}

/// What one run may use. Journalled with the acceptance, so that a changed configuration does not change a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineLimits {
    /// How many steps the run may execute, every loop iteration counted.
    pub step_executions: u32,
    /// How large inputs, outputs and errors of all its steps may be together. Unit: bytes, roughly those of their JSON.
    pub log_bytes: u64,
    /// Longest time the run may execute, pauses not counted. Unit: milliseconds.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
}

const fn default_timeout() -> u64 {
    300_000
}
