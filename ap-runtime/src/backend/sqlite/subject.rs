//! Keys of data subjects, and erasures.
//!
//! A key is never deleted and never moved: it is overwritten where it stands. Rows are appended, and whatever changes one leaves
//! its length as it is. SQLite wipes what it frees if it is told to; what it copies from page to page it leaves behind.

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
use rusqlite::params;

use super::{
    SqliteBackend, connect, gate,
    project::{append, audit_bytes},
    row::Columns,
    run::end_run,
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{check_subject_key_change, no_subject, subject_conflict},
    store::{Accept, ERASE_BATCH, Erasure, Residue, SubjectStore},
};

#[async_trait]
impl SubjectStore for SqliteBackend {
    async fn subject_key(
        &self,
        subject: LookupHash,
        project: ProjectId,
    ) -> Result<Option<WrappedSubjectKey>, StoreError> {
        let read = move |open: &_| connect::row(open, KEY_OF_SUBJECT, params![project.as_bytes(), subject.0], read_key);
        self.readers.read(read).await
    }

    async fn subject_key_by_id(&self, id: KeyId, project: ProjectId) -> Result<WrappedSubjectKey, StoreError> {
        let read = move |open: &_| connect::row(open, KEY, [project.as_bytes(), id.as_bytes()], read_key);
        self.readers.read(read).await?.ok_or_else(no_subject)
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
        let erasure = self.erasure(id, project).await?;
        if erasure.finished {
            return Ok(erasure);
        }
        self.writer.fold().await?;
        self.writer.write(Finish { id, project }).await?;
        Ok(Erasure { finished: true, ..erasure })
    }

    fn residue(&self) -> Residue {
        Residue::Nothing
    }

    async fn erasure(&self, id: KeyId, project: ProjectId) -> Result<Erasure, StoreError> {
        let read = move |open: &_| connect::row(open, ERASURE, [project.as_bytes(), id.as_bytes()], read_erasure);
        self.readers.read(read).await?.ok_or_else(no_subject)
    }

    async fn last_erasure(&self, subject: LookupHash, project: ProjectId) -> Result<Option<Erasure>, StoreError> {
        let read =
            move |open: &_| connect::row(open, LAST_ERASURE, params![project.as_bytes(), subject.0], read_erasure);
        self.readers.read(read).await
    }

    async fn unfinished_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        self.readers.read(move |open| connect::rows(open, UNFINISHED, [limit], read_erasure)).await
    }

    async fn subject_key_page(
        &self,
        after: Option<(ProjectId, KeyId)>,
        limit: u32,
    ) -> Result<Vec<WrappedSubjectKey>, StoreError> {
        // Every id is greater than no bytes at all.
        let (project, id) =
            after.map(|(project, id)| (project.as_bytes().to_vec(), id.as_bytes().to_vec())).unwrap_or_default();
        self.readers.read(move |open| connect::rows(open, KEYS, params![project, id, limit], read_key)).await
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

impl Operation for Erase {
    type Output = Erasure;

    fn bytes(&self) -> usize {
        audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Erasure, Failure> {
        let of = [self.project.as_bytes(), self.id.as_bytes()];
        let key = transaction.row(KEY, of, read_key)?.ok_or_else(no_subject)?;
        let count = |sql| transaction.row(sql, of, |columns| columns.uint()).map(Option::unwrap_or_default);
        let (runs, entries, files) = (count(COUNT_RUNS)?, count(COUNT_ENTRIES)?, count(COUNT_FILES)?);
        wiping(transaction, || transaction.run(DESTROY, of))?;
        transaction.run(
            "INSERT INTO ap_erasures (project, id, subject, root, created, at, runs, entries, files) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                self.project.as_bytes(),
                self.id.as_bytes(),
                key.subject.0,
                key.root.as_bytes(),
                key.created.as_micros(),
                self.at.as_micros(),
                super::row::uint(runs)?,
                super::row::uint(entries)?,
                super::row::uint(files)?,
            ],
        )?;
        end_runs(transaction, self.project, self.id)?;
        append(transaction, &self.audit)?;
        let (project, at, finished) = (self.project, self.at, false);
        let WrappedSubjectKey { subject, root, created, .. } = key;
        Ok(Erasure { key: self.id, project, subject, root, created, at, runs, entries, files, finished })
    }
}

struct EndErased {
    id: KeyId,
    project: ProjectId,
}

impl Operation for EndErased {
    type Output = u64;

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<u64, Failure> {
        if !transaction.exists(ERASURE, [self.project.as_bytes(), self.id.as_bytes()])? {
            return Err(no_subject().into());
        }
        Ok(end_runs(transaction, self.project, self.id)?)
    }
}

struct Finish {
    id: KeyId,
    project: ProjectId,
}

impl Operation for Finish {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let of = [self.project.as_bytes(), self.id.as_bytes()];
        transaction.run("UPDATE ap_erasures SET finished = 1 WHERE project = ? AND id = ?", of)?;
        Ok(())
    }
}

struct Replace {
    project: ProjectId,
    stored: WrappedSubjectKey,
    key: WrappedSubjectKey,
}

impl Operation for Replace {
    type Output = ();

    fn bytes(&self) -> usize {
        self.key.wrapped.as_bytes().len()
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let of = [self.project.as_bytes(), self.key.id.as_bytes()];
        match transaction.row(KEY, of, read_key)? {
            Some(found) if found == self.stored => {}
            Some(_) => return Err(subject_conflict().into()),
            None => return Err(no_subject().into()),
        }
        let WrappedSubjectKey { id, root, wrapped, .. } = &self.key;
        let arguments = params![root.as_bytes(), wrapped.as_bytes().as_ref(), self.project.as_bytes(), id.as_bytes()];
        let sql = "UPDATE ap_subject_keys SET root = ?, sealed = ? WHERE project = ? AND id = ? AND live = 1";
        wiping(transaction, || transaction.run(sql, arguments))?;
        Ok(())
    }
}

/// The key that has to be added with the run, if its project lacks it.
pub(super) fn missing_key<'a>(
    transaction: &Transaction<'_>,
    accept: &'a Accept,
) -> Result<Option<&'a WrappedSubjectKey>, Failure> {
    let Some(id) = accept.run.subject else { return Ok(None) };
    let project = accept.run.project;
    match transaction.row(IS_LIVE, [project.as_bytes(), id.as_bytes()], |columns| columns.flag())? {
        Some(true) => return Ok(None),
        // It was destroyed.
        Some(false) => return Err(subject_conflict().into()),
        None => {}
    }
    let key = accept.subject_key.as_ref().ok_or_else(subject_conflict)?;
    if transaction.exists(KEY_OF_SUBJECT, params![project.as_bytes(), key.subject.0])? {
        return Err(subject_conflict().into());
    }
    Ok(Some(key))
}

pub(super) fn add_key(
    transaction: &Transaction<'_>,
    project: ProjectId,
    key: &WrappedSubjectKey,
) -> rusqlite::Result<()> {
    let WrappedSubjectKey { id, subject, root, created, wrapped, .. } = key;
    let arguments = params![
        project.as_bytes(),
        id.as_bytes(),
        subject.0,
        root.as_bytes(),
        created.as_micros(),
        wrapped.as_bytes().as_ref()
    ];
    wiping(transaction, || transaction.run(INSERT_KEY, arguments)).map(|_| ())
}

/// Does something with the pages of keys, of which SQLite wipes what it frees.
fn wiping<T>(transaction: &Transaction<'_>, act: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    transaction.connection.execute_batch("PRAGMA secure_delete = ON")?;
    let done = act();
    transaction.connection.execute_batch("PRAGMA secure_delete = OFF")?;
    done
}

/// Ends a batch of the runs of a destroyed key; returns how many.
fn end_runs(transaction: &Transaction<'_>, project: ProjectId, id: KeyId) -> rusqlite::Result<u64> {
    let arguments = params![project.as_bytes(), id.as_bytes(), ERASE_BATCH];
    let live = transaction.rows(LIVE_RUNS, arguments, |columns| columns.id(RunId::from_slice))?;
    for run in &live {
        if let Some(gate) = end_run(transaction, project, *run, RunStatus::Canceled, transaction.now)? {
            gate::promote(transaction, project, &gate)?;
        }
    }
    Ok(live.len() as u64)
}

fn read_key(columns: &mut Columns<'_>) -> rusqlite::Result<WrappedSubjectKey> {
    Ok(WrappedSubjectKey {
        scope: Scope::Project(columns.id(ProjectId::from_slice)?),
        id: columns.id(KeyId::from_slice)?,
        subject: columns.hash()?,
        root: columns.id(KeyId::from_slice)?,
        created: columns.time()?,
        wrapped: columns.sealed()?,
    })
}

fn read_erasure(columns: &mut Columns<'_>) -> rusqlite::Result<Erasure> {
    Ok(Erasure {
        project: columns.id(ProjectId::from_slice)?,
        key: columns.id(KeyId::from_slice)?,
        subject: columns.hash()?,
        root: columns.id(KeyId::from_slice)?,
        created: columns.time()?,
        at: columns.time()?,
        runs: columns.uint()?,
        entries: columns.uint()?,
        files: columns.uint()?,
        finished: columns.flag()?,
    })
}

macro_rules! keys {
    ($where:literal) => {
        concat!("SELECT project, id, subject, root, created, sealed FROM ap_subject_keys WHERE live = 1 AND ", $where)
    };
}
macro_rules! erasures {
    ($where:literal) => {
        concat!(
            "SELECT project, id, subject, root, created, at, runs, entries, files, finished FROM ap_erasures WHERE ",
            $where
        )
    };
}
pub(super) const KEY: &str = keys!("project = ? AND id = ?");
pub(super) const IS_LIVE: &str = "SELECT live FROM ap_subject_keys WHERE project = ? AND id = ?";
pub(super) const KEY_OF_SUBJECT: &str = keys!("project = ? AND subject = ?");
/// The first part bounds what is looked at; that of both together, SQLite would test row by row.
pub(super) const KEYS: &str = keys!("project >= ?1 AND (project > ?1 OR id > ?2) ORDER BY project, id LIMIT ?3");
pub(super) const INSERT_KEY: &str = "INSERT INTO ap_subject_keys (live, project, id, subject, root, created, sealed) \
    VALUES (1, ?, ?, ?, ?, ?, ?)";
/// As long as before, so that it is overwritten where it stands.
const DESTROY: &str =
    "UPDATE ap_subject_keys SET live = 0, sealed = zeroblob(length(sealed)) WHERE project = ? AND id = ? AND live = 1";
pub(super) const LIVE_RUNS: &str = "SELECT id FROM ap_runs INDEXED BY ap_runs_subject \
    WHERE project = ? AND subject = ? AND finished IS NULL ORDER BY id LIMIT ?";
const COUNT_RUNS: &str = "SELECT count(*) FROM ap_runs INDEXED BY ap_runs_subject WHERE project = ? AND subject = ?";
pub(super) const COUNT_ENTRIES: &str = "SELECT count(*) FROM ap_runs AS run INDEXED BY ap_runs_subject \
    CROSS JOIN ap_journal AS entry ON entry.run = run.number WHERE run.project = ? AND run.subject = ?";
pub(super) const COUNT_FILES: &str = "SELECT count(*) FROM ap_runs AS run INDEXED BY ap_runs_subject \
    CROSS JOIN ap_files AS file INDEXED BY ap_files_run ON file.project = run.project AND file.run = run.id \
    WHERE run.project = ? AND run.subject = ?";
const ERASURE: &str = erasures!("project = ? AND id = ?");
const LAST_ERASURE: &str = erasures!("project = ? AND subject = ? ORDER BY at DESC LIMIT 1");
pub(super) const UNFINISHED: &str = erasures!("finished = 0 ORDER BY at LIMIT ?");
