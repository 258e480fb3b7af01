//! What starts the flow.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value};

use super::{Found, structure::did_you_mean};
use crate::{
    flow::{
        Diagnostic, FlowDefinition, PollSettings, ScheduleSettings, Severity, TriggerDefinition, TriggerKind,
        WebhookAuthentication, WebhookSettings,
    },
    nearest::nearest_match,
    piece::{PieceSet, Trigger},
};

/// Checks the triggers, and finds the trigger of a piece.
pub(super) fn check(definition: &FlowDefinition, pieces: &PieceSet, found: &mut Found) -> Option<Arc<dyn Trigger>> {
    let mut names = HashSet::new();
    let mut polled = None;
    for (index, trigger) in definition.triggers.iter().enumerate() {
        let mut error = |pointer: &str, rule, message: &str, fix: &str| {
            found.push(Diagnostic::error(pointer, rule, message, fix));
        };
        if index == 1 {
            error(&trigger.pointer, "trigger.several", "a flow has one trigger", "make a flow of its own for each");
        }
        if !names.insert(&trigger.name) {
            error(&trigger.pointer, "name.duplicate", "another trigger has this name", "give it a name of its own");
        }
        match &trigger.kind {
            TriggerKind::Manual => {}
            TriggerKind::Piece(poll) => polled = check_poll(definition, trigger, poll, pieces, found),
            TriggerKind::Schedule(schedule) => check_schedule(definition, trigger, schedule, found),
            TriggerKind::Webhook(webhook) => check_webhook(definition, &trigger.pointer, webhook, found),
        }
    }
    if definition.triggers.is_empty() {
        let fix = "add one, such as `{\"type\": \"webhook\"}`";
        found.push(Diagnostic::error("/triggers", "trigger.required", "nothing starts the flow", fix));
    }
    polled
}

fn check_poll(
    definition: &FlowDefinition,
    trigger: &TriggerDefinition,
    poll: &PollSettings,
    pieces: &PieceSet,
    found: &mut Found,
) -> Option<Arc<dyn Trigger>> {
    // The short form of guide §2.1 writes the type as `trigger`, at the top of the flow.
    let place = if trigger.pointer.is_empty() { "/trigger".to_owned() } else { format!("{}/type", trigger.pointer) };
    if pieces.piece(&poll.piece).is_none() {
        let fix = did_you_mean(nearest_match(&poll.piece, pieces.names()), "pieces", pieces.names());
        let message = format!("there is no piece `{}`", poll.piece);
        found.push(Diagnostic::error(&place, "piece.unknown", message, fix));
        return None;
    }
    let Some(known) = pieces.trigger(&poll.piece, &poll.trigger) else {
        let names = || pieces.trigger_names(&poll.piece);
        let fix = did_you_mean(nearest_match(&poll.trigger, names()), "triggers", names());
        let message = format!("the piece `{}` has no trigger `{}`", poll.piece, poll.trigger);
        found.push(Diagnostic::error(&place, "trigger.unknown", message, fix));
        return None;
    };
    let pointer = format!("{}/settings", trigger.pointer);
    let none = Map::new();
    let settings = definition.source.pointer(&pointer).and_then(Value::as_object).unwrap_or(&none);
    for finding in known.spec().properties.check_settings(settings, &pointer) {
        match finding.severity {
            Severity::Error => found.push(finding),
            Severity::Warning => found.warn(finding),
        }
    }
    Some(Arc::clone(known))
}

/// A schedule says when. What the expression and the time zone mean is for whoever keeps the schedule to judge.
fn check_schedule(
    definition: &FlowDefinition,
    trigger: &TriggerDefinition,
    schedule: &ScheduleSettings,
    found: &mut Found,
) {
    if schedule.cron_expression.as_ref().is_some_and(|expression| !expression.trim().is_empty()) {
        return;
    }
    let settings = format!("{}/settings", trigger.pointer);
    let places = [format!("{settings}/cronExpression"), settings, format!("{}/trigger", trigger.pointer)];
    let place = places.iter().find(|place| definition.source.pointer(place).is_some()).unwrap_or(&trigger.pointer);
    let fix = "add `settings.cronExpression`, such as `0 9 * * 1-5`: minute, hour, day, month, day of the week";
    let message = "nothing says when the flow is started";
    found.push(Diagnostic::error(place, "trigger.schedule.expression", message, fix));
}

fn check_webhook(definition: &FlowDefinition, pointer: &str, webhook: &WebhookSettings, found: &mut Found) {
    if webhook.handshake.is_some() {
        let (rule, message) = ("trigger.handshake.unavailable", "handshakes are not available yet");
        found.push(Diagnostic::error(pointer, rule, message, "remove `handshakeConfiguration`"));
    }
    let given = definition.source.pointer(&format!("{pointer}/settings/authentication")).is_some();
    if webhook.authentication == WebhookAuthentication::None && !given {
        found.warn(Diagnostic::warning(
            pointer,
            "trigger.authentication.absent",
            "everyone who knows the URL can start this flow",
            "add `settings.authentication`; `{\"type\": \"NONE\"}` says that this is meant",
        ));
    }
}
