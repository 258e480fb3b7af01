//! Running a flow author's JavaScript without trusting it.
//!
//! [`CodeSandbox`] is the seam; `WasmSandbox` (feature `code`) is the implementation: QuickJS-ng compiled to WebAssembly, a
//! fresh copy-on-write instance per step, no WASI, three imports, all ours.

mod error;
mod limits;

#[cfg(feature = "code")]
mod deadline;
#[cfg(feature = "code")]
mod engine;
#[cfg(feature = "code")]
mod guest;
#[cfg(feature = "code")]
mod layout;
#[cfg(feature = "code")]
mod output;
#[cfg(feature = "code")]
mod step;
#[cfg(feature = "code")]
mod wasm;
#[cfg(feature = "code")]
mod worker;

use std::fmt;
use std::sync::Arc;

use ap_core::time::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

pub use self::error::CodeError;
pub use self::limits::{CodeLimitError, CodeLimits};
#[cfg(feature = "code")]
pub use self::wasm::{SandboxCapacity, SandboxStartError, WasmSandbox};

/// Runs one code step at a time, each in a world of its own.
///
/// # Contract
///
/// * **Isolation.** A step sees its parameters and the language, nothing of the host and nothing another step left behind.
/// * **Bounds.** A step ends within its [`CodeLimits`], whatever its source does; the host process survives it.
/// * **Determinism.** The same request gives the same output: the clock stands still at `now`, and `Math.random` follows
///   from `seed`. Only a step that runs into its time limit may end differently.
/// * **Own threads.** No step computes on the thread that polls the future.
#[async_trait]
pub trait CodeSandbox: fmt::Debug + Send + Sync + 'static {
    /// Runs the function that the ES module `request.source` exports as `code`, else as `default`, and returns its result as JSON.
    ///
    /// The function gets the parameters as its one argument, and may be `async`. Its result goes through `JSON.stringify`;
    /// `undefined` becomes `null`, a lone surrogate becomes U+FFFD.
    ///
    /// # Errors
    /// [`CodeError`] lists them. Only [`CodeError::Busy`] is worth a retry.
    ///
    /// # Cancel safety
    /// Dropping the future interrupts the step; it has no effects to lose.
    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError>;
}

/// One step to run.
#[derive(Clone)]
pub struct CodeRequest {
    /// The ES module, in UTF-8.
    pub source: Arc<str>,
    /// The argument of the exported function, as JSON text.
    pub params: Bytes,
    /// What every clock inside the step shows, in whole milliseconds rounded down.
    pub now: Timestamp,
    /// Where `Math.random` starts.
    pub seed: u64,
    /// What the step may use.
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
}

/// One call of a `console` function. The text may contain line breaks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConsoleLine {
    /// Which function was called.
    pub level: ConsoleLevel,
    /// The arguments, separated by spaces; values other than strings as JSON.
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

/// Sizes only: source and parameters are the tenant's.
impl fmt::Debug for CodeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeRequest")
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
            source: "export const code = () => 'canary-1'".into(),
            params: Bytes::from_static(br#"{"key":"canary-2"}"#),
            now: Timestamp::from_micros(0),
            seed: 77_777,
            limits: CodeLimits::default(),
        };
        let shown = format!("{request:?}");
        assert!(shown.contains("params_bytes: 18"), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains("77777"), "{shown}");
    }
}
