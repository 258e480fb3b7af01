//! Data subjects: their keys, and the erasure of what is sealed under them.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    id::{KeyId, ProjectId},
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use ap_crypto::subject::WrappedSubjectKey;
use async_trait::async_trait;
use serde::Serialize;

/// That a key was destroyed, and what it covered. Kept for ever, so that a read of what was erased can say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// The key.
    pub key: KeyId,
    /// Its project.
    pub project: ProjectId,
    /// Keyed hash of the subject.
    pub subject: LookupHash,
    /// The root key it was wrapped under.
    pub root: KeyId,
    /// When it was made.
    pub created: Timestamp,
    /// When it was destroyed.
    pub at: Timestamp,
    /// How many runs were sealed under it.
    pub runs: u64,
    /// How many entries of their journals.
    pub entries: u64,
    /// How many of their files.
    pub files: u64,
    /// Whether all that follows from it is done: see [`SubjectStore::finish_erasure`].
    pub finished: bool,
}

/// What a store leaves behind of a key that was destroyed, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Residue {
    /// Nothing: it was overwritten in the database, and the log that held it was truncated.
    Nothing,
    /// The row is deleted; its bytes stay in the pages of the table until they are vacuumed and written over, and in the
    /// write-ahead log, on replicas and in archives of it as long as those are kept.
    UntilVacuumed,
}

/// Keys of data subjects.
///
/// A run whose record names such a key is sealed under it. [`SystemStore::accept`](super::SystemStore::accept) adds the key with
/// the first run.
#[async_trait]
pub trait SubjectStore: fmt::Debug + Send + Sync + 'static {
    /// The key of a subject; `None` if it has none, or none any more.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn subject_key(
        &self,
        subject: LookupHash,
        project: ProjectId,
    ) -> Result<Option<WrappedSubjectKey>, StoreError>;

    /// A key by its id.
    ///
    /// # Errors
    /// `NotFound` of a subject if there is none, or none any more; [`StoreError`] lists the rest.
    async fn subject_key_by_id(&self, id: KeyId, project: ProjectId) -> Result<WrappedSubjectKey, StoreError>;

    /// Destroys a key: deletes it, notes at `at` what it covered, ends up to [`ERASE_BATCH`] of its runs as `CANCELED` without a
    /// journal entry, whoever holds them, and adds `audit`: one transaction. Whoever held one of them finds its lease lost.
    ///
    /// # Errors
    /// `NotFound` of a subject if there is none, or none any more; [`StoreError`] lists the rest.
    async fn erase_subject(
        &self,
        id: KeyId,
        project: ProjectId,
        at: Timestamp,
        audit: &[AuditRecord],
    ) -> Result<Erasure, StoreError>;

    /// Ends up to [`ERASE_BATCH`] more runs of a destroyed key; returns how many. Fewer than that are the last.
    ///
    /// # Errors
    /// `NotFound` of a subject if no such key was destroyed; [`StoreError`] lists the rest.
    async fn end_erased_runs(&self, id: KeyId, project: ProjectId) -> Result<u64, StoreError>;

    /// Sees to it that a destroyed key is in no file of the database any more, as far as [`SubjectStore::residue`] says, and notes
    /// that the erasure is finished. Can be repeated.
    ///
    /// # Errors
    /// `Unavailable` if that cannot be done now, because somebody reads an old state; `NotFound` of a subject if no such key was
    /// destroyed; [`StoreError`] lists the rest.
    async fn finish_erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError>;

    /// What is left of a key after [`SubjectStore::finish_erasure`].
    fn residue(&self) -> Residue;

    /// The erasure of a key.
    ///
    /// # Errors
    /// `NotFound` of a subject if no such key was destroyed; [`StoreError`] lists the rest.
    async fn erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError>;

    /// The last erasure of a subject, by time.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn last_erasure(&self, subject: LookupHash, project: ProjectId) -> Result<Option<Erasure>, StoreError>;

    /// Up to `limit` erasures of all projects that were begun and not finished, the oldest first. Unreachable from a session.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn unfinished_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError>;

    /// Up to `limit` keys of all projects behind `after`, in order of project and id: what a rotation of the root key walks over.
    /// Unreachable from a session.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn subject_key_page(
        &self,
        after: Option<(ProjectId, KeyId)>,
        limit: u32,
    ) -> Result<Vec<WrappedSubjectKey>, StoreError>;

    /// Puts `key` in the place of `stored`, which is the same but for root key and wrapping, if that has not changed.
    ///
    /// # Errors
    /// `NotFound` of a subject if there is none any more, `Conflict` (its `current` is meaningless) if it has changed;
    /// [`StoreError::Backend`] if the two are not the same key; [`StoreError`] lists the rest.
    async fn replace_subject_key(&self, stored: &WrappedSubjectKey, key: WrappedSubjectKey) -> Result<(), StoreError>;
}

/// Runs that an erasure ends in one transaction.
pub const ERASE_BATCH: u32 = 256;
