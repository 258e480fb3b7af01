//! Control words that run other steps, or end the run.

use serde_json::{Map, Value};

use super::{
    Reader,
    findings::{Member, Members},
    steps::Place,
};
use crate::{
    expr::Template,
    flow::{
        BranchCondition, BranchStep, FailStep, JoinPolicy, LoopStep, ParallelBranch, ParallelStep, RespondStep,
        RouterBranch, RouterMode, RouterStep, Step, StepKind, StepName,
    },
};

impl Reader<'_> {
    pub(super) fn branch(&mut self, members: &mut Members<'_>, level: usize) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let condition = settings.require("condition", "a template or a comparison", &mut self.findings);
        let condition = condition.and_then(|condition| self.condition(&condition));
        let if_true = settings.take("ifTrue").map(|list| self.step_list(&list, level + 1));
        let if_false = settings.take("ifFalse").map(|list| self.step_list(&list, level + 1));
        self.finish_settings(settings);
        Some(StepKind::Branch(BranchStep {
            condition: condition?,
            if_true: if_true.unwrap_or_default(),
            if_false: if_false.unwrap_or_default(),
        }))
    }

    /// Reads a condition; expressions in it are kept for publishing, as in any template.
    fn condition(&mut self, condition: &Member<'_>) -> Option<BranchCondition> {
        let errors = match BranchCondition::parse(condition.value, &condition.pointer) {
            Ok(parsed) => return Some(parsed),
            Err(errors) => errors,
        };
        let mut blanked = condition.value.clone();
        for error in errors {
            let place = error.pointer.strip_prefix(&condition.pointer).unwrap_or_default();
            if let Some(leaf) = blanked.pointer_mut(place) {
                *leaf = Value::Bool(false);
            }
            self.keep(error);
        }
        let rest = BranchCondition::parse(&blanked, &condition.pointer);
        rest.or_else(|_| BranchCondition::parse(&Value::Bool(false), &condition.pointer)).ok()
    }

    pub(super) fn fail(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let message = settings.require("message", "the text of the error", &mut self.findings);
        self.finish_settings(settings);
        let message = message?;
        if message.text(&mut self.findings)?.trim().is_empty() {
            let fix = "say what went wrong";
            self.findings.error(&message.pointer, "fail.message", "the message is empty", fix);
            return None;
        }
        Some(StepKind::Fail(FailStep { message: self.template(&message)? }))
    }

    pub(super) fn loop_over(&mut self, members: &mut Members<'_>, level: usize) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let items = settings.require("items", "an array, or a template that gives one", &mut self.findings);
        let items = items.and_then(|items| self.items(&items));
        let list = settings.take("steps");
        let single = settings.take("action");
        let concurrency = settings.take("concurrency");
        let concurrency =
            concurrency.and_then(|most| most.count(1, MAX_SIDE_BY_SIDE, "iterations", &mut self.findings));
        let steps = match (list, single) {
            (Some(list), None) => self.step_list(&list, level + 1),
            (None, Some(single)) => self.step(&single, level + 1, Place::List).into_iter().collect(),
            (Some(list), Some(_)) => {
                let message = "a loop has `steps` or one `action`, not both";
                self.findings.error(&list.pointer, "member.conflict", message, "move the action into `steps`");
                Vec::new()
            }
            (None, None) => {
                let fix = "add `steps`: what is done with each item";
                self.findings.error(settings.pointer(), "member.required", "`steps` is missing", fix);
                Vec::new()
            }
        };
        self.finish_settings(settings);
        Some(StepKind::Loop(LoopStep { items: items?, steps, concurrency: concurrency.unwrap_or(1) }))
    }

    fn items(&mut self, items: &Member<'_>) -> Option<Template> {
        if !matches!(items.value, Value::String(_) | Value::Array(_)) {
            self.findings.wrong_type(items, "an array, or a template that gives one");
            return None;
        }
        let template = self.template(items)?;
        if template.as_literal().is_some_and(Value::is_string) {
            let fix = "write an array, or a template such as `{{trigger.body.items}}`";
            self.findings.error(&items.pointer, "loop.items", "this text is no list", fix);
            return None;
        }
        Some(template)
    }

    pub(super) fn parallel(&mut self, members: &mut Members<'_>, level: usize) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let mut branches = Vec::new();
        for (index, branch) in self.branches(&mut settings).into_iter().enumerate() {
            branches.extend(self.parallel_branch(&branch, index, level));
        }
        let most = settings.take("maxConcurrency");
        let most = most.and_then(|most| most.count(1, MAX_SIDE_BY_SIDE, "branches", &mut self.findings));
        let policy = settings.take("onFailure").and_then(|policy| policy.word(&JOIN_POLICIES, &mut self.findings));
        self.finish_settings(settings);
        let all = u32::try_from(branches.len()).unwrap_or(1).max(1);
        let (max_concurrency, on_failure) = (most.unwrap_or(all), policy.unwrap_or_default());
        Some(StepKind::Parallel(ParallelStep { branches, max_concurrency, on_failure }))
    }

    fn parallel_branch(&mut self, branch: &Member<'_>, index: usize, level: usize) -> Option<ParallelBranch> {
        let mut members = branch.members(&mut self.findings)?;
        let name = match members.take("name") {
            Some(name) => self.step_name(&name),
            None => Some(StepName::numbered("branch", index + 1)),
        };
        if let Some(name) = members.take("displayName") {
            self.display_name(&name);
        }
        let steps = members.require("steps", "what the branch does", &mut self.findings);
        let steps = steps.map(|steps| self.step_list(&steps, level + 1));
        members.finish(&mut self.findings);
        Some(ParallelBranch { name: name?, steps: steps? })
    }

    pub(super) fn router(&mut self, members: &mut Members<'_>, level: usize) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let mode = self.alias(&mut settings, "mode", "executionType");
        let mode = mode.and_then(|mode| mode.word(&ROUTER_MODES, &mut self.findings)).unwrap_or_default();
        let mut list = self.branches(&mut settings);
        let fallback = settings.take("fallback");
        // The reference product's fallback is the last of its branches.
        let last = list.pop_if(|branch| is_fallback(branch.value));
        if let (Some(fallback), Some(_)) = (&fallback, &last) {
            let message = "`fallback` and a branch of type `FALLBACK` are both given";
            self.findings.error(&fallback.pointer, "member.conflict", message, "keep one of them");
        }
        if last.is_some() && list.is_empty() {
            let fix = "add a branch with a condition";
            self.findings.error(
                &format!("{}/branches", settings.pointer()),
                "router.fallback",
                "there is nothing to fall back from",
                fix,
            );
        }
        let mut branches = Vec::new();
        for (index, branch) in list.iter().enumerate() {
            branches.extend(self.router_branch(branch, index, level));
        }
        let fallback = match (fallback, last) {
            (Some(fallback), _) => self.step_list(&fallback, level + 1),
            (None, Some(last)) => self.fallback_branch(&last, level),
            (None, None) => Vec::new(),
        };
        self.finish_settings(settings);
        Some(StepKind::Router(RouterStep { mode, branches, fallback }))
    }

    fn router_branch(&mut self, branch: &Member<'_>, index: usize, level: usize) -> Option<RouterBranch> {
        if is_fallback(branch.value) {
            let fix = "move it to the end of `branches`, or write its steps as `fallback` beside them";
            self.findings.error(&branch.pointer, "router.fallback", "only the last branch can be the fallback", fix);
            return None;
        }
        let mut members = branch.members(&mut self.findings)?;
        let name = match self.alias(&mut members, "name", "branchName") {
            Some(name) => self.display_name(&name),
            None => Some(format!("branch_{}", index + 1)),
        };
        if let Some(kind) = members.take("branchType") {
            kind.word(&[("CONDITION", ())], &mut self.findings);
        }
        let condition = self.alias(&mut members, "condition", "conditions");
        if condition.is_none() {
            let fix = "add `condition`: a template or a comparison";
            self.findings.error(members.pointer(), "member.required", "`condition` is missing", fix);
        }
        let condition = condition.and_then(|condition| self.condition(&condition));
        let steps = members.require("steps", "what the branch does", &mut self.findings);
        let steps = steps.map(|steps| self.step_list(&steps, level + 1));
        members.finish(&mut self.findings);
        Some(RouterBranch { name: name?, condition: condition?, steps: steps? })
    }

    fn fallback_branch(&mut self, branch: &Member<'_>, level: usize) -> Vec<Step> {
        let Some(mut members) = branch.members(&mut self.findings) else { return Vec::new() };
        members.note("branchType");
        if let Some(name) = self.alias(&mut members, "name", "branchName") {
            self.display_name(&name);
        }
        let steps = members.require("steps", "what is done if no condition holds", &mut self.findings);
        let steps = steps.map(|steps| self.step_list(&steps, level + 1));
        members.finish(&mut self.findings);
        steps.unwrap_or_default()
    }

    /// The elements of `branches`, 1 to 100.
    fn branches<'v>(&mut self, settings: &mut Members<'v>) -> Vec<Member<'v>> {
        let Some(list) = settings.require("branches", "an array of branches, each with `steps`", &mut self.findings)
        else {
            return Vec::new();
        };
        list.list(MAX_BRANCHES, "branches", &mut self.findings)
    }

    /// Reads a member that has two names.
    fn alias<'v>(&mut self, members: &mut Members<'v>, name: &'static str, other: &'static str) -> Option<Member<'v>> {
        let (one, two) = (members.take(name), members.take(other));
        if let (Some(_), Some(two)) = (&one, &two) {
            let message = format!("`{name}` and `{other}` mean the same");
            self.findings.error(&two.pointer, "member.conflict", message, "keep one of them");
        }
        one.or(two)
    }

    pub(super) fn respond(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
        let mut settings = match members.take("settings") {
            Some(settings) => settings.members(&mut self.findings)?,
            None => return Some(StepKind::Respond(self.response(None, None, None, false)?)),
        };
        let (status, headers, body) = (settings.take("status"), settings.take("headers"), settings.take("body"));
        let stop = settings.take("stop").map(|stop| stop.flag(&mut self.findings));
        self.finish_settings(settings);
        let response = self.response(status.as_ref(), headers.as_ref(), body.as_ref(), stop.flatten().unwrap_or(false));
        response.map(StepKind::Respond)
    }

    fn response(
        &mut self,
        status: Option<&Member<'_>>,
        headers: Option<&Member<'_>>,
        body: Option<&Member<'_>>,
        stop: bool,
    ) -> Option<RespondStep> {
        let absent = |value| Member { value, pointer: String::new() };
        let (ok, none, null) = (Value::from(200), Value::Object(Map::new()), Value::Null);
        let status = status.cloned().unwrap_or_else(|| absent(&ok));
        let headers = headers.cloned().unwrap_or_else(|| absent(&none));
        let body = body.cloned().unwrap_or_else(|| absent(&null));
        let (code, fields, content) = (self.literal(&status), self.template(&headers), self.template(&body));
        let ((code, literal), fields, content) = (code?, fields?, content?);
        let in_range = |literal: &Value| literal.as_u64().is_some_and(|code| (200..=599).contains(&code));
        if literal.is_some_and(|literal| !in_range(&literal)) {
            let fix = "write a number, or a template that gives one";
            self.findings.error(&status.pointer, "respond.status", "a status is a number from 200 to 599", fix);
        }
        let usable = match headers.value {
            Value::Object(map) => map.values().all(|value| !value.is_object() && !value.is_array() && !value.is_null()),
            _ => fields.as_path().is_some() || (fields.is_token() && fields.scripts().next().is_some()),
        };
        if !usable {
            let fix = "write an object of texts, or one template that gives it";
            self.findings.error(&headers.pointer, "respond.headers", "headers are an object of texts", fix);
        }
        Some(RespondStep { status: code, headers: fields, body: content, stop })
    }
}

/// Whether a branch is written as the reference product's fallback.
fn is_fallback(branch: &Value) -> bool {
    branch.get("branchType").is_some_and(|kind| kind == "FALLBACK")
}

const JOIN_POLICIES: [(&str, JoinPolicy); 2] = [("failFast", JoinPolicy::FailFast), ("collect", JoinPolicy::Collect)];
const MAX_BRANCHES: usize = 100;
const MAX_SIDE_BY_SIDE: u32 = 100;
/// Ours, then those of the reference product.
const ROUTER_MODES: [(&str, RouterMode); 4] = [
    ("firstMatch", RouterMode::First),
    ("allMatch", RouterMode::All),
    ("EXECUTE_FIRST_MATCH", RouterMode::First),
    ("EXECUTE_ALL_MATCH", RouterMode::All),
];
