//! Projects: the tenants.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    id::ProjectId,
    store::{Sealed, StoreError},
    time::Timestamp,
};
use ap_crypto::keyring::WrappedKey;
use async_trait::async_trait;

/// A project, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRecord {
    /// Its id.
    pub id: ProjectId,
    /// When it was created.
    pub created: Timestamp,
    /// Its share of the workers.
    pub share: ProjectShare,
    /// Display name, sealed.
    pub sealed: Sealed,
}

/// What part of the workers a project gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectShare {
    /// How many of its runs are claimed in the time in which one of a project of weight 1 is. Default: 1. Accepted: 1 to
    /// 1,000.
    pub weight: u32,
    /// How many of its runs may be executed at once, over all workers; `None`: as many as the runtime's default says.
    /// Accepted: 1 to 100,000. A paused run is not being executed.
    pub concurrency: Option<u32>,
}

impl Default for ProjectShare {
    fn default() -> Self {
        Self { weight: 1, concurrency: None }
    }
}

/// Projects: the tenants.
#[async_trait]
pub trait ProjectStore: fmt::Debug + Send + Sync + 'static {
    /// Creates a project together with its tenant key.
    ///
    /// # Errors
    /// `AlreadyExists` if the id of the project or of the key is taken; [`StoreError`] lists the rest.
    async fn create_project(
        &self,
        project: ProjectRecord,
        key: WrappedKey,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// Reads one.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn project(&self, id: ProjectId) -> Result<ProjectRecord, StoreError>;

    /// Changes a project's share of the workers.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn set_share(&self, id: ProjectId, share: ProjectShare, audit: &[AuditRecord]) -> Result<(), StoreError>;
}
