//! The journal of a run: events, sealed entry by entry, and the state they rebuild.
//!
//! An output that is too large for an entry is kept as a file of its own; the stored event says which.

use std::{borrow::Cow, sync::Arc};

use ap_core::{
    flow::ValidFlow,
    id::{FileId, ProjectId, RunId},
    scope::Scope,
    store::StoreError,
};
use ap_crypto::{
    entropy::{Entropy, EntropyError},
    envelope::SealContext,
    error::{KeyError, VaultError},
    redact::RedactError,
};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    engine::{ApplyError, AttemptOutcome, Event, ResumeTokens, RunState, Spilled},
    records,
    store::{Backend, FileRecord, JournalEntry},
    subject::RunKeys,
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
    /// The data of the run was erased: the key of whom it was about is destroyed.
    #[error("the data of this run was erased at {at}")]
    Erased {
        /// When.
        at: ap_core::time::Timestamp,
    },
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
    /// A missing or changed piece, a wrong key or a store out of reach are the operator's to mend; the run then waits. A
    /// journal that does not fit its flow counts as a changed piece, because a changed journal would not open; one that opens
    /// and cannot be read was written by another version, which may go on with it.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Redact(_) | Self::Seal(_))
    }
}

/// Events on their way into one entry, already in their stored form.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    json: Zeroizing<Vec<u8>>,
    events: usize,
}

impl Batch {
    /// Adds an event.
    pub(crate) fn push(&mut self, event: &Event) -> Result<(), RunError> {
        self.json.extend_from_slice(if self.events == 0 { PREFIX } else { b"," });
        serde_json::to_writer(&mut *self.json, &*stored(event)).map_err(RunError::Encoding)?;
        self.events += 1;
        Ok(())
    }

    /// Where the batch stands, to go back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark { bytes: self.json.len(), events: self.events }
    }

    /// Takes back what was pushed since `mark`.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.json.truncate(mark.bytes);
        self.events = mark.events;
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Whether so much is waiting that it should be committed even if nothing outside depends on it: bounds memory, the
    /// size of an entry, and how much pure work a crash repeats.
    pub(crate) fn is_due(&self) -> bool {
        self.events >= DUE_EVENTS || self.json.len() >= DUE_BYTES
    }

    /// Empties the batch for the next entry.
    pub(crate) fn clear(&mut self) {
        self.json.clear();
        self.events = 0;
    }

    /// Seals the events as entry `seq`. The batch must not be empty, and keeps its events until it is cleared.
    pub(crate) fn seal(
        &mut self,
        keys: RunKeys<'_>,
        (project, run): (ProjectId, RunId),
        seq: u64,
        entropy: &dyn Entropy,
    ) -> Result<JournalEntry, RunError> {
        let length = self.json.len();
        self.json.extend_from_slice(SUFFIX);
        let sealed = keys.seal(&context(project, &run, seq), &self.json, entropy).map_err(RunError::Seal);
        self.json.truncate(length);
        Ok(JournalEntry { seq, sealed: sealed? })
    }
}

/// See [`Batch::mark`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    bytes: usize,
    events: usize,
}

/// Whether `value` fits into an entry, beside what else one may hold. Escapes can make it too large that did not look so.
pub(crate) fn fits(value: &Value) -> bool {
    ap_core::json::size_of(value) <= ap_core::json::MAX_STORED_BYTES || {
        let mut length = Length(0);
        serde_json::to_writer(&mut length, value).is_ok() && length.0 <= MAX_VALUE_BYTES
    }
}

/// Counts bytes.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The form in which an event is stored: what is kept as a file is left out.
fn stored(event: &Event) -> Cow<'_, Event> {
    match event {
        Event::AttemptFinished {
            at,
            path,
            attempt,
            outcome: AttemptOutcome::Succeeded { spilled: Some(spilled), console, .. },
            entropy,
        } => {
            let (output, spilled, console) = (Arc::default(), Some(spilled.clone()), console.clone());
            let outcome = AttemptOutcome::Succeeded { output, spilled, console };
            Cow::Owned(Event::AttemptFinished {
                at: *at,
                path: path.clone(),
                attempt: *attempt,
                outcome,
                entropy: *entropy,
            })
        }
        Event::Evaluated { at, path, spilled: Some(spilled), .. } => Cow::Owned(Event::Evaluated {
            at: *at,
            path: path.clone(),
            results: Arc::default(),
            spilled: Some(spilled.clone()),
        }),
        other => Cow::Borrowed(other),
    }
}

/// Makes a file of what is too large for the journal, `json` being its text.
pub(crate) fn spill(
    keys: RunKeys<'_>,
    (project, run, id): (ProjectId, RunId, FileId),
    (json, bytes): (&[u8], u64),
    created: ap_core::time::Timestamp,
    entropy: &dyn Entropy,
) -> Result<(FileRecord, Spilled), RunError> {
    let sealed = keys.seal(&records::file(&id, project), json, entropy).map_err(RunError::Seal)?;
    Ok((FileRecord { id, project, run: Some(run), created, sealed }, Spilled { file: id, bytes }))
}

/// Puts what was kept as a file back into its event.
pub(crate) async fn unspill(
    backend: &dyn Backend,
    keys: RunKeys<'_>,
    project: ProjectId,
    event: &mut Event,
) -> Result<(), RunError> {
    let (Event::AttemptFinished { outcome: AttemptOutcome::Succeeded { spilled: Some(spilled), .. }, .. }
    | Event::Evaluated { spilled: Some(spilled), .. }) = event
    else {
        return Ok(());
    };
    let file = backend.file(spilled.file, project).await?;
    let plain = keys.open(&records::file(&file.id, project), &file.sealed).map_err(RunError::Seal)?;
    match event {
        Event::AttemptFinished { outcome: AttemptOutcome::Succeeded { output, .. }, .. } => {
            *output = Arc::new(serde_json::from_slice(&plain).map_err(RunError::Encoding)?);
        }
        Event::Evaluated { results, .. } => {
            *results = Arc::new(serde_json::from_slice(&plain).map_err(RunError::Encoding)?);
        }
        _ => {}
    }
    Ok(())
}

/// Opens one entry. The first format is a list of events; what begins otherwise is of a later one, and is not read here.
pub(crate) fn open(
    keys: RunKeys<'_>,
    (project, run): (ProjectId, RunId),
    entry: &JournalEntry,
) -> Result<Vec<Event>, RunError> {
    let plain = keys.open(&context(project, &run, entry.seq), &entry.sealed).map_err(RunError::Seal)?;
    serde_json::from_slice(&plain).map_err(RunError::Encoding)
}

/// A run rebuilt from its journal.
pub(crate) struct Replayed {
    pub(crate) state: RunState,
    pub(crate) next_seq: u64,
}

/// Rebuilds a run from its whole journal.
pub(crate) async fn replay(
    backend: &dyn Backend,
    keys: RunKeys<'_>,
    ids: (ProjectId, RunId),
    flow: &ValidFlow,
    (entries, resume): (&[JournalEntry], Arc<ResumeTokens>),
) -> Result<Replayed, RunError> {
    let mut state: Option<RunState> = None;
    for (expected, entry) in (0_u64..).zip(entries) {
        if entry.seq != expected {
            return Err(RunError::Encoding(serde::de::Error::custom("an entry is missing")));
        }
        for mut event in open(keys, ids, entry)? {
            unspill(backend, keys, ids.0, &mut event).await?;
            match &mut state {
                None => state = Some(RunState::accepted(ids.1, &event, Arc::clone(&resume))?),
                Some(state) => {
                    state.apply(flow, &event)?;
                }
            }
        }
    }
    let state = state.ok_or_else(|| RunError::Encoding(serde::de::Error::custom("the journal is empty")))?;
    Ok(Replayed { state, next_seq: entries.len() as u64 })
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

const PREFIX: &[u8] = b"[";
const SUFFIX: &[u8] = b"]";
/// Longest JSON text of a value in an event: the rest of what can be sealed is for the events before it. Unit: bytes.
pub(crate) const MAX_VALUE_BYTES: usize = 60 << 20;
/// Unit: events.
const DUE_EVENTS: usize = 64;
/// Unit: bytes.
const DUE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ap_core::{id::KeyId, time::Timestamp};
    use ap_crypto::{entropy::SystemEntropy, key::RootKey, keyring::Keyring, vault::TenantKeys};

    use super::*;
    use crate::{backend::memory::MemoryBackend, clock::SystemClock, config::RunLimits};

    const IDS: (ProjectId, RunId) = (ProjectId::from_u128(1), RunId::from_u128(2));

    fn keys() -> Arc<TenantKeys> {
        let root = RootKey::generate(&SystemEntropy).expect("entropy");
        let ring = Keyring::new(root, Arc::new(MemoryBackend::new(Arc::new(SystemClock))));
        let created = ring.create_tenant_key(IDS.0.into(), KeyId::from_u128(1), Timestamp::EPOCH, &SystemEntropy);
        created.expect("a key").1
    }

    fn event(millis: i64) -> Event {
        Event::Recovered { at: Timestamp::from_millis(millis) }
    }

    #[test]
    fn entries_open_to_what_went_in_and_nowhere_else() {
        let keys = keys();
        let mut batch = Batch::default();
        let events = [event(1), event(2), event(3)];
        events.iter().try_for_each(|event| batch.push(event)).expect("serialises");
        let entry = batch.seal(RunKeys::new(&keys, None), IDS, 4, &SystemEntropy).expect("sealed");
        assert_eq!(open(RunKeys::new(&keys, None), IDS, &entry).expect("opened"), events);
        // A retry of the same commit seals the same events again.
        let again = batch.seal(RunKeys::new(&keys, None), IDS, 4, &SystemEntropy).expect("sealed");
        assert_eq!(open(RunKeys::new(&keys, None), IDS, &again).expect("opened"), events);
        let moved = JournalEntry { seq: 5, ..entry.clone() };
        assert!(matches!(open(RunKeys::new(&keys, None), IDS, &moved), Err(RunError::Seal(_))));
        let other = (IDS.0, RunId::from_u128(3));
        assert!(matches!(open(RunKeys::new(&keys, None), other, &entry), Err(RunError::Seal(_))));
    }

    #[test]
    fn what_fits_can_be_sealed_and_what_does_not_is_known_before() {
        // A control character is one byte here and six in JSON.
        let text = |bytes: usize| Value::from("\u{1}".repeat(bytes / 6) + &"x".repeat(bytes % 6 - 2));
        let largest = text(MAX_VALUE_BYTES - 2);
        assert_eq!(serde_json::to_vec(&largest).expect("serialises").len(), MAX_VALUE_BYTES - 2);
        assert!(fits(&largest) && fits(&Value::Null));
        assert!(!fits(&text(MAX_VALUE_BYTES + 4)));
        assert!(!fits(&Value::from("\u{1}".repeat(16 << 20))));
        const { assert!(MAX_VALUE_BYTES + 4 * DUE_BYTES <= ap_crypto::envelope::MAX_PLAINTEXT_BYTES) };
    }

    #[test]
    fn a_batch_is_due_by_count_or_by_size() {
        let mut batch = Batch::default();
        for count in 1..=DUE_EVENTS {
            assert!(!batch.is_due());
            batch.push(&event(count as i64)).expect("serialises");
        }
        assert!(batch.is_due());
        batch.clear();
        assert!(batch.is_empty() && !batch.is_due());
        let large = serde_json::Value::from("x".repeat(DUE_BYTES));
        let trigger = Arc::new(large);
        batch
            .push(&Event::Accepted {
                at: Timestamp::EPOCH,
                trigger,
                limits: RunLimits::default().engine(),
                parent: None,
            })
            .expect("serialises");
        assert!(batch.is_due());
    }
}
