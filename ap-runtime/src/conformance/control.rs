//! Rules for flow control: gates, throttles, rate limits, debounces.

use std::time::Duration;

use ap_core::{id::RunId, run::RunStatus, store::LookupHash, time::Timestamp};
use futures_util::future::{join, join_all};

use super::{
    Harness,
    sample::{
        END, LEASE, PARK, SECOND, START, TICK, accept, accept_leased, accept_once, at, audit, change, claim_all,
        claim_one, create, entry, hash, lease, open, published, ready, running, signal, status, trail,
    },
};
use crate::store::{Accept, Accepted, Debounce, FlowRecord, Gate, Lease, Pace, RunChange, RunControl, Signaled};

const NONE: [u128; 0] = [];

fn gated(number: u128, limit: u32, flow: &FlowRecord) -> Accept {
    let gate = Some(Gate { key: hash(1), limit, skip: false });
    Accept { control: RunControl { gate, ..RunControl::default() }, ..accept(number, flow) }
}

fn throttled(number: u128, limit: u32, period: Duration, flow: &FlowRecord) -> Accept {
    let throttle = Some(Pace { key: hash(1), limit, period });
    Accept { control: RunControl { throttle, ..RunControl::default() }, ..accept(number, flow) }
}

fn limited(number: u128, limit: u32, period: Duration, flow: &FlowRecord) -> Accept {
    let rate_limit = Some(Pace { key: hash(1), limit, period });
    Accept { control: RunControl { rate_limit, ..RunControl::default() }, ..accept(number, flow) }
}

/// A run that waits for ten seconds of quiet, 25 at most.
fn debounced(number: u128, flow: &FlowRecord) -> Accept {
    let debounce = Some(Debounce { key: hash(1), delay: 10 * SECOND, max_wait: 25 * SECOND });
    Accept { control: RunControl { debounce, ..RunControl::default() }, ..accept(number, flow) }
}

/// As many as its limit are past a gate; each that ends lets the next one pass.
pub async fn a_gate_lets_no_more_pass_than_its_limit(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for number in 1..=4 {
        create(backend, gated(number, 2, &flow)).await;
    }
    let wanted = Accept { lease: Some(LEASE), ..gated(5, 2, &flow) };
    let answer = backend.accept(wanted, &[]).await.expect("an answer");
    assert_eq!(answer, Accepted::Created { leased: false }, "a run before its gate is nobody's");
    assert_eq!(status(backend, lease(5, flow.project, 0)).await, RunStatus::Queued);
    let held = claim_all(backend).await;
    assert_eq!(held, [1, 2].map(|number| lease(number, flow.project, 1)));
    bench.clock.advance(LEASE);
    assert_eq!(ready(backend).await, [1, 2], "only those that are past it");
    for (number, next) in [(2, 3), (1, 4), (4, 5)] {
        let epoch = if number < 3 { 2 } else { 1 };
        change(backend, lease(number, flow.project, epoch), END).await;
        assert_eq!(ready(backend).await, [next]);
    }
    let other = Accept { lease: Some(LEASE), ..gated(6, 3, &flow) };
    assert_eq!(backend.accept(other, &[]).await.expect("an answer"), Accepted::Created { leased: true });
    let mut another_key = accept_leased(7, &flow);
    another_key.control.gate = Some(Gate { key: hash(2), limit: 1, skip: false });
    assert_eq!(backend.accept(another_key, &[]).await.expect("an answer"), Accepted::Created { leased: true });
}

/// A run keeps its place past the gate while it is paused or back in the queue.
pub async fn a_run_stays_past_its_gate_until_it_ends(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    create(backend, gated(1, 1, &flow)).await;
    create(backend, gated(2, 1, &flow)).await;
    let held = claim_one(backend).await;
    change(backend, held, PARK).await;
    assert_eq!(ready(backend).await, NONE);
    backend.signal(signal(1, 1, held), &[]).await.expect("an answer");
    let held = claim_one(backend).await;
    change(backend, held, RunChange::Release).await;
    let held = claim_one(backend).await;
    assert_eq!(held, lease(1, flow.project, 3));
    change(backend, held, RunChange::End { status: RunStatus::Failed, at: START }).await;
    assert_eq!(ready(backend).await, [2]);
    // Opened again, it has to pass again.
    backend.reopen(held.run, flow.project, entry(1), &[], &[]).await.expect("opened");
    create(backend, gated(3, 1, &flow)).await;
    assert_eq!(ready(backend).await, NONE);
    change(backend, lease(2, flow.project, 1), END).await;
    assert_eq!(ready(backend).await, [1]);
    change(backend, lease(1, flow.project, 4), END).await;
    assert_eq!(ready(backend).await, [3]);
}

/// Runs pass a gate by priority, then by time of acceptance, then by id.
pub async fn runs_pass_a_gate_in_order(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    create(backend, gated(1, 1, &flow)).await;
    let waiting = [(9, 0, 5), (8, 0, 5), (7, 0, 6), (6, -1, 1), (5, 3, 9), (4, 3, 8)];
    for (number, priority, seconds) in waiting {
        let mut accept = gated(number, 1, &flow);
        (accept.control.priority, accept.run.created) = (priority, at(seconds));
        create(backend, accept).await;
    }
    let mut order = Vec::new();
    for _ in 0..7 {
        let held = claim_one(backend).await;
        order.push(held.run.as_u128());
        change(backend, held, END).await;
    }
    assert_eq!(order, [1, 4, 5, 8, 9, 7, 6]);
}

/// Where limits differ, the next run's own decides, and those behind it wait for it; a new run goes by its own alone.
pub async fn a_gate_goes_by_the_limit_of_the_next_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for (number, limit) in [(1, 2), (2, 2), (3, 1), (4, 2), (5, 3)] {
        create(backend, gated(number, limit, &flow)).await;
    }
    assert_eq!(ready(backend).await, [1, 2, 5]);
    change(backend, lease(5, flow.project, 1), END).await;
    change(backend, lease(1, flow.project, 1), END).await;
    assert_eq!(ready(backend).await, NONE, "the third waits for an empty gate, and the fourth behind it");
    change(backend, lease(2, flow.project, 1), END).await;
    assert_eq!(ready(backend).await, [3, 4], "one end lets as many pass as there is room for");
}

/// A run that would have to wait and asks to be skipped then is not created.
pub async fn a_full_gate_skips_who_asks_for_it(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let skipping = |number| {
        let mut accept = accept_once(number, &flow, 5);
        accept.control.gate = Some(Gate { key: hash(1), limit: 1, skip: true });
        accept
    };
    create(backend, gated(1, 1, &flow)).await;
    let answer = backend.accept(skipping(2), &[audit(1, flow.project)]).await.expect("an answer");
    assert_eq!(answer, Accepted::Skipped);
    assert!(backend.run(RunId::from_u128(2), flow.project).await.is_err());
    assert_eq!(trail(backend, flow.project).await, NONE);
    let held = claim_one(backend).await;
    change(backend, held, END).await;
    create(backend, skipping(2)).await;
    assert_eq!(ready(backend).await, [2], "a skipped delivery does not use up its id");
}

/// Whatever is accepted and ended at the same time, never are more past a gate than its limit, and everything passes.
pub async fn a_gate_holds_under_concurrency(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let accept = async |numbers: std::ops::RangeInclusive<u128>| {
        join_all(numbers.map(|number| create(backend, gated(number, 3, &flow)))).await
    };
    accept(1..=10).await;
    let (mut under_way, mut done): (Vec<Lease>, Vec<u128>) = (Vec::new(), Vec::new());
    for round in 1.. {
        under_way.extend(claim_all(backend).await);
        assert!(under_way.len() <= 3, "{under_way:?}");
        if under_way.is_empty() {
            break;
        }
        let ending: Vec<Lease> = under_way.drain(..under_way.len().min(2)).collect();
        done.extend(ending.iter().map(|lease| lease.run.as_u128()));
        let end = join_all(ending.into_iter().map(|lease| change(backend, lease, END)));
        let more = async {
            if round <= 4 {
                accept(round * 10 + 1..=round * 10 + 5).await;
            }
        };
        join(end, more).await;
    }
    done.sort_unstable();
    let mut all: Vec<u128> = (1..=10).collect();
    all.extend((1..=4).flat_map(|round| round * 10 + 1..=round * 10 + 5));
    all.sort_unstable();
    assert_eq!(done, all);
}

/// A throttle starts its limit at once and the others one by one.
pub async fn a_throttle_spaces_what_exceeds_it(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for number in 1..=4 {
        create(backend, throttled(number, 2, 4 * SECOND, &flow)).await;
    }
    let wanted = Accept { lease: Some(LEASE), ..throttled(5, 2, 4 * SECOND, &flow) };
    let answer = backend.accept(wanted, &[]).await.expect("an answer");
    assert_eq!(answer, Accepted::Created { leased: false }, "a run that is put off is nobody's");
    assert_eq!(ready(backend).await, [1, 2]);
    for number in 3..=5 {
        bench.clock.advance(2 * SECOND - TICK);
        assert_eq!(ready(backend).await, NONE);
        bench.clock.advance(TICK);
        assert_eq!(ready(backend).await, [number]);
    }
    // At the sustained rate the next one is due two seconds after the fifth.
    bench.clock.advance(2 * SECOND);
    create(backend, throttled(6, 2, 4 * SECOND, &flow)).await;
    create(backend, throttled(7, 2, 4 * SECOND, &flow)).await;
    assert_eq!(ready(backend).await, [6]);
    bench.clock.advance(10 * SECOND);
    for number in 8..=10 {
        create(backend, throttled(number, 2, 4 * SECOND, &flow)).await;
    }
    assert_eq!(ready(backend).await, [7, 8, 9]);
}

/// Beyond a rate limit nothing is created, and the answer says when something would be.
pub async fn a_rate_limit_refuses_what_exceeds_it(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let next = |number| {
        let dedupe = accept_once(number, &flow, number).dedupe;
        Accept { dedupe, ..limited(number, 3, 3 * SECOND, &flow) }
    };
    for number in 1..=3 {
        create(backend, next(number)).await;
    }
    let refused = async || {
        let answer = backend.accept(next(4), &[audit(1, flow.project)]).await.expect("an answer");
        assert_eq!(answer, Accepted::Limited { retry: at(1) });
    };
    refused().await;
    bench.clock.advance(SECOND - TICK);
    refused().await;
    assert!(backend.run(RunId::from_u128(4), flow.project).await.is_err());
    assert_eq!(trail(backend, flow.project).await, NONE);
    bench.clock.advance(TICK);
    create(backend, next(4)).await;
    assert_eq!(backend.accept(next(5), &[]).await.expect("an answer"), Accepted::Limited { retry: at(2) });
    assert_eq!(ready(backend).await, [1, 2, 3, 4], "what is accepted may run at once");
    let mut other = next(6);
    other.control.rate_limit = Some(Pace { key: hash(2), limit: 1, period: SECOND });
    create(backend, other).await;
}

/// Neither a duplicate nor a stale or skipped delivery counts for a rate limit.
pub async fn a_rate_limit_counts_created_runs_only(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let control = limited(1, 2, 2 * SECOND, &flow).control;
    create(backend, Accept { control, ..accept_once(1, &flow, 5) }).await;
    create(backend, gated(9, 1, &flow)).await;
    for _ in 0..5 {
        let duplicate = Accept { control, ..accept_once(2, &flow, 5) };
        let answer = backend.accept(duplicate, &[]).await.expect("an answer");
        assert_eq!(answer, Accepted::Duplicate(RunId::from_u128(1)));
        let stale = Accept { control, generation: 9, ..accept(2, &flow) };
        assert_eq!(backend.accept(stale, &[]).await.expect("an answer"), Accepted::Stale);
        let gate = Some(Gate { key: hash(1), limit: 1, skip: true });
        let skipped = Accept { control: RunControl { gate, ..control }, ..accept(2, &flow) };
        assert_eq!(backend.accept(skipped, &[]).await.expect("an answer"), Accepted::Skipped);
    }
    create(backend, Accept { control, ..accept(2, &flow) }).await;
    let limited = Accept { control, ..accept(3, &flow) };
    assert_eq!(backend.accept(limited, &[]).await.expect("an answer"), Accepted::Limited { retry: at(1) });
    let duplicate = Accept { control, ..accept_once(3, &flow, 5) };
    let answer = backend.accept(duplicate, &[]).await.expect("an answer");
    assert_eq!(answer, Accepted::Duplicate(RunId::from_u128(1)), "a duplicate is one before it is limited");
}

/// A debounced run begins when it has been quiet, and is nobody's until then.
pub async fn a_debounced_run_waits_for_quiet(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let wanted = Accept { lease: Some(LEASE), ..debounced(1, &flow) };
    assert_eq!(backend.accept(wanted, &[]).await.expect("an answer"), Accepted::Created { leased: false });
    bench.clock.advance(10 * SECOND - TICK);
    assert_eq!(ready(backend).await, NONE);
    bench.clock.advance(TICK);
    // Its time has come: a newer one begins a series of its own, though nobody has claimed it yet.
    create(backend, debounced(2, &flow)).await;
    assert_eq!(ready(backend).await, [1]);
    create(backend, debounced(3, &flow)).await;
    assert_eq!(status(backend, lease(1, flow.project, 1)).await, RunStatus::Running);
    bench.clock.advance(10 * SECOND);
    assert_eq!(ready(backend).await, [3]);
}

/// A newer run of the key ends the one that waits, as canceled.
pub async fn a_debounced_run_is_replaced_by_a_newer(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    create(backend, debounced(1, &flow)).await;
    let first = lease(1, flow.project, 0);
    assert_eq!(backend.signal(signal(1, 1, first), &[]).await.expect("an answer"), Signaled::Delivered);
    let mut other = debounced(9, &flow);
    other.control.debounce = Some(Debounce { key: hash(2), delay: 60 * SECOND, max_wait: 60 * SECOND });
    create(backend, other).await;
    bench.clock.advance(4 * SECOND);
    create(backend, debounced(2, &flow)).await;
    let run = backend.run(first.run, flow.project).await.expect("the run");
    assert_eq!((run.status, run.finished), (RunStatus::Canceled, Some(at(4))));
    assert_eq!(backend.journal(first.run, flow.project).await.expect("the journal"), [entry(0)]);
    assert_eq!(backend.signals(first.run, flow.project).await.expect("signals"), []);
    assert_eq!(backend.signal(signal(2, 2, first), &[]).await.expect("an answer"), Signaled::Over);
    assert_eq!(status(backend, lease(9, flow.project, 0)).await, RunStatus::Queued);
    bench.clock.advance(10 * SECOND - TICK);
    assert_eq!(ready(backend).await, NONE);
    bench.clock.advance(TICK);
    assert_eq!(ready(backend).await, [2]);
}

/// However often a run is replaced, one begins when the series has gone on for its longest time.
pub async fn a_debounce_ends_at_its_longest_wait(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for number in 1..=4 {
        create(backend, debounced(number, &flow)).await;
        bench.clock.advance(8 * SECOND);
    }
    assert_eq!(ready(backend).await, [4], "it came at 24 s and would have waited until 34 s, but for the series");
    create(backend, debounced(5, &flow)).await;
    for number in 6..=8 {
        bench.clock.advance(8 * SECOND);
        create(backend, debounced(number, &flow)).await;
    }
    bench.clock.advance(SECOND - TICK);
    assert_eq!(ready(backend).await, NONE);
    bench.clock.advance(TICK);
    assert_eq!(ready(backend).await, [8], "25 s after the first of the new series");
}

/// A run takes the place of the one it replaces: at the gate and in the throttle.
pub async fn a_newer_run_takes_the_place_of_the_replaced(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let wanted = |number, gate: LookupHash, skip| {
        let mut accept = debounced(number, &flow);
        accept.control.gate = Some(Gate { key: gate, limit: 1, skip });
        accept.control.throttle = Some(Pace { key: hash(1), limit: 1, period: 12 * SECOND });
        accept
    };
    create(backend, wanted(1, hash(1), true)).await;
    create(backend, gated(2, 1, &flow)).await;
    for number in 3..=6 {
        // It skips a full gate, but the place in it is its own; and it is one run for the throttle.
        create(backend, wanted(number, hash(1), true)).await;
    }
    create(backend, throttled(7, 1, 12 * SECOND, &flow)).await;
    bench.clock.advance(10 * SECOND);
    assert_eq!(ready(backend).await, [6]);
    bench.clock.advance(2 * SECOND);
    assert_eq!(ready(backend).await, [7], "the series took one place in the throttle");
    change(backend, lease(6, flow.project, 1), END).await;
    assert_eq!(ready(backend).await, [2]);

    // One that is put off by the throttle is not due sooner for being replaced.
    create(backend, wanted(10, hash(3), false)).await;
    create(backend, wanted(11, hash(4), false)).await;
    let mut behind = gated(12, 1, &flow);
    behind.control.gate = Some(Gate { key: hash(3), limit: 1, skip: false });
    create(backend, behind).await;
    assert_eq!(ready(backend).await, [12], "the replaced run has left its gate");
    bench.clock.advance(12 * SECOND - TICK);
    assert_eq!(ready(backend).await, NONE);
    bench.clock.advance(TICK);
    assert_eq!(ready(backend).await, [11]);
}

/// A run that is replaced lets those pass that wait at its gate, if the newer goes by another.
pub async fn a_replaced_run_leaves_its_gate(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let mut first = debounced(1, &flow);
    first.control.gate = gated(1, 1, &flow).control.gate;
    create(backend, first).await;
    create(backend, gated(2, 1, &flow)).await;
    assert_eq!(ready(backend).await, NONE);
    create(backend, debounced(3, &flow)).await;
    assert_eq!(ready(backend).await, [2]);
}

/// Of many runs at the same time that replace each other one is left.
pub async fn concurrent_debounced_runs_leave_one(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    join_all((1..=16).map(|number| create(backend, debounced(number, &flow)))).await;
    let mut canceled = 0;
    for number in 1..=16 {
        let run = backend.run(RunId::from_u128(number), flow.project).await.expect("the run");
        canceled += u32::from((run.status, run.finished) == (RunStatus::Canceled, Some(START)));
    }
    assert_eq!(canceled, 15);
    bench.clock.advance(10 * SECOND);
    claim_one(backend).await;
}

/// A sweep forgets a pace when it no longer makes a difference, and not before.
pub async fn a_sweep_forgets_paces_that_have_passed(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for number in 1..=5 {
        let mut accept = limited(number, 1, SECOND, &flow);
        accept.control.rate_limit = Some(Pace { key: hash(number), limit: 1, period: SECOND });
        create(backend, accept).await;
    }
    let mut late = throttled(6, 1, 3 * SECOND, &flow);
    late.control.throttle = Some(Pace { key: hash(6), limit: 1, period: 3 * SECOND });
    create(backend, late.clone()).await;
    assert_eq!(backend.sweep(10).await.expect("an answer"), 0);
    let refused = backend.accept(limited(7, 1, SECOND, &flow), &[]).await.expect("an answer");
    assert_eq!(refused, Accepted::Limited { retry: at(1) });
    bench.clock.advance(SECOND);
    assert_eq!(backend.sweep(3).await.expect("an answer"), 3);
    assert_eq!(backend.sweep(10).await.expect("an answer"), 2);
    assert_eq!(backend.sweep(10).await.expect("an answer"), 0);
    assert_eq!(ready(backend).await, [1, 2, 3, 4, 5, 6]);
    late.run.id = RunId::from_u128(8);
    create(backend, late).await;
    assert_eq!(ready(backend).await, NONE, "the throttle still counts the first");
}

/// A run that waits for the store's clock does not look at the time its caller gave.
pub async fn control_goes_by_the_clock_of_the_store(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for (number, created) in [(1, Timestamp::EPOCH), (2, at(1_000_000))] {
        let mut accept = debounced(number, &flow);
        accept.control.debounce = Some(Debounce { key: hash(number), delay: SECOND, max_wait: SECOND });
        accept.run.created = created;
        create(backend, accept).await;
    }
    assert_eq!(ready(backend).await, NONE);
    bench.clock.advance(SECOND);
    assert_eq!(ready(backend).await, [1, 2]);
    running(backend, 3, &flow).await;
}
