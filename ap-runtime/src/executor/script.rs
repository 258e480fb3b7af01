//! One attempt of a code step: the sandbox, and what its script may use of this host.

use std::{fmt, sync::Arc};

use ap_core::{
    capability::{HttpError, HttpRequest, HttpResponse},
    id::{ProjectId, RunId},
    run::{StepError, StepErrorKind},
};
use ap_crypto::entropy::random_array;
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::json;

use crate::{
    egress::credential::RunCredentials,
    engine::{AttemptOutcome, CodeCall},
    kernel::Kernel,
    sandbox::{CodeError, CodeHost, CodeLanguage, CodeLimits, CodeRequest, ConsoleLevel, ConsoleLine},
};

/// Runs a script. It is shown the secrets of those connections that an admin revealed to code.
pub(super) async fn run(
    kernel: &Kernel,
    call: &CodeCall,
    (project, run): (ProjectId, RunId),
    credentials: &Arc<RunCredentials>,
) -> AttemptOutcome {
    let Some(sandbox) = &kernel.sandbox else {
        let message = "this runtime was built without a code sandbox";
        return AttemptOutcome::failed(StepError::new(StepErrorKind::Internal, message), None);
    };
    let (params, seed) = match (serde_json::to_string(&*call.params), random_array(&*kernel.entropy)) {
        (Ok(params), Ok(seed)) => (credentials.revealed(params), seed),
        _ => {
            let message = "the parameters of the script could not be prepared";
            return AttemptOutcome::failed(StepError::new(StepErrorKind::Internal, message), None);
        }
    };
    let context = json!({
        "run": { "id": run.to_string() },
        "step": { "name": call.path.step_name(), "attempt": call.attempt },
    });
    let limits = CodeLimits::default().with_timeout(call.timeout).unwrap_or_default();
    let request = CodeRequest {
        project,
        source: Arc::clone(&call.source),
        language: CodeLanguage::JavaScript,
        params,
        context: context.to_string().into(),
        now: kernel.clock.now(),
        seed,
        limits,
        host: Arc::new(RunCodeHost { credentials: Arc::clone(credentials) }),
    };
    match sandbox.run(request).await {
        Ok(output) => AttemptOutcome::Succeeded {
            output: Arc::new(output.value),
            spilled: None,
            console: lines(&output.console, output.console_truncated),
        },
        Err(error) => failed(error),
    }
}

/// What the scripts of one run may use.
struct RunCodeHost {
    credentials: Arc<RunCredentials>,
}

#[async_trait]
impl CodeHost for RunCodeHost {
    async fn fetch(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Refused { reason: "this flow lets its code reach no host".to_owned() })
    }

    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>> {
        self.credentials.key_for_code(placeholder)
    }

    fn mentions(&self, bytes: &[u8]) -> bool {
        self.credentials.mentioned_in(&String::from_utf8_lossy(bytes))
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.credentials.redactor().redact_bytes(&bytes).into_owned()
    }
}

impl fmt::Debug for RunCodeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunCodeHost").finish_non_exhaustive()
    }
}

fn failed(error: CodeError) -> AttemptOutcome {
    let kind = match &error {
        CodeError::Busy => StepErrorKind::OutcomeTransient,
        CodeError::InvalidParams { .. } => StepErrorKind::Input,
        CodeError::MemoryLimit { .. } => StepErrorKind::MemoryLimit,
        CodeError::CpuTime { .. }
        | CodeError::FuelExhausted { .. }
        | CodeError::HostCallLimit { .. }
        | CodeError::OutputTooDeep { .. }
        | CodeError::OutputTooLarge { .. }
        | CodeError::SourceTooLarge { .. } => StepErrorKind::Limit,
        CodeError::Timeout { .. } => StepErrorKind::Timeout,
        CodeError::Trap { .. } | CodeError::Bug { .. } => StepErrorKind::Internal,
        _ => StepErrorKind::Script,
    };
    let message = error.to_string();
    let (detail, console) = match error {
        CodeError::Thrown { name, place, stack, console, .. } => {
            let (line, column) = place.map(|place| (place.line, place.column)).unzip();
            let detail = json!({ "name": name, "line": line, "column": column, "stack": stack });
            (Some(detail), lines(&console, false))
        }
        _ => (None, Vec::new()),
    };
    AttemptOutcome::Failed { error: StepError { kind, message, detail }, retry_after_ms: None, console }
}

fn lines(console: &[ConsoleLine], truncated: bool) -> Vec<String> {
    let level = |level| match level {
        ConsoleLevel::Debug => "debug",
        ConsoleLevel::Info => "info",
        ConsoleLevel::Log => "log",
        ConsoleLevel::Warn => "warn",
        ConsoleLevel::Error => "error",
    };
    let shown = console.iter().map(|line| format!("{}: {}", level(line.level), line.text));
    shown.chain(truncated.then(|| "… more was cut".to_owned())).collect()
}
