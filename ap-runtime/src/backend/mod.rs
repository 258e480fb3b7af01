//! The backends. Each implements every record seam of [`crate::store`], so they share transactions.
//!
//! | Module | Use |
//! | --- | --- |
//! | [`memory`] | tests and simulation: the reference for what every seam means, nothing survives the process |
//! | `sqlite` (feature `sqlite`) | one process, one file, durable |
//!
//! What both refuse alike, before anything is written, is decided here.

pub mod memory;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use ap_core::{
    run::RunStatus,
    scope::Scope,
    store::{BackendError, Entity, Precondition, Revision, StoreError},
};
use ap_crypto::keyring::WrappedKey;

use crate::store::{Accept, FlowWrite, ProjectRecord, RunChange, RunCommit};

/// Checks what a writer expects of a record against what is stored, and that the new revision follows from it.
pub(crate) fn check_precondition(
    entity: Entity,
    precondition: Precondition,
    written: Revision,
    stored: Option<Revision>,
) -> Result<(), StoreError> {
    if written != precondition.resulting_revision() {
        return Err(misuse("the revision of a record does not follow from its precondition"));
    }
    match (precondition, stored) {
        (Precondition::Absent, None) => Ok(()),
        (Precondition::Absent, Some(_)) => Err(StoreError::AlreadyExists { entity }),
        (Precondition::Revision(_), None) => Err(StoreError::NotFound { entity }),
        (Precondition::Revision(expected), Some(current)) if expected == current => Ok(()),
        (Precondition::Revision(_), Some(current)) => Err(StoreError::Conflict { entity, current }),
    }
}

/// A project's first key must be its own.
pub(crate) fn check_project(project: &ProjectRecord, key: &WrappedKey) -> Result<(), StoreError> {
    if key.scope == Scope::Project(project.id) { Ok(()) } else { Err(misuse("the key belongs to another scope")) }
}

/// A flow is written with its own versions, each at most once.
pub(crate) fn check_flow_write(write: &FlowWrite) -> Result<(), StoreError> {
    let flow = &write.flow;
    if write.versions.iter().any(|(version, _)| version.project != flow.project || version.flow != flow.id) {
        return Err(misuse("a flow was written with a version of another flow"));
    }
    let twice = |index: usize| {
        let (earlier, rest) = write.versions.split_at(index);
        rest.first().is_some_and(|(version, _)| {
            earlier.iter().any(|(other, _)| other.id == version.id || other.number == version.number)
        })
    };
    if (0..write.versions.len()).any(twice) {
        return Err(StoreError::AlreadyExists { entity: Entity::FlowVersion });
    }
    Ok(())
}

/// A new run is `QUEUED` and has not ended: whether it runs at once is the store's to say.
pub(crate) fn check_accept(accept: &Accept) -> Result<(), StoreError> {
    if accept.run.status == RunStatus::Queued && accept.run.finished.is_none() {
        Ok(())
    } else {
        Err(misuse("a new run is `QUEUED`"))
    }
}

/// A run ends in a terminal status, and appends each sequence number once.
pub(crate) fn check_commit(commit: &RunCommit) -> Result<(), StoreError> {
    if let RunChange::End { status, .. } = commit.change
        && !status.is_terminal()
    {
        return Err(misuse("a run ends in a terminal status"));
    }
    if commit.entries.windows(2).any(|pair| matches!(pair, [a, b] if a.seq >= b.seq)) {
        return Err(misuse("the entries of a commit rise in sequence number"));
    }
    Ok(())
}

/// The caller broke the contract of a seam; the same call will fail again.
pub(crate) fn misuse(reason: &'static str) -> StoreError {
    StoreError::Backend(BackendError::new(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precondition_is_checked_against_both_sides() {
        let check = |precondition, written, stored: Option<u64>| {
            check_precondition(Entity::Flow, precondition, Revision(written), stored.map(Revision))
        };
        assert!(check(Precondition::Absent, 1, None).is_ok());
        assert!(check(Precondition::Revision(Revision(3)), 4, Some(3)).is_ok());
        assert!(matches!(check(Precondition::Absent, 1, Some(1)), Err(StoreError::AlreadyExists { .. })));
        assert!(matches!(check(Precondition::Revision(Revision(3)), 4, None), Err(StoreError::NotFound { .. })));
        let stale = check(Precondition::Revision(Revision(3)), 4, Some(5));
        assert!(matches!(stale, Err(StoreError::Conflict { current: Revision(5), .. })), "{stale:?}");
        assert!(matches!(check(Precondition::Absent, 2, None), Err(StoreError::Backend(_))));
    }
}
