//! The parsed flow: triggers and steps, every string leaf already a template.

use std::{borrow::Borrow, fmt, sync::Arc, time::Duration};

use serde_json::Value;

use super::{BranchCondition, Diagnostic};
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
/// * Step types: the control words `code`, `loop`, `branch`, `respond`, `fail` (`router`, `parallel`, `subflow`, `delay`,
///   `wait` parse and are refused at publish), else `piece` or `piece.action`.
/// * A name may be left out: steps then get the first free `step_1`, `step_2`, … in the order of the text, the trigger
///   gets `trigger`. A flow without `displayName` is called `Untitled flow`.
/// * What a step does stands in `settings`; how it is carried out stands beside it, see [`StepOptions`].
/// * Members that nothing reads are errors.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowDefinition {
    pub(super) display_name: String,
    pub(super) triggers: Vec<TriggerDefinition>,
    pub(super) steps: Vec<Step>,
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

/// What starts a run.
#[derive(Clone, Debug, PartialEq)]
pub struct TriggerDefinition {
    /// Its name.
    pub name: StepName,
    /// RFC 6901 pointer of the trigger in the source.
    pub pointer: String,
    /// What kind it is.
    pub kind: TriggerKind,
}

/// Kinds of triggers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TriggerKind {
    /// Started by the host through its session only.
    Manual,
    /// A trigger of a piece, polled. Parses; refused at publish as not yet available.
    Piece {
        /// The piece.
        piece: String,
        /// Its trigger.
        trigger: String,
        /// Its settings, templates unresolved.
        settings: Value,
    },
    /// A cron schedule. Parses; refused at publish as not yet available.
    Schedule {
        /// The cron expression as written; the guide's §6.2 gives none.
        cron_expression: Option<String>,
        /// IANA time zone name, if given.
        timezone: Option<String>,
    },
    /// An HTTP request to the flow's webhook URL.
    Webhook(WebhookSettings),
}

/// Settings of a webhook trigger (guide §2).
///
/// # The JSON
///
/// ```json
/// { "authentication": { "type": "HMAC_SHA256", "headerName": "X-Signature", "secret": "{{connections.hook}}",
///                       "encoding": "hex", "prefix": "sha256=" },
///   "dedupeKey": "X-Delivery-Id" }
/// ```
///
/// Types of authentication: `NONE`; `HEADER {headerName, expectedValue}`; `BASIC_AUTH {username, password}`;
/// `HMAC_SHA256 {headerName, secret, encoding?, prefix?}`. `handshakeConfiguration {strategy, challengeParameter?}`
/// stands here or beside the settings, as in guide §2.3. Without `authentication` it is `NONE`, with a warning.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSettings {
    /// Who may call.
    pub authentication: WebhookAuthentication,
    /// Where the sender's delivery id stands: a header name, or a JSON pointer into the body when it starts with `/`; at
    /// most 256 bytes.
    /// `None`: `webhook-id`, else `idempotency-key`, else every request is its own delivery.
    pub dedupe_key: Option<String>,
    /// How a verification handshake is answered. Parses; refused at publish as not yet available.
    pub handshake: Option<WebhookHandshake>,
}

/// Who may call a webhook. Secrets are always references to connections, never literals.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WebhookAuthentication {
    /// User name and password (RFC 7617).
    Basic {
        /// Literal, or a reference to a connection.
        username: Template,
        /// A reference to a connection.
        password: Template,
    },
    /// A header with a shared secret.
    Header {
        /// The header.
        header_name: String,
        /// A reference to a connection.
        expected_value: Template,
    },
    /// HMAC-SHA256 over the raw body.
    Hmac {
        /// The header that carries the signature.
        header_name: String,
        /// A reference to a connection: the key.
        secret: Template,
        /// `hex` (default) or `base64`.
        base64: bool,
        /// What stands before the signature, such as `sha256=`. Default: nothing.
        prefix: String,
    },
    /// Anyone who knows the URL.
    None,
}

/// A verification handshake (guide §2.3).
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookHandshake {
    /// The strategy as written.
    pub strategy: String,
    /// The parameter as written, if any.
    pub parameter: Option<String>,
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
    /// Ends the run as failed.
    Fail(FailStep),
    /// Runs its steps once per item.
    Loop(LoopStep),
    /// Runs an action of a piece.
    Piece(PieceStep),
    /// Answers the caller of the webhook.
    Respond(RespondStep),
    /// A control word of the design that parses and is refused at publish: `router`, `parallel`, `subflow`, `delay`, `wait`.
    Unavailable {
        /// The control word.
        word: &'static str,
    },
}

/// `branch` (guide §7.3).
#[derive(Clone, Debug, PartialEq)]
pub struct BranchStep {
    /// Decides.
    pub condition: BranchCondition,
    /// Steps for a true condition.
    pub if_true: Vec<Step>,
    /// Steps for a false condition.
    pub if_false: Vec<Step>,
}

/// `code` (guide §7.1).
#[derive(Clone, Debug, PartialEq)]
pub struct CodeStep {
    /// The script: an ES module that exports `code`.
    pub source: Arc<str>,
    /// What the script gets as `params`. `None`: the documented default, see [`ValidFlow`](super::ValidFlow).
    pub input: Option<Template>,
}

/// `fail`.
#[derive(Clone, Debug, PartialEq)]
pub struct FailStep {
    /// The message of the error the run ends with.
    pub message: Template,
}

/// `loop` (guide §7.2).
#[derive(Clone, Debug, PartialEq)]
pub struct LoopStep {
    /// Must resolve to an array.
    pub items: Template,
    /// Steps of one iteration.
    pub steps: Vec<Step>,
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

/// `respond`: answers the synchronous caller and goes on, or ends the run.
#[derive(Clone, Debug, PartialEq)]
pub struct RespondStep {
    /// Status code, 200 by default; must resolve to 200 to 599.
    pub status: Template,
    /// Object of header values.
    pub headers: Template,
    /// The body: JSON, or text for a string with a `content-type` header other than JSON.
    pub body: Template,
    /// Whether the run ends here. Default: it goes on.
    pub stop: bool,
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
/// * `onError` is `"fail"` (default), `"continue"`, `{"continue": true}`, or `{"steps": […]}`, refused at publish.
/// * `idempotencyKey` is `true`, `false` or a template.
///
/// Steps of pieces take all of them; `code` all but `idempotencyKey`; `loop`, `branch` and `respond` only `onError` and
/// `skip`; `fail` only `skip`.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    /// What a failure means.
    pub on_error: OnError,
    /// How often and when a retryable failure is tried again. Default: one attempt.
    pub retry: RetryPolicy,
    /// Whether the step is passed over.
    pub skip: bool,
    /// Longest time of one attempt. Default: 30 s for actions, 10 s for code. Accepted: 1 ms to 5 min.
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
    /// A list of handler steps. Parses; refused at publish as not yet available.
    Steps,
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

impl StepKind {
    /// The lists of nested steps, in the order in which they stand in the flow model.
    pub(super) fn lists(&self) -> (&[Step], &[Step]) {
        match self {
            Self::Branch(branch) => (&branch.if_true, &branch.if_false),
            Self::Loop(inner) => (&inner.steps, &[]),
            Self::Code(_) | Self::Fail(_) | Self::Piece(_) | Self::Respond(_) | Self::Unavailable { .. } => (&[], &[]),
        }
    }

    pub(super) fn lists_mut(&mut self) -> (&mut [Step], &mut [Step]) {
        match self {
            Self::Branch(branch) => (&mut branch.if_true, &mut branch.if_false),
            Self::Loop(inner) => (&mut inner.steps, &mut []),
            Self::Code(_) | Self::Fail(_) | Self::Piece(_) | Self::Respond(_) | Self::Unavailable { .. } => {
                (&mut [], &mut [])
            }
        }
    }
}

impl Step {
    /// The steps nested in this one: a loop's body; a branch's `ifTrue`, then its `ifFalse`.
    pub fn children(&self) -> impl Iterator<Item = &Step> {
        let (first, second) = self.kind.lists();
        first.iter().chain(second)
    }

    /// A diagnostic at this step.
    #[must_use]
    pub fn diagnostic(&self, rule: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Diagnostic {
        Diagnostic::error(&self.pointer, rule, message, fix)
    }
}
