//! Rules for [`CodeSandbox`]: isolation, bounds, determinism, threads of its own, and the language that authors were promised.
//!
//! Scripts really run, so these rules take real time: most a few milliseconds, those for bounds up to a second.

mod bounds;
mod cancel;
mod check;
mod console;
mod determinism;
mod expression;
mod failure;
mod host;
mod isolation;
mod result;

use std::sync::Arc;
use std::time::Duration;

use ap_core::{id::ProjectId, time::Timestamp};
use async_trait::async_trait;
use serde_json::Value;
use tokio::time::timeout;

pub use self::{
    bounds::*, cancel::*, check::*, console::*, determinism::*, expression::*, failure::*, host::*, isolation::*,
    result::*,
};
use crate::sandbox::{
    CodeError, CodeLanguage, CodeLimits, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest, NoCodeHost,
};

/// Gives each rule a sandbox, and says what this one cannot do.
///
/// Nothing is skipped in silence: where a sandbox says that it cannot do something, the rule asks that it refuses the request
/// as [`CodeError::Unsupported`] instead of doing something else.
#[async_trait]
pub trait SandboxHarness: Sync {
    /// Opens a sandbox that is ready to run. All rules may share one, also at the same time.
    async fn open(&self) -> Arc<dyn CodeSandbox>;

    /// What the limits of every request start from, so that the suite can be run under another metering. Default:
    /// [`CodeLimits::default`].
    fn limits(&self) -> CodeLimits {
        CodeLimits::default()
    }

    /// Whether it counts fuel ([`Metering::Fuel`](crate::sandbox::Metering::Fuel)). Default: it does.
    fn counts_fuel(&self) -> bool {
        true
    }

    /// Whether it takes TypeScript. Default: it does.
    fn takes_typescript(&self) -> bool {
        true
    }

    /// Whether steps have `require('crypto')`, whose functions take placeholders as keys. If not, `require('crypto')` has to
    /// throw. Default: they have.
    fn has_crypto(&self) -> bool {
        true
    }
}

/// A sandbox under test, with what its requests start from.
struct Bench {
    sandbox: Arc<dyn CodeSandbox>,
    limits: CodeLimits,
}

impl Bench {
    async fn open(harness: &impl SandboxHarness) -> Self {
        Self { sandbox: harness.open().await, limits: harness.limits() }
    }

    /// A request to run the module `source`.
    fn request(&self, source: &str) -> CodeRequest {
        CodeRequest {
            project: PROJECT,
            source: source.into(),
            language: CodeLanguage::JavaScript,
            params: "{}".into(),
            context: r#"{"run":{"id":"run_1"},"step":{"name":"code"}}"#.into(),
            now: NOW,
            seed: [1; 32],
            limits: self.limits.clone(),
            host: Arc::new(NoCodeHost),
        }
    }

    /// A request to run `body` as the body of the step's function.
    fn step(&self, body: &str) -> CodeRequest {
        self.request(&module(body))
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        soon(self.sandbox.run(request)).await
    }

    async fn run_step(&self, body: &str) -> Result<CodeOutput, CodeError> {
        self.run(self.step(body)).await
    }

    /// The value that the body of a step returns.
    async fn value(&self, body: &str) -> Value {
        match self.run_step(body).await {
            Ok(output) => output.value,
            Err(error) => panic!("{error}: {body}"),
        }
    }

    async fn check(&self, unit: CodeUnit) -> Result<(), CodeError> {
        soon(self.sandbox.check(PROJECT, unit)).await
    }

    fn expressions(&self, expressions: &[&str], variables: &Value) -> ExpressionRequest {
        ExpressionRequest {
            project: PROJECT,
            expressions: expressions.iter().map(|text| Arc::from(*text)).collect(),
            variables: variables.to_string().into(),
            now: NOW,
            seed: [1; 32],
            limits: self.limits.clone(),
        }
    }

    async fn evaluate(&self, expressions: &[&str], variables: &Value) -> Vec<Result<Value, CodeError>> {
        let results = soon(self.sandbox.evaluate(self.expressions(expressions, variables))).await;
        let results = results.unwrap_or_else(|error| panic!("nothing was evaluated: {error}"));
        assert_eq!(results.len(), expressions.len(), "one result for each expression");
        results
    }

    /// What went before harms nobody: a step of the same project and one of another work.
    async fn still_works(&self, after: &str) {
        for project in [PROJECT, OTHER_PROJECT] {
            let mut request = self.request("export const code = (params) => params.map((x) => x * 2).join();");
            (request.project, request.params) = (project, "[1,2]".into());
            let output = self.run(request).await;
            assert_eq!(output.map(|output| output.value), Ok(Value::from("2,4")), "after {after}");
        }
    }
}

/// The source of a module whose function has this body.
fn module(body: &str) -> String {
    format!("export const code = async (params, ctx) => {{ {body} }};")
}

fn unit(source: &str, language: CodeLanguage) -> CodeUnit {
    CodeUnit::Module { source: source.into(), language }
}

/// Name and message of what a step threw.
#[track_caller]
fn thrown<T: std::fmt::Debug>(result: Result<T, CodeError>, what: &str) -> (String, String) {
    match result {
        Err(CodeError::Thrown { name, message, .. }) => (name, message),
        other => panic!("{what} did not throw, but: {other:?}"),
    }
}

async fn soon<F: Future>(what: F) -> F::Output {
    timeout(SOON, what).await.expect("the sandbox kept its caller waiting")
}

/// 2026-01-01T00:00:00.123Z and a few microseconds.
const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_123_456);

const PROJECT: ProjectId = ProjectId::from_u128(1);
const OTHER_PROJECT: ProjectId = ProjectId::from_u128(2);

/// How long anything may take on a busy machine. A rule that holds does not wait that long.
const SOON: Duration = Duration::from_secs(60);

/// Runs a [`CodeSandbox`] through every rule, one `#[test]` per rule; takes a [`SandboxHarness`].
///
/// # Examples
/// ```
/// # #[cfg(feature = "code")]
/// # mod example {
/// use std::sync::{Arc, LazyLock};
/// use ap_runtime::{conformance::SandboxHarness, sandbox::{CodeSandbox, SandboxCapacity, WasmSandbox}};
///
/// struct Wasm;
///
/// static SANDBOX: LazyLock<Arc<WasmSandbox>> =
///     LazyLock::new(|| Arc::new(WasmSandbox::start(SandboxCapacity::default()).expect("it starts")));
///
/// #[async_trait::async_trait]
/// impl SandboxHarness for Wasm {
///     async fn open(&self) -> Arc<dyn CodeSandbox> {
///         Arc::clone(&*SANDBOX) as Arc<dyn CodeSandbox>
///     }
/// }
///
/// ap_runtime::sandbox_conformance!(Wasm);
/// # }
/// ```
#[macro_export]
macro_rules! sandbox_conformance {
    ($harness:expr) => {
        $crate::__conformance_tests! { $harness;
            // result
            a_step_is_the_function_that_its_module_exports,
            a_module_without_a_function_is_refused,
            a_step_gets_its_parameters_and_its_context,
            results_are_what_json_says,
            what_json_cannot_say_is_an_error,
            parameters_must_be_json,
            // failure
            a_thrown_error_says_what_and_where,
            anything_can_be_thrown,
            texts_of_an_error_are_bounded,
            a_thrown_error_keeps_what_was_logged,
            a_source_that_does_not_parse_names_its_place,
            // isolation
            nothing_stays_for_the_next_step,
            steps_at_the_same_time_do_not_meet,
            modules_are_fresh_for_every_step,
            nothing_of_the_host_is_in_reach,
            // bounds
            time_is_bounded,
            waiting_is_bounded_by_the_time,
            computing_time_is_bounded,
            memory_is_bounded,
            the_stack_is_bounded,
            the_length_of_a_result_is_bounded,
            the_depth_of_a_result_is_bounded,
            the_length_of_a_source_is_bounded,
            host_calls_are_bounded,
            a_promise_that_nothing_settles_ends_its_step,
            fuel_is_bounded,
            fuel_is_the_same_in_every_run,
            // determinism
            the_same_request_gives_the_same_output,
            another_seed_gives_other_random_numbers,
            the_clock_stands_at_the_requests_moment,
            the_clock_does_not_go_back,
            // cancel
            a_step_does_not_block_who_polls_it,
            a_dropped_step_frees_its_place,
            a_dropped_step_drops_its_host_calls,
            dropped_expressions_stop,
            steps_that_wait_hold_nobody_up,
            // host
            a_request_goes_to_the_host_as_it_was_made,
            an_answer_comes_back_as_it_was_given,
            requests_may_be_under_way_together,
            a_refusal_of_the_host_is_thrown,
            an_aborted_request_is_dropped,
            the_host_is_called_where_the_step_is_polled,
            calls_of_the_store_reach_the_host_in_order,
            a_refusal_of_the_store_is_thrown,
            a_placeholder_is_text,
            a_placeholder_is_a_key_and_nothing_else,
            what_a_key_decrypts_is_masked,
            // expression
            expressions_give_typed_values,
            an_expression_without_a_value_says_so,
            each_expression_ends_for_itself,
            each_expression_has_variables_of_its_own,
            what_is_evaluated_leaves_nothing_behind,
            expressions_have_no_host,
            expressions_share_their_limits,
            variables_must_be_json,
            // check
            checking_runs_nothing,
            checking_names_the_place,
            checking_and_running_agree,
            an_expression_is_one_expression,
            types_are_removed,
            errors_in_typescript_name_the_authors_line,
            // console
            console_lines_keep_their_level_and_order,
            console_text_is_bounded,
            console_values_harm_nobody
        }
    };
}
