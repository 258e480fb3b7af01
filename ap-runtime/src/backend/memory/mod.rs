//! [`MemoryBackend`]: the reference for what every seam means.
//!
//! One mutex over ordered maps, never held across an `await`, no order that depends on hashing: with a manual clock the
//! same calls give the same results. Nothing survives the process; [`MemoryBackend::crash`] does to the data what a
//! restart does to a durable backend, so a simulation can test recovery on it.

mod accept;
mod cell;
mod claim;
mod connection;
mod file;
mod flow;
mod gate;
mod queue;
mod run;
mod signal;
#[cfg(feature = "sim")]
mod snapshot;
mod subject;
mod system;
#[cfg(test)]
mod tests;
mod trigger;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ap_core::{
    audit::AuditRecord,
    id::{AuditId, ConnectionId, FileId, FlowId, FlowVersionId, JobId, KeyId, ProjectId, RunId, ValueId, WorkerId},
    run::RunStatus,
    scope::Scope,
    store::{Entity, LookupHash, Page, PageRequest, StoreError},
    time::Timestamp,
};
use ap_crypto::{
    keyring::{KeyStore, WrappedKey},
    subject::WrappedSubjectKey,
};
use async_trait::async_trait;

#[cfg(feature = "sim")]
pub(crate) use self::snapshot::MemorySnapshot;
use self::{
    accept::{Delivery, PaceKey, Series},
    claim::Schedule,
    gate::GateState,
    queue::{Job, Queue},
    run::Run,
    trigger::Trigger,
};
use super::{check_key_change, check_project, check_share, key_conflict};
use crate::{
    clock::Clock,
    store::{
        AuditStore, Erasure, FileRecord, FlowRecord, FlowVersionRecord, ProjectRecord, ProjectShare, ProjectStore,
        SharedConnection, ValueRecord, WorkerRecord,
    },
};

/// Keeps everything in memory, for tests and simulation.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use ap_runtime::{backend::memory::MemoryBackend, clock::SystemClock, store::Backend};
///
/// let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(Arc::new(SystemClock)));
/// ```
pub struct MemoryBackend {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

impl MemoryBackend {
    /// An empty backend; leases and deliveries expire by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Does what the restart of a process does on a durable backend: every run that was being executed gets a new
    /// epoch and loses its lease, so that whoever held it is fenced off and the next claim hands the run out at once. The same goes
    /// for claimed schedules and polls. Everything else stays as it is.
    pub fn crash(&self) {
        let now = self.clock.now();
        let mut state = self.lock();
        let live: Vec<_> = state.live.iter().copied().collect();
        for key in live {
            state.change_run(key, now, |run| {
                if run.record.status == RunStatus::Running {
                    run.epoch = run.epoch.saturating_add(1);
                    run.leased_until = None;
                    run.record.status = RunStatus::Queued;
                }
            });
        }
        state.free_triggers();
        state.connections.values_mut().for_each(|stored| stored.leased = None);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every method checks first and changes last, so a panic under the lock leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").field("clock", &self.clock).finish_non_exhaustive()
    }
}

#[async_trait]
impl ProjectStore for MemoryBackend {
    async fn create_project(
        &self,
        project: ProjectRecord,
        key: WrappedKey,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        check_project(&project, &key)?;
        check_share(&project.share)?;
        let mut state = self.lock();
        if state.projects.contains_key(&project.id) {
            return Err(StoreError::AlreadyExists { entity: Entity::Project });
        }
        state.check_key(&key)?;
        state.append_audit(audit)?;
        state.keys.insert(key.id, key);
        state.projects.insert(project.id, project);
        Ok(())
    }

    async fn project(&self, id: ProjectId) -> Result<ProjectRecord, StoreError> {
        self.lock().projects.get(&id).cloned().ok_or(StoreError::NotFound { entity: Entity::Project })
    }

    async fn set_share(&self, id: ProjectId, share: ProjectShare, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_share(&share)?;
        let mut state = self.lock();
        state.check_exists(id)?;
        state.append_audit(audit)?;
        if let Some(project) = state.projects.get_mut(&id) {
            project.share = share;
        }
        Ok(())
    }
}

#[async_trait]
impl KeyStore for MemoryBackend {
    async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError> {
        Ok(self.lock().keys.values().filter(|key| key.scope == scope).cloned().collect())
    }

    async fn key_page(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappedKey>, StoreError> {
        let state = self.lock();
        let behind = |key: &&WrappedKey| after.is_none_or(|after| key.id > after);
        Ok(state.keys.values().filter(behind).take(limit as usize).cloned().collect())
    }

    async fn insert_key(&self, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.check_key(&key)?;
        state.append_audit(audit)?;
        state.keys.insert(key.id, key);
        Ok(())
    }

    async fn replace_key(&self, stored: &WrappedKey, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_key_change(stored, &key)?;
        let mut state = self.lock();
        state.check_stored_key(stored)?;
        state.append_audit(audit)?;
        state.keys.insert(key.id, key);
        Ok(())
    }

    async fn delete_key(&self, stored: &WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.check_stored_key(stored)?;
        state.append_audit(audit)?;
        state.keys.remove(&stored.id);
        Ok(())
    }
}

#[async_trait]
impl AuditStore for MemoryBackend {
    async fn append_audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        self.lock().append_audit(records)
    }

    async fn audit(&self, scope: Scope, page: &PageRequest) -> Result<Page<AuditRecord>, StoreError> {
        let state = self.lock();
        let rows =
            state.audit.iter().filter(|((of, _), _)| *of == scope).map(|((_, id), record)| (id.as_u128(), record));
        Ok(page_of(rows, page))
    }
}

/// A run, among those of all projects.
type RunKey = (ProjectId, RunId);

/// What is named by a keyed hash, in its project.
type HashKey = (ProjectId, LookupHash);

#[derive(Clone, Default)]
struct State {
    projects: BTreeMap<ProjectId, ProjectRecord>,
    keys: BTreeMap<KeyId, WrappedKey>,
    audit: BTreeMap<(Scope, AuditId), AuditRecord>,
    flows: BTreeMap<(ProjectId, FlowId), FlowRecord>,
    webhooks: BTreeMap<LookupHash, (ProjectId, FlowId)>,
    versions: BTreeMap<(ProjectId, FlowVersionId), FlowVersionRecord>,
    connections: BTreeMap<(Scope, ConnectionId), connection::Stored>,
    shared: BTreeMap<(ProjectId, ConnectionId), SharedConnection>,
    triggers: BTreeMap<(ProjectId, FlowId), Trigger>,
    runs: BTreeMap<RunKey, Run>,
    /// Runs that have not ended.
    live: BTreeSet<RunKey>,
    /// Runs that another one started: project, parent, child.
    children: BTreeSet<(ProjectId, RunId, RunId)>,
    /// Which runs can be claimed, now or later.
    schedule: Schedule,
    deliveries: BTreeMap<HashKey, Delivery>,
    paces: BTreeMap<PaceKey, Timestamp>,
    gates: BTreeMap<HashKey, GateState>,
    series: BTreeMap<HashKey, Series>,
    jobs: BTreeMap<(ProjectId, JobId), Job>,
    queues: BTreeMap<HashKey, Queue>,
    files: BTreeMap<(ProjectId, FileId), FileRecord>,
    values: BTreeMap<(ProjectId, ValueId), ValueRecord>,
    subject_keys: BTreeMap<(ProjectId, KeyId), WrappedSubjectKey>,
    subjects: BTreeMap<HashKey, KeyId>,
    /// Runs that name a subject's key: project, key, run.
    subject_runs: BTreeSet<(ProjectId, KeyId, RunId)>,
    erasures: BTreeMap<(ProjectId, KeyId), Erasure>,
    workers: BTreeMap<WorkerId, WorkerRecord>,
}

impl State {
    fn check_key(&self, key: &WrappedKey) -> Result<(), StoreError> {
        if self.keys.contains_key(&key.id) { Err(StoreError::AlreadyExists { entity: Entity::Key }) } else { Ok(()) }
    }

    fn check_stored_key(&self, stored: &WrappedKey) -> Result<(), StoreError> {
        match self.keys.get(&stored.id) {
            Some(key) if key == stored => Ok(()),
            Some(_) => Err(key_conflict()),
            None => Err(StoreError::NotFound { entity: Entity::Key }),
        }
    }

    fn check_exists(&self, project: ProjectId) -> Result<(), StoreError> {
        if self.projects.contains_key(&project) {
            Ok(())
        } else {
            Err(StoreError::NotFound { entity: Entity::Project })
        }
    }

    /// Appends all records or none. The last check of every write: what follows it cannot fail.
    fn append_audit(&mut self, records: &[AuditRecord]) -> Result<(), StoreError> {
        self.check_audit(records)?;
        self.audit.extend(records.iter().map(|record| ((record.scope, record.id), record.clone())));
        Ok(())
    }

    /// Whether these records can be appended together.
    fn check_audit<'a>(&self, records: impl IntoIterator<Item = &'a AuditRecord>) -> Result<(), StoreError> {
        let mut new = BTreeSet::new();
        for record in records {
            let key = (record.scope, record.id);
            if self.audit.contains_key(&key) || !new.insert(key) {
                return Err(StoreError::AlreadyExists { entity: Entity::AuditRecord });
            }
        }
        Ok(())
    }
}

/// One page of `rows`, which come in ascending order of id.
fn page_of<'a, T: Clone + 'a>(rows: impl Iterator<Item = (u128, &'a T)>, page: &PageRequest) -> Page<T> {
    let rows: Vec<(u128, T)> = rows
        .filter(|(id, _)| page.start_after().is_none_or(|after| *id > after))
        .take(page.limit() as usize + 1)
        .map(|(id, row)| (id, row.clone()))
        .collect();
    let page = Page::from_rows(rows, page, |(id, _)| *id);
    Page { items: page.items.into_iter().map(|(_, row)| row).collect(), next: page.next }
}
