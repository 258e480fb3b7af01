//! Erasing what is held of a data subject.

use ap_auth::{audit::AuditEvent, permission::SubjectErase};
use ap_core::{
    id::{KeyId, ProjectId},
    store::{Entity, StoreError},
    time::Timestamp,
};
use serde::Serialize;

use super::{ProjectSession, SessionError};
use crate::{
    store::{Erasure, Residue},
    subject::{check_subject, subject_hash},
};

impl ProjectSession {
    /// Destroys the key of a data subject: nothing opens what runs about `subject` held any more, in this project. Needs
    /// `subject.erase`.
    ///
    /// The key is destroyed, the runs are ended as `CANCELED` and the audit record is written in one transaction, but for runs
    /// beyond the first 256 that have not ended, which end in further ones right after. Whoever executes such a run, in this
    /// process at once and in another with its next heartbeat, stops, and nothing it does counts any more; an effect under way is
    /// not undone. Reading such a run is answered by [`SessionError::Erased`] from then on. Everything else stays as it is, the
    /// audit trail included: it names the key and never the subject.
    ///
    /// On SQLite the key is overwritten in the file, and the log that held it is truncated. On PostgreSQL its row is deleted; what
    /// that leaves behind for a while, [`ErasureReceipt::residue`] says. The receipt says, too, which backups still have the key.
    ///
    /// Erased is what was sealed under the key: journal, payload, outputs, files of the runs, and what they were told. What they
    /// passed on is not theirs any more: requests to others, jobs in queues, runs of other flows that are about somebody else.
    ///
    /// Can be repeated: after a crash or an error it goes on where it stood, and once all is done it gives the same receipt. A
    /// subject that had runs again since has another key, which is destroyed then.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for a name that is empty or longer than 1,024 bytes; [`SessionError::Store`] with
    /// `NotFound` if the project holds nothing of the subject and never did, and with `Unavailable` if not all could be done now:
    /// the key is destroyed, or nothing has happened, and another call goes on; [`SessionError`] lists the rest.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the key destroyed or not; what is not finished, a worker of the runtime finishes within a minute.
    pub async fn erase(&self, subject: &str) -> Result<ErasureReceipt, SessionError> {
        let proof = self.authorize::<SubjectErase, _>(())?;
        check_subject(subject).map_err(|reason| SessionError::InvalidArgument { reason })?;
        let (parts, project) = (&self.session.parts, proof.target());
        let (kernel, keys) = (&parts.kernel, self.keys().await?);
        let hash = subject_hash(&keys, subject);
        let destroyed = match kernel.backend.subject_key(hash, project).await? {
            Some(key) => {
                let at = kernel.clock.now();
                let event = AuditEvent::of(&proof, at)
                    .with_detail("key", key.id.to_string())
                    .with_detail("rootKey", key.root.to_string());
                let audit = [kernel.seal_event(&keys, &event)?];
                match kernel.backend.erase_subject(key.id, project, at, &audit).await {
                    Ok(erasure) => Some(erasure),
                    // Somebody else was faster; what is left to do is the same.
                    Err(StoreError::NotFound { entity: Entity::Subject }) => None,
                    Err(error) => return Err(error.into()),
                }
            }
            None => None,
        };
        let erasure = match destroyed {
            Some(erasure) => erasure,
            None => {
                let last = kernel.backend.last_erasure(hash, project).await?;
                last.ok_or(StoreError::NotFound { entity: Entity::Subject })?
            }
        };
        let erasure = if erasure.finished {
            erasure
        } else {
            parts.worker.erased().await;
            kernel.finish_erasure(&erasure).await?
        };
        Ok(ErasureReceipt::of(&erasure, kernel.backend.residue(), kernel.keyring.root_id()))
    }
}

/// That a data subject was erased: for whoever asked for it, and for the files. Holds no secret and does not name the subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ErasureReceipt {
    /// The project.
    pub project: ProjectId,
    /// The key that was destroyed.
    pub key: KeyId,
    /// When the key was made: no data under it is older.
    pub key_created: Timestamp,
    /// When it was destroyed.
    pub erased_at: Timestamp,
    /// How many runs were sealed under it.
    pub runs: u64,
    /// How many entries of their journals.
    pub journal_entries: u64,
    /// How many of their files.
    pub files: u64,
    /// What the store leaves of the wrapped key, and for how long.
    pub residue: Residue,
    /// Which copies of the database still have the key.
    pub backups: BackupsLeft,
}

/// Which backups can still open what was erased, and how that ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BackupsLeft {
    /// Those taken from then on,
    pub taken_from: Timestamp,
    /// and before then,
    pub taken_before: Timestamp,
    /// with this root key. One from before an earlier rotation of the root key needs the root key of its time.
    pub root_key: KeyId,
    /// Whether this runtime is on another root key already.
    pub root_rotated: bool,
    /// What is left to do.
    pub how_to_finish: &'static str,
}

impl ErasureReceipt {
    fn of(erasure: &Erasure, residue: Residue, root: KeyId) -> Self {
        let Erasure { key, project, root: root_key, created, at, runs, entries, files, .. } = *erasure;
        let root_rotated = root_key != root;
        let how_to_finish = if root_rotated { DESTROY } else { ROTATE };
        let backups = BackupsLeft { taken_from: created, taken_before: at, root_key, root_rotated, how_to_finish };
        let (key_created, erased_at, journal_entries) = (created, at, entries);
        Self { project, key, key_created, erased_at, runs, journal_entries, files, residue, backups }
    }
}

const ROTATE: &str = "rotate the root key (`Session::keys`, `KeyAdmin::rotate_root`), then destroy every copy of the root key named \
    here: backups taken with it open nothing any more. Or delete those backups";
const DESTROY: &str = "the root key was rotated since: once `KeyAdmin::root_status` counts no key under the root key named here, destroy \
    every copy of it, and backups taken with it open nothing any more. Or delete those backups";
