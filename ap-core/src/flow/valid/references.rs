//! What templates read: every path must lead to something that is there when it is resolved.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use serde_json::Value;

use super::{ConnectionUse, Found, ScriptUse, templates, waits::OpenWaits};
use crate::{
    connection::check_name,
    expr::{Key, Reference, Script, Segment, Template, owned_segments},
    flow::{Diagnostic, FlowDefinition, Step, StepKind, StepName, TriggerKind, parse::shorten},
    nearest::nearest_match,
};

/// Checks the references of one flow.
pub(super) struct References<'f> {
    source: &'f Value,
    found: &'f mut Found,
    /// Names of all steps, wherever they stand.
    all: HashSet<&'f str>,
    /// The steps that have begun, or may have, where the walk stands.
    standing: HashMap<&'f str, Standing>,
    /// How many loops are around where the walk stands; the work on a job counts as one.
    loops: usize,
    /// The `wait` steps whose tokens can be read where the walk stands.
    waits: OpenWaits<'f>,
    connections: Vec<ConnectionUse>,
    connections_of: HashMap<StepName, Range<usize>>,
    scripts: HashMap<StepName, Vec<ScriptUse>>,
}

/// What the templates of a flow read, once it is checked.
pub(super) struct Read {
    pub(super) connections: Vec<ConnectionUse>,
    /// Where among them those of a step are.
    pub(super) connections_of: HashMap<StepName, Range<usize>>,
    pub(super) scripts: HashMap<StepName, Vec<ScriptUse>>,
}

/// What is known about a step where another reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has run: it stands before in the same list, or in one around it.
    Before,
    /// It is a step around the place, and not over.
    Around,
    /// It is the step whose failure is handled at the place.
    Failed,
    /// It stands inside a step that is over, and may not have run.
    Nested,
    /// It is passed over.
    Skipped,
}

impl<'f> References<'f> {
    pub(super) fn check(definition: &'f FlowDefinition, found: &'f mut Found) -> Read {
        let mut all = HashSet::new();
        collect(&definition.steps, &mut all);
        let mut walk = References {
            source: &definition.source,
            found,
            all,
            standing: HashMap::new(),
            loops: 0,
            waits: OpenWaits::new(&definition.steps),
            connections: Vec::new(),
            connections_of: HashMap::new(),
            scripts: HashMap::new(),
        };
        for trigger in &definition.triggers {
            for (pointer, template) in templates::of_trigger(trigger) {
                match &trigger.kind {
                    TriggerKind::Piece(_) => walk.poll_input(&pointer, template),
                    _ => walk.template(&pointer, template),
                }
            }
        }
        for (pointer, key) in templates::of_control(&definition.control) {
            walk.control_key(pointer, key);
        }
        walk.list(&definition.steps);
        Read { connections: walk.connections, connections_of: walk.connections_of, scripts: walk.scripts }
    }

    fn list(&mut self, steps: &'f [Step]) {
        self.waits.open(steps);
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: &'f Step) {
        let first = self.connections.len();
        for (pointer, template) in templates::of_step(step, self.source) {
            self.template(&pointer, template);
            for script in template.scripts() {
                let pointer = format!("{pointer}{}", script.pointer());
                self.one_form_of_connections(&pointer, script);
                let used = ScriptUse { pointer, script: Arc::clone(script) };
                self.scripts.entry(step.name.clone()).or_default().push(used);
            }
        }
        self.connections_of.insert(step.name.clone(), first..self.connections.len());
        self.waits.close(step);
        let name = step.name.as_str();
        self.standing.insert(name, Standing::Around);
        let repeats = matches!(step.kind, StepKind::Loop(_) | StepKind::Process(_));
        self.loops += usize::from(repeats);
        self.lists_of(step);
        self.loops -= usize::from(repeats);
        let (inner, own) = if step.options.skip {
            (Standing::Skipped, Standing::Skipped)
        } else {
            (Standing::Nested, Standing::Before)
        };
        lists(step).for_each(|list| self.stand(list, Some(inner)));
        self.standing.insert(name, Standing::Failed);
        self.list(step.handler());
        self.stand(step.handler(), Some(inner));
        self.standing.insert(name, own);
    }

    /// Walks the lists of a step, the handler of a failure aside.
    fn lists_of(&mut self, step: &'f Step) {
        let side_by_side = matches!(step.kind, StepKind::Parallel(_));
        for list in lists(step) {
            if side_by_side {
                lists(step).for_each(|other| self.waits.open(other));
            }
            self.list(list);
            // What ran in one list has not run in the others.
            self.stand(list, None);
        }
        lists(step).flatten().for_each(|inner| self.waits.close(inner));
    }

    /// Sets what is known about all of `steps` and those inside them.
    fn stand(&mut self, steps: &'f [Step], standing: Option<Standing>) {
        for step in steps {
            match standing {
                Some(standing) => self.standing.insert(step.name.as_str(), standing),
                None => self.standing.remove(step.name.as_str()),
            };
            step.lists().for_each(|list| self.stand(list, standing));
        }
    }

    /// What a trigger is polled with: nothing has happened yet that it could read.
    fn poll_input(&mut self, pointer: &str, input: &Template) {
        self.no_scripts(pointer, input, "reference.poll");
        for reference in input.references() {
            let place = format!("{pointer}{}", reference.pointer);
            if begins_with(reference, "connections") {
                self.reference(&place, reference);
            } else {
                let message = "a poll begins before there is anything else to read than connections";
                self.error(&place, "reference.poll", message, "write `connections.name.field`, or the value");
            }
        }
    }

    /// A key of flow control: it is resolved before the run begins.
    fn control_key(&mut self, pointer: &str, key: &Template) {
        self.no_scripts(pointer, key, "reference.control");
        for reference in key.references().filter(|reference| !begins_with(reference, "trigger")) {
            let place = format!("{pointer}{}", reference.pointer);
            let message = "flow control is decided before the run begins, by what the trigger received";
            self.error(&place, "reference.control", message, "write a path that begins with `trigger`");
        }
    }

    /// What is resolved outside of a run has no sandbox.
    fn no_scripts(&mut self, pointer: &str, template: &Template, rule: &'static str) {
        for script in template.scripts() {
            let message = format!("`{script}` is JavaScript, which is evaluated in steps alone");
            self.error(&format!("{pointer}{}", script.pointer()), rule, &message, "write a path, or the value");
        }
    }

    /// JavaScript has one value under one name: a connection is text as a whole, and an object if its fields are read.
    fn one_form_of_connections(&mut self, place: &str, script: &Script) {
        let read: Vec<_> = script.references().filter(|reference| begins_with(reference, "connections")).collect();
        let whole = |reference: &&&Reference| reference.path.segments.len() == 2;
        let name = |reference: &&Reference| reference.path.segments.get(1).map(|segment| segment.key.clone());
        let by_field = |other: &&Reference| read.iter().any(|of| of.path.segments.len() > 2 && name(of) == name(other));
        if let Some(both) = read.iter().filter(whole).find(|reference| by_field(reference)) {
            let message = format!("`{}` is read as a whole and by a field in one expression", both.path);
            self.error(place, "reference.connection", &message, "read it in two tokens, or by fields alone");
        }
    }

    fn template(&mut self, pointer: &str, template: &Template) {
        for reference in template.references() {
            let place = format!("{pointer}{}", reference.pointer);
            self.reference(&place, reference);
        }
    }

    fn reference(&mut self, place: &str, reference: &Reference) {
        let Some((root, rest)) = reference.path.segments.split_first() else { return };
        let Key::Name(root) = &root.key else {
            return self.error(place, "reference.root", "a path begins with a name", "write `trigger`, `steps`, …");
        };
        // What stands behind in a script may be JavaScript's own.
        let owned = if reference.in_script { owned_segments(&reference.path) } else { usize::MAX };
        let rest = rest.get(..owned.saturating_sub(1).min(rest.len())).unwrap_or_default();
        match root.as_str() {
            "trigger" => {}
            "steps" => self.step_reference(place, rest, reference),
            "connections" => self.connection(place, rest),
            "item" | "index" if self.loops == 0 => {
                let message = format!("`{root}` exists only inside a loop");
                self.error(place, "reference.loop", &message, "move the step into a loop");
            }
            "item" => {}
            "index" | "$now" if rest.is_empty() => {}
            "index" | "$now" => self.error(
                place,
                "reference.path",
                &format!("`{root}` has no members"),
                &format!("write `{{{{{root}}}}}`"),
            ),
            "$wait" => {
                if let Err((message, fix)) = self.waits.check(rest) {
                    self.error(place, "reference.wait", &message, &fix);
                }
            }
            "$run" if matches!(rest, [id] if is_name(id, "id")) => {}
            "$run" => self.error(place, "reference.path", "of `$run` there is only `id`", "write `{{$run.id}}`"),
            "variables" => self.error(
                place,
                "variable.unavailable",
                "project variables are not available yet",
                "write the value, or keep it in a connection",
            ),
            _ => {
                let message = format!("`{}` is nothing a template can read", shorten(root));
                let fix = match nearest_match(root, ROOTS) {
                    _ if self.all.contains(root.as_str()) => format!("steps are read as `steps.{root}.output`"),
                    Some(known) => format!("did you mean `{known}`?"),
                    None => format!("a path begins with one of {}", ROOTS.join(", ")),
                };
                self.error(place, "reference.root", &message, &fix);
            }
        }
    }

    fn step_reference(&mut self, place: &str, rest: &[Segment], reference: &Reference) {
        let Some(Key::Name(name)) = rest.first().map(|segment| &segment.key) else {
            let fix = "write `steps.name.output`";
            return self.error(place, "reference.path", "`steps` is read by the name of a step", fix);
        };
        let short = shorten(name);
        let in_script = reference.in_script;
        // JavaScript finds `undefined` under the name of a step that has not run: only `?.` right behind it helps.
        let may_be_absent =
            if in_script { rest.get(1).is_some_and(|member| member.optional) } else { reference.optional };
        let optional = reference.optional;
        let default = if in_script { "" } else { ", or a default behind `??`" };
        match self.standing.get(name.as_str()) {
            Some(Standing::Before) => {}
            Some(Standing::Failed) if optional || !rest.get(1).is_some_and(|member| is_name(member, "output")) => {}
            Some(Standing::Failed) => {
                let message = format!("`{short}` has failed where this is resolved, and may have no output");
                let guarded = if in_script { ".output?.…" } else { "?.output" };
                let fix = format!("write `steps.{short}{guarded}`, or read `steps.{short}.error`");
                return self.error(place, "reference.maybe", &message, &fix);
            }
            Some(Standing::Around) => {
                let message = format!("`{short}` is not over while its own steps run");
                let fix = "read `item` and `index` inside a loop, and the steps before";
                return self.error(place, "reference.inside", &message, fix);
            }
            Some(Standing::Nested | Standing::Skipped) if may_be_absent => {}
            Some(Standing::Nested) => {
                let message = format!("`{short}` stands inside another step and may not have run");
                let fix = format!("write `steps.{short}?.output`{default}");
                return self.error(place, "reference.maybe", &message, &fix);
            }
            Some(Standing::Skipped) => {
                let message = format!("`{short}` is skipped and has no output");
                let fix = format!("remove `skip`, write `steps.{short}?.output`{default}");
                return self.error(place, "reference.maybe", &message, &fix);
            }
            None if self.all.contains(name.as_str()) => {
                let message = format!("`{short}` has not run where this is resolved");
                let fix = "move it before this step, into the same list or one around it";
                return self.error(place, "reference.order", &message, fix);
            }
            None => {
                let message = format!("there is no step `{short}`");
                let fix = match nearest_match(name, self.sorted_names()) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "write the name of a step before this one".to_owned(),
                };
                return self.error(place, "reference.step", &message, &fix);
            }
        }
        if !rest.get(1).is_some_and(|member| STEP_MEMBERS.iter().any(|known| is_name(member, known))) {
            let message = "of a step there are `output`, `error` and `status`";
            let fix = format!("write `steps.{short}.output`");
            self.error(place, "reference.path", message, &fix);
        }
    }

    /// In a fixed order, so that of two equally near names the same one is proposed each time.
    fn sorted_names(&self) -> Vec<&'f str> {
        let mut names: Vec<_> = self.all.iter().copied().collect();
        names.sort_unstable();
        names
    }

    fn connection(&mut self, place: &str, rest: &[Segment]) {
        let name = |segment: &Segment| match &segment.key {
            Key::Name(name) => Some(name.clone()),
            Key::Index(_) => None,
        };
        let read = match rest {
            [connection] => name(connection).map(|connection| (connection, None)),
            [connection, field] => name(connection).zip(name(field)).map(|(name, field)| (name, Some(field))),
            _ => None,
        };
        match read {
            Some((name, field)) if check_name(&name).is_ok() => {
                self.connections.push(ConnectionUse { name, field, pointer: place.to_owned() });
            }
            _ => self.error(
                place,
                "reference.connection",
                "a connection is read whole or by one field",
                "write `connections.name` or `connections.name.field`; names have letters, digits, `_` and `-`",
            ),
        }
    }

    fn error(&mut self, place: &str, rule: &'static str, message: &str, fix: &str) {
        self.found.push(Diagnostic::error(place, rule, message, fix));
    }
}

fn is_name(segment: &Segment, name: &str) -> bool {
    matches!(&segment.key, Key::Name(found) if found == name)
}

fn begins_with(reference: &Reference, root: &str) -> bool {
    reference.path.segments.first().is_some_and(|first| is_name(first, root))
}

/// The lists of a step, the handler of a failure aside.
fn lists(step: &Step) -> impl Iterator<Item = &[Step]> {
    (0..).map_while(|index| step.nested(index))
}

fn collect<'f>(steps: &'f [Step], all: &mut HashSet<&'f str>) {
    for step in steps {
        all.insert(step.name.as_str());
        step.lists().for_each(|list| collect(list, all));
    }
}

const ROOTS: [&str; 8] = ["trigger", "steps", "connections", "item", "index", "$now", "$run", "$wait"];
const STEP_MEMBERS: [&str; 3] = ["output", "error", "status"];
