//! Keys of data subjects, and erasures.

use std::{collections::BTreeMap, ops::Bound};

use ap_core::{
    audit::AuditRecord,
    id::{KeyId, ProjectId, RunId},
    run::RunStatus,
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use ap_crypto::subject::WrappedSubjectKey;
use async_trait::async_trait;

use super::{MemoryBackend, State};
use crate::{
    backend::{check_subject_key_change, no_subject, subject_conflict},
    store::{Accept, ERASE_BATCH, Erasure, Residue, SubjectStore},
};

#[async_trait]
impl SubjectStore for MemoryBackend {
    async fn subject_key(
        &self,
        subject: LookupHash,
        project: ProjectId,
    ) -> Result<Option<WrappedSubjectKey>, StoreError> {
        let state = self.lock();
        let id = state.subjects.get(&(project, subject));
        Ok(id.and_then(|id| state.subject_keys.get(&(project, *id))).cloned())
    }

    async fn subject_key_by_id(&self, id: KeyId, project: ProjectId) -> Result<WrappedSubjectKey, StoreError> {
        self.lock().subject_keys.get(&(project, id)).cloned().ok_or_else(no_subject)
    }

    async fn erase_subject(
        &self,
        id: KeyId,
        project: ProjectId,
        at: Timestamp,
        audit: &[AuditRecord],
    ) -> Result<Erasure, StoreError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let key = state.subject_keys.get(&(project, id)).cloned().ok_or_else(no_subject)?;
        state.append_audit(audit)?;
        let WrappedSubjectKey { subject, root, created, .. } = key;
        let (runs, entries, files) = state.covered(project, id);
        let finished = false;
        let erasure = Erasure { key: id, project, subject, root, created, at, runs, entries, files, finished };
        state.subject_keys.remove(&(project, id));
        state.subjects.remove(&(project, subject));
        state.erasures.insert((project, id), erasure.clone());
        state.end_erased(project, id, now);
        Ok(erasure)
    }

    async fn end_erased_runs(&self, id: KeyId, project: ProjectId) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.erasures.get(&(project, id)).ok_or_else(no_subject)?;
        Ok(state.end_erased(project, id, now))
    }

    async fn finish_erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        let mut state = self.lock();
        let erasure = state.erasures.get_mut(&(project, id)).ok_or_else(no_subject)?;
        erasure.finished = true;
        Ok(erasure.clone())
    }

    fn residue(&self) -> Residue {
        Residue::Nothing
    }

    async fn erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        self.lock().erasures.get(&(project, id)).cloned().ok_or_else(no_subject)
    }

    async fn last_erasure(&self, subject: LookupHash, project: ProjectId) -> Result<Option<Erasure>, StoreError> {
        let state = self.lock();
        let of = |erasure: &&Erasure| (erasure.project, erasure.subject) == (project, subject);
        Ok(state.erasures.values().filter(of).max_by_key(|erasure| (erasure.at, erasure.key)).cloned())
    }

    async fn unfinished_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        let state = self.lock();
        let mut found: Vec<Erasure> = state.erasures.values().filter(|erasure| !erasure.finished).cloned().collect();
        found.sort_by_key(|erasure| (erasure.at, erasure.project, erasure.key));
        found.truncate(limit as usize);
        Ok(found)
    }

    async fn subject_key_page(
        &self,
        after: Option<(ProjectId, KeyId)>,
        limit: u32,
    ) -> Result<Vec<WrappedSubjectKey>, StoreError> {
        let state = self.lock();
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        Ok(state.subject_keys.range(behind).take(limit as usize).map(|(_, key)| key.clone()).collect())
    }

    async fn replace_subject_key(&self, stored: &WrappedSubjectKey, key: WrappedSubjectKey) -> Result<(), StoreError> {
        let project = check_subject_key_change(stored, &key)?;
        let mut state = self.lock();
        let found = state.subject_keys.get_mut(&(project, key.id)).ok_or_else(no_subject)?;
        if found != stored {
            return Err(subject_conflict());
        }
        *found = key;
        Ok(())
    }
}

impl State {
    /// Whether the key that the run names is the subject's, or can become so.
    pub(super) fn check_subject(&self, accept: &Accept) -> Result<(), StoreError> {
        self.check_subjects([accept])
    }

    /// The same of several acceptances, of which an earlier one may bring the key of a later one.
    pub(super) fn check_subjects<'a>(&self, accepts: impl IntoIterator<Item = &'a Accept>) -> Result<(), StoreError> {
        let mut new: BTreeMap<LookupHash, KeyId> = BTreeMap::new();
        for accept in accepts {
            let project = accept.run.project;
            let Some(id) = accept.run.subject else { continue };
            if self.subject_keys.contains_key(&(project, id)) || new.values().any(|other| *other == id) {
                continue;
            }
            let key = accept.subject_key.as_ref().ok_or_else(subject_conflict)?;
            let destroyed = self.erasures.contains_key(&(project, id));
            let rival = self.subjects.contains_key(&(project, key.subject)) || new.insert(key.subject, id).is_some();
            if destroyed || rival {
                return Err(subject_conflict());
            }
        }
        Ok(())
    }

    /// Adds a key that was checked, if it is not there yet.
    pub(super) fn add_subject_key(&mut self, project: ProjectId, key: WrappedSubjectKey) {
        self.subjects.entry((project, key.subject)).or_insert(key.id);
        self.subject_keys.entry((project, key.id)).or_insert(key);
    }

    /// Runs, journal entries and files under a key.
    fn covered(&self, project: ProjectId, id: KeyId) -> (u64, u64, u64) {
        let (mut runs, mut entries, mut files) = (0, 0, 0);
        for run in self.runs_of(project, id) {
            runs += 1;
            entries += self.runs.get(&(project, run)).map_or(0, |run| run.journal.len() as u64);
            let own = self.files.values().filter(|file| (file.project, file.run) == (project, Some(run)));
            files += own.count() as u64;
        }
        (runs, entries, files)
    }

    fn runs_of(&self, project: ProjectId, id: KeyId) -> impl Iterator<Item = RunId> {
        let range = (project, id, RunId::from_u128(0))..=(project, id, RunId::from_u128(u128::MAX));
        self.subject_runs.range(range).map(|(.., run)| *run)
    }

    /// Ends a batch of the key's runs; returns how many.
    fn end_erased(&mut self, project: ProjectId, id: KeyId, now: Timestamp) -> u64 {
        let live = self.runs_of(project, id).filter(|run| self.live.contains(&(project, *run)));
        let live: Vec<RunId> = live.take(ERASE_BATCH as usize).collect();
        for run in &live {
            if let Some(gate) = self.end_run((project, *run), RunStatus::Canceled, now, now) {
                self.promote((project, gate), now);
            }
        }
        live.len() as u64
    }
}
