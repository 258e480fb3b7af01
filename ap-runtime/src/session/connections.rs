//! Connections: written once, never read back.

use ap_auth::{
    audit::AuditEvent,
    permission::{ConnectionDelete, ConnectionRead, ConnectionWrite},
};
use ap_core::{
    connection::{Connection, Field, Origin, Placement},
    id::ConnectionId,
    store::{Page, PageRequest, Precondition, Revision, StoreError},
    time::Timestamp,
};
use serde::Serialize;

use super::{ProjectSession, SessionError, records_failed};
use crate::{records, store::ConnectionRecord};

/// What can be seen of a connection: everything but its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConnectionSummary {
    /// Its id.
    pub id: ConnectionId,
    /// The name flows use.
    pub name: String,
    /// Wire name of its type.
    pub type_name: &'static str,
    /// Names of its clear fields.
    pub clear_fields: Vec<String>,
    /// Names of its secret fields.
    pub secret_fields: Vec<String>,
    /// Where its secrets may be put.
    pub placements: Vec<Placement>,
    /// The origins its secrets may be sent to.
    pub origins: Vec<Origin>,
    /// When it was last written.
    pub updated: Timestamp,
    /// Its revision.
    pub revision: Revision,
}

impl ProjectSession {
    /// Stores a connection under its name, replacing one that has it. Needs `connection.write`.
    ///
    /// Runs under way use the new value with their next request.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if somebody else wrote it at the same time; [`SessionError`] lists the rest.
    pub async fn put_connection(&self, connection: &Connection) -> Result<ConnectionId, SessionError> {
        let proof = self.authorize::<ConnectionWrite, _>(())?;
        let kernel = &self.session.parts.kernel;
        let (keys, now, project) = (self.keys().await?, kernel.clock.now(), proof.target());
        let name = records::connection_name(&keys, connection.name());
        let (id, created, precondition) = match kernel.backend.connection(name, project).await {
            Ok(existing) => (existing.id, existing.created, Precondition::Revision(existing.revision)),
            Err(StoreError::NotFound { .. }) => {
                let entropy = kernel.id_entropy().map_err(records_failed)?;
                (ConnectionId::from_parts(now, entropy), now, Precondition::Absent)
            }
            Err(error) => return Err(error.into()),
        };
        let revision = precondition.resulting_revision();
        let sealed = records::seal_connection(&keys, (id, project), revision, connection, &*kernel.entropy)?;
        let record = ConnectionRecord { id, project, name, created, updated: now, revision, sealed };
        let event = AuditEvent::of(&proof, now)
            .with_resource(id)
            .with_detail("name", connection.name())
            .with_detail("type", connection.value().type_name())
            .with_detail("revision", revision.0);
        let audit = [kernel.seal_event(&keys, &event)?];
        let _forget = self.session.parts.routes.forget_afterwards(project);
        kernel.backend.write_connection(record, precondition, &audit).await?;
        Ok(id)
    }

    /// Lists connections, without their secrets. Needs `connection.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn connections(&self, page: &PageRequest) -> Result<Page<ConnectionSummary>, SessionError> {
        let proof = self.authorize::<ConnectionRead, _>(())?;
        let keys = self.keys().await?;
        let Page { items, next } = self.session.parts.kernel.backend.connections(proof.target(), page).await?;
        let summaries =
            items.iter().map(|record| Ok(summary(record, &records::open_listed_connection(&keys, record)?)));
        Ok(Page { items: summaries.collect::<Result<_, SessionError>>()?, next })
    }

    /// Deletes the connection of this name. Needs `connection.delete`. Flows that use it fail where they do.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`SessionError`] lists the rest.
    pub async fn delete_connection(&self, name: &str) -> Result<(), SessionError> {
        let proof = self.authorize::<ConnectionDelete, _>(())?;
        let kernel = &self.session.parts.kernel;
        let (keys, project) = (self.keys().await?, proof.target());
        let record = kernel.backend.connection(records::connection_name(&keys, name), project).await?;
        let event = AuditEvent::of(&proof, kernel.clock.now()).with_resource(record.id).with_detail("name", name);
        let audit = [kernel.seal_event(&keys, &event)?];
        let _forget = self.session.parts.routes.forget_afterwards(project);
        kernel.backend.delete_connection(record.id, project, record.revision, &audit).await?;
        Ok(())
    }

    /// Names of all connections of the project.
    pub(super) async fn connection_names(&self) -> Result<Vec<String>, SessionError> {
        let keys = self.keys().await?;
        let (mut page, mut names) = (PageRequest::first(PageRequest::MAX_LIMIT), Vec::new());
        loop {
            let Page { items, next } = self.session.parts.kernel.backend.connections(self.project, &page).await?;
            for record in &items {
                names.push(records::open_listed_connection(&keys, record)?.name().to_owned());
            }
            match next {
                Some(cursor) => page = page.after(cursor),
                None => return Ok(names),
            }
        }
    }
}

fn summary(record: &ConnectionRecord, connection: &Connection) -> ConnectionSummary {
    let names = |wanted: fn(&Field<'_>) -> bool| {
        let fields = connection.value().fields().into_iter().filter(|(_, field)| wanted(field));
        fields.map(|(name, _)| name.to_owned()).collect()
    };
    ConnectionSummary {
        id: record.id,
        name: connection.name().to_owned(),
        type_name: connection.value().type_name(),
        clear_fields: names(|field| matches!(field, Field::Clear(_))),
        secret_fields: names(|field| matches!(field, Field::Secret(_))),
        placements: connection.placements().to_vec(),
        origins: connection.origins().to_vec(),
        updated: record.updated,
        revision: record.revision,
    }
}
