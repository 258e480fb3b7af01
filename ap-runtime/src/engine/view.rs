//! [`RunView`]: a run as its owner sees it, rebuilt from the journal.

use std::sync::Arc;

use ap_core::{
    id::RunId,
    run::{RunStatus, StepError, StepPath, StepStatus},
    time::Timestamp,
};
use ap_crypto::resume::RESUME_PREFIX;
use serde::Serialize;
use serde_json::Value;

use super::{ConnectionViews, EffectState, Reply, RunState};

/// A run as its owner sees it. Credentials show as `‹connection.field›`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunView {
    /// The run.
    pub id: RunId,
    /// Where it stands.
    pub status: RunStatus,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// What the trigger delivered.
    pub trigger: Value,
    /// The run whose `subflow` step started it.
    pub parent: Option<RunId>,
    /// Step executions in the order in which they began.
    pub steps: Vec<StepView>,
    /// What a `respond` step answered.
    pub reply: Option<Reply>,
    /// Why it did not succeed.
    pub error: Option<StepError>,
}

/// One step execution.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StepView {
    /// Where in the run.
    pub path: StepPath,
    /// Where it stands.
    pub status: StepStatus,
    /// When its first attempt began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// How many attempts there were.
    pub attempts: u32,
    /// What it was given.
    pub input: Option<Value>,
    /// What came out.
    pub output: Option<Value>,
    /// Why it failed.
    pub error: Option<StepError>,
    /// What its script wrote to `console`.
    pub console: Vec<String>,
    /// Its line in the effects ledger.
    pub effect: Option<EffectView>,
}

/// A line of the effects ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectView {
    /// The idempotency key of the step execution.
    pub key: String,
    /// Where the effect stands: `planned`, `committed` or `unknown`.
    pub state: &'static str,
}

impl RunView {
    /// The view of `state`; `status` is what the store says of the run.
    #[must_use]
    pub fn new(state: &RunState, status: RunStatus) -> Self {
        let views = state.connections();
        let steps = state.order.iter().filter_map(|path| {
            let step = state.step(path)?;
            Some(StepView {
                path: path.clone(),
                status: step.status,
                started: step.started,
                finished: step.finished,
                attempts: step.attempts,
                input: step.input.as_deref().map(|input| named(input, views)),
                output: step.output.as_deref().map(|output| named(output, views)),
                error: step.error.as_ref().map(|error| named_error(error, views)),
                console: step.console.iter().map(|line| named_text(line, views)).collect(),
                effect: step.effect.as_ref().map(|effect| EffectView {
                    key: effect.key.clone(),
                    state: match effect.state {
                        EffectState::Committed => "committed",
                        EffectState::Planned => "planned",
                        EffectState::Unknown => "unknown",
                    },
                }),
            })
        });
        Self {
            id: state.run(),
            status,
            accepted: state.accepted,
            finished: state.end().map(|end| end.at),
            trigger: named(state.trigger(), views),
            parent: state.parent().map(|parent| parent.run),
            steps: steps.collect(),
            reply: state.reply().map(|reply| Reply {
                status: reply.status,
                headers: reply.headers.iter().map(|(name, text)| (name.clone(), named_text(text, views))).collect(),
                body: Arc::new(named(&reply.body, views)),
            }),
            error: state.end().and_then(|end| end.error.as_ref()).map(|error| named_error(error, views)),
        }
    }
}

/// Replaces placeholder text by the name of what it stands for.
fn named(value: &Value, views: &ConnectionViews) -> Value {
    match value {
        Value::String(text) => Value::String(named_text(text, views)),
        Value::Array(items) => items.iter().map(|item| named(item, views)).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, member)| (named_text(key, views), named(member, views))).collect())
        }
        other => other.clone(),
    }
}

fn named_text(text: &str, views: &ConnectionViews) -> String {
    let mut shown = if text.contains(RESUME_PREFIX) { without_tokens(text) } else { text.to_owned() };
    if !text.contains("apcred_") {
        return shown;
    }
    for (name, view) in views {
        for field in &view.secret {
            if let Some(placeholder) = view.fields.get(field) {
                shown = shown.replace(placeholder, &format!("‹{name}.{field}›"));
            }
        }
        shown = shown.replace(&view.whole, &format!("‹{name}›"));
    }
    shown
}

/// Masks resume tokens: whoever may look at a run may not answer it for others.
fn without_tokens(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(RESUME_PREFIX) {
        shown.push_str(before);
        let digits = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(after.len());
        let (token, behind) = after.split_at(digits);
        shown.push_str(if token.len() >= TOKEN_DIGITS { "‹resume token›" } else { RESUME_PREFIX });
        if token.len() < TOKEN_DIGITS {
            shown.push_str(token);
        }
        rest = behind;
    }
    shown.push_str(rest);
    shown
}

/// From how many characters on something behind the prefix may be a token.
const TOKEN_DIGITS: usize = 64;

fn named_error(error: &StepError, views: &ConnectionViews) -> StepError {
    StepError {
        kind: error.kind,
        message: named_text(&error.message, views),
        detail: error.detail.as_ref().map(|detail| named(detail, views)),
    }
}
