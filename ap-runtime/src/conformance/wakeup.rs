//! Rules for [`Wakeup`]: hints that reach everybody and are in nobody's way.
//!
//! What a transport does takes real time, so these rules wait for it: until a hint comes, at most [`WakeupHarness::patience`].

use std::{collections::HashSet, sync::Arc, time::Duration};

use ap_core::id::RunId;
use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::time::{Instant, timeout};

use crate::wakeup::{Hint, Wakeup};

/// Gives each rule two ends of one transport that nobody else uses, and cleans up after it.
#[async_trait]
pub trait WakeupHarness: Sync {
    /// What carries the hints. Dropped when the rule ends.
    type Guard: Send + Sync;

    /// Opens two ends, as two processes would. For a transport within one process both may be the same.
    async fn open(&self) -> (Self::Guard, [Arc<dyn Wakeup>; 2]);

    /// How long a hint may take at most. A rule that holds does not wait that long. Default: 10 s.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// One listener, and how long it waits for a hint.
struct Listener {
    hints: BoxStream<'static, Hint>,
    patience: Duration,
}

impl Listener {
    fn open(wakeup: &Arc<dyn Wakeup>, harness: &impl WakeupHarness) -> Self {
        Self { hints: wakeup.listen(), patience: harness.patience() }
    }

    /// Listens until all of these were heard, in whatever order, beside whatever else.
    async fn hears(&mut self, wanted: impl IntoIterator<Item = Hint>) {
        let mut missing: HashSet<Hint> = wanted.into_iter().collect();
        let heard = timeout(self.patience, async {
            while !missing.is_empty() {
                let hint = self.hints.next().await.expect("a stream of hints does not end");
                missing.remove(&hint);
            }
        });
        let in_time = heard.await.is_ok();
        assert!(in_time, "never heard: {missing:?}");
    }
}

fn ended(number: u128) -> Hint {
    Hint::Ended(RunId::from_u128(number))
}

fn signaled(number: u128) -> Hint {
    Hint::Signaled(RunId::from_u128(number))
}

/// Every hint reaches every listener of both ends, those of the sender included.
pub async fn everybody_hears_a_hint(harness: &impl WakeupHarness) {
    let (_guard, ends) = harness.open().await;
    let mut listeners: Vec<Listener> =
        ends.iter().flat_map(|end| [Listener::open(end, harness), Listener::open(end, harness)]).collect();
    for (number, end) in (1..).zip(&ends) {
        let largest = u128::MAX - number;
        let hints = [Hint::Ready, ended(number), signaled(number), ended(largest), signaled(largest)];
        for hint in hints {
            end.notify(hint);
        }
        for listener in &mut listeners {
            listener.hears(hints).await;
        }
    }
}

/// Of many hints from both ends at once none is lost to a listener that keeps up.
pub async fn hints_of_both_ends_all_arrive(harness: &impl WakeupHarness) {
    let (_guard, ends) = harness.open().await;
    let mut listeners: Vec<Listener> = ends.iter().map(|end| Listener::open(end, harness)).collect();
    for round in 0..10 {
        let numbers = round * 20 + 1..=round * 20 + 20;
        for number in numbers.clone() {
            ends[0].notify(ended(number));
            ends[1].notify(signaled(number));
        }
        for listener in &mut listeners {
            listener.hears(numbers.clone().flat_map(|number| [ended(number), signaled(number)])).await;
        }
    }
}

/// A listener hears what is said from then on; what was said before may be missed and disturbs nobody.
pub async fn a_listener_hears_from_then_on(harness: &impl WakeupHarness) {
    let (_guard, ends) = harness.open().await;
    for number in 1..=100 {
        ends[0].notify(ended(number));
    }
    let mut early = Listener::open(&ends[1], harness);
    ends[0].notify(ended(200));
    early.hears([ended(200)]).await;
    let mut late = Listener::open(&ends[1], harness);
    ends[0].notify(ended(300));
    early.hears([ended(300)]).await;
    late.hears([ended(300)]).await;
}

/// A listener that stops takes nothing away from the others, and the last one to stop nothing from who comes next.
pub async fn a_listener_that_stops_disturbs_nobody(harness: &impl WakeupHarness) {
    let (_guard, ends) = harness.open().await;
    let (gone, mut stays) = (Listener::open(&ends[0], harness), Listener::open(&ends[0], harness));
    drop(gone);
    ends[1].notify(ended(1));
    stays.hears([ended(1)]).await;
    drop(stays);
    ends[0].notify(ended(2));
    let mut next = Listener::open(&ends[0], harness);
    ends[1].notify(ended(3));
    next.hears([ended(3)]).await;
}

/// Giving a hint takes no time, though nobody listens or a listener does not keep up; that one goes on hearing afterwards.
pub async fn a_hint_is_never_in_the_way(harness: &impl WakeupHarness) {
    let (_guard, ends) = harness.open().await;
    let flood = |from: u128| {
        let started = Instant::now();
        (from..from + 20_000).for_each(|number| ends[0].notify(ended(number)));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "20,000 hints took {took:?}");
    };
    flood(0);
    let mut slow = [Listener::open(&ends[0], harness), Listener::open(&ends[1], harness)];
    flood(100_000);
    for (number, listener) in (1..).zip(&mut slow) {
        // What the flood left behind may crowd out a hint, so it is given until it is heard.
        let patience = listener.patience;
        let repeat = async {
            loop {
                ends[0].notify(signaled(number));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = listener.hears([signaled(number)]) => {}
            () = repeat => unreachable!("it goes on until the hint is heard, at most {patience:?}"),
        }
    }
}

/// Runs a [`Wakeup`] through every rule, one `#[test]` per rule; takes a [`WakeupHarness`].
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use ap_runtime::{conformance::WakeupHarness, wakeup::{LocalWakeup, Wakeup}};
///
/// struct Local;
///
/// #[async_trait::async_trait]
/// impl WakeupHarness for Local {
///     type Guard = ();
///
///     async fn open(&self) -> ((), [Arc<dyn Wakeup>; 2]) {
///         let wakeup = Arc::new(LocalWakeup::default());
///         ((), [Arc::clone(&wakeup) as Arc<dyn Wakeup>, wakeup])
///     }
/// }
///
/// ap_runtime::wakeup_conformance!(Local);
/// ```
#[macro_export]
macro_rules! wakeup_conformance {
    ($harness:expr) => {
        $crate::__conformance_tests! { $harness;
            everybody_hears_a_hint,
            hints_of_both_ends_all_arrive,
            a_listener_hears_from_then_on,
            a_listener_that_stops_disturbs_nobody,
            a_hint_is_never_in_the_way
        }
    };
}
