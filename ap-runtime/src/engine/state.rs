//! [`RunState`]: everything the engine knows of a run, rebuilt from its journal.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ap_core::{
    flow::{OnError, RetryPolicy, Step, ValidFlow},
    id::RunId,
    json::size_of,
    run::{RunStatus, StepError, StepErrorKind, StepPath, StepStatus},
    time::Timestamp,
};
use serde_json::Value;

use super::{
    ActionCall, AttemptOutcome, CodeCall, Command, ConnectionViews, Event, Reply, RunEnd,
    frame::{Frame, List},
};

/// Everything the engine knows of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState {
    run: RunId,
    trigger: Arc<Value>,
    pub(super) accepted: Timestamp,
    pub(super) started: Option<Timestamp>,
    connections: Arc<ConnectionViews>,
    pub(super) frames: Vec<Frame>,
    pub(super) steps: BTreeMap<StepPath, StepState>,
    /// Step executions in the order in which they began.
    pub(super) order: Vec<StepPath>,
    pub(super) pending: Option<Pending>,
    reply: Option<Reply>,
    end: Option<RunEnd>,
    pub(super) executions_left: u32,
    log_left: u64,
    /// How often a new owner took the run over since it last got further.
    recoveries: u32,
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

/// The one thing the run waits for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pending {
    Action(ActionCall),
    Code(CodeCall),
    Wait { until: Timestamp, then: Box<Pending> },
}

/// The event does not follow from the state: the journal was altered, or the flow is not the one it was written with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal does not fit the flow: {reason}")]
pub struct ApplyError {
    reason: &'static str,
}

impl RunState {
    /// The state of a run right after it was accepted; `event` is the first of its journal.
    ///
    /// # Errors
    /// [`ApplyError`] if the event is not [`Event::Accepted`].
    pub fn accepted(event: &Event) -> Result<Self, ApplyError> {
        let Event::Accepted { at, run, trigger, limits, .. } = event else {
            return Err(ApplyError { reason: "it does not begin with an acceptance" });
        };
        Ok(Self {
            run: *run,
            trigger: Arc::clone(trigger),
            accepted: *at,
            started: None,
            connections: Arc::default(),
            frames: Vec::new(),
            steps: BTreeMap::new(),
            order: Vec::new(),
            pending: None,
            reply: None,
            end: None,
            executions_left: limits.step_executions,
            log_left: limits.log_bytes.saturating_sub(size_of(trigger)),
            recoveries: 0,
        })
    }

    /// Takes in `event` and says what is to be done now.
    ///
    /// # Errors
    /// [`ApplyError`] if the event does not follow from the state; the state is then to be thrown away.
    pub fn apply(&mut self, flow: &ValidFlow, event: &Event) -> Result<Vec<Command>, ApplyError> {
        if self.end.is_some() {
            return Err(ApplyError { reason: "an event follows the end" });
        }
        let had_reply = self.reply.is_some();
        match event {
            Event::Accepted { .. } => return Err(ApplyError { reason: "it was accepted twice" }),
            Event::AttemptFinished { at, path, attempt, outcome, entropy } => {
                self.attempt_finished(flow, *at, (path, *attempt), outcome, *entropy)?;
            }
            Event::EffectPlanned { path, attempt, input, key, repeatable, .. } => {
                let effect = Effect { key: key.clone(), state: EffectState::Planned, repeatable: *repeatable };
                self.effect_planned(path, *attempt, input, effect)?;
                return Ok(Vec::new());
            }
            Event::Interrupted { at, status, error } => self.interrupted(*at, *status, error),
            Event::Recovered { at } => self.recovered(flow, *at),
            Event::Retried { .. } => return Err(ApplyError { reason: "it was tried again before its end" }),
            Event::Started { at, connections } => {
                if self.started.is_some() {
                    return Err(ApplyError { reason: "it was started twice" });
                }
                self.started = Some(*at);
                self.connections = Arc::clone(connections);
                self.frames.push(Frame::new(List::Top));
                self.advance(flow, *at);
            }
            Event::WaitOver { path, .. } => self.wait_over(path)?,
        }
        let mut commands = Vec::new();
        if let (Some(reply), false) = (&self.reply, had_reply) {
            commands.push(Command::Reply(reply.clone()));
        }
        commands.extend(self.outstanding());
        Ok(commands)
    }

    /// What is to be done in this state: what a worker that takes the run over begins with.
    #[must_use]
    pub fn outstanding(&self) -> Option<Command> {
        if let Some(end) = &self.end {
            return Some(Command::End(end.clone()));
        }
        Some(match self.pending.as_ref()? {
            Pending::Action(call) => Command::RunAction(call.clone()),
            Pending::Code(call) => Command::RunCode(call.clone()),
            Pending::Wait { until, then } => Command::Wait { path: then.path().clone(), until: *until },
        })
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

    pub(super) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    pub(super) fn set_reply(&mut self, reply: Reply) {
        // The first answer counts: the caller got it.
        self.reply.get_or_insert(reply);
    }

    pub(super) fn finish(&mut self, end: RunEnd) {
        self.pending = None;
        self.frames.clear();
        self.end = Some(end);
    }

    fn attempt_finished(
        &mut self,
        flow: &ValidFlow,
        at: Timestamp,
        (path, attempt): (&StepPath, u32),
        outcome: &AttemptOutcome,
        entropy: u32,
    ) -> Result<(), ApplyError> {
        let pending = match self.pending.take() {
            Some(pending) if pending.path() == path && pending.attempt() == attempt => pending,
            _ => return Err(ApplyError { reason: "an attempt came back that was not under way" }),
        };
        self.recoveries = 0;
        match outcome {
            AttemptOutcome::Succeeded { output, console } => {
                self.settle_effect(path, EffectState::Committed);
                self.log(path, at, console);
                self.succeed(path, at, Arc::clone(output));
                self.advance(flow, at);
            }
            AttemptOutcome::Failed { error, retry_after_ms, console } => {
                let error = &self.settle_failure(path, error);
                self.log(path, at, console);
                let policy = self.current_step(flow).map(|step| step.options.retry).unwrap_or_default();
                if error.kind.is_retryable() && attempt < policy.max_attempts {
                    let wait = retry_delay(&policy, attempt, retry_after_ms.map(Duration::from_millis), entropy);
                    if let Some(step) = self.steps.get_mut(path) {
                        step.error = Some(error.clone());
                        step.attempts = attempt + 1;
                    }
                    self.pending =
                        Some(Pending::Wait { until: at.saturating_add(wait), then: Box::new(pending.next_attempt()) });
                } else {
                    self.fail(flow, path, at, error.clone());
                    self.advance(flow, at);
                }
            }
        }
        Ok(())
    }

    fn log(&mut self, path: &StepPath, at: Timestamp, console: &[String]) {
        self.charge(path, at, console.iter().map(|line| line.len() as u64).sum());
        if let Some(step) = self.steps.get_mut(path) {
            step.console.extend_from_slice(console);
        }
    }

    fn settle_effect(&mut self, path: &StepPath, state: EffectState) {
        if let Some(effect) = self.steps.get_mut(path).and_then(|step| step.effect.as_mut()) {
            effect.state = state;
        }
    }

    /// What a failure says of the effect: an attempt that broke off may have acted. Where acting twice would be harm, its
    /// outcome is unknown, and no policy tries it again.
    fn settle_failure(&mut self, path: &StepPath, error: &StepError) -> StepError {
        let broke_off = matches!(error.kind, StepErrorKind::Interrupted | StepErrorKind::Timeout);
        let once = self.steps.get(path).and_then(|step| step.effect.as_ref()).is_some_and(|effect| !effect.repeatable);
        if broke_off && once {
            self.settle_effect(path, EffectState::Unknown);
            return StepError { kind: StepErrorKind::OutcomeUnknown, ..error.clone() };
        }
        self.settle_effect(path, EffectState::Committed);
        error.clone()
    }

    /// What the ledger says is what is performed, also after a crash: input and key are taken from it.
    fn effect_planned(
        &mut self,
        path: &StepPath,
        attempt: u32,
        input: &Arc<Value>,
        effect: Effect,
    ) -> Result<(), ApplyError> {
        match (&mut self.pending, self.steps.get_mut(path)) {
            (Some(Pending::Action(call)), Some(step)) if call.path == *path && call.attempt == attempt => {
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

    fn wait_over(&mut self, path: &StepPath) -> Result<(), ApplyError> {
        match self.pending.take() {
            Some(Pending::Wait { then, .. }) if then.path() == path => {
                self.pending = Some(*then);
                Ok(())
            }
            _ => Err(ApplyError { reason: "a wait ended that was not under way" }),
        }
    }

    fn recovered(&mut self, flow: &ValidFlow, at: Timestamp) {
        self.recoveries += 1;
        if self.recoveries > MAX_RECOVERIES {
            let message = format!("the process stopped {MAX_RECOVERIES} times while it executed the same step");
            let error = StepError::new(StepErrorKind::Internal, message);
            return self.interrupted(at, RunStatus::InternalError, &error);
        }
        let Some(Pending::Action(call)) = &self.pending else { return };
        let path = call.path.clone();
        let Some(effect) = self.steps.get_mut(&path).and_then(|step| step.effect.as_mut()) else { return };
        if effect.state != EffectState::Planned || effect.repeatable {
            return;
        }
        effect.state = EffectState::Unknown;
        self.pending = None;
        let error = StepError::new(
            StepErrorKind::OutcomeUnknown,
            "the process stopped while this step was acting, and whether it acted is unknown",
        );
        self.fail(flow, &path, at, error);
        self.advance(flow, at);
    }

    fn interrupted(&mut self, at: Timestamp, status: RunStatus, error: &StepError) {
        let running = self.pending.as_ref().map(|pending| pending.path().clone());
        if let Some(step) = running.as_ref().and_then(|path| self.steps.get_mut(path)) {
            step.status = StepStatus::Failed;
            step.finished = Some(at);
            step.error = Some(error.clone());
            if let Some(effect) = step.effect.as_mut().filter(|effect| effect.state == EffectState::Planned) {
                effect.state = EffectState::Unknown;
            }
        }
        self.finish(RunEnd { status, at, failed_step: running, error: Some(error.clone()) });
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
        let error =
            StepError::new(StepErrorKind::Limit, "inputs and outputs of the run are larger than its log may be");
        if let Some(step) = self.steps.get_mut(path) {
            step.status = StepStatus::Failed;
            step.finished = Some(at);
            step.error = Some(error.clone());
        }
        let status = RunStatus::LogSizeExceeded;
        self.finish(RunEnd { status, at, failed_step: Some(path.clone()), error: Some(error) });
        false
    }

    /// Records that the step at `path` ended well, and goes on behind it.
    pub(super) fn succeed(&mut self, path: &StepPath, at: Timestamp, output: Arc<Value>) {
        if !self.charge(path, at, size_of(&output)) {
            return;
        }
        if let Some(step) = self.steps.get_mut(path) {
            step.status = StepStatus::Succeeded;
            step.finished = Some(at);
            step.error = None;
            step.output = Some(output);
        }
        self.proceed(path.clone());
    }

    /// Records that the step at `path` failed. The innermost step around it that continues on error takes it.
    pub(super) fn fail(&mut self, flow: &ValidFlow, path: &StepPath, at: Timestamp, error: StepError) {
        let mut failing = path.clone();
        loop {
            if let Some(step) = self.steps.get_mut(&failing) {
                step.status = StepStatus::Failed;
                step.finished = Some(at);
                step.error = Some(error.clone());
            }
            let step = flow.step(failing.step_name());
            if step.is_some_and(|step| step.options.on_error == OnError::Continue) {
                return self.proceed(failing);
            }
            let owner = self.frames.pop().and_then(|frame| frame.owner().map(|(_, path)| path.clone()));
            match owner {
                Some(owner) => failing = owner,
                None => {
                    let status = match error.kind {
                        StepErrorKind::MemoryLimit => RunStatus::MemoryLimitExceeded,
                        StepErrorKind::Internal => RunStatus::InternalError,
                        _ => RunStatus::Failed,
                    };
                    return self.finish(RunEnd { status, at, failed_step: Some(path.clone()), error: Some(error) });
                }
            }
        }
    }
}

impl RunState {
    /// Goes on behind the step at `path`, which stands in the innermost list.
    pub(super) fn proceed(&mut self, path: StepPath) {
        if let Some(frame) = self.frames.last_mut() {
            frame.proceed(path);
        }
    }

    fn current_step<'f>(&self, flow: &'f ValidFlow) -> Option<&'f Step> {
        self.frames.last().and_then(|frame| frame.current(flow))
    }
}

impl Pending {
    fn path(&self) -> &StepPath {
        match self {
            Self::Action(call) => &call.path,
            Self::Code(call) => &call.path,
            Self::Wait { then, .. } => then.path(),
        }
    }

    /// The attempt under way; a wait is none.
    const fn attempt(&self) -> u32 {
        match self {
            Self::Action(call) => call.attempt,
            Self::Code(call) => call.attempt,
            Self::Wait { .. } => 0,
        }
    }

    fn next_attempt(self) -> Self {
        match self {
            Self::Action(call) => Self::Action(ActionCall { attempt: call.attempt + 1, planned: false, ..call }),
            Self::Code(call) => Self::Code(CodeCall { attempt: call.attempt + 1, ..call }),
            wait @ Self::Wait { .. } => wait,
        }
    }
}

/// A run whose owners keep dying is given up, so that it cannot take the process down for ever.
const MAX_RECOVERIES: u32 = 10;

/// How long to wait after attempt number `attempt`; see [`RetryPolicy`].
fn retry_delay(policy: &RetryPolicy, attempt: u32, retry_after: Option<Duration>, entropy: u32) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = policy.initial_delay.as_secs_f64() * policy.multiplier.powi(exponent);
    let capped = grown.min(policy.max_delay.as_secs_f64());
    // Half the delay is fixed, the other half is scaled by the entropy: spread without collapsing to zero.
    let jittered = capped * (0.5 + 0.5 * f64::from(entropy) / f64::from(u32::MAX));
    let own = Duration::try_from_secs_f64(jittered).unwrap_or(policy.max_delay);
    own.max(retry_after.unwrap_or_default().min(policy.max_delay))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_respect_the_peer() {
        let policy = RetryPolicy {
            max_attempts: 10,
            initial_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(5),
        };
        let whole = |attempt| retry_delay(&policy, attempt, None, u32::MAX);
        assert_eq!([whole(1), whole(2), whole(3), whole(4)].map(|wait| wait.as_secs()), [1, 2, 4, 5]);
        assert_eq!(retry_delay(&policy, 1, None, 0), Duration::from_millis(500));
        assert_eq!(retry_delay(&policy, 1, Some(Duration::from_secs(3)), 0), Duration::from_secs(3));
        assert_eq!(retry_delay(&policy, 1, Some(Duration::from_secs(3_600)), 0), Duration::from_secs(5));
        assert_eq!(retry_delay(&policy, u32::MAX, None, u32::MAX), Duration::from_secs(5));
    }
}
