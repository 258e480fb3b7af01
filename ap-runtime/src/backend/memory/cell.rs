//! Sealed cells.

use ap_core::{
    audit::AuditRecord,
    id::{KeyId, ProjectId},
    scope::Scope,
    store::{Sealed, StoreError},
};
use ap_crypto::envelope;
use async_trait::async_trait;

use super::{MemoryBackend, State};
use crate::{
    backend::check_cells,
    store::{CELL_BATCH_BYTES, CellKey, CellStore, CellTable, ResealedCell, SealedCell},
};

#[async_trait]
impl CellStore for MemoryBackend {
    async fn count_cells(&self, table: CellTable, current: KeyId, scope: Scope) -> Result<u64, StoreError> {
        let mut state = self.lock();
        Ok(state.cells(table, scope).iter().filter(|(_, sealed)| !names(sealed, current)).count() as u64)
    }

    async fn cells(
        &self,
        table: CellTable,
        current: KeyId,
        after: Option<CellKey>,
        limit: u32,
        scope: Scope,
    ) -> Result<Vec<SealedCell>, StoreError> {
        let after = after.map(|key| key.position());
        let mut state = self.lock();
        let mut cells = state.cells(table, scope);
        cells.retain(|(key, sealed)| after.is_none_or(|after| key.position() > after) && !names(sealed, current));
        cells.sort_by_key(|(key, _)| key.position());
        let mut bytes = 0;
        let page = cells.into_iter().take(limit as usize).take_while(|(_, sealed)| {
            let before = bytes;
            bytes += sealed.as_bytes().len();
            before < CELL_BATCH_BYTES
        });
        Ok(page.map(|(key, sealed)| SealedCell { key, sealed: sealed.clone() }).collect())
    }

    async fn reseal_cells(&self, cells: &[ResealedCell], scope: Scope) -> Result<u64, StoreError> {
        let Some(table) = check_cells(cells)? else { return Ok(0) };
        let mut state = self.lock();
        let mut stored = state.cells(table, scope);
        stored.sort_by_key(|(key, _)| key.position());
        let mut replaced = 0;
        for cell in cells {
            let found = stored.binary_search_by_key(&cell.key.position(), |(key, _)| key.position());
            let Some((_, sealed)) = found.ok().and_then(|at| stored.get_mut(at)) else { continue };
            if **sealed == cell.old {
                **sealed = cell.new.clone();
                replaced += 1;
            }
        }
        Ok(replaced)
    }
}

impl State {
    /// Every cell of a tenant in one table.
    fn cells(&mut self, table: CellTable, scope: Scope) -> Vec<(CellKey, &mut Sealed)> {
        if table == CellTable::Audit {
            let records = self.audit.iter_mut().filter(|((of, _), _)| *of == scope);
            return records.map(|(_, record)| audit_cell(record)).collect();
        }
        if table == CellTable::Connections {
            let stored = self.connections.iter_mut().filter(|((of, _), _)| *of == scope);
            return stored
                .map(|((_, id), stored)| (CellKey::Connection(*id, stored.record.revision), &mut stored.record.sealed))
                .collect();
        }
        let Some(project) = scope.project() else { return Vec::new() };
        self.project_cells(table, project)
    }

    fn project_cells(&mut self, table: CellTable, project: ProjectId) -> Vec<(CellKey, &mut Sealed)> {
        match table {
            CellTable::Audit | CellTable::Connections => Vec::new(),
            CellTable::SharedConnections => of(&mut self.shared, project)
                .map(|(id, shared)| (CellKey::SharedConnection(id), &mut shared.sealed))
                .collect(),
            CellTable::Files => {
                of(&mut self.files, project).map(|(id, file)| (CellKey::File(id), &mut file.sealed)).collect()
            }
            CellTable::FlowVersions => of(&mut self.versions, project)
                .map(|(id, record)| {
                    let (flow, number, state, revision) = (record.flow, record.number, record.state, record.revision);
                    (CellKey::FlowVersion { id, flow, number, state, revision }, &mut record.sealed)
                })
                .collect(),
            CellTable::Flows => of(&mut self.flows, project)
                .map(|(id, record)| (CellKey::Flow(id, record.revision), &mut record.sealed))
                .collect(),
            CellTable::Jobs => {
                of(&mut self.jobs, project).map(|(id, job)| (CellKey::Job(id, job.queue), &mut job.sealed)).collect()
            }
            CellTable::Journal => of(&mut self.runs, project)
                .flat_map(|(run, of)| {
                    of.journal.iter_mut().map(move |(seq, entry)| (CellKey::Journal(run, *seq), &mut entry.sealed))
                })
                .collect(),
            CellTable::Projects => self
                .projects
                .get_mut(&project)
                .map(|record| (CellKey::Project(project), &mut record.sealed))
                .into_iter()
                .collect(),
            CellTable::Signals => of(&mut self.runs, project)
                .flat_map(|(run, of)| {
                    of.signals
                        .iter_mut()
                        .map(move |(id, signal)| (CellKey::Signal(run, *id, signal.slot), &mut signal.sealed))
                })
                .collect(),
            CellTable::SubjectKeys => of(&mut self.subject_keys, project)
                .map(|(id, key)| (CellKey::SubjectKey(id, key.subject, key.created), &mut key.wrapped))
                .collect(),
            CellTable::Triggers => of(&mut self.triggers, project)
                .filter_map(|(flow, trigger)| {
                    trigger.state.as_mut().map(|(epoch, sealed)| (CellKey::Trigger(flow, *epoch), sealed))
                })
                .collect(),
            CellTable::Values => of(&mut self.values, project)
                .map(|(id, value)| (CellKey::Value(id, value.scope, value.version), &mut value.sealed))
                .collect(),
        }
    }
}

fn audit_cell(record: &mut AuditRecord) -> (CellKey, &mut Sealed) {
    let AuditRecord { id, at, outcome, action, body, .. } = record;
    (CellKey::Audit { id: *id, at: *at, outcome: *outcome, action: action.clone() }, body)
}

/// What belongs to a project.
fn of<I: Copy + Ord, T>(
    records: &mut std::collections::BTreeMap<(ProjectId, I), T>,
    project: ProjectId,
) -> impl Iterator<Item = (I, &mut T)> {
    records.iter_mut().filter(move |((of, _), _)| *of == project).map(|((_, id), record)| (*id, record))
}

/// Whether a cell names this key.
fn names(sealed: &Sealed, key: KeyId) -> bool {
    sealed.as_bytes().get(envelope::KEY_ID).is_some_and(|id| id == key.as_bytes())
}
