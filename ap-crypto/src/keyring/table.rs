//! The key table: its rows and the seam that keeps them.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    id::KeyId,
    scope::Scope,
    store::{Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

/// What a stored key is for. It is bound to the wrapped key, so a changed kind does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// Seals values of its tenant, if it is the newest; opens them.
    Data,
    /// Sealed values once. Opens nothing but what a rotation finds left over.
    Retired,
    /// The keys of the tenant's look-ups, placeholders and resume tokens, which outlive every data key.
    LookUp,
    /// The key of look-ups that come before the tenant is known; the platform has it.
    Routes,
}

impl KeyKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Data, Self::Retired, Self::LookUp, Self::Routes];

    /// The number a table keeps. It never changes.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Retired => 1,
            Self::LookUp => 2,
            Self::Routes => 3,
        }
    }

    /// The kind of this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| i64::from(kind.number()) == number)
    }

    /// What the wrapped key is sealed for.
    pub(super) const fn purpose(self) -> &'static str {
        match self {
            Self::Data => "key-wrap",
            Self::Retired => "retired-key",
            Self::LookUp => "look-up-keys",
            Self::Routes => "route-key",
        }
    }
}

/// A row of the key table: a key, sealed under its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Its id: what envelopes name. Unique in the whole table.
    pub id: KeyId,
    /// Whose key it is.
    pub scope: Scope,
    /// What it is for.
    pub kind: KeyKind,
    /// The key it is sealed under: the root key.
    pub parent: KeyId,
    /// When it was made, or retired; bound to the sealed key, so a changed time is noticed.
    pub created: Timestamp,
    /// The key itself.
    pub wrapped: Sealed,
}

/// Durable storage of wrapped keys: the key table. It never sees a key in the clear.
///
/// # Contract
///
/// * **Atomicity.** A change happens wholly, with its audit records, or not at all.
/// * **Durability.** Once a change returns `Ok`, it survives a crash: data sealed under the key depends on that.
/// * **Uniqueness.** No two rows have the same id, whatever their scopes.
/// * **No blind write.** A row is replaced or deleted only while it is, in every column, the one the caller read.
#[async_trait]
pub trait KeyStore: fmt::Debug + Send + Sync + 'static {
    /// Every key of `scope`, in any order; empty if it has none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Backend`].
    async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError>;

    /// Up to `limit` keys of all scopes behind the id `after`, in order of id: what a rotation of the root key walks over.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Backend`].
    async fn key_page(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappedKey>, StoreError>;

    /// Adds `key` and `audit` in one transaction.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if a row with this id exists; [`StoreError`] lists the rest.
    async fn insert_key(&self, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Puts `key` in the place of `stored`, which has the same id and scope, and adds `audit`, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such row, [`StoreError::Conflict`] (its `current` is meaningless) if it is no
    /// longer `stored`; [`StoreError::Backend`] if the two differ in id or scope; [`StoreError`] lists the rest.
    async fn replace_key(&self, stored: &WrappedKey, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Deletes `stored` for good and adds `audit`, in one transaction. What is sealed under it can never be opened again.
    ///
    /// # Errors
    /// As [`KeyStore::replace_key`].
    async fn delete_key(&self, stored: &WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_numbers() {
        let numbers: Vec<u8> = KeyKind::ALL.into_iter().map(KeyKind::number).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        for kind in KeyKind::ALL {
            assert_eq!(KeyKind::from_number(i64::from(kind.number())), Some(kind));
        }
        assert_eq!(KeyKind::from_number(4), None);
        assert_eq!(KeyKind::from_number(-1), None);
    }
}
