//! Where steps are computed.

use std::time::Instant;

use ap_core::id::ProjectId;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::calls::{HostAnswer, Started};
use super::scheduler::Slot;
use super::step::Turn;
use super::{CodeError, CodeOutput, CodeRequest, CodeUnit, ExpressionRequest};

/// Computes steps: on threads of this process, or in another one.
///
/// Whose turn it is, what a step waits for and what its host does for it are the same everywhere.
pub(crate) trait Place: Send + Sync + 'static {
    /// What one thread of the sandbox works with.
    type Thread: Send + 'static;
    /// A step that has started. Dropping it ends it, and makes room for another.
    type Step: LiveStep;
    /// What is left of an evaluation, and is dropped when it was answered.
    type Rest;
    /// What a call and its cancellation have in common.
    type Ticket: Clone + Send + Sync + 'static;

    /// The ticket of one more call.
    fn ticket(&self) -> Self::Ticket;

    /// Interrupts a call whose caller has gone.
    fn cancel(&self, ticket: &Self::Ticket);

    /// Whether the caller has gone.
    fn is_cancelled(ticket: &Self::Ticket) -> bool;

    /// Compiles a unit.
    fn check(
        thread: &Self::Thread,
        project: ProjectId,
        unit: &CodeUnit,
        ticket: &Self::Ticket,
    ) -> Result<(), CodeError>;

    /// Begins a step.
    fn begin(
        thread: &Self::Thread,
        slot: Slot<Self::Thread>,
        request: &CodeRequest,
        ticket: &Self::Ticket,
    ) -> Result<(Turn<CodeOutput>, Self::Step), CodeError>;

    /// Goes on with a step whose host call `id` has ended.
    fn settle(thread: &Self::Thread, step: &mut Self::Step, id: u32, answer: HostAnswer) -> Turn<CodeOutput>;

    /// Evaluates expressions.
    fn evaluate(
        thread: &Self::Thread,
        request: &ExpressionRequest,
        ticket: &Self::Ticket,
    ) -> Result<(Results<Value>, Self::Rest), CodeError>;
}

/// Of several expressions, each for itself.
pub(crate) type Results<V> = Vec<Result<V, CodeError>>;

/// A step that waits for its host.
pub(crate) trait LiveStep: Send + 'static {
    /// The host calls that its last turn began, and the ids of those it does not wait for any more.
    fn take_calls(&mut self) -> (Vec<Started>, Vec<u32>);

    /// Notes that a host call has ended.
    fn ended(&mut self, id: u32);

    /// When the step must have ended.
    fn deadline(&self) -> Instant;

    /// How the step ended without anybody's doing, once it has.
    fn lost(&self) -> BoxFuture<'static, CodeError>;
}
