//! [`Carry`]: what the next commit of a run takes along beside its events.

use std::collections::BTreeSet;

use ap_auth::{
    audit::AuditEvent,
    principal::{Actor, Identity},
};
use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, RunId, SignalId},
};

use crate::{
    engine::{Command, Reply, Signal},
    journal::{self, Batch, Mark, RunError},
    kernel::Kernel,
    records,
    store::{Accept, FileRecord, JobEnd, JournalEntry, Lease, NewJob, RunChange, RunCommit, SignalRecord, ValueChange},
    subject::RunKeys,
};

/// Events that are not durable yet, and what has to become so with them.
#[derive(Default)]
pub(super) struct Carry {
    pub(super) batch: Batch,
    pub(super) audit: Vec<AuditRecord>,
    pub(super) files: Vec<FileRecord>,
    pub(super) taken: Vec<SignalId>,
    pub(super) signals: Vec<SignalRecord>,
    pub(super) starts: Vec<(Accept, Vec<AuditRecord>)>,
    pub(super) jobs: Vec<NewJob>,
    pub(super) job_ends: Vec<(ap_core::id::JobId, JobEnd)>,
    pub(super) values: Vec<ValueChange>,
    /// Every signal that was taken in, so that one which is read again before the commit is not taken in twice.
    pub(super) known: BTreeSet<SignalId>,
}

/// See [`Carry::mark`].
pub(super) struct CarryMark {
    batch: Mark,
    audit: usize,
    files: usize,
    signals: usize,
    starts: usize,
    job_ends: usize,
    values: usize,
}

impl Carry {
    /// Whether there is nothing that a commit would write.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
            && self.audit.is_empty()
            && self.taken.is_empty()
            && self.signals.is_empty()
            && self.starts.is_empty()
            && self.job_ends.is_empty()
            && self.values.is_empty()
    }

    /// The commit that makes everything durable.
    pub(super) fn commit(
        &mut self,
        kernel: &Kernel,
        keys: RunKeys<'_>,
        (lease, seq): (Lease, u64),
        change: RunChange,
    ) -> Result<RunCommit, RunError> {
        let mut entries: Vec<JournalEntry> = Vec::new();
        if !self.batch.is_empty() {
            entries.push(self.batch.seal(keys, (lease.project, lease.run), seq, &*kernel.entropy)?);
        }
        Ok(RunCommit {
            entries,
            files: self.files.clone(),
            taken: self.taken.clone(),
            signals: self.signals.clone(),
            starts: self.starts.clone(),
            jobs: self.jobs.clone(),
            job_ends: self.job_ends.clone(),
            values: self.values.clone(),
            value_limit: kernel.value_limits.of_project(),
            ..RunCommit::new(lease, change)
        })
    }

    /// Everything was committed.
    pub(super) fn clear(&mut self) {
        self.batch.clear();
        self.audit.clear();
        self.files.clear();
        self.taken.clear();
        self.signals.clear();
        self.starts.clear();
        self.jobs.clear();
        self.job_ends.clear();
        self.values.clear();
        // What was taken in is not read again.
        self.known.clear();
    }

    /// Where it stands, to go back to.
    pub(super) fn mark(&self) -> CarryMark {
        CarryMark {
            batch: self.batch.mark(),
            audit: self.audit.len(),
            files: self.files.len(),
            signals: self.signals.len(),
            starts: self.starts.len(),
            job_ends: self.job_ends.len(),
            values: self.values.len(),
        }
    }

    /// Takes back what was added since `mark`: events and all that comes with them.
    pub(super) fn rewind(&mut self, mark: &CarryMark) {
        self.batch.rewind(mark.batch);
        self.audit.truncate(mark.audit);
        self.files.truncate(mark.files);
        self.signals.truncate(mark.signals);
        self.starts.truncate(mark.starts);
        self.job_ends.truncate(mark.job_ends);
        self.values.truncate(mark.values);
    }

    /// Takes in what the engine says once; returns the reply, if there is one.
    pub(super) fn take_in(
        &mut self,
        kernel: &Kernel,
        keys: RunKeys<'_>,
        project: ProjectId,
        once: Vec<Command>,
    ) -> Result<Option<Reply>, RunError> {
        let mut reply = None;
        for command in once {
            match command {
                Command::CancelChild { run } => {
                    let reason = "the run that waited for it waits no more";
                    let content = Signal::Canceled { reason: reason.to_owned() };
                    let slot = records::cancel_slot(keys.tenant);
                    self.signals.push(kernel.seal_signal(keys, (project, run), slot, &content)?);
                    let engine = Actor::new(Identity::Engine);
                    let event = AuditEvent::by(&engine, "run.cancel", project.into(), kernel.clock.now())
                        .with_resource(run)
                        .with_detail("reason", reason);
                    self.audit.push(kernel.seal_event(keys.tenant, &event)?);
                }
                Command::EndJob { job, end } => self.job_ends.push((job, end)),
                Command::Reply(answer) => reply = Some(answer),
                // Standing commands are asked for.
                _ => {}
            }
        }
        Ok(reply)
    }
}

impl Kernel {
    /// Seals what a run is to be told.
    pub(crate) fn seal_signal(
        &self,
        keys: RunKeys<'_>,
        (project, run): (ProjectId, RunId),
        slot: ap_core::store::LookupHash,
        content: &Signal,
    ) -> Result<SignalRecord, RunError> {
        let at = self.clock.now();
        let id = SignalId::from_parts(at, self.id_entropy()?);
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(content).map_err(RunError::Encoding)?);
        let key = records::signal_key(run, id, &slot);
        let sealed = keys.seal(&records::signal(&key, project), &plain, &*self.entropy).map_err(RunError::Seal)?;
        Ok(SignalRecord { id, project, run, slot, at, sealed })
    }

    /// Opens what a run was told.
    pub(crate) fn open_signal(&self, keys: RunKeys<'_>, record: &SignalRecord) -> Result<Signal, RunError> {
        let key = records::signal_key(record.run, record.id, &record.slot);
        let plain = keys.open(&records::signal(&key, record.project), &record.sealed).map_err(RunError::Seal)?;
        serde_json::from_slice(&plain).map_err(RunError::Encoding)
    }

    /// Makes a file of an output, or of results, that are too large for the journal; `None` leaves them in their event.
    pub(crate) fn spill(
        &self,
        keys: RunKeys<'_>,
        (project, run): (ProjectId, RunId),
        bytes: u64,
        output: &impl serde::Serialize,
    ) -> Result<Option<(FileRecord, crate::engine::Spilled)>, RunError> {
        if bytes <= SPILL_BYTES {
            return Ok(None);
        }
        let at = self.clock.now();
        let id = ap_core::id::FileId::from_parts(at, self.id_entropy()?);
        let json = zeroize::Zeroizing::new(serde_json::to_vec(output).map_err(RunError::Encoding)?);
        journal::spill(keys, (project, run, id), (&json, bytes), at, &*self.entropy).map(Some)
    }
}

/// Outputs larger than this are kept as files. Unit: bytes, roughly those of their JSON.
const SPILL_BYTES: u64 = 256 << 10;
