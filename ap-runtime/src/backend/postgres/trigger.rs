//! Schedules and polls.

use std::time::Duration;

use ap_core::{
    id::{FlowId, ProjectId},
    store::{Entity, StoreError},
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    accept::locks,
    link::{Failure, Lock, Transaction, read_all},
    value::{Columns, Id, signed},
    writer::{Operation, audit_bytes},
};
use crate::store::{Accepted, ClaimedTrigger, TriggerChange, TriggerFire};

impl Transaction<'_> {
    /// Does what a flow write says about the flow's trigger. A removed one stays, never due, so that its epoch goes on.
    pub(super) async fn change_trigger(
        &mut self,
        project: ProjectId,
        flow: FlowId,
        change: &TriggerChange,
    ) -> sqlx::Result<()> {
        let query = match change {
            TriggerChange::Keep => return Ok(()),
            TriggerChange::Remove => sqlx::query(REMOVE).bind(Id::from(project)).bind(Id::from(flow)),
            TriggerChange::Set { due, state } => sqlx::query(SET)
                .bind(Id::from(project))
                .bind(Id::from(flow))
                .bind(due.as_micros())
                .bind(state.as_ref().map(|state| state.as_bytes().as_ref())),
        };
        query.execute(&mut *self.connection).await.map(|_| ())
    }
}

pub(super) struct ClaimTriggers {
    pub(super) limit: u32,
    pub(super) per_project: u32,
    pub(super) lease: Duration,
}

#[async_trait]
impl Operation for ClaimTriggers {
    type Output = Vec<ClaimedTrigger>;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Vec<ClaimedTrigger>, Failure> {
        let rows = sqlx::query(CLAIM)
            .bind(transaction.now.as_micros())
            .bind(i64::from(self.limit))
            .bind(transaction.now.saturating_add(self.lease).as_micros())
            .bind(i64::from(self.per_project))
            .fetch_all(&mut *transaction.connection)
            .await?;
        let mut claimed = read_all(&rows, read_claimed)?;
        claimed.sort_unstable_by_key(|trigger| (trigger.due, trigger.project, trigger.flow));
        Ok(claimed)
    }
}

pub(super) struct Fire(pub(super) TriggerFire);

#[async_trait]
impl Operation for Fire {
    type Output = Vec<Accepted>;

    fn bytes(&self) -> usize {
        let runs = self.0.runs.iter();
        runs.map(|(accept, audit)| accept.entry.sealed.as_bytes().len() + audit_bytes(audit)).sum()
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Vec<Accepted>, Failure> {
        let TriggerFire { project, flow, epoch, due, state, runs } = &self.0;
        let wanted: Vec<Lock> = runs.iter().flat_map(|(accept, _)| locks(accept)).collect();
        transaction.lock(&wanted).await?;
        // The flow before its trigger, as those who write the flow do.
        let (project, flow) = (Id::from(*project), Id::from(*flow));
        let query = sqlx::query("SELECT 1 FROM ap_flows WHERE project = $1 AND id = $2 FOR SHARE");
        query.bind(project).bind(flow).execute(&mut *transaction.connection).await?;
        let held = sqlx::query(HELD).bind(project).bind(flow).bind(signed(*epoch));
        if held.fetch_optional(&mut *transaction.connection).await?.is_none() {
            return Err(StoreError::Fenced.into());
        }
        let ids: Vec<Id> = runs.iter().map(|(accept, _)| Id::from(accept.run.id)).collect();
        let known = sqlx::query("SELECT 1 FROM ap_runs WHERE project = $1 AND id = ANY ($2) LIMIT 1");
        if known.bind(project).bind(ids).fetch_optional(&mut *transaction.connection).await?.is_some() {
            return Err(StoreError::AlreadyExists { entity: Entity::Run }.into());
        }
        let mut answers = Vec::with_capacity(runs.len());
        let mut records = Vec::new();
        for (accept, audit) in runs {
            let answer = transaction.accept(accept, false).await?;
            if matches!(answer, Accepted::Created { .. }) {
                records.extend(audit);
            }
            answers.push(answer);
        }
        transaction.insert_audit(records).await?;
        sqlx::query(LET_GO)
            .bind(project)
            .bind(flow)
            .bind(due.map(ap_core::time::Timestamp::as_micros))
            .bind(state.as_ref().map(|state| state.as_bytes().as_ref()))
            .execute(&mut *transaction.connection)
            .await?;
        Ok(answers)
    }
}

fn read_claimed(row: &PgRow) -> sqlx::Result<ClaimedTrigger> {
    let mut columns = Columns::of(row);
    let (project, flow, version) = (columns.id()?, columns.id()?, columns.id()?);
    let (generation, due, epoch) = (columns.count()?, columns.time()?, columns.count()?);
    let state = match columns.value::<Option<i64>>()? {
        Some(epoch) => Some((u64::try_from(epoch).unwrap_or(0), columns.sealed()?)),
        None => None,
    };
    Ok(ClaimedTrigger { project, flow, version, generation, due, epoch, state })
}

const SET: &str = "INSERT INTO ap_triggers AS old (project, flow, due, epoch, state, state_epoch) \
    VALUES ($1, $2, $3, 0, $4, CASE WHEN $4::bytea IS NULL THEN NULL ELSE 0 END) \
    ON CONFLICT (project, flow) DO UPDATE SET due = excluded.due, epoch = old.epoch + 1, lease = NULL, \
    state = coalesce(excluded.state, old.state), \
    state_epoch = CASE WHEN excluded.state IS NULL THEN old.state_epoch ELSE old.epoch + 1 END";
const REMOVE: &str = "UPDATE ap_triggers SET due = NULL, epoch = epoch + 1, lease = NULL, state = NULL, state_epoch = NULL \
    WHERE project = $1 AND flow = $2";
/// Each due trigger has a place in its project: behind those that are leased, and those that are due for longer.
const CLAIM: &str = "WITH due AS ( \
        SELECT one.project, one.flow, one.due, coalesce(one.lease > $1, false) AS leased FROM ap_triggers AS one \
        JOIN ap_flows AS flow ON flow.project = one.project AND flow.id = one.flow \
        WHERE one.due <= $1 AND flow.enabled AND flow.published IS NOT NULL \
    ), ranked AS ( \
        SELECT project, flow, leased, count(*) FILTER (WHERE leased) OVER (PARTITION BY project) \
        + row_number() OVER (PARTITION BY project, leased ORDER BY due, flow) AS place FROM due \
    ), picked AS ( \
        SELECT waiting.project, waiting.flow, flow.published, flow.generation FROM ranked \
        JOIN ap_triggers AS waiting ON waiting.project = ranked.project AND waiting.flow = ranked.flow \
        JOIN ap_flows AS flow ON flow.project = waiting.project AND flow.id = waiting.flow \
        WHERE NOT ranked.leased AND ranked.place <= $4 \
        AND waiting.due <= $1 AND (waiting.lease IS NULL OR waiting.lease <= $1) \
        AND flow.enabled AND flow.published IS NOT NULL \
        ORDER BY ranked.place, waiting.due, waiting.project, waiting.flow LIMIT $2 \
        FOR NO KEY UPDATE OF waiting SKIP LOCKED \
    ) UPDATE ap_triggers AS claimed SET epoch = claimed.epoch + 1, lease = $3 FROM picked \
    WHERE claimed.project = picked.project AND claimed.flow = picked.flow \
    RETURNING claimed.project, claimed.flow, picked.published, picked.generation, claimed.due, claimed.epoch, \
    claimed.state_epoch, claimed.state";
const HELD: &str = "SELECT 1 FROM ap_triggers WHERE project = $1 AND flow = $2 AND epoch = $3 AND lease IS NOT NULL \
    FOR NO KEY UPDATE";
const LET_GO: &str = "UPDATE ap_triggers SET due = $3, lease = NULL, state = coalesce($4, state), \
    state_epoch = CASE WHEN $4::bytea IS NULL THEN state_epoch ELSE epoch END WHERE project = $1 AND flow = $2";
