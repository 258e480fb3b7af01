//! Sandboxes with one defect each. The suite has to refuse every one, or it proves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_core::{id::ProjectId, time::Timestamp};
use ap_runtime::conformance::{self, SandboxHarness};
use ap_runtime::sandbox::{
    CodeError, CodeHost, CodeLanguage, CodeLimits, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest,
    Metering, StoreCall, StoreCallError,
};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::Value;

use super::SANDBOX;

/// What a sandbox does wrong.
#[derive(Clone, Debug)]
enum Defect {
    /// A limit does not reach the sandbox as it was set.
    Limits(fn(CodeLimits) -> CodeLimits),
    /// What a step left in a global the next one finds.
    LeaksGlobals(Arc<AtomicBool>),
    /// Every run draws random numbers of its own.
    OwnSeed(Arc<AtomicU64>),
    /// The clock shows another time.
    OwnClock,
    /// The thread that polls computes.
    Blocks,
    /// A step goes on when nobody waits for it.
    GoesOn,
    /// Requests go out without the host.
    OwnWayOut,
    /// A step gets secrets instead of placeholders.
    ShowsSecrets,
    /// What does not compile is found when it is run.
    ChecksNothing,
    /// Errors have no place.
    NoPlaces,
    /// TypeScript is run as if it were JavaScript.
    IgnoresTypes,
    /// An error of one expression is the end of all.
    EndsTogether,
    /// `undefined` is `null`.
    NoValueIsNull,
    /// What was logged is lost.
    NoConsole,
    /// Fuel is not counted, and nobody is told.
    NoFuel,
    /// Results are cut instead of refused.
    CutsResults,
}

#[derive(Clone, Debug)]
struct Wrong(Defect);

#[async_trait]
impl SandboxHarness for Wrong {
    async fn open(&self) -> Arc<dyn CodeSandbox> {
        Arc::new(self.clone())
    }

    fn counts_fuel(&self) -> bool {
        !matches!(self.0, Defect::NoFuel)
    }
}

#[async_trait]
impl CodeSandbox for Wrong {
    async fn check(&self, project: ProjectId, unit: CodeUnit) -> Result<(), CodeError> {
        match (&self.0, unit) {
            (Defect::ChecksNothing, _) => Ok(()),
            (Defect::IgnoresTypes, CodeUnit::Module { source, .. }) => {
                SANDBOX.check(project, CodeUnit::Module { source, language: CodeLanguage::JavaScript }).await
            }
            (_, unit) => SANDBOX.check(project, unit).await.map_err(|error| self.mend_error(error)),
        }
    }

    async fn run(&self, mut request: CodeRequest) -> Result<CodeOutput, CodeError> {
        let mut leaks = false;
        match &self.0 {
            Defect::Limits(set) => request.limits = set(request.limits),
            Defect::LeaksGlobals(left) => {
                leaks = request.source.contains("globalThis.left =");
                if left.load(Ordering::SeqCst) {
                    request.source = format!("globalThis.left = 'behind'; {}", request.source).into();
                }
            }
            Defect::OwnSeed(drawn) => {
                request.seed[..8].copy_from_slice(&drawn.fetch_add(1, Ordering::SeqCst).to_le_bytes())
            }
            Defect::OwnClock => request.now = Timestamp::from_micros(1_000_000),
            Defect::OwnWayOut => request.host = Arc::new(Open),
            Defect::ShowsSecrets => {
                let text = String::from_utf8_lossy(&request.params).into_owned();
                let placeholder = "apcred_dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z_0Me0";
                request.params = text.replace(placeholder, "correct horse battery staple 0042").into();
            }
            Defect::IgnoresTypes => request.language = CodeLanguage::JavaScript,
            Defect::NoFuel => request.limits = request.limits.with_metering(Metering::Clock).unwrap(),
            Defect::CutsResults => request.limits = request.limits.with_output_bytes(16 << 20).unwrap(),
            _ => {}
        }
        let limit = request.limits.output_bytes();
        let result = match &self.0 {
            Defect::Blocks => {
                let blocked = thread::spawn(move || conformance::block_on(SANDBOX.run(request)));
                blocked.join().unwrap()
            }
            Defect::GoesOn => tokio::spawn(SANDBOX.run(request)).await.unwrap(),
            _ => SANDBOX.run(request).await,
        };
        if let (Defect::LeaksGlobals(left), true) = (&self.0, leaks) {
            left.store(true, Ordering::SeqCst);
        }
        let mut result = result.map_err(|error| self.mend_error(error));
        if let (Defect::NoConsole, Ok(output)) = (&self.0, &mut result) {
            output.console.clear();
        }
        if let (Defect::CutsResults, Ok(output)) = (&self.0, &mut result)
            && output.value.to_string().len() > limit.min(1_000)
        {
            output.value = Value::Null;
        }
        result
    }

    async fn evaluate(&self, mut request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        if let Defect::Limits(set) = &self.0 {
            request.limits = set(request.limits);
        }
        let results = SANDBOX.evaluate(request).await?;
        match self.0 {
            Defect::EndsTogether => results.into_iter().map(|result| result.map(Ok)).collect(),
            Defect::NoValueIsNull => {
                let null = |result| if result == Err(CodeError::NoValue) { Ok(Value::Null) } else { result };
                Ok(results.into_iter().map(null).collect())
            }
            _ => Ok(results),
        }
    }
}

impl Wrong {
    fn mend_error(&self, error: CodeError) -> CodeError {
        match (&self.0, error) {
            (Defect::NoPlaces, CodeError::Thrown { name, message, stack, console, .. }) => {
                CodeError::Thrown { name, message, place: None, stack, console }
            }
            (Defect::NoPlaces, CodeError::InvalidSource { message, .. }) => {
                CodeError::InvalidSource { message, place: None }
            }
            (Defect::NoConsole, CodeError::Thrown { name, message, place, stack, .. }) => {
                CodeError::Thrown { name, message, place, stack, console: Vec::new() }
            }
            (_, error) => error,
        }
    }
}

/// Answers everything, whoever asks.
#[derive(Debug)]
struct Open;

#[async_trait]
impl CodeHost for Open {
    async fn fetch(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Ok(HttpResponse { status: 200, headers: Vec::new(), body: "from the network".into(), redirected_to: None })
    }

    fn key(&self, _: &str) -> Option<Result<SecretString, HttpError>> {
        None
    }

    fn mentions(&self, _: &[u8]) -> bool {
        false
    }

    fn placeholders(&self) -> Vec<String> {
        Vec::new()
    }

    async fn store(&self, _: StoreCall) -> Result<Option<String>, StoreCallError> {
        Ok(None)
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// Each defect, by rules that must see it.
macro_rules! refused {
    ($($name:ident: $defect:expr => $($rule:ident),+;)+) => {$(
        #[test]
        fn $name() {
            $({
                let harness = Wrong($defect);
                let ended = thread::spawn(move || conformance::block_on(conformance::$rule(&harness))).join();
                assert!(ended.is_err(), "{} held, though {}", stringify!($rule), stringify!($name));
            })+
        }
    )+};
}

refused! {
    globals_leak: Defect::LeaksGlobals(Arc::default()) => nothing_stays_for_the_next_step;
    the_seed_is_not_used: Defect::OwnSeed(Arc::default()) => the_same_request_gives_the_same_output, another_seed_gives_other_random_numbers;
    the_clock_is_another: Defect::OwnClock => the_clock_stands_at_the_requests_moment;
    the_polling_thread_computes: Defect::Blocks => a_step_does_not_block_who_polls_it, the_host_is_called_where_the_step_is_polled;
    steps_outlive_their_futures: Defect::GoesOn => a_dropped_step_drops_its_host_calls;
    requests_go_out_without_the_host: Defect::OwnWayOut => a_refusal_of_the_host_is_thrown, a_refusal_of_the_store_is_thrown, nothing_of_the_host_is_in_reach,
        a_request_goes_to_the_host_as_it_was_made;
    secrets_are_shown: Defect::ShowsSecrets => a_placeholder_is_text, a_placeholder_is_a_key_and_nothing_else;
    nothing_is_checked: Defect::ChecksNothing => a_source_that_does_not_parse_names_its_place, checking_names_the_place,
        checking_and_running_agree, an_expression_is_one_expression;
    errors_have_no_place: Defect::NoPlaces => a_thrown_error_says_what_and_where, a_source_that_does_not_parse_names_its_place;
    types_are_ignored: Defect::IgnoresTypes => types_are_removed;
    expressions_end_together: Defect::EndsTogether => each_expression_ends_for_itself;
    no_value_is_null: Defect::NoValueIsNull => an_expression_without_a_value_says_so;
    the_console_is_lost: Defect::NoConsole => console_lines_keep_their_level_and_order, a_thrown_error_keeps_what_was_logged;
    fuel_is_not_counted_in_silence: Defect::NoFuel => fuel_is_bounded, fuel_is_the_same_in_every_run;
    results_are_cut: Defect::CutsResults => the_length_of_a_result_is_bounded;
    a_timeout_is_forgotten: Defect::Limits(|limits| limits.with_timeout(Duration::from_secs(1)).unwrap()) => time_is_bounded,
        waiting_is_bounded_by_the_time;
    computing_time_is_forgotten: Defect::Limits(|limits| {
        limits.with_cpu_time(Duration::from_secs(10)).and_then(|limits| limits.with_timeout(Duration::from_secs(1))).unwrap()
    }) => computing_time_is_bounded;
    memory_is_forgotten: Defect::Limits(|limits| limits.with_memory_bytes(64 << 20).unwrap()) => memory_is_bounded;
    the_length_of_results_is_forgotten: Defect::Limits(|limits| limits.with_output_bytes(16 << 20).unwrap()) =>
        the_length_of_a_result_is_bounded, expressions_share_their_limits;
    the_length_of_sources_is_forgotten: Defect::Limits(|limits| limits.with_source_bytes(1 << 20).unwrap()) =>
        the_length_of_a_source_is_bounded, expressions_share_their_limits;
    host_calls_are_not_counted: Defect::Limits(|limits| limits.with_host_calls(10_000).unwrap()) => host_calls_are_bounded;
    the_console_is_not_bounded: Defect::Limits(|limits| limits.with_console_bytes(1 << 20).unwrap()) => console_text_is_bounded;
    fuel_is_forgotten: Defect::Limits(|limits| limits.with_metering(Metering::Clock).unwrap()) => fuel_is_bounded;
}
