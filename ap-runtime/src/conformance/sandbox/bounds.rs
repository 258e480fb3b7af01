//! Every limit ends its step with its own error, and the next step works.

use std::time::Duration;

use serde_json::json;

use super::{Bench, SandboxHarness, host::Peer, thrown};
use crate::sandbox::{CodeError, CodeLimits, CodeOutput, CodeRequest, Metering};

impl Bench {
    /// A step whose limits are changed by `set`.
    fn limited(
        &self,
        body: &str,
        set: impl FnOnce(CodeLimits) -> Result<CodeLimits, crate::sandbox::CodeLimitError>,
    ) -> CodeRequest {
        let mut request = self.step(body);
        request.limits = set(request.limits).expect("limits that are accepted");
        request
    }
}

/// A step that computes for longer than its time ends there, whatever it computes.
pub async fn time_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let limit = Duration::from_millis(150);
    for body in [
        "while (true) {}",
        "while (true) { try { while (true) {} } catch {} finally { continue } }",
        "const again = () => Promise.resolve().then(again); await again();",
        "return /^(a+)+$/.test('a'.repeat(40) + '!');",
        "return { get a() { while (true); } };",
        "return { then() { while (true); } };",
        "throw { get message() { while (true); } };",
        "const end = Date.now() + 1000; while (Date.now() < end);",
    ] {
        let result = bench.run(bench.limited(body, |limits| limits.with_timeout(limit))).await;
        assert_eq!(result, Err(CodeError::Timeout { limit }), "{body}");
    }
    let mut module = bench.request("while (true) {} export const code = () => 1;");
    module.limits = module.limits.with_timeout(limit).expect("an accepted limit");
    assert_eq!(bench.run(module).await, Err(CodeError::Timeout { limit }));
    bench.still_works("steps that compute without end").await;
}

/// What a step waits for counts: a timer or an answer that comes too late ends it as a loop would.
pub async fn waiting_is_bounded_by_the_time(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let limit = Duration::from_millis(100);
    for body in [
        "await new Promise((done) => setTimeout(done, 3600000));",
        "await fetch('https://a.example/never');",
        "for (;;) await new Promise((done) => setTimeout(done, 1));",
    ] {
        let mut request = bench.limited(body, |limits| limits.with_timeout(limit)?.with_host_calls(1_000_000));
        request.host = Peer::new();
        assert_eq!(bench.run(request).await, Err(CodeError::Timeout { limit }), "{body}");
    }
    bench.still_works("steps that wait without end").await;
}

/// The time a step computes is bounded apart from the whole time, and what it waits for does not count.
pub async fn computing_time_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let limit = Duration::from_millis(100);
    for body in ["for (;;);", "await new Promise((done) => setTimeout(done, 1)); for (;;);"] {
        let request = bench.limited(body, |limits| limits.with_cpu_time(limit));
        assert_eq!(bench.run(request).await, Err(CodeError::CpuTime { limit }), "{body}");
    }
    let waits = "await new Promise((done) => setTimeout(done, 400)); return 'waited';";
    let output = bench.run(bench.limited(waits, |limits| limits.with_cpu_time(limit * 3))).await;
    assert_eq!(output.map(|output| output.value), Ok(json!("waited")));
    bench.still_works("steps that compute for too long").await;
}

/// A step that keeps more than its memory ends for that, by whatever it is filled.
pub async fn memory_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let limit_bytes = 16 << 20;
    for body in [
        "const all = []; for (let i = 0; i < 1000; i++) all.push(new Uint8Array(1 << 20).fill(7)); return all.length;",
        "const all = []; for (let i = 0; i < 1e8; i++) all.push({ i, text: 'number ' + i }); return all.length;",
        "let list = null; for (let i = 0; i < 1e8; i++) list = { list }; return 1;",
        "const kept = []; for (let i = 0; i < 1e4; i++) kept.push(('x' + i).repeat(1e5).split('').join('y')); return kept.length;",
        "const map = new Map(); for (let i = 0; i < 1e8; i++) map.set(i, [i]); return map.size;",
    ] {
        let request = bench.limited(body, |limits| limits.with_memory_bytes(limit_bytes));
        assert_eq!(bench.run(request).await, Err(CodeError::MemoryLimit { limit_bytes }), "{body}");
    }
    let mut large = bench.limited("return params.length;", |limits| limits.with_memory_bytes(limit_bytes));
    large.params = json!("x".repeat(2 * limit_bytes)).to_string().into();
    assert_eq!(bench.run(large).await, Err(CodeError::MemoryLimit { limit_bytes }), "parameters are part of it");
    let enough = "return new Uint8Array(4 << 20).fill(1).length;";
    let output = bench.run(bench.limited(enough, |limits| limits.with_memory_bytes(limit_bytes))).await;
    assert_eq!(output.map(|output| output.value), Ok(json!(4 << 20)));
    bench.still_works("steps that fill their memory").await;
}

/// Calls that nest without end are an exception in the step, or end it; so does a source that nests without end.
pub async fn the_stack_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for body in [
        "const f = (n) => f(n + 1) + 1; return f(0);",
        "const o = { toString() { return `${o}`; } }; return `${o}`;",
        "const o = { toJSON: () => ({ o }) }; return o;",
        "return JSON.parse('['.repeat(1e6));",
        "return eval('('.repeat(1e6));",
        "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a.flat(Infinity);",
        "return new RegExp('('.repeat(2e5) + ')'.repeat(2e5)).test('');",
    ] {
        let result = bench.run_step(body).await;
        assert!(matches!(result, Err(CodeError::Thrown { .. } | CodeError::StackExhausted)), "{body}: {result:?}");
    }
    let caught = bench.run_step("const f = () => f() + 1; try { f(); } catch (error) { return error.name; }").await;
    assert!(matches!(caught, Ok(CodeOutput { .. }) | Err(CodeError::StackExhausted)), "{caught:?}");
    for opening in ["(", "[", "{", "`${", "a=>", "class{["] {
        let result = bench.run(bench.request(&opening.repeat(100_000 / opening.len()))).await;
        assert!(
            matches!(result, Err(CodeError::InvalidSource { .. } | CodeError::StackExhausted)),
            "{opening}: {result:?}"
        );
    }
    bench.still_works("calls that nest without end").await;
}

/// A result is accepted up to its length in bytes of UTF-8, and one byte more is too long.
pub async fn the_length_of_a_result_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let limit_bytes = 1_000;
    // Two quotation marks are part of the text, and `ä` has two bytes.
    for (body, length) in [("return 'x'.repeat(params);", 998), ("return 'ä'.repeat(params);", 499)] {
        for (length, accepted) in [(length - 1, true), (length, true), (length + 1, false)] {
            let mut request = bench.limited(body, |limits| limits.with_output_bytes(limit_bytes));
            request.params = length.to_string().into();
            let result = bench.run(request).await.map(|_| ());
            let expected = if accepted { Ok(()) } else { Err(CodeError::OutputTooLarge { limit_bytes }) };
            assert_eq!(result, expected, "{body} {length}");
        }
    }
    let huge =
        bench.run(bench.limited("return 'x'.repeat(1e7);", |limits| limits.with_output_bytes(limit_bytes))).await;
    assert_eq!(huge, Err(CodeError::OutputTooLarge { limit_bytes }));
    bench.still_works("results that are too long").await;
}

/// A result that nests 100 deep is accepted, and one more is too deep, or beyond the engine's stack.
pub async fn the_depth_of_a_result_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = "let value = []; for (let i = 1; i < params; i++) value = [value]; return value;";
    for (depth, accepted) in [(99, true), (100, true), (101, false), (1_000, false), (50_000, false)] {
        let mut request = bench.step(body);
        request.params = depth.to_string().into();
        let result = bench.run(request).await;
        let as_expected = match &result {
            Ok(_) => accepted,
            Err(CodeError::OutputTooDeep { limit: 100 }) => !accepted,
            Err(CodeError::StackExhausted | CodeError::Thrown { .. }) => depth > 1_000,
            Err(_) => false,
        };
        assert!(as_expected, "{depth}: {result:?}");
    }
    bench.still_works("results that are too deep").await;
}

/// A source is accepted up to its length in bytes, and one byte more is refused before anything is done with it.
pub async fn the_length_of_a_source_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let limit_bytes = 2_000;
    for (length, accepted) in [(limit_bytes - 1, true), (limit_bytes, true), (limit_bytes + 1, false)] {
        let mut request = bench.limited("return 1;", |limits| limits.with_source_bytes(limit_bytes));
        request.source = format!("{}{}", request.source, " ".repeat(length - request.source.len())).into();
        let result = bench.run(request).await.map(|output| output.value);
        let expected = if accepted { Ok(json!(1)) } else { Err(CodeError::SourceTooLarge { limit_bytes }) };
        assert_eq!(result, expected, "{length}");
    }
    // Checks have no limits of their own: those of the default hold.
    let limit_bytes = CodeLimits::default().source_bytes();
    let unit = |length: usize| crate::sandbox::CodeUnit::Expression(format!("1{}", " ".repeat(length - 1)).into());
    assert_eq!(bench.check(unit(limit_bytes)).await, Ok(()));
    assert_eq!(bench.check(unit(limit_bytes + 1)).await, Err(CodeError::SourceTooLarge { limit_bytes }));
}

/// Calls of the host are counted, and so are those that are under way at a time.
pub async fn host_calls_are_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = "for (let i = 0; i < params; i++) await fetch('https://a.example/' + i); return 'all';";
    // What else a request needs of the host may count as well: a few calls each.
    for (requests, expected) in
        [(5, Ok(json!("all"))), (21, Err(CodeError::HostCallLimit { what: "host calls", limit: 20 }))]
    {
        let mut request = bench.limited(body, |limits| limits.with_host_calls(20));
        let peer = Peer::new();
        (request.params, request.host) = (requests.to_string().into(), peer.clone());
        assert_eq!(bench.run(request).await.map(|output| output.value), expected, "{requests}");
        assert!(peer.requests().len() <= 20, "the host was called more often than the step may");
    }
    // A storm of timers, each of which begins two more: whichever limit stops it, it is not the time.
    let storm =
        "const again = () => { setTimeout(again, 0); setTimeout(again, 0); }; again(); await new Promise(() => {});";
    let set = |limits: CodeLimits| limits.with_host_calls(2_000)?.with_timeout(Duration::from_secs(60));
    let result = bench.run(bench.limited(storm, set)).await;
    assert!(matches!(result, Err(CodeError::HostCallLimit { .. } | CodeError::Thrown { .. })), "{result:?}");
    bench.still_works("too many calls of the host").await;
}

/// A step that waits for a promise which nothing can settle ends at once, and says so.
pub async fn a_promise_that_nothing_settles_ends_its_step(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    for body in ["await new Promise(() => {});", "return new Promise(() => {});", "return { then() {} };"] {
        let result = bench.run(bench.limited(body, |limits| limits.with_timeout(Duration::from_secs(600)))).await;
        assert_eq!(result, Err(CodeError::Unsettled), "{body}");
    }
    let top = bench.run(bench.request("await new Promise(() => {}); export const code = () => 1;")).await;
    assert_eq!(top, Err(CodeError::Unsettled), "at the top of a module");
}

/// A step that uses up its fuel ends there, and just enough is enough. A sandbox that counts none refuses to run on fuel.
pub async fn fuel_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let metered = |body: &str, fuel| bench.limited(body, |limits| limits.with_metering(Metering::Fuel(fuel)));
    if !harness.counts_fuel() {
        let refused = bench.run(metered(SORT, 1_000_000_000)).await;
        assert!(matches!(refused, Err(CodeError::Unsupported { .. })), "without fuel there is no bound: {refused:?}");
        return;
    }
    let used = bench.run(metered(SORT, 1_000_000_000)).await.expect("enough fuel").fuel.expect("it was counted");
    assert!(bench.run(metered(SORT, used)).await.is_ok(), "all of it may be used");
    assert_eq!(bench.run(metered(SORT, used - 1)).await, Err(CodeError::FuelExhausted { limit: used - 1 }));
    let forever = bench.run(metered("for (;;);", 5_000_000)).await;
    assert_eq!(forever, Err(CodeError::FuelExhausted { limit: 5_000_000 }));
    let caught = bench.run(metered("for (;;) { try { for (;;); } catch {} }", 5_000_000)).await;
    assert_eq!(caught, Err(CodeError::FuelExhausted { limit: 5_000_000 }));
    let (_, message) = thrown(bench.run(metered("throw new Error('mine')", 1_000_000_000)).await, "a metered step");
    assert_eq!(message, "mine");
    let clock = bench.limited("return 1;", |limits| limits.with_metering(Metering::Clock));
    assert_eq!(bench.run(clock).await.map(|output| output.fuel), Ok(None), "none is counted that was not asked for");
    bench.still_works("steps without fuel").await;
}

/// The same step consumes the same fuel every time, and other parameters may make it consume other amounts.
pub async fn fuel_is_the_same_in_every_run(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    if !harness.counts_fuel() {
        return fuel_is_bounded(harness).await; // it must say so
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let output = bench.run(bench.limited(SORT, |limits| limits.with_metering(Metering::Fuel(1_000_000_000)))).await;
        seen.insert(output.expect("enough fuel").fuel);
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    let loops = bench.limited("for (let i = 0; i < 1e5; i++); return 1;", |limits| {
        limits.with_metering(Metering::Fuel(1_000_000_000))
    });
    let once = bench.run(loops).await.expect("enough fuel").fuel;
    assert!(!seen.contains(&once), "another step has other needs");
}

const SORT: &str = "const list = Array.from({ length: 500 }, (_, i) => (i * 7919) % 500); list.sort((a, b) => a - b); return JSON.stringify(list).length + Math.random();";
