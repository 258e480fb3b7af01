//! Acceptance: duplicates, stale routes, rate limits, gates, throttles and debounces.

use std::collections::BTreeMap;

use ap_core::{
    id::{ProjectId, RunId},
    run::RunStatus,
    store::LookupHash,
    time::Timestamp,
};

use super::{HashKey, State, run::Run};
use crate::store::{Accept, Accepted, Debounce, Pace};

/// A delivery that was accepted.
#[derive(Clone)]
pub(super) struct Delivery {
    run: RunId,
    pub(super) expires: Timestamp,
}

/// A debounced run that waits, and the series it ends.
#[derive(Clone, Copy)]
pub(super) struct Series {
    run: RunId,
    /// When the first of the series came.
    first: Timestamp,
    /// Until when it waits for quiet.
    pub(super) until: Timestamp,
}

/// Names what a pace remembers.
pub(super) type PaceKey = (ProjectId, PaceKind, LookupHash);

/// What a pace is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PaceKind {
    Queue,
    RateLimit,
    Throttle,
}

/// On which terms a run is created.
#[derive(Clone)]
pub(super) struct Terms {
    due: Option<Timestamp>,
    past_gate: bool,
    paces: Vec<(PaceKey, Timestamp)>,
    superseded: Option<RunId>,
    series: Option<(HashKey, Series)>,
}

impl State {
    /// On which terms the run of `accept` would be created, or why it would not. A patient one waits where another would be
    /// refused for the rate limit or skipped at the gate.
    pub(super) fn terms(&self, accept: &Accept, patient: bool, now: Timestamp) -> Result<Terms, Accepted> {
        let (project, control) = (accept.run.project, &accept.control);
        let delivery = accept.dedupe.and_then(|dedupe| self.deliveries.get(&(project, dedupe.key)));
        if let Some(delivery) = delivery.filter(|delivery| delivery.expires > now) {
            return Err(Accepted::Duplicate(delivery.run));
        }
        if !self.is_open(accept) {
            return Err(Accepted::Stale);
        }
        let (mut due, mut paces) = (now, Vec::new());
        if let Some(limit) = &control.rate_limit {
            let start = self.next_pace(project, PaceKind::RateLimit, limit, now, &mut paces);
            if start > now && !patient {
                return Err(Accepted::Limited { retry: start });
            }
            due = due.max(start);
        }
        let superseded = control.debounce.and_then(|debounce| self.waiting_for_quiet((project, debounce.key), now));
        let former = superseded.and_then(|series| self.runs.get(&(project, series.run)));
        let past_gate = control.gate.is_none_or(|gate| {
            let leaving = former.is_some_and(|run| run.past_gate && run.gate.is_some_and(|held| held.key == gate.key));
            self.has_room(project, &gate, u32::from(leaving))
        });
        if !past_gate && !patient && control.gate.is_some_and(|gate| gate.skip) {
            return Err(Accepted::Skipped);
        }
        match (&control.throttle, former) {
            (Some(_), Some(former)) => due = due.max(former.due.unwrap_or(now)),
            (Some(pace), None) => due = due.max(self.next_pace(project, PaceKind::Throttle, pace, now, &mut paces)),
            (None, _) => {}
        }
        let series = control.debounce.map(|debounce| {
            let series = Series::next(&debounce, accept.run.id, superseded, now);
            due = due.max(series.until);
            ((project, debounce.key), series)
        });
        let superseded = superseded.map(|series| series.run);
        Ok(Terms { due: (due > now).then_some(due), past_gate, paces, superseded, series })
    }

    /// Creates the run of `accept` on these terms; returns whether it is leased.
    pub(super) fn create_run(&mut self, accept: Accept, terms: Terms, now: Timestamp) -> bool {
        let Accept { mut run, dedupe, subject_key, control, entry, lease, .. } = accept;
        let key = (run.project, run.id);
        if let Some(subject_key) = subject_key {
            self.add_subject_key(run.project, subject_key);
        }
        if let Some(subject) = run.subject {
            self.subject_runs.insert((run.project, subject, run.id));
        }
        if let Some(dedupe) = dedupe {
            self.deliveries.insert((run.project, dedupe.key), Delivery { run: run.id, expires: dedupe.expires });
        }
        self.paces.extend(terms.paces);
        self.series.extend(terms.series);
        // The new run takes the place of the one it replaces before others move up.
        let left = terms.superseded.and_then(|old| self.end_run((key.0, old), RunStatus::Canceled, now, now));
        let lease = lease.filter(|_| terms.past_gate && terms.due.is_none());
        if lease.is_some() {
            run.status = RunStatus::Running;
        }
        if let Some(parent) = run.parent {
            self.children.insert((key.0, parent, key.1));
        }
        let mut stored = Run {
            epoch: u64::from(lease.is_some()),
            leased_until: lease.map(|lease| now.saturating_add(lease)),
            priority: control.priority,
            gate: control.gate,
            past_gate: terms.past_gate,
            due: terms.due,
            ..Run::new(run, BTreeMap::from([(entry.seq, entry)]))
        };
        self.schedule.insert(key, &mut stored, now);
        self.runs.insert(key, stored);
        self.live.insert(key);
        self.enter_gate(key);
        if let Some(gate) = left {
            self.promote((key.0, gate), now);
        }
        lease.is_some()
    }

    /// Whether the flow still takes what was decided on.
    pub(super) fn is_open(&self, accept: &Accept) -> bool {
        let (run, generation) = (&accept.run, accept.generation);
        self.flows
            .get(&(run.project, run.flow))
            .is_some_and(|flow| flow.enabled && flow.published == Some(run.version) && flow.generation == generation)
    }

    fn next_pace(
        &self,
        project: ProjectId,
        kind: PaceKind,
        pace: &Pace,
        now: Timestamp,
        paces: &mut Vec<(PaceKey, Timestamp)>,
    ) -> Timestamp {
        let key = (project, kind, pace.key);
        let (start, remember) = pace.next(self.paces.get(&key).copied(), now);
        paces.push((key, remember));
        start
    }

    /// The series of this key whose last run still waits for quiet.
    fn waiting_for_quiet(&self, key: HashKey, now: Timestamp) -> Option<Series> {
        let series = self.series.get(&key).filter(|series| series.until > now)?;
        let run = self.runs.get(&(key.0, series.run))?;
        let waits = run.record.status == RunStatus::Queued && run.due.is_some_and(|due| due > now);
        waits.then_some(*series)
    }
}

impl Series {
    fn next(debounce: &Debounce, run: RunId, former: Option<Self>, now: Timestamp) -> Self {
        let first = former.map_or(now, |former| former.first);
        let until = now.saturating_add(debounce.delay).min(first.saturating_add(debounce.max_wait));
        Self { run, first, until }
    }
}
