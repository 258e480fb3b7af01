//! Who waits for a run's reply, in this process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ap_core::id::RunId;
use serde_json::Value;
use tokio::sync::watch;

use crate::engine::{Reply, RunEnd};

/// What a waiting caller is told, once it is durable.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The run ended without a reply of its own; the output of its last step stands in for one.
    Ended { end: RunEnd, last_output: Option<Arc<Value>> },
    /// A `respond` step answered.
    Replied(Reply),
}

/// Callers by run. A hint only: whoever misses an outcome reads the journal.
#[derive(Debug, Default)]
pub(crate) struct ReplyHub {
    waiting: Mutex<BTreeMap<RunId, watch::Sender<Option<Outcome>>>>,
}

impl ReplyHub {
    /// Registers interest; do this before the run can make progress. Several callers may wait for one run.
    pub(crate) fn subscribe(self: &Arc<Self>, run: RunId) -> Waiter {
        let outcome = self.lock().entry(run).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Waiter { hub: Arc::clone(self), run, outcome: Some(outcome) }
    }

    /// Tells everyone who waits for `run`. Call it only with what is durable.
    pub(crate) fn publish(&self, run: RunId, outcome: Outcome) {
        if let Some(sender) = self.lock().remove(&run) {
            sender.send_replace(Some(outcome));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, watch::Sender<Option<Outcome>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One waiting caller; gone from the hub once dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    hub: Arc<ReplyHub>,
    run: RunId,
    /// Taken when the waiter is dropped, and only then.
    outcome: Option<watch::Receiver<Option<Outcome>>>,
}

impl Waiter {
    /// Waits for the outcome; `None` if there will be none. Cancel safe.
    pub(crate) async fn outcome(&mut self) -> Option<Outcome> {
        let outcome = self.outcome.as_mut()?;
        // An error means the sender is gone: it published first, so the value is there, or nobody ever will.
        let _ = outcome.wait_for(Option::is_some).await;
        outcome.borrow().clone()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Under the lock, so that of two that leave together the second sees that nobody is left. Another sender may
        // stand under the run by now: it goes only if nobody waits for it.
        let mut waiting = self.hub.lock();
        drop(self.outcome.take());
        if waiting.get(&self.run).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.remove(&self.run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16) -> Outcome {
        Outcome::Replied(Reply { status, headers: vec![], body: Arc::default() })
    }

    #[tokio::test]
    async fn every_waiter_hears_the_outcome_and_the_hub_forgets() {
        let hub = Arc::new(ReplyHub::default());
        let run = RunId::from_u128(1);
        let (mut first, mut second) = (hub.subscribe(run), hub.subscribe(run));
        hub.publish(run, reply(201));
        for waiter in [&mut first, &mut second] {
            assert!(matches!(waiter.outcome().await, Some(Outcome::Replied(Reply { status: 201, .. }))));
        }
        assert!(hub.lock().is_empty());
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_late_takes_nobody_else_away() {
        let hub = Arc::new(ReplyHub::default());
        let run = RunId::from_u128(1);
        let early = hub.subscribe(run);
        hub.publish(run, reply(200));
        let mut late = hub.subscribe(run);
        drop(early);
        hub.publish(run, reply(202));
        assert!(matches!(late.outcome().await, Some(Outcome::Replied(Reply { status: 202, .. }))));
    }

    #[test]
    fn a_dropped_waiter_leaves_nothing_behind() {
        let hub = Arc::new(ReplyHub::default());
        let (first, second) = (hub.subscribe(RunId::from_u128(1)), hub.subscribe(RunId::from_u128(1)));
        drop(first);
        assert_eq!(hub.lock().len(), 1);
        drop(second);
        assert!(hub.lock().is_empty());
    }
}
