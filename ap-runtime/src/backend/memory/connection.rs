//! Connections.

use std::time::Duration;

use ap_core::{
    audit::AuditRecord,
    id::{ConnectionId, ProjectId},
    scope::Scope,
    store::{Entity, LookupHash, Page, PageRequest, Precondition, Revision, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::{MemoryBackend, State, page_of};
use crate::{
    backend::check_precondition,
    store::{ConnectionRecord, ConnectionStore, SharedConnection},
};

/// A connection, and who renews its tokens.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) record: ConnectionRecord,
    epoch: u64,
    pub(super) leased: Option<Timestamp>,
}

#[async_trait]
impl ConnectionStore for MemoryBackend {
    async fn write_connection(
        &self,
        connection: ConnectionRecord,
        precondition: Precondition,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.check_connection(&connection, precondition)?;
        state.append_audit(audit)?;
        state.put_connection(connection);
        Ok(())
    }

    async fn write_leased_connection(
        &self,
        connection: ConnectionRecord,
        (revision, epoch): (Revision, u64),
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.check_connection(&connection, Precondition::Revision(revision))?;
        if state.connections.get(&(connection.owner, connection.id)).is_some_and(|stored| stored.epoch != epoch) {
            return Err(StoreError::Fenced);
        }
        state.append_audit(audit)?;
        state.put_connection(connection);
        Ok(())
    }

    async fn connection(&self, name: LookupHash, owner: Scope) -> Result<ConnectionRecord, StoreError> {
        let state = self.lock();
        let mut own = state.connections.values().map(|stored| &stored.record).filter(|record| record.owner == owner);
        own.find(|record| record.name == name).cloned().ok_or(NOT_FOUND)
    }

    async fn connections(&self, owner: Scope, page: &PageRequest) -> Result<Page<ConnectionRecord>, StoreError> {
        let state = self.lock();
        let own = state.connections.values().map(|stored| &stored.record).filter(|record| record.owner == owner);
        Ok(page_of(own.map(|record| (record.id.as_u128(), record)), page))
    }

    async fn delete_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.check_revision(id, owner, revision)?;
        state.append_audit(audit)?;
        state.connections.remove(&(owner, id));
        if owner.project().is_none() {
            state.shared.retain(|(_, connection), _| *connection != id);
        }
        Ok(())
    }

    async fn lease_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        lease: Duration,
    ) -> Result<Option<u64>, StoreError> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.check_revision(id, owner, revision)?;
        let stored = state.connections.get_mut(&(owner, id)).ok_or(NOT_FOUND)?;
        if stored.leased.is_some_and(|until| now < until) {
            return Ok(None);
        }
        stored.epoch += 1;
        stored.leased = Some(now.saturating_add(lease));
        Ok(Some(stored.epoch))
    }

    async fn release_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        epoch: u64,
        rest: Duration,
    ) -> Result<(), StoreError> {
        let until = self.clock.now().saturating_add(rest);
        if let Some(stored) = self.lock().connections.get_mut(&(owner, id)).filter(|stored| stored.epoch == epoch) {
            stored.leased = Some(until);
        }
        Ok(())
    }

    async fn share_connection(&self, shared: SharedConnection, audit: &[AuditRecord]) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.check_exists(shared.project)?;
        if !state.connections.contains_key(&(shared.owner.into(), shared.connection)) {
            return Err(NOT_FOUND);
        }
        let taken = |other: &SharedConnection| {
            other.project == shared.project && other.name == shared.name && other.connection != shared.connection
        };
        if state.shared.values().any(taken) {
            return Err(StoreError::AlreadyExists { entity: Entity::Connection });
        }
        state.append_audit(audit)?;
        state.shared.insert((shared.project, shared.connection), shared);
        Ok(())
    }

    async fn unshare_connection(
        &self,
        connection: ConnectionId,
        project: ProjectId,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.shared.contains_key(&(project, connection)) {
            return Err(NOT_FOUND);
        }
        state.append_audit(audit)?;
        state.shared.remove(&(project, connection));
        Ok(())
    }

    async fn shared_connection(
        &self,
        name: LookupHash,
        project: ProjectId,
    ) -> Result<(SharedConnection, ConnectionRecord), StoreError> {
        let state = self.lock();
        let mut of_project = state.shared.values().filter(|shared| shared.project == project);
        let shared = of_project.find(|shared| shared.name == name).ok_or(NOT_FOUND)?;
        state.with_record(shared).ok_or(NOT_FOUND)
    }

    async fn shared_connections(
        &self,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<(SharedConnection, ConnectionRecord)>, StoreError> {
        let state = self.lock();
        let of_project = state.shared.values().filter(|shared| shared.project == project);
        let rows: Vec<_> = of_project.filter_map(|shared| state.with_record(shared)).collect();
        Ok(page_of(rows.iter().map(|row| (row.0.connection.as_u128(), row)), page))
    }
}

impl State {
    fn check_connection(&self, connection: &ConnectionRecord, precondition: Precondition) -> Result<(), StoreError> {
        if let Some(project) = connection.owner.project() {
            self.check_exists(project)?;
        }
        let stored = self.connections.get(&(connection.owner, connection.id)).map(|stored| stored.record.revision);
        check_precondition(Entity::Connection, precondition, connection.revision, stored)?;
        let mut others = self.connections.values().map(|stored| &stored.record);
        let taken = |other: &ConnectionRecord| {
            other.owner == connection.owner && other.name == connection.name && other.id != connection.id
        };
        if others.any(taken) { Err(StoreError::AlreadyExists { entity: Entity::Connection }) } else { Ok(()) }
    }

    fn check_revision(&self, id: ConnectionId, owner: Scope, revision: Revision) -> Result<(), StoreError> {
        let stored = self.connections.get(&(owner, id)).map(|stored| stored.record.revision);
        let precondition = Precondition::Revision(revision);
        check_precondition(Entity::Connection, precondition, precondition.resulting_revision(), stored)
    }

    fn put_connection(&mut self, record: ConnectionRecord) {
        let key = (record.owner, record.id);
        let epoch = self.connections.get(&key).map_or(0, |stored| stored.epoch);
        self.connections.insert(key, Stored { record, epoch, leased: None });
    }

    fn with_record(&self, shared: &SharedConnection) -> Option<(SharedConnection, ConnectionRecord)> {
        let stored = self.connections.get(&(shared.owner.into(), shared.connection))?;
        Some((shared.clone(), stored.record.clone()))
    }
}

const NOT_FOUND: StoreError = StoreError::NotFound { entity: Entity::Connection };
