//! The code sandbox on WebAssembly.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread;
use std::time::Instant;

use ap_core::{id::ProjectId, time::Timestamp};
use async_trait::async_trait;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use tokio::sync::oneshot;

use super::cache::{CodeCache, CodeKey};
use super::calls::{HostCalls, HostError, Started, Turns};
use super::crypto::engine_seed;
use super::engine::{Engines, LoadedEngine};
use super::limits::within;
use super::scheduler::{Rules, Scheduler, Slot};
use super::state::StepState;
use super::step::{Step, Turn};
use super::worker::{Thread, WorkerPool};
use super::{
    CodeError, CodeLanguage, CodeLimitError, CodeLimits, CodeOutput, CodeRequest, CodeSandbox, CodeUnit,
    ExpressionRequest, Metering,
};

/// Runs steps in QuickJS-ng inside WebAssembly, a fresh instance each, on threads of its own.
///
/// Make one per process and share it: it owns its threads, and reserves 4 GiB of addresses (not of memory) for each instance.
/// Where so much cannot be had it uses 64 MiB, and computes about half as fast. Dropping it waits for its threads, which takes a
/// few milliseconds at most.
///
/// A step that waits for its host (`fetch`, a timer) keeps its instance, about 200 KiB, and no thread. Its timers and its
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
    engines: Arc<Engines>,
    scheduler: Arc<Scheduler>,
    /// Dropped with the sandbox: stops the threads.
    _workers: WorkerPool,
    capacity: SandboxCapacity,
}

/// How many steps a sandbox runs and holds at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SandboxCapacity {
    threads: usize,
    rules: Rules,
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
        // Each thread may have an instance of the compiler beside that of the step.
        let instances = |live: usize| u32::try_from(live + capacity.threads).unwrap_or(u32::MAX);
        let engines = Engines::load(instances(capacity.rules.live), instances(1))
            .map_err(|error| SandboxStartError::Engine { message: format!("{error:#}") })?;
        let live = (engines.instances() as usize).saturating_sub(capacity.threads);
        let rules = Rules { live: live.min(capacity.rules.live), ..capacity.rules };
        let (engines, scheduler) = (Arc::new(engines), Arc::new(Scheduler::new(rules)));
        let cache = Arc::new(CodeCache::new(CACHE_BYTES));
        let workers = WorkerPool::start(&engines, &cache, Arc::clone(&scheduler), capacity.threads)
            .map_err(SandboxStartError::Thread)?;
        Ok(Self { engines, scheduler, _workers: workers, capacity })
    }

    /// Queues the start of a step and waits for what `start` answers on a sandbox thread.
    async fn start_on_thread<T: Send + 'static>(
        &self,
        project: ProjectId,
        start: impl FnOnce(&Thread, Slot, Arc<AtomicBool>, Reply<T>) + Send + 'static,
    ) -> Result<T, CodeError> {
        let (reply, answer) = oneshot::channel();
        let mut cancel = CancelOnDrop { engines: &self.engines, cancelled: Arc::default(), armed: true };
        let cancelled = Arc::clone(&cancel.cancelled);
        let start = Box::new(move |thread: &Thread, slot| {
            if !cancelled.load(Ordering::SeqCst) {
                start(thread, slot, cancelled, Reply(reply));
            }
        });
        self.scheduler.start(project, start)?;
        let answer = answer.await;
        cancel.armed = false;
        answer.map_err(|_| bug("a step was lost"))
    }
}

/// Where the answer of a sandbox thread goes. The caller may have gone.
struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }
}

/// A step that waits for its host.
struct WaitingStep {
    step: Step,
    slot: Slot,
    cancelled: Arc<AtomicBool>,
}

/// How a turn on a thread ended.
enum Answer {
    Ended(Result<CodeOutput, CodeError>),
    Waiting(Box<WaitingStep>),
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
    /// the address space is limited there is room for fewer.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `steps` is outside the accepted range.
    pub fn with_live_steps(mut self, steps: usize) -> Result<Self, CodeLimitError> {
        self.rules.live = within("live_steps", steps, 1..=MAX_LIVE)?;
        self.rules.live_per_project = steps.div_ceil(4);
        Ok(self)
    }

    /// How many steps may wait for their start; one more is refused as [`CodeError::Busy`].
    ///
    /// Default: 1,024. Accepted: 1 to 65,536.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `queue` is outside the accepted range.
    pub fn with_queue(mut self, queue: usize) -> Result<Self, CodeLimitError> {
        self.rules.queue = within("queue", queue, 1..=MAX_QUEUE)?;
        Ok(self)
    }
}

impl Default for SandboxCapacity {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(2, |cores| (2 * cores.get()).min(MAX_THREADS));
        let rules = Rules { queue: 1_024, live: 256, live_per_project: 64, running_per_project: threads.div_ceil(2) };
        Self { threads, rules }
    }
}

#[async_trait]
impl CodeSandbox for WasmSandbox {
    async fn check(&self, project: ProjectId, unit: CodeUnit) -> Result<(), CodeError> {
        check_size(&unit, &CodeLimits::default())?;
        self.start_on_thread(project, move |thread, slot, cancelled, reply| {
            let compiled = compiled(thread, project, &unit, (&CodeLimits::default(), &cancelled));
            drop(slot);
            reply.send(compiled.map(|_| ()));
        })
        .await?
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        let unit = CodeUnit::Module { source: Arc::clone(&request.source), language: request.language };
        check_size(&unit, &request.limits)?;
        let (project, now, host) = (request.project, request.now, Arc::clone(&request.host));
        let metering = request.limits.metering();
        let mut answer = self
            .start_on_thread(project, move |thread, slot, cancelled, reply| {
                begin(thread, slot, cancelled, &request, &unit, reply);
            })
            .await?;
        let turns = Turns::new();
        let mut under_way = FuturesUnordered::new();
        let mut aborts: Vec<(u32, AbortHandle)> = Vec::new();
        loop {
            let mut waiting = match answer {
                Answer::Ended(result) => return result,
                Answer::Waiting(waiting) => waiting,
            };
            let (started, cancelled) = waiting.step.take_calls();
            let deadline = waiting.step.state_mut().deadline();
            for Started { id, call } in started {
                let (handle, registration) = AbortHandle::new_pair();
                aborts.push((id, handle));
                let (host, turns) = (Arc::clone(&host), &turns);
                let left = deadline.saturating_duration_since(Instant::now());
                let performed = async move { (id, call.perform(&*host, turns, left).await) };
                under_way.push(Abortable::new(performed, registration));
            }
            aborts.retain(|(id, handle)| {
                let unwanted = cancelled.contains(id);
                if unwanted {
                    handle.abort();
                }
                !unwanted
            });
            let settled = tokio::select! {
                biased;
                settled = next_settled(&mut under_way, &mut waiting.step) => settled,
                () = tokio::time::sleep_until(deadline.into()) => {
                    return Err(CodeError::Timeout { limit: waiting.step.state_mut().limits.timeout() });
                }
            };
            let Some((id, result)) = settled else { return Err(CodeError::Unsettled) };
            aborts.retain(|(other, _)| *other != id);
            answer = self.settle(project, waiting, (now, metering), (id, result)).await?;
        }
    }

    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        let project = request.project;
        self.start_on_thread(project, move |thread, slot, cancelled, reply| {
            match evaluate(thread, &request, &cancelled) {
                Ok((results, step)) => {
                    reply.send(Ok(results));
                    // Cleaning the instance is not part of the caller's wait.
                    drop(step);
                }
                Err(error) => reply.send(Err(error)),
            }
            drop(slot);
        })
        .await?
    }
}

impl WasmSandbox {
    /// Goes on with a step whose host call has ended.
    async fn settle(
        &self,
        project: ProjectId,
        waiting: Box<WaitingStep>,
        (now, metering): (Timestamp, Metering),
        (id, result): (u32, Result<Vec<u8>, HostError>),
    ) -> Result<Answer, CodeError> {
        let (reply, answer) = oneshot::channel();
        let cancelled = Arc::clone(&waiting.cancelled);
        let mut cancel = CancelOnDrop { engines: &self.engines, cancelled, armed: true };
        let go_on = Box::new(move |thread: &Thread| {
            let WaitingStep { mut step, slot, cancelled } = *waiting;
            let Some(engine) = engine(thread, metering) else { return };
            step.state_mut().advance_clock(now);
            let (succeeded, bytes) = match result {
                Ok(bytes) => (true, bytes),
                Err(error) => (false, error.into_text()),
            };
            let turn = step.settle((engine, &thread.seat()), id, (succeeded, &bytes));
            finish(turn, WaitingStep { step, slot, cancelled }, Reply(reply));
        });
        self.scheduler.go_on(project, go_on);
        let answer = answer.await;
        cancel.armed = false;
        answer.map_err(|_| bug("a step was lost"))
    }
}

/// The first call that ends; `None` if none is under way.
async fn next_settled(
    under_way: &mut FuturesUnordered<impl Future<Output = Result<Settled, futures_util::future::Aborted>>>,
    step: &mut Step,
) -> Option<Settled> {
    loop {
        let Ok(settled) = under_way.next().await? else { continue };
        if let Some(calls) = &mut step.state_mut().calls {
            calls.ended(settled.0);
        }
        return Some(settled);
    }
}

/// A call of the step and how it ended.
type Settled = (u32, Result<Vec<u8>, HostError>);

/// The first turn of a step, on a sandbox thread.
fn begin(
    thread: &Thread,
    slot: Slot,
    cancelled: Arc<AtomicBool>,
    request: &CodeRequest,
    unit: &CodeUnit,
    reply: Reply<Answer>,
) {
    let limits = &request.limits;
    let begun = compiled(thread, request.project, unit, (limits, &cancelled)).and_then(|code| {
        let engine = engine(thread, limits.metering()).ok_or_else(|| bug("the engine that counts fuel is missing"))?;
        let calls = HostCalls::new(Arc::clone(&request.host), limits.host_calls(), &request.seed);
        let state = StepState::new(limits.clone(), request.now, Some(calls), Arc::clone(&cancelled));
        let mut step = Step::new(engine, state)?;
        let turn =
            step.run((engine, &thread.seat()), &code, (&request.params, &request.context), engine_seed(&request.seed));
        Ok((turn, step))
    });
    match begun {
        Ok((turn, step)) => finish(turn, WaitingStep { step, slot, cancelled }, reply),
        Err(error) => reply.send(Answer::Ended(Err(error))),
    }
}

/// Answers with the end of a turn. Cleaning the instance is not part of the caller's wait.
fn finish(turn: Turn, step: WaitingStep, reply: Reply<Answer>) {
    match turn {
        Turn::Ended(result) => {
            reply.send(Answer::Ended(result));
            drop(step);
        }
        Turn::Waiting => reply.send(Answer::Waiting(Box::new(step))),
    }
}

fn evaluate(
    thread: &Thread,
    request: &ExpressionRequest,
    cancelled: &Arc<AtomicBool>,
) -> Result<(Vec<Result<Value, CodeError>>, Step), CodeError> {
    let limits = &request.limits;
    let engine = engine(thread, limits.metering()).ok_or_else(|| bug("the engine that counts fuel is missing"))?;
    let mut step = Step::new(engine, StepState::new(limits.clone(), request.now, None, Arc::clone(cancelled)))?;
    let one = |expression: &Arc<str>| {
        let unit = CodeUnit::Expression(Arc::clone(expression));
        check_size(&unit, limits)?;
        let code = compiled(thread, request.project, &unit, (limits, cancelled))?;
        step.evaluate((engine, &thread.seat()), &code, &request.variables, engine_seed(&request.seed))
    };
    let results = request.expressions.iter().map(one).collect();
    Ok((results, step))
}

/// The bytecode of a unit, from the cache or from a compiler of its own.
fn compiled(
    thread: &Thread,
    project: ProjectId,
    unit: &CodeUnit,
    (limits, cancelled): (&CodeLimits, &Arc<AtomicBool>),
) -> Result<Arc<[u8]>, CodeError> {
    let key = CodeKey::new(project, unit);
    if let Some(code) = thread.cache.get(&key) {
        return Ok(code);
    }
    let code = compile(thread, unit, (limits, cancelled)).map_err(|error| match (error, unit) {
        (
            CodeError::InvalidSource { message, place },
            CodeUnit::Module { source, language: CodeLanguage::JavaScript },
        ) if is_typescript(thread, source, (limits, cancelled)) => {
            let message = format!("{message}; it is TypeScript: say so with `\"language\": \"typescript\"`");
            CodeError::InvalidSource { message, place }
        }
        (error, _) => error,
    })?;
    thread.cache.insert(key, Arc::clone(&code));
    Ok(code)
}

/// Compiles in an instance that is used for nothing else.
fn compile(
    thread: &Thread,
    unit: &CodeUnit,
    (limits, cancelled): (&CodeLimits, &Arc<AtomicBool>),
) -> Result<Arc<[u8]>, CodeError> {
    let translator: &[u8] = match unit {
        CodeUnit::Module { language: CodeLanguage::TypeScript, .. } => TRANSLATOR,
        _ => &[],
    };
    // Compiling is not part of what a step consumes.
    let limits = limits.clone().with_metering(Metering::Clock).map_err(|error| bug(&error.to_string()))?;
    let state = StepState::new(limits, Timestamp::from_micros(0), None, Arc::clone(cancelled));
    let engine = thread.engines.timed();
    Step::new(engine, state)?.compile((engine, &thread.seat()), unit, translator)
}

/// Whether a source that is no JavaScript compiles without its types.
fn is_typescript(thread: &Thread, source: &Arc<str>, limits: (&CodeLimits, &Arc<AtomicBool>)) -> bool {
    let unit = CodeUnit::Module { source: Arc::clone(source), language: CodeLanguage::TypeScript };
    compile(thread, &unit, limits).is_ok()
}

fn engine(thread: &Thread, metering: Metering) -> Option<&LoadedEngine> {
    match metering {
        Metering::Clock => Some(thread.engines.timed()),
        Metering::Fuel(_) => thread.engines.metered(),
    }
}

fn check_size(unit: &CodeUnit, limits: &CodeLimits) -> Result<(), CodeError> {
    let (CodeUnit::Module { source, .. } | CodeUnit::Expression(source)) = unit;
    let limit_bytes = limits.source_bytes();
    if source.len() > limit_bytes { Err(CodeError::SourceTooLarge { limit_bytes }) } else { Ok(()) }
}

fn bug(message: &str) -> CodeError {
    CodeError::Bug { message: message.to_owned() }
}

impl fmt::Debug for WasmSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmSandbox").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Interrupts a step whose caller has gone.
struct CancelOnDrop<'a> {
    engines: &'a Engines,
    cancelled: Arc<AtomicBool>,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.cancelled.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst); // a guest that sees the new epoch must see the flag
            self.engines.increment_epoch();
        }
    }
}

/// The engine's bytecode of what removes types; `xtask/build-engine` makes it.
const TRANSLATOR: &[u8] = include_bytes!("../../engine-js/typescript.bin");

const MAX_THREADS: usize = 128;
const MAX_QUEUE: usize = 1 << 16;
const MAX_LIVE: usize = 4_096;

/// How much compiled code is kept. Unit: bytes.
const CACHE_BYTES: usize = 64 << 20;
