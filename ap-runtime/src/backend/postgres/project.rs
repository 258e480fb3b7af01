//! Projects, keys, files and the audit trail.

use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    id::{FileId, KeyId, ProjectId},
    scope::Scope,
    store::{Entity, Page, PageRequest, StoreError},
};
use ap_crypto::keyring::{KeyKind, KeyStore, WrappedKey};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    PostgresBackend,
    link::{Failure, Transaction},
    value::{Columns, Id, corrupt, signed_small},
    writer::{Operation, audit_bytes},
};
use crate::{
    backend::{check_key_change, check_project, check_share, key_conflict},
    store::{AuditStore, FileRecord, FileStore, ProjectRecord, ProjectShare, ProjectStore},
};

#[async_trait]
impl ProjectStore for PostgresBackend {
    async fn create_project(
        &self,
        project: ProjectRecord,
        key: WrappedKey,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        check_project(&project, &key)?;
        check_share(&project.share)?;
        self.writer.write_after_all(CreateProject { project, key, audit: audit.to_vec() }).await
    }

    async fn project(&self, id: ProjectId) -> Result<ProjectRecord, StoreError> {
        let query = sqlx::query(PROJECT).bind(Id::from(id));
        self.row(query, read_project).await?.ok_or(StoreError::NotFound { entity: Entity::Project })
    }

    async fn set_share(&self, id: ProjectId, share: ProjectShare, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_share(&share)?;
        self.writer.write_after_all(SetShare { id, share, audit: audit.to_vec() }).await
    }
}

#[async_trait]
impl KeyStore for PostgresBackend {
    async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError> {
        self.rows(sqlx::query(KEYS).bind(scope.to_bytes().to_vec()), read_key).await
    }

    async fn key_page(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappedKey>, StoreError> {
        let query = sqlx::query(KEY_PAGE).bind(after.map(Id::from)).bind(i64::from(limit));
        self.rows(query, read_key).await
    }

    async fn insert_key(&self, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write_after_all(InsertKey { key, audit: audit.to_vec() }).await
    }

    async fn replace_key(&self, stored: &WrappedKey, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_key_change(stored, &key)?;
        let change = ChangeKey { stored: stored.clone(), key: Some(key), audit: audit.to_vec() };
        self.writer.write_after_all(change).await
    }

    async fn delete_key(&self, stored: &WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        let change = ChangeKey { stored: stored.clone(), key: None, audit: audit.to_vec() };
        self.writer.write_after_all(change).await
    }
}

#[async_trait]
impl AuditStore for PostgresBackend {
    async fn append_audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write_after_all(AppendAudit(records.to_vec())).await
    }

    async fn audit(&self, scope: Scope, page: &PageRequest) -> Result<Page<AuditRecord>, StoreError> {
        let query = sqlx::query(AUDIT).bind(scope.to_bytes().to_vec());
        self.page(query, page, read_audit, |record| record.id.as_u128()).await
    }
}

#[async_trait]
impl FileStore for PostgresBackend {
    async fn write_file(&self, file: FileRecord, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write_after_all(WriteFile { file, audit: audit.to_vec() }).await
    }

    async fn file(&self, id: FileId, project: ProjectId) -> Result<FileRecord, StoreError> {
        let query = sqlx::query(FILE).bind(Id::from(project)).bind(Id::from(id));
        self.row(query, read_file).await?.ok_or(StoreError::NotFound { entity: Entity::File })
    }

    async fn delete_file(&self, id: FileId, project: ProjectId, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write_after_all(DeleteFile { id, project, audit: audit.to_vec() }).await
    }
}

struct CreateProject {
    project: ProjectRecord,
    key: WrappedKey,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for CreateProject {
    type Output = ();

    fn bytes(&self) -> usize {
        self.project.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        sqlx::query("INSERT INTO ap_projects (id, created, weight, concurrency, sealed) VALUES ($1, $2, $3, $4, $5)")
            .bind(Id::from(self.project.id))
            .bind(self.project.created.as_micros())
            .bind(signed_small(self.project.share.weight))
            .bind(self.project.share.concurrency.map(signed_small))
            .bind(self.project.sealed.as_bytes().as_ref())
            .execute(&mut *transaction.connection)
            .await?;
        transaction.insert_key(&self.key).await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

struct SetShare {
    id: ProjectId,
    share: ProjectShare,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for SetShare {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let changed = sqlx::query("UPDATE ap_projects SET weight = $2, concurrency = $3 WHERE id = $1")
            .bind(Id::from(self.id))
            .bind(signed_small(self.share.weight))
            .bind(self.share.concurrency.map(signed_small))
            .execute(&mut *transaction.connection)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound { entity: Entity::Project }.into());
        }
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

struct InsertKey {
    key: WrappedKey,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for InsertKey {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        transaction.insert_key(&self.key).await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

/// Replaces the row of a key, or deletes it.
struct ChangeKey {
    stored: WrappedKey,
    key: Option<WrappedKey>,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for ChangeKey {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let id = Id::from(self.stored.id);
        let found = sqlx::query(LOCK_KEY).bind(id).fetch_optional(&mut *transaction.connection).await?;
        match found.as_ref().map(read_key).transpose()? {
            Some(found) if found == self.stored => {}
            Some(_) => return Err(key_conflict().into()),
            None => return Err(StoreError::NotFound { entity: Entity::Key }.into()),
        }
        sqlx::query("DELETE FROM ap_keys WHERE id = $1").bind(id).execute(&mut *transaction.connection).await?;
        if let Some(key) = &self.key {
            transaction.insert_key(key).await?;
        }
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

impl Transaction<'_> {
    async fn insert_key(&mut self, key: &WrappedKey) -> sqlx::Result<()> {
        sqlx::query("INSERT INTO ap_keys (id, scope, kind, parent, created, sealed) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(Id::from(key.id))
            .bind(key.scope.to_bytes().to_vec())
            .bind(i16::from(key.kind.number()))
            .bind(Id::from(key.parent))
            .bind(key.created.as_micros())
            .bind(key.wrapped.as_bytes().as_ref())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }
}

struct AppendAudit(Vec<AuditRecord>);

#[async_trait]
impl Operation for AppendAudit {
    type Output = ();

    fn bytes(&self) -> usize {
        audit_bytes(&self.0)
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        transaction.insert_audit(&self.0).await?;
        Ok(())
    }
}

struct WriteFile {
    file: FileRecord,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for WriteFile {
    type Output = ();

    fn bytes(&self) -> usize {
        self.file.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        transaction.lock_project(self.file.project).await?;
        transaction.insert_files([&self.file]).await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

struct DeleteFile {
    id: FileId,
    project: ProjectId,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for DeleteFile {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let deleted = sqlx::query("DELETE FROM ap_files WHERE project = $1 AND id = $2")
            .bind(Id::from(self.project))
            .bind(Id::from(self.id))
            .execute(&mut *transaction.connection)
            .await?;
        if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound { entity: Entity::File }.into());
        }
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

fn read_project(row: &PgRow) -> sqlx::Result<ProjectRecord> {
    let mut columns = Columns::of(row);
    let (id, created, weight) = (columns.id()?, columns.time()?, columns.small()?);
    let concurrency: Option<i32> = columns.value()?;
    let concurrency = concurrency.map(|runs| u32::try_from(runs).unwrap_or(0));
    Ok(ProjectRecord { id, created, share: ProjectShare { weight, concurrency }, sealed: columns.sealed()? })
}

fn read_key(row: &PgRow) -> sqlx::Result<WrappedKey> {
    let mut columns = Columns::of(row);
    Ok(WrappedKey {
        id: columns.id()?,
        scope: columns.scope()?,
        kind: KeyKind::from_number(columns.value::<i16>()?.into()).ok_or_else(|| corrupt("not a kind of key"))?,
        parent: columns.id()?,
        created: columns.time()?,
        wrapped: columns.sealed()?,
    })
}

/// An outcome as it is spelled in the database.
pub(super) fn outcome(text: &str) -> sqlx::Result<AuditOutcome> {
    match text {
        "DENIED" => Ok(AuditOutcome::Denied),
        "FAILURE" => Ok(AuditOutcome::Failure),
        "SUCCESS" => Ok(AuditOutcome::Success),
        _ => Err(corrupt("not an audit outcome")),
    }
}

fn read_audit(row: &PgRow) -> sqlx::Result<AuditRecord> {
    let mut columns = Columns::of(row);
    Ok(AuditRecord {
        scope: columns.scope()?,
        id: columns.id()?,
        at: columns.time()?,
        action: columns.value()?,
        outcome: outcome(columns.value()?)?,
        body: columns.sealed()?,
    })
}

fn read_file(row: &PgRow) -> sqlx::Result<FileRecord> {
    let mut columns = Columns::of(row);
    Ok(FileRecord {
        id: columns.id()?,
        project: columns.id()?,
        run: columns.maybe_id()?,
        created: columns.time()?,
        sealed: columns.sealed()?,
    })
}

const PROJECT: &str = "SELECT id, created, weight, concurrency, sealed FROM ap_projects WHERE id = $1";
const KEYS: &str = "SELECT id, scope, kind, parent, created, sealed FROM ap_keys WHERE scope = $1 ORDER BY id";
const KEY_PAGE: &str = "SELECT id, scope, kind, parent, created, sealed FROM ap_keys \
    WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2";
const LOCK_KEY: &str = "SELECT id, scope, kind, parent, created, sealed FROM ap_keys WHERE id = $1 FOR UPDATE";
const AUDIT: &str = "SELECT scope, id, at, action, outcome, sealed FROM ap_audit \
    WHERE scope = $1 AND id >= $2 ORDER BY id LIMIT $3";
const FILE: &str = "SELECT id, project, run, created, sealed FROM ap_files WHERE project = $1 AND id = $2";
