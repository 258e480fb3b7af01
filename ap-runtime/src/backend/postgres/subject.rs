//! Keys of data subjects, and erasures.

use ap_core::{
    audit::AuditRecord,
    id::{KeyId, ProjectId, RunId},
    run::RunStatus,
    scope::Scope,
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use ap_crypto::subject::WrappedSubjectKey;
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    PostgresBackend,
    link::{Failure, Transaction},
    rows::Change,
    value::{Columns, Id},
    writer::{Operation, RunKey, audit_bytes},
};
use crate::{
    backend::{check_subject_key_change, no_subject, subject_conflict},
    store::{Accept, ERASE_BATCH, Erasure, Residue, RunChange, SubjectStore},
};

#[async_trait]
impl SubjectStore for PostgresBackend {
    async fn subject_key(
        &self,
        subject: LookupHash,
        project: ProjectId,
    ) -> Result<Option<WrappedSubjectKey>, StoreError> {
        let query = sqlx::query(KEY_OF_SUBJECT).bind(Id::from(project)).bind(subject.0.to_vec());
        self.row(query, read_key).await
    }

    async fn subject_key_by_id(&self, id: KeyId, project: ProjectId) -> Result<WrappedSubjectKey, StoreError> {
        let query = sqlx::query(KEY).bind(Id::from(project)).bind(Id::from(id));
        self.row(query, read_key).await?.ok_or_else(no_subject)
    }

    async fn erase_subject(
        &self,
        id: KeyId,
        project: ProjectId,
        at: Timestamp,
        audit: &[AuditRecord],
    ) -> Result<Erasure, StoreError> {
        self.writer.write(Erase { id, project, at, audit: audit.to_vec() }).await
    }

    async fn end_erased_runs(&self, id: KeyId, project: ProjectId) -> Result<u64, StoreError> {
        self.writer.write(EndErased { id, project }).await
    }

    async fn finish_erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        self.writer.write(Finish { id, project }).await
    }

    fn residue(&self) -> Residue {
        Residue::UntilVacuumed
    }

    async fn erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        let query = sqlx::query(ERASURE).bind(Id::from(project)).bind(Id::from(id));
        self.row(query, read_erasure).await?.ok_or_else(no_subject)
    }

    async fn last_erasure(&self, subject: LookupHash, project: ProjectId) -> Result<Option<Erasure>, StoreError> {
        let query = sqlx::query(LAST_ERASURE).bind(Id::from(project)).bind(subject.0.to_vec());
        self.row(query, read_erasure).await
    }

    async fn unfinished_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        self.rows(sqlx::query(UNFINISHED).bind(i64::from(limit)), read_erasure).await
    }

    async fn subject_key_page(
        &self,
        after: Option<(ProjectId, KeyId)>,
        limit: u32,
    ) -> Result<Vec<WrappedSubjectKey>, StoreError> {
        // No key has the lowest id that there is.
        let (project, id) = after.map_or((Id(0), Id(0)), |(project, id)| (Id::from(project), Id::from(id)));
        let query = sqlx::query(KEYS).bind(project).bind(id).bind(i64::from(limit));
        self.rows(query, read_key).await
    }

    async fn replace_subject_key(&self, stored: &WrappedSubjectKey, key: WrappedSubjectKey) -> Result<(), StoreError> {
        let project = check_subject_key_change(stored, &key)?;
        self.writer.write(Replace { project, stored: stored.clone(), key }).await
    }
}

struct Erase {
    id: KeyId,
    project: ProjectId,
    at: Timestamp,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for Erase {
    type Output = Erasure;

    fn bytes(&self) -> usize {
        audit_bytes(&self.audit)
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Erasure, Failure> {
        let (project, id) = (Id::from(self.project), Id::from(self.id));
        // Waits for acceptances that use the key: none comes after the count.
        let found = sqlx::query(DESTROY).bind(project).bind(id).fetch_optional(&mut *transaction.connection).await?;
        let key = read_key(&found.ok_or_else(no_subject)?)?;
        let row = sqlx::query(NOTE)
            .bind(project)
            .bind(id)
            .bind(key.subject.0.to_vec())
            .bind(Id::from(key.root))
            .bind(key.created.as_micros())
            .bind(self.at.as_micros())
            .fetch_one(&mut *transaction.connection)
            .await?;
        let erasure = read_erasure(&row)?;
        transaction.end_erased(self.project, self.id).await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(erasure)
    }
}

struct EndErased {
    id: KeyId,
    project: ProjectId,
}

#[async_trait]
impl Operation for EndErased {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, Failure> {
        let query = sqlx::query(ERASURE).bind(Id::from(self.project)).bind(Id::from(self.id));
        if query.fetch_optional(&mut *transaction.connection).await?.is_none() {
            return Err(no_subject().into());
        }
        Ok(transaction.end_erased(self.project, self.id).await?)
    }
}

struct Finish {
    id: KeyId,
    project: ProjectId,
}

#[async_trait]
impl Operation for Finish {
    type Output = Erasure;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Erasure, Failure> {
        let query = sqlx::query(FINISH).bind(Id::from(self.project)).bind(Id::from(self.id));
        let row = query.fetch_optional(&mut *transaction.connection).await?;
        Ok(read_erasure(&row.ok_or_else(no_subject)?)?)
    }
}

struct Replace {
    project: ProjectId,
    stored: WrappedSubjectKey,
    key: WrappedSubjectKey,
}

#[async_trait]
impl Operation for Replace {
    type Output = ();

    fn bytes(&self) -> usize {
        self.key.wrapped.as_bytes().len()
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let (project, id) = (Id::from(self.project), Id::from(self.key.id));
        let found = sqlx::query(LOCK_KEY).bind(project).bind(id).fetch_optional(&mut *transaction.connection).await?;
        match found.as_ref().map(read_key).transpose()? {
            Some(found) if found == self.stored => {}
            Some(_) => return Err(subject_conflict().into()),
            None => return Err(no_subject().into()),
        }
        sqlx::query("UPDATE ap_subject_keys SET root = $3, sealed = $4 WHERE project = $1 AND id = $2")
            .bind(project)
            .bind(id)
            .bind(Id::from(self.key.root))
            .bind(self.key.wrapped.as_bytes().as_ref())
            .execute(&mut *transaction.connection)
            .await?;
        Ok(())
    }
}

impl Transaction<'_> {
    /// The key that has to be added with the run, if its project lacks it. One that is there stays until the end.
    pub(super) async fn missing_subject_key<'a>(
        &mut self,
        accept: &'a Accept,
    ) -> Result<Option<&'a WrappedSubjectKey>, Failure> {
        let Some(id) = accept.run.subject else { return Ok(None) };
        let query = sqlx::query(USE_KEY).bind(Id::from(accept.run.project)).bind(Id::from(id));
        if query.fetch_optional(&mut *self.connection).await?.is_some() {
            return Ok(None);
        }
        Ok(Some(accept.subject_key.as_ref().ok_or_else(subject_conflict)?))
    }

    /// Adds a key. Another one of the same subject, or the same that was destroyed, undoes the transaction.
    pub(super) async fn add_subject_key(&mut self, project: ProjectId, key: &WrappedSubjectKey) -> Result<(), Failure> {
        let added = sqlx::query(INSERT_KEY)
            .bind(Id::from(project))
            .bind(Id::from(key.id))
            .bind(key.subject.0.to_vec())
            .bind(Id::from(key.root))
            .bind(key.created.as_micros())
            .bind(key.wrapped.as_bytes().as_ref())
            .execute(&mut *self.connection)
            .await?;
        if added.rows_affected() == 0 {
            return Err(subject_conflict().into());
        }
        Ok(())
    }

    /// Ends a batch of the runs of a destroyed key; returns how many.
    async fn end_erased(&mut self, project: ProjectId, id: KeyId) -> sqlx::Result<u64> {
        let rows = sqlx::query(LIVE_RUNS)
            .bind(Id::from(project))
            .bind(Id::from(id))
            .bind(i64::from(ERASE_BATCH))
            .fetch_all(&mut *self.connection)
            .await?;
        let live: Vec<RunKey> =
            rows.iter().map(|row| Ok((project, Columns::of(row).id::<RunId>()?))).collect::<sqlx::Result<_>>()?;
        let end = RunChange::End { status: RunStatus::Canceled, at: self.now };
        let stored = self.lock_runs(live.iter().copied()).await?;
        // Some may have ended since they were found.
        let changes: Vec<Change> = stored
            .into_iter()
            .filter(|(_, stored)| !stored.status.is_terminal())
            .map(|(key, stored)| (key, end, stored))
            .collect();
        self.change_runs(&changes).await?;
        Ok(live.len() as u64)
    }
}

fn read_key(row: &PgRow) -> sqlx::Result<WrappedSubjectKey> {
    let mut columns = Columns::of(row);
    Ok(WrappedSubjectKey {
        scope: Scope::Project(columns.id()?),
        id: columns.id()?,
        subject: columns.hash()?,
        root: columns.id()?,
        created: columns.time()?,
        wrapped: columns.sealed()?,
    })
}

fn read_erasure(row: &PgRow) -> sqlx::Result<Erasure> {
    let mut columns = Columns::of(row);
    Ok(Erasure {
        project: columns.id()?,
        key: columns.id()?,
        subject: columns.hash()?,
        root: columns.id()?,
        created: columns.time()?,
        at: columns.time()?,
        runs: columns.count()?,
        entries: columns.count()?,
        files: columns.count()?,
        finished: columns.value()?,
    })
}

macro_rules! keys {
    ($rest:literal) => {
        concat!("SELECT project, id, subject, root, created, sealed FROM ap_subject_keys WHERE ", $rest)
    };
}
macro_rules! erasures {
    ($rest:literal) => {
        concat!(
            "SELECT project, id, subject, root, created, at, runs, entries, files, finished FROM ap_erasures WHERE ",
            $rest
        )
    };
}
const KEY: &str = keys!("project = $1 AND id = $2");
const KEY_OF_SUBJECT: &str = keys!("project = $1 AND subject = $2");
const LOCK_KEY: &str = keys!("project = $1 AND id = $2 FOR UPDATE");
const KEYS: &str = keys!("(project, id) > ($1, $2) ORDER BY project, id LIMIT $3");
const USE_KEY: &str = "SELECT 1 FROM ap_subject_keys WHERE project = $1 AND id = $2 FOR KEY SHARE";
const INSERT_KEY: &str = "INSERT INTO ap_subject_keys (project, id, subject, root, created, sealed) \
    SELECT $1, $2, $3, $4, $5, $6 WHERE NOT EXISTS (SELECT FROM ap_erasures WHERE project = $1 AND id = $2) \
    ON CONFLICT DO NOTHING";
const DESTROY: &str = "DELETE FROM ap_subject_keys WHERE project = $1 AND id = $2 \
    RETURNING project, id, subject, root, created, sealed";
const NOTE: &str = "INSERT INTO ap_erasures (project, id, subject, root, created, at, runs, entries, files) \
    SELECT $1, $2, $3, $4, $5, $6, \
    (SELECT count(*) FROM ap_runs AS run WHERE run.project = $1 AND run.subject = $2), \
    (SELECT count(*) FROM ap_runs AS run JOIN ap_journal AS entry ON entry.project = run.project AND entry.run = run.id \
        WHERE run.project = $1 AND run.subject = $2), \
    (SELECT count(*) FROM ap_runs AS run JOIN ap_files AS file ON file.project = run.project AND file.run = run.id \
        WHERE run.project = $1 AND run.subject = $2) \
    RETURNING project, id, subject, root, created, at, runs, entries, files, finished";
const LIVE_RUNS: &str = "SELECT id FROM ap_runs WHERE project = $1 AND subject = $2 AND finished IS NULL \
    ORDER BY id LIMIT $3";
const FINISH: &str = "UPDATE ap_erasures SET finished = true WHERE project = $1 AND id = $2 \
    RETURNING project, id, subject, root, created, at, runs, entries, files, finished";
const ERASURE: &str = erasures!("project = $1 AND id = $2");
const LAST_ERASURE: &str = erasures!("project = $1 AND subject = $2 ORDER BY at DESC LIMIT 1");
const UNFINISHED: &str = erasures!("NOT finished ORDER BY at LIMIT $1");
