//! [`Mutant`]: defects put into the store on purpose. Each must be caught, or the invariants are worth nothing.
//!
//! They stand at the seam, between the faulty world and the memory backend, so production code knows nothing of them. What
//! would be a defect of the engine is shown as what it would do at the seam.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, RunId},
    run::RunStatus,
    store::{Sealed, StoreError},
    time::Timestamp,
};

use crate::{
    backend::memory::{MemoryBackend, MemorySnapshot},
    store::{
        Accept, Accepted, Beat, ClaimRequest, Claimed, ClaimedTrigger, HeldJob, HeldJobs, JobRequest, JournalEntry,
        Lease, QueueStore, RunChange, RunCommit, RunStore, SignalRecord, Signaled, SystemStore, ValueChange,
        ValueExpect, ValueWrite, WorkerRecord,
    },
};

/// A defect put into the store on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mutant {
    /// Writes are acknowledged before they are made; a crash takes those that were not made yet.
    AckBeforeCommit,
    /// Audit records of commits and acceptances are dropped.
    AuditDropped,
    /// Taking over a run does not raise its epoch.
    ClaimKeepsEpoch,
    /// What a step has read of its key-value store may have changed when it writes.
    ConflictIgnored,
    /// Every delivery is taken for a new one.
    DedupeDropped,
    /// The end of a run is acknowledged and never written.
    EndNotWritten,
    /// A commit under an old epoch is accepted.
    EpochIgnored,
    /// A heartbeat takes a lost lease back.
    HeartbeatResurrects,
    /// What a step writes to its key-value store does not get there.
    ValueLost,
    /// Payloads reach the store unsealed.
    InClear,
    /// The journal is read in another order than it was written.
    JournalReordered,
    /// A commit is a success without its last entry.
    EntryDropped,
    /// A run is claimed by two workers at once.
    ClaimedTwice,
    /// The limit on runs under way at once is ignored.
    GateIgnored,
    /// A job that is done is forgotten to be done.
    JobEndDropped,
    /// Jobs that are added to a queue do not get there.
    JobLost,
    /// A job is handed to two runs.
    JobTwice,
    /// An answer that comes before the run waits for it is acknowledged and lost.
    ResumeLost,
    /// A signal that was taken in is delivered again.
    SignalTwice,
    /// A run that another one starts is created although the commit that starts it is not made.
    SubflowTwice,
    /// A schedule that is due is handed to two workers.
    TickTwice,
    /// A paused run is handed out before its time.
    TimerEarly,
    /// The time at which a paused run is to go on is forgotten.
    TimerLost,
    /// What was written since the last sync is lost at a crash.
    SyncSkipped,
    /// The status of a run is written without the entry that goes with it.
    TornCommit,
    /// A run that has ended can be claimed again.
    TerminalReopened,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::AckBeforeCommit,
        Self::AuditDropped,
        Self::ClaimKeepsEpoch,
        Self::ClaimedTwice,
        Self::ConflictIgnored,
        Self::DedupeDropped,
        Self::EndNotWritten,
        Self::EntryDropped,
        Self::EpochIgnored,
        Self::GateIgnored,
        Self::HeartbeatResurrects,
        Self::InClear,
        Self::JobEndDropped,
        Self::JobLost,
        Self::JobTwice,
        Self::JournalReordered,
        Self::ResumeLost,
        Self::SignalTwice,
        Self::SubflowTwice,
        Self::SyncSkipped,
        Self::TerminalReopened,
        Self::TickTwice,
        Self::TimerEarly,
        Self::TimerLost,
        Self::TornCommit,
        Self::ValueLost,
    ];
}

/// The store of a world: the memory backend, with or without a defect in front of it.
#[derive(Debug)]
pub(super) struct MutantStore {
    pub(super) inner: Arc<MemoryBackend>,
    mutant: Option<Mutant>,
    /// Texts that must never stand in what is stored.
    canaries: Vec<Vec<u8>>,
    notes: Mutex<Notes>,
}

/// What a defect has to remember.
#[derive(Debug, Default)]
struct Notes {
    /// Epochs as handed out, by run.
    epochs: BTreeMap<RunId, u64>,
    /// The claims handed out last.
    claimed: Vec<Claimed>,
    /// Runs that have ended.
    ended: Vec<Claimed>,
    claims: BTreeMap<RunId, Claimed>,
    /// What a crash goes back to.
    undo: Option<MemorySnapshot>,
    writes: u64,
    /// Runs a commit of which was torn, or lost what it took.
    torn: BTreeSet<RunId>,
    /// Jobs handed out.
    jobs: Vec<(RunId, HeldJob)>,
    /// Triggers handed out last.
    triggers: Vec<ClaimedTrigger>,
    clear: BTreeSet<&'static str>,
}

impl MutantStore {
    pub(super) fn new(inner: Arc<MemoryBackend>, mutant: Option<Mutant>, canaries: Vec<Vec<u8>>) -> Self {
        Self { inner, mutant, canaries, notes: Mutex::default() }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Where clear text was found.
    pub(super) fn clear(&self) -> BTreeSet<&'static str> {
        self.notes().clear.clone()
    }

    /// What a worker's death does to what was acknowledged: nothing, but for the defects in question.
    pub(super) fn crashed(&self) {
        let mut notes = self.notes();
        let undo = match self.mutant {
            Some(Mutant::AckBeforeCommit) => notes.undo.take(),
            Some(Mutant::SyncSkipped) => notes.undo.clone(),
            _ => None,
        };
        if let Some(undo) = undo {
            self.inner.restore(&undo);
        }
    }

    /// Before every write.
    pub(super) fn writing(&self) {
        let mut notes = self.notes();
        let due = match self.mutant {
            Some(Mutant::AckBeforeCommit) => true,
            Some(Mutant::SyncSkipped) => notes.writes.is_multiple_of(WRITES_PER_SYNC),
            _ => return,
        };
        notes.writes += 1;
        if due {
            notes.undo = Some(self.inner.snapshot());
        }
    }

    /// Looks for what must not be stored in clear.
    pub(super) fn look(&self, place: &'static str, sealed: &Sealed) {
        let bytes: &[u8] = sealed.as_bytes();
        if self.canaries.iter().any(|canary| contains(bytes, canary)) {
            self.notes().clear.insert(place);
        }
    }

    /// The same for values of key-value stores.
    pub(super) fn look_at_values(&self, changes: &[ValueChange]) {
        for change in changes {
            if let ValueWrite::Put(record) = &change.write {
                self.look("value", &record.sealed);
            }
        }
    }

    fn sealed(&self, sealed: Sealed) -> Sealed {
        match (self.mutant, self.canaries.first()) {
            (Some(Mutant::InClear), Some(canary)) => {
                Sealed::from_bytes([sealed.as_bytes(), canary.as_slice()].concat().into())
            }
            _ => sealed,
        }
    }

    fn entry(&self, entry: JournalEntry) -> JournalEntry {
        let entry = JournalEntry { sealed: self.sealed(entry.sealed), ..entry };
        self.look("journal", &entry.sealed);
        entry
    }

    pub(super) async fn accept(&self, mut accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        self.writing();
        audit.iter().for_each(|record| self.look("audit", &record.body));
        accept.entry = self.entry(accept.entry);
        match self.mutant {
            Some(Mutant::DedupeDropped) => accept.dedupe = None,
            Some(Mutant::GateIgnored) => accept.control.gate = None,
            _ => {}
        }
        let audit = if self.is(Mutant::AuditDropped) { &[] } else { audit };
        let run = accept.run.id;
        let accepted = self.inner.accept(accept, audit).await?;
        if accepted == (Accepted::Created { leased: true }) {
            self.notes().epochs.insert(run, 1);
        }
        Ok(accepted)
    }

    pub(super) async fn commit(&self, mut commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writing();
        audit.iter().for_each(|record| self.look("audit", &record.body));
        self.look_at_values(&commit.values);
        commit.entries = commit.entries.into_iter().map(|entry| self.entry(entry)).collect();
        let run = commit.lease.run;
        let ends = matches!(commit.change, RunChange::End { .. });
        let mut audit = audit;
        match self.mutant {
            Some(Mutant::AuditDropped) => audit = &[],
            Some(Mutant::ConflictIgnored) => {
                commit.values.iter_mut().for_each(|change| change.expect = ValueExpect::Anything);
            }
            Some(Mutant::ValueLost) => commit.values.clear(),
            Some(Mutant::EndNotWritten) if ends => commit.change = RunChange::Stay,
            Some(Mutant::EntryDropped) if !ends => drop(commit.entries.pop()),
            Some(Mutant::JobEndDropped) => commit.job_ends.clear(),
            Some(Mutant::JobLost) => commit.jobs.clear(),
            Some(Mutant::SignalTwice) if !commit.taken.is_empty() && self.notes().torn.insert(run) => {
                commit.taken.clear()
            }
            Some(Mutant::SubflowTwice) if !commit.starts.is_empty() && self.notes().torn.insert(run) => {
                commit.entries.clear();
                self.inner.commit(commit, audit).await?;
                return Err(StoreError::Fenced);
            }
            Some(Mutant::TimerEarly | Mutant::TimerLost) => {
                if let RunChange::Park { due: Some(_) } = commit.change {
                    let due = self.is(Mutant::TimerEarly).then_some(Timestamp::EPOCH);
                    commit.change = RunChange::Park { due };
                }
            }
            Some(Mutant::TornCommit) if ends => commit.entries.clear(),
            Some(Mutant::EpochIgnored | Mutant::HeartbeatResurrects | Mutant::ClaimKeepsEpoch) => {
                commit.lease.epoch = self.notes().epochs.get(&run).copied().unwrap_or(commit.lease.epoch);
            }
            _ => {}
        }
        self.inner.commit(commit, audit).await?;
        let mut notes = self.notes();
        if ends && let Some(claimed) = notes.claims.get(&run).copied() {
            notes.ended.push(claimed);
        }
        Ok(())
    }

    pub(super) async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.writing();
        let mut claimed = self.inner.claim(request).await?;
        let mut notes = self.notes();
        for one in &claimed {
            notes.epochs.insert(one.lease.run, one.lease.epoch);
            notes.claims.insert(one.lease.run, *one);
        }
        let spare = usize::try_from(request.limit).unwrap_or(usize::MAX).saturating_sub(claimed.len());
        match self.mutant {
            Some(Mutant::ClaimKeepsEpoch) => {
                for one in &mut claimed {
                    one.lease.epoch = one.lease.epoch.saturating_sub(1).max(1);
                }
            }
            Some(Mutant::ClaimedTwice) => {
                let again = std::mem::replace(&mut notes.claimed, claimed.clone());
                claimed.extend(again.into_iter().take(spare));
            }
            Some(Mutant::TerminalReopened) => claimed.extend(std::mem::take(&mut notes.ended).into_iter().take(spare)),
            _ => {}
        }
        Ok(claimed)
    }

    pub(super) async fn heartbeat(
        &self,
        worker: &WorkerRecord,
        leases: &[Lease],
        lease: Duration,
    ) -> Result<Beat, StoreError> {
        let mut beat = self.inner.heartbeat(worker, leases, lease).await?;
        if self.is(Mutant::HeartbeatResurrects) {
            beat.lost.clear();
        }
        Ok(beat)
    }

    pub(super) async fn signal(&self, signal: SignalRecord, audit: &[AuditRecord]) -> Result<Signaled, StoreError> {
        self.writing();
        audit.iter().for_each(|record| self.look("audit", &record.body));
        self.look("signal", &signal.sealed);
        if self.is(Mutant::ResumeLost) {
            let run = self.inner.run(signal.run, signal.project).await?;
            if !matches!(run.status, RunStatus::Paused) && !run.status.is_terminal() {
                return Ok(Signaled::Delivered);
            }
        }
        self.inner.signal(signal, audit).await
    }

    pub(super) async fn take_jobs(&self, request: JobRequest) -> Result<HeldJobs, StoreError> {
        self.writing();
        let mut held = self.inner.take_jobs(request).await?;
        if self.is(Mutant::JobTwice) {
            let mut notes = self.notes();
            let others = notes.jobs.iter().filter(|(run, _)| *run != request.lease.run).map(|(_, job)| job.clone());
            held.jobs.extend(others.collect::<Vec<_>>());
            notes.jobs.extend(held.jobs.iter().map(|job| (request.lease.run, job.clone())));
        }
        Ok(held)
    }

    pub(super) async fn claim_triggers(
        &self,
        limit: u32,
        per_project: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedTrigger>, StoreError> {
        self.writing();
        let claimed = self.inner.claim_triggers(limit, per_project, lease).await?;
        if self.is(Mutant::TickTwice) {
            let before = std::mem::replace(&mut self.notes().triggers, claimed.clone());
            return Ok(claimed.into_iter().chain(before).collect());
        }
        Ok(claimed)
    }

    pub(super) async fn journal(&self, run: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError> {
        let mut entries = self.inner.journal(run, project).await?;
        if self.is(Mutant::JournalReordered) && entries.len() > 2 {
            let last = entries.len() - 1;
            entries.swap(last, last - 1);
        }
        Ok(entries)
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else { return false };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        let (_, from) = rest.split_at(at);
        if from.starts_with(text) {
            return true;
        }
        rest = from.get(1..).unwrap_or_default();
    }
    false
}

/// How many writes the defective store makes between two syncs.
const WRITES_PER_SYNC: u64 = 5;
