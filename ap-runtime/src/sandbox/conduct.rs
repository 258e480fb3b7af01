//! From request to output, wherever a step is computed: its start, the calls it waits for, its end.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use ap_core::id::ProjectId;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use tokio::sync::oneshot;

use super::calls::{HostAnswer, Started, Turns};
use super::place::{LiveStep, Place};
use super::scheduler::{Rules, Scheduler, Slot, StartId};
use super::step::Turn;
use super::worker::WorkerPool;
use super::{CodeError, CodeLimits, CodeOutput, CodeRequest, CodeUnit, ExpressionRequest};

/// Brings requests to a place, in turns, and answers them. Dropping it waits for its threads.
pub(crate) struct Conductor<P: Place> {
    place: P,
    scheduler: Arc<Scheduler<P::Thread>>,
    /// Dropped with it: stops the threads.
    _workers: WorkerPool<P::Thread>,
}

impl<P: Place> Conductor<P> {
    pub(crate) fn start(place: P, rules: Rules, threads: Vec<P::Thread>) -> io::Result<Self> {
        let scheduler = Arc::new(Scheduler::new(rules));
        let workers = WorkerPool::start(Arc::clone(&scheduler), threads)?;
        Ok(Self { place, scheduler, _workers: workers })
    }

    #[cfg(feature = "process-isolation")]
    pub(crate) fn place(&self) -> &P {
        &self.place
    }

    pub(crate) async fn check(&self, project: ProjectId, unit: CodeUnit) -> Result<(), CodeError> {
        check_size(&unit, &CodeLimits::default())?;
        self.start_on_thread(project, move |thread, slot, ticket, reply| {
            let checked = P::check(thread, project, &unit, &ticket);
            drop(slot);
            reply.send(checked);
        })
        .await?
    }

    pub(crate) async fn evaluate(
        &self,
        request: ExpressionRequest,
    ) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        self.start_on_thread(request.project, move |thread, slot, ticket, reply| {
            match P::evaluate(thread, &request, &ticket) {
                Ok((results, rest)) => {
                    reply.send(Ok(results));
                    // Cleaning the instance is not part of the caller's wait.
                    drop(rest);
                }
                Err(error) => reply.send(Err(error)),
            }
            drop(slot);
        })
        .await?
    }

    pub(crate) async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        let unit = CodeUnit::Module { source: Arc::clone(&request.source), language: request.language };
        check_size(&unit, &request.limits)?;
        let (project, timeout, host) = (request.project, request.limits.timeout(), Arc::clone(&request.host));
        let mut answer: Answer<P> = self
            .start_on_thread(project, move |thread, slot, ticket, reply| {
                match P::begin(thread, slot, &request, &ticket) {
                    Ok((turn, step)) => finish(turn, WaitingStep { step, ticket }, reply),
                    Err(error) => reply.send(Answer::Ended(Err(error))),
                }
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
            let (started, unwanted) = waiting.step.take_calls();
            let deadline = waiting.step.deadline();
            for Started { id, call } in started {
                let (handle, registration) = AbortHandle::new_pair();
                aborts.push((id, handle));
                let (host, turns) = (Arc::clone(&host), &turns);
                let left = deadline.saturating_duration_since(Instant::now());
                let performed = async move { (id, call.perform(&*host, turns, left).await) };
                under_way.push(Abortable::new(performed, registration));
            }
            aborts.retain(|(id, handle)| {
                let unwanted = unwanted.contains(id);
                if unwanted {
                    handle.abort();
                }
                !unwanted
            });
            let mut lost = waiting.step.lost();
            let settled = tokio::select! {
                biased;
                settled = next_settled(&mut under_way) => settled,
                () = tokio::time::sleep_until(deadline.into()) => return Err(CodeError::Timeout { limit: timeout }),
                error = &mut lost => return Err(error),
            };
            let Some((id, result)) = settled else { return Err(CodeError::Unsettled) };
            waiting.step.ended(id);
            aborts.retain(|(other, _)| *other != id);
            answer = self.settle(project, waiting, id, result).await?;
        }
    }

    /// Queues the start of a step and waits for what `start` answers on a sandbox thread.
    async fn start_on_thread<T: Send + 'static>(
        &self,
        project: ProjectId,
        start: impl FnOnce(&P::Thread, Slot<P::Thread>, P::Ticket, Reply<T>) + Send + 'static,
    ) -> Result<T, CodeError> {
        let (reply, answer) = oneshot::channel();
        let ticket = self.place.ticket();
        let cancelled = ticket.clone();
        let start = Box::new(move |thread: &P::Thread, slot| {
            if !P::is_cancelled(&cancelled) {
                start(thread, slot, cancelled, Reply(reply));
            }
        });
        let queued = Some(self.scheduler.start(project, start)?);
        let mut cancel = CancelOnDrop { conductor: self, project, ticket, queued, armed: true };
        let answer = answer.await;
        cancel.armed = false;
        answer.map_err(|_| bug("a step was lost"))
    }

    /// Goes on with a step whose host call has ended.
    async fn settle(
        &self,
        project: ProjectId,
        waiting: Box<WaitingStep<P>>,
        id: u32,
        result: HostAnswer,
    ) -> Result<Answer<P>, CodeError> {
        let (reply, answer) = oneshot::channel();
        let ticket = waiting.ticket.clone();
        let mut cancel = CancelOnDrop { conductor: self, project, ticket, queued: None, armed: true };
        let go_on = Box::new(move |thread: &P::Thread| {
            let mut waiting = *waiting;
            let turn = P::settle(thread, &mut waiting.step, id, result);
            finish(turn, waiting, Reply(reply));
        });
        self.scheduler.go_on(project, go_on);
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
struct WaitingStep<P: Place> {
    step: P::Step,
    ticket: P::Ticket,
}

/// How a turn on a thread ended.
enum Answer<P: Place> {
    Ended(Result<CodeOutput, CodeError>),
    Waiting(Box<WaitingStep<P>>),
}

/// A call of the step and how it ended.
type Settled = (u32, HostAnswer);

/// The first call that ends; `None` if none is under way.
async fn next_settled(
    under_way: &mut FuturesUnordered<impl Future<Output = Result<Settled, Aborted>>>,
) -> Option<Settled> {
    loop {
        if let Ok(settled) = under_way.next().await? {
            return Some(settled);
        }
    }
}

/// Answers with the end of a turn. Cleaning the instance is not part of the caller's wait.
fn finish<P: Place>(turn: Turn<CodeOutput>, step: WaitingStep<P>, reply: Reply<Answer<P>>) {
    match turn {
        Turn::Ended(result) => {
            reply.send(Answer::Ended(result));
            drop(step);
        }
        Turn::Waiting => reply.send(Answer::Waiting(Box::new(step))),
    }
}

pub(crate) fn check_size(unit: &CodeUnit, limits: &CodeLimits) -> Result<(), CodeError> {
    let (CodeUnit::Module { source, .. } | CodeUnit::Expression(source)) = unit;
    let limit_bytes = limits.source_bytes();
    if source.len() > limit_bytes { Err(CodeError::SourceTooLarge { limit_bytes }) } else { Ok(()) }
}

pub(crate) fn bug(message: &str) -> CodeError {
    CodeError::Bug { message: message.to_owned() }
}

/// Interrupts a step whose caller has gone.
struct CancelOnDrop<'a, P: Place> {
    conductor: &'a Conductor<P>,
    project: ProjectId,
    ticket: P::Ticket,
    /// Its place in the queue.
    queued: Option<StartId>,
    armed: bool,
}

impl<P: Place> Drop for CancelOnDrop<'_, P> {
    fn drop(&mut self) {
        if self.armed {
            let unbegun = self.queued.is_some_and(|id| self.conductor.scheduler.forget(self.project, id));
            if !unbegun {
                self.conductor.place.cancel(&self.ticket);
            }
        }
    }
}

impl<P: Place> fmt::Debug for Conductor<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conductor").finish_non_exhaustive()
    }
}
