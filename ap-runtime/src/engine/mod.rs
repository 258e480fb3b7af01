//! The engine: a pure state machine, `(state, event) → (state, commands)`.
//!
//! No clock, no ids, no randomness, no I/O: times and entropy arrive in [`Event`]s, results too. Applying the journal of a
//! run to a fresh [`RunState`] rebuilds the state exactly; the executor then asks [`RunState::outstanding`] what is to be
//! done. Whatever the engine decides, it decides from the flow, the state and the event alone.

mod answer;
mod begin;
mod command;
mod compat;
mod environment;
mod evaluate;
mod event;
mod failure;
mod frame;
mod join;
mod recovery;
mod sample;
mod state;
mod strand;
mod view;

use std::{collections::BTreeMap, fmt, sync::Arc};

use ap_core::id::ProjectId;
use ap_crypto::resume::ResumeKey;
use serde::{Deserialize, Serialize};

pub(crate) use answer::slot_text;
pub use command::{ActionCall, ChildCall, CodeCall, Command, EnqueueCall, JobsCall, Reply, RunEnd};
pub use compat::compatibility;
pub use evaluate::{EvaluateCall, ScriptResult};
pub use event::{AnswerDecision, AttemptOutcome, Event, ParentStep, Signal, Spilled, TakenJob};
pub use sample::{StepRehearsal, StepSample, StepTrial};
pub use state::{ApplyError, Effect, EffectState, RunState, StepState};
pub use view::{EffectView, RunView, StepView};
pub(crate) use view::{named, named_error, named_text};

/// What the resume tokens of a run are made from.
#[derive(PartialEq)]
pub struct ResumeTokens {
    /// The run's project.
    pub project: ProjectId,
    /// The run's own key.
    pub key: ResumeKey,
    /// Where the host's resume door is: what stands before a token in an address.
    pub base: Option<Arc<str>>,
}

impl fmt::Debug for ResumeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeTokens").field("project", &self.project).field("base", &self.base).finish_non_exhaustive()
    }
}

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
#[serde(rename_all = "camelCase", default)]
pub struct EngineLimits {
    /// How many steps the run may execute, every loop iteration counted.
    #[serde(skip_serializing_if = "usual_step_executions")]
    pub step_executions: u32,
    /// How large inputs, outputs and errors of all its steps may be together. Unit: bytes, roughly those of their JSON.
    #[serde(skip_serializing_if = "usual_log_bytes")]
    pub log_bytes: u64,
    /// Longest time the run may execute, pauses not counted. Unit: milliseconds.
    #[serde(skip_serializing_if = "usual_timeout_ms")]
    pub timeout_ms: u64,
    /// How large outputs may be together that are kept as files. Unit: bytes, roughly those of their JSON.
    #[serde(skip_serializing_if = "usual_spill_bytes")]
    pub spill_bytes: u64,
}

/// The usual limits: those that the journal leaves out. They belong to its format and never change, whatever becomes of the
/// defaults of the configuration.
impl Default for EngineLimits {
    fn default() -> Self {
        USUAL
    }
}

impl EngineLimits {
    fn is_usual(&self) -> bool {
        *self == USUAL
    }
}

const USUAL: EngineLimits =
    EngineLimits { step_executions: 10_000, log_bytes: 50 << 20, timeout_ms: 300_000, spill_bytes: 256 << 20 };

macro_rules! usual {
    ($($name:ident: $field:ident $kind:ty),*) => {$(
        const fn $name(value: &$kind) -> bool {
            *value == USUAL.$field
        }
    )*};
}

usual!(
    usual_step_executions: step_executions u32,
    usual_log_bytes: log_bytes u64,
    usual_timeout_ms: timeout_ms u64,
    usual_spill_bytes: spill_bytes u64
);
