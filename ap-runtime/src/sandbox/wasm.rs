//! The code sandbox on WebAssembly.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use ap_core::id::ProjectId;
use async_trait::async_trait;
use serde_json::Value;

use super::conduct::Conductor;
use super::deadline::DeadlineTimer;
use super::engine::Engines;
use super::limits::within;
use super::local::{Here, Thread};
use super::scheduler::Rules;
use super::{CodeError, CodeLimitError, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest};

/// Runs steps in QuickJS-ng inside WebAssembly, a fresh instance each, on threads of its own.
///
/// Make one per process and share it: it owns its threads, and reserves 4 GiB of addresses (not of memory) for each instance.
/// Where so much cannot be had it uses 64 MiB, and computes about half as fast. Dropping it waits for its threads, which takes a
/// few milliseconds at most.
///
/// A step that waits for its host (`fetch`, a timer) keeps its instance, about 100 KiB, and no thread. Its timers and its
/// [`CodeHost`](super::CodeHost) run where the future of [`run`](CodeSandbox::run) is polled: inside a tokio runtime.
///
/// On Unix the engine installs process-wide handlers for the signals by which WebAssembly traps (`SIGSEGV`, `SIGILL`, …);
/// what does not come from a step goes on to the handler that was there before.
///
/// JavaScript runs in an interpreter: glue code starts in microseconds, long computations are several times slower than
/// in Node.js.
///
/// # Security
/// A step can compute, log and ask its [`CodeHost`](super::CodeHost), nothing else. A fault in the JavaScript engine stays inside the instance's
/// own memory, which is overwritten before the next step.
///
/// # Examples
/// ```
/// # use {ap_core::{id::ProjectId, time::Timestamp}, ap_runtime::sandbox::*, bytes::Bytes, std::sync::Arc};
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let sandbox = WasmSandbox::start(SandboxCapacity::default())?;
/// let request = CodeRequest {
///     project: ProjectId::from_u128(1),
///     source: "export const code = (params) => params.price * 2;".into(),
///     language: CodeLanguage::JavaScript,
///     params: Bytes::from_static(br#"{"price":21}"#),
///     context: Bytes::from_static(b"{}"),
///     now: Timestamp::from_micros(1_767_225_600_000_000),
///     seed: [7; 32],
///     limits: CodeLimits::default(),
///     host: Arc::new(NoCodeHost),
/// };
/// assert_eq!(sandbox.run(request).await?.value, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WasmSandbox {
    conductor: Conductor<Here>,
    capacity: SandboxCapacity,
}

/// How many steps a sandbox runs and holds at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SandboxCapacity {
    pub(super) threads: usize,
    pub(super) rules: Rules,
}

/// Why a sandbox could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxStartError {
    /// The engine in this program does not load here; most often, too little address space is left.
    #[error("the code sandbox's engine could not be loaded: {message}")]
    Engine {
        /// What the engine said.
        message: String,
    },
    /// The program was not prepared for worker processes.
    #[error(
        "the code sandbox cannot start worker processes: call `ap_runtime::sandbox::process::serve_if_worker` first in `main`"
    )]
    NotPrepared,
    /// The operating system refused a thread.
    #[error("the code sandbox could not start its threads")]
    Thread(#[source] io::Error),
    /// This program has no worker processes.
    #[error("this program has no worker processes for code: build it with feature `process-isolation`, on Linux")]
    Unsupported,
    /// A worker process did not start, or its walls could not be put up.
    #[error("a worker process of the code sandbox did not start: {message}")]
    Worker {
        /// What it said, or what happened to it.
        message: String,
    },
}

impl WasmSandbox {
    /// Loads the engine and starts the threads. Takes a few milliseconds.
    ///
    /// # Errors
    /// [`SandboxStartError`] lists them.
    pub fn start(capacity: SandboxCapacity) -> Result<Self, SandboxStartError> {
        // Each thread may have an instance of the compiler beside that of the step.
        let instances = |live: usize| u32::try_from(live + capacity.threads).unwrap_or(u32::MAX);
        let engines = Engines::load(instances(capacity.rules.live), instances(1))
            .map_err(|error| SandboxStartError::Engine { message: format!("{error:#}") })?;
        let rules = capacity.rules.within((engines.instances() as usize).saturating_sub(capacity.threads));
        let engines = Arc::new(engines);
        let timer = DeadlineTimer::start(Arc::clone(&engines), capacity.threads).map_err(SandboxStartError::Thread)?;
        let timer = Arc::new(timer);
        let threads = Thread::all(&engines, &timer, CACHE_BYTES, capacity.threads);
        let conductor = Conductor::start(Here { engines, timer }, rules, threads).map_err(SandboxStartError::Thread)?;
        Ok(Self { conductor, capacity })
    }
}

impl SandboxCapacity {
    /// How many steps run at a time, each on its own thread.
    ///
    /// Default: twice the processor cores this process may use. Accepted: 1 to 128. Half of them (rounded up) may run steps of
    /// one project; see [`with_threads_per_project`](Self::with_threads_per_project).
    ///
    /// # Errors
    /// [`CodeLimitError`] if `threads` is outside the accepted range.
    pub fn with_threads(mut self, threads: usize) -> Result<Self, CodeLimitError> {
        self.threads = within("threads", threads, 1..=MAX_THREADS)?;
        self.rules.running_per_project = threads.div_ceil(2);
        Ok(self)
    }

    /// How many threads may run steps of one project at a time, so that long computations of one leave some to the others.
    ///
    /// Default: half of the threads, rounded up. Accepted: 1 to 128. Set it after the threads.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `threads` is outside the accepted range.
    pub fn with_threads_per_project(mut self, threads: usize) -> Result<Self, CodeLimitError> {
        self.rules.running_per_project = within("threads_per_project", threads, 1..=MAX_THREADS)?;
        Ok(self)
    }

    /// How many steps may have started and not ended, those that wait for their host among them. More wait for their start.
    ///
    /// Default: 256, and 64 of one project. Accepted: 1 to 4,096; a quarter of them (rounded up) may be of one project. Where
    /// the address space is limited there is room for fewer, and up to three quarters of that may be of one project.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `steps` is outside the accepted range.
    pub fn with_live_steps(mut self, steps: usize) -> Result<Self, CodeLimitError> {
        self.rules = self.rules.with_live(within("live_steps", steps, 1..=MAX_LIVE)?);
        Ok(self)
    }

    /// How many steps may wait for their start; one more is refused as [`CodeError::Busy`].
    ///
    /// Default: 4,096, and 1,024 of one project. Accepted: 1 to 65,536; a quarter of them (rounded up) may be of one project.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `queue` is outside the accepted range.
    pub fn with_queue(mut self, queue: usize) -> Result<Self, CodeLimitError> {
        self.rules.queue = within("queue", queue, 1..=MAX_QUEUE)?;
        self.rules.queue_per_project = queue.div_ceil(4);
        Ok(self)
    }
}

impl Default for SandboxCapacity {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(2, |cores| (2 * cores.get()).min(MAX_THREADS));
        let rules = Rules {
            queue: 4_096,
            queue_per_project: 1_024,
            live: 256,
            live_per_project: 64,
            running_per_project: threads.div_ceil(2),
        };
        Self { threads, rules }
    }
}

#[async_trait]
impl CodeSandbox for WasmSandbox {
    async fn check(&self, project: ProjectId, unit: CodeUnit) -> Result<(), CodeError> {
        self.conductor.check(project, unit).await
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        self.conductor.run(request).await
    }

    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        self.conductor.evaluate(request).await
    }
}

impl fmt::Debug for WasmSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmSandbox").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

const MAX_THREADS: usize = 128;
const MAX_QUEUE: usize = 1 << 16;
const MAX_LIVE: usize = 4_096;

/// How much compiled code is kept. Unit: bytes.
pub(super) const CACHE_BYTES: usize = 64 << 20;
