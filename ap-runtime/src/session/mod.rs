//! Sessions: what a host does in the name of a principal.
//!
//! Every call authorises first (deny by default), acts on the ids of the resulting proof, and writes its audit record in
//! the transaction of the change. A record of another project does not exist. No call returns a credential.

mod authorization;
mod connection_check;
mod connections;
mod erase;
mod error;
mod flows;
mod keys;
mod live;
mod platform_connections;
mod queues;
mod runs;
mod scripts;
mod secret_rotation;
mod steps;
mod values;

use std::{fmt, sync::Arc};

use ap_auth::{
    audit::AuditEvent,
    authorizer::{Authorized, Resource},
    permission::{AuditRead, PermissionMarker, ProjectCreate, ProjectRead},
    principal::Principal,
};
use ap_core::{
    id::{KeyId, ProjectId},
    store::{Page, PageRequest},
};
use ap_crypto::vault::TenantKeys;

pub use self::{
    authorization::AuthorizationStart,
    connection_check::ConnectionCheck,
    connections::{ConnectionSummary, ConnectionUsage, IfUsed},
    erase::{BackupsLeft, ErasureReceipt},
    error::SessionError,
    flows::{FlowSummary, VersionSummary},
    keys::KeyAdmin,
    live::{LiveRun, PublishReport},
    runs::RetryStrategy,
    secret_rotation::{SecretRotation, SecretRotationOptions},
    steps::{StepSource, StepTested},
    values::{StoreUsage, StoredKey, StoredValue},
};
use crate::{
    records,
    runtime::Parts,
    store::{ProjectRecord, ProjectShare},
};

/// What a host does in the name of one principal. Cheap to make; make one per request.
#[derive(Clone)]
pub struct Session {
    parts: Arc<Parts>,
    principal: Principal,
}

impl Session {
    pub(crate) const fn new(parts: Arc<Parts>, principal: Principal) -> Self {
        Self { parts, principal }
    }

    /// Creates a project, with a key of its own. Needs `project.create` on the platform.
    ///
    /// # Errors
    /// [`SessionError::Denied`], [`SessionError::InvalidArgument`] for a name that is empty or longer than 200
    /// characters; [`SessionError`] lists the rest.
    pub async fn create_project(&self, display_name: &str) -> Result<ProjectId, SessionError> {
        let kernel = &self.parts.kernel;
        let proof = self.authorize::<ProjectCreate, _>(self.parts.platform, ())?;
        check_display_name(display_name)?;
        let now = kernel.clock.now();
        let id = ProjectId::from_parts(now, kernel.id_entropy().map_err(records_failed)?);
        let key_id = KeyId::from_parts(now, kernel.id_entropy().map_err(records_failed)?);
        let (key, keys) = kernel.keyring.create_tenant_key(id.into(), key_id, now, &*kernel.entropy)?;
        let sealed = records::seal_project(&keys, id, display_name, &*kernel.entropy)?;
        let event = AuditEvent::of(&proof, now).with_resource(id);
        let audit = [kernel.audit_record(&event).await?];
        kernel
            .backend
            .create_project(ProjectRecord { id, created: now, share: ProjectShare::default(), sealed }, key, &audit)
            .await?;
        Ok(id)
    }

    /// Enters a project. Needs `project.read` there; every further call is authorised by itself.
    ///
    /// # Errors
    /// [`SessionError::Denied`]. Whether the project exists shows with the first call: to someone without a role in it,
    /// it never does.
    pub fn project(&self, id: ProjectId) -> Result<ProjectSession, SessionError> {
        self.authorize::<ProjectRead, _>(id, ())?;
        Ok(ProjectSession { session: self.clone(), project: id })
    }

    fn authorize<P: PermissionMarker, R: Resource>(
        &self,
        target: P::Target,
        resource: R,
    ) -> Result<Authorized<P, R>, SessionError> {
        self.parts.authorizer.authorize(&self.principal, target, resource).map_err(|denied| {
            self.parts.kernel.denials.call(&denied, self.parts.kernel.clock.now());
            denied.into()
        })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// What a host does in the name of one principal within one project.
#[derive(Clone, Debug)]
pub struct ProjectSession {
    session: Session,
    project: ProjectId,
}

impl ProjectSession {
    /// The project.
    #[must_use]
    pub const fn id(&self) -> ProjectId {
        self.project
    }

    /// The project's display name.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn display_name(&self) -> Result<String, SessionError> {
        let proof = self.authorize::<ProjectRead, _>(())?;
        let keys = self.keys().await?;
        let record = self.session.parts.kernel.backend.project(proof.target()).await?;
        Ok(records::open_project(&keys, &record)?)
    }

    /// The project's audit trail, oldest first. Needs `audit.read`.
    ///
    /// # Errors
    /// [`SessionError::Vault`] if a record was altered in the store; [`SessionError`] lists the rest.
    pub async fn audit(&self, page: &PageRequest) -> Result<Page<AuditEvent>, SessionError> {
        let proof = self.authorize::<AuditRead, _>(())?;
        let keys = self.keys().await?;
        let Page { items, next } = self.session.parts.kernel.backend.audit(proof.scope(), page).await?;
        let mut events = Vec::with_capacity(items.len());
        for record in &items {
            let body = records::open_audit(&keys, record)?;
            events.push(AuditEvent::from_record(record, &body).map_err(records_failed)?);
        }
        Ok(Page { items: events, next })
    }

    fn authorize<P, R>(&self, resource: R) -> Result<Authorized<P, R>, SessionError>
    where
        P: PermissionMarker<Target = ProjectId>,
        R: Resource,
    {
        self.session.authorize(self.project, resource)
    }

    async fn keys(&self) -> Result<Arc<TenantKeys>, SessionError> {
        Ok(self.session.parts.kernel.keyring.tenant(self.project.into()).await?)
    }
}

fn check_display_name(name: &str) -> Result<(), SessionError> {
    if (1..=MAX_DISPLAY_NAME).contains(&name.chars().count()) {
        return Ok(());
    }
    Err(SessionError::InvalidArgument { reason: format!("a display name has 1 to {MAX_DISPLAY_NAME} characters") })
}

fn records_failed(error: impl std::error::Error + Send + Sync + 'static) -> SessionError {
    SessionError::Vault(Box::new(error))
}

/// Longest display name. Unit: characters.
const MAX_DISPLAY_NAME: usize = 200;
