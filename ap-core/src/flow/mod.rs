//! Flows: the definition as the guide writes it, its diagnostics, and [`ValidFlow`].
//!
//! [`FlowDefinition::parse_slice`] turns JSON text into a [`FlowDefinition`] or into [`Diagnostic`]s;
//! [`ValidFlow::check`] turns a definition into the proof that every structural rule holds. The engine takes nothing but
//! a [`ValidFlow`].

mod condition;
mod definition;
mod diagnostic;
mod limits;
mod parse;
mod valid;

pub use condition::{BranchCondition, Condition, ConditionError, Operator};
pub use definition::{
    AllowedHosts, BranchStep, CatchUp, CodeLanguage, CodeStep, ConcurrencyControl, DebounceControl, DelayStep,
    EnqueueStep, FailStep, FlowControl, FlowDefinition, HostPatternError, IdempotencyKey, JoinPolicy, LoopStep,
    MAX_ALLOWED_HOSTS, OnError, Overlap, PaceControl, ParallelBranch, ParallelStep, PieceStep, PollSettings,
    ProcessStep, RespondStep, RetryPolicy, RouterBranch, RouterMode, RouterStep, ScheduleSettings, Step, StepKind,
    StepName, StepOptions, SubflowStep, TriggerDefinition, TriggerKind, WaitMode, WaitStep, WebhookAuthentication,
    WebhookHandshake, WebhookSettings,
};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use limits::{FlowLimitError, FlowLimits};
pub use valid::{ConnectionUse, ScriptUse, ValidFlow};
