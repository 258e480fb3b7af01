use std::time::{Duration, Instant};

use ap_core::id::ProjectId;
use ap_runtime::sandbox::{CodeError, CodeLimits, CodeRequest, SandboxCapacity};
use futures_util::future::{join_all, select_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::json;
use tokio::time::timeout;

use super::{SANDBOX, request, run, run_body, step};

const FOREVER: &str = "while (true) {}";

fn with_limits(body: &str, set: impl FnOnce(CodeLimits) -> CodeLimits) -> CodeRequest {
    let mut request = request(&step(body), "{}");
    request.limits = set(request.limits);
    request
}

#[tokio::test]
async fn source_is_accepted_up_to_its_limit() {
    let limit_bytes = CodeLimits::default().source_bytes();
    for (length, accepted) in [(limit_bytes - 1, true), (limit_bytes, true), (limit_bytes + 1, false)] {
        let mut source = step("return 1; //");
        source.push_str(&"\n".repeat(length - source.len()));
        let source = source.replace("//", "  ");
        let result = run(&source).await;
        match accepted {
            true => assert_eq!(result.unwrap().value, 1),
            false => assert_eq!(result, Err(CodeError::SourceTooLarge { limit_bytes })),
        }
    }
}

#[tokio::test]
async fn memory_is_bounded_by_the_requests_limit() {
    let body = "return new ArrayBuffer(params * 1024 * 1024).byteLength;";
    for (limit_mib, array_mib, accepted) in
        [(4, 1, true), (4, 4, false), (16, 8, true), (16, 16, false), (64, 48, true)]
    {
        let mut request = request(&step(body), &array_mib.to_string());
        let limit_bytes = limit_mib << 20;
        request.limits = request.limits.with_memory_bytes(limit_bytes).unwrap();
        let result = SANDBOX.run(request).await;
        match accepted {
            true => assert_eq!(result.unwrap().value, array_mib << 20),
            false => assert_eq!(result, Err(CodeError::MemoryLimit { limit_bytes })),
        }
    }
}

#[tokio::test]
async fn parameters_count_as_memory() {
    let mut request = request(&step("return params.length;"), &json!("x".repeat(5 << 20)).to_string());
    assert_eq!(SANDBOX.run(request.clone()).await.unwrap().value, 5 << 20);
    request.limits = request.limits.with_memory_bytes(4 << 20).unwrap();
    assert_eq!(SANDBOX.run(request).await, Err(CodeError::MemoryLimit { limit_bytes: 4 << 20 }));
}

#[tokio::test]
async fn a_step_may_recover_from_a_refused_allocation() {
    let body = "try { new ArrayBuffer(1e9) } catch (error) { return error.message }";
    assert_eq!(run_body(body).await.unwrap().value, "out of memory");
    // An error of the step's own, thrown after that, is its own.
    let error = run_body("try { new ArrayBuffer(1e9) } catch { throw new Error('mine') }").await.unwrap_err();
    assert!(matches!(&error, CodeError::Thrown { message, .. } if message == "mine"), "{error:?}");
}

#[tokio::test]
async fn one_steps_deadline_does_not_end_another() {
    let limit = Duration::from_millis(20);
    let short = (0..10).map(|_| SANDBOX.run(with_limits(FOREVER, |limits| limits.with_timeout(limit).unwrap())));
    let long = SANDBOX.run(with_limits("let n = 0; for (let i = 0; i < 3e6; i++) n += i; return n;", |limits| limits));
    let (long, short) = tokio::join!(long, join_all(short));
    assert_eq!(long.unwrap().value, 4_499_998_500_000_i64);
    assert!(short.into_iter().all(|result| result == Err(CodeError::Timeout { limit })));
}

#[tokio::test]
async fn a_dropped_future_interrupts_its_step() {
    let sandbox = crate::start(SandboxCapacity::default().with_threads(1).unwrap());
    let limit = Duration::from_secs(300);
    let hog = with_limits(FOREVER, |limits| limits.with_timeout(limit).unwrap());
    let queued = hog.clone();
    let both = select_all([sandbox.run(hog), sandbox.run(queued)]);
    assert!(timeout(Duration::from_millis(50), both).await.is_err());
    // The only thread is free again, or this would wait for five minutes.
    let output = timeout(Duration::from_secs(10), sandbox.run(request(&step("return 1;"), "{}"))).await;
    assert_eq!(output.unwrap().unwrap().value, 1);
}

#[tokio::test]
async fn a_full_queue_is_busy_and_recovers() {
    let capacity = SandboxCapacity::default().with_threads(1).unwrap().with_queue(8).unwrap();
    let sandbox = crate::start(capacity);
    let mut hog = sandbox.run(with_limits(FOREVER, |limits| limits.with_timeout(Duration::from_secs(300)).unwrap()));
    assert!(timeout(Duration::from_millis(200), &mut hog).await.is_err()); // the thread has it by now
    let mut others: FuturesUnordered<_> = (0..4).map(|_| sandbox.run(request(&step("return 1;"), "{}"))).collect();
    for _ in 0..2 {
        let error = others.next().await.unwrap().unwrap_err();
        assert!(error == CodeError::Busy && error.is_retryable());
    }
    // Another project has a place, and so have those who come when others do not wait any more.
    let mut other = request(&step("return 1;"), "{}");
    other.project = ProjectId::from_u128(2);
    for _ in 0..10 {
        assert!(timeout(Duration::from_millis(5), sandbox.run(other.clone())).await.is_err());
    }
    drop(hog);
    for _ in 0..2 {
        assert_eq!(others.next().await.unwrap().unwrap().value, 1);
    }
}

#[tokio::test]
async fn dropping_the_sandbox_stops_its_threads() {
    for _ in 0..5 {
        let sandbox = crate::start(SandboxCapacity::default().with_threads(3).unwrap());
        let hog = with_limits(FOREVER, |limits| limits.with_timeout(Duration::from_secs(300)).unwrap());
        assert!(timeout(Duration::from_millis(5), sandbox.run(hog)).await.is_err());
        let started = Instant::now();
        drop(sandbox);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn capacity_is_accepted_up_to_both_ends_and_no_further() {
    let capacity = SandboxCapacity::default();
    for (threads, accepted) in [(0, false), (1, true), (128, true), (129, false)] {
        assert_eq!(capacity.with_threads(threads).is_ok(), accepted, "{threads}");
        assert_eq!(capacity.with_threads_per_project(threads).is_ok(), accepted, "{threads}");
    }
    for (steps, accepted) in [(0, false), (1, true), (4_096, true), (4_097, false)] {
        assert_eq!(capacity.with_live_steps(steps).is_ok(), accepted, "{steps}");
    }
    for (queue, accepted) in [(0, false), (1, true), (65_536, true), (65_537, false)] {
        assert_eq!(capacity.with_queue(queue).is_ok(), accepted, "{queue}");
    }
}
