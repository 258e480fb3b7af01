//! The code sandbox on WebAssembly.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread;

use async_trait::async_trait;
use tokio::sync::oneshot;
use wasmtime::Engine;

use super::engine::LoadedEngine;
use super::limits::within;
use super::worker::{Job, WorkerPool, bug};
use super::{CodeError, CodeLimitError, CodeOutput, CodeRequest, CodeSandbox};

/// Runs steps in QuickJS-ng inside WebAssembly, a fresh instance each, on threads of its own.
///
/// Make one per process and share it: it owns its threads, and reserves 4 GiB of addresses (not of memory) for the one
/// instance of each. Where so much cannot be had it uses 64 MiB, and computes about 30 % slower. Dropping it waits for its
/// threads, which takes a few milliseconds at most.
///
/// On Unix the engine installs process-wide handlers for the signals by which WebAssembly traps (`SIGSEGV`, `SIGILL`, …);
/// what does not come from a step goes on to the handler that was there before.
///
/// JavaScript runs in an interpreter: glue code starts in microseconds, long computations are several times slower than
/// in Node.js. There is no `fetch`, timer, `crypto` or `Buffer`, and no module can be imported.
///
/// # Security
/// A step can compute and log, nothing else: its only imports are a clock that stands still, the console and its result. A
/// fault in the JavaScript engine stays inside the instance's own memory, which is overwritten before the next step.
///
/// # Examples
/// ```
/// # use {ap_core::time::Timestamp, ap_runtime::sandbox::*, bytes::Bytes};
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let sandbox = WasmSandbox::start(SandboxCapacity::default())?;
/// let request = CodeRequest {
///     source: "export const code = (params) => params.price * 2;".into(),
///     params: Bytes::from_static(br#"{"price":21}"#),
///     now: Timestamp::from_micros(1_767_225_600_000_000),
///     seed: 7,
///     limits: CodeLimits::default(),
/// };
/// assert_eq!(sandbox.run(request).await?.value, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WasmSandbox {
    engine: Engine,
    workers: WorkerPool,
    capacity: SandboxCapacity,
}

/// How many steps a sandbox runs and holds at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SandboxCapacity {
    threads: usize,
    queue: usize,
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
    /// The operating system refused a thread.
    #[error("the code sandbox could not start its threads")]
    Thread(#[source] io::Error),
}

impl WasmSandbox {
    /// Loads the engine and starts the threads. Takes a few milliseconds.
    ///
    /// # Errors
    /// [`SandboxStartError`] lists them.
    pub fn start(capacity: SandboxCapacity) -> Result<Self, SandboxStartError> {
        let instances = u32::try_from(capacity.threads).unwrap_or(u32::MAX);
        let engine = LoadedEngine::load(instances)
            .map_err(|error| SandboxStartError::Engine { message: format!("{error:#}") })?;
        Self::start_with(&engine, capacity)
    }

    fn start_with(engine: &LoadedEngine, capacity: SandboxCapacity) -> Result<Self, SandboxStartError> {
        let workers = WorkerPool::start(engine, capacity.threads, capacity.queue).map_err(SandboxStartError::Thread)?;
        Ok(Self { engine: engine.engine.clone(), workers, capacity })
    }
}

impl SandboxCapacity {
    /// How many steps run at a time, each on its own thread.
    ///
    /// Default: the processor cores this process may use. Accepted: 1 to 64.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `threads` is outside the accepted range.
    pub fn with_threads(mut self, threads: usize) -> Result<Self, CodeLimitError> {
        self.threads = within("threads", threads, 1..=MAX_THREADS)?;
        Ok(self)
    }

    /// How many steps may wait for a thread; one more is refused as [`CodeError::Busy`].
    ///
    /// Default: 256. Accepted: 1 to 65,536.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `queue` is outside the accepted range.
    pub fn with_queue(mut self, queue: usize) -> Result<Self, CodeLimitError> {
        self.queue = within("queue", queue, 1..=MAX_QUEUE)?;
        Ok(self)
    }
}

impl Default for SandboxCapacity {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_THREADS));
        Self { threads, queue: 256 }
    }
}

#[async_trait]
impl CodeSandbox for WasmSandbox {
    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        let limit_bytes = request.limits.source_bytes();
        if request.source.len() > limit_bytes {
            return Err(CodeError::SourceTooLarge { limit_bytes });
        }
        let (reply, answer) = oneshot::channel();
        let mut cancel = CancelOnDrop { engine: &self.engine, cancelled: Arc::default(), armed: true };
        self.workers.submit(Job { request, cancelled: Arc::clone(&cancel.cancelled), reply })?;
        let result = answer.await;
        cancel.armed = false;
        result.unwrap_or_else(|_| Err(bug("a step was lost")))
    }
}

impl fmt::Debug for WasmSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmSandbox").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Interrupts a step whose caller has gone.
struct CancelOnDrop<'a> {
    engine: &'a Engine,
    cancelled: Arc<AtomicBool>,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.cancelled.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst); // a guest that sees the new epoch must see the flag
            self.engine.increment_epoch();
        }
    }
}

const MAX_THREADS: usize = 64;
const MAX_QUEUE: usize = 1 << 16;
