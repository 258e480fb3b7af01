//! [`History`]: everything that was observed at the seams of a world, and what its store held in the end.

use std::{collections::BTreeMap, fmt, time::Duration};

use ap_core::{
    id::{AuditId, FlowId, JobId, RunId, SignalId, ValueId},
    run::StepPath,
    store::{LookupHash, StoreError},
    time::Timestamp,
};

use super::fault::Fault;
use crate::{
    engine::{Event, RunState},
    store::{
        Accept, Accepted, Beat, Claimed, Gate, JobEnd, JobRequest, Lease, QueueCounts, RunChange, RunCommit, RunRecord,
        Signaled, ValueChange, ValueExpect, ValueWrite,
    },
};

/// What a store answered; of a failure its text.
pub(super) type Answer<T> = Result<T, String>;

pub(super) fn answer<T: Clone>(result: &Result<T, StoreError>) -> Answer<T> {
    match result {
        Ok(value) => Ok(value.clone()),
        Err(error) => Err(error.to_string()),
    }
}

/// What matters of an [`Accept`].
#[derive(Clone, Debug)]
pub(super) struct NewRun {
    pub(super) run: RunId,
    pub(super) dedupe: Option<LookupHash>,
    pub(super) gate: Option<Gate>,
}

impl NewRun {
    pub(super) fn of(accept: &Accept) -> Self {
        let (dedupe, gate) = (accept.dedupe.map(|dedupe| dedupe.key), accept.control.gate);
        Self { run: accept.run.id, dedupe, gate }
    }
}

/// What matters of a [`RunCommit`].
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub(super) lease: Lease,
    pub(super) seqs: Vec<u64>,
    pub(super) change: RunChange,
    pub(super) taken: Vec<SignalId>,
    pub(super) signals: Vec<(SignalId, RunId, LookupHash)>,
    pub(super) starts: Vec<NewRun>,
    pub(super) jobs: Vec<(JobId, LookupHash)>,
    pub(super) job_ends: Vec<(JobId, JobEnd)>,
    pub(super) values: Vec<Change>,
}

/// What matters of a [`ValueChange`]: what is expected, and what there is afterwards; `None` is no value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) id: ValueId,
    pub(super) expect: ValueExpect,
    pub(super) after: Option<Option<u64>>,
}

impl Change {
    fn of(change: &ValueChange) -> Self {
        let after = match &change.write {
            ValueWrite::Delete => Some(None),
            ValueWrite::Keep => None,
            ValueWrite::Put(record) => Some(Some(record.version)),
        };
        Self { id: change.id, expect: change.expect, after }
    }
}

impl Committed {
    pub(super) fn of(commit: &RunCommit) -> Self {
        Self {
            lease: commit.lease,
            seqs: commit.entries.iter().map(|entry| entry.seq).collect(),
            change: commit.change,
            taken: commit.taken.clone(),
            signals: commit.signals.iter().map(|signal| (signal.id, signal.run, signal.slot)).collect(),
            starts: commit.starts.iter().map(|(accept, _)| NewRun::of(accept)).collect(),
            jobs: commit.jobs.iter().map(|job| (job.id, job.queue)).collect(),
            job_ends: commit.job_ends.clone(),
            values: commit.values.iter().map(Change::of).collect(),
        }
    }
}

/// A call of the store that may have changed something, with its answer.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "all of it is shown in traces and goes into their hash")]
pub(super) enum Call {
    Accept { new: NewRun, audit: Vec<AuditId>, answer: Answer<Accepted> },
    Claim { at: Timestamp, answer: Answer<Vec<Claimed>> },
    ClaimTriggers { at: Timestamp, answer: Answer<Vec<(FlowId, u64, Timestamp)>> },
    Commit { commit: Committed, at: Timestamp, audit: Vec<AuditId>, answer: Answer<()> },
    FireTrigger { flow: FlowId, epoch: u64, runs: Vec<NewRun>, audit: Vec<AuditId>, answer: Answer<Vec<Accepted>> },
    Heartbeat { leases: Vec<Lease>, answer: Answer<Beat> },
    Other { name: &'static str, audit: Vec<AuditId>, answer: Answer<()> },
    Reopen { run: RunId, audit: Vec<AuditId>, answer: Answer<()> },
    Signal { id: SignalId, run: RunId, slot: LookupHash, audit: Vec<AuditId>, answer: Answer<Signaled> },
    TakeJobs { request: JobRequest, at: Timestamp, answer: Answer<Vec<JobId>> },
}

impl Call {
    /// The audit records that came with it, and whether the store said that it did the change.
    pub(super) fn audit(&self) -> Option<(&[AuditId], Option<bool>)> {
        Some(match self {
            Self::Accept { audit, answer, .. } => {
                (audit, answer.as_ref().ok().map(|accepted| matches!(accepted, Accepted::Created { .. })))
            }
            Self::Commit { audit, answer, .. }
            | Self::Other { audit, answer, .. }
            | Self::Reopen { audit, answer, .. } => (audit, answer.as_ref().ok().map(|()| true)),
            Self::Signal { audit, answer, .. } => {
                (audit, answer.as_ref().ok().map(|signaled| *signaled == Signaled::Delivered))
            }
            // Each of its runs has records of its own, and some may be refused.
            Self::FireTrigger { .. } | Self::Claim { .. } | Self::ClaimTriggers { .. } => return None,
            Self::Heartbeat { .. } | Self::TakeJobs { .. } => return None,
        })
    }
}

/// How an effect may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeats {
    /// Not at all.
    Never,
    /// As often as one likes: it changes nothing more.
    Harmless,
    /// The peer honours the key, and does it once.
    Keyed,
}

/// One thing that was observed.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "all of it is shown in traces and goes into their hash")]
pub(super) enum Observed {
    /// A sender was told that its delivery is this run.
    Acknowledged { delivery: usize, identity: Option<String>, run: RunId },
    /// Somebody a run waits for used a token, and was told whether it worked.
    Answered { token: u64, taken: bool },
    /// An effect reached its peer.
    Performed { worker: usize, key: String, input: u64, repeats: Repeats },
    /// The worker heard how the effect went.
    Heard { worker: usize, key: String, succeeded: bool },
    /// A call reached the store.
    Called { worker: usize, incarnation: u64, call: Box<Call> },
    /// Something went wrong on purpose.
    Faulted { point: u64, worker: usize, fault: Fault },
    /// A worker started.
    Started { worker: usize, incarnation: u64 },
}

/// A run as the store held it in the end.
#[derive(Debug)]
pub(super) struct FinalRun {
    pub(super) record: RunRecord,
    pub(super) seqs: Vec<u64>,
    /// The opened entries, and the state they rebuild; or why that is not possible.
    pub(super) replayed: Result<(Vec<Event>, RunState), String>,
    /// Waits that are over.
    pub(super) waits: Vec<Wait>,
}

/// A wait that is over.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) path: StepPath,
    /// When it was due.
    pub(super) until: Timestamp,
    /// When it was said to be over.
    pub(super) over: Timestamp,
}

/// A whole schedule, as seen from outside.
#[derive(Debug, Default)]
pub(super) struct History {
    /// In order, each with the true time since the start.
    pub(super) observed: Vec<(Duration, Observed)>,
    pub(super) runs: BTreeMap<RunId, FinalRun>,
    pub(super) audit: Vec<AuditId>,
    /// What queues hold, by hash of their name.
    pub(super) queues: BTreeMap<[u8; 32], QueueCounts>,
    /// If scripts counted in the key-value store: how many succeeded, and what they counted.
    pub(super) counted: Option<(u64, u64)>,
    /// How far host clocks were set back altogether.
    pub(super) set_back: Duration,
    /// How many deliveries were to be made.
    pub(super) deliveries: usize,
    /// Where clear text was found among what was stored.
    pub(super) clear: Vec<&'static str>,
    /// Whether the world came to rest: every run over and every sender answered.
    pub(super) rested: bool,
}

impl History {
    pub(super) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.observed.iter().filter_map(|(_, observed)| match observed {
            Observed::Called { call, .. } => Some(&**call),
            _ => None,
        })
    }

    pub(super) fn acknowledged(&self) -> impl Iterator<Item = (usize, Option<&str>, RunId)> {
        self.observed.iter().filter_map(|(_, observed)| match observed {
            Observed::Acknowledged { delivery, identity, run } => Some((*delivery, identity.as_deref(), *run)),
            _ => None,
        })
    }

    /// FNV-1a over everything that was observed, in order: two schedules with one hash are the same schedule.
    pub(super) fn hash(&self) -> u64 {
        let mut hash = Fnv::default();
        for (at, observed) in &self.observed {
            let _ = fmt::Write::write_fmt(&mut hash, format_args!("{at:?} {observed:?}\n"));
        }
        for (id, run) in &self.runs {
            let _ = fmt::Write::write_fmt(&mut hash, format_args!("{id} {:?} {:?}\n", run.record, run.seqs));
        }
        hash.0
    }
}

/// FNV-1a, 64 bits.
pub(super) struct Fnv(pub(super) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}
