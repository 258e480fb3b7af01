//! The same request gives the same output.

use std::collections::BTreeSet;

use ap_core::time::Timestamp;
use serde_json::{Value, json};

use super::{Bench, NOW, OTHER_PROJECT, SandboxHarness};

/// The same request gives the same output, whenever and how often it is made, and whosever it is.
pub async fn the_same_request_gives_the_same_output(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = r#"
        console.log('now', Date.now(), Math.random());
        const order = [];
        await Promise.all([3, 1, 2].map(async (n) => { for (let i = 0; i < n; i++) await null; order.push(n); }));
        for (const key in { b: 1, a: 2, 1: 3 }) order.push(key);
        return [order, Math.random(), Math.random(), new Date().toISOString(), new Date().getTimezoneOffset(), new Date(0).toString(),
            [3, 1, 2].sort(() => 0), typeof performance === 'undefined' ? null : performance.now(), new Error('x').stack,
            [...'zebra'].sort(), 0.1 + 0.2, Math.sin(1), (1234.5).toString(36)];
    "#;
    let first = bench.run_step(body).await.expect("an output");
    for round in 0..6 {
        let mut request = bench.step(body);
        if round % 2 == 1 {
            request.project = OTHER_PROJECT;
        }
        assert_eq!(bench.run(request).await.as_ref(), Ok(&first), "round {round}");
    }
    let scripts = ["Math.random()", "new Date().getTime()", "[Math.random(), Math.random()]"];
    let values = bench.evaluate(&scripts, &json!({})).await;
    assert_eq!(bench.evaluate(&scripts, &json!({})).await, values);
}

/// Random numbers follow from the seed, look random, and differ from seed to seed.
pub async fn another_seed_gives_other_random_numbers(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let mut seen = BTreeSet::new();
    for seed in [
        [0; 32],
        [1; 32],
        [255; 32],
        std::array::from_fn(|index| u8::from(index == 31)),
        std::array::from_fn(|index| u8::from(index == 0)),
    ] {
        let mut request = bench.step("return [Math.random(), Math.random(), Math.random()];");
        request.seed = seed;
        let value = bench.run(request.clone()).await.expect("numbers").value;
        assert_eq!(bench.run(request).await.map(|output| output.value).as_ref(), Ok(&value));
        let numbers: Vec<f64> = value.as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
        assert!(
            numbers.len() == 3 && numbers.iter().all(|number| (0.0..1.0).contains(number)) && numbers[0] != numbers[1],
            "{numbers:?}"
        );
        seen.insert(value.to_string());
    }
    assert!(seen.len() >= 3, "seeds that differ in bytes of every end give the same numbers: {seen:?}");
}

/// Every clock shows the request's moment in whole milliseconds, and stands still while a step computes.
pub async fn the_clock_stands_at_the_requests_moment(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = r#"
        const first = Date.now();
        for (let i = 0; i < 3e5; i++);
        await null;
        return [first, Date.now(), new Date().getTime(), new Date().getTimezoneOffset()];
    "#;
    let millis = NOW.as_millis();
    assert_eq!(bench.value(body).await, json!([millis, millis, millis, 0]));
    for (micros, shown) in
        [(-1, "1969-12-31T23:59:59.999Z"), (0, "1970-01-01T00:00:00.000Z"), (1_999, "1970-01-01T00:00:00.001Z")]
    {
        let mut request = bench.step("return new Date().toISOString();");
        request.now = Timestamp::from_micros(micros);
        assert_eq!(bench.run(request).await.map(|output| output.value), Ok(json!(shown)));
    }
    let mut request = bench.expressions(&["Date.now()"], &json!({}));
    request.now = Timestamp::from_micros(5_000);
    assert_eq!(super::soon(bench.sandbox.evaluate(request)).await, Ok(vec![Ok(json!(5))]));
}

/// While a step waits for its host the clock may move on; it never goes back.
pub async fn the_clock_does_not_go_back(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = r#"
        const seen = [Date.now()];
        for (let i = 0; i < 5; i++) {
            await new Promise((done) => setTimeout(done, 3));
            seen.push(Date.now());
        }
        return seen.every((time, i) => i === 0 || time >= seen[i - 1]) && seen[5] - seen[0] < 60000;
    "#;
    assert_eq!(bench.value(body).await, json!(true));
}
