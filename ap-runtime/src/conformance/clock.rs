//! Rules for [`Clock`]: time goes on, and waits are as long as they should be.
//!
//! The clock is asked for inside the runtime that runs the rule, and moves by itself: waits are short, and bounded.

use std::{sync::Arc, time::Duration};

use ap_core::time::Timestamp;
use futures_util::future::{join, join3};
use tokio::time::timeout;

use crate::clock::Clock;

/// How long something may take that takes no time.
const SOON: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(20);

async fn soon<F: Future>(what: F) -> F::Output {
    timeout(SOON, what).await.expect("the clock kept somebody waiting")
}

/// A wait ends after its time and not before, as the clock itself tells.
pub async fn a_wait_is_as_long_as_it_should_be(clock: &impl Fn() -> Arc<dyn Clock>) {
    let clock = clock();
    for _ in 0..3 {
        let until = clock.now().saturating_add(MOMENT);
        soon(clock.sleep_until(until)).await;
        // The time and the wait may come from two clocks of the machine, which differ a little.
        let early = until.saturating_since(clock.now());
        assert!(early < MOMENT / 4, "{early:?} too early");
    }
}

/// A time that has come is not waited for.
pub async fn a_time_that_has_come_is_not_waited_for(clock: &impl Fn() -> Arc<dyn Clock>) {
    let clock = clock();
    let now = clock.now();
    for at in [now, now.saturating_sub(Duration::from_secs(3_600)), Timestamp::EPOCH, Timestamp::from_micros(i64::MIN)]
    {
        soon(clock.sleep_until(at)).await;
    }
}

/// Waits at the same time end each in its own time, the shorter first.
pub async fn waits_end_in_order(clock: &impl Fn() -> Arc<dyn Clock>) {
    let clock = clock();
    let now = clock.now();
    let ended = std::cell::RefCell::new(Vec::new());
    let wait = async |number: u32| {
        clock.sleep_until(now.saturating_add(number * MOMENT)).await;
        ended.borrow_mut().push(number);
    };
    soon(join3(wait(3), wait(1), wait(2))).await;
    assert_eq!(ended.into_inner(), [1, 2, 3]);
}

/// A wait that is dropped ends, and no other with it; nor does one beyond all time disturb anybody.
pub async fn a_dropped_wait_disturbs_nobody(clock: &impl Fn() -> Arc<dyn Clock>) {
    let clock = clock();
    let short = clock.sleep_until(clock.now().saturating_add(MOMENT));
    let dropped = async {
        let far = clock.sleep_until(Timestamp::from_micros(i64::MAX));
        let kept = timeout(MOMENT / 4, far).await;
        assert!(kept.is_err(), "the end of all time came early");
    };
    soon(join(short, dropped)).await;
}

/// Runs a [`Clock`] through every rule, one `#[test]` per rule; takes a closure that makes an `Arc<dyn Clock>`. The clock
/// must move by itself.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use ap_runtime::clock::{Clock, SystemClock};
///
/// ap_runtime::clock_conformance!(|| Arc::new(SystemClock) as Arc<dyn Clock>);
/// ```
#[macro_export]
macro_rules! clock_conformance {
    ($clock:expr) => {
        $crate::__conformance_tests! { $clock;
            a_wait_is_as_long_as_it_should_be,
            a_time_that_has_come_is_not_waited_for,
            waits_end_in_order,
            a_dropped_wait_disturbs_nobody
        }
    };
}
