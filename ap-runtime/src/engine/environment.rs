//! What `{{ … }}` paths mean inside a run.

use std::borrow::Cow;

use ap_core::{
    expr::{Environment, Key, Lookup, Path},
    run::{StepPath, StepStatus},
    time::Timestamp,
};
use serde_json::Value;

use super::{
    frame,
    state::{RunState, StepState},
};

/// The run as templates see it at one moment.
pub(super) struct Scope<'a> {
    pub(super) state: &'a RunState,
    pub(super) now: Timestamp,
}

impl Scope<'_> {
    /// The execution of step `name` nearest to the current position: same iteration first, then outwards.
    fn step(&self, name: &str) -> Option<&StepState> {
        let frames = self.state.frames();
        frame::scopes_outwards(frames)
            .map(|(path, iteration)| path.in_iteration(iteration, name))
            .chain([StepPath::top(name)])
            .find_map(|path| self.state.step(&path))
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
        let item = frame::item(self.state.frames());
        match (name_at(path, 0), item) {
            (Some("trigger"), _) => one(Cow::Borrowed(self.state.trigger())),
            (Some("steps"), _) => self.lookup_step(path),
            (Some("connections"), _) => self.lookup_connection(path),
            (Some("item"), Some((item, _))) => one(Cow::Borrowed(item)),
            (Some("index"), Some((_, index))) => one(Cow::Owned(Value::from(index))),
            (Some("$now"), _) => one(Cow::Owned(Value::from(self.now.to_string()))),
            (Some("$run"), _) if name_at(path, 1) == Some("id") => {
                Lookup::Found { value: Cow::Owned(Value::from(self.state.run().to_string())), consumed: 2 }
            }
            (Some("$run"), _) => Lookup::Missing { at: 1 },
            _ => Lookup::Missing { at: 0 },
        }
    }
}

/// Wire spelling of a step status.
pub(super) const fn status_text(status: StepStatus) -> &'static str {
    match status {
        StepStatus::Failed => "FAILED",
        StepStatus::Skipped => "SKIPPED",
        StepStatus::Succeeded => "SUCCEEDED",
        _ => "RUNNING",
    }
}

fn name_at(path: &Path, index: usize) -> Option<&str> {
    match path.segments.get(index).map(|segment| &segment.key) {
        Some(Key::Name(name)) => Some(name),
        Some(Key::Index(_)) | None => None,
    }
}
