//! The code sandbox in worker processes: everything that holds of it in one process, and what is to be had in several only.
#![expect(clippy::unwrap_used, clippy::panic, reason = "test support")]

#[path = "../sandbox_hostile/attack.rs"]
mod attack;
#[path = "../sandbox/extraction.rs"]
mod extraction;
#[path = "../sandbox/guide.rs"]
mod guide;
#[path = "../sandbox/language.rs"]
mod language;
#[path = "../sandbox/limits.rs"]
mod limits;
#[path = "../sandbox/metering.rs"]
mod metering;
#[path = "../sandbox/platform/mod.rs"]
mod platform;
#[path = "../sandbox_hostile/scripts.rs"]
mod scripts;
#[path = "../sandbox/steps.rs"]
mod steps;
#[path = "../sandbox/store.rs"]
mod store;
#[path = "../sandbox/support.rs"]
mod support;
mod workers;

use std::sync::{Arc, LazyLock};

use ap_runtime::conformance::SandboxHarness;
use ap_runtime::sandbox::process::{ProcessOptions, ProcessSandbox};
use ap_runtime::sandbox::{CodeLimits, CodeSandbox, Metering, SandboxCapacity};
use async_trait::async_trait;

use attack::{NEIGHBOUR, Target, classes};
use support::{NOW, SANDBOX, request, run, run_body, step, thrown};

/// One worker process, so that what is counted is counted in one place.
fn start(capacity: SandboxCapacity) -> Box<dyn CodeSandbox> {
    Box::new(ProcessSandbox::start(options().with_workers(1).unwrap().with_capacity(capacity)).unwrap())
}

#[tokio::test]
async fn the_hostile_suite_is_contained() {
    let target = Target::new(start(attack::capacity()));
    for class in classes() {
        let surprises = target.run(&class).await;
        assert!(surprises.is_empty(), "{surprises:#?}");
        println!("{:>4} {}", class.count(), class.name());
    }
    assert!(target.slowest() < NEIGHBOUR, "another project's step took {:?}", target.slowest());
}

/// The public suite, on worker processes.
struct Timed;

#[async_trait]
impl SandboxHarness for Timed {
    async fn open(&self) -> Arc<dyn CodeSandbox> {
        static ONE: LazyLock<Arc<dyn CodeSandbox>> =
            LazyLock::new(|| Arc::from(start(SandboxCapacity::default().with_threads(4).unwrap())));
        Arc::clone(&ONE)
    }
}

mod timed {
    ap_runtime::sandbox_conformance!(super::Timed);
}

/// The same, counting fuel.
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

/// The program of these tests is not ours to start a second time.
fn options() -> ProcessOptions {
    ProcessOptions::default().with_program(env!("CARGO_BIN_EXE_ap-code-worker"))
}
