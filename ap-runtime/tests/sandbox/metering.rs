//! Fuel and computing time.

use std::time::Duration;

use ap_runtime::sandbox::{
    CodeError, CodeLimits, CodeRequest, CodeSandbox as _, Metering, SandboxCapacity, WasmSandbox,
};

use crate::{SANDBOX, request, step};

const SORT: &str = "const list = Array.from({ length: 500 }, (_, i) => (i * 7919) % 500); list.sort((a, b) => a - b); return JSON.stringify(list).length + Math.random();";

fn metered(body: &str, fuel: u64) -> CodeRequest {
    let mut request = request(&step(body), r#"{"a":1}"#);
    request.limits = CodeLimits::default().with_metering(Metering::Fuel(fuel)).unwrap();
    request
}

#[tokio::test]
async fn the_same_step_consumes_the_same_fuel() {
    let mut seen = Vec::new();
    for _ in 0..3 {
        // Another sandbox compiles anew and has other threads and slots.
        let sandbox = WasmSandbox::start(SandboxCapacity::default().with_live_steps(2).unwrap()).unwrap();
        for _ in 0..3 {
            let output = sandbox.run(metered(SORT, 1_000_000_000)).await.unwrap();
            seen.push((output.fuel.unwrap(), output.value.to_string()));
        }
    }
    assert!(seen[0].0 > 10_000, "{seen:?}");
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn fuel_ends_a_step_at_the_same_place_everywhere() {
    let used = SANDBOX.run(metered(SORT, 1_000_000_000)).await.unwrap().fuel.unwrap();
    assert!(SANDBOX.run(metered(SORT, used)).await.is_ok());
    assert_eq!(SANDBOX.run(metered(SORT, used - 1)).await, Err(CodeError::FuelExhausted { limit: used - 1 }));
    let forever = SANDBOX.run(metered("for (;;);", 5_000_000)).await;
    assert_eq!(forever, Err(CodeError::FuelExhausted { limit: 5_000_000 }));
}

#[tokio::test]
async fn without_fuel_none_is_counted() {
    assert_eq!(SANDBOX.run(request(&step("return 1;"), "{}")).await.unwrap().fuel, None);
}

#[tokio::test]
async fn computing_time_is_bounded_apart_from_the_whole_time() {
    let mut request = request(&step("for (;;);"), "{}");
    let limit = Duration::from_millis(20);
    request.limits = CodeLimits::default().with_cpu_time(limit).unwrap();
    assert_eq!(SANDBOX.run(request).await, Err(CodeError::CpuTime { limit }));
}
