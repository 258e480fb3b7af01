//! [`Group`]: acceptances and commits that share one transaction, each with a result of its own.
//!
//! Rows are locked and read first, what is refused is found in memory, and the rest is written with one statement.
//! What cannot be foreseen, such as an id that is taken, fails a statement; then the operations are repeated one by one.

use std::collections::{BTreeMap, BTreeSet};

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId, RunId},
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    link::{Failure, Transaction, Work},
    rows::{Change, NewRun, Stored},
    value::{Columns, Id},
    writer::{PendingAccept, PendingCommit, RunKey},
};
use crate::store::{Accept, Accepted, JournalEntry, RunChange, RunCommit};

/// Operations of different runs. Acceptances of one dedupe key follow the first of them.
#[derive(Default)]
pub(super) struct Group {
    accepts: Vec<PendingAccept>,
    commits: Vec<PendingCommit>,
    leaders: BTreeMap<(ProjectId, LookupHash), usize>,
    followers: Vec<(usize, PendingAccept)>,
}

/// What became of each, in the same order.
#[derive(Debug)]
pub(super) struct Results {
    now: Timestamp,
    accepts: Vec<Accepted>,
    commits: Vec<Result<(), StoreError>>,
}

impl Group {
    /// Whether this acceptance can be in a group: it is bounded by nothing but its flow and its dedupe key, and depends on no key
    /// that may be destroyed.
    pub(super) fn takes_accept(accept: &Accept) -> bool {
        let control = &accept.control;
        control.gate.is_none()
            && control.throttle.is_none()
            && control.rate_limit.is_none()
            && control.debounce.is_none()
            && accept.run.subject.is_none()
    }

    /// Whether this commit can be in a group: it concerns its own run only.
    pub(super) fn takes_commit(commit: &RunCommit) -> bool {
        commit.taken.is_empty()
            && commit.signals.is_empty()
            && commit.starts.is_empty()
            && commit.jobs.is_empty()
            && commit.job_ends.is_empty()
            && commit.values.is_empty()
    }

    pub(super) fn add_accept(&mut self, accept: PendingAccept) {
        if let Some(dedupe) = accept.operation.dedupe {
            let key = (accept.operation.run.project, dedupe.key);
            if let Some(leader) = self.leaders.get(&key) {
                self.followers.push((*leader, accept));
                return;
            }
            self.leaders.insert(key, self.accepts.len());
        }
        self.accepts.push(accept);
    }

    pub(super) fn add_commit(&mut self, commit: PendingCommit) {
        self.commits.push(commit);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.accepts.len() + self.commits.len()
    }

    /// Takes out what follows others, to be tried again.
    pub(super) fn take_followers(&mut self) -> Vec<PendingAccept> {
        std::mem::take(&mut self.followers).into_iter().map(|(_, accept)| accept).collect()
    }

    /// Takes out the operations, each in a group of its own.
    pub(super) fn split(&mut self) -> Vec<Self> {
        let accepts = std::mem::take(&mut self.accepts).into_iter();
        let accepts = accepts.map(|accept| Self { accepts: vec![accept], ..Self::default() });
        let commits = std::mem::take(&mut self.commits).into_iter();
        let commits = commits.map(|commit| Self { commits: vec![commit], ..Self::default() });
        accepts.chain(commits).collect()
    }

    /// Answers everybody with what became of his operation; returns followers whose leader did not settle their case.
    pub(super) fn answer(self, results: Results) -> Vec<PendingAccept> {
        let Results { now, accepts, commits } = results;
        let mut again = Vec::new();
        for (leader, follower) in self.followers {
            let run = self.accepts.get(leader).filter(|leader| {
                // One whose key has expired by now settles nothing.
                leader.operation.dedupe.is_some_and(|dedupe| dedupe.expires > now)
            });
            match (accepts.get(leader), run) {
                (Some(Accepted::Created { .. }), Some(leader)) => {
                    let first = leader.operation.run.id;
                    follower.answer(Ok(Accepted::Duplicate(first)));
                }
                (Some(Accepted::Duplicate(first)), _) => follower.answer(Ok(Accepted::Duplicate(*first))),
                _ => again.push(follower),
            }
        }
        self.accepts.into_iter().zip(accepts).for_each(|(accept, accepted)| accept.answer(Ok(accepted)));
        self.commits.into_iter().zip(commits).for_each(|(commit, result)| commit.answer(result));
        again
    }

    /// Answers everybody with an error.
    pub(super) fn fail(self, mut error: impl FnMut() -> StoreError) {
        self.accepts.into_iter().for_each(|accept| accept.answer(Err(error())));
        self.commits.into_iter().for_each(|commit| commit.answer(Err(error())));
        self.followers.into_iter().for_each(|(_, accept)| accept.answer(Err(error())));
    }

    /// Locks the runs of the commits; returns which commits hold their leases, and what those do to their runs.
    async fn lock_runs(&self, transaction: &mut Transaction<'_>) -> sqlx::Result<(Vec<bool>, Vec<Change>)> {
        let stored = transaction.lock_runs(self.commits.iter().map(|commit| key_of(&commit.operation))).await?;
        let held = |commit: &RunCommit| -> Option<&Stored> {
            stored.get(&key_of(commit)).filter(|stored| stored.is_held_under(&commit.lease))
        };
        let commits = || self.commits.iter().map(|commit| &commit.operation);
        let changes = commits().filter_map(|commit| Some((key_of(commit), commit.change, *held(commit)?)));
        Ok((commits().map(|commit| held(commit).is_some()).collect(), changes.collect()))
    }

    /// Finds out which acceptances make a run, and uses up their dedupe keys.
    async fn decide(&self, transaction: &mut Transaction<'_>) -> sqlx::Result<Vec<Accepted>> {
        let accepts: Vec<&Accept> = self.accepts.iter().map(|accept| &accept.operation).collect();
        let open = transaction.open_flows(&accepts).await?;
        let is_open = |accept: &Accept| {
            open.contains(&(accept.run.project, accept.run.flow, accept.run.version, accept.generation))
        };
        let fresh = transaction.use_keys(accepts.iter().copied().filter(|accept| is_open(accept))).await?;
        let settled = |accept: &Accept| match &accept.dedupe {
            None => true,
            Some(dedupe) => fresh.contains(&(accept.run.project, dedupe.key)),
        };
        let doubtful = accepts.iter().copied().filter(|accept| !settled(accept));
        let duplicates = transaction.find_deliveries(doubtful).await?;
        let result = |accept: &Accept| {
            let first = accept.dedupe.and_then(|dedupe| duplicates.get(&(accept.run.project, dedupe.key)));
            match first {
                Some(first) if !settled(accept) => Accepted::Duplicate(*first),
                _ if is_open(accept) && settled(accept) => Accepted::Created { leased: accept.lease.is_some() },
                _ => Accepted::Stale,
            }
        };
        Ok(accepts.into_iter().map(result).collect())
    }
}

#[async_trait]
impl Work for Group {
    type Output = Results;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Results, Failure> {
        let (held, mut changes) = self.lock_runs(transaction).await?;
        // What the end of a run does to others comes before anything else is locked.
        if changes.iter().any(|(_, change, stored)| matches!(change, RunChange::End { .. }) && stored.has_followers()) {
            transaction.change_runs(&changes).await?;
            changes.clear();
        }
        let commits = held.into_iter().map(|held| if held { Ok(()) } else { Err(StoreError::Fenced) }).collect();
        let accepts = if self.accepts.is_empty() { Vec::new() } else { self.decide(transaction).await? };
        let now = transaction.now;
        let done =
            self.commits.iter().zip(&commits).filter(|(_, result): &(_, &Result<(), StoreError>)| result.is_ok());
        let done: Vec<&PendingCommit> = done.map(|(commit, _)| commit).collect();
        let created =
            self.accepts.iter().zip(&accepts).filter(|(_, result)| matches!(result, Accepted::Created { .. }));
        let created: Vec<&PendingAccept> = created.map(|(accept, _)| accept).collect();

        let mut entries: Vec<(RunKey, &JournalEntry)> = Vec::new();
        for commit in &done {
            entries.extend(commit.operation.entries.iter().map(|entry| (key_of(&commit.operation), entry)));
        }
        let mut runs = Vec::new();
        for accept in &created {
            let Accept { run, control, entry, lease, .. } = &accept.operation;
            entries.push(((run.project, run.id), entry));
            let lease = lease.map(|lease| now.saturating_add(lease));
            runs.push(NewRun { run, lease, priority: control.priority, due: None, gate: None, passed: true });
        }
        let audit = done.iter().flat_map(|commit| &commit.audit);
        let audit: Vec<&AuditRecord> = audit.chain(created.iter().flat_map(|accept| &accept.audit)).collect();
        transaction.write(&changes, &runs, &entries, &audit).await?;
        transaction.insert_files(done.iter().flat_map(|commit| &commit.operation.files)).await?;
        Ok(Results { now, accepts, commits })
    }
}

impl Transaction<'_> {
    /// The flows of these acceptances that take runs now, with version and generation; they stay so until the end.
    pub(super) async fn open_flows(
        &mut self,
        accepts: &[&Accept],
    ) -> sqlx::Result<BTreeSet<(ProjectId, FlowId, FlowVersionId, u64)>> {
        let flows: BTreeSet<(ProjectId, FlowId)> =
            accepts.iter().map(|accept| (accept.run.project, accept.run.flow)).collect();
        let (projects, flows): (Vec<Id>, Vec<Id>) =
            flows.into_iter().map(|(project, flow)| (Id::from(project), Id::from(flow))).unzip();
        let rows = sqlx::query(OPEN_FLOWS).bind(projects).bind(flows).fetch_all(&mut *self.connection).await?;
        let read = |row: &PgRow| {
            let mut columns = Columns::of(row);
            Ok((columns.id()?, columns.id()?, columns.id()?, columns.count()?))
        };
        rows.iter().map(read).collect()
    }

    /// Remembers the deliveries of these acceptances; returns the keys that were free.
    pub(super) async fn use_keys<'a>(
        &mut self,
        accepts: impl Iterator<Item = &'a Accept>,
    ) -> sqlx::Result<BTreeSet<(ProjectId, LookupHash)>> {
        // In the order of the keys, so that two processes cannot wait for each other.
        let keys: BTreeMap<(ProjectId, LookupHash), (RunId, Timestamp)> = accepts
            .filter_map(|accept| {
                let dedupe = accept.dedupe?;
                Some(((accept.run.project, dedupe.key), (accept.run.id, dedupe.expires)))
            })
            .collect();
        if keys.is_empty() {
            return Ok(BTreeSet::new());
        }
        let rows = sqlx::query(USE_KEYS)
            .bind(keys.keys().map(|(project, _)| Id::from(*project)).collect::<Vec<_>>())
            .bind(keys.keys().map(|(_, key)| key.0.as_slice()).collect::<Vec<_>>())
            .bind(keys.values().map(|(run, _)| Id::from(*run)).collect::<Vec<_>>())
            .bind(keys.values().map(|(_, expires)| expires.as_micros()).collect::<Vec<_>>())
            .bind(self.now.as_micros())
            .fetch_all(&mut *self.connection)
            .await?;
        let read = |row: &PgRow| {
            let mut columns = Columns::of(row);
            Ok((columns.id()?, columns.hash()?))
        };
        rows.iter().map(read).collect()
    }

    /// The runs that deliveries with the keys of these acceptances have made.
    pub(super) async fn find_deliveries<'a>(
        &mut self,
        accepts: impl Iterator<Item = &'a Accept>,
    ) -> sqlx::Result<BTreeMap<(ProjectId, LookupHash), RunId>> {
        let keys: BTreeSet<(ProjectId, LookupHash)> =
            accepts.filter_map(|accept| Some((accept.run.project, accept.dedupe?.key))).collect();
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = sqlx::query(FIND_DELIVERIES)
            .bind(keys.iter().map(|(project, _)| Id::from(*project)).collect::<Vec<_>>())
            .bind(keys.iter().map(|(_, key)| key.0.as_slice()).collect::<Vec<_>>())
            .bind(self.now.as_micros())
            .fetch_all(&mut *self.connection)
            .await?;
        let read = |row: &PgRow| {
            let mut columns = Columns::of(row);
            Ok(((columns.id()?, columns.hash()?), columns.id()?))
        };
        rows.iter().map(read).collect()
    }
}

const fn key_of(commit: &RunCommit) -> RunKey {
    (commit.lease.project, commit.lease.run)
}

const OPEN_FLOWS: &str = "SELECT project, id, published, generation FROM ap_flows \
    WHERE (project, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[])) AND enabled AND published IS NOT NULL \
    ORDER BY project, id FOR SHARE";
const USE_KEYS: &str = "INSERT INTO ap_deliveries AS old (project, key, run, expires) \
    SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::bigint[]) \
    ON CONFLICT (project, key) DO UPDATE SET run = excluded.run, expires = excluded.expires WHERE old.expires <= $5 \
    RETURNING project, key";
const FIND_DELIVERIES: &str = "SELECT project, key, run FROM ap_deliveries \
    WHERE (project, key) IN (SELECT * FROM unnest($1::uuid[], $2::bytea[])) AND expires > $3";
