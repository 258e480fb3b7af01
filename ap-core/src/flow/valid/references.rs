//! What templates read: every path must lead to something that is there when it is resolved.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{ConnectionUse, Found};
use crate::{
    connection::check_name,
    expr::{Key, Reference, Segment, Template},
    flow::{
        Diagnostic, FlowDefinition, IdempotencyKey, Step, StepKind, TriggerKind, WebhookAuthentication, parse::shorten,
    },
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
    /// How many loops are around where the walk stands.
    loops: usize,
    connections: Vec<ConnectionUse>,
}

/// What is known about a step where another reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has run: it stands before in the same list, or in one around it.
    Before,
    /// It is a loop or branch around the place.
    Around,
    /// It stands in a loop or branch that is over, and may not have run.
    Nested,
    /// It is passed over.
    Skipped,
}

impl<'f> References<'f> {
    pub(super) fn check(definition: &'f FlowDefinition, found: &'f mut Found) -> Vec<ConnectionUse> {
        let mut all = HashSet::new();
        collect(&definition.steps, &mut all);
        let mut walk = References {
            source: &definition.source,
            found,
            all,
            standing: HashMap::new(),
            loops: 0,
            connections: Vec::new(),
        };
        for trigger in &definition.triggers {
            if let TriggerKind::Webhook(webhook) = &trigger.kind {
                let pointer = format!("{}/settings/authentication", trigger.pointer);
                for (name, template) in secrets(&webhook.authentication) {
                    walk.template(&format!("{pointer}/{name}"), template);
                }
            }
        }
        walk.list(&definition.steps);
        walk.connections
    }

    fn list(&mut self, steps: &'f [Step]) {
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: &'f Step) {
        for (pointer, template) in templates(step, self.source) {
            self.template(&pointer, template);
        }
        let name = step.name.as_str();
        let is_loop = matches!(step.kind, StepKind::Loop(_) | StepKind::Process(_));
        self.standing.insert(name, Standing::Around);
        self.loops += usize::from(is_loop);
        for list in step.lists() {
            self.list(list);
            // What ran in one list has not run in the others.
            self.stand(list, None);
        }
        self.loops -= usize::from(is_loop);
        let (inner, own) = if step.options.skip {
            (Standing::Skipped, Standing::Skipped)
        } else {
            (Standing::Nested, Standing::Before)
        };
        step.lists().for_each(|list| self.stand(list, Some(inner)));
        self.standing.insert(name, own);
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
        match root.as_str() {
            "trigger" => {}
            "steps" => self.step_reference(place, rest, reference.optional),
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

    fn step_reference(&mut self, place: &str, rest: &[Segment], optional: bool) {
        let Some(Key::Name(name)) = rest.first().map(|segment| &segment.key) else {
            let fix = "write `steps.name.output`";
            return self.error(place, "reference.path", "`steps` is read by the name of a step", fix);
        };
        let short = shorten(name);
        match self.standing.get(name.as_str()) {
            Some(Standing::Before) => {}
            Some(Standing::Around) => {
                let message = format!("`{short}` is not over while its own steps run");
                let fix = "read `item` and `index` inside a loop, and the steps before";
                return self.error(place, "reference.inside", &message, fix);
            }
            Some(Standing::Nested | Standing::Skipped) if optional => {}
            Some(Standing::Nested) => {
                let message = format!("`{short}` stands in a loop or branch and may not have run");
                let fix = format!("write `steps.{short}?.output`, or a default behind `??`");
                return self.error(place, "reference.maybe", &message, &fix);
            }
            Some(Standing::Skipped) => {
                let message = format!("`{short}` is skipped and has no output");
                let fix = format!("remove `skip`, write `steps.{short}?.output`, or a default behind `??`");
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

fn collect<'f>(steps: &'f [Step], all: &mut HashSet<&'f str>) {
    for step in steps {
        all.insert(step.name.as_str());
        step.lists().for_each(|list| collect(list, all));
    }
}

fn secrets(authentication: &WebhookAuthentication) -> Vec<(&'static str, &Template)> {
    match authentication {
        WebhookAuthentication::Basic { username, password } => vec![("username", username), ("password", password)],
        WebhookAuthentication::Header { expected_value, .. } => vec![("expectedValue", expected_value)],
        WebhookAuthentication::Hmac { secret, .. } => vec![("secret", secret)],
        WebhookAuthentication::None => Vec::new(),
    }
}

/// The templates that are resolved when the step begins, each with its place.
fn templates<'f>(step: &'f Step, source: &Value) -> Vec<(String, &'f Template)> {
    let settings = format!("{}/settings", step.pointer);
    // Where an author may write a member beside `settings` or inside.
    let either = |name: &str| {
        let beside = format!("{}/{name}", step.pointer);
        if source.pointer(&beside).is_some() { beside } else { format!("{settings}/{name}") }
    };
    let mut templates = match &step.kind {
        StepKind::Branch(branch) => {
            let place = |(pointer, template)| (format!("{settings}/condition{pointer}"), template);
            branch.condition.templates().map(place).collect()
        }
        StepKind::Code(code) => code.input.iter().map(|input| (either("input"), input)).collect(),
        StepKind::Fail(fail) => vec![(format!("{settings}/message"), &fail.message)],
        StepKind::Loop(inner) => vec![(format!("{settings}/items"), &inner.items)],
        StepKind::Piece(piece) => vec![(settings.clone(), &piece.input)],
        StepKind::Respond(respond) => vec![
            (format!("{settings}/status"), &respond.status),
            (format!("{settings}/headers"), &respond.headers),
            (format!("{settings}/body"), &respond.body),
        ],
        _ => Vec::new(),
    };
    if let Some(IdempotencyKey::Template(key)) = &step.options.idempotency_key {
        templates.push((either("idempotencyKey"), key));
    }
    templates
}

const ROOTS: [&str; 7] = ["trigger", "steps", "connections", "item", "index", "$now", "$run"];
const STEP_MEMBERS: [&str; 3] = ["output", "error", "status"];
