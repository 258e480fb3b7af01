//! From JSON to a [`FlowDefinition`].
//!
//! Every finding has a rule id. Rules that keep the text from being a flow at all:
//!
//! | Rule | Meaning |
//! | --- | --- |
//! | `json.*` | not JSON, or beyond the limits on bytes and depth; see [`crate::json`] |
//! | `flow.format` | an export of the reference product, or no flow at all |
//! | `flow.steps.limit`, `flow.nesting.limit` | more steps, or deeper nesting, than allowed |
//! | `member.unknown`, `member.type`, `member.required`, `member.conflict` | a member that nothing reads, has the wrong type, is missing, or excludes another |
//! | `name.invalid`, `name.length` | a name of a step or party that templates could not write; a display name that is empty or too long |
//! | `step.type.invalid` | a `type` that is neither a control word nor `piece.action`; `queue` is no piece |
//! | `option.range`, `option.conflict`, `option.inapplicable` | a number, word or list outside its range; an option given twice, or without meaning for the step |
//! | `code.empty`, `code.size`, `code.dependencies` | a script that is empty or too long, or wants npm packages |
//! | `loop.items`, `respond.status`, `respond.headers`, `fail.message`, `delay.until` | a literal that could never work |
//! | `queue.name` | a name of a queue that is none, or a template |
//! | `router.fallback` | a `FALLBACK` that is not the last branch, or the only one |
//! | `condition.*` | a branch condition that is none |
//! | `template.*` | a malformed `{{…}}`; `template.expression`, a token that is neither a path nor JavaScript, is kept for publishing instead |
//! | `trigger.type.invalid` | a `type` that is neither a kind of trigger nor `piece.trigger` |
//! | `hosts.pattern` | an entry of `allowedHosts` that is no host |
//! | `trigger.authentication.type`, `trigger.secret.literal`, `trigger.header.invalid`, `trigger.username.invalid`, `trigger.dedupe.invalid` | webhook settings |
//!
//! What parses and cannot be published is reported by [`ValidFlow::check`](super::ValidFlow::check).

mod control;
mod findings;
mod options;
mod pace;
mod pause;
mod queue;
mod steps;
mod trigger;

use std::{collections::HashSet, sync::Arc};

use serde_json::Value;

use self::findings::{Findings, Member, Members};
pub(super) use self::{
    findings::{clip, shorten},
    steps::{CONTROL_WORDS, input_of, settings_pointer},
};
use super::{
    AllowedHosts, Diagnostic, Diagnostics, FlowControl, FlowDefinition, FlowLimits, MAX_ALLOWED_HOSTS, Step, StepName,
    TriggerDefinition,
};
use crate::{
    expr::Template,
    json::{self, JsonError, JsonLimits, MAX_DEPTH},
};

impl FlowDefinition {
    /// Reads a flow from JSON text. Nothing is trusted: see [`FlowLimits`].
    ///
    /// # Errors
    /// Every finding, at most 100, each with its place, rule and fix.
    ///
    /// # Examples
    /// ```
    /// use ap_core::flow::{FlowDefinition, FlowLimits};
    ///
    /// let text = br#"{ "displayName": "Echo", "triggers": [{ "type": "manual" }],
    ///     "steps": [{ "type": "respond", "settings": { "boddy": "{{trigger.body}}" } }] }"#;
    /// let found = FlowDefinition::parse_slice(text, &FlowLimits::default()).unwrap_err();
    /// assert_eq!(found.0[0].pointer, "/steps/0/settings/boddy");
    /// assert_eq!(found.0[0].rule, "member.unknown");
    /// assert_eq!(found.0[0].fix, "did you mean `body`?");
    /// ```
    pub fn parse_slice(source: &[u8], limits: &FlowLimits) -> Result<Self, Diagnostics> {
        let value = json::parse(source, limits.json()).map_err(|error| Diagnostics(vec![error.to_diagnostic()]))?;
        read(value, limits)
    }

    /// Reads a flow from a JSON value. As [`FlowDefinition::parse_slice`]; bytes are counted on the compact JSON text.
    ///
    /// # Errors
    /// As [`FlowDefinition::parse_slice`].
    pub fn from_value(source: Value, limits: &FlowLimits) -> Result<Self, Diagnostics> {
        match measure(&source, limits.json()) {
            Ok(()) => read(source, limits),
            Err(error) => {
                dismantle(source);
                Err(Diagnostics(vec![error.to_diagnostic()]))
            }
        }
    }
}

/// What one reading of a flow keeps in hand.
struct Reader<'l> {
    limits: &'l FlowLimits,
    findings: Findings,
    steps: usize,
    /// Pointers of the steps that gave no name.
    unnamed: HashSet<String>,
}

fn read(source: Value, limits: &FlowLimits) -> Result<FlowDefinition, Diagnostics> {
    let mut reader = Reader { limits, findings: Findings::default(), steps: 0, unnamed: HashSet::new() };
    let document = Member { value: &source, pointer: String::new() };
    let parts = reader.document(&document);
    let deferred = reader.findings.finish()?;
    let Some((display_name, triggers, steps, control, allowed_hosts)) = parts else {
        // A document without parts has said why; were that ever forgotten, it must still not pass for a flow.
        return Err(Diagnostics(vec![not_a_flow()]));
    };
    Ok(FlowDefinition { display_name, triggers, steps, control, allowed_hosts, source: Arc::new(source), deferred })
}

type Parts = (String, Vec<TriggerDefinition>, Vec<Step>, FlowControl, Option<AllowedHosts>);

impl Reader<'_> {
    fn document(&mut self, document: &Member<'_>) -> Option<Parts> {
        let mut members = document.members(&mut self.findings)?;
        if let Some(place) = export(document.value) {
            self.findings.push(Diagnostic::error(
                place,
                "flow.format",
                "this is an export of the reference product, whose import is not available yet",
                "write the flow with `triggers` and `steps`",
            ));
            return None;
        }
        if !["trigger", "triggers", "steps"].iter().any(|name| members.has(name)) {
            // The guide's §6.2 shows the settings of a queue as a document of their own.
            let fix = if members.has("queue") { QUEUE_FIX } else { FLOW_FIX };
            self.findings.push(Diagnostic { fix: fix.to_owned(), ..not_a_flow() });
            return None;
        }
        let display_name = match members.take("displayName") {
            Some(name) => self.display_name(&name),
            None => Some(UNTITLED.to_owned()),
        };
        let triggers = self.triggers(&mut members);
        let steps = match members.take("steps") {
            Some(steps) => self.step_list(&steps, 1),
            None => Vec::new(),
        };
        let control = self.control(&mut members);
        let allowed_hosts = members.take("allowedHosts").and_then(|hosts| self.allowed_hosts(&hosts));
        members.finish(&mut self.findings);
        let mut triggers = triggers?;
        let mut steps = steps;
        self.assign_names(&mut triggers, &mut steps);
        Some((display_name?, triggers, steps, control, allowed_hosts))
    }

    fn allowed_hosts(&mut self, hosts: &Member<'_>) -> Option<AllowedHosts> {
        let list = hosts.list(MAX_ALLOWED_HOSTS, "hosts", &mut self.findings);
        let texts = list.iter().map(|host| host.text(&mut self.findings)).collect::<Option<Vec<_>>>()?;
        match AllowedHosts::parse(texts) {
            Ok(allowed) => Some(allowed),
            Err((index, error)) => {
                let place = format!("{}/{index}", hosts.pointer);
                self.findings.error(
                    &place,
                    "hosts.pattern",
                    error.to_string(),
                    "write the host alone, without scheme and path",
                );
                None
            }
        }
    }

    /// The display name of a flow or step: 1 character to the limit, not only white space.
    fn display_name(&mut self, name: &Member<'_>) -> Option<String> {
        let text = name.text(&mut self.findings)?;
        let max = self.limits.max_display_name_chars();
        if text.trim().is_empty() || text.chars().nth(max).is_some() {
            let message = format!("a display name has 1 to {max} characters");
            self.findings.error(&name.pointer, "name.length", message, "choose a name within that");
            return None;
        }
        Some(text.to_owned())
    }

    /// Reads the name of a trigger or step. `None`: it gave none, or an impossible one that was reported.
    fn name(&mut self, members: &mut Members<'_>) -> Option<StepName> {
        let Some(name) = members.take("name") else {
            self.unnamed.insert(members.pointer().to_owned());
            return None;
        };
        self.step_name(&name)
    }

    fn step_name(&mut self, name: &Member<'_>) -> Option<StepName> {
        let text = name.text(&mut self.findings)?;
        let parsed = StepName::new(text);
        if parsed.is_none() {
            let message = format!("`{}` is no name", shorten(text));
            let fix = "use letters, digits and `_`, not starting with a digit, at most 64 in all";
            self.findings.error(&name.pointer, "name.invalid", message, fix);
        }
        parsed
    }

    /// Gives the first free `step_N` (`trigger`, then `trigger_N`, for triggers) to whoever gave no name, in the order
    /// of the source.
    fn assign_names(&self, triggers: &mut [TriggerDefinition], steps: &mut [Step]) {
        let mut taken = HashSet::new();
        taken.extend(triggers.iter().filter(|t| !self.unnamed.contains(&t.pointer)).map(|t| t.name.clone()));
        collect_names(steps, &self.unnamed, &mut taken);
        let mut next = 0;
        for trigger in triggers.iter_mut().filter(|t| self.unnamed.contains(&t.pointer)) {
            trigger.name = next_free("trigger", &mut next, &mut taken);
        }
        name_steps(steps, &self.unnamed, &mut taken, &mut 1);
    }

    /// Compiles a template. A leaf that is no expression is kept for publishing; any other fault is an error. Either way
    /// what is returned has the faulty leaves blanked, and never gets into a [`ValidFlow`](super::ValidFlow).
    fn template(&mut self, member: &Member<'_>) -> Option<Template> {
        let errors = match Template::compile(member.value) {
            Ok(template) => return Some(template),
            Err(errors) => errors,
        };
        let mut blanked = member.value.clone();
        for error in &errors {
            self.keep(error.to_diagnostic(&member.pointer));
            if let Some(leaf) = blanked.pointer_mut(&error.pointer) {
                *leaf = Value::Null;
            }
        }
        // What is still faulty was beyond the number of errors that are told at once.
        Template::compile(&blanked).or_else(|_| Template::compile(&Value::Null)).ok()
    }

    /// As [`Reader::template`], with the value if nothing is to be resolved in it and nothing was wrong with it.
    fn literal(&mut self, member: &Member<'_>) -> Option<(Template, Option<Value>)> {
        let sound = Template::compile(member.value).is_ok();
        let template = self.template(member)?;
        let literal = template.as_literal().filter(|_| sound).cloned();
        Some((template, literal))
    }

    /// Keeps a finding about a template: what is no expression for publishing, everything else as an error.
    fn keep(&mut self, finding: Diagnostic) {
        if finding.rule == EXPRESSION { self.findings.defer(finding) } else { self.findings.push(finding) }
    }
}

fn collect_names(steps: &[Step], unnamed: &HashSet<String>, taken: &mut HashSet<StepName>) {
    for step in steps {
        if !unnamed.contains(&step.pointer) {
            taken.insert(step.name.clone());
        }
        step.lists().for_each(|list| collect_names(list, unnamed, taken));
    }
}

fn name_steps(steps: &mut [Step], unnamed: &HashSet<String>, taken: &mut HashSet<StepName>, next: &mut usize) {
    for step in steps {
        if unnamed.contains(&step.pointer) {
            step.name = next_free("step", next, taken);
        }
        step.lists_mut().into_iter().for_each(|list| name_steps(list, unnamed, taken, next));
    }
}

fn next_free(prefix: &str, next: &mut usize, taken: &mut HashSet<StepName>) -> StepName {
    loop {
        let name = StepName::numbered(prefix, *next);
        *next += 1;
        if taken.insert(name.clone()) {
            return name;
        }
    }
}

/// The place of the trigger, if the document has the shape of an export of the reference product: a tree that begins at
/// an object `trigger`.
fn export(document: &Value) -> Option<&'static str> {
    let is_root = |trigger: &Value| {
        let kind = trigger.get("type").and_then(Value::as_str);
        trigger.get("nextAction").is_some() || matches!(kind, Some("PIECE_TRIGGER" | "EMPTY"))
    };
    ["/trigger", "/template/trigger"].into_iter().find(|place| document.pointer(place).is_some_and(is_root))
}

fn not_a_flow() -> Diagnostic {
    Diagnostic::error("", "flow.format", "this is no flow: it has neither `triggers` nor `steps`", FLOW_FIX)
}

/// Holds a value to the limits on text, by its compact text.
fn measure(value: &Value, limits: &JsonLimits) -> Result<(), JsonError> {
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        match value {
            // Writing a value as text nests as deep as the value does; this keeps the stack bounded.
            Value::Array(_) | Value::Object(_) if depth == MAX_DEPTH => {
                return Err(JsonError::Depth { pointer: String::new(), line: 1, column: 1, limit: limits.max_depth() });
            }
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => open.extend(members.values().map(|member| (member, depth + 1))),
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {}
        }
    }
    json::parse(value.to_string().as_bytes(), limits).map(drop)
}

/// Drops a value level by level: dropped as it is, a very deep one would overflow the stack.
fn dismantle(value: Value) {
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(members) => open.extend(members.into_iter().map(|(_, member)| member)),
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {}
        }
    }
}

const FLOW_FIX: &str = "write an object with `displayName`, `triggers` and `steps`";
const QUEUE_FIX: &str = "write the queue's `name` as `queueName`, and its `mode` and `settings`, into the settings of a `queue.process` step";

/// Rule of a token that is neither a path nor an expression.
const EXPRESSION: &str = "template.expression";

/// Display name of a flow that gives none, as the guide's snippets do.
const UNTITLED: &str = "Untitled flow";
