//! The fair claim.
//!
//! It looks at the runs that are leased, at the projects that have ready runs, and at as many runs as it hands over: what it
//! costs does not depend on how many runs wait or are stored.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use ap_core::{
    id::{FlowId, FlowVersionId, KeyId, ProjectId, RunId},
    time::Timestamp,
};
use rusqlite::params;

use super::writer::{Failure, Operation, Transaction};
use crate::store::{ClaimRequest, Claimed, Lease};

/// Leases what is ready.
pub(super) struct Claim(pub(super) ClaimRequest);

impl Operation for Claim {
    type Output = Vec<Claimed>;

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Vec<Claimed>, Failure> {
        let now = transaction.now.as_micros();
        transaction.run(PASS_TIMERS, params![now, MOST_TIMERS])?;
        let mut queue = Queue::look(transaction, &self.0)?;
        let mut claimed = Vec::new();
        while claimed.len() < self.0.limit as usize
            && let Some((project, run)) = queue.next(transaction)?
        {
            claimed.extend(lease(transaction, project, run, &self.0)?);
        }
        Ok(claimed)
    }
}

fn lease(
    transaction: &Transaction<'_>,
    project: ProjectId,
    run: RunId,
    request: &ClaimRequest,
) -> rusqlite::Result<Option<Claimed>> {
    let until = transaction.now.saturating_add(request.lease);
    // Two statements rather than one with `RETURNING`, for which SQLite makes a table each time.
    let found = transaction.row(
        "SELECT number, epoch + 1, flow, version, subject FROM ap_runs WHERE project = ? AND id = ?",
        [project.as_bytes(), run.as_bytes()],
        |columns| {
            let (number, lease) = (columns.int()?, Lease { project, run, epoch: columns.uint()? });
            let (flow, version) = (columns.id(FlowId::from_slice)?, columns.id(FlowVersionId::from_slice)?);
            let subject = columns.maybe_id(KeyId::from_slice)?;
            Ok((number, Claimed { lease, flow, version, subject }))
        },
    )?;
    let Some((number, claimed)) = found else { return Ok(None) };
    transaction.run(
        "UPDATE ap_runs SET epoch = epoch + 1, status = 'RUNNING', lease = ?, ready = 0, due = NULL WHERE number = ?",
        params![until.as_micros(), number],
    )?;
    Ok(Some(claimed))
}

/// What there is to claim.
struct Queue<'r> {
    request: &'r ClaimRequest,
    projects: BTreeMap<ProjectId, Project>,
    /// What each project would give next, in the order in which they give.
    candidates: BTreeSet<Candidate>,
    /// Runs that are `RUNNING`, over all projects.
    running: u32,
}

/// Load by weight, age of the oldest ready run, project.
type Candidate = (u128, Age, ProjectId);
/// When a run was accepted, and its id.
type Age = (Timestamp, RunId);
/// The order within a project.
type Rank = (Reverse<i16>, Timestamp, RunId);

#[derive(Default)]
struct Project {
    weight: u32,
    most: u32,
    /// Runs that are `RUNNING`.
    running: u32,
    /// Ready, and not running: limits may keep them. One lane for each priority that occurs, the highest first.
    lanes: Vec<Lane>,
    /// Running under an expired lease: they count as running already.
    expired: BTreeSet<Rank>,
}

/// Ready runs of one priority, the oldest first, as far as they were read.
struct Lane {
    priority: i16,
    runs: VecDeque<Age>,
}

impl<'r> Queue<'r> {
    fn look(transaction: &Transaction<'_>, request: &'r ClaimRequest) -> rusqlite::Result<Self> {
        let mut queue = Self { request, projects: BTreeMap::new(), candidates: BTreeSet::new(), running: 0 };
        for (project, running) in
            transaction.rows(RUNNING, (), |columns| Ok((columns.id(ProjectId::from_slice)?, columns.small()?)))?
        {
            queue.running = queue.running.saturating_add(running);
            queue.projects.entry(project).or_default().running = running;
        }
        let expired = transaction.rows(EXPIRED, [transaction.now.as_micros()], |columns| {
            let project = columns.id(ProjectId::from_slice)?;
            Ok((project, (Reverse(columns.get()?), columns.time()?, columns.id(RunId::from_slice)?)))
        })?;
        for (project, rank) in expired {
            queue.projects.entry(project).or_default().expired.insert(rank);
        }
        if queue.running < request.total {
            let mut behind = Vec::new();
            while let Some(project) =
                transaction.row(READY_PROJECT, [&behind], |columns| columns.id(ProjectId::from_slice))?
            {
                queue.projects.entry(project).or_default().lanes = Lane::all(transaction, project)?;
                behind = project.as_bytes().to_vec();
            }
        }
        queue.projects.retain(|_, project| !project.lanes.is_empty() || !project.expired.is_empty());
        let ids: Vec<ProjectId> = queue.projects.keys().copied().collect();
        for id in ids {
            let share = transaction.row(
                "SELECT weight, concurrency FROM ap_projects WHERE id = ?",
                [id.as_bytes()],
                |columns| Ok((columns.small()?, columns.get::<Option<u32>>()?)),
            )?;
            let (weight, most) = share.unwrap_or((1, None));
            if let Some(project) = queue.projects.get_mut(&id) {
                project.weight = weight;
                project.most = most.unwrap_or(request.per_project);
            }
            queue.candidates.extend(queue.candidate(id).map(|(candidate, _)| candidate));
        }
        Ok(queue)
    }

    /// The run to claim next.
    fn next(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<Option<(ProjectId, RunId)>> {
        while let Some(first) = self.candidates.pop_first() {
            let id = first.2;
            let Some((candidate, rank)) = self.candidate(id) else { continue };
            if candidate != first {
                // A limit has been reached since: the project stands elsewhere.
                self.candidates.insert(candidate);
                continue;
            }
            if let Some(project) = self.projects.get_mut(&id)
                && !project.expired.remove(&rank)
            {
                project.take(transaction, id, rank, self.request.limit)?;
                self.running = self.running.saturating_add(1);
            }
            self.candidates.extend(self.candidate(id).map(|(candidate, _)| candidate));
            return Ok(Some((id, rank.2)));
        }
        Ok(None)
    }

    fn candidate(&self, id: ProjectId) -> Option<(Candidate, Rank)> {
        let project = self.projects.get(&id)?;
        let open = self.running < self.request.total && project.running < project.most;
        let fresh = project.lanes.iter().filter(|_| open);
        let ages = fresh.clone().filter_map(|lane| lane.runs.front().copied());
        let age = ages.chain(project.expired.iter().map(|(_, created, run)| (*created, *run))).min()?;
        let ranks = fresh.filter_map(|lane| {
            let (created, run) = lane.runs.front()?;
            Some((Reverse(lane.priority), *created, *run))
        });
        let rank = ranks.chain(project.expired.first().copied()).min()?;
        // Exact enough to order any two loads: fractions whose denominators are at most 1,000 lie further apart.
        let load = (u128::from(project.running) << 64) / u128::from(project.weight.max(1));
        Some(((load, age, id), rank))
    }
}

impl Project {
    /// Takes a ready run, and reads on when its lane is used up.
    fn take(
        &mut self,
        transaction: &Transaction<'_>,
        id: ProjectId,
        (Reverse(priority), created, run): Rank,
        limit: u32,
    ) -> rusqlite::Result<()> {
        self.running = self.running.saturating_add(1);
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.priority == priority) else { return Ok(()) };
        lane.runs.pop_front();
        if lane.runs.is_empty() {
            let behind = params![id.as_bytes(), priority, created.as_micros(), run.as_bytes(), limit.min(READ_AHEAD)];
            lane.runs.extend(
                transaction
                    .rows(READY_RUNS, behind, |columns| Ok((columns.time()?, columns.id(RunId::from_slice)?)))?,
            );
        }
        Ok(())
    }
}

impl Lane {
    /// A lane for each priority that occurs in the project, with its oldest run.
    fn all(transaction: &Transaction<'_>, project: ProjectId) -> rusqlite::Result<Vec<Self>> {
        let mut lanes = Vec::new();
        let mut above = i64::MAX;
        while let Some(lane) = transaction.row(READY_LANE, params![project.as_bytes(), above], |columns| {
            let priority = columns.get()?;
            Ok(Self { priority, runs: VecDeque::from([(columns.time()?, columns.id(RunId::from_slice)?)]) })
        })? {
            above = lane.priority.into();
            lanes.push(lane);
        }
        Ok(lanes)
    }
}

/// What time has made ready.
pub(super) const PASS_TIMERS: &str = "UPDATE ap_runs SET ready = 1, due = NULL WHERE number IN \
    (SELECT number FROM ap_runs WHERE passed = 1 AND due <= ? ORDER BY due LIMIT ?)";
// By name: the key of the table starts with the project too, and to SQLite that looks as good.

pub(super) const RUNNING: &str =
    "SELECT project, count(*) FROM ap_runs INDEXED BY ap_runs_lease WHERE lease IS NOT NULL GROUP BY project";
pub(super) const EXPIRED: &str = "SELECT project, priority, created, id FROM ap_runs WHERE lease <= ?";
pub(super) const READY_PROJECT: &str =
    "SELECT project FROM ap_runs INDEXED BY ap_runs_ready WHERE ready = 1 AND project > ? ORDER BY project LIMIT 1";
pub(super) const READY_LANE: &str = "SELECT priority, created, id FROM ap_runs INDEXED BY ap_runs_ready \
    WHERE ready = 1 AND project = ? AND priority < ? ORDER BY priority DESC, created, id LIMIT 1";
pub(super) const READY_RUNS: &str = "SELECT created, id FROM ap_runs INDEXED BY ap_runs_ready \
    WHERE ready = 1 AND project = ? AND priority = ? AND (created, id) > (?, ?) ORDER BY created, id LIMIT ?";
/// Timers that one claim looks at; the next one goes on.
const MOST_TIMERS: u32 = 4_096;
/// Ready runs that are read at once.
const READ_AHEAD: u32 = 64;
