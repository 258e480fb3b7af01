//! Steps: control words and piece actions.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    Reader,
    findings::{Member, Members, shorten},
    options::{CODE, CONTROL, END, PIECE, PIECE_OPTIONS, SUBFLOW},
};
use crate::{
    flow::{CodeLanguage, CodeStep, PieceStep, Step, StepKind, StepName, StepOptions},
    nearest::nearest_match,
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
            steps.extend(self.step(&element, level, Place::List));
        }
        steps
    }

    /// Reads one step that stands at `place`.
    pub(super) fn step(&mut self, step: &Member<'_>, level: usize, place: Place) -> Option<Step> {
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
        let members = step.members(&mut self.findings)?;
        // The settings of what is done with a job may stand in it without `settings` (guide §6.2).
        let scattered =
            (place == Place::Job && !members.has("settings")).then(|| Value::Object(scattered(members.map())));
        let mut members = members.with_settings(scattered.as_ref());
        let name = self.name(&mut members);
        if let Some(name) = members.take("displayName") {
            self.display_name(&name);
        }
        let kind = members.require("type", "what the step does", &mut self.findings);
        let word = kind.as_ref().and_then(|kind| kind.text(&mut self.findings));
        let Some((kind, word)) = kind.as_ref().zip(word) else {
            return None; // Without a type there is no telling which members belong here.
        };
        let (kind, options) = self.kind(word, kind, &mut members, level);
        members.finish(&mut self.findings);
        let name = name.unwrap_or_else(|| StepName::numbered("step", 0));
        Some(Step { name, pointer: step.pointer.clone(), kind: kind?, options })
    }

    fn kind(
        &mut self,
        word: &str,
        kind: &Member<'_>,
        members: &mut Members<'_>,
        level: usize,
    ) -> (Option<StepKind>, StepOptions) {
        let (kind, applicable) = match word {
            "branch" => (self.branch(members, level), CONTROL),
            "code" => (self.code(members), CODE),
            "delay" => (self.delay(members), CONTROL),
            "fail" => (self.fail(members), END),
            "loop" => (self.loop_over(members, level), CONTROL),
            "parallel" => (self.parallel(members, level), CONTROL),
            "queue.enqueue" => (self.enqueue(members), CONTROL),
            "queue.process" => (self.process(members, level), CONTROL),
            "respond" => (self.respond(members), CONTROL),
            "router" => (self.router(members, level), CONTROL),
            "subflow" => (self.subflow(members), SUBFLOW),
            "wait" => (self.wait(members), CONTROL),
            _ => (self.piece(word, kind, members), PIECE),
        };
        (kind, self.options(members, &applicable, level))
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
        let language = settings.take("language");
        let language = language.map(|language| language.word(&LANGUAGES, &mut self.findings));
        let source = settings.require("sourceCode", "an object with `code`", &mut self.findings);
        let package = source.as_ref().is_some_and(|source| source.value.get("packageJson").is_some());
        let usual = if package { CodeLanguage::TypeScript } else { CodeLanguage::default() };
        let source = source.and_then(|source| self.source_code(&source));
        self.finish_settings(settings);
        let input = match input {
            None => None,
            Some(compiled) => Some(compiled?),
        };
        Some(StepKind::Code(CodeStep { source: source?, language: language.unwrap_or(Some(usual))?, input }))
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

    fn piece(&mut self, word: &str, kind: &Member<'_>, members: &mut Members<'_>) -> Option<StepKind> {
        let settings = match members.take("settings") {
            Some(settings) => settings.members(&mut self.findings).map(|members| (settings, members)),
            None => None,
        };
        let (piece, action) = match word.split_once('.') {
            Some((piece, action)) => (piece, Some(action)),
            None => (word, None),
        };
        let reserved = piece == "queue";
        if reserved || !is_piece_name(piece) || action.is_some_and(|action| !is_action_name(action)) {
            let message = format!("`{}` is no step type", shorten(word));
            let near = if reserved { nearest_match(word, CONTROL_WORDS) } else { None };
            let fix = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("write one of {}, or `piece.action`", CONTROL_WORDS.join(", ")),
            };
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
    pub(super) fn settings<'v>(&mut self, members: &mut Members<'v>) -> Option<Members<'v>> {
        members.require("settings", "an object", &mut self.findings)?.members(&mut self.findings)
    }

    /// Ends the reading of a control word's settings, where options may stand, too.
    pub(super) fn finish_settings(&mut self, mut settings: Members<'_>) {
        for option in PIECE_OPTIONS {
            settings.note(option);
        }
        settings.finish(&mut self.findings);
    }
}

/// Where a step stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the `action` of a `queue.process`.
    Job,
    /// It is one of a list, or the `action` of a loop.
    List,
}

/// Where the settings of the step at `pointer` stand: in its `settings`, or in the step itself.
pub(in crate::flow) fn settings_pointer(source: &Value, pointer: &str) -> String {
    let step = source.pointer(pointer);
    let apart = step.is_none_or(|step| step.get("settings").is_some());
    if apart { format!("{pointer}/settings") } else { pointer.to_owned() }
}

/// The input of the piece step at `pointer`: its settings without the options that stand among them.
pub(in crate::flow) fn input_of(source: &Value, pointer: &str) -> Map<String, Value> {
    let step = source.pointer(pointer);
    match step.and_then(|step| step.get("settings")) {
        Some(settings) => settings.as_object().map_or_else(Map::new, piece_input),
        None => step.and_then(Value::as_object).map_or_else(Map::new, scattered),
    }
}

/// The settings of a piece step without the options that stand among them: what the action gets.
fn piece_input(settings: &Map<String, Value>) -> Map<String, Value> {
    let input = settings.iter().filter(|(name, _)| !PIECE_OPTIONS.contains(&name.as_str()));
    input.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The settings of a step that has them scattered among its members.
fn scattered(step: &Map<String, Value>) -> Map<String, Value> {
    let is_script = step.get("type").is_some_and(|word| word == "code");
    let is_beside =
        |name: &str| STEP_MEMBERS.contains(&name) || PIECE_OPTIONS.contains(&name) || (is_script && name == "input");
    let settings = step.iter().filter(|(name, _)| !is_beside(name));
    settings.map(|(name, value)| (name.clone(), value.clone())).collect()
}

pub(super) fn is_piece_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= StepName::MAX_LEN
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

pub(super) fn is_action_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= StepName::MAX_LEN
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Step types that are no actions of a piece.
pub(in crate::flow) const CONTROL_WORDS: [&str; 12] = [
    "branch",
    "code",
    "delay",
    "fail",
    "loop",
    "parallel",
    "queue.enqueue",
    "queue.process",
    "respond",
    "router",
    "subflow",
    "wait",
];

/// What stands beside the settings of every step.
const STEP_MEMBERS: [&str; 4] = ["displayName", "name", "skip", "type"];

const LANGUAGES: [(&str, CodeLanguage); 2] =
    [("javascript", CodeLanguage::JavaScript), ("typescript", CodeLanguage::TypeScript)];
