//! A second wall: the WebAssembly sandbox in worker processes that can do nothing but compute.
//!
//! A fault in the JavaScript engine stays inside its WebAssembly memory. Should WebAssembly itself fail, an attacker is in a
//! process without files, network, environment, privileges or secrets: connections, keys and [`CodeHost`](super::CodeHost)
//! stay in the host, which answers a worker's calls as it answers those of a step, counts them, and believes nothing.
//!
//! The host's program is the worker's program. Its `main` starts with [`serve_if_worker`].

mod message;
mod post;
mod remote;
mod serve;
#[cfg(test)]
mod tests;
mod walls;
mod wire;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ap_core::id::ProjectId;
use async_trait::async_trait;
use serde_json::Value;

use self::post::Post;
use self::remote::{RemoteThread, There};
pub use self::walls::{Landlock, Walls};
use super::calls::MOST_CALL_BYTES;
use super::conduct::Conductor;
use super::layout::MAX_MEMORY_BYTES;
use super::limits::within;
use super::{
    CodeError, CodeLimitError, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest, SandboxCapacity,
    SandboxStartError,
};

/// Makes this process a worker of a code sandbox, if it was started as one: then it never returns. In every other process it
/// returns at once.
///
/// A host that uses [`ProcessSandbox`] calls it first in `main`, before it reads its configuration and before any thread
/// starts: not inside `#[tokio::main]`. [`ProcessSandbox::start`] fails where that was forgotten.
///
/// A worker is recognised by its one argument, `ap-code-worker/…`; given by hand, it ends the process with a message. Workers
/// start with an empty environment and without the host's open files.
///
/// # Examples
/// ```no_run
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     ap_runtime::sandbox::process::serve_if_worker();
///     // … the host begins here: configuration, runtime, server.
///     Ok(())
/// }
/// ```
pub fn serve_if_worker() {
    if serve::is_worker() {
        serve::serve();
    }
    PREPARED.store(true, Ordering::Relaxed);
}

/// Runs steps as [`WasmSandbox`](super::WasmSandbox) does, in worker processes behind walls of the operating system.
///
/// Results, limits and fuel are the same. A step, and each call of its host, takes a round trip between two processes more:
/// `cargo xtask bench sandbox` measures it.
///
/// Each project has its worker process, which it may share with others: what its code breaks, it breaks there. A worker that
/// ends is replaced, later and later if it ends again at once; the steps it held end as [`CodeError::WorkerLost`]. Workers
/// have several threads each, because a step that waits stays in the process where it began, and one thread that computes for
/// seconds must not hold up those that wait in the same process.
///
/// Workers end with the host, however that ends. Dropping the sandbox ends them.
///
/// Linux only. The host's `main` has to call [`serve_if_worker`] first.
///
/// # Security
/// No secret enters a worker: not the host's environment, not its memory, not what placeholders stand for, not the seed of a
/// step's randomness. [`walls`](Self::walls) tells what the kernel enforces; see [`Walls`] for what it must. Projects that
/// share a worker are kept apart by WebAssembly, as in one process.
///
/// A worker that is broken into can take much memory: its own limit lets every step it may hold have as much as steps may have,
/// which is about 35 GiB with the default capacity. Bound host and workers together with what the system has for that, such as
/// `memory.max` of a cgroup or `MemoryMax` of systemd. When that is used up, the kernel ends workers before the host.
///
/// # Examples
/// ```no_run
/// # use ap_runtime::sandbox::process::{ProcessOptions, ProcessSandbox};
/// let sandbox = ProcessSandbox::start(ProcessOptions::default())?;
/// for walls in sandbox.walls() {
///     println!("{walls:?}");
/// }
/// # Ok::<(), ap_runtime::sandbox::SandboxStartError>(())
/// ```
pub struct ProcessSandbox {
    workers: Vec<Worker>,
    options: ProcessOptions,
}

/// One worker process, whichever it is at the moment, and the queue before it. The queue goes first.
struct Worker {
    conductor: Conductor<There>,
    post: Post,
}

/// How many worker processes there are, and what each may do.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    program: Option<PathBuf>,
    workers: usize,
    capacity: SandboxCapacity,
    grace: Duration,
    start_timeout: Duration,
}

impl ProcessOptions {
    /// Takes another program as the worker, one that calls [`serve_if_worker`] first, of the same version of this crate:
    /// `ap-code-worker`, for hosts whose own program takes long to start or cannot be started again.
    ///
    /// Default: the program that runs.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Sets how many worker processes there are. The more, the fewer steps are lost when one ends; each has
    /// the engine in memory and compiled code of its own.
    ///
    /// Default: 2. Accepted: 1 to 64.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `workers` is outside the accepted range.
    pub fn with_workers(mut self, workers: usize) -> Result<Self, CodeLimitError> {
        self.workers = within("workers", workers, 1..=MAX_WORKERS)?;
        Ok(self)
    }

    /// Sets how many steps each worker process runs and holds at a time.
    ///
    /// Default: [`SandboxCapacity::default`], for each.
    #[must_use]
    pub fn with_capacity(mut self, capacity: SandboxCapacity) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets how much later than a step must have ended its worker has to say so, or than its host has answered, which may take
    /// longer than the step. One that does not is stopped, and the step ends as [`CodeError::Timeout`]. One that does not
    /// listen, or goes on keeping steps that nobody waits for, is stopped after the same time, but not within a second.
    ///
    /// Default: 5 s. Accepted: 100 ms to 1 min.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `grace` is outside the accepted range.
    pub fn with_grace(mut self, grace: Duration) -> Result<Self, CodeLimitError> {
        self.grace = between("grace", grace, Duration::from_millis(100), Duration::from_secs(60))?;
        Ok(self)
    }

    /// Sets how long a worker process may take to be ready.
    ///
    /// Default: 10 s. Accepted: 100 ms to 1 min.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `timeout` is outside the accepted range.
    pub fn with_start_timeout(mut self, timeout: Duration) -> Result<Self, CodeLimitError> {
        self.start_timeout = between("start_timeout", timeout, Duration::from_millis(100), Duration::from_secs(60))?;
        Ok(self)
    }
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self {
            program: None,
            workers: 2,
            capacity: SandboxCapacity::default(),
            grace: Duration::from_secs(5),
            start_timeout: Duration::from_secs(10),
        }
    }
}

impl ProcessSandbox {
    /// Starts the worker processes, one after the other, and waits until each is ready.
    ///
    /// # Errors
    /// [`SandboxStartError::NotPrepared`] if `main` did not call [`serve_if_worker`], and no other program is given;
    /// [`SandboxStartError::Worker`] if a worker cannot start or be walled in.
    pub fn start(options: ProcessOptions) -> Result<Self, SandboxStartError> {
        if options.program.is_none() && !PREPARED.load(Ordering::Relaxed) {
            return Err(SandboxStartError::NotPrepared);
        }
        let workers = (0..options.workers).map(|index| Worker::start(&options, index)).collect::<Result<_, _>>()?;
        Ok(Self { workers, options })
    }

    /// Which walls stand around each worker process; those that are being replaced are left out.
    pub fn walls(&self) -> Vec<Walls> {
        self.present().map(|process| process.walls()).collect()
    }

    /// The worker processes' ids, those that are being replaced left out: for monitoring.
    pub fn process_ids(&self) -> Vec<u32> {
        self.present().map(|process| process.id()).collect()
    }

    fn present(&self) -> impl Iterator<Item = std::sync::Arc<post::Process>> + '_ {
        self.workers.iter().filter_map(|worker| worker.conductor.place().post.present())
    }

    /// The worker of a project, always the same one.
    fn of(&self, project: ProjectId) -> Result<&Conductor<There>, CodeError> {
        let number = project.as_u128();
        let index = ((number ^ (number >> 64)) as u64).checked_rem(self.workers.len() as u64).unwrap_or_default();
        let worker = self.workers.get(usize::try_from(index).unwrap_or_default());
        worker.map(|worker| &worker.conductor).ok_or(CodeError::Busy)
    }
}

impl Worker {
    fn start(options: &ProcessOptions, index: usize) -> Result<Self, SandboxStartError> {
        let post = Post::start(options, format!("ap-code-post-{index}"))?;
        let room = post.shared().present().map_or(1, |process| process.room());
        let rules = options.capacity.rules.within(room);
        let threads = (0..options.capacity.threads)
            .map(|index| RemoteThread { post: std::sync::Arc::clone(post.shared()), index })
            .collect();
        let place = There { post: std::sync::Arc::clone(post.shared()) };
        let conductor = Conductor::start(place, rules, threads).map_err(SandboxStartError::Thread)?;
        Ok(Self { conductor, post })
    }
}

impl Drop for ProcessSandbox {
    fn drop(&mut self) {
        // All at once; threads that wait for a worker then see that there will be none.
        for worker in &self.workers {
            worker.post.stop();
        }
    }
}

#[async_trait]
impl CodeSandbox for ProcessSandbox {
    async fn check(&self, project: ProjectId, unit: CodeUnit) -> Result<(), CodeError> {
        let conductor = self.of(project)?;
        match conductor.check(project, unit.clone()).await {
            // Nothing has happened, and it need not be this unit's fault.
            Err(CodeError::WorkerLost { .. }) => conductor.check(project, unit).await,
            checked => checked,
        }
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        self.of(request.project)?.run(request).await
    }

    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        let conductor = self.of(request.project)?;
        match conductor.evaluate(request.clone()).await {
            Err(CodeError::WorkerLost { .. }) => conductor.evaluate(request).await,
            evaluated => evaluated,
        }
    }
}

impl fmt::Debug for ProcessSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSandbox").field("options", &self.options).finish_non_exhaustive()
    }
}

fn between(
    name: &'static str,
    value: Duration,
    minimum: Duration,
    maximum: Duration,
) -> Result<Duration, CodeLimitError> {
    if (minimum..=maximum).contains(&value) {
        return Ok(value);
    }
    Err(CodeLimitError { name, minimum: format!("{minimum:?}"), maximum: format!("{maximum:?}") })
}

/// A number for one more call, under which workers know it.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether `main` has called [`serve_if_worker`].
static PREPARED: AtomicBool = AtomicBool::new(false);

/// The one argument of a worker.
const WORKER_ARGUMENT: &str = concat!("ap-code-worker/", env!("CARGO_PKG_VERSION"));
/// What both sides must be.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/1");

const MAX_WORKERS: usize = 64;

/// Largest message to a host: the arguments of a call, or a result of 16 MiB with its console. Unit: bytes.
const MOST_TO_HOST: usize = MOST_CALL_BYTES + (1 << 20);
/// Largest message to a worker: what fits the memory of a step, and its source. Unit: bytes.
const MOST_TO_WORKER: usize = 2 * MAX_MEMORY_BYTES;
