//! The key-value store as one attempt of a step sees it, and what is committed of that once the step has succeeded.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ap_core::{
    id::{FlowId, ProjectId, ValueId},
    json::{self, JsonLimits},
    run::{StepError, StepErrorKind, StepPath},
    store::{Entity, Sealed, StoreError},
};
use ap_crypto::{entropy::random_array, vault::TenantKeys};
use bytes::Bytes;

use super::driver::{Driver, Stopped};
use crate::{
    config::ValueLimits,
    egress::credential::RunCredentials,
    engine::{AttemptOutcome, Event},
    journal::RunError,
    kernel::Kernel,
    records,
    replies::Outcome,
    sandbox::{StoreAct, StoreCall, StoreCallError, StoreScope},
    store::{RunChange, ValueChange, ValueExpect, ValueRecord, ValueScope, ValueWrite},
};

/// The store of one attempt: what it has read, and what it wants to write. The store of the project is not touched.
pub(crate) struct StepValues {
    kernel: Arc<Kernel>,
    keys: Arc<TenantKeys>,
    project: ProjectId,
    flow: FlowId,
    overlay: Mutex<Overlay>,
    /// Whether the attempt has acted outside.
    acted: AtomicBool,
}

#[derive(Default)]
struct Overlay {
    entries: BTreeMap<ValueId, Entry>,
    operations: u32,
    bytes: usize,
}

/// A value that the attempt has had to do with.
struct Entry {
    scope: ValueScope,
    key: String,
    /// What it was before: version and JSON, if there was one. `None`: it was never looked up.
    read: Option<Option<(u64, String)>>,
    /// What it is to be: JSON, or none. `None`: it stays.
    write: Option<Option<String>>,
}

impl StepValues {
    /// Nothing read, nothing written.
    pub(crate) fn new(kernel: &Arc<Kernel>, keys: &Arc<TenantKeys>, (project, flow): (ProjectId, FlowId)) -> Arc<Self> {
        Arc::new(Self {
            kernel: Arc::clone(kernel),
            keys: Arc::clone(keys),
            project,
            flow,
            overlay: Mutex::default(),
            acted: AtomicBool::new(false),
        })
    }

    /// Notes that the attempt acts outside: from now on it must not be repeated because of the store.
    pub(super) fn acts(&self) {
        self.acted.store(true, Ordering::SeqCst);
    }

    /// Does what a script asks for. `credentials` are those whose secrets must not get in or out.
    pub(super) async fn call(
        &self,
        call: StoreCall,
        credentials: &RunCredentials,
    ) -> Result<Option<String>, StoreCallError> {
        let scope = match call.scope {
            StoreScope::Flow => ValueScope::Flow(self.flow),
            StoreScope::Project => ValueScope::Project,
        };
        check_key(&call.key).map_err(|reason| StoreCallError::Invalid { reason })?;
        self.refuse_secrets(&call.key, credentials)?;
        self.refuse_secret_key(&call.key, credentials)?;
        let id = records::value_id(&self.keys, scope, &call.key);
        self.count_operation()?;
        let write = match call.act {
            StoreAct::Get => return self.get(id, (scope, call.key), credentials).await,
            StoreAct::Delete => None,
            StoreAct::Put(json) => Some(self.checked(&json, credentials)?),
        };
        let mut overlay = self.overlay();
        overlay.count_bytes(&self.kernel.value_limits, call.key.len() + write.as_ref().map_or(0, String::len))?;
        let entry =
            overlay.entries.entry(id).or_insert_with(|| Entry { scope, key: call.key, read: None, write: None });
        entry.write = Some(write);
        Ok(None)
    }

    async fn get(
        &self,
        id: ValueId,
        (scope, key): (ValueScope, String),
        credentials: &RunCredentials,
    ) -> Result<Option<String>, StoreCallError> {
        if let Some(known) = self.overlay().known(id) {
            return Ok(known);
        }
        let found = match self.kernel.backend.value(id, self.project).await {
            Ok(record) => {
                let json = records::open_value(&self.keys, &record, &key).map_err(|error| {
                    tracing::error!(project = %self.project, value = %id, %error, "a stored value cannot be opened");
                    unavailable("the value cannot be opened: it was changed where it is stored")
                })?;
                Some((record.version, self.masked(json, credentials)))
            }
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => {
                tracing::warn!(project = %self.project, %error, "a stored value cannot be read");
                return Err(unavailable("the store cannot be read now: let the step be tried again (`retry`)"));
            }
        };
        let mut overlay = self.overlay();
        let bytes = key.len() + found.as_ref().map_or(0, |(_, json)| json.len());
        overlay.count_bytes(&self.kernel.value_limits, bytes)?;
        let entry = overlay.entries.entry(id).or_insert_with(|| Entry { scope, key, read: None, write: None });
        entry.read.get_or_insert(found);
        Ok(entry.known().flatten())
    }

    /// The text of a value as it is kept, without secrets.
    fn checked(&self, text: &str, credentials: &RunCredentials) -> Result<String, StoreCallError> {
        let most = ValueLimits::VALUE_BYTES;
        if text.len() > most {
            let reason = format!(
                "a stored value has at most {} KiB of JSON, and this one has {} bytes: keep less of it, \
                or split it over several keys",
                most >> 10,
                text.len()
            );
            return Err(StoreCallError::Limit { reason });
        }
        let value = json::parse(text.as_bytes(), &JsonLimits::deep())
            .map_err(|error| StoreCallError::Invalid { reason: format!("the value cannot be kept: {error}") })?;
        let text = value.to_string();
        self.refuse_secrets(&text, credentials)?;
        Ok(self.masked(text, credentials))
    }

    fn refuse_secrets(&self, text: &str, credentials: &RunCredentials) -> Result<(), StoreCallError> {
        if credentials.mentioned_in(text) {
            let reason = "what stands for a connection's secret is not stored: it means nothing in another run. Use the \
                          connection where it is needed";
            return Err(StoreCallError::Secret { reason: reason.to_owned() });
        }
        Ok(())
    }

    /// A key is shown to whoever may list them. It is not masked as a value is: it would be another key.
    fn refuse_secret_key(&self, key: &str, credentials: &RunCredentials) -> Result<(), StoreCallError> {
        if self.kernel.egress.scrubs() && credentials.redactor().contains(key.as_bytes()) {
            let reason =
                "a connection's secret stands in the key, and keys are shown to people: use a key that holds none";
            return Err(StoreCallError::Secret { reason: reason.to_owned() });
        }
        Ok(())
    }

    /// As any output of a step: without the secrets of the run.
    fn masked(&self, text: String, credentials: &RunCredentials) -> String {
        let redactor = credentials.redactor();
        if !self.kernel.egress.scrubs() || redactor.is_empty() {
            return text;
        }
        match serde_json::from_str(&text) {
            Ok(value) => redactor.redact_json(value).to_string(),
            Err(_) => redactor.redact_str(&text).into_owned(),
        }
    }

    fn count_operation(&self) -> Result<(), StoreCallError> {
        let most = self.kernel.value_limits.step_operations();
        let mut overlay = self.overlay();
        if overlay.operations >= most {
            let reason =
                format!("a step calls its store at most {most} times: keep what belongs together under one key");
            return Err(StoreCallError::Limit { reason });
        }
        overlay.operations += 1;
        Ok(())
    }

    /// What is to be committed with the end of the step; `None` if it writes nothing. Then it does not matter whether what it has
    /// read is still so.
    fn changes(&self) -> Result<Option<Vec<ValueChange>>, RunError> {
        let overlay = self.overlay();
        if overlay.entries.values().all(|entry| entry.write.is_none()) {
            return Ok(None);
        }
        let changes = overlay.entries.iter().map(|(id, entry)| {
            let write = match &entry.write {
                None => ValueWrite::Keep,
                Some(None) => ValueWrite::Delete,
                Some(Some(json)) => {
                    let key = (entry.scope, &*entry.key);
                    ValueWrite::Put(self.kernel.seal_value(&self.keys, self.project, key, json)?)
                }
            };
            Ok(ValueChange { id: *id, expect: entry.expect(), write })
        });
        changes.collect::<Result<_, RunError>>().map(Some)
    }

    fn overlay(&self) -> MutexGuard<'_, Overlay> {
        // Nothing that is done under it panics half-way.
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys and values are the tenant's.
impl fmt::Debug for StepValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepValues").field("entries", &self.overlay().entries.len()).finish_non_exhaustive()
    }
}

impl Overlay {
    fn known(&self, id: ValueId) -> Option<Option<String>> {
        self.entries.get(&id)?.known()
    }

    fn count_bytes(&mut self, limits: &ValueLimits, bytes: usize) -> Result<(), StoreCallError> {
        let most = limits.step_bytes();
        let sum = self.bytes.saturating_add(bytes);
        if sum > most as usize {
            let reason =
                format!("a step reads and writes at most {most} bytes in its store: keep less, or in smaller values");
            return Err(StoreCallError::Limit { reason });
        }
        self.bytes = sum;
        Ok(())
    }
}

impl Entry {
    /// What the step sees; `None` if that has to be looked up.
    fn known(&self) -> Option<Option<String>> {
        let read = || Some(self.read.as_ref()?.as_ref().map(|(_, json)| json.clone()));
        self.write.clone().or_else(read)
    }

    /// What was read must be so when the step ends; of what was not, the last writer wins.
    const fn expect(&self) -> ValueExpect {
        match &self.read {
            None => ValueExpect::Anything,
            Some(None) => ValueExpect::Absent,
            Some(Some((version, _))) => ValueExpect::Version(*version),
        }
    }
}

impl Kernel {
    /// A value to be written, in a new version.
    pub(crate) fn seal_value(
        &self,
        keys: &TenantKeys,
        project: ProjectId,
        (scope, key): (ValueScope, &str),
        json: &str,
    ) -> Result<ValueRecord, RunError> {
        let mut record = ValueRecord {
            id: records::value_id(keys, scope, key),
            project,
            scope,
            version: u64::from_le_bytes(random_array(&*self.entropy)?) >> 1,
            updated: self.clock.now(),
            bytes: u32::try_from(key.len() + json.len()).unwrap_or(u32::MAX),
            sealed: Sealed::from_bytes(Bytes::new()),
        };
        records::seal_value(keys, &mut record, (key, json), &*self.entropy).map_err(RunError::Seal)?;
        Ok(record)
    }
}

/// How often others were faster, and how long the next attempt waits.
#[derive(Clone, Copy, Default)]
pub(super) struct Conflicts {
    count: u32,
    pub(super) rest: Duration,
}

impl Driver {
    /// The store of an attempt that begins.
    pub(super) fn values(&self) -> Arc<StepValues> {
        StepValues::new(&self.kernel, &self.keys, (self.lease.project, self.credentials.flow()))
    }

    /// Records how an attempt ended that had a store: with what it wrote there, in one commit.
    ///
    /// If others changed what it had read, nothing of it happened, and it is run again: its command still stands.
    pub(super) async fn finished_with_values(
        &mut self,
        (path, attempt): (StepPath, u32),
        outcome: AttemptOutcome,
        values: &StepValues,
    ) -> Result<Option<Stopped>, RunError> {
        let changes = match &outcome {
            AttemptOutcome::Succeeded { .. } => values.changes()?,
            AttemptOutcome::Failed { .. } => None,
        };
        let Some(changes) = changes else {
            self.conflicts.remove(&path);
            let outcome = self.kept(outcome)?;
            return self.attempt_finished((path, attempt), outcome).await;
        };
        let mark = self.carry.mark();
        let outcome = self.kept(outcome)?;
        if matches!(outcome, AttemptOutcome::Failed { .. }) {
            self.conflicts.remove(&path);
            return self.attempt_finished((path, attempt), outcome).await;
        }
        let event =
            Event::AttemptFinished { at: self.kernel.clock.now(), path: path.clone(), attempt, outcome, entropy: 0 };
        // What follows from the event is written with it. If nothing is, nothing has changed.
        let mut state = self.state.clone();
        let once = state.apply(&self.flow, &event)?;
        self.carry.batch.push(&event)?;
        self.carry.values = changes;
        let reply = self.take_in(once)?;
        match self.commit(RunChange::Stay).await {
            Ok(None) => {}
            Ok(stopped) => return Ok(stopped),
            Err(error) => {
                self.carry.rewind(&mark);
                return match error {
                    RunError::Store(StoreError::Conflict { entity: Entity::Value, .. }) => {
                        self.was_overtaken((path, attempt), values).await
                    }
                    RunError::Store(StoreError::LimitExceeded { entity: Entity::Value }) => {
                        self.conflicts.remove(&path);
                        let limit = self.kernel.value_limits.of_project();
                        let message = format!(
                            "the key-value store of the project is full: it holds at most {} values and {} bytes. Delete some, or \
                             let whoever runs the product raise the limit",
                            limit.entries, limit.bytes
                        );
                        self.refuse((path, attempt), StepError::new(StepErrorKind::Limit, message)).await
                    }
                    error => Err(error),
                };
            }
        }
        self.conflicts.remove(&path);
        self.state = state;
        // The end follows at once, and gives the reply.
        if let Some(reply) = reply.filter(|_| self.state.end().is_none()) {
            self.kernel.replies.publish(self.lease.run, Outcome::Replied(reply));
        }
        Ok(None)
    }

    /// Others changed what the attempt had read.
    async fn was_overtaken(
        &mut self,
        (path, attempt): (StepPath, u32),
        values: &StepValues,
    ) -> Result<Option<Stopped>, RunError> {
        let conflicts = self.conflicts.entry(path.clone()).or_default();
        conflicts.count += 1;
        let count = conflicts.count;
        if values.acted.load(Ordering::SeqCst) {
            self.conflicts.remove(&path);
            let message = "others changed what the script had read of its store, and it has sent requests: they are not sent \
                           twice, and nothing was stored. Read and write the store in a step of its own";
            return self.refuse((path, attempt), StepError::new(StepErrorKind::StoreConflict, message)).await;
        }
        if count >= MOST_CONFLICTS {
            self.conflicts.remove(&path);
            let message = format!("others changed what the script had read of its store {count} times while it ran");
            return self.refuse((path, attempt), StepError::new(StepErrorKind::StoreBusy, message)).await;
        }
        tracing::debug!(run = %self.lease.run, step = %path, count, "a step is run again: its store has changed");
        let rest = rest_after(count, self.kernel.random_u32()?);
        self.conflicts.insert(path, Conflicts { count, rest });
        Ok(None)
    }
}

/// A key of the store must be such that people can read and write it.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    let (most, count) = (ValueLimits::KEY_CHARACTERS, key.chars().count());
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(format!("a key of the store has 1 to {most} characters, and this one has {count}"))
}

fn unavailable(reason: &str) -> StoreCallError {
    StoreCallError::Unavailable { reason: reason.to_owned() }
}

/// A while by chance, on the whole longer each time, so that many who count in one place do not meet again.
fn rest_after(count: u32, entropy: u32) -> Duration {
    let longest = SHORTEST_REST * (1 << count.min(7));
    longest.mul_f64(f64::from(entropy) / f64::from(u32::MAX))
}

/// So often an attempt is run in vain before its step fails.
const MOST_CONFLICTS: u32 = 100;
const SHORTEST_REST: Duration = Duration::from_millis(2);
