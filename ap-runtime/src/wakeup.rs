//! [`Wakeup`]: hints between workers, so that nobody has to poll.
//!
//! Correctness never needs a hint. One that is lost delays something until the next time somebody looks by himself; one too
//! many makes somebody look in vain.

use std::fmt;

use ap_core::id::RunId;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::broadcast;

/// What may be worth a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// This run has ended, or answered.
    Ended(RunId),
    /// A run may be claimable, or a trigger due, that was not before.
    Ready,
    /// This run has a signal.
    Signaled(RunId),
}

/// Carries hints to every worker, the sender's own process included.
///
/// # Contract
///
/// * **Never in the way.** `notify` returns at once, whatever the transport does; what it cannot take is dropped.
/// * **Everybody hears.** A hint given while the transport works reaches every stream that was opened before, at least once.
/// * **Self-healing.** After an outage streams go on by themselves; hints of the outage may be lost.
///
/// Prove an implementation with [`wakeup_conformance!`](crate::wakeup_conformance).
pub trait Wakeup: fmt::Debug + Send + Sync + 'static {
    /// Tells everybody.
    fn notify(&self, hint: Hint);

    /// Hints from now on. Call it inside a tokio runtime. A listener that is slow may miss some.
    fn listen(&self) -> BoxStream<'static, Hint>;
}

/// Hints within one process: all that SQLite and the memory backend need.
#[derive(Debug)]
pub struct LocalWakeup(broadcast::Sender<Hint>);

impl Default for LocalWakeup {
    fn default() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }
}

impl Wakeup for LocalWakeup {
    fn notify(&self, hint: Hint) {
        // An error means that nobody listens.
        let _ = self.0.send(hint);
    }

    fn listen(&self) -> BoxStream<'static, Hint> {
        heard(self.0.subscribe())
    }
}

/// The hints of a channel; a gap is closed with [`Hint::Ready`], which makes the listener look at everything.
pub(crate) fn heard(receiver: broadcast::Receiver<Hint>) -> BoxStream<'static, Hint> {
    let next = |mut receiver: broadcast::Receiver<Hint>| async move {
        match receiver.recv().await {
            Ok(hint) => Some((hint, receiver)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((Hint::Ready, receiver)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    };
    futures_util::stream::unfold(receiver, next).boxed()
}

/// Hints that wait for a slow listener at most.
const CAPACITY: usize = 4_096;
