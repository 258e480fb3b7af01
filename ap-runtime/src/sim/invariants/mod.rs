//! What must hold of every schedule: one file per promise, each with the source it is taken from.

mod acknowledged;
mod audit;
mod clear;
mod effects;
mod ends;
mod epochs;
mod family;
mod gates;
mod jobs;
mod journal;
mod ledger;
mod one_run;
mod signals;
mod terminal;
mod ticks;
mod timers;
mod values;

use std::fmt;

use super::history::History;

/// A promise, and how a schedule is judged by it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Invariant {
    /// Short name.
    pub name: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// Where the promise is from.
    pub source: &'static str,
    pub(super) check: fn(&History, &mut Vec<String>),
}

impl fmt::Debug for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invariant").field("name", &self.name).field("source", &self.source).finish_non_exhaustive()
    }
}

/// Every promise that a schedule is judged by.
#[must_use]
pub fn invariants() -> &'static [Invariant] {
    ALL
}

const ALL: &[Invariant] = &[
    acknowledged::INVARIANT,
    audit::INVARIANT,
    clear::INVARIANT,
    effects::INVARIANT,
    ends::INVARIANT,
    epochs::INVARIANT,
    family::INVARIANT,
    gates::INVARIANT,
    jobs::INVARIANT,
    journal::INVARIANT,
    ledger::INVARIANT,
    one_run::INVARIANT,
    signals::INVARIANT,
    terminal::INVARIANT,
    ticks::INVARIANT,
    timers::INVARIANT,
    values::INVARIANT,
];
