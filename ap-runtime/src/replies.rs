//! Who waits for a run's reply, in this process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ap_core::id::RunId;
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    engine::{Reply, RunEnd},
    wakeup::{Hint, Wakeup},
};

/// What a waiting caller hears.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// The outcome, from this process.
    Outcome(Outcome),
    /// Another process has news of the run: they are in the store.
    Look,
}

/// What a waiting caller is told, once it is durable.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The run ended without a reply of its own; the output of its last step stands in for one.
    Ended { end: RunEnd, last_output: Option<Arc<Value>> },
    /// A `respond` step answered.
    Replied(Reply),
}

/// Callers by run. A hint only: whoever misses an outcome reads the journal.
#[derive(Debug)]
pub(crate) struct ReplyHub {
    waiting: Mutex<BTreeMap<RunId, watch::Sender<Told>>>,
    wakeup: Arc<dyn Wakeup>,
}

/// What was said of a run since somebody waits for it.
#[derive(Debug, Default)]
struct Told {
    outcome: Option<Outcome>,
    /// How often another process had news.
    looks: u64,
}

impl ReplyHub {
    /// A hub whose outcomes other processes hear of through `wakeup`.
    pub(crate) fn new(wakeup: Arc<dyn Wakeup>) -> Self {
        Self { waiting: Mutex::default(), wakeup }
    }

    /// Registers interest; do this before the run can make progress. Several callers may wait for one run.
    pub(crate) fn subscribe(self: &Arc<Self>, run: RunId) -> Waiter {
        let outcome = self.lock().entry(run).or_insert_with(|| watch::Sender::new(Told::default())).subscribe();
        let looks = outcome.borrow().looks;
        Waiter { hub: Arc::clone(self), run, outcome: Some(outcome), looks }
    }

    /// Tells everyone who waits for `run`, here and elsewhere. Call it only with what is durable.
    pub(crate) fn publish(&self, run: RunId, outcome: Outcome) {
        if let Some(sender) = self.lock().remove(&run) {
            sender.send_modify(|told| told.outcome = Some(outcome));
        }
        self.wakeup.notify(Hint::Ended(run));
    }

    /// Tells everyone who waits for `run` that there is news in the store.
    pub(crate) fn look(&self, run: RunId) {
        if let Some(sender) = self.lock().get(&run) {
            sender.send_modify(|told| told.looks = told.looks.wrapping_add(1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, watch::Sender<Told>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One waiting caller; gone from the hub once dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    hub: Arc<ReplyHub>,
    run: RunId,
    /// Taken when the waiter is dropped, and only then.
    outcome: Option<watch::Receiver<Told>>,
    /// How much of the news was heard.
    looks: u64,
}

impl Waiter {
    /// Waits for the outcome, or for news of it; `None` if nobody will ever say more. Cancel safe.
    pub(crate) async fn heard(&mut self) -> Option<Heard> {
        let (receiver, heard) = (self.outcome.as_mut()?, self.looks);
        // An error means the sender is gone: it published first, so the value is there, or nobody ever will.
        let _ = receiver.wait_for(|told| told.outcome.is_some() || told.looks != heard).await;
        let told = receiver.borrow();
        if let Some(outcome) = &told.outcome {
            return Some(Heard::Outcome(outcome.clone()));
        }
        let news = told.looks != heard;
        self.looks = told.looks;
        news.then_some(Heard::Look)
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
    use futures_util::StreamExt;

    use super::*;
    use crate::wakeup::LocalWakeup;

    fn hub() -> Arc<ReplyHub> {
        Arc::new(ReplyHub::new(Arc::new(LocalWakeup::default())))
    }

    fn reply(status: u16) -> Outcome {
        Outcome::Replied(Reply { status, headers: vec![], body: Arc::default() })
    }

    fn is_reply(heard: Option<Heard>, expected: u16) -> bool {
        matches!(heard, Some(Heard::Outcome(Outcome::Replied(Reply { status, .. }))) if status == expected)
    }

    #[tokio::test]
    async fn every_waiter_hears_the_outcome_and_the_hub_forgets() {
        let hub = hub();
        let run = RunId::from_u128(1);
        let mut hints = hub.wakeup.listen();
        let (mut first, mut second) = (hub.subscribe(run), hub.subscribe(run));
        hub.publish(run, reply(201));
        for waiter in [&mut first, &mut second] {
            assert!(is_reply(waiter.heard().await, 201));
        }
        assert!(hub.lock().is_empty());
        assert_eq!(hints.next().await, Some(Hint::Ended(run)), "other processes hear that there is something to see");
    }

    #[tokio::test]
    async fn news_from_elsewhere_are_heard_once_each() {
        let hub = hub();
        let run = RunId::from_u128(1);
        let mut waiter = hub.subscribe(run);
        hub.look(run);
        assert!(matches!(waiter.heard().await, Some(Heard::Look)));
        let idle = futures_util::poll!(Box::pin(waiter.heard()));
        assert!(idle.is_pending());
        hub.look(run);
        hub.publish(run, reply(200));
        assert!(is_reply(waiter.heard().await, 200), "an outcome says more than news");
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_late_takes_nobody_else_away() {
        let hub = hub();
        let run = RunId::from_u128(1);
        let early = hub.subscribe(run);
        hub.publish(run, reply(200));
        let mut late = hub.subscribe(run);
        drop(early);
        hub.publish(run, reply(202));
        assert!(is_reply(late.heard().await, 202));
    }

    #[test]
    fn a_dropped_waiter_leaves_nothing_behind() {
        let hub = hub();
        let (first, second) = (hub.subscribe(RunId::from_u128(1)), hub.subscribe(RunId::from_u128(1)));
        drop(first);
        assert_eq!(hub.lock().len(), 1);
        drop(second);
        assert!(hub.lock().is_empty());
    }
}
