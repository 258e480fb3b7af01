//! Schedules and polls.

use std::time::Duration;

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId},
    store::{Sealed, StoreError},
    time::Timestamp,
};
use rusqlite::params;

use super::{
    accept::accept,
    project::audit_bytes,
    row::{Columns, uint},
    run::entry_bytes,
    writer::{Failure, Operation, Transaction},
};
use crate::store::{Accept, Accepted, ClaimedTrigger, FlowRecord, TriggerChange, TriggerFire};

/// Does what a flow write says about the flow's trigger. A removed one stays, never due, so that its epoch goes on.
pub(super) fn change(transaction: &Transaction<'_>, flow: &FlowRecord, change: &TriggerChange) -> rusqlite::Result<()> {
    let (project, id) = (flow.project.as_bytes(), flow.id.as_bytes());
    let active = flow.enabled && flow.published.is_some();
    match change {
        TriggerChange::Keep => {
            transaction.run(
                "UPDATE ap_triggers SET active = ?1 WHERE project = ?2 AND flow = ?3 AND active <> ?1",
                params![active, project, id],
            )?;
        }
        TriggerChange::Remove => {
            transaction.run(
                "UPDATE ap_triggers SET active = ?, due = NULL, epoch = epoch + 1, lease = NULL, state = NULL, \
                 state_epoch = NULL WHERE project = ? AND flow = ?",
                params![active, project, id],
            )?;
        }
        TriggerChange::Set { due, state } => {
            transaction.run(
                "INSERT INTO ap_triggers (project, flow, active, due, epoch, state, state_epoch) \
                 VALUES (?1, ?2, ?3, ?4, 0, ?5, CASE WHEN ?5 IS NULL THEN NULL ELSE 0 END) \
                 ON CONFLICT (project, flow) DO UPDATE SET active = excluded.active, due = excluded.due, \
                 epoch = epoch + 1, lease = NULL, state = coalesce(excluded.state, state), \
                 state_epoch = CASE WHEN excluded.state IS NULL THEN state_epoch ELSE epoch + 1 END",
                params![project, id, active, due.as_micros(), state.as_ref().map(bytes_of)],
            )?;
        }
    }
    Ok(())
}

/// Claims what is due and not leased.
pub(super) struct ClaimTriggers {
    pub(super) limit: u32,
    pub(super) per_project: u32,
    pub(super) lease: Duration,
}

impl Operation for ClaimTriggers {
    type Output = Vec<ClaimedTrigger>;

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Vec<ClaimedTrigger>, Failure> {
        let now = transaction.now;
        let bounds = params![now.as_micros(), self.per_project, self.limit];
        let mut claimed = transaction.rows(DUE_TRIGGERS, bounds, read_claimed)?;
        claimed.sort_unstable_by_key(|trigger| (trigger.due, trigger.project, trigger.flow));
        for trigger in &claimed {
            transaction.run(
                "UPDATE ap_triggers SET epoch = epoch + 1, lease = ? WHERE project = ? AND flow = ?",
                params![
                    now.saturating_add(self.lease).as_micros(),
                    trigger.project.as_bytes(),
                    trigger.flow.as_bytes()
                ],
            )?;
        }
        Ok(claimed)
    }
}

/// Creates the runs of a claimed trigger and lets go of it.
pub(super) struct FireTrigger(pub(super) TriggerFire);

impl Operation for FireTrigger {
    type Output = Vec<Accepted>;

    fn bytes(&self) -> usize {
        let run = |(accept, audit): &(Accept, Vec<AuditRecord>)| {
            entry_bytes(std::slice::from_ref(&accept.entry)) + audit_bytes(audit)
        };
        self.0.state.as_ref().map_or(0, |state| state.as_bytes().len()) + self.0.runs.iter().map(run).sum::<usize>()
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Vec<Accepted>, Failure> {
        let TriggerFire { project, flow, epoch, due, state, runs } = &self.0;
        let held = transaction.run(
            "UPDATE ap_triggers SET due = ?1, lease = NULL, state = coalesce(?2, state), \
             state_epoch = CASE WHEN ?2 IS NULL THEN state_epoch ELSE epoch END \
             WHERE project = ?3 AND flow = ?4 AND epoch = ?5 AND lease IS NOT NULL",
            params![
                due.map(Timestamp::as_micros),
                state.as_ref().map(bytes_of),
                project.as_bytes(),
                flow.as_bytes(),
                uint(*epoch)?
            ],
        )?;
        if held == 0 {
            return Err(StoreError::Fenced.into());
        }
        let answer = |(run, audit): &(Accept, Vec<AuditRecord>)| match accept(transaction, run, audit) {
            // The trigger has been let go of, so a refusal undoes the transaction.
            Err(Failure::Refused(error)) => Err(Failure::Undone(error)),
            answer => answer,
        };
        runs.iter().map(answer).collect()
    }
}

fn bytes_of(sealed: &Sealed) -> &[u8] {
    sealed.as_bytes().as_ref()
}

fn read_claimed(columns: &mut Columns<'_>) -> rusqlite::Result<ClaimedTrigger> {
    Ok(ClaimedTrigger {
        project: columns.id(ProjectId::from_slice)?,
        flow: columns.id(FlowId::from_slice)?,
        version: columns.id(FlowVersionId::from_slice)?,
        generation: columns.uint()?,
        due: columns.time()?,
        epoch: columns.uint()?,
        state: match columns.get::<Option<i64>>()? {
            Some(epoch) => Some((u64::try_from(epoch).map_err(super::row::decode)?, columns.sealed()?)),
            None => None,
        },
    })
}

/// Due triggers, each with its place in its project: behind those that are leased, and those that are due for longer. The
/// epoch is the one that the claim makes.
pub(super) const DUE_TRIGGERS: &str = "WITH due AS ( \
        SELECT project, flow, due, coalesce(lease, 0) > ?1 AS leased FROM ap_triggers WHERE active = 1 AND due <= ?1 \
    ), ranked AS ( \
        SELECT project, flow, leased, sum(leased) OVER (PARTITION BY project) \
        + row_number() OVER (PARTITION BY project, leased ORDER BY due, flow) AS place FROM due \
    ) SELECT held.project, held.flow, flow.published, flow.generation, held.due, held.epoch + 1, held.state_epoch, \
    held.state FROM ranked JOIN ap_triggers AS held ON held.project = ranked.project AND held.flow = ranked.flow \
    JOIN ap_flows AS flow ON flow.project = held.project AND flow.id = held.flow \
    WHERE ranked.leased = 0 AND ranked.place <= ?2 \
    ORDER BY ranked.place, held.due, held.project, held.flow LIMIT ?3";
