//! Computing steps on threads of this process.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Instant;

use ap_core::{id::ProjectId, time::Timestamp};
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::cache::{CodeCache, CodeKey};
use super::calls::{Border, HostAnswer, HostCalls, Started};
use super::conduct::{bug, check_size};
use super::crypto::engine_seed;
use super::deadline::DeadlineTimer;
use super::engine::{Engines, LoadedEngine};
use super::place::{LiveStep, Place, Results};
use super::scheduler::Slot;
use super::state::StepState;
use super::step::{Seat, Step, Turn, Written};
use super::{CodeError, CodeLanguage, CodeLimits, CodeOutput, CodeRequest, CodeUnit, ExpressionRequest, Metering};

/// This process.
pub(crate) struct Here {
    pub(crate) engines: Arc<Engines>,
    pub(crate) timer: Arc<DeadlineTimer>,
}

/// What a step finds on the thread that runs it.
pub(crate) struct Thread {
    pub(crate) engines: Arc<Engines>,
    pub(crate) cache: Arc<CodeCache>,
    pub(crate) timer: Arc<DeadlineTimer>,
    pub(crate) index: usize,
}

/// What a step starts with.
pub(crate) struct StepStart<'a> {
    pub(crate) params: &'a [u8],
    pub(crate) context: &'a [u8],
    pub(crate) now: Timestamp,
    /// Where the engine's own generator starts.
    pub(crate) seed: u64,
    pub(crate) limits: &'a CodeLimits,
}

/// What expressions start with.
pub(crate) struct ExpressionStart<'a> {
    pub(crate) project: ProjectId,
    pub(crate) expressions: &'a [Arc<str>],
    pub(crate) variables: &'a [u8],
    pub(crate) now: Timestamp,
    pub(crate) seed: u64,
    pub(crate) limits: &'a CodeLimits,
}

/// A step with its instance.
pub(crate) struct LocalStep {
    step: Step,
    /// What the clock showed first.
    now: Timestamp,
    metering: Metering,
}

/// A step among those that live here. The instance goes before its place.
pub(crate) struct PlacedStep {
    local: LocalStep,
    _slot: Slot<Thread>,
}

impl Thread {
    /// One thread's view of what all share, for each of `count`.
    pub(crate) fn all(
        engines: &Arc<Engines>,
        timer: &Arc<DeadlineTimer>,
        cache_bytes: usize,
        count: usize,
    ) -> Vec<Self> {
        let cache = Arc::new(CodeCache::new(cache_bytes));
        let one = |index| {
            let (engines, cache, timer) = (Arc::clone(engines), Arc::clone(&cache), Arc::clone(timer));
            Self { engines, cache, timer, index }
        };
        (0..count).map(one).collect()
    }

    fn seat(&self) -> Seat<'_> {
        Seat { timer: &self.timer, index: self.index }
    }

    fn engine(&self, metering: Metering) -> Result<&LoadedEngine, CodeError> {
        let engine = match metering {
            Metering::Clock => Some(self.engines.timed()),
            Metering::Fuel(_) => self.engines.metered(),
        };
        engine.ok_or_else(|| bug("the engine that counts fuel is missing"))
    }

    /// The bytecode of a unit, from the cache or from a compiler of its own; `compiles` is told that it begins to compile.
    pub(crate) fn compiled(
        &self,
        project: ProjectId,
        unit: &CodeUnit,
        (limits, cancelled): (&CodeLimits, &Arc<AtomicBool>),
        compiles: impl FnOnce() -> Result<(), CodeError>,
    ) -> Result<Arc<[u8]>, CodeError> {
        let key = CodeKey::new(project, unit);
        if let Some(code) = self.cache.get(&key) {
            return Ok(code);
        }
        compiles()?;
        let code = self.compile(unit, (limits, cancelled)).map_err(|error| match (error, unit) {
            (
                CodeError::InvalidSource { message, place },
                CodeUnit::Module { source, language: CodeLanguage::JavaScript },
            ) if self.is_typescript(source, (limits, cancelled)) => {
                let message = format!("{message}; it is TypeScript: say so with `\"language\": \"typescript\"`");
                CodeError::InvalidSource { message, place }
            }
            (error, _) => error,
        })?;
        self.cache.insert(key, Arc::clone(&code));
        Ok(code)
    }

    /// Compiles in an instance that is used for nothing else.
    fn compile(
        &self,
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
        let engine = self.engines.timed();
        Step::new(engine, state)?.compile((engine, &self.seat()), unit, translator)
    }

    /// Whether a source that is no JavaScript compiles without its types.
    fn is_typescript(&self, source: &Arc<str>, limits: (&CodeLimits, &Arc<AtomicBool>)) -> bool {
        let unit = CodeUnit::Module { source: Arc::clone(source), language: CodeLanguage::TypeScript };
        self.compile(&unit, limits).is_ok()
    }

    /// The first turn of a step whose bytecode is `code`.
    pub(crate) fn begin(
        &self,
        code: &[u8],
        start: &StepStart<'_>,
        border: Box<dyn Border>,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<(Turn<Written>, LocalStep), CodeError> {
        let metering = start.limits.metering();
        let engine = self.engine(metering)?;
        let state = StepState::new(start.limits.clone(), start.now, Some(border), Arc::clone(cancelled));
        let mut step = Step::new(engine, state)?;
        let turn = step.run((engine, &self.seat()), code, (start.params, start.context), start.seed);
        Ok((turn, LocalStep { step, now: start.now, metering }))
    }

    /// Goes on with a step.
    pub(crate) fn settle(&self, local: &mut LocalStep, id: u32, answer: &HostAnswer) -> Turn<Written> {
        let engine = match self.engine(local.metering) {
            Ok(engine) => engine,
            Err(error) => return Turn::Ended(Err(error)),
        };
        local.step.state_mut().advance_clock(local.now);
        let (succeeded, bytes) = match answer {
            Ok(bytes) => (true, bytes),
            Err(text) => (false, text),
        };
        local.step.settle((engine, &self.seat()), id, (succeeded, bytes))
    }

    /// Evaluates expressions in one instance, as long as that is whole; `computes` is told when one begins to compile and when it was compiled.
    pub(crate) fn evaluate(
        &self,
        start: &ExpressionStart<'_>,
        cancelled: &Arc<AtomicBool>,
        compiles: impl Fn(bool) -> Result<(), CodeError>,
    ) -> Result<(Results<Vec<u8>>, Step), CodeError> {
        let limits = start.limits;
        let engine = self.engine(limits.metering())?;
        let mut step = Step::new(engine, StepState::new(limits.clone(), start.now, None, Arc::clone(cancelled)))?;
        let mut results = Vec::with_capacity(start.expressions.len());
        for expression in start.expressions {
            step = step.unbroken(engine)?;
            results.push(self.evaluate_one(start, expression, (&mut step, cancelled), &compiles));
        }
        Ok((results, step))
    }

    fn evaluate_one(
        &self,
        start: &ExpressionStart<'_>,
        expression: &Arc<str>,
        (step, cancelled): (&mut Step, &Arc<AtomicBool>),
        compiles: impl Fn(bool) -> Result<(), CodeError>,
    ) -> Result<Vec<u8>, CodeError> {
        let unit = CodeUnit::Expression(Arc::clone(expression));
        check_size(&unit, start.limits)?;
        let began = Cell::new(false);
        let code = self.compiled(start.project, &unit, (start.limits, cancelled), || {
            began.set(true);
            compiles(true)
        });
        if began.get() {
            compiles(false)?;
        }
        step.evaluate((self.engine(start.limits.metering())?, &self.seat()), &code?, start.variables, start.seed)
    }
}

impl LocalStep {
    /// Who answers the calls of the next turn.
    #[cfg(feature = "process-isolation")]
    pub(crate) fn set_border(&mut self, border: Box<dyn Border>) {
        self.step.state_mut().calls = Some(border);
    }
}

/// Asks the guest whose flag this is to stop.
pub(crate) fn interrupt(flag: &AtomicBool, engines: &Engines, timer: &DeadlineTimer) {
    flag.store(true, Ordering::SeqCst);
    fence(Ordering::SeqCst); // a guest that sees the new epoch must see the flag
    engines.increment_epoch();
    timer.advance_again();
}

impl Place for Here {
    type Thread = Thread;
    type Step = PlacedStep;
    type Rest = Step;
    type Ticket = Arc<AtomicBool>;

    fn ticket(&self) -> Self::Ticket {
        Arc::default()
    }

    fn cancel(&self, ticket: &Self::Ticket) {
        interrupt(ticket, &self.engines, &self.timer);
    }

    fn is_cancelled(ticket: &Self::Ticket) -> bool {
        ticket.load(Ordering::SeqCst)
    }

    fn check(thread: &Thread, project: ProjectId, unit: &CodeUnit, ticket: &Self::Ticket) -> Result<(), CodeError> {
        thread.compiled(project, unit, (&CodeLimits::default(), ticket), || Ok(())).map(|_| ())
    }

    fn begin(
        thread: &Thread,
        slot: Slot<Thread>,
        request: &CodeRequest,
        ticket: &Self::Ticket,
    ) -> Result<(Turn<CodeOutput>, PlacedStep), CodeError> {
        let limits = &request.limits;
        let unit = CodeUnit::Module { source: Arc::clone(&request.source), language: request.language };
        let code = thread.compiled(request.project, &unit, (limits, ticket), || Ok(()))?;
        let calls = HostCalls::new(Arc::clone(&request.host), limits.host_calls(), &request.seed);
        let (params, context) = (&request.params[..], &request.context[..]);
        let start = StepStart { params, context, now: request.now, seed: engine_seed(&request.seed), limits };
        let (turn, local) = thread.begin(&code, &start, Box::new(calls), ticket)?;
        Ok((turn.read(), PlacedStep { local, _slot: slot }))
    }

    fn settle(thread: &Thread, step: &mut PlacedStep, id: u32, answer: HostAnswer) -> Turn<CodeOutput> {
        thread.settle(&mut step.local, id, &answer).read()
    }

    fn evaluate(
        thread: &Thread,
        request: &ExpressionRequest,
        ticket: &Self::Ticket,
    ) -> Result<(Results<Value>, Step), CodeError> {
        let start = ExpressionStart {
            project: request.project,
            expressions: &request.expressions,
            variables: &request.variables,
            now: request.now,
            seed: engine_seed(&request.seed),
            limits: &request.limits,
        };
        let (results, step) = thread.evaluate(&start, ticket, |_| Ok(()))?;
        Ok((results.into_iter().map(|result| result.and_then(super::output::parse)).collect(), step))
    }
}

impl LiveStep for PlacedStep {
    fn take_calls(&mut self) -> (Vec<Started>, Vec<u32>) {
        self.local.step.state_mut().calls.as_mut().map(|calls| calls.take()).unwrap_or_default()
    }

    fn ended(&mut self, id: u32) {
        if let Some(calls) = &mut self.local.step.state_mut().calls {
            calls.ended(id);
        }
    }

    fn deadline(&self) -> Instant {
        self.local.step.state().deadline()
    }

    fn lost(&self) -> BoxFuture<'static, CodeError> {
        Box::pin(std::future::pending())
    }
}

/// The engine's bytecode of what removes types; `xtask/build-engine` makes it.
const TRANSLATOR: &[u8] = include_bytes!("../../engine-js/typescript.bin");
