//! Steps: control words and piece actions.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    Reader,
    findings::{Member, Members, shorten},
    options::{CODE, CONTROL, END, FUTURE, PIECE, PIECE_OPTIONS},
};
use crate::flow::{
    BranchCondition, BranchStep, CodeStep, FailStep, LoopStep, PieceStep, RespondStep, Step, StepKind, StepName,
};

impl Reader<'_> {
    /// Reads a list of steps at nesting level `level` (the flow's own list is at 1).
    pub(super) fn step_list(&mut self, list: &Member<'_>, level: usize) -> Vec<Step> {
        let Some(elements) = list.elements() else {
            self.findings.wrong_type(list, "an array of steps");
            return Vec::new();
        };
        let mut steps = Vec::new();
        for element in elements {
            if self.findings.is_full() || self.steps > self.limits.max_steps() {
                break;
            }
            steps.extend(self.step(&element, level));
        }
        steps
    }

    fn step(&mut self, step: &Member<'_>, level: usize) -> Option<Step> {
        self.steps += 1;
        let (max_steps, max_nesting) = (self.limits.max_steps(), self.limits.max_nesting());
        if self.steps > max_steps {
            let message = format!("the flow has more than {max_steps} steps, nested ones included");
            self.findings.error(&step.pointer, "flow.steps.limit", message, "split the flow");
            return None;
        }
        if level > max_nesting {
            let message = format!("steps are nested more than {max_nesting} levels deep");
            self.findings.error(&step.pointer, "flow.nesting.limit", message, "flatten the flow");
            return None;
        }
        let mut members = step.members(&mut self.findings)?;
        let name = self.name(&mut members);
        if let Some(name) = members.take("displayName") {
            self.display_name(&name);
        }
        let kind = members.require("type", "what the step does", &mut self.findings);
        let word = kind.as_ref().and_then(|kind| kind.text(&mut self.findings));
        let Some((kind, word)) = kind.as_ref().zip(word) else {
            return None; // Without a type there is no telling which members belong here.
        };
        let (kind, options) = match word {
            "branch" => (self.branch(&mut members, level), self.options(&mut members, &CONTROL, level)),
            "code" => (self.code(&mut members), self.options(&mut members, &CODE, level)),
            "fail" => (self.fail(&mut members), self.options(&mut members, &END, level)),
            "loop" => (self.loop_over(&mut members, level), self.options(&mut members, &CONTROL, level)),
            "respond" => (self.respond(&mut members), self.options(&mut members, &CONTROL, level)),
            _ => match UNAVAILABLE.into_iter().find(|known| *known == word) {
                Some(word) => {
                    members.take("settings"); // Not read before the word is available.
                    let (rule, message) = ("step.unavailable", format!("`{word}` is not available yet"));
                    self.findings.error(members.pointer(), rule, message, "leave it out");
                    (None, self.options(&mut members, &FUTURE, level))
                }
                None => (self.piece(word, kind, &mut members), self.options(&mut members, &PIECE, level)),
            },
        };
        members.finish(&mut self.findings);
        let name = name.unwrap_or_else(|| StepName::numbered("step", 0));
        Some(Step { name, pointer: step.pointer.clone(), kind: kind?, options })
    }

    fn branch(&mut self, members: &mut Members<'_>, level: usize) -> Option<StepKind> {
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

    fn code(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
        let beside = members.take("input");
        let mut settings = self.settings(members)?;
        let inside = settings.take("input");
        if let (Some(beside), Some(_)) = (&beside, &inside) {
            let message = "`input` is given twice, here and in `settings`";
            self.findings.error(&beside.pointer, "member.conflict", message, "keep one of them");
        }
        let input = beside.or(inside).map(|input| match input.value {
            Value::Object(_) => self.template(&input),
            _ => {
                self.findings.wrong_type(&input, "an object: each member becomes one of `params`");
                None
            }
        });
        let source = settings.require("sourceCode", "an object with `code`", &mut self.findings);
        let source = source.and_then(|source| self.source_code(&source));
        self.finish_settings(settings);
        let input = match input {
            None => None,
            Some(compiled) => Some(compiled?),
        };
        Some(StepKind::Code(CodeStep { source: source?, input }))
    }

    fn source_code(&mut self, source: &Member<'_>) -> Option<Arc<str>> {
        let mut members = source.members(&mut self.findings)?;
        if let Some(package) = members.take("packageJson") {
            self.package_json(&package);
        }
        let code = members.require("code", "an ES module that exports `code`", &mut self.findings);
        members.finish(&mut self.findings);
        let code = code?;
        let text = code.text(&mut self.findings)?;
        let max = self.limits.max_code_bytes();
        if text.trim().is_empty() {
            let fix = "write `export const code = async (params) => { … }`";
            self.findings.error(&code.pointer, "code.empty", "the script is empty", fix);
            None
        } else if text.len() > max {
            let message = format!("the script is longer than {max} bytes");
            self.findings.error(&code.pointer, "code.size", message, "split it into several steps");
            None
        } else {
            Some(text.into())
        }
    }

    /// Tolerates the package file of the reference product as long as it asks for nothing.
    fn package_json(&mut self, package: &Member<'_>) {
        let Some(text) = package.text(&mut self.findings) else { return };
        let parsed =
            if text.trim().is_empty() { Ok(Map::new()) } else { serde_json::from_str::<Map<String, Value>>(text) };
        let asks = match &parsed {
            Ok(package) => package
                .iter()
                .filter(|(name, _)| name.to_ascii_lowercase().ends_with("dependencies"))
                .any(|(_, list)| !matches!(list, Value::Object(list) if list.is_empty())),
            Err(_) => {
                let fix = "remove it, or write `{}`";
                self.findings.error(&package.pointer, "code.dependencies", "this is no JSON object", fix);
                return;
            }
        };
        if asks {
            self.findings.error(
                &package.pointer,
                "code.dependencies",
                "scripts run without npm packages: nothing is installed in the sandbox",
                "paste what you need into the script, or use a piece, and remove the dependencies",
            );
        }
    }

    fn fail(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
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

    fn loop_over(&mut self, members: &mut Members<'_>, level: usize) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let items = settings.require("items", "an array, or a template that gives one", &mut self.findings);
        let items = items.and_then(|items| self.items(&items));
        let list = settings.take("steps");
        let single = settings.take("action");
        let steps = match (list, single) {
            (Some(list), None) => self.step_list(&list, level + 1),
            (None, Some(single)) => self.step(&single, level + 1).into_iter().collect(),
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
        Some(StepKind::Loop(LoopStep { items: items?, steps, concurrency: 1 }))
    }

    fn items(&mut self, items: &Member<'_>) -> Option<crate::expr::Template> {
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

    fn respond(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
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
        let (code, fields, content) = (self.template(&status), self.template(&headers), self.template(&body));
        let (code, fields, content) = (code?, fields?, content?);
        let in_range = |literal: &Value| literal.as_u64().is_some_and(|code| (200..=599).contains(&code));
        if code.as_literal().is_some_and(|literal| !in_range(literal)) {
            let fix = "write a number, or a template that gives one";
            self.findings.error(&status.pointer, "respond.status", "a status is a number from 200 to 599", fix);
        }
        let usable = match headers.value {
            Value::Object(map) => map.values().all(|value| !value.is_object() && !value.is_array() && !value.is_null()),
            _ => fields.as_path().is_some(),
        };
        if !usable {
            let fix = "write an object of texts, or one template that gives it";
            self.findings.error(&headers.pointer, "respond.headers", "headers are an object of texts", fix);
        }
        Some(RespondStep { status: code, headers: fields, body: content, stop })
    }

    fn piece(&mut self, word: &str, kind: &Member<'_>, members: &mut Members<'_>) -> Option<StepKind> {
        let settings = match members.take("settings") {
            Some(settings) => settings.members(&mut self.findings).map(|members| (settings, members)),
            None => None,
        };
        let (piece, action) = match word.split_once('.') {
            Some((piece, action)) => (piece, Some(action)),
            None => (word, None),
        };
        if !is_piece_name(piece) || action.is_some_and(|action| !is_action_name(action)) {
            let message = format!("`{}` is no step type", shorten(word));
            let fix = format!("write one of {}, or `piece.action`", CONTROL_WORDS.join(", "));
            self.findings.error(&kind.pointer, "step.type.invalid", message, fix);
            return None;
        }
        let (pointer, input) = match settings {
            Some((settings, members)) => (settings.pointer, piece_input(members.map())),
            None if members.has("settings") => return None, // Of the wrong type, and reported.
            None => (members.pointer().to_owned(), Map::new()),
        };
        let input = self.template(&Member { value: &Value::Object(input), pointer })?;
        Some(StepKind::Piece(PieceStep { piece: piece.to_owned(), action: action.map(str::to_owned), input }))
    }

    /// The `settings` of a control word that needs them.
    fn settings<'v>(&mut self, members: &mut Members<'v>) -> Option<Members<'v>> {
        members.require("settings", "an object", &mut self.findings)?.members(&mut self.findings)
    }

    /// Ends the reading of a control word's settings, where options may stand, too.
    fn finish_settings(&mut self, mut settings: Members<'_>) {
        for option in PIECE_OPTIONS {
            settings.note(option);
        }
        settings.finish(&mut self.findings);
    }
}

/// The settings of a piece step without the options that stand among them: what the action gets.
pub(in crate::flow) fn piece_input(settings: &Map<String, Value>) -> Map<String, Value> {
    let input = settings.iter().filter(|(name, _)| !PIECE_OPTIONS.contains(&name.as_str()));
    input.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_piece_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= StepName::MAX_LEN
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_action_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= StepName::MAX_LEN
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Control words that run today.
pub(in crate::flow) const CONTROL_WORDS: [&str; 5] = ["branch", "code", "fail", "loop", "respond"];

/// Control words that parse and cannot be published yet.
pub(in crate::flow) const UNAVAILABLE: [&str; 5] = ["delay", "parallel", "router", "subflow", "wait"];
