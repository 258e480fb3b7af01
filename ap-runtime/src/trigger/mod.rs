//! Schedules and polls: what starts runs by time.
//!
//! The store hands out a trigger that is due to one worker at a time, under an epoch. What it comes to, its runs, its cursor and
//! when it is due next, is one transaction under that epoch: a crash before it repeats the look and nothing else, and a worker
//! that was replaced meanwhile is refused. A tick, and an item with a key, is a delivery with an identity besides, so that not
//! even a defect of the order of things makes two runs of it.

mod poll;
mod schedule;

use std::{sync::Arc, time::Duration};

use ap_auth::{
    audit::AuditEvent,
    principal::{Actor, Identity},
};
use ap_core::{
    audit::AuditRecord,
    flow::{TriggerDefinition, TriggerKind, ValidFlow},
    store::StoreError,
    time::Timestamp,
};
use ap_crypto::vault::TenantKeys;
use serde_json::{Value, json};
use tokio::sync::Mutex;

pub(crate) use self::schedule::Schedule;
use crate::{
    accept::RunStart,
    flow_control::{Origin, control_of},
    journal::RunError,
    kernel::Kernel,
    store::{Accept, Accepted, ClaimedTrigger, Dedupe, TriggerChange, TriggerFire},
    subject::{SharedSubjects, subject_of},
};

/// How long a trigger is claimed: longer than anything it does.
pub(crate) const TRIGGER_LEASE: Duration = Duration::from_secs(120);

/// What becomes of the trigger row of a flow whose published version has this trigger. A poll goes on where an earlier version
/// stood, if it polls the same.
pub(crate) fn change_for(trigger: &TriggerDefinition, now: Timestamp) -> TriggerChange {
    let due = match &trigger.kind {
        TriggerKind::Schedule(settings) => {
            Schedule::new(settings, trigger).ok().and_then(|schedule| schedule.next(now))
        }
        TriggerKind::Piece(_) => Some(now),
        _ => None,
    };
    due.map_or(TriggerChange::Remove, |due| TriggerChange::Set { due, state: None })
}

/// A claimed trigger with what is needed to fire it.
struct Firing<'a> {
    kernel: &'a Arc<Kernel>,
    claimed: ClaimedTrigger,
    flow: Arc<ValidFlow>,
    keys: Arc<TenantKeys>,
    /// Keys of the data subjects that its runs are about.
    subjects: Mutex<SharedSubjects>,
}

/// Fires a trigger; returns whether there are runs to be claimed.
///
/// # Errors
/// [`RunError`]: nothing happened, and the trigger is claimed again when its lease is over.
///
/// # Cancel safety
/// Dropping the future is like a crash: the transaction happens or not.
pub(crate) async fn fire(kernel: &Arc<Kernel>, claimed: ClaimedTrigger) -> Result<bool, RunError> {
    let keys = kernel.keyring.tenant(claimed.project.into()).await?;
    let flow = kernel.flow_version(claimed.version, claimed.project).await?;
    let firing = Firing { kernel, claimed, flow, keys, subjects: Mutex::default() };
    let trigger = firing.flow.trigger().clone();
    let fired = match &trigger.kind {
        TriggerKind::Schedule(settings) => {
            firing.schedule(&Schedule::new(settings, &trigger).map_err(broken)?, settings).await?
        }
        TriggerKind::Piece(settings) => firing.poll(settings).await?,
        // The version has neither: nothing is due any more.
        _ => firing.fired(None),
    };
    firing.commit(fired).await
}

fn broken(diagnostic: ap_core::flow::Diagnostic) -> RunError {
    RunError::Flow(ap_core::flow::Diagnostics(vec![diagnostic]))
}

impl Firing<'_> {
    /// What a schedule comes to: a run for each tick that makes one.
    async fn schedule(
        &self,
        schedule: &Schedule,
        settings: &ap_core::flow::ScheduleSettings,
    ) -> Result<TriggerFire, RunError> {
        // The store's clock said that it is due; ours may be behind.
        let now = self.kernel.clock.now().max(self.claimed.due);
        let mut fired = self.fired(schedule.next(now));
        for tick in schedule.ticks(self.claimed.due, now, settings.catch_up) {
            let payload = json!({
                "scheduledAt": tick,
                "firedAt": self.kernel.clock.now(),
                "timezone": schedule.timezone(),
            });
            let identity: [&[u8]; 2] = [b"tick", &tick.as_micros().to_be_bytes()];
            fired.runs.push(self.run(payload, Some(identity), Origin::Schedule(settings.overlap)).await?);
        }
        Ok(fired)
    }

    /// Nothing but when it is due next.
    fn fired(&self, due: Option<Timestamp>) -> TriggerFire {
        let ClaimedTrigger { project, flow, epoch, .. } = self.claimed;
        TriggerFire { project, flow, epoch, due, state: None, runs: Vec::new() }
    }

    /// A run to be; `identity` makes it a duplicate of an earlier one.
    async fn run(
        &self,
        payload: Value,
        identity: Option<[&[u8]; 2]>,
        origin: Origin,
    ) -> Result<(Accept, Vec<AuditRecord>), RunError> {
        let ClaimedTrigger { project, flow, version, generation, .. } = self.claimed;
        let control = control_of(&self.flow, flow, &self.keys, &payload, origin)
            .map_err(|error| RunError::Encoding(serde::ser::Error::custom(error)))?;
        let dedupe = identity.map(|[kind, id]| Dedupe {
            key: self.keys.lookup_hash("delivery", &[flow.as_bytes(), kind, id]),
            expires: self.kernel.clock.now().saturating_add(self.kernel.webhook_options.dedupe_window()),
        });
        let subject = match subject_of(&self.flow, &payload, origin).map_err(serde::ser::Error::custom) {
            Ok(Some(subject)) => {
                let mut shared = self.subjects.lock().await;
                Some(self.kernel.subject_for(&self.keys, project, &subject, &mut shared).await?)
            }
            Ok(None) => None,
            Err(error) => return Err(RunError::Encoding(error)),
        };
        let (parent, payload) = (None, Arc::new(payload));
        let start = RunStart { project, flow, version, generation, dedupe, control, parent, payload, subject };
        let (_, submission) = self.kernel.prepare_run(start, Arc::clone(&self.flow), &self.keys, |at| {
            AuditEvent::by(&Actor::new(Identity::Engine), "run.start", project.into(), at)
        })?;
        Ok((submission.accept, submission.audit))
    }

    /// Makes it durable: all of it, under the epoch of the claim, or nothing.
    async fn commit(&self, fired: TriggerFire) -> Result<bool, RunError> {
        let ClaimedTrigger { project, flow, .. } = self.claimed;
        let mut wait = FIRST_WAIT;
        let answers = loop {
            match self.kernel.backend.fire_trigger(fired.clone()).await {
                Ok(answers) => break answers,
                // Somebody else has it by now, or it was fired by an attempt that seemed to fail.
                Err(StoreError::Fenced) => return Ok(!fired.runs.is_empty()),
                Err(error) if error.is_retryable() && wait <= LONGEST_WAIT => {
                    tracing::warn!(%flow, %error, "firing a trigger is tried again");
                }
                Err(error) => return Err(error.into()),
            }
            self.kernel.clock.sleep_until(self.kernel.clock.now().saturating_add(wait)).await;
            wait *= 2;
        };
        for answer in &answers {
            let reason = match answer {
                Accepted::Created { .. } | Accepted::Duplicate(_) => continue,
                Accepted::Limited { .. } => "rate limit",
                Accepted::Skipped => "skipped: an earlier run has not ended",
                Accepted::Stale => "the flow was changed meanwhile",
            };
            self.kernel.denials.trigger(project, flow, reason);
        }
        Ok(answers.iter().any(|answer| matches!(answer, Accepted::Created { .. })))
    }
}

/// First wait between two attempts to commit.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two attempts to commit; all of them together stay well below the lease.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
