//! [`ValidFlow`]: exists only after every structural rule held.
//!
//! Errors, each barring a flow from being published:
//!
//! | Rule | Meaning |
//! | --- | --- |
//! | `trigger.required`, `trigger.several` | a flow has exactly one trigger |
//! | `trigger.schedule.expression` | a schedule that does not say when |
//! | `trigger.handshake.unavailable` | handshakes do not run yet |
//! | `name.duplicate` | names of steps and triggers are unique in the flow, those of branches in their step |
//! | `flow.steps.limit`, `flow.nesting.limit` | as at parsing, with the limits of this check |
//! | `piece.unknown`, `action.unknown`, `trigger.unknown` | the host handed in no such piece, action or trigger |
//! | `property.*` | settings that the [`Properties`](crate::property::Properties) of the action or trigger refuse |
//! | `subflow.flow` | a literal that is no id of a flow |
//! | `wait.parties`, `wait.required` | somebody is waited for twice; more must answer than are waited for |
//! | `reference.root` | a path begins with something unknown |
//! | `reference.path` | a path reads a root in a way that root does not allow |
//! | `reference.step` | `steps.x` where no step `x` exists |
//! | `reference.order` | a step that has not run yet where it is read, such as a later one or one of another branch |
//! | `reference.inside` | a step that is read from within itself |
//! | `reference.maybe` | a step that may not have run (inside another, or skipped), or the output of one whose failure is handled, read without `?.` or `??` |
//! | `reference.loop` | `item` or `index` outside a loop and the work on a job |
//! | `reference.wait` | `$wait` that names no `wait` step ahead, in the same iteration or one around it, or nobody it waits for |
//! | `reference.control` | a key of flow control that is JavaScript or reads something else than `trigger` |
//! | `reference.poll` | settings of a polled trigger that hold JavaScript or read something else than `connections` |
//! | `reference.connection` | not `connections.name` or `connections.name.field`, no possible name, or both forms in one expression |
//! | `variable.unavailable` | project variables do not exist yet |
//! | `template.expression` | a token that is neither a path nor one JavaScript expression |
//!
//! They hold for paths and, as far as members are written out, for what JavaScript expressions read.
//!
//! Warnings, kept by [`ValidFlow::warnings`]:
//!
//! | Rule | Meaning |
//! | --- | --- |
//! | `steps.empty` | a flow, a step that runs others, a branch or a handler without steps |
//! | `step.unreachable` | a step behind one that always ends the run |
//! | `respond.unheard` | a `respond` in a flow that a schedule or a poll starts |
//! | `trigger.authentication.absent` | a webhook that says nothing about who may call it |

mod references;
mod sameness;
mod structure;
mod templates;
mod triggers;
mod waits;

use std::{collections::HashMap, ops::Range, sync::Arc};

use self::{references::References, structure::Structure};
use super::{
    Diagnostic, Diagnostics, FlowDefinition, FlowLimits, Step, StepName, TriggerDefinition,
    diagnostic::MAX_DIAGNOSTICS,
    parse::{clip, settings_pointer},
};
use crate::{
    expr::Script,
    piece::{Action, PieceSet, Trigger},
};

/// A flow that can run: the proof that every structural rule held. Cheap to clone.
///
/// # What a code step gets
///
/// A `code` step with `input` gets that object, resolved, as its `params`. Without `input` it gets
///
/// * `request` and `trigger`: what the trigger received;
/// * `response`: the output of the step before it in the same list, `null` if it is the first;
/// * `input`: what that step was given, for `http` its `body`; `null` if there is none;
/// * inside a loop also `item` and `index` of the innermost one.
#[derive(Clone, Debug)]
pub struct ValidFlow(Arc<Checked>);

#[derive(Debug)]
struct Checked {
    definition: FlowDefinition,
    trigger: TriggerDefinition,
    piece_trigger: Option<Arc<dyn Trigger>>,
    actions: HashMap<StepName, Arc<dyn Action>>,
    connections: Vec<ConnectionUse>,
    connections_of: HashMap<StepName, Range<usize>>,
    scripts: HashMap<StepName, Vec<ScriptUse>>,
    warnings: Vec<Diagnostic>,
    /// Where each step stands: its place in the flow's list, then among the children of each step around it.
    places: HashMap<StepName, Box<[usize]>>,
}

/// One reference of a flow to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionUse {
    /// The connection.
    pub name: String,
    /// The field, if one is named.
    pub field: Option<String>,
    /// RFC 6901 pointer of the text that holds the reference.
    pub pointer: String,
}

/// One JavaScript expression in a template of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptUse {
    /// RFC 6901 pointer of the text that holds it.
    pub pointer: String,
    /// The expression.
    pub script: Arc<Script>,
}

impl ValidFlow {
    /// Checks a definition against the pieces of the host. `limits` on steps and nesting hold again here, so that a flow
    /// parsed under wider ones is still refused.
    ///
    /// # Errors
    /// Every error, then every warning, at most 100 in all.
    pub fn check(definition: FlowDefinition, pieces: &PieceSet, limits: &FlowLimits) -> Result<Self, Diagnostics> {
        let mut found = Found::default();
        definition.deferred.iter().for_each(|finding| found.push(finding.clone()));
        let structure = Structure::check(&definition, pieces, limits, &mut found);
        let references::Read { connections, connections_of, scripts } = References::check(&definition, &mut found);
        match definition.triggers.first().cloned() {
            Some(trigger) if found.errors.is_empty() => {
                let Structure { actions, places, trigger: piece_trigger } = structure;
                let warnings = found.warnings;
                Ok(Self(Arc::new(Checked {
                    definition,
                    trigger,
                    piece_trigger,
                    actions,
                    connections,
                    connections_of,
                    scripts,
                    warnings,
                    places,
                })))
            }
            _ => Err(found.into_diagnostics()),
        }
    }

    /// The steps of the flow, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0.definition.steps
    }

    /// What starts a run.
    #[must_use]
    pub fn trigger(&self) -> &TriggerDefinition {
        &self.0.trigger
    }

    /// The trigger of a piece that is polled to start runs; `None` if something else starts them.
    #[must_use]
    pub fn piece_trigger(&self) -> Option<&Arc<dyn Trigger>> {
        self.0.piece_trigger.as_ref()
    }

    /// Name for people.
    #[must_use]
    pub fn display_name(&self) -> &str {
        &self.0.definition.display_name
    }

    /// The definition that was checked.
    #[must_use]
    pub fn definition(&self) -> &FlowDefinition {
        &self.0.definition
    }

    /// The action a piece step runs; `None` for names of other steps.
    #[must_use]
    pub fn action(&self, step: &StepName) -> Option<&Arc<dyn Action>> {
        self.0.actions.get(step)
    }

    /// The step of this name, wherever it stands.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&Step> {
        let (first, inner) = self.0.places.get(name)?.split_first()?;
        let top = self.steps().get(*first)?;
        inner.iter().try_fold(top, |step, index| step.children().nth(*index))
    }

    /// Whether both flows have a step of this name that does the same in the same way, the steps inside it included. Names
    /// for people and places in the source do not count.
    #[must_use]
    pub fn same_step(&self, other: &Self, name: &str) -> bool {
        match (self.step(name), other.step(name)) {
            (Some(one), Some(two)) => sameness::same_step(one, two),
            _ => false,
        }
    }

    /// Every reference to a connection, the trigger's first, then in the order of the steps.
    #[must_use]
    pub fn connections(&self) -> &[ConnectionUse] {
        &self.0.connections
    }

    /// The references to connections in the step's own templates; those of steps inside it are theirs.
    #[must_use]
    pub fn connections_of(&self, step: &StepName) -> &[ConnectionUse] {
        let place = self.0.connections_of.get(step).cloned().unwrap_or_default();
        self.0.connections.get(place).unwrap_or_default()
    }

    /// The JavaScript expressions that the templates of a step hold: to be evaluated before it begins.
    #[must_use]
    pub fn scripts(&self, step: &StepName) -> &[ScriptUse] {
        self.0.scripts.get(step).map(Vec::as_slice).unwrap_or_default()
    }

    /// RFC 6901 pointer of the text of a code step's script.
    #[must_use]
    pub fn code_pointer(&self, step: &Step) -> String {
        format!("{}/sourceCode/code", settings_pointer(&self.0.definition.source, &step.pointer))
    }

    /// What the author should look at.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.0.warnings
    }
}

/// What a check found, at most [`MAX_DIAGNOSTICS`] of each kind.
#[derive(Debug, Default)]
struct Found {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Found {
    fn push(&mut self, error: Diagnostic) {
        if self.errors.len() < MAX_DIAGNOSTICS {
            self.errors.push(clip(error));
        }
    }

    fn warn(&mut self, warning: Diagnostic) {
        if self.warnings.len() < MAX_DIAGNOSTICS {
            self.warnings.push(clip(warning));
        }
    }

    fn into_diagnostics(self) -> Diagnostics {
        let mut all = self.errors;
        all.extend(self.warnings);
        all.truncate(MAX_DIAGNOSTICS);
        Diagnostics(all)
    }
}
