//! Values of key-value stores.

use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, ValueId},
    store::{Entity, Page, PageRequest, StoreError},
};
use async_trait::async_trait;

use super::{MemoryBackend, State, page_of};
use crate::{
    backend::{StoredValues, check_values, judge_values},
    store::{KeyValueStore, ValueChange, ValueRecord, ValueScope, ValueUsage, ValueWrite},
};

#[async_trait]
impl KeyValueStore for MemoryBackend {
    async fn change_values(
        &self,
        changes: &[ValueChange],
        project: ProjectId,
        limit: ValueUsage,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        check_values(changes, project)?;
        let mut state = self.lock();
        state.check_exists(project)?;
        state.judge_values(changes, project, limit)?;
        state.append_audit(audit)?;
        state.change_values(changes.to_vec(), project);
        Ok(())
    }

    async fn value(&self, id: ValueId, project: ProjectId) -> Result<ValueRecord, StoreError> {
        self.lock().values.get(&(project, id)).cloned().ok_or(StoreError::NotFound { entity: Entity::Value })
    }

    async fn values(
        &self,
        scope: ValueScope,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<ValueRecord>, StoreError> {
        let state = self.lock();
        let rows = state.values_of(project).filter(|value| value.scope == scope);
        Ok(page_of(rows.map(|value| (value.id.as_u128(), value)), page))
    }

    async fn value_usage(&self, project: ProjectId) -> Result<ValueUsage, StoreError> {
        Ok(self.lock().value_usage(project))
    }
}

impl State {
    /// Whether the changes can be made.
    pub(super) fn judge_values(
        &self,
        changes: &[ValueChange],
        project: ProjectId,
        limit: ValueUsage,
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let of = |change: &ValueChange| self.values.get(&(project, change.id));
        let stored: StoredValues =
            changes.iter().filter_map(of).map(|value| (value.id, (value.version, value.bytes))).collect();
        judge_values(changes, &stored, self.value_usage(project), limit).map(|_| ())
    }

    /// Makes changes that were judged.
    pub(super) fn change_values(&mut self, changes: Vec<ValueChange>, project: ProjectId) {
        for change in changes {
            let key = (project, change.id);
            match change.write {
                ValueWrite::Delete => drop(self.values.remove(&key)),
                ValueWrite::Keep => {}
                ValueWrite::Put(record) => drop(self.values.insert(key, record)),
            }
        }
    }

    fn values_of(&self, project: ProjectId) -> impl Iterator<Item = &ValueRecord> {
        let (first, last) = (ValueId::from_u128(0), ValueId::from_u128(u128::MAX));
        self.values.range((project, first)..=(project, last)).map(|(_, value)| value)
    }

    fn value_usage(&self, project: ProjectId) -> ValueUsage {
        let add = |sum: ValueUsage, value: &ValueRecord| ValueUsage {
            entries: sum.entries + 1,
            bytes: sum.bytes + u64::from(value.bytes),
        };
        self.values_of(project).fold(ValueUsage::default(), add)
    }
}
