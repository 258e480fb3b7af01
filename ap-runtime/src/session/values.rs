//! The key-value store of a project, by hand.

use ap_auth::{
    audit::AuditEvent,
    permission::{StoreRead, StoreWrite},
};
use ap_core::{
    json,
    store::{Cursor, Page, PageRequest},
    time::Timestamp,
};
use serde::Serialize;
use serde_json::Value;

use super::{ProjectSession, SessionError};
use crate::{
    config::ValueLimits,
    executor::check_key,
    records,
    store::{ValueChange, ValueExpect, ValueRecord, ValueScope, ValueUsage, ValueWrite},
};

/// A value of the key-value store.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StoredValue {
    /// Its key.
    pub key: String,
    /// What it is.
    pub value: Value,
    /// When it was written.
    pub updated: Timestamp,
}

/// What a listing says of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StoredKey {
    /// Its key.
    pub key: String,
    /// What it counts for. Unit: bytes of key and JSON.
    pub bytes: u32,
    /// When it was written.
    pub updated: Timestamp,
}

/// How much of its key-value store a project uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StoreUsage {
    /// How many values there are.
    pub entries: u64,
    /// How many there may be.
    pub most_entries: u64,
    /// Their keys and JSON. Unit: bytes.
    pub bytes: u64,
    /// How much that may be. Unit: bytes.
    pub most_bytes: u64,
}

impl ProjectSession {
    /// Largest page of [`ProjectSession::stored_keys`]. Unit: values; 50, since each is read whole.
    pub const MOST_STORED_KEYS: u32 = 50;

    /// Reads a value that scripts keep under `key`; `None` if there is none. Needs `store.read`.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for a key that no value can have; [`SessionError::Vault`] if the value was changed in the
    /// database; [`SessionError`] lists the rest.
    pub async fn stored_value(&self, scope: ValueScope, key: &str) -> Result<Option<StoredValue>, SessionError> {
        let proof = self.authorize::<StoreRead, _>(())?;
        check_key(key).map_err(|reason| SessionError::InvalidArgument { reason })?;
        let keys = self.keys().await?;
        let id = records::value_id(&keys, scope, key);
        let record = match self.session.parts.kernel.backend.value(id, proof.target()).await {
            Ok(record) => record,
            Err(ap_core::store::StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let text = records::open_value(&keys, &record, key)?;
        let value = serde_json::from_str(&text).map_err(|error| SessionError::Vault(error.into()))?;
        Ok(Some(StoredValue { key: key.to_owned(), value, updated: record.updated }))
    }

    /// Lists the keys of a scope, in an order that stays the same and means nothing. Needs `store.read`. A page has at most
    /// [`ProjectSession::MOST_STORED_KEYS`].
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn stored_keys(&self, scope: ValueScope, page: &PageRequest) -> Result<Page<StoredKey>, SessionError> {
        let proof = self.authorize::<StoreRead, _>(())?;
        let keys = self.keys().await?;
        let first = PageRequest::first(page.limit().min(Self::MOST_STORED_KEYS));
        let page = page.start_after().map_or(first, |after| first.after(Cursor::behind(after)));
        let found = self.session.parts.kernel.backend.values(scope, proof.target(), &page).await?;
        let open = |record: &ValueRecord| {
            let (key, _) = records::open_listed_value(&keys, record)?;
            Ok(StoredKey { key, bytes: record.bytes, updated: record.updated })
        };
        let items = found.items.iter().map(open).collect::<Result<_, SessionError>>()?;
        Ok(Page { items, next: found.next })
    }

    /// Puts a value under `key`, whatever there is. Needs `store.write`. A step that has read it and not ended yet is run again.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for a key that is not of 1 to 128 characters, or a value larger than 512 KiB of JSON or
    /// nested deeper than 100 levels; [`StoreError::LimitExceeded`](ap_core::store::StoreError::LimitExceeded) if the store is full;
    /// [`StoreError::NotFound`](ap_core::store::StoreError::NotFound) if there is no such flow; [`SessionError`] lists the rest.
    pub async fn put_stored_value(&self, scope: ValueScope, key: &str, value: &Value) -> Result<(), SessionError> {
        let proof = self.authorize::<StoreWrite, _>(())?;
        let invalid = |reason: String| SessionError::InvalidArgument { reason };
        check_key(key).map_err(invalid)?;
        json::check_output(value).map_err(|limit| invalid(format!("the value {limit}")))?;
        let text = value.to_string();
        if text.len() > ValueLimits::VALUE_BYTES {
            return Err(invalid(format!("a stored value has at most {} KiB of JSON", ValueLimits::VALUE_BYTES >> 10)));
        }
        let kernel = &self.session.parts.kernel;
        if let ValueScope::Flow(flow) = scope {
            kernel.backend.flow(flow, proof.target()).await?;
        }
        let keys = self.keys().await?;
        let record = kernel.seal_value(&keys, proof.target(), (scope, key), &text)?;
        let event = AuditEvent::of(&proof, kernel.clock.now()).with_detail("bytes", u64::from(record.bytes));
        let change = ValueChange { id: record.id, expect: ValueExpect::Anything, write: ValueWrite::Put(record) };
        self.change_value(change, named(event, scope, key)).await
    }

    /// Deletes what is under `key`, if there is something. Needs `store.write`.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for a key that no value can have; [`SessionError`] lists the rest.
    pub async fn delete_stored_value(&self, scope: ValueScope, key: &str) -> Result<(), SessionError> {
        let proof = self.authorize::<StoreWrite, _>(())?;
        check_key(key).map_err(|reason| SessionError::InvalidArgument { reason })?;
        let id = records::value_id(&*self.keys().await?, scope, key);
        let event = AuditEvent::of(&proof, self.session.parts.kernel.clock.now()).with_detail("deleted", true);
        let change = ValueChange { id, expect: ValueExpect::Anything, write: ValueWrite::Delete };
        self.change_value(change, named(event, scope, key)).await
    }

    /// How much of its key-value store the project uses, and may use in this process's opinion. Needs `store.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn store_usage(&self) -> Result<StoreUsage, SessionError> {
        let proof = self.authorize::<StoreRead, _>(())?;
        let kernel = &self.session.parts.kernel;
        let ValueUsage { entries, bytes } = kernel.backend.value_usage(proof.target()).await?;
        let limit = kernel.value_limits;
        Ok(StoreUsage { entries, most_entries: limit.entries(), bytes, most_bytes: limit.bytes() })
    }

    async fn change_value(&self, change: ValueChange, event: AuditEvent) -> Result<(), SessionError> {
        let kernel = &self.session.parts.kernel;
        let audit = [kernel.seal_event(&*self.keys().await?, &event)?];
        let limit = kernel.value_limits.of_project();
        Ok(kernel.backend.change_values(&[change], self.project, limit, &audit).await?)
    }
}

/// What was changed, as the audit trail has it.
fn named(event: AuditEvent, scope: ValueScope, key: &str) -> AuditEvent {
    let event = event.with_detail("key", key);
    match scope {
        ValueScope::Project => event.with_detail("scope", "project"),
        ValueScope::Flow(flow) => event.with_resource(flow).with_detail("scope", "flow"),
    }
}
