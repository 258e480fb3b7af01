//! The parsed flow: triggers and steps, every string leaf already a template.

mod control;
mod hosts;
mod trigger;

use std::{borrow::Borrow, fmt, sync::Arc, time::Duration};

use serde_json::Value;

pub use self::{
    control::{
        BranchStep, CodeLanguage, CodeStep, DelayStep, EnqueueStep, FailStep, JoinPolicy, LoopStep, ParallelBranch,
        ParallelStep, ProcessStep, RespondStep, RouterBranch, RouterMode, RouterStep, SubflowStep, WaitMode, WaitStep,
    },
    hosts::{AllowedHosts, HostPatternError, MAX_ALLOWED_HOSTS},
    trigger::{
        CatchUp, Overlap, PollSettings, ScheduleSettings, TriggerDefinition, TriggerKind, WebhookAuthentication,
        WebhookHandshake, WebhookSettings,
    },
};
use super::Diagnostic;
use crate::expr::Template;

/// A flow as its author wrote it: well-formed, not yet checked as a whole.
///
/// Only parsing makes one ([`FlowDefinition::parse_slice`], [`FlowDefinition::from_value`]), so every name, range and
/// template in it holds what its type says.
///
/// # The JSON
///
/// ```json
/// { "displayName": "…",
///   "triggers": [{ "name": "…", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
///   "steps": [{ "name": "…", "displayName": "…", "type": "http", "settings": { … }, "retry": { … } }] }
/// ```
///
/// * `triggers` may be written as the guide's §2.1 does: `"trigger": "webhook"` beside `"settings"`. Trigger types:
///   `webhook`, `schedule`, `manual`, else `piece.trigger`.
/// * Step types: the control words `code`, `loop`, `branch`, `router`, `parallel`, `subflow`, `delay`, `wait`, `respond`,
///   `fail`, `queue.enqueue` and `queue.process`, else `piece` or `piece.action`. No piece can be called `queue`.
/// * [`FlowControl`] stands at the top, beside `steps`; so does `allowedHosts`, see [`AllowedHosts`].
/// * Times are whole milliseconds.
/// * A name may be left out: steps then get the first free `step_1`, `step_2`, … in the order of the text, the trigger
///   gets `trigger`. A flow without `displayName` is called `Untitled flow`.
/// * What a step does stands in `settings`; how it is carried out stands beside it, see [`StepOptions`].
/// * Members that nothing reads are errors.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowDefinition {
    pub(super) display_name: String,
    pub(super) triggers: Vec<TriggerDefinition>,
    pub(super) steps: Vec<Step>,
    pub(super) control: FlowControl,
    pub(super) allowed_hosts: Option<AllowedHosts>,
    pub(super) source: Arc<Value>,
    /// What was found and bars the flow from being published, though not from being kept.
    pub(super) deferred: Vec<Diagnostic>,
}

impl FlowDefinition {
    /// Name for people. 1 to 200 characters by default.
    #[must_use]
    pub fn display_name(&self) -> &str {
        &self.display_name
    }

    /// What starts a run. Exactly one can be published today.
    #[must_use]
    pub fn triggers(&self) -> &[TriggerDefinition] {
        &self.triggers
    }

    /// What a run does, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// When and how many of its runs are started.
    #[must_use]
    pub const fn control(&self) -> &FlowControl {
        &self.control
    }

    /// Where its HTTP requests may go; `None`: wherever the egress policy lets them, and its code nowhere.
    #[must_use]
    pub const fn allowed_hosts(&self) -> Option<&AllowedHosts> {
        self.allowed_hosts.as_ref()
    }

    /// The JSON the definition was read from, unchanged, for storage and display.
    #[must_use]
    pub const fn source(&self) -> &Arc<Value> {
        &self.source
    }
}

/// Name of a trigger or step: `^[a-zA-Z_][a-zA-Z0-9_]*$`, at most 64 characters, unique in the flow.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepName(Arc<str>);

impl StepName {
    /// Checks a name. Names of template roots (`trigger`, `steps`, `item`, …) are allowed: steps are always reached
    /// through `steps.`.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = name.bytes();
        let head = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
        (head && name.len() <= Self::MAX_LEN && bytes.all(|next| next.is_ascii_alphanumeric() || next == b'_'))
            .then(|| Self(name.into()))
    }

    /// The name `prefix_number`, or `prefix` alone for 0. `prefix` is a short name itself.
    pub(super) fn numbered(prefix: &str, number: usize) -> Self {
        if number == 0 { Self(prefix.into()) } else { Self(format!("{prefix}_{number}").into()) }
    }

    /// Longest name. Unit: characters.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for StepName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// When and how many runs of a flow are started. Written at the top of the flow.
///
/// # The JSON
///
/// ```json
/// { "concurrency": { "limit": 1, "key": "{{trigger.body.customer}}" },
///   "throttle":    { "limit": 10, "periodMs": 60000, "key": "…" },
///   "rateLimit":   { "limit": 100, "periodMs": 60000, "key": "…" },
///   "debounce":    { "delayMs": 5000, "maxWaitMs": 60000, "key": "…" },
///   "priority": 10,
///   "subject": "{{trigger.body.customer}}" }
/// ```
///
/// Templates here may read `trigger` only. A `key` that is left out is one key for the whole flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowControl {
    /// How many runs of one key may be under way, paused ones included; more wait in order.
    pub concurrency: Option<ConcurrencyControl>,
    /// How many runs of one key may start in a period; more start later.
    pub throttle: Option<PaceControl>,
    /// How many runs of one key may be accepted in a period; more are refused, a webhook with 429 and `Retry-After`.
    pub rate_limit: Option<PaceControl>,
    /// Waits for quiet: of several deliveries of one key only the last one runs.
    pub debounce: Option<DebounceControl>,
    /// Higher goes first among the waiting runs of a project. Default: 0. Accepted: -100 to 100.
    pub priority: i16,
    /// Whose data a run holds: everything sealed of it is sealed under a key of this data subject too, and is gone once that
    /// key is destroyed. Must resolve to text of 1 to 1,024 bytes, to a whole number, or to `null` for nobody.
    pub subject: Option<Template>,
}

/// See [`FlowControl::concurrency`].
#[derive(Clone, Debug, PartialEq)]
pub struct ConcurrencyControl {
    /// Runs under way at once. Accepted: 1 to 10,000.
    pub limit: u32,
    /// What makes two runs share the limit.
    pub key: Option<Template>,
}

/// See [`FlowControl::throttle`] and [`FlowControl::rate_limit`].
#[derive(Clone, Debug, PartialEq)]
pub struct PaceControl {
    /// Runs per period. Accepted: 1 to 1,000,000.
    pub limit: u32,
    /// The period. Accepted: 1 ms to 24 h.
    pub period: Duration,
    /// What makes two runs share the limit.
    pub key: Option<Template>,
}

/// See [`FlowControl::debounce`].
#[derive(Clone, Debug, PartialEq)]
pub struct DebounceControl {
    /// How long it must have been quiet. Accepted: 1 ms to 24 h.
    pub delay: Duration,
    /// How long the first delivery may be put off by later ones. Default: ten delays. Accepted: the delay to 7 days.
    pub max_wait: Duration,
    /// What makes two deliveries one.
    pub key: Option<Template>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its name.
    pub name: StepName,
    /// RFC 6901 pointer of the step in the source.
    pub pointer: String,
    /// What it does.
    pub kind: StepKind,
    /// How it is carried out.
    pub options: StepOptions,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StepKind {
    /// Runs one of two lists of steps.
    Branch(BranchStep),
    /// Runs a script.
    Code(CodeStep),
    /// Waits for time to pass.
    Delay(DelayStep),
    /// Puts jobs into a queue.
    Enqueue(EnqueueStep),
    /// Ends the run as failed.
    Fail(FailStep),
    /// Runs its steps once per item.
    Loop(LoopStep),
    /// Runs several lists of steps side by side.
    Parallel(ParallelStep),
    /// Runs an action of a piece.
    Piece(PieceStep),
    /// Works off the jobs of a queue.
    Process(ProcessStep),
    /// Answers the caller of the webhook.
    Respond(RespondStep),
    /// Runs the lists of steps whose conditions hold.
    Router(RouterStep),
    /// Runs another flow.
    Subflow(SubflowStep),
    /// Waits for somebody outside.
    Wait(WaitStep),
}

/// An action of a piece.
#[derive(Clone, Debug, PartialEq)]
pub struct PieceStep {
    /// The piece.
    pub piece: String,
    /// The action; empty in the source means the piece's first.
    pub action: Option<String>,
    /// The settings, as one template over the whole object.
    pub input: Template,
}

/// How a step is carried out.
///
/// # The JSON
///
/// Options stand beside `settings`, or inside as in the guide's §7.1 (all but `skip`); given twice, they are refused. So
/// no action of a piece can have properties of these names. All times are whole milliseconds.
///
/// ```json
/// { "retry": { "maxAttempts": 3,
///              "backoff": { "type": "exponential", "initialMs": 1000, "multiplier": 2, "maxMs": 300000 } },
///   "onError": "continue", "timeout": 30000, "skip": false, "idempotencyKey": true }
/// ```
///
/// * `backoff.type` is `exponential` (default) or `fixed`, which does not grow; `initialDelay` means `initialMs`.
/// * `failureHandling {retries, retryDelay}` (guide §7.1): `retries` attempts after the first, `retryDelay` as first wait,
///   growing as guide §6.1 says.
/// * `errorHandlingOptions {continueOnFailure: {value}, retryOnFailure: {value}}` (reference product): `retryOnFailure`
///   means 4 attempts and waits of 4, 8 and 16 s.
/// * `onError` is `"fail"` (default), `"continue"`, `{"continue": true}`, or `{"steps": […]}`.
/// * `idempotencyKey` is `true`, `false` or a template.
///
/// Steps of pieces take all of them; `code` all but `idempotencyKey`; `subflow` only `onError`, `skip` and `timeout`;
/// `fail` only `skip`; every other control word only `onError` and `skip`.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    /// What a failure means.
    pub on_error: OnError,
    /// How often and when a retryable failure is tried again. Default: one attempt.
    pub retry: RetryPolicy,
    /// Whether the step is passed over.
    pub skip: bool,
    /// Longest time of one attempt; for a `subflow`, of the wait for its end. Default: 30 s for actions, 10 s for code, 30
    /// days for a `subflow`. Accepted: 1 ms to 5 min; for a `subflow` 1 ms to 30 days.
    pub timeout: Option<Duration>,
    /// Declares that the peer honours an idempotency key.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// What a failure that no retry mended means.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OnError {
    /// The step stays failed, `steps.name.error` tells why, and the run goes on.
    Continue,
    /// The run fails.
    Fail,
    /// The handler steps run, with `steps.name.error` to look at; then the run goes on behind the failed step. What fails
    /// in a handler fails the list the step stands in.
    Steps(Vec<Step>),
}

/// How often and when a retryable failure is tried again.
///
/// Attempt `n` (from 1) is followed by a wait of `initial · multiplier^(n-1)`, at most `max_delay`, of which a random
/// half to whole is taken (jitter); a `Retry-After` of the peer counts as a lower bound, capped at `max_delay`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all. Default: 1. Accepted: 1 to 20.
    pub max_attempts: u32,
    /// First wait. Default: 1 s. Accepted: 0 to 1 h.
    pub initial_delay: Duration,
    /// Growth per attempt. Default: 2. Accepted: 1 to 10.
    pub multiplier: f64,
    /// Longest wait. Default: 5 min. Accepted: 0 to 24 h.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            initial_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(300),
        }
    }
}

/// What key is sent to a peer that honours one.
#[derive(Clone, Debug, PartialEq)]
pub enum IdempotencyKey {
    /// The SDK's own stable key of the step execution (`"idempotencyKey": true`).
    Stable,
    /// The author's own: a template that must resolve to 1 to 255 characters of text.
    Template(Template),
}

impl Step {
    /// The nested list of steps number `index`: a loop's body; a branch's `ifTrue`, then its `ifFalse`; the branches of a
    /// router, then its fallback; the branches of a parallel; what is done with a job. A kind always has the same lists,
    /// empty ones included.
    #[must_use]
    pub fn nested(&self, index: usize) -> Option<&[Step]> {
        match (&self.kind, index) {
            (StepKind::Branch(branch), 0) => Some(&branch.if_true),
            (StepKind::Branch(branch), 1) => Some(&branch.if_false),
            (StepKind::Loop(inner), 0) => Some(&inner.steps),
            (StepKind::Parallel(parallel), _) => parallel.branches.get(index).map(|branch| branch.steps.as_slice()),
            (StepKind::Process(process), 0) => Some(&process.steps),
            (StepKind::Router(router), _) if index == router.branches.len() => Some(&router.fallback),
            (StepKind::Router(router), _) => router.branches.get(index).map(|branch| branch.steps.as_slice()),
            _ => None,
        }
    }

    /// The steps that handle a failure of this one.
    #[must_use]
    pub fn handler(&self) -> &[Step] {
        match &self.options.on_error {
            OnError::Steps(steps) => steps,
            OnError::Continue | OnError::Fail => &[],
        }
    }

    /// Every nested list in order, the handler of a failure last.
    pub fn lists(&self) -> impl Iterator<Item = &[Step]> {
        (0..).map_while(|index| self.nested(index)).chain([self.handler()])
    }

    /// As [`Step::lists`], to be changed.
    pub(super) fn lists_mut(&mut self) -> Vec<&mut Vec<Step>> {
        let mut lists: Vec<&mut Vec<Step>> = match &mut self.kind {
            StepKind::Branch(branch) => vec![&mut branch.if_true, &mut branch.if_false],
            StepKind::Loop(inner) => vec![&mut inner.steps],
            StepKind::Parallel(parallel) => parallel.branches.iter_mut().map(|branch| &mut branch.steps).collect(),
            StepKind::Process(process) => vec![&mut process.steps],
            StepKind::Router(router) => {
                let branches = router.branches.iter_mut().map(|branch| &mut branch.steps);
                branches.chain([&mut router.fallback]).collect()
            }
            StepKind::Code(_)
            | StepKind::Delay(_)
            | StepKind::Enqueue(_)
            | StepKind::Fail(_)
            | StepKind::Piece(_)
            | StepKind::Respond(_)
            | StepKind::Subflow(_)
            | StepKind::Wait(_) => Vec::new(),
        };
        if let OnError::Steps(steps) = &mut self.options.on_error {
            lists.push(steps);
        }
        lists
    }

    /// The steps nested in this one, in the order of [`Step::lists`].
    pub fn children(&self) -> impl Iterator<Item = &Step> {
        self.lists().flatten()
    }

    /// A diagnostic at this step.
    #[must_use]
    pub fn diagnostic(&self, rule: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Diagnostic {
        Diagnostic::error(&self.pointer, rule, message, fix)
    }
}
