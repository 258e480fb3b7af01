//! Which runs can be claimed, now or later, and the fair claim.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ap_core::{
    id::{ProjectId, RunId},
    run::RunStatus,
    time::Timestamp,
};

use super::{RunKey, State, run::Run};
use crate::store::{ClaimRequest, Claimed, Lease, RunRecord};

/// An index over the runs: kept by [`State::change_run`], so that a claim looks at nothing but what is ready.
#[derive(Clone, Default)]
pub(super) struct Schedule {
    /// When a run that is not ready becomes so.
    timers: BTreeSet<(Timestamp, RunKey)>,
    lanes: BTreeMap<ProjectId, Lane>,
    /// Runs that are `RUNNING`, over all projects.
    running: u32,
}

/// What a project has to run.
#[derive(Clone, Default)]
struct Lane {
    /// Ready, and not running: limits may keep them.
    fresh: Ready,
    /// Running under an expired lease: they count as running already.
    expired: Ready,
    /// Runs that are `RUNNING`.
    running: u32,
}

#[derive(Clone, Default)]
struct Ready {
    /// In the order in which they are claimed.
    order: BTreeSet<Rank>,
    /// In order of age.
    ages: BTreeSet<(Timestamp, RunId)>,
}

/// Order of claims and of gates within a project: priority, time of acceptance, id.
pub(super) type Rank = (Reverse<i16>, Timestamp, RunId);

/// Where the index has a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it has ended, or no time makes it ready.
    #[default]
    Out,
    /// Ready at a time.
    Timer(Timestamp),
    /// Ready.
    Fresh,
    /// Ready because its lease expired.
    Expired,
}

/// What a project would give to the next claim: load by weight, age of its oldest ready run, project.
type Candidate = (u128, Timestamp, RunId, ProjectId);

impl Ready {
    fn insert(&mut self, rank: Rank) {
        self.order.insert(rank);
        self.ages.insert((rank.1, rank.2));
    }

    fn remove(&mut self, rank: Rank) {
        self.order.remove(&rank);
        self.ages.remove(&(rank.1, rank.2));
    }
}

impl Lane {
    /// Oldest run and next run, of those that may be claimed.
    fn next(&self, open: bool) -> Option<((Timestamp, RunId), Rank)> {
        let sets = [Some(&self.expired), open.then_some(&self.fresh)];
        let age = sets.iter().flatten().filter_map(|ready| ready.ages.first()).min()?;
        let rank = sets.iter().flatten().filter_map(|ready| ready.order.first()).min()?;
        Some((*age, *rank))
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.fresh.order.is_empty() && self.expired.order.is_empty()
    }
}

impl Schedule {
    /// Takes a run out of the index. It must be as it was when it was put in.
    pub(super) fn remove(&mut self, key: RunKey, run: &mut Run) {
        let lane = self.lanes.entry(key.0).or_default();
        match std::mem::take(&mut run.place) {
            Place::Out => {}
            Place::Timer(at) => {
                self.timers.remove(&(at, key));
            }
            Place::Fresh => lane.fresh.remove(run.rank()),
            Place::Expired => lane.expired.remove(run.rank()),
        }
        if run.record.status == RunStatus::Running {
            lane.running = lane.running.saturating_sub(1);
            self.running = self.running.saturating_sub(1);
        }
        if lane.is_idle() {
            self.lanes.remove(&key.0);
        }
    }

    /// Puts a run where it belongs.
    pub(super) fn insert(&mut self, key: RunKey, run: &mut Run, now: Timestamp) {
        let lane = self.lanes.entry(key.0).or_default();
        if run.record.status == RunStatus::Running {
            lane.running = lane.running.saturating_add(1);
            self.running = self.running.saturating_add(1);
        }
        run.place = run.placed(now);
        match run.place {
            Place::Out => {}
            Place::Timer(at) => {
                self.timers.insert((at, key));
            }
            Place::Fresh => lane.fresh.insert(run.rank()),
            Place::Expired => lane.expired.insert(run.rank()),
        }
        if lane.is_idle() {
            self.lanes.remove(&key.0);
        }
    }

    /// Whether the index has the run where the run says.
    #[cfg(test)]
    pub(super) fn has(&self, key: RunKey, run: &Run) -> bool {
        let ready = |of: fn(&Lane) -> &Ready| {
            let ready = self.lanes.get(&key.0).map(of);
            ready.is_some_and(|ready| {
                ready.order.contains(&run.rank()) && ready.ages.contains(&(run.record.created, run.record.id))
            })
        };
        match run.place {
            Place::Out => true,
            Place::Timer(at) => self.timers.contains(&(at, key)),
            Place::Fresh => ready(|lane| &lane.fresh),
            Place::Expired => ready(|lane| &lane.expired),
        }
    }

    /// How many runs the index has, and how many of all are running.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        let lanes = self.lanes.values();
        let ready: usize = lanes.clone().map(|lane| lane.fresh.order.len() + lane.expired.order.len()).sum();
        let running: u32 = lanes.map(|lane| lane.running).sum();
        assert_eq!(running, self.running);
        (self.timers.len() + ready, running as usize)
    }

    /// When the next run becomes ready by time, after `now`.
    pub(super) fn next_timer(&self, now: Timestamp) -> Option<Timestamp> {
        let first = (ProjectId::from_u128(0), RunId::from_u128(0));
        let after = now.saturating_add(Duration::from_micros(1));
        self.timers.range((after, first)..).next().map(|(at, _)| *at)
    }
}

impl Run {
    pub(super) fn rank(&self) -> Rank {
        (Reverse(self.priority), self.record.created, self.record.id)
    }

    /// Where the run belongs at `now`.
    pub(super) fn placed(&self, now: Timestamp) -> Place {
        let by_time = |at: Timestamp, ready| if at <= now { ready } else { Place::Timer(at) };
        match self.record.status {
            RunStatus::Queued if self.past_gate => self.due.map_or(Place::Fresh, |due| by_time(due, Place::Fresh)),
            RunStatus::Paused if !self.signals.is_empty() => Place::Fresh,
            RunStatus::Paused => self.due.map_or(Place::Out, |due| by_time(due, Place::Fresh)),
            RunStatus::Running => self.leased_until.map_or(Place::Expired, |until| by_time(until, Place::Expired)),
            _ => Place::Out,
        }
    }
}

impl State {
    /// Changes a run and keeps the index true.
    pub(super) fn change_run<R>(
        &mut self,
        key: RunKey,
        now: Timestamp,
        change: impl FnOnce(&mut Run) -> R,
    ) -> Option<R> {
        let run = self.runs.get_mut(&key)?;
        self.schedule.remove(key, run);
        let result = change(run);
        self.schedule.insert(key, run, now);
        Some(result)
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest, now: Timestamp) -> Vec<Claimed> {
        self.pass_timers(now);
        let projects: Vec<ProjectId> = self.schedule.lanes.keys().copied().collect();
        let mut candidates: BTreeSet<Candidate> =
            projects.into_iter().filter_map(|project| self.candidate(project, request)).map(|(key, _)| key).collect();
        let mut claimed = Vec::new();
        while claimed.len() < request.limit as usize
            && let Some(first) = candidates.pop_first()
        {
            let project = first.3;
            // A limit may have been reached since: then the project stands elsewhere, or nowhere.
            match self.candidate(project, request) {
                Some((now_at, rank)) if now_at == first => {
                    claimed.extend(self.claim_run((project, rank.2), request, now));
                    candidates.extend(self.candidate(project, request).map(|(key, _)| key));
                }
                other => candidates.extend(other.map(|(key, _)| key)),
            }
        }
        claimed
    }

    fn candidate(&self, project: ProjectId, request: &ClaimRequest) -> Option<(Candidate, Rank)> {
        let lane = self.schedule.lanes.get(&project)?;
        let share = self.projects.get(&project).map(|project| project.share).unwrap_or_default();
        let open =
            self.schedule.running < request.total && lane.running < share.concurrency.unwrap_or(request.per_project);
        let ((created, run), rank) = lane.next(open)?;
        // Exact enough to order any two loads: fractions whose denominators are at most 1,000 lie further apart.
        let load = (u128::from(lane.running) << 64) / u128::from(share.weight.max(1));
        Some(((load, created, run, project), rank))
    }

    fn claim_run(&mut self, key: RunKey, request: &ClaimRequest, now: Timestamp) -> Option<Claimed> {
        self.change_run(key, now, |run| {
            run.epoch = run.epoch.saturating_add(1);
            run.leased_until = Some(now.saturating_add(request.lease));
            run.due = None;
            run.record.status = RunStatus::Running;
            let RunRecord { id, project, flow, version, subject, .. } = run.record;
            Claimed { lease: Lease { project, run: id, epoch: run.epoch }, flow, version, subject }
        })
    }

    /// Makes everything ready whose time has come.
    pub(super) fn pass_timers(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.schedule.timers.first().copied()
            && at <= now
        {
            if self.change_run(key, now, |_| {}).is_none() {
                self.schedule.timers.remove(&(at, key));
            }
        }
    }
}
