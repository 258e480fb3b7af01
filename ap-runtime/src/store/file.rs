//! Files: what is too large for a journal.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    id::{FileId, ProjectId, RunId},
    store::{Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

/// A file, as stored: an output that is too large for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its id.
    pub id: FileId,
    /// Its project.
    pub project: ProjectId,
    /// The run it belongs to, if any.
    pub run: Option<RunId>,
    /// When it was stored.
    pub created: Timestamp,
    /// Its content, sealed.
    pub sealed: Sealed,
}

/// Files.
#[async_trait]
pub trait FileStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a file. Files of a run come with the commit that refers to them instead.
    ///
    /// # Errors
    /// `NotFound` if there is no such project; `AlreadyExists`; [`StoreError`] lists the rest.
    async fn write_file(&self, file: FileRecord, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn file(&self, id: FileId, project: ProjectId) -> Result<FileRecord, StoreError>;

    /// Deletes a file.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn delete_file(&self, id: FileId, project: ProjectId, audit: &[AuditRecord]) -> Result<(), StoreError>;
}
