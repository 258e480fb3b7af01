//! Flows and their versions.

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId},
    store::{Entity, Page, PageRequest, Precondition, StoreError},
};
use async_trait::async_trait;

use super::{MemoryBackend, State, page_of};
use crate::{
    backend::{check_flow_write, check_precondition},
    store::{FlowRecord, FlowStore, FlowVersionRecord, FlowWrite, VersionState},
};

#[async_trait]
impl FlowStore for MemoryBackend {
    async fn write_flow(&self, write: FlowWrite, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_flow_write(&write)?;
        let mut state = self.lock();
        let FlowWrite { flow, precondition, versions, trigger } = write;
        let key = (flow.project, flow.id);
        state.check_exists(flow.project)?;
        let stored = state.flows.get(&key).map(|stored| (stored.revision, stored.webhook));
        check_precondition(Entity::Flow, precondition, flow.revision, stored.map(|(revision, _)| revision))?;
        if state.webhooks.get(&flow.webhook).is_some_and(|owner| *owner != key) {
            return Err(StoreError::AlreadyExists { entity: Entity::Flow });
        }
        for (version, precondition) in &versions {
            state.check_version(version, *precondition)?;
        }
        state.append_audit(audit)?;
        if let Some((_, webhook)) = stored {
            state.webhooks.remove(&webhook);
        }
        state.webhooks.insert(flow.webhook, key);
        state.flows.insert(key, flow);
        for (version, _) in versions {
            state.versions.insert((version.project, version.id), version);
        }
        state.change_trigger(key, trigger);
        Ok(())
    }

    async fn flow(&self, id: FlowId, project: ProjectId) -> Result<FlowRecord, StoreError> {
        self.lock().flows.get(&(project, id)).cloned().ok_or(StoreError::NotFound { entity: Entity::Flow })
    }

    async fn flows(&self, project: ProjectId, page: &PageRequest) -> Result<Page<FlowRecord>, StoreError> {
        let state = self.lock();
        let rows = state.flows.values().filter(|flow| flow.project == project).map(|flow| (flow.id.as_u128(), flow));
        Ok(page_of(rows, page))
    }

    async fn flow_version(&self, id: FlowVersionId, project: ProjectId) -> Result<FlowVersionRecord, StoreError> {
        let stored = self.lock().versions.get(&(project, id)).cloned();
        stored.ok_or(StoreError::NotFound { entity: Entity::FlowVersion })
    }

    async fn flow_versions(
        &self,
        flow: FlowId,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<FlowVersionRecord>, StoreError> {
        let state = self.lock();
        let of_flow = |version: &&FlowVersionRecord| version.project == project && version.flow == flow;
        let rows = state.versions.values().filter(of_flow).map(|version| (version.id.as_u128(), version));
        Ok(page_of(rows, page))
    }
}

impl State {
    fn check_version(&self, version: &FlowVersionRecord, precondition: Precondition) -> Result<(), StoreError> {
        let entity = Entity::FlowVersion;
        let stored = self.versions.get(&(version.project, version.id));
        check_precondition(entity, precondition, version.revision, stored.map(|stored| stored.revision))?;
        if let Some(stored) = stored {
            if stored.flow != version.flow {
                return Err(StoreError::NotFound { entity });
            }
            if stored.state == VersionState::Locked {
                return Err(StoreError::Conflict { entity, current: stored.revision });
            }
        }
        let taken = |other: &FlowVersionRecord| {
            other.project == version.project
                && other.flow == version.flow
                && other.number == version.number
                && other.id != version.id
        };
        if self.versions.values().any(taken) { Err(StoreError::AlreadyExists { entity }) } else { Ok(()) }
    }
}
