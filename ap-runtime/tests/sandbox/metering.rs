//! Fuel and computing time.

use ap_runtime::sandbox::{CodeLimits, CodeRequest, Metering, SandboxCapacity};

use crate::{request, step};

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
        let sandbox = crate::start(SandboxCapacity::default().with_live_steps(2).unwrap());
        for _ in 0..3 {
            let output = sandbox.run(metered(SORT, 1_000_000_000)).await.unwrap();
            seen.push((output.fuel.unwrap(), output.value.to_string()));
        }
    }
    assert!(seen[0].0 > 10_000, "{seen:?}");
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
}
