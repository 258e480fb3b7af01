//! What starts runs.

use std::time::Duration;

use super::StepName;
use crate::expr::Template;

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
    /// A trigger of a piece, polled.
    Piece(PollSettings),
    /// A cron schedule.
    Schedule(ScheduleSettings),
    /// An HTTP request to the flow's webhook URL.
    Webhook(WebhookSettings),
}

/// Settings of a polled trigger of a piece.
///
/// ```json
/// { "type": "piece.trigger", "settings": { … }, "pollIntervalMs": 300000 }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PollSettings {
    /// The piece.
    pub piece: String,
    /// Its trigger.
    pub trigger: String,
    /// Its settings: templates that may read `connections` only.
    pub input: Template,
    /// How long after one poll the next one begins. Default: 5 min (reference product). Accepted: 1 s to 24 h.
    pub interval: Duration,
}

/// Settings of a schedule.
///
/// ```json
/// { "cronExpression": "0 9 * * 1-5", "timezone": "Europe/Berlin", "overlap": "skip", "catchUp": "one" }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// The cron expression as written: five fields, or six with seconds first. Absent (guide §6.2): refused at publish.
    pub cron_expression: Option<String>,
    /// IANA time zone name. Default: UTC.
    pub timezone: Option<String>,
    /// What happens at a tick while a run of an earlier tick has not ended.
    pub overlap: Overlap,
    /// What happens with ticks that passed while nobody was there to see them.
    pub catch_up: CatchUp,
}

/// What a schedule does at a tick while a run of an earlier tick has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlap {
    /// `allow`: starts another run beside it.
    Allow,
    /// `queue`: starts another run after it.
    Queue,
    /// `skip` (default): lets the tick pass.
    #[default]
    Skip,
}

/// What a schedule does with ticks that passed while nobody was there to see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatchUp {
    /// `all`: a run for each, the oldest first, at most the last 100.
    All,
    /// `none`: lets them pass; a tick counts as missed once it is a minute old.
    None,
    /// `one` (default): one run, for the latest of them.
    #[default]
    One,
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
