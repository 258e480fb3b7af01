//! The journal of a run: events, sealed entry by entry, and the state they rebuild.

use ap_core::{
    flow::ValidFlow,
    id::{ProjectId, RunId},
    scope::Scope,
    store::StoreError,
};
use ap_crypto::{
    entropy::{Entropy, EntropyError},
    envelope::SealContext,
    error::{KeyError, VaultError},
    redact::RedactError,
    vault::TenantKeys,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    engine::{ApplyError, Event, RunState},
    store::JournalEntry,
};

/// Why a run could not be taken further by this process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The journal does not fit the flow.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An entry is not what this version writes.
    #[error("a journal entry cannot be read")]
    Encoding(#[source] serde_json::Error),
    /// No randomness is to be had.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The flow version cannot be executed any more, say because a piece is missing.
    #[error("the flow version of this run is not valid here")]
    Flow(#[source] ap_core::flow::Diagnostics),
    /// The tenant's keys cannot be opened.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The run's credentials cannot be searched for in its output.
    #[error(transparent)]
    Redact(#[from] RedactError),
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry could not be sealed or opened.
    #[error("a journal entry could not be sealed or opened")]
    Seal(#[source] VaultError),
    /// A flow version or a connection could not be opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl RunError {
    /// Whether trying again, by whomever, must fail the same way: the journal itself is at fault.
    ///
    /// A missing piece, a wrong key or a store out of reach are the operator's to mend; the run then waits.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Apply(_) | Self::Encoding(_) | Self::Redact(_) | Self::Seal(_))
    }
}

/// One entry before it is sealed. The version is the format's, and is never reused.
#[derive(Serialize, Deserialize)]
struct Plain<E> {
    v: u8,
    events: E,
}

/// Seals `events` as entry `seq`; also returns the size before sealing, which counts towards the log limit.
pub(crate) fn seal(
    keys: &TenantKeys,
    (project, run): (ProjectId, RunId),
    seq: u64,
    events: &[Event],
    entropy: &dyn Entropy,
) -> Result<(JournalEntry, u64), RunError> {
    let plain = serde_json::to_vec(&Plain { v: FORMAT, events }).map_err(RunError::Encoding)?;
    let plain = Zeroizing::new(plain);
    let sealed = keys.seal(&context(project, &run, seq), &plain, entropy).map_err(RunError::Seal)?;
    Ok((JournalEntry { seq, sealed }, plain.len() as u64))
}

/// Opens one entry.
pub(crate) fn open(
    keys: &TenantKeys,
    (project, run): (ProjectId, RunId),
    entry: &JournalEntry,
) -> Result<(Vec<Event>, u64), RunError> {
    let plain = keys.open(&context(project, &run, entry.seq), &entry.sealed).map_err(RunError::Seal)?;
    let decoded: Plain<Vec<Event>> = serde_json::from_slice(&plain).map_err(RunError::Encoding)?;
    if decoded.v != FORMAT {
        return Err(RunError::Encoding(serde::de::Error::custom("unknown journal format")));
    }
    Ok((decoded.events, plain.len() as u64))
}

/// A run rebuilt from its journal.
pub(crate) struct Replayed {
    pub(crate) state: RunState,
    pub(crate) next_seq: u64,
    pub(crate) log_bytes: u64,
}

/// Rebuilds a run from its whole journal.
pub(crate) fn replay(
    keys: &TenantKeys,
    ids: (ProjectId, RunId),
    flow: &ValidFlow,
    entries: &[JournalEntry],
    max_step_executions: u32,
) -> Result<Replayed, RunError> {
    let mut state: Option<RunState> = None;
    let mut log_bytes = 0;
    for (expected, entry) in (0_u64..).zip(entries) {
        if entry.seq != expected {
            return Err(RunError::Encoding(serde::de::Error::custom("an entry is missing")));
        }
        let (events, bytes) = open(keys, ids, entry)?;
        log_bytes += bytes;
        for event in &events {
            match &mut state {
                None => state = Some(RunState::accepted(event, max_step_executions)?),
                Some(state) => {
                    state.apply(flow, event)?;
                }
            }
        }
    }
    let state = state.ok_or_else(|| RunError::Encoding(serde::de::Error::custom("the journal is empty")))?;
    Ok(Replayed { state, next_seq: entries.len() as u64, log_bytes })
}

fn context<'a>(project: ProjectId, run: &'a RunId, seq: u64) -> SealContext<'a> {
    SealContext {
        scope: Scope::Project(project),
        table: "run_journal",
        record: run.as_bytes(),
        field: "events",
        version: seq,
        purpose: "journal",
    }
}

const FORMAT: u8 = 1;
