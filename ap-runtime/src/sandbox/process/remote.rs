//! Computing steps in a worker process: the host's half of it.
//!
//! Each thread of a worker has a counterpart here, and a connection between the two. The counterpart answers the guest's calls
//! with the secrets and the host that never leave this process, and counts them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ap_core::id::ProjectId;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::message::{self, to_host, to_worker};
use super::post::{Process, Shared};
use super::wire::{Fields, Frame, Malformed, Wire, WireError};
use super::{MOST_TO_HOST, next_id};
use crate::sandbox::calls::{Border as _, HostAnswer, HostCalls, Started};
use crate::sandbox::conduct::bug;
use crate::sandbox::crypto::engine_seed;
use crate::sandbox::place::{LiveStep, Place, Results};
use crate::sandbox::scheduler::Slot;
use crate::sandbox::state::Interrupt;
use crate::sandbox::step::{Turn, Written};
use crate::sandbox::{CodeError, CodeLimits, CodeOutput, CodeRequest, CodeUnit, ExpressionRequest, output};

/// The worker process at a post.
pub(super) struct There {
    pub(super) post: Arc<Shared>,
}

/// The counterpart of a worker's thread.
pub(super) struct RemoteThread {
    pub(super) post: Arc<Shared>,
    pub(super) index: usize,
}

/// A call, by the number under which the worker knows it.
pub(super) struct Ticket {
    id: u64,
    cancelled: AtomicBool,
    /// Where it is.
    at: Mutex<Option<Arc<Process>>>,
}

/// A step whose instance is in a worker.
pub(super) struct RemoteStep {
    ticket: Arc<Ticket>,
    process: Arc<Process>,
    calls: HostCalls,
    limits: CodeLimits,
    began: Instant,
    cpu_left: Duration,
    /// When its turn began, without the compiler's time.
    turn_began: Instant,
    /// It has not had a turn yet.
    is_new: bool,
    /// Why it was told to stop when it asked for something.
    stopped_for: Option<CodeError>,
    /// Until it has ended.
    slot: Option<Slot<RemoteThread>>,
}

/// Why a worker gave no answer.
enum Failure {
    /// It ended.
    Lost,
    /// It did not keep to what workers do.
    Broken,
    /// It did not answer in time.
    Late,
}

impl Ticket {
    /// Hands the call to a process, unless its caller has gone.
    fn hand_to(&self, process: &Arc<Process>) -> bool {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(process));
        !self.cancelled.load(Ordering::SeqCst)
    }
}

impl RemoteThread {
    /// Asks for something that no host is needed for; `each` takes what comes before the last answer.
    fn ask(
        &self,
        ticket: &Ticket,
        (frame, limits): (Frame, &CodeLimits),
        (units, last): (usize, u8),
        mut each: impl FnMut(Result<Vec<u8>, CodeError>) -> Result<(), Malformed>,
    ) -> Result<Vec<u8>, CodeError> {
        let process = self.post.process().ok_or(CodeError::Busy)?;
        if !ticket.hand_to(&process) {
            return Err(CodeError::Busy); // nobody waits for it
        }
        let time = limits.timeout() + process.grace();
        let asked = self.link(&process, |link| {
            let mut until = Instant::now() + time;
            let mut compilations = units;
            link.send(frame, Some(until))?;
            loop {
                let frame = link.receive(MOST_TO_HOST, Some(until))?;
                let mut fields = Fields::new(&frame);
                match fields.u8()? {
                    to_host::COMPILING => {
                        compilations = compilations.checked_sub(1).ok_or(Malformed)?;
                        compiled(link, Instant::now() + time + limits.timeout())?;
                        until = Instant::now() + time;
                    }
                    to_host::EVALUATED => each(message::read_result(fields, limits)?)?,
                    kind if kind == last => return Ok(message::read_result(fields, limits)?),
                    _ => return Err(Failure::Broken),
                }
            }
        });
        asked.unwrap_or_else(|failure| Err(failure.explain(&process, limits)))
    }

    fn link<T>(&self, process: &Process, talk: impl FnOnce(&mut Wire) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut link = process.link(self.index).ok_or(Failure::Lost)?;
        talk(&mut link)
    }

    /// Runs a step until it ends or waits, and answers what it asks.
    fn turn(&self, step: &mut RemoteStep, frame: Frame) -> Turn<CodeOutput> {
        let process = Arc::clone(&step.process);
        step.turn_began = Instant::now();
        let turn = self.link(&process, |link| step.converse(link, frame));
        step.cpu_left = step.cpu_left.saturating_sub(step.turn_began.elapsed());
        let turn = turn.unwrap_or_else(|failure| Turn::Ended(Err(failure.explain(&process, &step.limits))));
        if matches!(turn, Turn::Ended(_)) {
            step.slot = None;
        }
        turn.read()
    }
}

impl RemoteStep {
    /// When the turn under way must have ended.
    fn until(&self) -> Instant {
        let left = self.deadline().saturating_duration_since(Instant::now()).min(self.cpu_left);
        Instant::now() + left + self.process.grace()
    }

    fn converse(&mut self, link: &mut Wire, frame: Frame) -> Result<Turn<Written>, Failure> {
        let mut until = self.until();
        // After an answer, which takes the host's time, there is some left to end in.
        let mut patience = until;
        let mut may_compile = std::mem::take(&mut self.is_new);
        link.send(frame, Some(until))?;
        loop {
            let frame = link.receive(MOST_TO_HOST, Some(patience))?;
            let mut fields = Fields::new(&frame);
            match fields.u8()? {
                kind @ (to_host::CALL | to_host::START) => {
                    if self.stopped_for.is_some() {
                        return Err(Failure::Broken); // a guest that was stopped calls no more
                    }
                    if Instant::now() > until {
                        return Err(Failure::Late); // by then it asks for nothing
                    }
                    let answered = if kind == to_host::CALL { self.call(fields) } else { self.start(fields) };
                    let answer = self.answer(answered?)?;
                    patience = until.max(Instant::now() + self.process.grace());
                    link.send(answer, Some(patience))?;
                }
                to_host::COMPILING if std::mem::take(&mut may_compile) => {
                    compiled(link, self.until() + 2 * self.limits.timeout())?;
                    self.began = Instant::now();
                    self.turn_began = self.began;
                    until = self.until();
                    patience = until;
                }
                to_host::WAITING => return Ok(Turn::Waiting),
                to_host::ENDED => {
                    let ended = message::read_ended(fields, &self.limits)?;
                    return Ok(Turn::Ended(ended.map_err(|error| self.with_limit(error))));
                }
                _ => return Err(Failure::Broken),
            }
        }
    }

    fn call(&mut self, fields: Fields<'_>) -> Result<Result<HostAnswer, Interrupt>, Malformed> {
        let (operation, arguments) = message::read_call(fields)?;
        Ok(match arguments {
            Some(arguments) => self.calls.call(operation, &arguments),
            None => self.calls.refuse(),
        })
    }

    fn start(&mut self, mut fields: Fields<'_>) -> Result<Result<HostAnswer, Interrupt>, Malformed> {
        let id = fields.u32()?;
        let (operation, arguments) = message::read_call(fields)?;
        let started = match arguments {
            Some(arguments) => self.calls.start(id, operation, &arguments),
            None => self.calls.refuse_start(id),
        };
        Ok(started.map(|()| Ok(Vec::new())))
    }

    /// What the worker gets. What a step could not hold is not sent: that ends the step, and would end the worker.
    fn answer(&mut self, answered: Result<HostAnswer, Interrupt>) -> Result<Frame, Failure> {
        let frame = Frame::new(to_worker::ANSWER);
        let why = match answered {
            Ok(answer) => match fits(length(&answer), &self.limits) {
                Ok(()) => return Ok(message::answer(frame, &answer)),
                Err(error) => error,
            },
            Err(Interrupt::HostCalls { what, limit }) => CodeError::HostCallLimit { what, limit },
            Err(_) => return Err(Failure::Broken),
        };
        self.stopped_for = Some(why);
        Ok(frame.u8(message::STOPPED))
    }

    /// The error of a step that was stopped, as its host knows it.
    fn with_limit(&self, error: CodeError) -> CodeError {
        match (error, &self.stopped_for) {
            (CodeError::HostCallLimit { .. }, Some(why)) => why.clone(),
            (error, _) => error,
        }
    }
}

impl Failure {
    /// What whoever waits is told. A process that is there still is stopped.
    fn explain(self, process: &Process, limits: &CodeLimits) -> CodeError {
        match self {
            Self::Lost => return CodeError::WorkerLost { how: process.how_it_left() },
            Self::Broken => process.kill("it broke the rules between host and worker"),
            Self::Late => {
                process.kill("a step did not end when its time was up");
                return CodeError::Timeout { limit: limits.timeout() };
            }
        }
        CodeError::WorkerLost { how: process.how_it_ended() }
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed => Self::Lost,
            WireError::Late => Self::Late,
            WireError::TooLong(_) => Self::Broken,
            WireError::Io(_) => Self::Lost,
        }
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Broken
    }
}

impl Place for There {
    type Thread = RemoteThread;
    type Step = RemoteStep;
    type Rest = ();
    type Ticket = Arc<Ticket>;

    fn ticket(&self) -> Arc<Ticket> {
        Arc::new(Ticket { id: next_id(), cancelled: AtomicBool::new(false), at: Mutex::default() })
    }

    fn cancel(&self, ticket: &Arc<Ticket>) {
        ticket.cancelled.store(true, Ordering::SeqCst);
        if let Some(process) = &*ticket.at.lock().unwrap_or_else(PoisonError::into_inner) {
            process.cancel(ticket.id);
        }
    }

    fn is_cancelled(ticket: &Arc<Ticket>) -> bool {
        ticket.cancelled.load(Ordering::SeqCst)
    }

    fn check(
        thread: &RemoteThread,
        project: ProjectId,
        unit: &CodeUnit,
        ticket: &Arc<Ticket>,
    ) -> Result<(), CodeError> {
        let frame = message::unit(message::request(to_worker::CHECK, ticket.id, project), unit);
        let asked = (frame, &CodeLimits::default());
        thread.ask(ticket, asked, (1, to_host::CHECKED), |_| Err(Malformed)).map(|_| ())
    }

    fn begin(
        thread: &RemoteThread,
        slot: Slot<RemoteThread>,
        request: &CodeRequest,
        ticket: &Arc<Ticket>,
    ) -> Result<(Turn<CodeOutput>, RemoteStep), CodeError> {
        let limits = &request.limits;
        fits(request.params.len().saturating_add(request.context.len()), limits)?;
        let process = thread.post.process().ok_or(CodeError::Busy)?;
        if !ticket.hand_to(&process) {
            return Err(CodeError::Busy); // nobody waits for it
        }
        let unit = CodeUnit::Module { source: Arc::clone(&request.source), language: request.language };
        let frame = message::unit(message::request(to_worker::BEGIN, ticket.id, request.project), &unit);
        let frame = frame.bytes(&request.params).bytes(&request.context);
        // The seed stays here: what a script draws for itself comes from the host.
        let frame = message::conditions(frame, request.now, engine_seed(&request.seed), limits);
        let mut step = RemoteStep {
            ticket: Arc::clone(ticket),
            process,
            calls: HostCalls::new(Arc::clone(&request.host), limits.host_calls(), &request.seed),
            limits: limits.clone(),
            began: Instant::now(),
            cpu_left: limits.cpu_time(),
            turn_began: Instant::now(),
            is_new: true,
            stopped_for: None,
            slot: Some(slot),
        };
        let turn = thread.turn(&mut step, frame);
        Ok((turn, step))
    }

    fn settle(thread: &RemoteThread, step: &mut RemoteStep, id: u32, answer: HostAnswer) -> Turn<CodeOutput> {
        if Self::is_cancelled(&step.ticket) {
            return Turn::Ended(Err(CodeError::Busy)); // nobody waits for it
        }
        // What does not fit ends the step, and its instance goes with it.
        if let Err(error) = fits(length(&answer), &step.limits) {
            return Turn::Ended(Err(error));
        }
        let frame = Frame::new(to_worker::SETTLE).u64(step.ticket.id).u32(id);
        thread.turn(step, message::answer(frame, &answer))
    }

    fn evaluate(
        thread: &RemoteThread,
        request: &ExpressionRequest,
        ticket: &Arc<Ticket>,
    ) -> Result<(Results<Value>, ()), CodeError> {
        let limits = &request.limits;
        let count = request.expressions.len();
        let too_large = |text: &Arc<str>| (text.len() > limits.source_bytes()).then(|| limits.source_bytes());
        // One that is too long is refused by itself, and takes no room on the way.
        let sent: Vec<&str> =
            request.expressions.iter().map(|text| if too_large(text).is_some() { "" } else { &**text }).collect();
        let total =
            sent.iter().fold(request.variables.len(), |sum, text| sum.saturating_add(text.len()).saturating_add(8));
        fits(total, limits)?;
        let frame = message::request(to_worker::EVALUATE, ticket.id, request.project).size(count);
        let frame = sent.iter().fold(frame, |frame, text| frame.bytes(text.as_bytes())).bytes(&request.variables);
        let frame = message::conditions(frame, request.now, engine_seed(&request.seed), limits);
        let mut results = Vec::new();
        thread.ask(ticket, (frame, limits), (count, to_host::ALL_EVALUATED), |result| {
            if results.len() >= count {
                return Err(Malformed);
            }
            results.push(result.and_then(output::parse));
            Ok(())
        })?;
        if results.len() != count {
            return Err(bug("results are missing"));
        }
        for (result, text) in results.iter_mut().zip(&request.expressions) {
            if let Some(limit_bytes) = too_large(text) {
                *result = Err(CodeError::SourceTooLarge { limit_bytes });
            }
        }
        Ok((results, ()))
    }
}

impl LiveStep for RemoteStep {
    fn take_calls(&mut self) -> (Vec<Started>, Vec<u32>) {
        self.calls.take()
    }

    fn ended(&mut self, id: u32) {
        self.calls.ended(id);
    }

    fn deadline(&self) -> Instant {
        self.began + self.limits.timeout()
    }

    fn lost(&self) -> BoxFuture<'static, CodeError> {
        let (gone, process) = (self.process.gone(), Arc::clone(&self.process));
        Box::pin(async move {
            gone.cancelled().await;
            CodeError::WorkerLost { how: process.how_it_ended() }
        })
    }
}

impl Drop for RemoteStep {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.process.forget(self.ticket.id, slot);
        }
    }
}

/// Waits until a compiler is done: a worker says nothing else in between.
fn compiled(link: &mut Wire, until: Instant) -> Result<(), Failure> {
    if link.receive(1, Some(until))? == [to_host::COMPUTING] { Ok(()) } else { Err(Failure::Broken) }
}

fn length(answer: &HostAnswer) -> usize {
    let (Ok(bytes) | Err(bytes)) = answer;
    bytes.len()
}

/// Whether input can fit the memory of a step at all. The engine refuses it else, in the same words.
fn fits(bytes: usize, limits: &CodeLimits) -> Result<(), CodeError> {
    let limit_bytes = limits.memory_bytes();
    if bytes > limit_bytes { Err(CodeError::MemoryLimit { limit_bytes }) } else { Ok(()) }
}
