//! Files.

use ap_core::{
    audit::AuditRecord,
    id::{FileId, ProjectId, RunId},
    store::{Entity, StoreError},
};
use async_trait::async_trait;
use rusqlite::params;

use super::{
    SqliteBackend, connect,
    project::{append, audit_bytes, require_project},
    row::Columns,
    writer::{Failure, Operation, Transaction},
};
use crate::store::{FileRecord, FileStore};

#[async_trait]
impl FileStore for SqliteBackend {
    async fn write_file(&self, file: FileRecord, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write(WriteFile { file, audit: audit.to_vec() }).await
    }

    async fn file(&self, id: FileId, project: ProjectId) -> Result<FileRecord, StoreError> {
        let sql = "SELECT id, project, run, created, sealed FROM ap_files WHERE project = ? AND id = ?";
        let read = move |open: &_| connect::row(open, sql, [project.as_bytes(), id.as_bytes()], read_file);
        self.readers.read(read).await?.ok_or(StoreError::NotFound { entity: Entity::File })
    }

    async fn delete_file(&self, id: FileId, project: ProjectId, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write(DeleteFile { id, project, audit: audit.to_vec() }).await
    }
}

struct WriteFile {
    file: FileRecord,
    audit: Vec<AuditRecord>,
}

impl Operation for WriteFile {
    type Output = ();

    fn bytes(&self) -> usize {
        self.file.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        require_project(transaction, self.file.project)?;
        put(transaction, &self.file)?;
        append(transaction, &self.audit)
    }
}

struct DeleteFile {
    id: FileId,
    project: ProjectId,
    audit: Vec<AuditRecord>,
}

impl Operation for DeleteFile {
    type Output = ();

    fn bytes(&self) -> usize {
        audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let key = [self.project.as_bytes(), self.id.as_bytes()];
        if transaction.run("DELETE FROM ap_files WHERE project = ? AND id = ?", key)? == 0 {
            return Err(StoreError::NotFound { entity: Entity::File }.into());
        }
        append(transaction, &self.audit)
    }
}

/// Stores a file; one whose id is taken fails the transaction.
pub(super) fn put(transaction: &Transaction<'_>, file: &FileRecord) -> rusqlite::Result<()> {
    let FileRecord { id, project, run, created, sealed } = file;
    transaction.run(
        "INSERT INTO ap_files (project, id, run, created, sealed) VALUES (?, ?, ?, ?, ?)",
        params![
            project.as_bytes(),
            id.as_bytes(),
            run.as_ref().map(RunId::as_bytes),
            created.as_micros(),
            sealed.as_bytes().as_ref()
        ],
    )?;
    Ok(())
}

fn read_file(columns: &mut Columns<'_>) -> rusqlite::Result<FileRecord> {
    Ok(FileRecord {
        id: columns.id(FileId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        run: columns.maybe_id(RunId::from_slice)?,
        created: columns.time()?,
        sealed: columns.sealed()?,
    })
}
