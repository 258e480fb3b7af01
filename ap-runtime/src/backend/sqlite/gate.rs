//! Gates: how many runs of a key are under way, and which wait before it.

use ap_core::{
    id::{ProjectId, RunId},
    store::LookupHash,
};
use rusqlite::params;

use super::writer::Transaction;
use crate::store::Gate;

/// Whether one more run may pass; `leaving` others are about to leave.
pub(super) fn has_room(
    transaction: &Transaction<'_>,
    project: ProjectId,
    gate: &Gate,
    leaving: u32,
) -> rusqlite::Result<bool> {
    let limit = gate.limit.saturating_add(leaving);
    Ok(holders(transaction, project, &gate.key, limit)? < limit)
}

/// Lets waiting runs pass, in order, as long as the next one's own limit allows.
pub(super) fn promote(transaction: &Transaction<'_>, project: ProjectId, gate: &LookupHash) -> rusqlite::Result<()> {
    while let Some((run, limit)) = next(transaction, project, gate)? {
        if holders(transaction, project, gate, limit)? >= limit {
            break;
        }
        transaction.run(
            "UPDATE ap_runs SET passed = 1, ready = due IS NULL WHERE project = ? AND id = ?",
            [project.as_bytes(), run.as_bytes()],
        )?;
    }
    Ok(())
}

/// The run that passes next, and its limit.
fn next(
    transaction: &Transaction<'_>,
    project: ProjectId,
    gate: &LookupHash,
) -> rusqlite::Result<Option<(RunId, u32)>> {
    transaction.row(NEXT, params![project.as_bytes(), gate.0], |columns| {
        Ok((columns.id(RunId::from_slice)?, columns.small()?))
    })
}

/// How many runs are past the gate; no more than `enough` are counted.
fn holders(transaction: &Transaction<'_>, project: ProjectId, gate: &LookupHash, enough: u32) -> rusqlite::Result<u32> {
    let count = transaction.row(HOLDERS, params![project.as_bytes(), gate.0, enough], |columns| columns.small())?;
    Ok(count.unwrap_or_default())
}

// By name: the primary key starts with the project too, and to SQLite that looks as good.

pub(super) const NEXT: &str = "SELECT id, gate_limit FROM ap_runs INDEXED BY ap_runs_gate \
    WHERE project = ? AND gate = ? AND finished IS NULL AND passed = 0 ORDER BY priority DESC, created, id LIMIT 1";
pub(super) const HOLDERS: &str = "SELECT count(*) FROM (SELECT 1 FROM ap_runs INDEXED BY ap_runs_gate \
    WHERE project = ? AND gate = ? AND finished IS NULL AND passed = 1 LIMIT ?)";
