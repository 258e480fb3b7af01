//! Polling a trigger of a piece: ask it, and make its items runs.
//!
//! Items and cursor are committed together, so a crash at any point repeats the poll from where it stood, and what an earlier
//! attempt brought in already is recognised by the keys of its items for as long as deliveries are remembered. A poll that
//! fails keeps the cursor and is tried again ever more rarely.

use std::{borrow::Cow, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use ap_auth::audit::AuditEvent;
use ap_core::{
    expr::{Environment, Key, Lookup, Path},
    flow::PollSettings,
    id::RunId,
    json,
    piece::{ActionContext, ActionError, PollOutcome, Trigger},
    run::{StepError, StepErrorKind},
};
use ap_crypto::redact::Redactor;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Firing;
use crate::{
    credentials::CredentialLoader,
    engine::ConnectionViews,
    flow_control::Origin,
    journal::RunError,
    records,
    store::{Claimed, Lease, TriggerFire},
};

/// Where a poll stands, as it is sealed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Standing {
    v: u8,
    /// What is polled: a cursor of something else means nothing.
    of: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<Value>,
    /// Polls that failed since one succeeded.
    #[serde(default)]
    failures: u32,
}

impl Firing<'_> {
    /// What a poll comes to.
    pub(super) async fn poll(&self, settings: &PollSettings) -> Result<TriggerFire, RunError> {
        let standing = self.standing(settings)?;
        let mut credentials = CredentialLoader::for_trigger(self.poller()?, &self.flow);
        credentials.refresh(self.kernel, &self.keys).await?;
        let asked = self.ask(settings, &mut credentials, standing.cursor.as_ref()).await?;
        let now = self.kernel.clock.now();
        match asked {
            Ok(found) => {
                let mut fired = self.fired(Some(now.saturating_add(settings.interval)));
                for (key, item) in found.items {
                    let identity = key.as_ref().map(|key| [b"item".as_slice(), key.as_bytes()]);
                    fired.runs.push(self.run(item, identity, Origin::Poll).await?);
                }
                let standing = Standing { cursor: found.cursor, failures: 0, ..standing };
                fired.state = Some(self.seal(&standing)?);
                Ok(fired)
            }
            Err(ActionError { error, retry_after }) => {
                let flow = self.claimed.flow;
                // Not the words of the piece: they may be those of its peer, or of what it found.
                tracing::warn!(%flow, kind = ?error.kind, failures = standing.failures + 1, "a poll failed");
                self.kernel.denials.trigger(self.claimed.project, flow, reason(error.kind));
                let random = self.kernel.random_u32()?;
                let wait = back_off(settings.interval, standing.failures, random).max(retry_after.unwrap_or_default());
                let mut fired = self.fired(Some(now.saturating_add(wait.min(LONGEST_BACK_OFF))));
                let standing = Standing { failures: standing.failures.saturating_add(1), ..standing };
                fired.state = Some(self.seal(&standing)?);
                Ok(fired)
            }
        }
    }

    /// Asks the piece, within bounds. What comes back holds no credential.
    async fn ask(
        &self,
        settings: &PollSettings,
        credentials: &mut CredentialLoader,
        cursor: Option<&Value>,
    ) -> Result<Result<PollOutcome, ActionError>, RunError> {
        let kernel = self.kernel;
        let Some(trigger) = self.flow.piece_trigger() else {
            let message = "the piece or its trigger is not known here";
            return Ok(Err(StepError::new(StepErrorKind::Internal, message).into()));
        };
        let views = credentials.views();
        let resolved = settings.input.resolve(&Connections(&views));
        let resolved = resolved.map_err(|error| StepError::new(StepErrorKind::Input, error.to_string()));
        let input = match resolved.and_then(|input| trigger.spec().properties.validate(input)) {
            Ok(input) => input,
            Err(error) => return Ok(Err(error.into())),
        };
        let of_flow = |event: AuditEvent| event.with_resource(self.claimed.flow);
        if let Some((error, audit)) = credentials.denied((kernel, &self.keys), (&settings.piece, &input), of_flow)? {
            kernel.backend.append_audit(&[audit]).await?;
            return Ok(Err(error.into()));
        }
        let uses = credentials.audit_uses_in(kernel, &self.keys, &input, |event| {
            event.with_resource(self.claimed.flow).with_detail("trigger", settings.trigger.as_str())
        })?;
        if !uses.is_empty() {
            kernel.backend.append_audit(&uses).await?;
        }
        let bound = match credentials.ready(kernel, &self.keys, (&settings.piece, &input)).await {
            Ok(bound) => bound,
            Err(failed) => return Ok(Err(failed)),
        };
        let ways = kernel.egress.for_attempt(&bound, &kernel.entropy, self.flow.definition().allowed_hosts());
        let key = format!("{}/poll/{}", self.claimed.flow, self.claimed.epoch);
        let context = ways.context((&key, false), POLL_TIMEOUT, kernel.clock.now());
        let until = kernel.clock.now().saturating_add(POLL_TIMEOUT);
        let answer = tokio::select! {
            biased;
            answer = caught(trigger, &context, input, cursor) => answer,
            () = kernel.clock.sleep_until(until) => {
                let message = format!("the poll did not finish within {} s", POLL_TIMEOUT.as_secs());
                Err(StepError::new(StepErrorKind::Timeout, message).into())
            }
        };
        let redactor = kernel.egress.scrubs().then(|| bound.redactor());
        Ok(answer.and_then(|found| bounded(found, redactor)).map_err(|error| redacted(error, redactor)))
    }

    /// Stands for a run where a run is asked for: placeholders of a poll mean nothing in any other.
    fn poller(&self) -> Result<Claimed, RunError> {
        let run = RunId::from_parts(self.kernel.clock.now(), self.kernel.id_entropy()?);
        let lease = Lease { project: self.claimed.project, run, epoch: self.claimed.epoch };
        Ok(Claimed { lease, flow: self.claimed.flow, version: self.claimed.version, subject: None })
    }

    fn standing(&self, settings: &PollSettings) -> Result<Standing, RunError> {
        let of = self.source_of(settings);
        let fresh = || Standing { v: FORMAT, of: of.clone(), ..Standing::default() };
        let Some((epoch, sealed)) = &self.claimed.state else { return Ok(fresh()) };
        let context = records::trigger_state(&self.claimed.flow, self.claimed.project, *epoch);
        let plain = self.keys.open(&context, sealed)?;
        let standing: Standing = serde_json::from_slice(&plain).map_err(RunError::Encoding)?;
        if standing.v != FORMAT {
            return Err(RunError::Encoding(serde::de::Error::custom("unknown format of a cursor")));
        }
        Ok(if standing.of == of { standing } else { fresh() })
    }

    /// What is polled: the trigger, and its settings as written.
    fn source_of(&self, settings: &PollSettings) -> String {
        let pointer = format!("{}/settings", self.flow.trigger().pointer);
        let written = self.flow.definition().source().pointer(&pointer).map(Value::to_string).unwrap_or_default();
        let parts = [settings.piece.as_bytes(), settings.trigger.as_bytes(), written.as_bytes()];
        let hash = self.keys.lookup_hash("poll-source", &parts);
        hash.0.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    fn seal(&self, standing: &Standing) -> Result<ap_core::store::Sealed, RunError> {
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(standing).map_err(RunError::Encoding)?);
        let context = records::trigger_state(&self.claimed.flow, self.claimed.project, self.claimed.epoch);
        Ok(self.keys.seal(&context, &plain, &*self.kernel.entropy)?)
    }
}

/// A panic in a piece is a failed poll, not a dead worker.
async fn caught(
    trigger: &Arc<dyn Trigger>,
    context: &ActionContext<'_>,
    input: Value,
    cursor: Option<&Value>,
) -> Result<PollOutcome, ActionError> {
    AssertUnwindSafe(trigger.poll(context, input, cursor))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(StepError::new(StepErrorKind::Internal, "the piece failed unexpectedly").into()))
}

/// What was found, without credentials, if it is not too much.
fn bounded(found: PollOutcome, redactor: Option<&Redactor>) -> Result<PollOutcome, ActionError> {
    let limit = |message: String| ActionError::from(StepError::new(StepErrorKind::Limit, message));
    if found.items.len() > MAX_ITEMS {
        return Err(limit(format!("a poll may find {MAX_ITEMS} items, and this one found {}", found.items.len())));
    }
    let clean = |value: Value| match redactor {
        Some(redactor) if !redactor.is_empty() => redactor.redact_json(value),
        _ => value,
    };
    let mut bytes = 0_u64;
    for value in found.items.iter().map(|(_, item)| item).chain(&found.cursor) {
        json::check_stored(value).map_err(|over| limit(format!("an item {over}")))?;
        bytes = bytes.saturating_add(json::size_of(value));
    }
    if bytes > MAX_BYTES {
        return Err(limit(format!("what a poll found may have {MAX_BYTES} bytes in all")));
    }
    let items = found.items.into_iter().map(|(key, item)| (key, clean(item))).collect();
    Ok(PollOutcome { items, cursor: found.cursor.map(clean) })
}

fn redacted(failed: ActionError, redactor: Option<&Redactor>) -> ActionError {
    let Some(redactor) = redactor else { return failed };
    let message = redactor.with_token_shapes().redact_str(&failed.error.message).into_owned();
    ActionError { error: StepError { message, detail: None, ..failed.error }, ..failed }
}

/// How long a poll rests after `failures` earlier ones and this one: twice as long each time, of which chance takes up to a
/// half.
fn back_off(interval: Duration, failures: u32, random: u32) -> Duration {
    let whole = interval.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(LONGEST_BACK_OFF).max(interval);
    whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Under which name a failed poll is counted.
const fn reason(kind: StepErrorKind) -> &'static str {
    match kind {
        StepErrorKind::Connection => "the poll failed: connection",
        StepErrorKind::Input => "the poll failed: settings",
        StepErrorKind::Limit => "the poll failed: too much at once",
        StepErrorKind::OutcomeTransient | StepErrorKind::Interrupted => "the poll failed: peer out of reach",
        StepErrorKind::Refused => "the poll failed: address refused",
        StepErrorKind::Remote => "the poll failed: peer refused",
        StepErrorKind::Timeout => "the poll failed: timeout",
        _ => "the poll failed",
    }
}

/// All that the settings of a poll may read.
struct Connections<'a>(&'a ConnectionViews);

impl Environment for Connections<'_> {
    fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a> {
        let name = |index: usize| match path.segments.get(index).map(|segment| &segment.key) {
            Some(Key::Name(name)) => Some(name.as_str()),
            Some(Key::Index(_)) | None => None,
        };
        let text = |text: &str, consumed| Lookup::Found { value: Cow::Owned(Value::from(text)), consumed };
        if name(0) != Some("connections") {
            return Lookup::Missing { at: 0 };
        }
        let Some(view) = name(1).and_then(|connection| self.0.get(connection)) else {
            return Lookup::Missing { at: 1 };
        };
        if path.segments.len() == 2 {
            return text(&view.whole, 2);
        }
        name(2).and_then(|field| view.fields.get(field)).map_or(Lookup::Missing { at: 2 }, |field| text(field, 3))
    }
}

const FORMAT: u8 = 1;
/// Longest time of one poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest rest after a failed poll, unless the flow's own interval is longer.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(3_600);
/// Items of one poll.
const MAX_ITEMS: usize = 10_000;
/// Size of the items of one poll. Unit: bytes, roughly those of their JSON.
const MAX_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_poll_rests_longer_each_time_and_not_for_ever() {
        let interval = Duration::from_secs(60);
        for (failures, whole) in [(0, 60), (1, 120), (2, 240), (6, 3_600), (60, 3_600)] {
            let rest = |random| back_off(interval, failures, random);
            assert_eq!((rest(0), rest(u32::MAX)), (Duration::from_secs(whole / 2), Duration::from_secs(whole)));
        }
        let day = Duration::from_secs(86_400);
        assert_eq!(back_off(day, 9, u32::MAX), day);
    }

    #[test]
    fn a_poll_is_bounded_by_count_and_size() {
        let found = |items: usize, item: &Value| PollOutcome { items: vec![(None, item.clone()); items], cursor: None };
        assert!(bounded(found(MAX_ITEMS, &Value::Null), None).is_ok());
        assert!(bounded(found(MAX_ITEMS + 1, &Value::Null), None).is_err());
        let large = Value::from("x".repeat(9 << 20));
        assert!(bounded(found(7, &large), None).is_ok());
        assert!(bounded(found(8, &large), None).is_err());
    }
}
