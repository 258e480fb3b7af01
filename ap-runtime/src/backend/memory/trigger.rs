//! Schedules and polls.

use std::collections::BTreeMap;

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, ProjectId},
    store::{Entity, Sealed, StoreError},
    time::Timestamp,
};

use super::State;
use crate::store::{Accepted, ClaimedTrigger, TriggerChange, TriggerFire};

/// The schedule or poll of a flow. A removed one stays, never due, so that its epoch goes on.
#[derive(Clone, Default)]
pub(super) struct Trigger {
    due: Option<Timestamp>,
    epoch: u64,
    leased_until: Option<Timestamp>,
    pub(super) state: Option<(u64, Sealed)>,
}

impl Trigger {
    /// When somebody can claim it, as far as its flow allows.
    fn ready(&self) -> Option<Timestamp> {
        let due = self.due?;
        Some(self.leased_until.map_or(due, |until| until.max(due)))
    }
}

impl State {
    /// Does what a flow write says about the flow's trigger.
    pub(super) fn change_trigger(&mut self, key: (ProjectId, FlowId), change: TriggerChange) {
        let (due, state) = match change {
            TriggerChange::Keep => return,
            TriggerChange::Remove if !self.triggers.contains_key(&key) => return,
            TriggerChange::Remove => (None, None),
            TriggerChange::Set { due, state } => (Some(due), state),
        };
        let former = self.triggers.remove(&key);
        let epoch = former.as_ref().map_or(0, |former| former.epoch.saturating_add(1));
        let kept = former.filter(|_| due.is_some()).and_then(|former| former.state);
        let state = state.map(|state| (epoch, state)).or(kept);
        self.triggers.insert(key, Trigger { due, epoch, leased_until: None, state });
    }

    /// Fences off whoever holds a schedule or poll.
    pub(super) fn free_triggers(&mut self) {
        for trigger in self.triggers.values_mut().filter(|trigger| trigger.leased_until.is_some()) {
            trigger.epoch = trigger.epoch.saturating_add(1);
            trigger.leased_until = None;
        }
    }

    pub(super) fn claim_triggers(
        &mut self,
        (limit, per_project): (u32, u32),
        until: Timestamp,
        now: Timestamp,
    ) -> Vec<ClaimedTrigger> {
        let due = |trigger: &Trigger| trigger.due.filter(|due| *due <= now);
        let mut ready: Vec<(Timestamp, ProjectId, FlowId)> = Vec::new();
        let mut places: BTreeMap<ProjectId, u32> = BTreeMap::new();
        for ((project, flow), trigger) in self.open_triggers() {
            match (due(trigger), trigger.leased_until.is_some_and(|until| until > now)) {
                (Some(_), true) => *places.entry(project).or_default() += 1,
                (Some(due), false) => ready.push((due, project, flow)),
                (None, _) => {}
            }
        }
        ready.sort_unstable();
        let ranked = ready.into_iter().map(|(due, project, flow)| {
            let place = places.entry(project).or_default();
            *place = place.saturating_add(1);
            (*place, due, project, flow)
        });
        let mut ranked: Vec<_> = ranked.filter(|(place, ..)| *place <= per_project).collect();
        ranked.sort_unstable();
        ranked.truncate(limit as usize);
        let mut ready: Vec<_> = ranked.into_iter().map(|(_, due, project, flow)| (due, project, flow)).collect();
        ready.sort_unstable();
        let claim = |(due, project, flow)| {
            let stored = self.flows.get(&(project, flow))?;
            let (version, generation) = (stored.published?, stored.generation);
            let trigger = self.triggers.get_mut(&(project, flow))?;
            trigger.epoch = trigger.epoch.saturating_add(1);
            trigger.leased_until = Some(until);
            let (epoch, state) = (trigger.epoch, trigger.state.clone());
            Some(ClaimedTrigger { project, flow, version, generation, due, epoch, state })
        };
        ready.into_iter().filter_map(claim).collect()
    }

    /// When a trigger can be claimed next, after `now`.
    pub(super) fn next_trigger(&self, now: Timestamp) -> Option<Timestamp> {
        self.open_triggers().filter_map(|(_, trigger)| trigger.ready()).filter(|ready| *ready > now).min()
    }

    pub(super) fn fire_trigger(&mut self, fire: TriggerFire, now: Timestamp) -> Result<Vec<Accepted>, StoreError> {
        let key = (fire.project, fire.flow);
        let held = |trigger: &&Trigger| trigger.epoch == fire.epoch && trigger.leased_until.is_some();
        self.triggers.get(&key).filter(held).ok_or(StoreError::Fenced)?;
        if fire.runs.iter().any(|(accept, _)| self.runs.contains_key(&(fire.project, accept.run.id))) {
            return Err(StoreError::AlreadyExists { entity: Entity::Run });
        }
        self.check_audit(fire.runs.iter().flat_map(|(_, audit)| audit))?;
        self.check_subjects(fire.runs.iter().map(|(accept, _)| accept))?;
        let answers = fire.runs.into_iter().map(|(accept, audit)| match self.terms(&accept, false, now) {
            Ok(terms) => {
                self.audit.extend(audit.into_iter().map(|record: AuditRecord| ((record.scope, record.id), record)));
                Accepted::Created { leased: self.create_run(accept, terms, now) }
            }
            Err(refused) => refused,
        });
        let answers = answers.collect();
        if let Some(trigger) = self.triggers.get_mut(&key) {
            trigger.due = fire.due;
            trigger.leased_until = None;
            if let Some(state) = fire.state {
                trigger.state = Some((fire.epoch, state));
            }
        }
        Ok(answers)
    }

    /// Triggers whose flows may start runs.
    fn open_triggers(&self) -> impl Iterator<Item = ((ProjectId, FlowId), &Trigger)> {
        let open = |key: &(ProjectId, FlowId)| {
            self.flows.get(key).is_some_and(|flow| flow.enabled && flow.published.is_some())
        };
        self.triggers.iter().map(|(key, trigger)| (*key, trigger)).filter(move |(key, _)| open(key))
    }
}
