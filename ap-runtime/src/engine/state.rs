//! [`RunState`]: everything the engine knows of a run, rebuilt from its journal.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ap_core::{
    flow::{Step, ValidFlow},
    id::RunId,
    json::size_of,
    run::{RunStatus, StepError, StepErrorKind, StepPath, StepStatus},
    time::Timestamp,
};
use serde_json::Value;

use super::{
    AnswerDecision, AttemptOutcome, Command, ConnectionViews, EngineLimits, Event, ParentStep, Reply, ResumeTokens,
    RunEnd, Signal, Spilled,
    frame::{Frame, List},
    strand::{FIRST, Pending, StrandId, Strands},
};

/// Everything the engine knows of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState {
    run: RunId,
    trigger: Arc<Value>,
    parent: Option<ParentStep>,
    pub(super) limits: EngineLimits,
    pub(super) resume: Arc<ResumeTokens>,
    pub(super) accepted: Timestamp,
    started: Option<Timestamp>,
    connections: Arc<ConnectionViews>,
    pub(super) strands: Strands,
    pub(super) steps: BTreeMap<StepPath, StepState>,
    /// Step executions in the order in which they began.
    pub(super) order: Vec<StepPath>,
    /// Every answer that came, by slot: before somebody waited for it, and for a wait that is executed again.
    pub(super) answers: BTreeMap<String, (AnswerDecision, Arc<Value>)>,
    /// What is to be done once because of the event that is being applied.
    pub(super) once: Vec<Command>,
    reply: Option<Reply>,
    pub(super) end: Option<RunEnd>,
    pub(super) executions_left: u32,
    pub(super) log_left: u64,
    pub(super) spill_left: u64,
    /// The last entropy that came in.
    pub(super) entropy: u32,
    /// How often a new owner took the run over since it last got further.
    pub(super) recoveries: u32,
    pub(super) active: Active,
}

/// How long a run has been executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Active {
    /// Before it was last let go of.
    pub(super) used: Duration,
    /// Since when it is being executed; `None` while nobody has it.
    pub(super) since: Option<Timestamp>,
    /// When the last event came.
    pub(super) last: Option<Timestamp>,
}

/// One step execution.
#[derive(Clone, Debug, PartialEq)]
pub struct StepState {
    /// Where it stands.
    pub status: StepStatus,
    /// When its first attempt began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// How many attempts there were, the current one included.
    pub attempts: u32,
    /// Its resolved input, credentials as placeholder text; steps that only steer the run have none.
    pub input: Option<Arc<Value>>,
    /// Its output.
    pub output: Option<Arc<Value>>,
    /// Its last error.
    pub error: Option<StepError>,
    /// What its script wrote to `console`, over all attempts.
    pub console: Vec<String>,
    /// Its line in the effects ledger, if it acts outside.
    pub effect: Option<Effect>,
}

/// A line of the effects ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// The idempotency key of the step execution.
    pub key: String,
    /// Where the effect stands.
    pub state: EffectState,
    /// Whether performing it again is harmless.
    pub repeatable: bool,
}

/// Where an effect stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EffectState {
    /// It was performed, and its outcome is journalled.
    Committed,
    /// It may be being performed.
    Planned,
    /// A crash hid whether it happened.
    Unknown,
}

/// The event does not follow from the state: the journal was altered, or the flow is not the one it was written with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal does not fit the flow: {reason}")]
pub struct ApplyError {
    pub(super) reason: &'static str,
}

impl RunState {
    /// The state of `run` right after it was accepted; `event` is the first of its journal.
    ///
    /// # Errors
    /// [`ApplyError`] if the event is not [`Event::Accepted`].
    pub fn accepted(run: RunId, event: &Event, resume: Arc<ResumeTokens>) -> Result<Self, ApplyError> {
        let Event::Accepted { at, trigger, limits, parent } = event else {
            return Err(ApplyError { reason: "it does not begin with an acceptance" });
        };
        Ok(Self {
            run,
            trigger: Arc::clone(trigger),
            parent: parent.clone(),
            limits: *limits,
            resume,
            accepted: *at,
            started: None,
            connections: Arc::default(),
            strands: Strands::default(),
            steps: BTreeMap::new(),
            order: Vec::new(),
            answers: BTreeMap::new(),
            once: Vec::new(),
            reply: None,
            end: None,
            executions_left: limits.step_executions,
            log_left: limits.log_bytes.saturating_sub(size_of(trigger)),
            spill_left: limits.spill_bytes,
            entropy: 0,
            recoveries: 0,
            active: Active::default(),
        })
    }

    /// Takes in `event` and says what is to be done once because of it, in the commit that carries it.
    ///
    /// # Errors
    /// [`ApplyError`] if the event does not follow from the state; the state is then to be thrown away.
    pub fn apply(&mut self, flow: &ValidFlow, event: &Event) -> Result<Vec<Command>, ApplyError> {
        if self.end.is_some() && !matches!(event, Event::Retried { .. }) {
            return Err(ApplyError { reason: "an event follows the end" });
        }
        let had_reply = self.reply.is_some();
        self.count_time(event);
        self.take_in(flow, event)?;
        if self.end.is_some() {
            self.let_go_of_children();
            let ids: Vec<StrandId> = self.strands.iter().map(|(id, _)| id).collect();
            ids.into_iter().for_each(|id| self.let_go_of_jobs(id));
        }
        let mut once = std::mem::take(&mut self.once);
        if let (Some(reply), false) = (&self.reply, had_reply) {
            once.push(Command::Reply(reply.clone()));
        }
        Ok(once)
    }

    fn take_in(&mut self, flow: &ValidFlow, event: &Event) -> Result<(), ApplyError> {
        match event {
            Event::Accepted { .. } => Err(ApplyError { reason: "it was accepted twice" }),
            Event::AttemptFinished { at, path, attempt, outcome, entropy } => {
                if *entropy != 0 {
                    self.entropy = *entropy;
                }
                self.attempt_finished(flow, *at, (path, *attempt), outcome)
            }
            Event::ChildStarted { at, path, run } => self.child_started(flow, *at, path, *run),
            Event::EffectPlanned { path, attempt, input, key, repeatable, .. } => {
                let effect = Effect { key: key.clone(), state: EffectState::Planned, repeatable: *repeatable };
                self.effect_planned(path, *attempt, input, effect)
            }
            Event::Enqueued { at, path } => self.enqueued(flow, *at, path),
            Event::Evaluated { at, path, results, spilled } => {
                self.evaluated(flow, *at, path, (results, spilled.as_ref()))
            }
            Event::Interrupted { at, status, error } => {
                self.interrupted(*at, *status, error);
                Ok(())
            }
            Event::JobsTaken { at, path, jobs, more } => self.jobs_taken(flow, *at, path, (jobs, *more)),
            Event::Parked { .. } | Event::Resumed { .. } => Ok(()),
            Event::Recovered { at } => {
                self.recovered(flow, *at);
                Ok(())
            }
            Event::Retried { at } => self.retried(flow, *at),
            Event::Signaled { at, slot, content } => {
                self.signaled(flow, *at, slot, content);
                Ok(())
            }
            Event::Started { at, connections } => {
                if self.started.is_some() {
                    return Err(ApplyError { reason: "it was started twice" });
                }
                self.started = Some(*at);
                self.connections = Arc::clone(connections);
                let first = self.strands.begin(None, vec![Frame::new(List::Top)]);
                debug_assert_eq!(first, FIRST);
                self.advance(flow, *at);
                Ok(())
            }
            Event::WaitOver { at, path } => self.wait_over(flow, *at, path),
        }
    }

    /// What is to be done in this state: what a worker that takes the run over begins with. In the order of the strands.
    #[must_use]
    pub fn outstanding(&self) -> Vec<Command> {
        match &self.end {
            Some(end) => vec![Command::End(end.clone())],
            None => self.strands.pending().filter_map(Pending::command).collect(),
        }
    }

    /// Whether the run only waits, for time or for somebody: then it may be let go of. `Some(None)`: not for time.
    #[must_use]
    pub fn waits_until(&self) -> Option<Option<Timestamp>> {
        if self.end.is_some() || self.started.is_none() {
            return None;
        }
        let mut due: Option<Timestamp> = None;
        for pending in self.strands.pending().filter(|pending| !pending.is_for_strands()) {
            let until = pending.until()?;
            due = Some(due.map_or(until, |earlier| earlier.min(until)));
        }
        Some(due)
    }

    /// The first time that something waits for, and the step execution that does. Of equal ones, that of the first strand.
    #[must_use]
    pub fn next_timer(&self) -> Option<(Timestamp, StepPath)> {
        let timers = self.strands.pending().filter_map(|pending| Some((pending.until()?, pending.path())));
        timers.min_by_key(|(until, _)| *until).map(|(until, path)| (until, path.clone()))
    }

    /// Whether the run was let go of, and nobody has taken it up since.
    #[must_use]
    pub const fn is_parked(&self) -> bool {
        self.started.is_some() && self.active.since.is_none()
    }

    /// How much longer the run may be executed at `now`.
    #[must_use]
    pub fn time_left(&self, now: Timestamp) -> Duration {
        let running = self.active.since.map_or(Duration::ZERO, |since| now.saturating_since(since));
        Duration::from_millis(self.limits.timeout_ms).saturating_sub(self.active.used + running)
    }

    pub(super) fn set_connections(&mut self, connections: Arc<ConnectionViews>) {
        self.connections = connections;
    }

    /// Longest time the run may be executed.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.limits.timeout_ms)
    }

    /// The run.
    #[must_use]
    pub const fn run(&self) -> RunId {
        self.run
    }

    /// What the trigger delivered.
    #[must_use]
    pub const fn trigger(&self) -> &Arc<Value> {
        &self.trigger
    }

    /// The step of another run that started it.
    #[must_use]
    pub const fn parent(&self) -> Option<&ParentStep> {
        self.parent.as_ref()
    }

    /// When work began, if it did.
    #[must_use]
    pub const fn started(&self) -> Option<Timestamp> {
        self.started
    }

    /// What the flow may see of its connections.
    #[must_use]
    pub fn connections(&self) -> &ConnectionViews {
        &self.connections
    }

    /// The step execution at `path`, if it has begun.
    #[must_use]
    pub fn step(&self, path: &StepPath) -> Option<&StepState> {
        self.steps.get(path)
    }

    /// Paths of all step executions in the order in which they began.
    #[must_use]
    pub fn order(&self) -> &[StepPath] {
        &self.order
    }

    /// What a `respond` step answered.
    #[must_use]
    pub const fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// How the run ended, if it did.
    #[must_use]
    pub const fn end(&self) -> Option<&RunEnd> {
        self.end.as_ref()
    }

    /// The output of the last step that has one: the default reply.
    #[must_use]
    pub fn last_output(&self) -> Option<&Arc<Value>> {
        let top = self.order.iter().rev().filter(|path| !path.as_str().contains('/'));
        top.filter_map(|path| self.steps.get(path)?.output.as_ref()).next()
    }

    pub(super) fn set_reply(&mut self, reply: Reply) {
        // The first answer counts: the caller got it.
        self.reply.get_or_insert(reply);
    }
}

impl RunState {
    /// Takes what a strand waits for, if `fits`.
    pub(super) fn take_pending(
        &mut self,
        path: &StepPath,
        fits: impl FnOnce(&Pending) -> bool,
    ) -> Option<(StrandId, Pending)> {
        let id = self.strands.waiting_at(path)?;
        let fits = self.strands.get(id)?.pending().is_some_and(fits);
        if fits { self.strands.release(id).map(|taken| (id, taken)) } else { None }
    }

    /// The frames that lead to where a strand stands, innermost first, those of the strands above it included.
    pub(super) fn frames_outwards(&self, id: StrandId) -> impl Iterator<Item = &Frame> {
        let above = |id: &StrandId| Some(self.strands.get(*id)?.parent?.0);
        std::iter::successors(Some(id), above)
            .filter_map(|id| self.strands.get(id))
            .flat_map(|strand| strand.frames.iter().rev())
    }

    /// The step a strand stands at.
    pub(super) fn current_step<'f>(&self, flow: &'f ValidFlow, id: StrandId) -> Option<&'f Step> {
        self.strands.get(id)?.frames.last()?.current(flow)
    }

    /// The path of a step called `name` that stands in the innermost list of a strand.
    pub(super) fn path_of(&self, id: StrandId, name: &str) -> StepPath {
        match self.frames_outwards(id).find_map(Frame::iteration) {
            Some((owner, iteration)) => owner.in_iteration(iteration.index, name),
            None => StepPath::top(name),
        }
    }

    /// Goes on behind the step at `path`, which stands in the innermost list of the strand.
    pub(super) fn proceed(&mut self, id: StrandId, path: StepPath) {
        if let Some(frame) = self.strands.frames_mut(id).and_then(|frames| frames.last_mut()) {
            frame.proceed(path);
        }
    }

    /// Ends the run. What its strands stand at is kept, so that it can be tried again from there.
    pub(super) fn finish(&mut self, end: RunEnd) {
        self.end.get_or_insert(end);
    }

    /// Records that the step at `path` ended well, and goes on behind it.
    pub(super) fn succeed(&mut self, id: StrandId, path: &StepPath, at: Timestamp, output: Arc<Value>) {
        if self.charge(path, at, size_of(&output)) {
            self.succeed_free(id, path, at, output);
        }
    }

    /// As [`RunState::succeed`], without charging for the output.
    pub(super) fn succeed_free(&mut self, id: StrandId, path: &StepPath, at: Timestamp, output: Arc<Value>) {
        if let Some(step) = self.steps.get_mut(path) {
            step.status = StepStatus::Succeeded;
            step.finished = Some(at);
            step.error = None;
            step.output = Some(output);
        }
        self.proceed(id, path.clone());
    }

    /// Takes `bytes` from what the log may still hold; ends the run if that is too much. Returns whether the run goes on.
    pub(super) fn charge(&mut self, path: &StepPath, at: Timestamp, bytes: u64) -> bool {
        if self.end.is_some() {
            return false;
        }
        if let Some(left) = self.log_left.checked_sub(bytes) {
            self.log_left = left;
            return true;
        }
        self.outgrown(path, at, "inputs and outputs of the run are larger than its log may be");
        false
    }

    /// As [`RunState::charge`], for what is kept as a file.
    pub(super) fn charge_spilled(&mut self, path: &StepPath, at: Timestamp, spilled: &Spilled) -> bool {
        match self.spill_left.checked_sub(spilled.bytes) {
            Some(left) => {
                self.spill_left = left;
                self.charge(path, at, SPILLED_CHARGE)
            }
            None => {
                self.outgrown(path, at, "outputs of the run are larger than its files may be");
                false
            }
        }
    }

    pub(super) fn outgrown(&mut self, path: &StepPath, at: Timestamp, message: &str) {
        let error = StepError::new(StepErrorKind::Limit, message);
        if let Some(step) = self.steps.get_mut(path) {
            step.status = StepStatus::Failed;
            step.finished = Some(at);
            step.error = Some(error.clone());
        }
        self.stop_all(at);
        let status = RunStatus::LogSizeExceeded;
        self.finish(RunEnd { status, at, failed_step: Some(path.clone()), error: Some(error) });
    }

    /// Counts the time the run is executed: from when it is taken up to when it is let go of; from the last event on, if
    /// its owner died.
    fn count_time(&mut self, event: &Event) {
        let at = event.at();
        let active = &mut self.active;
        let stop = |active: &mut Active, until: Timestamp| {
            if let Some(since) = active.since.take() {
                active.used += until.saturating_since(since);
            }
        };
        match event {
            Event::Parked { .. } => stop(active, at),
            Event::Recovered { .. } => {
                let last = active.last.unwrap_or(at);
                stop(active, last);
                active.since = Some(at);
            }
            Event::Retried { .. } => *active = Active { used: Duration::ZERO, since: None, last: None },
            Event::Resumed { .. } | Event::Started { .. } => active.since = Some(at),
            _ => {}
        }
        active.last = Some(at);
    }

    fn signaled(&mut self, flow: &ValidFlow, at: Timestamp, slot: &str, content: &Signal) {
        self.recoveries = 0;
        match content {
            Signal::Answered { decision, body } => self.answered(flow, at, slot, (*decision, Arc::clone(body))),
            Signal::Canceled { reason } => {
                let error = StepError::new(StepErrorKind::Canceled, reason.clone());
                self.interrupted(at, RunStatus::Canceled, &error);
            }
            Signal::ChildEnded { run, status, output, error } => {
                self.child_ended(flow, at, *run, (*status, output, error.as_ref()));
            }
        }
    }

    fn attempt_finished(
        &mut self,
        flow: &ValidFlow,
        at: Timestamp,
        (path, attempt): (&StepPath, u32),
        outcome: &AttemptOutcome,
    ) -> Result<(), ApplyError> {
        let Some((id, pending)) = self.take_pending(path, |pending| pending.attempt() == attempt) else {
            return Err(ApplyError { reason: "an attempt came back that was not under way" });
        };
        self.recoveries = 0;
        match outcome {
            AttemptOutcome::Succeeded { output, spilled, console } => {
                self.settle_effect(path, EffectState::Committed);
                self.log(path, at, console);
                match spilled {
                    None => self.succeed(id, path, at, Arc::clone(output)),
                    Some(spilled) => {
                        if self.charge_spilled(path, at, spilled) {
                            self.succeed_free(id, path, at, Arc::clone(output));
                        }
                    }
                }
            }
            AttemptOutcome::Failed { error, retry_after_ms, console } => {
                self.log(path, at, console);
                self.attempt_failed(flow, at, (id, pending), error, retry_after_ms.map(Duration::from_millis));
            }
        }
        self.advance(flow, at);
        Ok(())
    }

    fn log(&mut self, path: &StepPath, at: Timestamp, console: &[String]) {
        self.charge(path, at, console.iter().map(|line| line.len() as u64).sum());
        if let Some(step) = self.steps.get_mut(path) {
            step.console.extend_from_slice(console);
        }
    }

    pub(super) fn settle_effect(&mut self, path: &StepPath, state: EffectState) {
        if let Some(effect) = self.steps.get_mut(path).and_then(|step| step.effect.as_mut()) {
            effect.state = state;
        }
    }

    /// What the ledger says is what is performed, also after a crash: input and key are taken from it.
    fn effect_planned(
        &mut self,
        path: &StepPath,
        attempt: u32,
        input: &Arc<Value>,
        effect: Effect,
    ) -> Result<(), ApplyError> {
        let id = self.strands.waiting_at(path);
        let pending = id.and_then(|id| self.strands.pending_mut(id));
        match (pending, self.steps.get_mut(path)) {
            (Some(Pending::Action(call)), Some(step)) if call.attempt == attempt => {
                call.planned = true;
                call.input = Arc::clone(input);
                call.key = effect.key.clone();
                step.input = Some(Arc::clone(input));
                step.effect = Some(effect);
                Ok(())
            }
            _ => Err(ApplyError { reason: "an effect was planned that is not the next thing to do" }),
        }
    }
}

/// What an output that is kept as a file takes from the log. Unit: bytes.
const SPILLED_CHARGE: u64 = 1_024;
