//! Why a step gave no output.

use std::fmt;
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
    /// The step computed for longer than it may.
    #[error("the step exceeded its computing time of {limit:?}")]
    CpuTime {
        /// [`CodeLimits::cpu_time`](super::CodeLimits::cpu_time)
        limit: Duration,
    },
    /// The step consumed its fuel.
    #[error("the step exceeded its fuel of {limit} units")]
    FuelExhausted {
        /// What [`Metering::Fuel`](super::Metering::Fuel) allowed.
        limit: u64,
    },
    /// The step called its host too often, or began too many calls at a time.
    #[error("the step exceeded its limit of {limit} {what}")]
    HostCallLimit {
        /// What was counted: `host calls`, or `host calls under way`.
        what: &'static str,
        /// [`CodeLimits::host_calls`](super::CodeLimits::host_calls), or 256.
        limit: usize,
    },
    /// The author's source does not parse, imports what is not there, or exports no function.
    #[error("the source is not valid{}: {message}", Located(*place))]
    InvalidSource {
        /// What is wrong.
        message: String,
        /// Where, if the parser knows.
        place: Option<SourcePlace>,
    },
    /// The expression has no value that JSON can say: `undefined`, a function or a symbol.
    #[error("the expression has no value: it is undefined, a function or a symbol")]
    NoValue,
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
    #[error("{name}: {message}{}", Located(*place))]
    Thrown {
        /// The error's `name`, or `Error` for a thrown value without one.
        name: String,
        /// The error's `message`, or the thrown value as a string.
        message: String,
        /// The innermost place in the author's source, if the stack names one.
        place: Option<SourcePlace>,
        /// One line per frame, innermost first; frames of the step read `step.mjs:line:column`. May be empty.
        stack: String,
        /// What the step wrote to `console` before.
        console: Vec<ConsoleLine>,
    },
    /// The step took longer than it may, with what it waited for.
    #[error("the step exceeded its time limit of {limit:?}")]
    Timeout {
        /// [`CodeLimits::timeout`](super::CodeLimits::timeout)
        limit: Duration,
    },
    /// This sandbox cannot do what the request asks for, such as counting fuel or taking TypeScript. Nothing ran.
    #[error("this sandbox has no {what}")]
    Unsupported {
        /// What it lacks.
        what: &'static str,
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
    /// The process that ran the step ended under it: something killed it, or it broke a rule and was stopped. Other steps that
    /// it ran ended in the same way. What the step asked of its host before may have happened.
    #[error("the worker process that ran the step ended: {how}")]
    WorkerLost {
        /// How the process ended.
        how: String,
    },
    /// The sandbox itself failed. Please report it.
    #[error("the code sandbox failed: {message}")]
    Bug {
        /// What went wrong.
        message: String,
    },
}

/// A place in an author's source, both counted from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SourcePlace {
    /// The line. In TypeScript, that of the source as it was written.
    pub line: u32,
    /// The column, in UTF-16 code units. In TypeScript, that behind the removed types.
    pub column: u32,
}

/// ` (line 3, column 7)`, or nothing.
struct Located(Option<SourcePlace>);

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |place| write!(f, " ({place})"))
    }
}

impl fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl CodeError {
    /// Whether the same request may succeed later. After [`WorkerLost`](Self::WorkerLost) a step that has a host to act
    /// through may act a second time.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::WorkerLost { .. })
    }
}
