//! Changing keys: what a rotation does to the rows of the key table, without writing them.
//!
//! A tenant's data key: a new one is added, which seals from then on; every value is sealed anew; the old one is retired. What
//! was derived from the oldest data key is first kept as a row of its own, so that look-ups, placeholders and resume tokens stay
//! the same. The root key: each row is opened under the root key it names and wrapped again under the first one.

use ap_core::{id::KeyId, scope::Scope, time::Timestamp};

use super::{KeyKind, Keyring, WrappedKey, wrap_context};
use crate::{
    aead::NONCE_BYTES,
    entropy::{Entropy, random_array},
    envelope,
    error::KeyError,
    kdf,
    key::SecretKey,
    vault::{DataKey, KeySet, Subkeys, TenantKeys},
};

impl Keyring {
    /// The id of the root key that wraps new keys.
    #[must_use]
    pub const fn root_id(&self) -> KeyId {
        self.root_id
    }

    /// A new data key for `scope`, wrapped; it is the newest if `created` is later than that of every other.
    ///
    /// # Errors
    /// [`KeyError::Entropy`] if no key could be generated.
    pub fn new_data_key(
        &self,
        scope: Scope,
        id: KeyId,
        created: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        let key = SecretKey::generate(entropy)?;
        self.wrap((id, scope), KeyKind::Data, created, key.expose(), entropy)
    }

    /// The row that keeps what is derived from the oldest of these keys; `None` if they have one.
    ///
    /// Its id follows from the key, so whoever makes it makes the same row.
    ///
    /// # Errors
    /// [`KeyError::NoKey`] without any data key; else as [`Keyring::tenant`].
    pub fn look_up_row(
        &self,
        scope: Scope,
        rows: &[WrappedKey],
        entropy: &dyn Entropy,
    ) -> Result<Option<WrappedKey>, KeyError> {
        if rows.iter().any(|row| row.kind == KeyKind::LookUp) {
            return Ok(None);
        }
        let oldest = rows.iter().filter(|row| row.kind == KeyKind::Data).min_by_key(|row| (row.created, row.id));
        let oldest = self.data_key(scope, oldest.ok_or(KeyError::NoKey { scope })?)?;
        let subkeys = Subkeys::derive(scope, &oldest.key);
        let id = kdf::derive::<16>(None, &oldest.key, &[b"ap-crypto/look-up-key-id/v1", &scope.to_bytes()]);
        let id = KeyId::from_u128(u128::from_be_bytes(*id));
        self.wrap((id, scope), KeyKind::LookUp, oldest.created, &subkeys.to_bytes()[..], entropy).map(Some)
    }

    /// The row as it is once its root key is the first one; `None` if that is so already.
    ///
    /// # Errors
    /// [`KeyError::WrongRootKey`] if the key it names is none of this keyring's; [`KeyError::Unopenable`],
    /// [`KeyError::Entropy`].
    pub fn rewrap(&self, row: &WrappedKey, entropy: &dyn Entropy) -> Result<Option<WrappedKey>, KeyError> {
        if row.parent == self.root_id {
            return Ok(None);
        }
        self.wrap_again(row, row.kind, row.created, entropy).map(Some)
    }

    /// The row as it is once it is retired: it opens nothing any more.
    ///
    /// # Errors
    /// As [`Keyring::rewrap`].
    pub fn retire(&self, row: &WrappedKey, at: Timestamp, entropy: &dyn Entropy) -> Result<WrappedKey, KeyError> {
        self.wrap_again(row, KeyKind::Retired, at, entropy)
    }

    /// The row as it is once it is the newest data key: what turns a rotation back.
    ///
    /// # Errors
    /// As [`Keyring::rewrap`].
    pub fn renew(&self, row: &WrappedKey, at: Timestamp, entropy: &dyn Entropy) -> Result<WrappedKey, KeyError> {
        self.wrap_again(row, KeyKind::Data, at, entropy)
    }

    /// The keys of `scope`, the retired ones among them: for what a rotation finds left over, and for what was sealed before it and is
    /// kept outside, by whoever was given it.
    ///
    /// # Errors
    /// As [`Keyring::tenant`].
    pub async fn with_retired(&self, scope: Scope) -> Result<TenantKeys, KeyError> {
        let rows = self.store.keys(scope).await?;
        let set = self.key_set(scope, &rows, &[KeyKind::Data, KeyKind::Retired])?;
        Ok(TenantKeys::of(scope, set))
    }

    /// What `rows` are worth: the data keys among them, and the subkeys.
    pub(super) fn key_set(&self, scope: Scope, rows: &[WrappedKey], kinds: &[KeyKind]) -> Result<KeySet, KeyError> {
        let data = |kind| rows.iter().filter(move |row| row.kind == kind).map(|row| self.data_key(scope, row));
        // Retired ones first: what seals is the last of the data keys.
        let mut keys = Vec::new();
        for kind in [KeyKind::Retired, KeyKind::Data].into_iter().filter(|kind| kinds.contains(kind)) {
            let mut found = data(kind).collect::<Result<Vec<DataKey>, _>>()?;
            found.sort_by_key(|key| (key.created, key.id));
            keys.extend(found);
        }
        if !rows.iter().any(|row| row.kind == KeyKind::Data) {
            return Err(KeyError::NoKey { scope });
        }
        let look_up = rows.iter().find(|row| row.kind == KeyKind::LookUp);
        let subkeys = look_up.map(|row| {
            let bytes = self.unwrap(scope, row)?;
            Subkeys::from_bytes(&bytes).ok_or(KeyError::Unopenable { id: row.id, scope })
        });
        KeySet::new(scope, keys, subkeys.transpose()?).ok_or(KeyError::NoKey { scope })
    }

    fn data_key(&self, scope: Scope, row: &WrappedKey) -> Result<DataKey, KeyError> {
        let bytes = self.unwrap(scope, row)?;
        let key = SecretKey::from_slice(&bytes).ok_or(KeyError::Unopenable { id: row.id, scope })?;
        Ok(DataKey { id: row.id, created: row.created, key })
    }

    fn wrap_again(
        &self,
        row: &WrappedKey,
        kind: KeyKind,
        created: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        let key = self.unwrap(row.scope, row)?;
        self.wrap((row.id, row.scope), kind, created, &key, entropy)
    }

    pub(super) fn wrap(
        &self,
        (id, scope): (KeyId, Scope),
        kind: KeyKind,
        created: Timestamp,
        key: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        let nonce = random_array::<NONCE_BYTES>(entropy)?;
        let record = *id.as_bytes();
        let context = wrap_context(scope, &record, kind, created);
        let wrapped = envelope::seal(self.root_id, self.root.secret(), &context, key, &nonce)
            .map_err(|_| KeyError::Unopenable { id, scope })?;
        Ok(WrappedKey { id, scope, kind, parent: self.root_id, created, wrapped })
    }
}
