//! Runs and their journals.

use std::collections::{BTreeMap, BTreeSet};

use ap_core::{
    audit::AuditRecord,
    id::{JobId, ProjectId, RunId, SignalId},
    run::RunStatus,
    store::{Entity, LookupHash, Page, PageRequest, Revision, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::{MemoryBackend, RunKey, State, claim::Place, page_of};
use crate::{
    backend::{can_reopen, check_commit},
    store::{Gate, JournalEntry, Lease, RunChange, RunCommit, RunFilter, RunRecord, RunStore, SignalRecord, Signaled},
};

/// A run with everything that is its own.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) record: RunRecord,
    pub(super) epoch: u64,
    pub(super) leased_until: Option<Timestamp>,
    pub(super) journal: BTreeMap<u64, JournalEntry>,
    pub(super) priority: i16,
    pub(super) gate: Option<Gate>,
    /// Whether it is past its gate, or has none.
    pub(super) past_gate: bool,
    /// Before when it is not ready, while it is queued; when it is ready, while it is paused.
    pub(super) due: Option<Timestamp>,
    /// Signals that no commit has taken.
    pub(super) signals: BTreeMap<SignalId, SignalRecord>,
    /// Slots that have been used.
    pub(super) slots: BTreeSet<LookupHash>,
    /// Jobs it holds.
    pub(super) jobs: BTreeSet<JobId>,
    /// Where the index has it.
    pub(super) place: Place,
}

impl Run {
    pub(super) fn new(record: RunRecord, journal: BTreeMap<u64, JournalEntry>) -> Self {
        Self {
            record,
            epoch: 0,
            leased_until: None,
            journal,
            priority: 0,
            gate: None,
            past_gate: true,
            due: None,
            signals: BTreeMap::new(),
            slots: BTreeSet::new(),
            jobs: BTreeSet::new(),
            place: Place::Out,
        }
    }
}

#[async_trait]
impl RunStore for MemoryBackend {
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_commit(&commit)?;
        let now = self.clock.now();
        let mut state = self.lock();
        state.check_commit(&commit)?;
        let records: Vec<AuditRecord> =
            audit.iter().chain(commit.starts.iter().flat_map(|(_, audit)| audit)).cloned().collect();
        state.append_audit(&records)?;
        state.apply(commit, now);
        Ok(())
    }

    async fn reopen(
        &self,
        id: RunId,
        project: ProjectId,
        entry: JournalEntry,
        used: &[LookupHash],
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let key = (project, id);
        let run = state.runs.get(&key).ok_or(StoreError::NotFound { entity: Entity::Run })?;
        let next = run.journal.last_key_value().map_or(0, |(seq, _)| seq.saturating_add(1));
        if !can_reopen(run.record.status) || entry.seq != next {
            return Err(StoreError::Conflict { entity: Entity::Run, current: Revision(0) });
        }
        let past_gate = run.gate.is_none_or(|gate| state.has_room(project, &gate, 0));
        state.append_audit(audit)?;
        state.change_run(key, now, |run| {
            run.journal.insert(entry.seq, entry);
            run.record.status = RunStatus::Queued;
            run.record.finished = None;
            run.past_gate = past_gate;
            run.slots = used.iter().copied().collect();
        });
        state.live.insert(key);
        state.enter_gate(key);
        Ok(())
    }

    async fn signal(&self, signal: SignalRecord, audit: &[AuditRecord]) -> Result<Signaled, StoreError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let signaled = state.judge_signal(&signal)?;
        if signaled == Signaled::Delivered {
            state.append_audit(audit)?;
            state.deliver(signal, now);
        }
        Ok(signaled)
    }

    async fn signals(&self, run: RunId, project: ProjectId) -> Result<Vec<SignalRecord>, StoreError> {
        let state = self.lock();
        Ok(state.runs.get(&(project, run)).map(|run| run.signals.values().cloned().collect()).unwrap_or_default())
    }

    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError> {
        let state = self.lock();
        state.runs.get(&(project, id)).map(|run| run.record.clone()).ok_or(StoreError::NotFound { entity: Entity::Run })
    }

    async fn runs(
        &self,
        filter: RunFilter,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        let state = self.lock();
        let from = RunId::from_u128(page.start_after().unwrap_or(0));
        let last = RunId::from_u128(u128::MAX);
        let ids: Box<dyn Iterator<Item = RunId> + '_> = match filter.parent {
            Some(parent) => {
                let range = (project, parent, from)..=(project, parent, last);
                Box::new(state.children.range(range).map(|(.., id)| *id))
            }
            None if filter.live => Box::new(state.live.range((project, from)..=(project, last)).map(|(_, id)| *id)),
            None => Box::new(state.runs.range((project, from)..=(project, last)).map(|((_, id), _)| *id)),
        };
        let wanted = |run: &&RunRecord| {
            filter.flow.is_none_or(|flow| run.flow == flow) && !(filter.live && run.status.is_terminal())
        };
        let rows = ids.filter_map(|id| state.runs.get(&(project, id))).map(|run| &run.record).filter(wanted);
        Ok(page_of(rows.map(|run| (run.id.as_u128(), run)), page))
    }

    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError> {
        let state = self.lock();
        let run = state.runs.get(&(project, id)).ok_or(StoreError::NotFound { entity: Entity::Run })?;
        Ok(run.journal.values().cloned().collect())
    }
}

impl State {
    /// The run, if this lease is the right to write to it. An expired lease is held until somebody claims the run.
    pub(super) fn held(&self, lease: &Lease) -> Option<&Run> {
        let run = self.runs.get(&(lease.project, lease.run))?;
        (run.epoch == lease.epoch && run.record.status == RunStatus::Running).then_some(run)
    }

    /// Checks everything about a commit but its audit records.
    fn check_commit(&self, commit: &RunCommit) -> Result<(), StoreError> {
        let taken = |entity| Err(StoreError::AlreadyExists { entity });
        let project = commit.lease.project;
        let run = self.held(&commit.lease).ok_or(StoreError::Fenced)?;
        if commit.entries.iter().any(|entry| run.journal.contains_key(&entry.seq)) {
            return taken(Entity::JournalEntry);
        }
        if commit.files.iter().any(|file| self.files.contains_key(&(project, file.id))) {
            return taken(Entity::File);
        }
        if commit.jobs.iter().any(|job| self.jobs.contains_key(&(project, job.id))) {
            return taken(Entity::Job);
        }
        self.judge_values(&commit.values, project, commit.value_limit)?;
        for (start, _) in &commit.starts {
            if !self.is_open(start) {
                let current = self.flows.get(&(project, start.run.flow)).map_or(Revision(0), |flow| flow.revision);
                return Err(StoreError::Conflict { entity: Entity::Flow, current });
            }
        }
        if commit.starts.iter().any(|(start, _)| self.runs.contains_key(&(project, start.run.id))) {
            return taken(Entity::Run);
        }
        commit.signals.iter().try_for_each(|signal| self.judge_signal(signal).map(|_| ()))
    }

    /// Does what a checked commit says.
    fn apply(&mut self, commit: RunCommit, now: Timestamp) {
        let key = (commit.lease.project, commit.lease.run);
        self.change_run(key, now, |run| {
            run.journal.extend(commit.entries.into_iter().map(|entry| (entry.seq, entry)));
            for id in &commit.taken {
                run.signals.remove(id);
            }
        });
        self.files.extend(commit.files.into_iter().map(|file| ((file.project, file.id), file)));
        self.change_values(commit.values, key.0);
        for (id, end) in commit.job_ends {
            self.end_job(key, id, end);
        }
        for job in commit.jobs {
            self.add_job(key.0, job);
        }
        for (start, _) in commit.starts {
            // It has no dedupe key, was found open before, and is patient: nothing refuses it.
            if let Ok(terms) = self.terms(&start, true, now) {
                self.create_run(start, terms, now);
            }
        }
        for signal in commit.signals {
            if matches!(self.judge_signal(&signal), Ok(Signaled::Delivered)) {
                self.deliver(signal, now);
            }
        }
        self.change(key, commit.change, now);
    }

    fn change(&mut self, key: RunKey, change: RunChange, now: Timestamp) {
        let (status, due) = match change {
            RunChange::Stay => return,
            RunChange::End { status, at } => {
                if let Some(gate) = self.end_run(key, status, at, now) {
                    self.promote((key.0, gate), now);
                }
                return;
            }
            RunChange::Park { due } => (RunStatus::Paused, due),
            RunChange::Release => (RunStatus::Queued, None),
        };
        self.change_run(key, now, |run| {
            run.record.status = status;
            run.leased_until = None;
            run.due = due;
        });
    }

    /// Ends a run; returns the gate it left, whose next runs the caller lets pass.
    pub(super) fn end_run(
        &mut self,
        key: RunKey,
        status: RunStatus,
        at: Timestamp,
        now: Timestamp,
    ) -> Option<LookupHash> {
        self.give_back_jobs(key);
        let gate = self.leave_gate(key);
        self.change_run(key, now, |run| {
            run.record.status = status;
            run.record.finished = Some(at);
            run.leased_until = None;
            run.due = None;
            run.signals = BTreeMap::new();
            run.slots = BTreeSet::new();
        });
        self.live.remove(&key);
        gate
    }
}
