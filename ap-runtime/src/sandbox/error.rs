//! Why a step gave no output.

use std::time::Duration;

use super::ConsoleLine;

/// Why a step gave no output. Texts that come from the step are cut to a few kilobytes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// Every thread is busy and the queue is full. The step did not start; the same call may succeed later.
    #[error("the code sandbox is busy")]
    Busy,
    /// The caller's parameters are not JSON, or nested too deeply for the engine.
    #[error("the parameters are not valid JSON: {message}")]
    InvalidParams {
        /// What the parser said.
        message: String,
    },
    /// The flow author's source does not parse, or exports no function.
    #[error("the source is not a valid code step: {message}")]
    InvalidSource {
        /// What is wrong, and where.
        message: String,
    },
    /// The step needed more memory than it may have.
    #[error("the step exceeded its memory limit of {limit_bytes} bytes")]
    MemoryLimit {
        /// [`CodeLimits::memory_bytes`](super::CodeLimits::memory_bytes)
        limit_bytes: usize,
    },
    /// The result's arrays and objects nest too deeply.
    #[error("the result is nested deeper than {limit} levels")]
    OutputTooDeep {
        /// The deepest nesting that is accepted.
        limit: usize,
    },
    /// The result's JSON text is too long.
    #[error("the result exceeds {limit_bytes} bytes of JSON")]
    OutputTooLarge {
        /// [`CodeLimits::output_bytes`](super::CodeLimits::output_bytes)
        limit_bytes: usize,
    },
    /// The source is too long.
    #[error("the source exceeds {limit_bytes} bytes")]
    SourceTooLarge {
        /// [`CodeLimits::source_bytes`](super::CodeLimits::source_bytes)
        limit_bytes: usize,
    },
    /// The step nested calls, or its source nested expressions, deeper than the engine's stack.
    #[error("the step exhausted its stack")]
    StackExhausted,
    /// The step threw.
    #[error("{name}: {message}")]
    Thrown {
        /// The error's `name`, or `Error` for a thrown value without one.
        name: String,
        /// The error's `message`, or the thrown value as a string.
        message: String,
        /// One line per frame, innermost first; frames of the step read `step.mjs:line:column`. May be empty.
        stack: String,
        /// What the step wrote to `console` before.
        console: Vec<ConsoleLine>,
    },
    /// The step computed for longer than it may.
    #[error("the step exceeded its time limit of {limit:?}")]
    Timeout {
        /// [`CodeLimits::timeout`](super::CodeLimits::timeout)
        limit: Duration,
    },
    /// The step waits for a promise that nothing can settle.
    #[error("the step waits for a promise that never settles")]
    Unsettled,
    /// The engine failed inside its WebAssembly sandbox. Nothing outside was affected.
    #[error("the engine failed inside the sandbox: {message}")]
    Trap {
        /// What WebAssembly reported.
        message: String,
    },
    /// The sandbox itself failed. Please report it.
    #[error("the code sandbox failed: {message}")]
    Bug {
        /// What went wrong.
        message: String,
    },
}

impl CodeError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy)
    }
}
