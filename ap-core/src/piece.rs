//! What a piece author implements. A piece is a named set of actions and triggers over capabilities, and nothing else.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    capability::{HttpClient, KeyClient, MailClient, ObjectClient, SqlClient},
    property::{AuthSchema, Properties},
    run::StepError,
    time::Timestamp,
};

/// A named set of actions and triggers.
pub trait Piece: fmt::Debug + Send + Sync {
    /// What a step type starts with: the `http` of `http.request`. Lower-case letters, digits and `-`.
    fn name(&self) -> &str;
    /// Name for people.
    fn display_name(&self) -> &str;
    /// One sentence: what it does.
    fn description(&self) -> &str;
    /// Which credential its actions take, if any.
    fn auth(&self) -> Option<AuthSchema>;
    /// The fields of its `CUSTOM_AUTH` connections; those that are sensitive ([`Property`](crate::property::Property)) are
    /// secret. `None`, as for most pieces: whoever makes a connection says it.
    fn custom_auth(&self) -> Option<Properties> {
        None
    }
    /// Its actions; the first is what a bare `http` means.
    fn actions(&self) -> Vec<Arc<dyn Action>>;
    /// Its triggers.
    fn triggers(&self) -> Vec<Arc<dyn Trigger>>;
}

/// One thing a step can do.
#[async_trait]
pub trait Action: fmt::Debug + Send + Sync {
    /// Its name, properties and documentation.
    fn spec(&self) -> &ActionSpec;

    /// What repeating this very call would do outside. Called with the resolved input, before [`Action::run`].
    fn effect(&self, input: &Value) -> Effect;

    /// Does it. `input` was checked against the properties; credentials in it are placeholder text.
    ///
    /// # Errors
    /// A [`StepError`] the flow's author can act on; the executor redacts it, applies the step's `retry` policy to
    /// retryable kinds, and honours [`ActionError::retry_after`].
    ///
    /// # Cancel safety
    /// The future is dropped when the step's timeout passes or the run ends.
    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError>;
}

/// What repeating an action would do outside; decides what happens to it after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Touches nothing outside: recomputed after a crash, without a ledger entry.
    None,
    /// Acts outside, and repeating it changes nothing more (RFC 9110 §9.2.2), or its peer honours the idempotency key.
    Repeatable,
    /// Acts outside, and repeating it would act again: after a crash its outcome is unknown.
    Once,
}

/// Name, properties and documentation of an action.
#[derive(Clone, Debug)]
pub struct ActionSpec {
    /// What a step type ends with: the `request` of `http.request`.
    pub name: &'static str,
    /// Name for people.
    pub display_name: &'static str,
    /// One sentence: what it does and what comes out.
    pub description: &'static str,
    /// What its settings may hold.
    pub properties: Properties,
}

/// What an action may know and use during one attempt.
#[derive(Debug)]
pub struct ActionContext<'a> {
    /// HTTP through the host's egress guard.
    pub http: &'a dyn HttpClient,
    /// Databases, each through a connection.
    pub sql: &'a dyn SqlClient,
    /// Mail, through a connection.
    pub mail: &'a dyn MailClient,
    /// Object stores, each through a connection.
    pub objects: &'a dyn ObjectClient,
    /// The secrets of connections as keys.
    pub keys: &'a dyn KeyClient,
    /// The stable key of this step execution: the same for every attempt, also after a crash.
    pub idempotency_key: &'a str,
    /// Whether the flow says the peer honours the key, so that the action should send it.
    pub send_idempotency_key: bool,
    /// Longest time the attempt may take.
    pub timeout: Duration,
    /// The time at which the attempt began.
    pub now: Timestamp,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionError {
    /// What the flow sees.
    pub error: StepError,
    /// How long the peer asked us to wait (RFC 9110 §10.2.3), if it did.
    pub retry_after: Option<Duration>,
}

impl From<StepError> for ActionError {
    fn from(error: StepError) -> Self {
        Self { error, retry_after: None }
    }
}

/// A source of events that a piece polls. Webhooks and schedules are built in; they are no piece triggers.
#[async_trait]
pub trait Trigger: fmt::Debug + Send + Sync {
    /// Its name, properties and documentation.
    fn spec(&self) -> &TriggerSpec;

    /// Asks for what is new since `cursor` (`None` at first), oldest first, and where to go on from. At most 10,000 items, 10 MiB
    /// each and 64 MiB in all, within 30 s; more is an error.
    ///
    /// # Errors
    /// As [`Action::run`]; the cursor then stays where it was.
    async fn poll(
        &self,
        context: &ActionContext<'_>,
        input: Value,
        cursor: Option<&Value>,
    ) -> Result<PollOutcome, ActionError>;
}

/// Name, properties and documentation of a trigger.
#[derive(Clone, Debug)]
pub struct TriggerSpec {
    /// What a trigger type ends with.
    pub name: &'static str,
    /// Name for people.
    pub display_name: &'static str,
    /// One sentence: what it waits for.
    pub description: &'static str,
    /// What its settings may hold.
    pub properties: Properties,
}

/// What a poll found.
#[derive(Clone, Debug, PartialEq)]
pub struct PollOutcome {
    /// New events, oldest first; each becomes one run. An item's key makes it a duplicate of an earlier one.
    pub items: Vec<(Option<String>, Value)>,
    /// Where the next poll goes on; committed together with the runs.
    pub cursor: Option<Value>,
}

/// The pieces a runtime knows, by name. The host hands them in; none is built in.
#[derive(Clone, Debug, Default)]
pub struct PieceSet {
    pieces: BTreeMap<String, Arc<dyn Piece>>,
    actions: BTreeMap<(String, String), Arc<dyn Action>>,
    triggers: BTreeMap<(String, String), Arc<dyn Trigger>>,
}

impl PieceSet {
    /// Builds the set; of two pieces with one name the later wins.
    #[must_use]
    pub fn new(pieces: impl IntoIterator<Item = Arc<dyn Piece>>) -> Self {
        let mut set = Self::default();
        for piece in pieces {
            let name = piece.name().to_owned();
            set.actions.retain(|(owner, _), _| *owner != name);
            for action in piece.actions() {
                set.actions.insert((name.clone(), action.spec().name.to_owned()), action);
            }
            set.triggers.retain(|(owner, _), _| *owner != name);
            for trigger in piece.triggers() {
                set.triggers.insert((name.clone(), trigger.spec().name.to_owned()), trigger);
            }
            set.pieces.insert(name, piece);
        }
        set
    }

    /// The piece of this name.
    #[must_use]
    pub fn piece(&self, name: &str) -> Option<&Arc<dyn Piece>> {
        self.pieces.get(name)
    }

    /// Names of all pieces, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.keys().map(String::as_str)
    }

    /// The action `piece.action`.
    #[must_use]
    pub fn action(&self, piece: &str, action: &str) -> Option<&Arc<dyn Action>> {
        // BTreeMap cannot be asked with a pair of `&str`; sets are small and this runs once per step at publish time.
        self.actions.get(&(piece.to_owned(), action.to_owned()))
    }

    /// Names of a piece's actions, in order.
    pub fn action_names<'a>(&'a self, piece: &'a str) -> impl Iterator<Item = &'a str> {
        self.actions.keys().filter(move |(owner, _)| owner == piece).map(|(_, action)| action.as_str())
    }

    /// The trigger `piece.trigger`.
    #[must_use]
    pub fn trigger(&self, piece: &str, trigger: &str) -> Option<&Arc<dyn Trigger>> {
        self.triggers.get(&(piece.to_owned(), trigger.to_owned()))
    }

    /// Names of a piece's triggers, in order.
    pub fn trigger_names<'a>(&'a self, piece: &'a str) -> impl Iterator<Item = &'a str> {
        self.triggers.keys().filter(move |(owner, _)| owner == piece).map(|(_, trigger)| trigger.as_str())
    }
}
