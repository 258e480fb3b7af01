//! The audit trail.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    scope::Scope,
    store::{Page, PageRequest, StoreError},
};
use async_trait::async_trait;

/// The audit trail.
#[async_trait]
pub trait AuditStore: fmt::Debug + Send + Sync + 'static {
    /// Appends events that come with no other change: denials, reads worth a line.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn append_audit(&self, records: &[AuditRecord]) -> Result<(), StoreError>;

    /// Lists the trail of one scope in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn audit(&self, scope: Scope, page: &PageRequest) -> Result<Page<AuditRecord>, StoreError>;
}
