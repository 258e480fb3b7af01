//! Running a flow author's JavaScript without trusting it.
//!
//! [`CodeSandbox`] is the seam; `WasmSandbox` (feature `code`) is the implementation: QuickJS-ng compiled to WebAssembly, a
//! fresh copy-on-write instance per step, no WASI, six imports, all ours. [`CodeHost`] is what a step may use of its host.

#[cfg(all(
    feature = "process-isolation",
    not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))
))]
compile_error!("feature `process-isolation` of ap-runtime needs Linux on x86-64 or AArch64: leave it out elsewhere");

mod error;
mod host;
mod limits;

#[cfg(feature = "code")]
mod cache;
#[cfg(feature = "code")]
mod calls;
#[cfg(feature = "code")]
mod conduct;
#[cfg(feature = "code")]
mod crypto;
#[cfg(feature = "code")]
mod deadline;
#[cfg(feature = "code")]
mod engine;
#[cfg(all(feature = "code", any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "code")]
mod guest;
#[cfg(feature = "code")]
mod layout;
#[cfg(feature = "code")]
mod local;
#[cfg(feature = "code")]
mod locator;
#[cfg(feature = "code")]
mod mode;
#[cfg(feature = "code")]
mod output;
#[cfg(feature = "code")]
mod place;
#[cfg(feature = "process-isolation")]
pub mod process;
#[cfg(feature = "code")]
mod scheduler;
#[cfg(feature = "code")]
mod state;
#[cfg(feature = "code")]
mod step;
#[cfg(feature = "code")]
mod wasm;
#[cfg(feature = "code")]
mod worker;

use std::fmt;
use std::sync::Arc;

use ap_core::{id::ProjectId, time::Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

pub use self::error::{CodeError, SourcePlace};
pub use self::host::{CodeHost, NoCodeHost, StoreAct, StoreCall, StoreCallError, StoreScope};
pub use self::limits::{CodeLimitError, CodeLimits, Metering};
#[cfg(feature = "code")]
pub use self::mode::{SandboxMode, SandboxModeError};
#[cfg(feature = "code")]
pub use self::wasm::{SandboxCapacity, SandboxStartError, WasmSandbox};

/// Runs code steps and expressions, each in a world of its own.
///
/// # Contract
///
/// * **Isolation.** A step sees its parameters and the language, nothing of the host but its [`CodeHost`], and nothing another
///   step left behind.
/// * **Bounds.** A step ends within its [`CodeLimits`], whatever its source does; the host process survives it.
/// * **Determinism.** The same request gives the same output, as long as its host answers the same: the clock stands still
///   at `now` while the step computes, and everything random follows from `seed`. Only a step that runs into its time limit
///   may end differently; [`Metering::Fuel`] makes that the same everywhere, too.
/// * **Own threads.** No step computes on the thread that polls the future. Its host is called there.
/// * **Honesty.** What a sandbox cannot do, it refuses as [`CodeError::Unsupported`], and does nothing else instead.
///
/// Prove an implementation with `sandbox_conformance!` (feature `conformance`).
#[async_trait]
pub trait CodeSandbox: fmt::Debug + Send + Sync + 'static {
    /// Checks that a unit compiles, without running any of it: for the moment a flow is published.
    ///
    /// # Errors
    /// [`CodeError::InvalidSource`] with the place; [`CodeError`] lists the rest.
    async fn check(&self, project: ProjectId, unit: CodeUnit) -> Result<(), CodeError>;

    /// Runs the function that the ES module `request.source` exports as `code`, else as `default`, and returns its result as
    /// JSON. A CommonJS module that assigns `module.exports` is taken as well.
    ///
    /// The function gets the parameters and the context as its arguments, and may be `async`. Its result goes through
    /// `JSON.stringify`: `undefined`, functions and symbols become `null`, so do `NaN` and the infinities, a lone surrogate
    /// becomes U+FFFD; a cycle or a `BigInt` is an error.
    ///
    /// # Errors
    /// [`CodeError`] lists them; [`CodeError::is_retryable`] says which are worth a retry.
    ///
    /// # Cancel safety
    /// Dropping the future interrupts the step and drops the host calls it waits for.
    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError>;

    /// Evaluates expressions one after the other, in one world without any host.
    ///
    /// Results are as those of [`run`](Self::run), but `undefined`, a function or a symbol is [`CodeError::NoValue`]. Each
    /// expression gets variables of its own; what one does to built-in objects, the next ones see.
    ///
    /// # Errors
    /// The outer one if nothing was evaluated; the inner one is that expression's. The limits hold for all together.
    ///
    /// # Cancel safety
    /// Dropping the future interrupts it; it has no effects to lose.
    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError>;
}

/// Something to compile.
#[derive(Clone)]
pub enum CodeUnit {
    /// The source of a code step.
    Module {
        /// An ES module, in UTF-8.
        source: Arc<str>,
        /// What it is written in.
        language: CodeLanguage,
    },
    /// One JavaScript expression.
    Expression(Arc<str>),
}

/// What a source is written in.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum CodeLanguage {
    /// ECMAScript 2023 and later, as QuickJS-ng has it.
    #[default]
    JavaScript,
    /// TypeScript, whose types are removed and not checked.
    TypeScript,
}

/// One step to run.
#[derive(Clone)]
pub struct CodeRequest {
    /// Whose step it is: compiled code is kept apart by project, and projects take turns.
    pub project: ProjectId,
    /// The module, in UTF-8.
    pub source: Arc<str>,
    /// What it is written in.
    pub language: CodeLanguage,
    /// The first argument of the exported function, as JSON text.
    pub params: Bytes,
    /// The data of the second, `ctx`, as JSON text: an object with `run` and `step`.
    pub context: Bytes,
    /// What every clock inside the step shows at first, in whole milliseconds rounded down.
    pub now: Timestamp,
    /// Where everything random starts.
    pub seed: [u8; 32],
    /// What the step may use.
    pub limits: CodeLimits,
    /// What it may use of its host.
    pub host: Arc<dyn CodeHost>,
}

/// Expressions to evaluate.
#[derive(Clone)]
pub struct ExpressionRequest {
    /// Whose expressions they are.
    pub project: ProjectId,
    /// The expressions, in order.
    pub expressions: Vec<Arc<str>>,
    /// Their variables: a JSON object, whose members each becomes one.
    pub variables: Bytes,
    /// What every clock shows, in whole milliseconds rounded down.
    pub now: Timestamp,
    /// Where everything random starts.
    pub seed: [u8; 32],
    /// What all together may use.
    pub limits: CodeLimits,
}

/// What a step returned and logged.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeOutput {
    /// The function's result.
    pub value: Value,
    /// What it wrote to `console`, oldest first.
    pub console: Vec<ConsoleLine>,
    /// Whether lines were cut or dropped because [`CodeLimits::console_bytes`] was reached.
    pub console_truncated: bool,
    /// The fuel it consumed, if [`CodeLimits::metering`] counts it.
    pub fuel: Option<u64>,
}

/// One call of a `console` function. The text may contain line breaks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConsoleLine {
    /// Which function was called.
    pub level: ConsoleLevel,
    /// The arguments, separated by spaces; objects in the form that the sandbox gives them.
    pub text: String,
}

/// The `console` functions, from least to most severe.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ConsoleLevel {
    /// `console.debug`
    Debug,
    /// `console.info`
    Info,
    /// `console.log`
    Log,
    /// `console.warn`
    Warn,
    /// `console.error`
    Error,
}

/// Sizes only: the source is the tenant's.
impl fmt::Debug for CodeUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module { source, language } => write!(f, "Module({language:?}, {} bytes)", source.len()),
            Self::Expression(text) => write!(f, "Expression({} bytes)", text.len()),
        }
    }
}

/// Sizes only: expressions and variables are the tenant's.
impl fmt::Debug for ExpressionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpressionRequest")
            .field("project", &self.project)
            .field("expressions", &self.expressions.len())
            .field("variables_bytes", &self.variables.len())
            .field("now", &self.now)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Sizes only: source and parameters are the tenant's.
impl fmt::Debug for CodeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeRequest")
            .field("project", &self.project)
            .field("source_bytes", &self.source.len())
            .field("params_bytes", &self.params.len())
            .field("now", &self.now)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_request_shows_no_payload() {
        let request = CodeRequest {
            project: ProjectId::from_u128(7),
            source: "export const code = () => 'canary-1'".into(),
            language: CodeLanguage::JavaScript,
            params: Bytes::from_static(br#"{"key":"canary-2"}"#),
            context: Bytes::from_static(br#"{"key":"canary-3"}"#),
            now: Timestamp::from_micros(0),
            seed: [77; 32],
            limits: CodeLimits::default(),
            host: Arc::new(NoCodeHost),
        };
        let shown = format!("{request:?}");
        assert!(shown.contains("params_bytes: 18"), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains("77"), "{shown}");
    }
}
