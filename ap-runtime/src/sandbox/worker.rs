//! The sandbox's own threads: steps never compute on the host's.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::engine::MAX_WASM_STACK;
use super::scheduler::{Scheduler, Work};

/// Threads that run steps. Dropping it waits until each has stopped.
pub(crate) struct WorkerPool<T> {
    scheduler: Arc<Scheduler<T>>,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> WorkerPool<T> {
    /// Starts a thread for each of `threads`, which is what a step finds there.
    pub(crate) fn start(scheduler: Arc<Scheduler<T>>, threads: Vec<T>) -> io::Result<Self> {
        let mut pool = Self { scheduler, threads: Vec::with_capacity(threads.len()) };
        for (index, thread) in threads.into_iter().enumerate() {
            let scheduler = Arc::clone(&pool.scheduler);
            let builder = thread::Builder::new().name(format!("ap-code-{index}")).stack_size(THREAD_STACK);
            pool.threads.push(builder.spawn(move || serve(&thread, &scheduler))?);
        }
        Ok(pool)
    }
}

impl<T> Drop for WorkerPool<T> {
    fn drop(&mut self) {
        self.scheduler.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic is caught where it happens
        }
    }
}

fn serve<T>(thread: &T, scheduler: &Arc<Scheduler<T>>) {
    while let Some((project, work)) = scheduler.next() {
        // The engine is left as it was even by a panic, since an instance belongs to one step; whoever waits for the
        // answer learns that there will be none.
        let _ = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Start(start, slot) => start(thread, slot),
            Work::GoOn(go_on) => go_on(thread),
        }));
        scheduler.done(project);
    }
}

/// The guest's native stack and as much again for the host's functions.
pub(crate) const THREAD_STACK: usize = 2 * MAX_WASM_STACK;
