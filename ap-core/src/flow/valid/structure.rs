//! Names, limits, pieces and what does not run yet.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::Found;
use crate::{
    flow::{
        Diagnostic, FlowDefinition, FlowLimits, OnError, PieceStep, Severity, Step, StepKind, StepName, TriggerKind,
        WebhookAuthentication, WebhookSettings,
        parse::{CONTROL_WORDS, input_of, settings_pointer},
    },
    nearest::nearest_match,
    piece::{Action, Piece, PieceSet},
};

/// What the check of the structure resolved.
#[derive(Debug, Default)]
pub(super) struct Structure {
    pub(super) actions: HashMap<StepName, Arc<dyn Action>>,
    pub(super) places: HashMap<StepName, Box<[usize]>>,
}

impl Structure {
    pub(super) fn check(
        definition: &FlowDefinition,
        pieces: &PieceSet,
        limits: &FlowLimits,
        found: &mut Found,
    ) -> Self {
        check_triggers(definition, found);
        let heard = definition.triggers.iter().any(|trigger| matches!(trigger.kind, TriggerKind::Webhook(_)));
        let names = definition.triggers.iter().map(|trigger| trigger.name.clone()).collect();
        let mut walk =
            Walk { source: &definition.source, pieces, limits, found, heard, names, count: 0, result: Self::default() };
        if definition.steps.is_empty() {
            let fix = "add a step, unless the flow is only to accept requests";
            walk.found.warn(Diagnostic::warning("/steps", "steps.empty", "the flow does nothing", fix));
        }
        walk.list(&definition.steps, 0, &mut Vec::new());
        walk.result
    }
}

struct Walk<'a> {
    source: &'a Value,
    pieces: &'a PieceSet,
    limits: &'a FlowLimits,
    found: &'a mut Found,
    /// Whether a webhook starts the flow.
    heard: bool,
    names: HashSet<StepName>,
    count: usize,
    result: Structure,
}

impl Walk<'_> {
    /// Checks one list. `offset` is the index of its first step among the children of the step around it; `place` leads
    /// to that step.
    fn list(&mut self, steps: &[Step], offset: usize, place: &mut Vec<usize>) {
        let mut ended = false;
        for (index, step) in steps.iter().enumerate() {
            place.push(offset + index);
            self.step(step, place);
            let mut offset = 0;
            for list in step.lists() {
                self.list(list, offset, place);
                offset += list.len();
            }
            place.pop();
            if ended {
                let message = format!("`{}` is never reached: a step before it ends the run", step.name);
                let fix = "remove it, or move it before that step";
                self.found.warn(Diagnostic::warning(&step.pointer, "step.unreachable", message, fix));
            }
            ended = !ended && ends_run(step);
        }
    }

    fn step(&mut self, step: &Step, place: &[usize]) {
        self.count += 1;
        let (max_steps, max_nesting) = (self.limits.max_steps(), self.limits.max_nesting());
        if self.count == max_steps + 1 {
            let message = format!("the flow has more than {max_steps} steps, nested ones included");
            self.found.push(step.diagnostic("flow.steps.limit", message, "split the flow"));
        }
        if place.len() == max_nesting + 1 {
            let message = format!("steps are nested more than {max_nesting} levels deep");
            self.found.push(step.diagnostic("flow.nesting.limit", message, "flatten the flow"));
        }
        if !self.names.insert(step.name.clone()) {
            let message = format!("`{}` is the name of another step or trigger, too", step.name);
            self.found.push(step.diagnostic("name.duplicate", message, "give it a name of its own"));
        }
        self.result.places.insert(step.name.clone(), place.into());
        match &step.kind {
            StepKind::Piece(piece) => self.piece(step, piece),
            StepKind::Branch(branch) if branch.if_true.is_empty() && branch.if_false.is_empty() => {
                self.empty(step, "neither `ifTrue` nor `ifFalse` has a step");
            }
            StepKind::Loop(inner) if inner.steps.is_empty() => self.empty(step, "the loop does nothing with its items"),
            StepKind::Respond(_) if !self.heard => {
                let message = "nobody waits for this response: no webhook starts the flow";
                let (rule, fix) = ("respond.unheard", "remove it, or start the flow by a webhook");
                self.found.warn(Diagnostic::warning(&step.pointer, rule, message, fix));
            }
            _ => {}
        }
    }

    fn empty(&mut self, step: &Step, message: &str) {
        self.found.warn(Diagnostic::warning(&step.pointer, "steps.empty", message, "add a step, or remove this one"));
    }

    fn piece(&mut self, step: &Step, piece: &PieceStep) {
        let Some(known) = self.pieces.piece(&piece.piece) else {
            let names = self.pieces.names().chain(CONTROL_WORDS);
            let fix = did_you_mean(nearest_match(&piece.piece, names), "pieces", self.pieces.names());
            let message = format!("there is no piece `{}`", piece.piece);
            self.found.push(Diagnostic::error(&format!("{}/type", step.pointer), "piece.unknown", message, fix));
            return;
        };
        let Some(action) = self.action(known, piece) else {
            let names = || self.pieces.action_names(&piece.piece);
            let message = match &piece.action {
                Some(action) => format!("the piece `{}` has no action `{action}`", piece.piece),
                None => format!("the piece `{}` has no actions", piece.piece),
            };
            let wanted = piece.action.as_deref().unwrap_or_default();
            let fix = did_you_mean(nearest_match(wanted, names()), "actions", names());
            self.found.push(Diagnostic::error(&format!("{}/type", step.pointer), "action.unknown", message, fix));
            return;
        };
        let pointer = settings_pointer(self.source, &step.pointer);
        let settings = input_of(self.source, &step.pointer);
        for finding in action.spec().properties.check_settings(&settings, &pointer) {
            match finding.severity {
                Severity::Error => self.found.push(finding),
                Severity::Warning => self.found.warn(finding),
            }
        }
        self.result.actions.insert(step.name.clone(), action);
    }

    fn action(&self, known: &Arc<dyn Piece>, step: &PieceStep) -> Option<Arc<dyn Action>> {
        match &step.action {
            Some(action) => self.pieces.action(&step.piece, action).cloned(),
            None => known.actions().into_iter().next(),
        }
    }
}

fn check_triggers(definition: &FlowDefinition, found: &mut Found) {
    let mut names = HashSet::new();
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
            TriggerKind::Piece(_) | TriggerKind::Schedule(_) => {}
            TriggerKind::Webhook(webhook) => check_webhook(definition, &trigger.pointer, webhook, found),
        }
    }
    if definition.triggers.is_empty() {
        let fix = "add one, such as `{\"type\": \"webhook\"}`";
        found.push(Diagnostic::error("/triggers", "trigger.required", "nothing starts the flow", fix));
    }
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

/// Whether no step behind this one in its list can run.
fn ends_run(step: &Step) -> bool {
    let list_ends = |steps: &[Step]| steps.iter().any(ends_run);
    !step.options.skip
        && match &step.kind {
            StepKind::Branch(branch) => list_ends(&branch.if_true) && list_ends(&branch.if_false),
            StepKind::Fail(_) => true,
            StepKind::Respond(respond) => respond.stop && step.options.on_error == OnError::Fail,
            _ => false,
        }
}

fn did_you_mean<'a>(near: Option<&str>, what: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut known: Vec<_> = known.take(MAX_LISTED + 1).collect();
    if known.len() > MAX_LISTED {
        known.truncate(MAX_LISTED);
        known.push("…");
    }
    let list = if known.is_empty() { format!("there are no {what}") } else { format!("{what}: {}", known.join(", ")) };
    match near {
        Some(name) => format!("did you mean `{name}`? {list}"),
        None => list,
    }
}

/// Most names listed in one message.
const MAX_LISTED: usize = 30;
