//! [`AuditEvent`]: who did what, when, from where, on what, and how it ended.

use std::{borrow::Cow, collections::BTreeMap, fmt, net::IpAddr};

use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    id::AuditId,
    scope::Scope,
    store::Sealed,
    time::Timestamp,
};
use ap_crypto::redact::Redactor;
use serde::{Deserialize, Serialize};

use super::text::neutralise;
use crate::{
    authorizer::{Authorized, Denied, Resource},
    permission::PermissionMarker,
    principal::{Actor, Identity},
};

/// One event of the audit trail, with the seven facts of guide §3.4: identity, action, time, address, user agent,
/// affected resources, outcome.
///
/// # Security
/// Every text is made inert when it comes in: what a log or terminal would act on (line breaks, escape sequences,
/// characters that reorder text) is shown as an escape, lengths are bounded, and what looks like a token is masked. Secrets
/// have no way in, unless a caller takes them out of their type first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditEvent {
    at: Timestamp,
    scope: Scope,
    actor: Identity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    action: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resources: Vec<String>,
    outcome: AuditOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    details: BTreeMap<String, Detail>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// What is sealed of an event: all that the clear fields of its record do not say. The version is the format's; it is left
/// out of the first one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(default = "first", skip_serializing_if = "is_first")]
    v: u8,
    #[serde(rename = "by")]
    actor: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(rename = "agent", default, skip_serializing_if = "Option::is_none")]
    user_agent: Option<Cow<'a, str>>,
    #[serde(rename = "on", default, skip_serializing_if = "is_empty")]
    resources: Cow<'a, [String]>,
    #[serde(rename = "why", default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(rename = "with", default, skip_serializing_if = "has_none")]
    details: Cow<'a, BTreeMap<String, Detail>>,
    #[serde(rename = "cut", default, skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

const fn first() -> u8 {
    FORMAT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_first(version: &u8) -> bool {
    *version == FORMAT
}

fn is_empty(resources: &[String]) -> bool {
    resources.is_empty()
}

fn has_none(details: &BTreeMap<String, Detail>) -> bool {
    details.is_empty()
}

impl AuditEvent {
    /// Most affected resources of one event; more are left out, and [`AuditEvent::is_truncated`] says so.
    pub const MAX_RESOURCES: usize = 32;
    /// Most details of one event; more are left out, and [`AuditEvent::is_truncated`] says so.
    pub const MAX_DETAILS: usize = 32;
    /// Longest text of any field, after escaping. Unit: bytes. Longer ones are cut and end in `…`.
    pub const MAX_TEXT_BYTES: usize = 512;

    /// An authorised action that was done. The action's name is the permission's; its resource is the proof's.
    pub fn of<P: PermissionMarker, R: Resource>(proof: &Authorized<P, R>, at: Timestamp) -> Self {
        let event = Self::by(proof.actor(), P::PERMISSION.as_str(), proof.scope(), at);
        let event = Self { reason: Some(safe(&proof.reason().to_string())), ..event };
        proof.resource().id_text().into_iter().fold(event, Self::with_resource)
    }

    /// An attempt that the authorizer denied.
    #[must_use]
    pub fn denied(denied: &Denied, at: Timestamp) -> Self {
        let event = Self::by(denied.actor(), denied.permission().as_str(), denied.scope(), at);
        let event = denied.resource().into_iter().fold(event, Self::with_resource);
        event.with_outcome(AuditOutcome::Denied, denied.reason())
    }

    /// Something that no session authorised: the engine's own acts, and what happens at a door.
    ///
    /// `action` is a stable dotted name such as `webhook.accept`. The outcome is success until
    /// [`AuditEvent::with_outcome`] says otherwise.
    #[must_use]
    pub fn by(actor: &Actor, action: &str, scope: Scope, at: Timestamp) -> Self {
        Self {
            at,
            scope,
            actor: match actor.identity() {
                Identity::Service(name) => Identity::Service(safe(name).into()),
                other => other.clone(),
            },
            ip: actor.ip(),
            user_agent: actor.user_agent().map(safe),
            action: safe(action),
            resources: Vec::new(),
            outcome: AuditOutcome::Success,
            reason: None,
            details: BTreeMap::new(),
            truncated: false,
        }
    }

    /// Says that it did not end well, and why. The reason replaces an earlier one and must hold no secret.
    #[must_use]
    pub fn with_outcome(self, outcome: AuditOutcome, reason: impl fmt::Display) -> Self {
        Self { outcome, reason: Some(safe(&reason.to_string())), ..self }
    }

    /// Adds an affected resource: an id, or a name where there is no id.
    #[must_use]
    pub fn with_resource(mut self, resource: impl fmt::Display) -> Self {
        if self.resources.len() < Self::MAX_RESOURCES {
            self.resources.push(safe(&resource.to_string()));
        } else {
            self.truncated = true;
        }
        self
    }

    /// Adds a detail, such as the revision written; must hold no secret. A detail of the same name is replaced.
    #[must_use]
    pub fn with_detail(mut self, name: &str, value: impl Into<Detail>) -> Self {
        let (name, value) = (safe(name), value.into());
        if self.details.len() < Self::MAX_DETAILS || self.details.contains_key(&name) {
            self.details.insert(name, value);
        } else {
            self.truncated = true;
        }
        self
    }

    /// Who.
    #[must_use]
    pub const fn actor(&self) -> &Identity {
        &self.actor
    }

    /// What: a stable dotted name.
    #[must_use]
    pub fn action(&self) -> &str {
        &self.action
    }

    /// When.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// From which address, if known.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// With which user agent, if named.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }

    /// On what.
    #[must_use]
    pub fn resources(&self) -> &[String] {
        &self.resources
    }

    /// How it ended.
    #[must_use]
    pub const fn outcome(&self) -> AuditOutcome {
        self.outcome
    }

    /// Why it was allowed, denied or failed, if that is known.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whose trail it belongs to.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// What else is worth knowing.
    #[must_use]
    pub const fn details(&self) -> &BTreeMap<String, Detail> {
        &self.details
    }

    /// Whether resources or details were left out because there were too many.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// The bytes to seal under the key of [`AuditEvent::scope`]. They do not repeat what the clear fields of the record say:
    /// id, scope, time, action and outcome. The seal has to be bound to those, so that none can be changed.
    ///
    /// # Errors
    /// [`AuditBodyError::Malformed`], should the event not serialise.
    pub fn to_record_body(&self) -> Result<Vec<u8>, AuditBodyError> {
        let body = Body {
            v: FORMAT,
            actor: Cow::Owned(self.actor.to_string()),
            ip: self.ip,
            user_agent: self.user_agent.as_deref().map(Cow::Borrowed),
            resources: Cow::Borrowed(&self.resources),
            reason: self.reason.as_deref().map(Cow::Borrowed),
            details: Cow::Borrowed(&self.details),
            truncated: self.truncated,
        };
        serde_json::to_vec(&body).map_err(|_| AuditBodyError::Malformed)
    }

    /// The record for the store, once the body is sealed.
    #[must_use]
    pub fn to_record(&self, id: AuditId, body: Sealed) -> AuditRecord {
        let (scope, at, outcome) = (self.scope, self.at, self.outcome);
        AuditRecord { id, scope, at, action: self.action.clone(), outcome, body }
    }

    /// Reads an event back from the opened body of `record`.
    ///
    /// # Errors
    /// [`AuditBodyError::Malformed`] if the bytes are no event of a known version.
    ///
    /// # Security
    /// The clear fields of the record are believed: a body that was opened must have been bound to them.
    pub fn from_record(record: &AuditRecord, body: &[u8]) -> Result<Self, AuditBodyError> {
        let body: Body<'_> = serde_json::from_slice(body).map_err(|_| AuditBodyError::Malformed)?;
        if body.v != FORMAT {
            return Err(AuditBodyError::Malformed);
        }
        Ok(Self {
            at: record.at,
            scope: record.scope,
            actor: body.actor.parse().map_err(|_| AuditBodyError::Malformed)?,
            ip: body.ip,
            user_agent: body.user_agent.map(Cow::into_owned),
            action: record.action.clone(),
            resources: body.resources.into_owned(),
            outcome: record.outcome,
            reason: body.reason.map(Cow::into_owned),
            details: body.details.into_owned(),
            truncated: body.truncated,
        })
    }
}

impl fmt::Display for AuditEvent {
    /// One line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            AuditOutcome::Denied => "denied",
            AuditOutcome::Failure => "failed",
            AuditOutcome::Success => "done",
        };
        write!(f, "{} {} {} {outcome}", self.at, self.actor, self.action)?;
        if !self.resources.is_empty() {
            write!(f, " on {}", self.resources.join(", "))?;
        }
        if let Some(ip) = self.ip {
            write!(f, " from {ip}")?;
        }
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

/// A plain value: whatever is more than that does not belong into an audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Detail {
    /// Yes or no.
    Flag(bool),
    /// A number.
    Number(u64),
    /// Text, inert and bounded; made by `From` only.
    Text(SafeText),
}

impl From<bool> for Detail {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u64> for Detail {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        Self::Text(SafeText(safe(text)))
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// Text that was made inert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SafeText(String);

impl SafeText {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a stored event cannot be read: the store's content is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditBodyError {
    /// The body is no event of a known version.
    #[error("the audit record's body cannot be read")]
    Malformed,
}

fn safe(text: &str) -> String {
    neutralise(&Redactor::token_shapes().redact_str(text), AuditEvent::MAX_TEXT_BYTES)
}

/// The version of the stored form; never reused.
const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use ap_core::id::{FlowId, ProjectId, UserId};

    use super::*;
    use crate::{
        authorizer::Authorizer,
        permission::{FlowPublish, ProjectWrite},
        principal::Principal,
        role::Role,
    };

    const PROJECT: ProjectId = ProjectId::from_u128(1);
    const AT: Timestamp = Timestamp::from_millis(1_767_323_045_000);

    fn editor() -> Principal {
        Principal::user(UserId::from_u128(2))
            .with_role(PROJECT, Role::Editor)
            .with_ip("203.0.113.7".parse().expect("address"))
            .with_user_agent("browser/1")
    }

    fn published() -> AuditEvent {
        let proof = Authorizer.authorize::<FlowPublish, _>(&editor(), PROJECT, FlowId::from_u128(3)).expect("allowed");
        AuditEvent::of(&proof, AT).with_detail("version", 4).with_detail("enabled", true).with_detail("name", "Sync")
    }

    fn record(event: &AuditEvent) -> AuditRecord {
        event.to_record(AuditId::from_u128(1), Sealed::from_bytes(vec![1].into()))
    }

    #[test]
    fn the_stored_form_is_pinned() {
        let body = published().to_record_body().expect("serialises");
        assert_eq!(
            String::from_utf8(body).expect("text"),
            concat!(
                r#"{"by":"user_00000000000000000000000002","#,
                r#""ip":"203.0.113.7","agent":"browser/1","on":["flow_00000000000000000000000003"],"#,
                r#""why":"role EDITOR in proj_00000000000000000000000001","#,
                r#""with":{"enabled":true,"name":"Sync","version":4}}"#
            )
        );
    }

    #[test]
    fn events_come_back_from_their_records() {
        let by = |identity| AuditEvent::by(&Actor::new(identity), "webhook.accept", PROJECT.into(), AT);
        let service = |name: &str| by(Identity::Service(name.into()));
        let others = [by(Identity::Anonymous), by(Identity::Engine), service("sync"), service("engine"), service("")];
        for event in std::iter::once(published()).chain(others) {
            let body = event.to_record_body().expect("serialises");
            assert_eq!(AuditEvent::from_record(&record(&event), &body), Ok(event));
        }
    }

    #[test]
    fn what_is_no_event_of_a_known_version_is_refused() {
        let event = published();
        let (record, body) = (record(&event), event.to_record_body().expect("serialises"));
        let text = String::from_utf8(body.clone()).expect("text");
        let (later, nobody) = (text.replacen('{', "{\"v\":2,", 1), text.replacen("user_", "who_", 1));
        for body in [&b"{}"[..], &body[1..], later.as_bytes(), nobody.as_bytes()] {
            assert_eq!(AuditEvent::from_record(&record, body), Err(AuditBodyError::Malformed));
        }
    }

    #[test]
    fn a_denial_says_who_tried_what() {
        let denied = Authorizer.authorize::<ProjectWrite, _>(&editor(), PROJECT, PROJECT).expect_err("editor");
        let event = AuditEvent::denied(&denied, AT);
        assert_eq!(event.outcome(), AuditOutcome::Denied);
        assert_eq!(event.resources(), [PROJECT.to_string()]);
        assert_eq!(
            event.to_string(),
            format!(
                "2026-01-02T03:04:05Z {} project.write denied on {PROJECT} from 203.0.113.7 \
                 (role EDITOR in {PROJECT} does not include it)",
                UserId::from_u128(2)
            )
        );
    }

    #[test]
    fn no_field_can_forge_a_line() {
        let hostile = "x\r\n\u{1b}[2K2026-01-01T00:00:00Z engine flow.publish done";
        let actor = Actor::new(Identity::Service(hostile.into())).with_user_agent(hostile);
        let event = AuditEvent::by(&actor, hostile, PROJECT.into(), AT)
            .with_resource(hostile)
            .with_detail(hostile, hostile)
            .with_outcome(AuditOutcome::Failure, hostile);
        let texts = [event.to_string(), format!("{:?}", event.details()), event.user_agent().expect("set").to_owned()];
        for text in texts {
            assert!(!text.contains(['\r', '\n', '\u{1b}']), "{text:?}");
        }
        let (name, value) = event.details().first_key_value().expect("one");
        assert!(!name.contains('\n') && matches!(value, Detail::Text(text) if !text.as_str().contains('\n')));
    }

    #[test]
    fn what_looks_like_a_token_is_masked_in_every_text() {
        // Put together here, so that scanners of repositories do not take it for a leak.
        let token = format!("{}_{}", "ghp", "Ab1".repeat(12));
        let actor = Actor::new(Identity::Anonymous).with_user_agent(token.as_str());
        let event = AuditEvent::by(&actor, "run.cancel", PROJECT.into(), AT)
            .with_resource(&token)
            .with_detail("reason", format!("leaked {token}"))
            .with_outcome(AuditOutcome::Failure, format!("401 for Bearer {token}"));
        let body = String::from_utf8(event.to_record_body().expect("body")).expect("text");
        assert!(!body.contains(&token) && body.matches("‹redacted:github-token›").count() == 4, "{body}");
    }

    #[test]
    fn sizes_are_bounded() {
        let long = "x".repeat(AuditEvent::MAX_TEXT_BYTES + 1);
        let actor = Actor::new(Identity::Anonymous).with_user_agent(long.as_str());
        let event = AuditEvent::by(&actor, &long, PROJECT.into(), AT);
        assert_eq!(event.user_agent().map(str::len), Some(AuditEvent::MAX_TEXT_BYTES));
        let full = (0..AuditEvent::MAX_RESOURCES).fold(event.clone(), AuditEvent::with_resource);
        assert!(!full.is_truncated());
        let over = full.with_resource("one more");
        assert_eq!((over.resources().len(), over.is_truncated()), (AuditEvent::MAX_RESOURCES, true));
        let full = (0..AuditEvent::MAX_DETAILS).fold(event, |event, n| event.with_detail(&n.to_string(), true));
        assert!(!full.clone().with_detail("0", false).is_truncated());
        let over = full.with_detail("one more", true);
        assert_eq!((over.details().len(), over.is_truncated()), (AuditEvent::MAX_DETAILS, true));
    }
}
