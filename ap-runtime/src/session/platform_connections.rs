//! Connections of the platform, which it lends to projects, and those it predefines in one.

use ap_auth::{audit::AuditEvent, permission::ConnectionProvision};
use ap_core::{
    connection::{Connection, ConnectionTerms},
    id::{ConnectionId, ProjectId},
    scope::Scope,
    store::{Page, PageRequest},
};

use super::{ConnectionSummary, Session, SessionError, connections::NOT_FOUND};
use crate::{records, store::SharedConnection};

impl Session {
    /// Stores a connection of the platform under its name, replacing one that has it. Needs `connection.provision` on the
    /// platform. Projects use it once it is shared with them, under the same name; one of their own goes first.
    /// Webhook doors notice a change within ten seconds. It may refer to secrets of the host: see [`crate::secret`].
    ///
    /// # Errors
    /// [`SessionError::InvalidConnection`] if a reference is none that the host's resolvers can read, with how it is written;
    /// [`StoreError::Conflict`](ap_core::store::StoreError::Conflict) if somebody else wrote it at the same time;
    /// [`SessionError`] lists the rest.
    pub async fn put_platform_connection(&self, connection: &Connection) -> Result<ConnectionId, SessionError> {
        let proof = self.authorize::<ConnectionProvision, _>(self.parts.platform, ())?;
        let keys = self.parts.kernel.keyring.tenant(proof.scope()).await?;
        let existing = self.own(&keys, proof.scope(), connection.name()).await?;
        let event = AuditEvent::of(&proof, self.parts.kernel.clock.now());
        let event = event.with_detail("revealToCode", connection.terms().reveal_to_code);
        self.write(&keys, proof.scope(), existing, connection, event).await
    }

    /// Lists the platform's connections, without their secrets. Needs `connection.provision` on the platform.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn platform_connections(&self, page: &PageRequest) -> Result<Page<ConnectionSummary>, SessionError> {
        let proof = self.authorize::<ConnectionProvision, _>(self.parts.platform, ())?;
        let keys = self.parts.kernel.keyring.tenant(proof.scope()).await?;
        self.summaries(&keys, proof.scope(), page).await
    }

    /// Deletes a connection of the platform, and takes it from every project. Needs `connection.provision` on the platform. Flows
    /// that use it fail where they do.
    ///
    /// # Errors
    /// [`StoreError::NotFound`](ap_core::store::StoreError::NotFound); [`SessionError`] lists the rest.
    pub async fn delete_platform_connection(&self, name: &str) -> Result<(), SessionError> {
        let kernel = &self.parts.kernel;
        let proof = self.authorize::<ConnectionProvision, _>(self.parts.platform, ())?;
        let keys = kernel.keyring.tenant(proof.scope()).await?;
        let record = self.own(&keys, proof.scope(), name).await?.ok_or(NOT_FOUND)?.record;
        let event = AuditEvent::of(&proof, kernel.clock.now()).with_resource(record.id);
        let event = event.with_detail("name", name).with_detail("deleted", true);
        let audit = [kernel.seal_event(&keys, &event)?];
        kernel.backend.delete_connection(record.id, proof.scope(), record.revision, &audit).await?;
        Ok(())
    }

    /// Lets a project use a connection of the platform, or no longer. Needs `connection.provision` on the platform.
    ///
    /// # Errors
    /// [`StoreError::NotFound`](ap_core::store::StoreError::NotFound) if there is no such connection or project, or the project
    /// did not have it; [`SessionError`] lists the rest.
    pub async fn share_platform_connection(
        &self,
        name: &str,
        project: ProjectId,
        shared: bool,
    ) -> Result<(), SessionError> {
        let kernel = &self.parts.kernel;
        let proof = self.authorize::<ConnectionProvision, _>(self.parts.platform, ())?;
        let keys = kernel.keyring.tenant(proof.scope()).await?;
        let record = self.own(&keys, proof.scope(), name).await?.ok_or(NOT_FOUND)?.record;
        let theirs = kernel.keyring.tenant(project.into()).await?;
        let event = AuditEvent::of(&proof, kernel.clock.now())
            .with_resource(record.id)
            .with_resource(project)
            .with_detail("name", name)
            .with_detail("shared", shared);
        let audit = [kernel.seal_event(&keys, &event)?];
        let _forget = self.parts.routes.forget_afterwards(project);
        if !shared {
            kernel.backend.unshare_connection(record.id, project, &audit).await?;
            return Ok(());
        }
        let sealed = records::seal_shared_connection(&theirs, (record.id, project), name, &*kernel.entropy)?;
        let shared = SharedConnection {
            connection: record.id,
            owner: proof.target(),
            project,
            name: records::shared_connection_name(&theirs, name),
            sealed,
        };
        kernel.backend.share_connection(shared, &audit).await?;
        Ok(())
    }

    /// Predefines a connection in a project, or replaces one: its flows use it, and nobody of the project can change or delete
    /// it. Needs `connection.provision` on the platform. Bind it to pieces by its terms. It may refer to secrets of the host: see
    /// [`crate::secret`].
    ///
    /// # Errors
    /// [`SessionError::InvalidConnection`] as [`Session::put_platform_connection`];
    /// [`SessionError::InvalidArgument`] if the project has a connection of its own under this name;
    /// [`StoreError::NotFound`](ap_core::store::StoreError::NotFound) if there is no such project; [`SessionError`] lists the
    /// rest.
    pub async fn provision_connection(
        &self,
        project: ProjectId,
        connection: Connection,
    ) -> Result<ConnectionId, SessionError> {
        let kernel = &self.parts.kernel;
        let proof = self.authorize::<ConnectionProvision, _>(self.parts.platform, ())?;
        let keys = kernel.keyring.tenant(project.into()).await?;
        let owner = Scope::from(project);
        let existing = self.own(&keys, owner, connection.name()).await?;
        if existing.as_ref().is_some_and(|found| !found.connection.terms().predefined) {
            let reason =
                format!("the project has a connection `{}` of its own: choose another name", connection.name());
            return Err(SessionError::InvalidArgument { reason });
        }
        let terms = ConnectionTerms { predefined: true, ..connection.terms().clone() };
        let connection = connection.with_terms(terms)?;
        // In the project's trail: it is the project's connection that changes.
        let event = AuditEvent::by(proof.actor(), "connection.provision", owner, kernel.clock.now());
        let event = event.with_detail("revealToCode", connection.terms().reveal_to_code);
        let _forget = self.parts.routes.forget_afterwards(project);
        self.write(&keys, owner, existing, &connection, event).await
    }

    /// Deletes a predefined connection of a project. Needs `connection.provision` on the platform. Flows that use it fail where
    /// they do.
    ///
    /// # Errors
    /// [`StoreError::NotFound`](ap_core::store::StoreError::NotFound), also for one that is not predefined; [`SessionError`]
    /// lists the rest.
    pub async fn unprovision_connection(&self, project: ProjectId, name: &str) -> Result<(), SessionError> {
        let kernel = &self.parts.kernel;
        let proof = self.authorize::<ConnectionProvision, _>(self.parts.platform, ())?;
        let keys = kernel.keyring.tenant(project.into()).await?;
        let owner = Scope::from(project);
        let found = self.own(&keys, owner, name).await?.filter(|found| found.connection.terms().predefined);
        let record = found.ok_or(NOT_FOUND)?.record;
        let event = AuditEvent::by(proof.actor(), "connection.provision", owner, kernel.clock.now());
        let event = event.with_resource(record.id).with_detail("name", name).with_detail("deleted", true);
        let audit = [kernel.seal_event(&keys, &event)?];
        let _forget = self.parts.routes.forget_afterwards(project);
        kernel.backend.delete_connection(record.id, owner, record.revision, &audit).await?;
        Ok(())
    }
}
