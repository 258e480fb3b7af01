//! What the tests of every sandbox share. The root of each test program says which one it is, with `start`.

use std::sync::{Arc, LazyLock};

use ap_core::{id::ProjectId, time::Timestamp};
use ap_runtime::sandbox::{
    CodeError, CodeLanguage, CodeLimits, CodeOutput, CodeRequest, CodeSandbox, NoCodeHost, SandboxCapacity,
};

/// 2026-01-01T00:00:00.123Z and a few microseconds.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_123_456);

/// One for the whole test binary, as in a host.
pub(crate) static SANDBOX: LazyLock<Box<dyn CodeSandbox>> = LazyLock::new(|| crate::start(SandboxCapacity::default()));

pub(crate) fn request(source: &str, params: &str) -> CodeRequest {
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

pub(crate) async fn run(source: &str) -> Result<CodeOutput, CodeError> {
    SANDBOX.run(request(source, "{}")).await
}

/// Runs `body` as the body of the step's function, given as `params`.
pub(crate) async fn run_body(body: &str) -> Result<CodeOutput, CodeError> {
    run(&step(body)).await
}

pub(crate) fn step(body: &str) -> String {
    format!("export const code = async (params) => {{ {body} }};")
}

#[track_caller]
pub(crate) fn thrown(result: Result<CodeOutput, CodeError>) -> (String, String, String) {
    match result {
        Err(CodeError::Thrown { name, message, stack, .. }) => (name, message, stack),
        other => panic!("the step did not throw: {other:?}"),
    }
}
