//! The fair claim. One process claims at a time, so that limits are exact over all of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use ap_core::{
    id::{ProjectId, RunId},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    link::{Failure, Lock, Transaction, read_all},
    rows::pairs,
    value::{Columns, Id},
    writer::{Operation, RunKey},
};
use crate::store::{ClaimRequest, Claimed, Lease};

pub(super) struct Claim(pub(super) ClaimRequest);

/// Order of claims within a project: priority, time of acceptance, id.
type Rank = (Reverse<i16>, Timestamp, RunId);
/// What a project would give next: load by weight, age of its oldest ready run, project.
type Standing = (u128, Timestamp, RunId, ProjectId);

/// What a project has to run.
#[derive(Default)]
struct Lane {
    running: u64,
    weight: u64,
    concurrency: Option<u64>,
    /// Ready and not running: limits may keep them.
    fresh: Ready,
    /// Running under an expired lease: they count as running already.
    expired: Ready,
}

/// Runs in the order in which they are claimed, and in the order of age.
#[derive(Default)]
struct Ready {
    order: BTreeSet<Rank>,
    ages: BTreeSet<(Timestamp, RunId)>,
}

struct Lanes {
    lanes: BTreeMap<ProjectId, Lane>,
    running: u64,
    total: u64,
    per_project: u64,
}

#[async_trait]
impl Operation for Claim {
    type Output = Vec<Claimed>;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Vec<Claimed>, Failure> {
        if self.0.limit == 0 {
            return Ok(Vec::new());
        }
        transaction.lock(&[Lock::Claim]).await?;
        transaction.pass_timers().await?;
        let mut lanes = transaction.lanes(&self.0).await?;
        transaction.fill(&mut lanes, self.0.limit).await?;
        let picked = lanes.pick(self.0.limit);
        Ok(transaction.claim(&picked, self.0.lease).await?)
    }
}

impl Transaction<'_> {
    /// Makes everything ready whose time has come.
    async fn pass_timers(&mut self) -> sqlx::Result<()> {
        loop {
            let query = sqlx::query(PASS_TIMERS).bind(self.now.as_micros()).bind(AT_ONCE);
            let passed = query.execute(&mut *self.connection).await?.rows_affected();
            if i64::try_from(passed).unwrap_or(AT_ONCE) < AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Every project that has something to claim: how much it runs, what of it has expired, and its oldest ready run.
    async fn lanes(&mut self, request: &ClaimRequest) -> sqlx::Result<Lanes> {
        let (total, per_project) = (u64::from(request.total), u64::from(request.per_project));
        let mut all = Lanes { lanes: BTreeMap::new(), running: 0, total, per_project };
        let rows = sqlx::query(OLDEST).fetch_all(&mut *self.connection).await?;
        for row in &rows {
            let mut columns = Columns::of(row);
            let lane = all.lanes.entry(columns.id()?).or_default();
            lane.fresh.ages.insert((columns.time()?, columns.id()?));
        }
        let expired = sqlx::query(EXPIRED).bind(self.now.as_micros()).fetch_all(&mut *self.connection).await?;
        for row in &expired {
            let (project, rank) = read_ready(row)?;
            all.lanes.entry(project).or_default().expired.insert(rank);
        }
        if all.lanes.is_empty() {
            return Ok(all);
        }
        let rows = sqlx::query(RUNNING).fetch_all(&mut *self.connection).await?;
        for row in &rows {
            let mut columns = Columns::of(row);
            let (project, running) = (columns.id()?, columns.count()?);
            all.running += running;
            if let Some(lane) = all.lanes.get_mut(&project) {
                lane.running = running;
            }
        }
        let projects: Vec<Id> = all.lanes.keys().copied().map(Id::from).collect();
        let rows = sqlx::query(SHARES).bind(projects).fetch_all(&mut *self.connection).await?;
        for row in &rows {
            let mut columns = Columns::of(row);
            if let Some(lane) = all.lanes.get_mut(&columns.id()?) {
                lane.weight = u64::from(columns.small()?);
                lane.concurrency = columns.value::<Option<i32>>()?.and_then(|runs| u64::try_from(runs).ok());
            }
        }
        Ok(all)
    }

    /// Reads what the best projects would give. No other can be picked: picking one makes only itself stand worse.
    async fn fill(&mut self, lanes: &mut Lanes, limit: u32) -> sqlx::Result<()> {
        let mut best: Vec<Standing> =
            lanes.lanes.keys().filter_map(|project| lanes.standing(*project)).map(|(standing, _)| standing).collect();
        best.sort_unstable();
        best.truncate(limit as usize);
        let best: BTreeSet<ProjectId> = best.into_iter().map(|(.., project)| project).collect();
        lanes.lanes.retain(|project, _| best.contains(project));
        let open: Vec<Id> = best.into_iter().filter(|project| lanes.is_open(*project)).map(Id::from).collect();
        if open.is_empty() {
            return Ok(());
        }
        for text in [READY_BY_RANK, READY_BY_AGE] {
            let query = sqlx::query(text).bind(&open).bind(i64::from(limit));
            for row in &query.fetch_all(&mut *self.connection).await? {
                let (project, rank) = read_ready(row)?;
                let Some(lane) = lanes.lanes.get_mut(&project) else { continue };
                if text == READY_BY_RANK {
                    lane.fresh.order.insert(rank);
                } else {
                    lane.fresh.ages.insert((rank.1, rank.2));
                }
            }
        }
        Ok(())
    }

    /// Leases what was picked, in that order. What somebody writes to this very moment is left for the next claim.
    async fn claim(&mut self, picked: &[RunKey], lease: std::time::Duration) -> sqlx::Result<Vec<Claimed>> {
        if picked.is_empty() {
            return Ok(Vec::new());
        }
        let (projects, runs) = pairs(picked.iter().copied());
        let rows = sqlx::query(CLAIM)
            .bind(projects)
            .bind(runs)
            .bind(self.now.as_micros())
            .bind(self.now.saturating_add(lease).as_micros())
            .fetch_all(&mut *self.connection)
            .await?;
        let claimed = read_all(&rows, |row| {
            let mut columns = Columns::of(row);
            let lease = Lease { project: columns.id()?, run: columns.id()?, epoch: columns.count()? };
            let (flow, version, subject) = (columns.id()?, columns.id()?, columns.maybe_id()?);
            Ok(((lease.project, lease.run), Claimed { lease, flow, version, subject }))
        })?;
        let claimed: BTreeMap<RunKey, Claimed> = claimed.into_iter().collect();
        Ok(picked.iter().filter_map(|key| claimed.get(key).copied()).collect())
    }
}

impl Ready {
    fn insert(&mut self, rank: Rank) {
        self.order.insert(rank);
        self.ages.insert((rank.1, rank.2));
    }

    /// Whether it was there.
    fn remove(&mut self, rank: Rank) -> bool {
        self.ages.remove(&(rank.1, rank.2));
        self.order.remove(&rank)
    }
}

impl Lanes {
    /// Whether a run of the project that does not run yet may be claimed.
    fn is_open(&self, project: ProjectId) -> bool {
        let most = |lane: &Lane| lane.concurrency.unwrap_or(self.per_project);
        self.running < self.total && self.lanes.get(&project).is_some_and(|lane| lane.running < most(lane))
    }

    /// Where the project stands, and the run it would give, as far as they were read.
    fn standing(&self, project: ProjectId) -> Option<(Standing, Option<Rank>)> {
        let lane = self.lanes.get(&project)?;
        let sets = [Some(&lane.expired), self.is_open(project).then_some(&lane.fresh)];
        let (created, run) = *sets.iter().flatten().filter_map(|ready| ready.ages.first()).min()?;
        let rank = sets.iter().flatten().filter_map(|ready| ready.order.first()).min().copied();
        // Exact enough to order any two loads: fractions whose denominators are at most 1,000 lie further apart.
        let load = (u128::from(lane.running) << 64) / u128::from(lane.weight.max(1));
        Some(((load, created, run, project), rank))
    }

    fn pick(&mut self, limit: u32) -> Vec<RunKey> {
        let projects: Vec<ProjectId> = self.lanes.keys().copied().collect();
        let standing = |lanes: &Self, project| lanes.standing(project).map(|(standing, _)| standing);
        let mut best: BTreeSet<Standing> = projects.into_iter().filter_map(|project| standing(self, project)).collect();
        let mut picked = Vec::new();
        while picked.len() < limit as usize
            && let Some(first) = best.pop_first()
        {
            let project = first.3;
            // A limit may have been reached since: then the project stands elsewhere, or nowhere.
            match self.standing(project) {
                Some((now_at, Some(rank))) if now_at == first => {
                    picked.push((project, rank.2));
                    self.take(project, rank);
                    best.extend(standing(self, project));
                }
                Some((now_at, Some(_))) => best.extend([now_at]),
                Some((_, None)) | None => {}
            }
        }
        picked
    }

    fn take(&mut self, project: ProjectId, rank: Rank) {
        let Some(lane) = self.lanes.get_mut(&project) else { return };
        if !lane.expired.remove(rank) {
            lane.fresh.remove(rank);
            lane.running += 1;
            self.running += 1;
        }
    }
}

fn read_ready(row: &PgRow) -> sqlx::Result<(ProjectId, Rank)> {
    let mut columns = Columns::of(row);
    let (project, priority) = (columns.id()?, columns.value()?);
    Ok((project, (Reverse(priority), columns.time()?, columns.id()?)))
}

const PASS_TIMERS: &str = "UPDATE ap_runs SET ready = passed, due = NULL WHERE (project, id) IN \
    (SELECT project, id FROM ap_runs WHERE due <= $1 ORDER BY due LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)";
/// From project to project through the index, whatever the number of their runs.
const OLDEST: &str = "WITH RECURSIVE lane AS ( \
        (SELECT project FROM ap_runs WHERE ready ORDER BY project LIMIT 1) \
        UNION ALL \
        SELECT (SELECT run.project FROM ap_runs AS run WHERE run.ready AND run.project > lane.project \
            ORDER BY run.project LIMIT 1) \
        FROM lane WHERE lane.project IS NOT NULL \
    ) SELECT lane.project, oldest.created, oldest.id FROM lane CROSS JOIN LATERAL ( \
        SELECT created, id FROM ap_runs AS run WHERE run.ready AND run.project = lane.project \
        ORDER BY created, id LIMIT 1) AS oldest";
const EXPIRED: &str = "SELECT project, priority, created, id FROM ap_runs \
    WHERE status = 'RUNNING' AND (lease IS NULL OR lease <= $1)";
const RUNNING: &str = "SELECT project, count(*) FROM ap_runs WHERE status = 'RUNNING' GROUP BY project";
const SHARES: &str = "SELECT id, weight, concurrency FROM ap_projects WHERE id = ANY ($1)";
const READY_BY_RANK: &str = "SELECT lane.project, run.priority, run.created, run.id FROM unnest($1::uuid[]) AS lane (project) \
    CROSS JOIN LATERAL (SELECT priority, created, id FROM ap_runs AS run WHERE run.ready AND run.project = lane.project \
        ORDER BY priority DESC, created, id LIMIT $2) AS run";
const READY_BY_AGE: &str = "SELECT lane.project, run.priority, run.created, run.id FROM unnest($1::uuid[]) AS lane (project) \
    CROSS JOIN LATERAL (SELECT priority, created, id FROM ap_runs AS run WHERE run.ready AND run.project = lane.project \
        ORDER BY created, id LIMIT $2) AS run";
const CLAIM: &str = "WITH picked AS ( \
        SELECT project, id FROM ap_runs WHERE (project, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[])) \
        AND (ready OR status = 'RUNNING' AND (lease IS NULL OR lease <= $3)) FOR NO KEY UPDATE SKIP LOCKED \
    ) UPDATE ap_runs AS run SET epoch = run.epoch + 1, status = 'RUNNING', lease = $4, ready = false, due = NULL \
    FROM picked WHERE run.project = picked.project AND run.id = picked.id \
    RETURNING run.project, run.id, run.epoch, run.flow, run.version, run.subject";
/// Timers passed in one go.
const AT_ONCE: i64 = 1_000;
