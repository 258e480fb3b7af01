//! Keys of a tenant, and a credential to seal.

use std::sync::Arc;

use anyhow::{Result, bail};
use ap_core::{
    audit::AuditRecord,
    connection::{Connection, ConnectionValue},
    id::{KeyId, ProjectId},
    scope::Scope,
    store::{Entity, StoreError},
    time::Timestamp,
};
use ap_crypto::{
    entropy::SystemEntropy,
    envelope::SealContext,
    key::RootKey,
    keyring::{KeyStore, Keyring, WrappedKey},
    vault::TenantKeys,
};
use async_trait::async_trait;

/// The keys of a new tenant.
pub(crate) fn tenant_keys() -> Result<Arc<TenantKeys>> {
    let keyring = Keyring::new(RootKey::generate(&SystemEntropy)?, Arc::new(NoKeys));
    let made = Timestamp::from_micros(1);
    let (_, keys) = keyring.create_tenant_key(scope(), KeyId::from_u128(1), made, &SystemEntropy)?;
    Ok(keys)
}

/// What sealed values are bound to.
pub(crate) fn context() -> SealContext<'static> {
    SealContext {
        scope: scope(),
        table: "connection",
        record: b"0123456789abcdef",
        field: "value",
        version: 1,
        purpose: "bench",
    }
}

/// A credential that is `bytes` long when encoded.
pub(crate) fn credential(bytes: usize) -> Result<Connection> {
    let value = |length: usize| ConnectionValue::SecretText { secret: "k".repeat(length).into() };
    let connection = |length| Connection::new("crm", value(length), vec![], vec![]);
    for length in 8..bytes {
        let made = connection(length)?;
        if ap_crypto::connection::encode_connection(&made)?.len() >= bytes {
            return Ok(made);
        }
    }
    bail!("no credential is {bytes} bytes long")
}

fn scope() -> Scope {
    ProjectId::from_u128(1).into()
}

/// A key table that nothing is kept in: the one key stays open.
#[derive(Debug)]
struct NoKeys;

#[async_trait]
impl KeyStore for NoKeys {
    async fn keys(&self, _: Scope) -> Result<Vec<WrappedKey>, StoreError> {
        Ok(Vec::new())
    }

    async fn key_page(&self, _: Option<KeyId>, _: u32) -> Result<Vec<WrappedKey>, StoreError> {
        Ok(Vec::new())
    }

    async fn insert_key(&self, _: WrappedKey, _: &[AuditRecord]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn replace_key(&self, _: &WrappedKey, _: WrappedKey, _: &[AuditRecord]) -> Result<(), StoreError> {
        Err(StoreError::NotFound { entity: Entity::Key })
    }

    async fn delete_key(&self, _: &WrappedKey, _: &[AuditRecord]) -> Result<(), StoreError> {
        Err(StoreError::NotFound { entity: Entity::Key })
    }
}
