//! The sandbox's own threads: steps never compute on the host's.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::cache::CodeCache;
use super::deadline::DeadlineTimer;
use super::engine::{Engines, MAX_WASM_STACK};
use super::scheduler::{Scheduler, Work};
use super::step::Seat;

/// Threads that run steps. Dropping it waits until each has stopped.
pub(crate) struct WorkerPool {
    scheduler: Arc<Scheduler>,
    threads: Vec<JoinHandle<()>>,
}

/// What a step finds on the thread that runs it.
pub(crate) struct Thread {
    pub(crate) engines: Arc<Engines>,
    pub(crate) cache: Arc<CodeCache>,
    timer: Arc<DeadlineTimer>,
    index: usize,
}

impl WorkerPool {
    pub(crate) fn start(
        engines: &Arc<Engines>,
        cache: &Arc<CodeCache>,
        scheduler: Arc<Scheduler>,
        threads: usize,
    ) -> io::Result<Self> {
        let timer = Arc::new(DeadlineTimer::start(Arc::clone(engines), threads)?);
        let mut pool = Self { scheduler, threads: Vec::with_capacity(threads) };
        for index in 0..threads {
            let (engines, cache, timer) = (Arc::clone(engines), Arc::clone(cache), Arc::clone(&timer));
            let (thread, scheduler) = (Thread { engines, cache, timer, index }, Arc::clone(&pool.scheduler));
            let builder = thread::Builder::new().name(format!("ap-code-{index}")).stack_size(THREAD_STACK);
            pool.threads.push(builder.spawn(move || thread.serve(&scheduler))?);
        }
        Ok(pool)
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.scheduler.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic is caught where it happens
        }
    }
}

impl Thread {
    pub(crate) fn seat(&self) -> Seat<'_> {
        Seat { timer: &self.timer, index: self.index }
    }

    fn serve(&self, scheduler: &Arc<Scheduler>) {
        while let Some((project, work)) = scheduler.next() {
            // The engine is left as it was even by a panic, since an instance belongs to one step; whoever waits for the
            // answer learns that there will be none.
            let _ = catch_unwind(AssertUnwindSafe(|| match work {
                Work::Start(start, slot) => start(self, slot),
                Work::GoOn(go_on) => go_on(self),
            }));
            scheduler.done(project);
        }
    }
}

/// The guest's native stack and as much again for the host's functions.
const THREAD_STACK: usize = 2 * MAX_WASM_STACK;
