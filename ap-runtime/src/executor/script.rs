//! One attempt of a code step: the sandbox, and what its script may use of this host.

use std::{fmt, sync::Arc};

use ap_core::{
    capability::{HttpClient, HttpError, HttpRequest, HttpResponse, NoWayOut},
    flow::{AllowedHosts, CodeLanguage as Language, CodeStep, StepKind, ValidFlow},
    id::{ProjectId, RunId},
    run::{StepError, StepErrorKind},
};
use ap_crypto::{entropy::random_array, redact::Redactor};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::json;

use super::values::StepValues;
use crate::{
    egress::{basic_pair_in, credential::RunCredentials},
    engine::{ActionCall, AttemptOutcome, CodeCall},
    kernel::Kernel,
    sandbox::{
        CodeError, CodeHost, CodeLanguage, CodeLimits, CodeOutput, CodeRequest, ConsoleLevel, ConsoleLine, NoCodeHost,
        StoreCall, StoreCallError,
    },
};

/// The script of a call that is a code step: one that may reach hosts.
pub(crate) fn source_of<'f>(flow: &'f ValidFlow, call: &ActionCall) -> Option<&'f CodeStep> {
    match &flow.step(call.step.as_str())?.kind {
        StepKind::Code(code) => Some(code),
        _ => None,
    }
}

/// What such a call asks of the sandbox.
pub(super) fn outside(code: &CodeStep, call: &ActionCall) -> CodeCall {
    CodeCall {
        path: call.path.clone(),
        attempt: call.attempt,
        source: Arc::clone(&code.source),
        language: code.language,
        params: Arc::clone(&call.input),
        timeout: call.timeout,
    }
}

/// Runs a script, which may reach `hosts` and `values`, if there are any. It is shown the secrets of those connections that an admin
/// revealed to code.
pub(super) async fn run(
    kernel: &Kernel,
    call: &CodeCall,
    ((project, run), hosts, values): ((ProjectId, RunId), Option<&AllowedHosts>, Option<Arc<StepValues>>),
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
        language: sandbox_language(call.language),
        params,
        context: context.to_string().into(),
        now: kernel.clock.now(),
        seed,
        limits,
        host: Arc::new(RunCodeHost::new(kernel, hosts, credentials, values)),
    };
    match sandbox.run(request).await {
        Ok(CodeOutput { value, mut console, console_truncated, .. }) => {
            if console_truncated {
                drop_begun(&mut console, credentials.redactor());
            }
            let console = lines(&console, console_truncated);
            AttemptOutcome::Succeeded { output: Arc::new(value), spilled: None, console }
        }
        Err(error) => failed(without_begun(error, credentials.redactor())),
    }
}

/// Where the sandbox cut a text, half a secret may stand, which nobody would find later.
fn without_begun(mut error: CodeError, redactor: &Redactor) -> CodeError {
    if let CodeError::Thrown { message, stack, console, .. } = &mut error {
        for text in [message, stack] {
            if let Some(cut) = text.trim_end().strip_suffix('…') {
                *text = format!("{}…", redactor.without_begun(cut));
            }
        }
        drop_begun(console, redactor);
    }
    error
}

fn drop_begun(console: &mut [ConsoleLine], redactor: &Redactor) {
    if let Some(last) = console.last_mut() {
        last.text.truncate(redactor.without_begun(&last.text).len());
    }
}

/// What the sandbox calls the language.
pub(crate) const fn sandbox_language(language: Language) -> CodeLanguage {
    match language {
        Language::TypeScript => CodeLanguage::TypeScript,
        _ => CodeLanguage::JavaScript,
    }
}

/// What the scripts of one run may use.
struct RunCodeHost {
    http: Box<dyn HttpClient>,
    credentials: Arc<RunCredentials>,
    values: Option<Arc<StepValues>>,
    /// Whether a request may leave.
    acts: bool,
}

impl RunCodeHost {
    fn new(
        kernel: &Kernel,
        hosts: Option<&AllowedHosts>,
        credentials: &Arc<RunCredentials>,
        values: Option<Arc<StepValues>>,
    ) -> Self {
        let http: Box<dyn HttpClient> = match hosts {
            Some(_) => kernel.egress.for_attempt(credentials, &kernel.entropy, hosts).into_http(),
            None => {
                Box::new(NoWayOut::new("the code of this flow reaches no host: list those it may in `allowedHosts`"))
            }
        };
        Self { http, credentials: Arc::clone(credentials), values, acts: hosts.is_some() }
    }
}

#[async_trait]
impl CodeHost for RunCodeHost {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let headers = request.headers.iter().flat_map(|(name, value)| [name.as_str(), value]);
        let body = request.body.as_deref().map(String::from_utf8_lossy);
        let basic: Vec<_> = request.headers.iter().filter_map(|(_, value)| basic_pair_in(value)).collect();
        let headers = headers.chain(basic.iter().map(String::as_str));
        let texts = headers.chain([request.url.as_str()]).chain(body.as_deref());
        if let Some(name) = texts.filter_map(|text| self.credentials.not_for(FETCH_PIECE, text)).next() {
            let reason = format!("connection `{name}` is not for `{FETCH_PIECE}`, which is what `fetch` counts as");
            return Err(HttpError::Credential { reason });
        }
        if let Some(values) = self.values.as_ref().filter(|_| self.acts) {
            values.acts();
        }
        self.http.send(request).await
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        match &self.values {
            Some(values) => values.call(call, &self.credentials).await,
            None => NoCodeHost.store(call).await,
        }
    }

    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>> {
        self.credentials.key_for_code(placeholder)
    }

    fn mentions(&self, bytes: &[u8]) -> bool {
        self.credentials.mentioned_in(&String::from_utf8_lossy(bytes))
    }

    fn placeholders(&self) -> Vec<String> {
        self.credentials.placeholders().map(str::to_owned).collect()
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.credentials.redactor().redact_bytes(&bytes).into_owned()
    }
}

/// The piece whose connections `fetch` may use.
const FETCH_PIECE: &str = "http";

impl fmt::Debug for RunCodeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunCodeHost").finish_non_exhaustive()
    }
}

fn failed(error: CodeError) -> AttemptOutcome {
    let (error, console) = step_error(error);
    AttemptOutcome::Failed { error, retry_after_ms: None, console }
}

/// What a script fails its step with, and what it wrote before.
pub(super) fn step_error(error: CodeError) -> (StepError, Vec<String>) {
    let kind = match &error {
        CodeError::Busy => StepErrorKind::OutcomeTransient,
        // What acts outside once is not tried again then: whether it has acted is not known.
        CodeError::WorkerLost { .. } => StepErrorKind::Interrupted,
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
    (StepError { kind, message, detail }, console)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_secret_where_a_text_was_cut_is_not_shown() {
        let redactor = Redactor::new([("crm", &"s3cr3t/t0ken".into())]).unwrap();
        let line = |text: &str| ConsoleLine { level: ConsoleLevel::Log, text: text.to_owned() };
        let thrown = |message: &str, stack: &str, console: &[&str]| CodeError::Thrown {
            name: "Error".to_owned(),
            message: message.to_owned(),
            place: None,
            stack: stack.to_owned(),
            console: console.iter().map(|text| line(text)).collect(),
        };
        let error = thrown("key s3cr3t…", "at s3cr3t/t0…\n", &["s3cr3t", "key=s3cr3t/t"]);
        assert_eq!(without_begun(error, &redactor), thrown("key …", "at …", &["s3cr3t", "key="]));
        let whole = thrown("key s3cr3t", "at s3cr3t\n", &[]);
        assert_eq!(without_begun(whole.clone(), &redactor), whole, "nothing was cut");
    }
}
