//! Names, limits, pieces, and what each step must hold as a whole.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{Found, triggers};
use crate::{
    flow::{
        Diagnostic, FlowDefinition, FlowLimits, JoinPolicy, OnError, PieceStep, Severity, Step, StepKind, StepName,
        SubflowStep, TriggerKind, WaitMode, WaitStep,
        parse::{CONTROL_WORDS, input_of, settings_pointer, shorten},
    },
    id::FlowId,
    nearest::nearest_match,
    piece::{Action, Piece, PieceSet, Trigger},
};

/// What the check of the structure resolved.
#[derive(Debug, Default)]
pub(super) struct Structure {
    pub(super) actions: HashMap<StepName, Arc<dyn Action>>,
    pub(super) places: HashMap<StepName, Box<[usize]>>,
    /// The trigger of a piece that starts the flow.
    pub(super) trigger: Option<Arc<dyn Trigger>>,
}

impl Structure {
    pub(super) fn check(
        definition: &FlowDefinition,
        pieces: &PieceSet,
        limits: &FlowLimits,
        found: &mut Found,
    ) -> Self {
        let trigger = triggers::check(definition, pieces, found);
        // A flow that is started by hand may be another's subflow, which takes its response.
        let heard = |kind: &TriggerKind| matches!(kind, TriggerKind::Manual | TriggerKind::Webhook(_));
        let heard = definition.triggers.iter().any(|trigger| heard(&trigger.kind));
        let names = definition.triggers.iter().map(|trigger| trigger.name.clone()).collect();
        let mut walk = Walk {
            source: &definition.source,
            pieces,
            limits,
            found,
            heard,
            names,
            count: 0,
            result: Self { trigger, ..Self::default() },
        };
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
    /// Whether whoever starts the flow may wait for a response.
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
        if matches!(&step.options.on_error, OnError::Steps(steps) if steps.is_empty()) {
            self.empty(&step.pointer, "`onError` has no steps and means `continue`");
        }
        match &step.kind {
            StepKind::Piece(piece) => self.piece(step, piece),
            StepKind::Branch(branch) if branch.if_true.is_empty() && branch.if_false.is_empty() => {
                self.empty(&step.pointer, "neither `ifTrue` nor `ifFalse` has a step");
            }
            StepKind::Loop(inner) if inner.steps.is_empty() => {
                self.empty(&step.pointer, "the loop does nothing with its items");
            }
            StepKind::Parallel(parallel) => {
                let branches = parallel.branches.iter().map(|branch| (branch.name.as_str(), branch.steps.is_empty()));
                self.branches(step, branches);
            }
            StepKind::Process(process) if process.steps.is_empty() => {
                self.empty(&step.pointer, "nothing is done with the jobs");
            }
            StepKind::Respond(_) if !self.heard => {
                let message = "nobody waits for this response: neither a webhook nor a call starts the flow";
                let (rule, fix) = ("respond.unheard", "remove it, or start the flow by a webhook");
                self.found.warn(Diagnostic::warning(&step.pointer, rule, message, fix));
            }
            StepKind::Router(router) => {
                let branches = router.branches.iter().map(|branch| (branch.name.as_str(), branch.steps.is_empty()));
                self.branches(step, branches);
            }
            StepKind::Subflow(subflow) => self.subflow(step, subflow),
            StepKind::Wait(wait) => self.wait(step, wait),
            _ => {}
        }
    }

    /// Checks the names and the emptiness of branches.
    fn branches<'s>(&mut self, step: &Step, branches: impl Iterator<Item = (&'s str, bool)>) {
        let place = format!("{}/branches", settings_pointer(self.source, &step.pointer));
        let mut names = HashSet::new();
        for (index, (name, is_empty)) in branches.enumerate() {
            let pointer = format!("{place}/{index}");
            if !names.insert(name) {
                let message = format!("`{}` is the name of another branch of this step", shorten(name));
                let fix = "give it a name of its own";
                self.found.push(Diagnostic::error(&pointer, "name.duplicate", message, fix));
            }
            if is_empty {
                self.empty(&pointer, "the branch does nothing");
            }
        }
    }

    fn subflow(&mut self, step: &Step, subflow: &SubflowStep) {
        // An expression that was kept for later is null here, and told of elsewhere.
        let Some(literal) = subflow.flow.as_literal().filter(|literal| !literal.is_null()) else { return };
        if literal.as_str().is_some_and(|id| id.parse::<FlowId>().is_ok()) {
            return;
        }
        let place = format!("{}/flow", settings_pointer(self.source, &step.pointer));
        let (message, fix) = ("this is no id of a flow", "write the id of a flow of this project, `flow_…`");
        self.found.push(Diagnostic::error(&place, "subflow.flow", message, fix));
    }

    fn wait(&mut self, step: &Step, wait: &WaitStep) {
        let (member, parties, required) = match &wait.mode {
            WaitMode::Approval { approvers, required } => ("approvers", approvers, *required),
            WaitMode::Barrier { parties, required } => ("parties", parties, *required),
            WaitMode::Webhook => return,
        };
        let settings = settings_pointer(self.source, &step.pointer);
        let mut names = HashSet::new();
        for (index, party) in parties.iter().enumerate() {
            if !names.insert(party) {
                let place = format!("{settings}/{member}/{index}");
                let message = format!("`{party}` is named twice");
                self.found.push(Diagnostic::error(&place, "wait.parties", message, "name each once"));
            }
        }
        if required == 0 || required as usize > parties.len() {
            let place = format!("{settings}/required");
            let message = format!("{required} of {} cannot answer", parties.len());
            let fix = format!("write a number from 1 to {}", parties.len());
            self.found.push(Diagnostic::error(&place, "wait.required", message, fix));
        }
    }

    fn empty(&mut self, pointer: &str, message: &str) {
        self.found.warn(Diagnostic::warning(pointer, "steps.empty", message, "add a step, or remove it"));
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

/// Whether no step behind this one in its list can run.
fn ends_run(step: &Step) -> bool {
    let list_ends = |steps: &[Step]| steps.iter().any(ends_run);
    // A step whose failure is handled also takes the failures of those inside it.
    !step.options.skip
        && step.options.on_error == OnError::Fail
        && match &step.kind {
            StepKind::Branch(branch) => list_ends(&branch.if_true) && list_ends(&branch.if_false),
            StepKind::Fail(_) => true,
            StepKind::Parallel(parallel) => {
                parallel.on_failure == JoinPolicy::FailFast
                    && parallel.branches.iter().any(|branch| list_ends(&branch.steps))
            }
            StepKind::Router(router) => {
                list_ends(&router.fallback) && router.branches.iter().all(|branch| list_ends(&branch.steps))
            }
            StepKind::Respond(respond) => respond.stop,
            _ => false,
        }
}

pub(super) fn did_you_mean<'a>(near: Option<&str>, what: &str, known: impl Iterator<Item = &'a str>) -> String {
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
