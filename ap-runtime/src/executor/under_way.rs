//! What a driver has begun and not heard of yet.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use ap_core::run::StepPath;

use super::values::StepValues;
use crate::engine::{AttemptOutcome, ScriptResult};

/// Something that is being carried out.
pub(super) struct UnderWay {
    pub(super) path: StepPath,
    /// Which attempt, from 1; 0 while the expressions of a step are evaluated.
    pub(super) attempt: u32,
    pub(super) outcome: Pin<Box<dyn Future<Output = Done> + Send>>,
    /// The key-value store as the attempt of a script sees it.
    pub(super) values: Option<Arc<StepValues>>,
}

/// What came of it.
pub(super) enum Done {
    Attempt(AttemptOutcome),
    Evaluated(Vec<ScriptResult>),
}

/// Something that was carried out.
pub(super) struct Ended {
    pub(super) path: StepPath,
    pub(super) attempt: u32,
    pub(super) done: Done,
    pub(super) values: Option<Arc<StepValues>>,
}

/// The first attempt that is done, in the order in which they began. Never, if none is under way. Cancel safe.
pub(super) async fn next_outcome(under_way: &mut Vec<UnderWay>) -> Ended {
    poll_fn(|context| {
        for (index, one) in under_way.iter_mut().enumerate() {
            if let Poll::Ready(done) = one.outcome.as_mut().poll(context) {
                let UnderWay { path, attempt, values, .. } = under_way.remove(index);
                return Poll::Ready(Ended { path, attempt, done, values });
            }
        }
        Poll::Pending
    })
    .await
}
