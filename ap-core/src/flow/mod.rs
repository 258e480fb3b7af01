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
    BranchStep, CodeStep, FailStep, FlowDefinition, IdempotencyKey, LoopStep, OnError, PieceStep, RespondStep,
    RetryPolicy, Step, StepKind, StepName, StepOptions, TriggerDefinition, TriggerKind, WebhookAuthentication,
    WebhookHandshake, WebhookSettings,
};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use limits::{FlowLimitError, FlowLimits};
pub use valid::{ConnectionUse, ValidFlow};
