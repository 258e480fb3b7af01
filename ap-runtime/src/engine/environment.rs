//! What `{{ … }}` paths mean inside a run.

use std::borrow::Cow;

use ap_core::{
    expr::{Environment, Evaluated, Key, Lookup, Path, Script},
    flow::{Step, StepKind, StepName, ValidFlow, WaitMode, WaitStep},
    run::{StepPath, StepStatus},
    time::Timestamp,
};
use ap_crypto::resume::{Decision, ResumeClaims};
use serde_json::Value;

use super::{
    evaluate::Results,
    frame::Frame,
    state::{RunState, StepState},
    strand::StrandId,
};

/// The run as templates see it at one moment, from one strand.
pub(super) struct Scope<'a> {
    pub(super) state: &'a RunState,
    pub(super) flow: &'a ValidFlow,
    pub(super) strand: StrandId,
    pub(super) now: Timestamp,
    pub(super) results: &'a Results<'a>,
}

impl Scope<'_> {
    /// The execution of step `name` nearest to the current position: same iteration first, then outwards.
    fn step(&self, name: &str) -> Option<&StepState> {
        self.state
            .frames_outwards(self.strand)
            .filter_map(Frame::iteration)
            .map(|(path, iteration)| path.in_iteration(iteration.index, name))
            .chain([StepPath::top(name)])
            .find_map(|path| self.state.step(&path))
    }

    /// `$wait.name.token`, `.url`, `.parties.x.token`, `.approvers.x.approve`, …: see [`WaitStep`].
    fn lookup_wait<'a>(&self, path: &Path) -> Lookup<'a> {
        let Some(name) = name_at(path, 1) else { return Lookup::Missing { at: 1 } };
        let Some(StepKind::Wait(wait)) = self.flow.step(name).map(|step| &step.kind) else {
            return Lookup::Missing { at: 1 };
        };
        let named =
            |names: &[StepName]| name_at(path, 3).filter(|party| names.iter().any(|name| name.as_str() == *party));
        let (party, word, at) = match (&wait.mode, name_at(path, 2)) {
            (WaitMode::Webhook, Some(word)) => ("", word, 2),
            (WaitMode::Barrier { parties: names, .. }, Some("parties"))
            | (WaitMode::Approval { approvers: names, .. }, Some("approvers")) => {
                match (named(names), name_at(path, 4)) {
                    (Some(party), Some(word)) => (party, word, 4),
                    _ => return Lookup::Missing { at: 3 },
                }
            }
            _ => return Lookup::Missing { at: 2 },
        };
        let (decision, is_url) = match (word, &wait.mode) {
            ("approve", WaitMode::Approval { .. }) => (Decision::Approve, false),
            ("approveUrl", WaitMode::Approval { .. }) => (Decision::Approve, true),
            ("reject", WaitMode::Approval { .. }) => (Decision::Reject, false),
            ("rejectUrl", WaitMode::Approval { .. }) => (Decision::Reject, true),
            ("token", WaitMode::Barrier { .. } | WaitMode::Webhook) => (Decision::Answer, false),
            ("url", WaitMode::Barrier { .. } | WaitMode::Webhook) => (Decision::Answer, true),
            _ => return Lookup::Missing { at },
        };
        let token = self.token(name, wait, party, decision);
        let text = match (is_url, &self.state.resume.base) {
            (false, _) => token,
            (true, Some(base)) => format!("{}/{token}", base.trim_end_matches('/')),
            // Where the door is, only the host can say.
            (true, None) => return Lookup::Missing { at },
        };
        Lookup::Found { value: Cow::Owned(Value::from(text)), consumed: at + 1 }
    }

    fn token(&self, name: &str, wait: &WaitStep, party: &str, decision: Decision) -> String {
        let resume = &self.state.resume;
        let path = self.path_of_wait(name);
        resume.key.token(&ResumeClaims {
            project: resume.project,
            run: self.state.run(),
            slot: resume.key.slot(path.as_str(), party),
            expires: self.now.saturating_add(wait.timeout),
            decision,
        })
    }

    /// Where a `wait` step will be executed, or is: in the iteration of the loop it stands in.
    fn path_of_wait(&self, name: &str) -> StepPath {
        let around = loop_around(self.flow.steps(), name, None).flatten();
        let iteration = around.and_then(|owner| {
            let iterations = self.state.frames_outwards(self.strand).filter_map(Frame::iteration);
            iterations.into_iter().find(|(path, _)| path.step_name() == owner.as_str())
        });
        match iteration {
            Some((path, iteration)) => path.in_iteration(iteration.index, name),
            None => StepPath::top(name),
        }
    }

    fn lookup_step<'a>(&'a self, path: &Path) -> Lookup<'a> {
        let Some(name) = name_at(path, 1) else { return Lookup::Missing { at: 1 } };
        let Some(step) = self.step(name) else { return Lookup::Missing { at: 1 } };
        let found = |value: Cow<'a, Value>| Lookup::Found { value, consumed: 3 };
        match (name_at(path, 2), &step.output, &step.error) {
            (Some("output"), Some(output), _) => found(Cow::Borrowed(output)),
            (Some("error"), _, Some(error)) => match serde_json::to_value(error) {
                Ok(value) => found(Cow::Owned(value)),
                Err(_) => Lookup::Missing { at: 2 },
            },
            (Some("status"), ..) => found(Cow::Owned(Value::from(status_text(step.status)))),
            _ => Lookup::Missing { at: 2 },
        }
    }

    fn lookup_connection<'a>(&'a self, path: &Path) -> Lookup<'a> {
        let Some(name) = name_at(path, 1) else { return Lookup::Missing { at: 1 } };
        let Some(view) = self.state.connections().get(name) else { return Lookup::Missing { at: 1 } };
        if path.segments.len() == 2 {
            return Lookup::Found { value: Cow::Owned(Value::from(view.whole.as_str())), consumed: 2 };
        }
        match name_at(path, 2).and_then(|field| view.fields.get(field)) {
            Some(text) => Lookup::Found { value: Cow::Owned(Value::from(text.as_str())), consumed: 3 },
            None => Lookup::Missing { at: 2 },
        }
    }
}

impl Environment for Scope<'_> {
    fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a> {
        let one = |value| Lookup::Found { value, consumed: 1 };
        let iteration = || self.state.frames_outwards(self.strand).find_map(Frame::iteration);
        match name_at(path, 0) {
            Some("trigger") => one(Cow::Borrowed(self.state.trigger().as_ref())),
            Some("steps") => self.lookup_step(path),
            Some("connections") => self.lookup_connection(path),
            Some("item") => match iteration().and_then(|(_, iteration)| iteration.item()) {
                Some(item) => one(Cow::Borrowed(item)),
                None => Lookup::Missing { at: 0 },
            },
            Some("index") => match iteration() {
                Some((_, iteration)) => one(Cow::Owned(Value::from(iteration.index))),
                None => Lookup::Missing { at: 0 },
            },
            Some("$wait") => self.lookup_wait(path),
            Some("$now") => one(Cow::Owned(Value::from(self.now.to_string()))),
            Some("$run") if name_at(path, 1) == Some("id") => {
                Lookup::Found { value: Cow::Owned(Value::from(self.state.run().to_string())), consumed: 2 }
            }
            Some("$run") => Lookup::Missing { at: 1 },
            _ => Lookup::Missing { at: 0 },
        }
    }

    fn evaluated<'a>(&'a self, script: &Script) -> Evaluated<'a> {
        self.results.of(script)
    }
}

/// Wire spelling of a step status.
pub(super) const fn status_text(status: StepStatus) -> &'static str {
    match status {
        StepStatus::Failed => "FAILED",
        StepStatus::Paused => "PAUSED",
        StepStatus::Skipped => "SKIPPED",
        StepStatus::Succeeded => "SUCCEEDED",
        _ => "RUNNING",
    }
}

/// The innermost loop or queue around the step `name`; `None` if there is no such step below.
fn loop_around<'f>(steps: &'f [Step], name: &str, around: Option<&'f StepName>) -> Option<Option<&'f StepName>> {
    steps.iter().find_map(|step| {
        if step.name.as_str() == name {
            return Some(around);
        }
        let repeats = matches!(step.kind, StepKind::Loop(_) | StepKind::Process(_));
        let inner = if repeats { Some(&step.name) } else { around };
        let nested = (0..).map_while(|index| step.nested(index));
        // What handles a failure of a loop stands beside it, not in one of its iterations.
        nested
            .clone()
            .find_map(|list| loop_around(list, name, inner))
            .or_else(|| loop_around(step.handler(), name, around))
    })
}

fn name_at(path: &Path, index: usize) -> Option<&str> {
    match path.segments.get(index).map(|segment| &segment.key) {
        Some(Key::Name(name)) => Some(name),
        Some(Key::Index(_)) | None => None,
    }
}
