//! The code sandbox, by its public API. `tests/sandbox_hostile` attacks it; `tests/sandbox_process` runs the tests of both in
//! worker processes.
#![cfg(feature = "code")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "test support")]

mod collector;
mod extraction;
mod guide;
mod language;
mod limits;
mod metering;
mod platform;
mod steps;
mod store;
mod support;

use ap_runtime::sandbox::{CodeSandbox, SandboxCapacity, WasmSandbox};

use support::{NOW, SANDBOX, request, run, run_body, step, thrown};

fn start(capacity: SandboxCapacity) -> Box<dyn CodeSandbox> {
    Box::new(WasmSandbox::start(capacity).unwrap())
}
