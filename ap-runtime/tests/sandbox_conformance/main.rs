//! The public suite for sandboxes, on ours, and on sandboxes that it has to refuse.
#![cfg(feature = "code")]
#![expect(clippy::unwrap_used, reason = "test support")]

mod wrong;

use std::sync::{Arc, LazyLock};

use ap_runtime::conformance::SandboxHarness;
use ap_runtime::sandbox::{CodeLimits, CodeSandbox, Metering, SandboxCapacity, WasmSandbox};
use async_trait::async_trait;

/// One for all rules, as in a host.
static SANDBOX: LazyLock<Arc<WasmSandbox>> = LazyLock::new(|| {
    let capacity = SandboxCapacity::default().with_threads(4).unwrap();
    Arc::new(WasmSandbox::start(capacity).unwrap())
});

/// Computes by the clock, in the layout that the machine has room for: roomy, except under a limit of addresses.
struct Timed;

#[async_trait]
impl SandboxHarness for Timed {
    async fn open(&self) -> Arc<dyn CodeSandbox> {
        Arc::clone(&*SANDBOX) as Arc<dyn CodeSandbox>
    }
}

mod timed {
    ap_runtime::sandbox_conformance!(super::Timed);
}

/// Counts fuel, which the compact layout does.
struct Metered;

#[async_trait]
impl SandboxHarness for Metered {
    async fn open(&self) -> Arc<dyn CodeSandbox> {
        Timed.open().await
    }

    fn limits(&self) -> CodeLimits {
        CodeLimits::default().with_metering(Metering::Fuel(1_000_000_000_000)).unwrap()
    }
}

mod metered {
    ap_runtime::sandbox_conformance!(super::Metered);
}

/// Where the address space is too small for the roomy layout, the compact one computes by the clock, with room for few steps.
#[cfg(target_os = "linux")]
#[test]
fn four_gigabytes_of_addresses_are_enough() {
    use std::{env, process::Command};

    // What may depend on how memory lies.
    let rules = [
        "a_dropped_step_frees_its_place",
        "computing_time_is_bounded",
        "expressions_share_their_limits",
        "memory_is_bounded",
        "nothing_of_the_host_is_in_reach",
        "nothing_stays_for_the_next_step",
        "parameters_must_be_json",
        "steps_at_the_same_time_do_not_meet",
        "steps_that_wait_hold_nobody_up",
        "the_same_request_gives_the_same_output",
        "the_stack_is_bounded",
        "time_is_bounded",
    ];
    let tests = rules.map(|rule| format!("timed::{rule}"));
    let script = "ulimit -v 4000000 && exec \"$0\" --exact \"$@\"";
    let child = Command::new("sh").args(["-c", script]).arg(env::current_exe().unwrap()).args(tests).output().unwrap();
    let printed = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && printed.contains("12 passed"), "{printed}");
}
