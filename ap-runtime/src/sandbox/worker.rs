//! The sandbox's own threads: steps never compute on the host's.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::oneshot;

use super::deadline::DeadlineTimer;
use super::engine::{LoadedEngine, MAX_WASM_STACK};
use super::step::Step;
use super::{CodeError, CodeOutput, CodeRequest};

/// Threads that run steps, and the bounded queue before them. Dropping it waits until each thread has stopped.
pub(crate) struct WorkerPool {
    queue: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// A step on its way to a thread.
pub(crate) struct Job {
    pub(crate) request: CodeRequest,
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) reply: oneshot::Sender<Result<CodeOutput, CodeError>>,
}

impl WorkerPool {
    pub(crate) fn start(engine: &LoadedEngine, threads: usize, queue: usize) -> io::Result<Self> {
        let timer = Arc::new(DeadlineTimer::start(engine.engine.clone(), threads)?);
        let (sender, receiver) = sync_channel(queue);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut pool = Self { queue: Some(sender), threads: Vec::with_capacity(threads) };
        for slot in 0..threads {
            let worker =
                Worker { slot, engine: engine.clone(), timer: Arc::clone(&timer), queue: Arc::clone(&receiver) };
            let builder = thread::Builder::new().name(format!("ap-code-{slot}")).stack_size(THREAD_STACK);
            pool.threads.push(builder.spawn(move || worker.serve())?);
        }
        Ok(pool)
    }

    /// Queues a step, unless the queue is full.
    pub(crate) fn submit(&self, job: Job) -> Result<(), CodeError> {
        let queue = self.queue.as_ref().ok_or_else(|| bug("it has been shut down"))?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => CodeError::Busy,
            TrySendError::Disconnected(_) => bug("its threads are gone"),
        })
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        drop(self.queue.take()); // the threads stop when it is empty
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic is caught and reported where it happens
        }
    }
}

struct Worker {
    slot: usize,
    engine: LoadedEngine,
    timer: Arc<DeadlineTimer>,
    queue: Arc<Mutex<Receiver<Job>>>,
}

impl Worker {
    fn serve(&self) {
        while let Some(job) = self.next() {
            if job.cancelled.load(Ordering::SeqCst) {
                continue;
            }
            let Job { request, cancelled, reply } = job;
            // The engine is left as it was even by a panic: an instance belongs to one step.
            let ran = catch_unwind(AssertUnwindSafe(|| self.run(request, cancelled)));
            let (result, step) =
                ran.map_or_else(|_| (Err(bug("a panic")), None), |(result, step)| (result, Some(step)));
            let _ = reply.send(result); // the caller may have gone
            drop(step); // cleaning the instance is not part of the caller's wait
        }
    }

    fn next(&self) -> Option<Job> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    fn run(&self, request: CodeRequest, cancelled: Arc<AtomicBool>) -> (Result<CodeOutput, CodeError>, Step) {
        let deadline = Instant::now() + request.limits.timeout();
        let mut step = Step::new(&self.engine, request, deadline, cancelled);
        let armed = self.timer.arm(self.slot, deadline);
        let result = step.run(&self.engine);
        drop(armed);
        (result, step)
    }
}

pub(super) fn bug(message: &str) -> CodeError {
    CodeError::Bug { message: message.to_owned() }
}

/// The guest's native stack and as much again for the host's functions.
const THREAD_STACK: usize = 2 * MAX_WASM_STACK;
