//! Threads of its own, and futures that are dropped.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{join_all, select_all};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{Bench, OTHER_PROJECT, SOON, SandboxHarness, host::Peer, soon};
use crate::sandbox::{CodeLimits, CodeRequest};

const FOREVER: &str = "while (true) {}";

/// How many steps of a project wait at a time: more than a small sandbox has threads.
const WAITING: usize = 8;

fn endless(bench: &Bench, body: &str) -> CodeRequest {
    let mut request = bench.step(body);
    request.limits = unlimited(request.limits);
    request
}

/// As long as a step may ever take.
fn unlimited(limits: CodeLimits) -> CodeLimits {
    let long =
        limits.with_timeout(Duration::from_secs(600)).and_then(|limits| limits.with_cpu_time(Duration::from_secs(300)));
    long.and_then(|limits| limits.with_host_calls(1_000_000)).expect("limits that are accepted")
}

/// While a step computes, the thread that polls its future goes on: a timer of the same thread keeps firing.
pub async fn a_step_does_not_block_who_polls_it(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let limit = Duration::from_millis(500);
    let mut request = bench.step(FOREVER);
    request.limits = request.limits.with_timeout(limit).expect("an accepted limit");
    let mut ticks = 0_u32;
    let ticking = async {
        let mut every = interval(Duration::from_millis(5));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            ticks += 1;
        }
    };
    tokio::select! {
        biased;
        result = bench.run(request) => assert!(result.is_err(), "{result:?}"),
        () = ticking => unreachable!("it ticks until the step ends"),
    }
    // A hundred fit in; a thread that was blocked sees one or two.
    assert!(ticks >= 10, "the thread that polled the step was blocked: a timer fired {ticks} times in {limit:?}");
    let mut request = bench.expressions(&["(() => { for (;;); })()"], &json!({}));
    request.limits = request.limits.with_timeout(Duration::from_millis(200)).expect("an accepted limit");
    let first = bench.sandbox.evaluate(request).now_or_never();
    assert!(first.is_none(), "expressions were evaluated by the thread that polled them");
}

/// Steps whose futures are dropped stop computing: the place each of them took is free again.
pub async fn a_dropped_step_frees_its_place(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for _ in 0..3 {
        // More than there are threads; most were never begun.
        let steps = (0..40).map(|_| bench.sandbox.run(endless(&bench, FOREVER)));
        let all = select_all(steps);
        let none_ended = timeout(Duration::from_millis(100), all).await;
        assert!(none_ended.is_err(), "an endless step ended: {:?}", none_ended.map(|(result, ..)| result));
    }
    // If one of them computed on, this would wait for minutes sooner or later.
    let after = join_all((0..40).map(|_| bench.sandbox.run(bench.step("return 1;"))));
    let after = timeout(SOON, after).await.expect("dropped steps computed on");
    assert!(after.iter().all(|result| result.as_ref().is_ok_and(|output| output.value == 1)), "{after:?}");
}

/// With the future of a step, the calls of the host that it waits for are dropped, and it makes no more.
pub async fn a_dropped_step_drops_its_host_calls(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let peer = Peer::new();
    let mut waiting =
        endless(&bench, "await Promise.all([1, 2, 3].map((n) => fetch('https://a.example/never?' + n)));");
    waiting.host = peer.clone();
    let mut busy = endless(&bench, "for (let n = 0; ; n++) await fetch('https://a.example/' + n).catch(() => {});");
    busy.host = peer.clone();
    let begun = async {
        while peer.under_way() < 3 || peer.requests().len() < 20 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        ended = bench.sandbox.run(waiting) => panic!("the step that waits ended: {ended:?}"),
        ended = bench.sandbox.run(busy) => panic!("the step that calls ended: {ended:?}"),
        () = soon(begun) => {}
    }
    assert_eq!(peer.under_way(), 0, "calls of the host outlived their step");
    let made = peer.requests().len();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(peer.requests().len(), made, "a dropped step called the host");
    bench.still_works("steps that were dropped while they waited").await;
}

/// Expressions whose future is dropped stop as well.
pub async fn dropped_expressions_stop(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let mut request = bench.expressions(&["(() => { for (;;); })()"], &json!({}));
    request.limits = unlimited(request.limits);
    let all = select_all((0..40).map(|_| bench.sandbox.evaluate(request.clone())));
    assert!(timeout(Duration::from_millis(100), all).await.is_err(), "endless expressions ended");
    let after = join_all((0..20).map(async |_| bench.evaluate(&["1 + 1"], &json!({})).await)).await;
    assert!(after.iter().all(|results| results[0] == Ok(json!(2))), "{after:?}");
}

/// Steps that wait for their host keep no thread from others, of their own project or another.
pub async fn steps_that_wait_hold_nobody_up(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let peer = Peer::new();
    let waiting = (0..WAITING).map(|_| {
        let mut request = endless(&bench, "await fetch('https://a.example/never');");
        request.host = peer.clone();
        bench.sandbox.run(request)
    });
    let others = async {
        while peer.under_way() < WAITING {
            sleep(Duration::from_millis(1)).await;
        }
        for number in 0..20 {
            let mut request = bench.step("return 1;");
            if number % 2 == 1 {
                request.project = OTHER_PROJECT;
            }
            assert_eq!(bench.run(request).await.map(|output| output.value), Ok(json!(1)));
        }
    };
    tokio::select! {
        (ended, ..) = select_all(waiting) => panic!("a step that waits ended: {ended:?}"),
        () = soon(others) => {}
    }
}
