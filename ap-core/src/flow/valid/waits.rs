//! `$wait`: the tokens of `wait` steps, and where they can be read.

use std::collections::BTreeMap;

use crate::{
    expr::{Key, Segment},
    flow::{Step, StepKind, StepName, WaitMode, parse::shorten},
    nearest::nearest_match,
};

/// The `wait` steps a walk may still come to.
#[derive(Debug, Default)]
pub(super) struct OpenWaits<'f> {
    /// Those of this iteration, or one around it, that have not begun.
    open: BTreeMap<&'f str, &'f WaitMode>,
    /// Those of the whole flow, to tell a misplaced name from a wrong one.
    all: BTreeMap<&'f str, &'f WaitMode>,
}

impl<'f> OpenWaits<'f> {
    /// None is open yet.
    pub(super) fn new(steps: &'f [Step]) -> Self {
        let mut waits = Self::default();
        collect(steps, true, &mut waits.all);
        waits
    }

    /// The walk enters these steps.
    pub(super) fn open(&mut self, steps: &'f [Step]) {
        collect(steps, false, &mut self.open);
    }

    /// The step begins: its tokens and those of the steps inside it are of no more use to others.
    pub(super) fn close(&mut self, step: &Step) {
        if let StepKind::Wait(_) = step.kind {
            self.open.remove(step.name.as_str());
        }
        step.children().for_each(|inner| self.close(inner));
    }

    /// Checks what follows `$wait` in a path.
    ///
    /// # Errors
    /// Message and fix.
    pub(super) fn check(&self, rest: &[Segment]) -> Result<(), (String, String)> {
        let mut names = rest.iter().map(|segment| match &segment.key {
            Key::Name(name) => Some(name.as_str()),
            Key::Index(_) => None,
        });
        let Some(name) = names.next().flatten() else {
            let message = "`$wait` is read by the name of a `wait` step".to_owned();
            return Err((message, "write a path such as `$wait.name.token`".to_owned()));
        };
        let short = shorten(name);
        let Some(mode) = self.open.get(name) else {
            return Err(if self.all.contains_key(name) {
                let message = format!("`{short}` is not ahead of this place, in the same iteration or one around it");
                (message, "move this step before the `wait`, into the same list or one inside it".to_owned())
            } else {
                let fix = match nearest_match(name, self.all.keys().copied()) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "write the name of a `wait` step behind this one".to_owned(),
                };
                (format!("there is no `wait` step `{short}`"), fix)
            });
        };
        let names: Vec<_> = names.collect();
        let (group, parties, members) = match mode {
            WaitMode::Webhook => return members_of(&names, &format!("$wait.{short}"), &CALL),
            WaitMode::Barrier { parties, .. } => ("parties", parties, &CALL[..]),
            WaitMode::Approval { approvers, .. } => ("approvers", approvers, &DECISION[..]),
        };
        match names.as_slice() {
            [Some(found), Some(party), rest @ ..] if *found == group => {
                if parties.iter().any(|known| known.as_str() == *party) {
                    return members_of(rest, &format!("$wait.{short}.{group}.{party}"), members);
                }
                let fix = match nearest_match(party, parties.iter().map(StepName::as_str)) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => format!("write one of its `{group}`"),
                };
                Err((format!("`{short}` does not wait for `{}`", shorten(party)), fix))
            }
            _ => {
                let party = parties.first().map_or("name", StepName::as_str);
                let member = members.first().copied().unwrap_or_default();
                let message = format!("the tokens of `{short}` are read by its `{group}`");
                Err((message, format!("write `$wait.{short}.{group}.{party}.{member}`")))
            }
        }
    }
}

/// Whether `names` are exactly one of `members`.
fn members_of(names: &[Option<&str>], place: &str, members: &[&str]) -> Result<(), (String, String)> {
    match names {
        [Some(name)] if members.contains(name) => Ok(()),
        _ => {
            let known = members.iter().map(|member| format!("`{member}`")).collect::<Vec<_>>().join(", ");
            let member = members.first().copied().unwrap_or_default();
            Err((format!("of `{place}` there are {known}"), format!("write `{place}.{member}`")))
        }
    }
}

/// Collects the `wait` steps among `steps` and inside them; those inside iterations only if they are wanted, too.
fn collect<'f>(steps: &'f [Step], iterations: bool, waits: &mut BTreeMap<&'f str, &'f WaitMode>) {
    for step in steps {
        let repeats = match &step.kind {
            StepKind::Wait(wait) => {
                waits.insert(step.name.as_str(), &wait.mode);
                false
            }
            StepKind::Loop(_) | StepKind::Process(_) => true,
            _ => false,
        };
        if iterations || !repeats {
            step.lists().for_each(|list| collect(list, iterations, waits));
        } else {
            collect(step.handler(), iterations, waits);
        }
    }
}

/// What there is for one who answers once.
const CALL: [&str; 2] = ["token", "url"];
/// What there is for one who decides.
const DECISION: [&str; 4] = ["approve", "reject", "approveUrl", "rejectUrl"];
