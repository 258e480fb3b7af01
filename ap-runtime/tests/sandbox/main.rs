//! The code sandbox, by its public API.
#![cfg(feature = "code")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "test support")]

mod extraction;
mod guide;
mod hostile;
mod language;
mod limits;
mod metering;
mod platform;
mod steps;
mod store;

use std::sync::{Arc, LazyLock};

use ap_core::{id::ProjectId, time::Timestamp};
use ap_runtime::sandbox::{
    CodeError, CodeLanguage, CodeLimits, CodeOutput, CodeRequest, CodeSandbox as _, NoCodeHost, SandboxCapacity,
    WasmSandbox,
};

/// 2026-01-01T00:00:00.123Z and a few microseconds.
const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_123_456);

/// One for the whole test binary, as in a host.
static SANDBOX: LazyLock<WasmSandbox> = LazyLock::new(|| WasmSandbox::start(SandboxCapacity::default()).unwrap());

fn request(source: &str, params: &str) -> CodeRequest {
    CodeRequest {
        project: ProjectId::from_u128(1),
        source: source.into(),
        language: CodeLanguage::JavaScript,
        params: params.to_owned().into(),
        context: r#"{"run":{"id":"run_1"},"step":{"name":"code"}}"#.into(),
        now: NOW,
        seed: [1; 32],
        limits: CodeLimits::default(),
        host: Arc::new(NoCodeHost),
    }
}

async fn run(source: &str) -> Result<CodeOutput, CodeError> {
    SANDBOX.run(request(source, "{}")).await
}

/// Runs `body` as the body of the step's function, given as `params`.
async fn run_body(body: &str) -> Result<CodeOutput, CodeError> {
    run(&step(body)).await
}

fn step(body: &str) -> String {
    format!("export const code = async (params) => {{ {body} }};")
}

#[track_caller]
fn thrown(result: Result<CodeOutput, CodeError>) -> (String, String, String) {
    match result {
        Err(CodeError::Thrown { name, message, stack, .. }) => (name, message, stack),
        other => panic!("the step did not throw: {other:?}"),
    }
}
