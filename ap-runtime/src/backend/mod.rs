//! The backends. Each implements every record seam of [`crate::store`], so they share transactions.
//!
//! | Module | Use |
//! | --- | --- |
//! | [`memory`] | tests and simulation: the reference for what every seam means, nothing survives the process |
//! | `sqlite` (feature `sqlite`) | one process, one file, durable |
//! | `postgres` (feature `postgres`) | any number of processes, durable |
//! | `redis` (feature `redis`) | no records: hints between processes |
//!
//! What both refuse alike, before anything is written, is decided here.

#[cfg(any(feature = "postgres", feature = "redis"))]
mod hint;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::collections::{BTreeMap, BTreeSet};

use ap_core::{
    id::{ProjectId, ValueId},
    run::RunStatus,
    scope::Scope,
    store::{BackendError, Entity, Precondition, Revision, StoreError},
};
use ap_crypto::{keyring::WrappedKey, subject::WrappedSubjectKey};

use crate::store::{
    Accept, CellTable, FlowWrite, Lease, ProjectRecord, ProjectShare, ResealedCell, RunChange, RunCommit, TriggerFire,
    ValueChange, ValueExpect, ValueUsage, ValueWrite,
};

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

/// A project's share is within its bounds.
pub(crate) fn check_share(share: &ProjectShare) -> Result<(), StoreError> {
    let concurrency = share.concurrency.is_none_or(|concurrency| (1..=100_000).contains(&concurrency));
    if (1..=1_000).contains(&share.weight) && concurrency {
        Ok(())
    } else {
        Err(misuse("a project's share is out of range"))
    }
}

/// A new run is `QUEUED` and has not ended: whether it runs at once is the store's to say. The key that comes with it is the one
/// it names.
pub(crate) fn check_accept(accept: &Accept) -> Result<(), StoreError> {
    if let Some(key) = &accept.subject_key
        && (accept.run.subject, Scope::Project(accept.run.project)) != (Some(key.id), key.scope)
    {
        return Err(misuse("a run comes with another subject's key"));
    }
    if accept.run.status == RunStatus::Queued && accept.run.finished.is_none() {
        Ok(())
    } else {
        Err(misuse("a new run is `QUEUED`"))
    }
}

/// What a schedule or poll starts are different new runs of its flow.
pub(crate) fn check_fire(fire: &TriggerFire) -> Result<(), StoreError> {
    for (accept, _) in &fire.runs {
        check_accept(accept)?;
        if (accept.run.project, accept.run.flow) != (fire.project, fire.flow) {
            return Err(misuse("a trigger starts runs of its own flow"));
        }
    }
    check_unique(fire.runs.iter().map(|(accept, _)| accept.run.id), Entity::Run)
}

/// A run ends in a terminal status, and appends each sequence number once; what else it writes is its own or its project's.
pub(crate) fn check_commit(commit: &RunCommit) -> Result<(), StoreError> {
    if let RunChange::End { status, .. } = commit.change
        && !status.is_terminal()
    {
        return Err(misuse("a run ends in a terminal status"));
    }
    if commit.entries.windows(2).any(|pair| matches!(pair, [a, b] if a.seq >= b.seq)) {
        return Err(misuse("the entries of a commit rise in sequence number"));
    }
    let Lease { project, run, .. } = commit.lease;
    if commit.files.iter().any(|file| (file.project, file.run) != (project, Some(run))) {
        return Err(misuse("a commit writes files of its own run"));
    }
    if commit.signals.iter().any(|signal| signal.project != project) {
        return Err(misuse("a run signals runs of its own project"));
    }
    for (start, _) in &commit.starts {
        check_accept(start)?;
        if start.run.project != project || start.dedupe.is_some() || start.lease.is_some() {
            return Err(misuse("a run starts runs of its own project, without dedupe key and lease"));
        }
    }
    check_unique(commit.files.iter().map(|file| file.id), Entity::File)?;
    check_unique(commit.jobs.iter().map(|job| job.id), Entity::Job)?;
    check_values(&commit.values, project)?;
    check_unique(commit.signals.iter().map(|signal| (signal.run, signal.id)), Entity::Signal)?;
    check_unique(commit.starts.iter().map(|(start, _)| start.run.id), Entity::Run)
}

/// What is put is the value that a change is about, of that project, and each is changed once.
pub(crate) fn check_values(changes: &[ValueChange], project: ProjectId) -> Result<(), StoreError> {
    let foreign = |change: &ValueChange| match &change.write {
        ValueWrite::Put(record) => (record.id, record.project) != (change.id, project) || record.version >> 63 != 0,
        ValueWrite::Delete | ValueWrite::Keep => false,
    };
    if changes.iter().any(foreign) {
        return Err(misuse("a stored value takes the place of itself only, under a version below 2^63"));
    }
    check_unique(changes.iter().map(|change| change.id), Entity::Value)
}

/// What changes of stored values look at: version and size of those that are there.
pub(crate) type StoredValues = BTreeMap<ValueId, (u64, u32)>;

/// Whether all values are as the changes expect them, and what the project has afterwards.
pub(crate) fn judge_values(
    changes: &[ValueChange],
    stored: &StoredValues,
    before: ValueUsage,
    limit: ValueUsage,
) -> Result<ValueUsage, StoreError> {
    let mut after = before;
    for change in changes {
        let found = stored.get(&change.id);
        let as_expected = match change.expect {
            ValueExpect::Anything => true,
            ValueExpect::Absent => found.is_none(),
            ValueExpect::Version(version) => found.is_some_and(|(stored, _)| *stored == version),
        };
        if !as_expected {
            return Err(StoreError::Conflict { entity: Entity::Value, current: Revision(0) });
        }
        if let (Some((_, bytes)), ValueWrite::Delete | ValueWrite::Put(_)) = (found, &change.write) {
            after.entries = after.entries.saturating_sub(1);
            after.bytes = after.bytes.saturating_sub(u64::from(*bytes));
        }
        if let ValueWrite::Put(record) = &change.write {
            after.entries = after.entries.saturating_add(1);
            after.bytes = after.bytes.saturating_add(u64::from(record.bytes));
        }
    }
    let too_much = |after: u64, before: u64, limit: u64| after > limit && after > before;
    if too_much(after.entries, before.entries, limit.entries) || too_much(after.bytes, before.bytes, limit.bytes) {
        return Err(StoreError::LimitExceeded { entity: Entity::Value });
    }
    Ok(after)
}

fn check_unique<T: Ord>(ids: impl IntoIterator<Item = T>, entity: Entity) -> Result<(), StoreError> {
    let mut seen = BTreeSet::new();
    if ids.into_iter().all(|id| seen.insert(id)) { Ok(()) } else { Err(StoreError::AlreadyExists { entity }) }
}

/// Whether a run that ended like this can be opened again.
pub(crate) const fn can_reopen(status: RunStatus) -> bool {
    matches!(
        status,
        RunStatus::Canceled
            | RunStatus::Failed
            | RunStatus::InternalError
            | RunStatus::MemoryLimitExceeded
            | RunStatus::QuotaExceeded
            | RunStatus::Timeout
    )
}

/// Which kind of record a table holds, whose unique index says that one is there already.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn entity_of_table(table: &str) -> Option<Entity> {
    Some(match table {
        "ap_audit" | "ap_audit_ids" => Entity::AuditRecord,
        "ap_connections" | "ap_shared_connections" => Entity::Connection,
        "ap_files" => Entity::File,
        "ap_flow_versions" => Entity::FlowVersion,
        "ap_flows" => Entity::Flow,
        "ap_jobs" => Entity::Job,
        "ap_journal" => Entity::JournalEntry,
        "ap_keys" => Entity::Key,
        "ap_projects" => Entity::Project,
        "ap_runs" => Entity::Run,
        "ap_signals" => Entity::Signal,
        "ap_erasures" | "ap_subject_keys" => Entity::Subject,
        "ap_values" => Entity::Value,
        _ => return None,
    })
}

/// A key takes the place of its own row.
pub(crate) fn check_key_change(stored: &WrappedKey, key: &WrappedKey) -> Result<(), StoreError> {
    if (stored.id, stored.scope) == (key.id, key.scope) {
        Ok(())
    } else {
        Err(misuse("a key takes the place of itself only"))
    }
}

/// Somebody changed the row of a key after the caller had read it. Keys have no revision.
pub(crate) const fn key_conflict() -> StoreError {
    StoreError::Conflict { entity: Entity::Key, current: Revision(0) }
}

/// The subject of an acceptance has another key by now, or none.
pub(crate) const fn subject_conflict() -> StoreError {
    StoreError::Conflict { entity: Entity::Subject, current: Revision(0) }
}

/// A subject's key takes the place of itself, wrapped otherwise.
pub(crate) fn check_subject_key_change(
    stored: &WrappedSubjectKey,
    key: &WrappedSubjectKey,
) -> Result<ProjectId, StoreError> {
    let same = |key: &WrappedSubjectKey| (key.id, key.scope, key.subject, key.created);
    match stored.scope.project() {
        Some(project) if same(stored) == same(key) => Ok(project),
        _ => Err(misuse("a subject's key takes the place of itself only")),
    }
}

/// There is no such key of a data subject, or none any more.
pub(crate) const fn no_subject() -> StoreError {
    StoreError::NotFound { entity: Entity::Subject }
}

/// The table of cells that are replaced together; `None` if there are none.
pub(crate) fn check_cells(cells: &[ResealedCell]) -> Result<Option<CellTable>, StoreError> {
    let Some(first) = cells.first() else { return Ok(None) };
    let table = first.key.table();
    if cells.iter().all(|cell| cell.key.table() == table) {
        Ok(Some(table))
    } else {
        Err(misuse("cells of several tables are replaced one table after the other"))
    }
}

/// The part of a cell by which it is told from every other content, as a store compares it.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn cell_head(sealed: &ap_core::store::Sealed) -> &[u8] {
    let bytes = sealed.as_bytes();
    bytes.get(..ap_crypto::envelope::HEADER_BYTES).unwrap_or(bytes)
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
