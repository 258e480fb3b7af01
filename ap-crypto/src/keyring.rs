//! [`Keyring`]: from the root key to the keys of each tenant.

mod open;
mod rotate;
mod table;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use ap_core::{
    audit::AuditRecord,
    id::KeyId,
    scope::Scope,
    store::{LookupHash, Sealed, StoreError},
    time::Timestamp,
};
use zeroize::Zeroizing;

use self::open::OpenKeys;
pub use self::table::{KeyKind, KeyStore, WrappedKey};
use crate::{
    entropy::Entropy,
    envelope::{self, SealContext},
    error::{KeyError, VaultError},
    kdf,
    key::{RootKey, SecretKey},
    provider::KeyProvider,
    signature,
    vault::TenantKeys,
};

/// Opens tenant keys with the root key, and keeps the recently used ones open.
///
/// Root key → tenant keys → a key per sealed value. Tenant keys are random and stored wrapped, so they can be re-wrapped
/// under another root key, and destroying one destroys what it sealed.
pub struct Keyring {
    root: RootKey,
    root_id: KeyId,
    /// Root keys that open, and wrap nothing.
    previous: RwLock<Vec<RootKey>>,
    platform_lookup: OnceLock<SecretKey>,
    store: Arc<dyn KeyStore>,
    open: Mutex<OpenKeys>,
}

impl Keyring {
    /// How many tenants' keys stay open; the least recently used ones are wiped first. Unit: tenants.
    pub const MAX_OPEN_TENANTS: usize = 1024;
    /// How many root keys may open stored keys beside the first one. Unit: keys.
    pub const MAX_PREVIOUS_ROOTS: usize = 8;

    /// Builds the keyring on the key of `provider`.
    ///
    /// Whether it is the right key shows when the first stored key is opened: open the platform's own with
    /// [`Keyring::open_platform`] at start-up.
    ///
    /// # Errors
    /// [`KeyError`] of the provider.
    pub async fn open(provider: &dyn KeyProvider, store: Arc<dyn KeyStore>) -> Result<Self, KeyError> {
        Ok(Self::new(provider.root_key().await?, store))
    }

    /// Builds the keyring on `root`.
    #[must_use]
    pub fn new(root: RootKey, store: Arc<dyn KeyStore>) -> Self {
        Self {
            root_id: root.id(),
            root,
            previous: RwLock::default(),
            platform_lookup: OnceLock::new(),
            store,
            open: Mutex::default(),
        }
    }

    /// The same, with root keys that open what was wrapped under them. Nothing is wrapped under them any more.
    ///
    /// # Errors
    /// [`KeyError::TooManyRootKeys`] above [`Keyring::MAX_PREVIOUS_ROOTS`].
    pub fn with_previous(self, roots: Vec<RootKey>) -> Result<Self, KeyError> {
        if roots.len() > Self::MAX_PREVIOUS_ROOTS {
            return Err(KeyError::TooManyRootKeys { limit: Self::MAX_PREVIOUS_ROOTS });
        }
        *self.previous.write().unwrap_or_else(PoisonError::into_inner) = roots;
        Ok(self)
    }

    /// Wipes the previous root keys: what is still wrapped under one of them is refused from now on.
    pub fn forget_previous(&self) {
        self.previous.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The keys of `scope`.
    ///
    /// The same object for everybody who asks, as long as anybody holds it: it follows what is read of the key table later.
    ///
    /// # Errors
    /// [`KeyError::NoKey`] if it has none; [`KeyError::WrongRootKey`] or [`KeyError::Unopenable`] if a stored key does
    /// not open; [`KeyError::Store`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing half done.
    pub async fn tenant(&self, scope: Scope) -> Result<Arc<TenantKeys>, KeyError> {
        if let Some(keys) = self.lock().find(scope) {
            return Ok(keys);
        }
        self.reload(scope).await
    }

    /// The keys of `scope` as the key table has them now; whoever holds them has the new ones too.
    ///
    /// # Errors
    /// As [`Keyring::tenant`].
    ///
    /// # Cancel safety
    /// As [`Keyring::tenant`].
    pub async fn reload(&self, scope: Scope) -> Result<Arc<TenantKeys>, KeyError> {
        let ticket = self.lock().ticket();
        let rows = self.store.keys(scope).await?;
        let set = self.key_set(scope, &rows, &[KeyKind::Data])?;
        Ok(self.lock().install(scope, ticket, set))
    }

    /// Sees to it that the keys of `scope` open `sealed`, as far as the key table has the key: one under a key that is not
    /// known here, because another process added it, makes the table be read again, once.
    ///
    /// # Errors
    /// As [`Keyring::tenant`].
    pub async fn learn<'s>(
        &self,
        scope: Scope,
        sealed: impl IntoIterator<Item = &'s Sealed> + Send,
    ) -> Result<(), KeyError> {
        let Some(keys) = self.lock().peek(scope) else { return Ok(()) };
        if sealed.into_iter().all(|value| keys.knows(value)) {
            return Ok(());
        }
        self.reload(scope).await.map(|_| ())
    }

    /// Reads the keys again that are in somebody's hands and were read before the last call of this, and closes the others of
    /// that age. Called at a steady pace, it bounds for how long this process seals under a key after another process added a
    /// newer one, to twice that pace.
    ///
    /// # Errors
    /// The first error of [`Keyring::reload`]; the other tenants were read all the same.
    pub async fn refresh(&self) -> Result<(), KeyError> {
        let stale = self.lock().stale();
        let mut result = Ok(());
        for scope in stale {
            result = result.and(self.reload(scope).await.map(|_| ()));
        }
        result
    }

    /// The keys of `scope`; makes and stores the first one if it has none.
    ///
    /// For scopes that no transaction creates, as the platform itself. Processes that do this at the same time end up
    /// with the same key: the first key's id follows from the root key and the scope, and the table has each id once.
    /// `audit` is written with the new key, and not at all if there was one.
    ///
    /// # Errors
    /// As [`Keyring::tenant`], and [`KeyError::Entropy`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves either no key or a stored one.
    pub async fn ensure_tenant(
        &self,
        scope: Scope,
        created: Timestamp,
        entropy: &dyn Entropy,
        audit: &[AuditRecord],
    ) -> Result<Arc<TenantKeys>, KeyError> {
        match self.tenant(scope).await {
            Err(KeyError::NoKey { .. }) => {}
            other => return other,
        }
        let id = kdf::derive::<16>(None, self.root.secret(), &[b"ap-crypto/first-key-id/v1", &scope.to_bytes()]);
        let (key, _) = self.create_tenant_key(scope, KeyId::from_u128(u128::from_be_bytes(*id)), created, entropy)?;
        match self.store.insert_key(key, audit).await {
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => self.tenant(scope).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the platform's own keys: its tenant key, and the one of [`Keyring::platform_lookup_hash`]. Makes and stores what
    /// is missing, as [`Keyring::ensure_tenant`]. Shows at once whether the root key is the right one.
    ///
    /// # Errors
    /// As [`Keyring::ensure_tenant`].
    ///
    /// # Cancel safety
    /// As [`Keyring::ensure_tenant`].
    pub async fn open_platform(&self, scope: Scope, created: Timestamp, entropy: &dyn Entropy) -> Result<(), KeyError> {
        self.ensure_tenant(scope, created, entropy, &[]).await?;
        let mut rows = self.store.keys(scope).await?;
        if rows.iter().all(|row| row.kind != KeyKind::Routes) {
            // From the root key that wraps the first key: that of whoever set the platform up.
            let first = rows.iter().filter(|row| row.kind == KeyKind::Data).min_by_key(|row| (row.created, row.id));
            let first = first.ok_or(KeyError::NoKey { scope })?;
            let (id, key) = self.with_root(scope, first.parent, |root| {
                let id = kdf::derive::<16>(None, root.secret(), &[b"ap-crypto/route-key-id/v1", &scope.to_bytes()]);
                (KeyId::from_u128(u128::from_be_bytes(*id)), route_key(root))
            })?;
            let row = self.wrap((id, scope), KeyKind::Routes, first.created, key.expose(), entropy)?;
            match self.store.insert_key(row, &[]).await {
                Ok(()) | Err(StoreError::AlreadyExists { .. }) => rows = self.store.keys(scope).await?,
                Err(error) => return Err(error.into()),
            }
        }
        let row = rows.iter().filter(|row| row.kind == KeyKind::Routes).min_by_key(|row| (row.created, row.id));
        let row = row.ok_or(KeyError::NoKey { scope })?;
        let bytes = self.unwrap(scope, row)?;
        let key = SecretKey::from_slice(&bytes).ok_or(KeyError::Unopenable { id: row.id, scope })?;
        // Fails if it was opened before: with the same key, because a platform has one.
        let _ = self.platform_lookup.set(key);
        Ok(())
    }

    /// Makes a key for `scope` without storing it: whoever creates the project commits the row with it.
    ///
    /// The opened keys hold only the new one, and the keyring does not remember them, because the transaction may fail.
    /// Seal with them only what the same transaction writes.
    ///
    /// # Errors
    /// [`KeyError::Entropy`] if no key could be generated.
    pub fn create_tenant_key(
        &self,
        scope: Scope,
        id: KeyId,
        created: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(WrappedKey, Arc<TenantKeys>), KeyError> {
        let row = self.new_data_key(scope, id, created, entropy)?;
        let set = self.key_set(scope, std::slice::from_ref(&row), &[KeyKind::Data])?;
        Ok((row, Arc::new(TenantKeys::of(scope, set))))
    }

    /// A keyed hash (HMAC-SHA256) for look-ups that come before the tenant is known, such as webhook tokens.
    ///
    /// The key is the platform's, which [`Keyring::open_platform`] reads; it outlives every root key. Before that it is derived
    /// from the root key, which is where it came from. Parts are told apart.
    #[must_use]
    pub fn platform_lookup_hash(&self, purpose: &str, parts: &[&[u8]]) -> LookupHash {
        let message: Vec<&[u8]> = std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()).collect();
        let hash = |key: &SecretKey| LookupHash(signature::hmac_of_parts(key, &message));
        self.platform_lookup.get().map_or_else(|| hash(&route_key(&self.root)), hash)
    }

    fn unwrap(&self, scope: Scope, stored: &WrappedKey) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let record = *stored.id.as_bytes();
        let context = wrap_context(scope, &record, stored.kind, stored.created);
        self.with_root(scope, stored.parent, |root| {
            let find = |id| (id == stored.parent).then_some(root.secret());
            envelope::open(find, &context, &stored.wrapped)
                .map_err(|_: VaultError| KeyError::Unopenable { id: stored.id, scope })
        })?
    }

    /// The root key that wraps new keys.
    pub(crate) const fn root(&self) -> (KeyId, &SecretKey) {
        (self.root_id, self.root.secret())
    }

    /// Does something with the root key of this id.
    pub(crate) fn with_root<T>(&self, scope: Scope, id: KeyId, act: impl FnOnce(&RootKey) -> T) -> Result<T, KeyError> {
        if id == self.root_id {
            return Ok(act(&self.root));
        }
        let previous = self.previous.read().unwrap_or_else(PoisonError::into_inner);
        match previous.iter().find(|root| root.id() == id) {
            Some(root) => Ok(act(root)),
            None => Err(KeyError::WrongRootKey { scope, expected: id, actual: self.root_id }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OpenKeys> {
        // No change under the lock can panic half-way, so a poisoned lock guards a sound map.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("root_id", &self.root_id).finish_non_exhaustive()
    }
}

fn wrap_context(scope: Scope, record: &[u8; 16], kind: KeyKind, created: Timestamp) -> SealContext<'_> {
    let version = created.as_micros().cast_unsigned();
    SealContext { scope, table: "keys", record, field: "wrapped", version, purpose: kind.purpose() }
}

fn route_key(root: &RootKey) -> SecretKey {
    kdf::derive_key(root.secret(), &[b"ap-crypto/platform-lookup/v1"])
}

#[cfg(test)]
pub(crate) mod test_support {
    use async_trait::async_trait;

    use super::*;

    /// A table without keys, which keeps none.
    #[derive(Debug)]
    pub(crate) struct NoKeys;

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
            Ok(())
        }

        async fn delete_key(&self, _: &WrappedKey, _: &[AuditRecord]) -> Result<(), StoreError> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use ap_core::{
        id::{ConnectionId, PlatformId, ProjectId, RunId},
        store::Entity,
    };
    use async_trait::async_trait;

    use super::*;
    use crate::{
        entropy::{
            random_array,
            test_support::{CountingEntropy, NoEntropy},
        },
        vault::{DataKey, KeySet},
    };

    #[derive(Debug, Default)]
    struct Table {
        rows: Mutex<Vec<WrappedKey>>,
        reads: Mutex<usize>,
        /// Inserted by somebody else right before the next insert.
        rival: Mutex<Option<WrappedKey>>,
        /// A key that is added, and read by this keyring, right after the next read has seen the rows.
        interrupted: Mutex<Option<(Arc<Keyring>, WrappedKey)>>,
    }

    #[async_trait]
    impl KeyStore for Table {
        async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError> {
            *self.reads.lock().unwrap() += 1;
            let rows = self.rows.lock().unwrap().iter().filter(|row| row.scope == scope).cloned().collect();
            let interrupted = self.interrupted.lock().unwrap().take();
            if let Some((keyring, key)) = interrupted {
                self.rows.lock().unwrap().push(key);
                keyring.reload(scope).await.unwrap();
            }
            Ok(rows)
        }

        async fn key_page(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappedKey>, StoreError> {
            let mut rows = self.rows.lock().unwrap().clone();
            rows.sort_by_key(|row| row.id);
            rows.retain(|row| after.is_none_or(|after| row.id > after));
            rows.truncate(limit as usize);
            Ok(rows)
        }

        async fn replace_key(&self, stored: &WrappedKey, key: WrappedKey, _: &[AuditRecord]) -> Result<(), StoreError> {
            let mut rows = self.rows.lock().unwrap();
            *rows.iter_mut().find(|row| *row == stored).ok_or(StoreError::NotFound { entity: Entity::Key })? = key;
            Ok(())
        }

        async fn delete_key(&self, stored: &WrappedKey, _: &[AuditRecord]) -> Result<(), StoreError> {
            self.rows.lock().unwrap().retain(|row| row != stored);
            Ok(())
        }

        async fn insert_key(&self, key: WrappedKey, _: &[AuditRecord]) -> Result<(), StoreError> {
            let mut rows = self.rows.lock().unwrap();
            rows.extend(self.rival.lock().unwrap().take());
            if rows.iter().any(|row| row.id == key.id) {
                return Err(StoreError::AlreadyExists { entity: Entity::Key });
            }
            rows.push(key);
            Ok(())
        }
    }

    /// None of the futures here ever waits.
    fn ready<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("waited"),
        }
    }

    fn root(seed: u8) -> RootKey {
        let bytes: Vec<u8> = (seed..seed + 32).collect();
        RootKey::from_slice(&bytes).unwrap()
    }

    fn project(id: u128) -> Scope {
        ProjectId::from_u128(id).into()
    }

    fn stored(table: &Arc<Table>, scope: Scope, id: u128) -> (Keyring, Arc<TenantKeys>) {
        let keyring = Keyring::new(root(1), Arc::clone(table) as Arc<dyn KeyStore>);
        let entropy = CountingEntropy::default();
        let created = Timestamp::from_micros(10);
        let (row, keys) = keyring.create_tenant_key(scope, KeyId::from_u128(id), created, &entropy).unwrap();
        ready(table.insert_key(row, &[])).unwrap();
        (keyring, keys)
    }

    fn context(scope: Scope) -> SealContext<'static> {
        SealContext { scope, table: "t", record: b"r", field: "f", version: 1, purpose: "p" }
    }

    #[test]
    fn a_stored_key_opens_what_it_sealed_before() {
        let table = Arc::new(Table::default());
        let (_, keys) = stored(&table, project(1), 5);
        let sealed = keys.seal(&context(project(1)), b"value", &CountingEntropy::default()).unwrap();
        let restarted = Keyring::new(root(1), Arc::clone(&table) as _);
        let opened = ready(restarted.tenant(project(1))).unwrap().open(&context(project(1)), &sealed).unwrap();
        assert_eq!(&*opened, b"value");
    }

    #[test]
    fn a_wrong_root_key_is_told_apart_from_damage() {
        let table = Arc::new(Table::default());
        stored(&table, project(1), 5);
        let wrong = Keyring::new(root(2), Arc::clone(&table) as _);
        let error = ready(wrong.tenant(project(1))).unwrap_err();
        assert!(error.to_string().starts_with("wrong root key: `proj_"), "{error}");
        assert!(!error.is_retryable());
        // A row that claims the wrong key as its parent still does not open.
        table.rows.lock().unwrap()[0].parent = root(2).id();
        assert!(matches!(ready(wrong.tenant(project(1))), Err(KeyError::Unopenable { .. })));
    }

    #[test]
    fn every_changed_column_is_noticed() {
        let changes: [fn(&mut WrappedKey); 4] = [
            |row| row.scope = project(2),
            |row| row.id = KeyId::from_u128(6),
            |row| row.created = Timestamp::from_micros(11),
            |row| {
                let mut bytes = row.wrapped.as_bytes().to_vec();
                bytes[100] ^= 1;
                row.wrapped = Sealed::from_bytes(bytes.into());
            },
        ];
        for change in changes {
            let table = Arc::new(Table::default());
            let (keyring, _) = stored(&table, project(1), 5);
            change(&mut table.rows.lock().unwrap()[0]);
            let scope = table.rows.lock().unwrap()[0].scope;
            assert!(matches!(ready(keyring.tenant(scope)), Err(KeyError::Unopenable { .. })));
        }
    }

    #[test]
    fn a_scope_without_key_says_so() {
        let keyring = Keyring::new(root(1), Arc::new(Table::default()));
        assert!(matches!(ready(keyring.tenant(project(1))), Err(KeyError::NoKey { scope }) if scope == project(1)));
    }

    /// Adds another data key to the table.
    fn add(table: &Table, keyring: &Keyring, scope: Scope, id: u128, created: i64) -> KeyId {
        let entropy = CountingEntropy::default();
        random_bytes(&entropy, id);
        let id = KeyId::from_u128(id);
        let row = keyring.new_data_key(scope, id, Timestamp::from_micros(created), &entropy).unwrap();
        table.rows.lock().unwrap().push(row);
        id
    }

    /// Moves a source on, so that no two keys of a test are the same.
    fn random_bytes(entropy: &CountingEntropy, count: u128) {
        (0..count).for_each(|_| entropy.fill(&mut [0; 32]).unwrap());
    }

    #[test]
    fn the_table_is_read_once_until_it_is_read_again() {
        let table = Arc::new(Table::default());
        let (keyring, _) = stored(&table, project(1), 5);
        let keys = ready(keyring.tenant(project(1))).unwrap();
        assert!(Arc::ptr_eq(&keys, &ready(keyring.tenant(project(1))).unwrap()));
        assert_eq!(*table.reads.lock().unwrap(), 1);
        let newer = add(&table, &keyring, project(1), 6, 20);
        assert_ne!(keys.current_key(), newer);
        assert!(Arc::ptr_eq(&keys, &ready(keyring.reload(project(1))).unwrap()));
        assert_eq!(keys.current_key(), newer, "who holds the keys follows the table");
        assert_eq!(*table.reads.lock().unwrap(), 2);
    }

    #[test]
    fn a_read_that_began_earlier_does_not_replace_what_a_later_one_found() {
        let table = Arc::new(Table::default());
        let keyring = Arc::new(stored(&table, project(1), 5).0);
        let (id, at) = (KeyId::from_u128(6), Timestamp::from_micros(20));
        let entropy = CountingEntropy::default();
        random_bytes(&entropy, 6);
        let newer = keyring.new_data_key(project(1), id, at, &entropy).unwrap();
        *table.interrupted.lock().unwrap() = Some((Arc::clone(&keyring), newer));
        assert_eq!(ready(keyring.reload(project(1))).unwrap().current_key(), id);
        assert_eq!(*table.reads.lock().unwrap(), 2);
    }

    #[test]
    fn an_unknown_key_makes_the_table_be_read_once() {
        let table = Arc::new(Table::default());
        let (ours, theirs) = (stored(&table, project(1), 5).0, Keyring::new(root(1), Arc::clone(&table) as _));
        let keys = ready(ours.tenant(project(1))).unwrap();
        add(&table, &theirs, project(1), 6, 20);
        let new = ready(theirs.tenant(project(1))).unwrap();
        let sealed = new.seal(&context(project(1)), b"new", &CountingEntropy::default()).unwrap();
        assert!(keys.open(&context(project(1)), &sealed).is_err());
        ready(ours.learn(project(1), [&sealed])).unwrap();
        assert_eq!(&*keys.open(&context(project(1)), &sealed).unwrap(), b"new");
        let reads = *table.reads.lock().unwrap();
        ready(ours.learn(project(1), [&sealed, &Sealed::from_bytes(bytes::Bytes::new())])).unwrap();
        assert_eq!(*table.reads.lock().unwrap(), reads, "what is known needs no look");
    }

    #[test]
    fn keys_that_are_held_are_read_again_and_others_closed() {
        let table = Arc::new(Table::default());
        let (keyring, _) = stored(&table, project(1), 5);
        let keys = ready(keyring.tenant(project(1))).unwrap();
        let newer = add(&table, &keyring, project(1), 6, 20);
        ready(keyring.refresh()).unwrap();
        assert_ne!(keys.current_key(), newer, "they are fresh");
        ready(keyring.refresh()).unwrap();
        assert_eq!(keys.current_key(), newer);
        drop(keys);
        ready(keyring.refresh()).unwrap();
        let reads = *table.reads.lock().unwrap();
        ready(keyring.refresh()).unwrap();
        assert_eq!((*table.reads.lock().unwrap(), keyring.lock().len()), (reads, 0), "nobody needs them");
        assert_eq!(ready(keyring.tenant(project(1))).unwrap().current_key(), newer);
    }

    #[test]
    fn the_least_recently_used_tenant_is_closed_first() {
        let mut open = OpenKeys::default();
        let set = |id: u128| {
            let key = SecretKey::init_with(|bytes| bytes.fill(1));
            let key = DataKey { id: KeyId::from_u128(1), created: Timestamp::EPOCH, key };
            KeySet::new(project(id), vec![key], None).unwrap()
        };
        let held = open.install(project(1), 1, set(1));
        for id in (0..Keyring::MAX_OPEN_TENANTS as u128).filter(|id| *id != 1) {
            open.install(project(id), 1, set(id));
        }
        assert_eq!(open.len(), Keyring::MAX_OPEN_TENANTS);
        assert!(open.find(project(0)).is_some());
        open.install(project(5000), 1, set(5000));
        assert_eq!(open.len(), Keyring::MAX_OPEN_TENANTS);
        assert!(open.find(project(0)).is_some() && open.find(project(5000)).is_some());
        assert!(open.find(project(1)).is_none());
        assert!(Arc::ptr_eq(&held, &open.install(project(1), 2, set(1))), "whoever holds keys would not follow");
    }

    #[test]
    fn a_rotation_keeps_what_is_derived_and_refuses_what_is_retired() {
        let table = Arc::new(Table::default());
        let (scope, entropy) = (project(1), CountingEntropy::default());
        let (keyring, _) = stored(&table, scope, 5);
        let keys = ready(keyring.tenant(scope)).unwrap();
        let derived = |keys: &TenantKeys| {
            (keys.lookup_hash("p", &[b"x"]), keys.placeholder(RunId::from_u128(1), ConnectionId::from_u128(1), "f"))
        };
        let (before, resume) = (derived(&keys), keys.resume_key(RunId::from_u128(1)));
        let old = keys.seal(&context(scope), b"value", &entropy).unwrap();

        let rows = table.rows.lock().unwrap().clone();
        let look_up = keyring.look_up_row(scope, &rows, &entropy).unwrap().unwrap();
        assert_eq!(keyring.look_up_row(scope, &rows, &entropy).unwrap().unwrap().id, look_up.id);
        table.rows.lock().unwrap().push(look_up);
        add(&table, &keyring, scope, 6, 20);
        ready(keyring.reload(scope)).unwrap();
        let new = keys.reseal(&context(scope), &old, &entropy).unwrap().unwrap();
        assert_eq!(keys.reseal(&context(scope), &new, &entropy).unwrap(), None);

        let first = table.rows.lock().unwrap().iter().find(|row| row.id == KeyId::from_u128(5)).cloned().unwrap();
        let retired = keyring.retire(&first, Timestamp::from_micros(30), &entropy).unwrap();
        ready(table.replace_key(&first, retired, &[])).unwrap();
        ready(keyring.reload(scope)).unwrap();
        assert!(matches!(keys.open(&context(scope), &old), Err(VaultError::Unopenable)));
        assert_eq!(&*keys.open(&context(scope), &new).unwrap(), b"value");
        assert_eq!(derived(&keys), before);
        assert!(keys.resume_key(RunId::from_u128(1)) == resume);
        let all = ready(keyring.with_retired(scope)).unwrap();
        assert_eq!(&*all.open(&context(scope), &old).unwrap(), b"value");
        assert_eq!(all.current_key(), keys.current_key());

        let restarted = Keyring::new(root(1), Arc::clone(&table) as _);
        let keys = ready(restarted.tenant(scope)).unwrap();
        assert_eq!(derived(&keys), before);
        table.rows.lock().unwrap().retain(|row| row.kind != KeyKind::Data);
        assert!(matches!(ready(restarted.reload(scope)), Err(KeyError::NoKey { .. })));
    }

    #[test]
    fn a_root_key_is_replaced_row_by_row_and_the_old_one_refused() {
        let table = Arc::new(Table::default());
        let (platform, entropy) = (Scope::Platform(PlatformId::from_u128(1)), CountingEntropy::default());
        let (old, _) = stored(&table, project(1), 5);
        ready(old.open_platform(platform, Timestamp::EPOCH, &entropy)).unwrap();
        let hash = old.platform_lookup_hash("webhook", &[b"token"]);
        assert_eq!(hash, Keyring::new(root(1), Arc::clone(&table) as _).platform_lookup_hash("webhook", &[b"token"]));

        let new = Keyring::new(root(2), Arc::clone(&table) as _).with_previous(vec![root(1)]).unwrap();
        ready(new.open_platform(platform, Timestamp::EPOCH, &entropy)).unwrap();
        assert_eq!(new.platform_lookup_hash("webhook", &[b"token"]), hash);
        for row in table.rows.lock().unwrap().iter_mut() {
            *row = new.rewrap(row, &entropy).unwrap().unwrap();
            assert!(new.rewrap(row, &entropy).unwrap().is_none());
        }
        new.forget_previous();
        ready(new.reload(project(1))).unwrap();
        let refused = Keyring::new(root(1), Arc::clone(&table) as _);
        let error = ready(refused.open_platform(platform, Timestamp::EPOCH, &entropy)).unwrap_err();
        assert!(matches!(error, KeyError::WrongRootKey { .. }), "{error}");
        let restarted = Keyring::new(root(2), Arc::clone(&table) as _);
        ready(restarted.open_platform(platform, Timestamp::EPOCH, &entropy)).unwrap();
        assert_eq!(restarted.platform_lookup_hash("webhook", &[b"token"]), hash);
        assert_eq!(table.rows.lock().unwrap().len(), 3);
    }

    #[test]
    fn a_row_of_another_kind_does_not_open() {
        let table = Arc::new(Table::default());
        let (keyring, _) = stored(&table, project(1), 5);
        let row = table.rows.lock().unwrap()[0].clone();
        for kind in KeyKind::ALL.into_iter().filter(|kind| *kind != KeyKind::Data) {
            let changed = WrappedKey { kind, ..row.clone() };
            assert!(matches!(keyring.unwrap(project(1), &changed), Err(KeyError::Unopenable { .. })), "{kind:?}");
        }
        let retired = keyring.retire(&row, Timestamp::from_micros(11), &CountingEntropy::default()).unwrap();
        table.rows.lock().unwrap()[0] = WrappedKey { kind: KeyKind::Data, ..retired };
        assert!(matches!(ready(keyring.tenant(project(1))), Err(KeyError::Unopenable { .. })));
    }

    #[test]
    fn previous_roots_are_bounded() {
        let ring = || Keyring::new(root(1), Arc::new(Table::default()));
        let roots = |count: u8| (0..count).map(|seed| root(seed + 2)).collect::<Vec<_>>();
        assert!(ring().with_previous(roots(8)).is_ok());
        assert!(matches!(ring().with_previous(roots(9)), Err(KeyError::TooManyRootKeys { limit: 8 })));
    }

    #[test]
    fn two_processes_starting_at_once_share_the_first_key() {
        let scope = Scope::Platform(PlatformId::from_u128(1));
        let theirs = Arc::new(Table::default());
        let other = Keyring::new(root(1), Arc::clone(&theirs) as _);
        let their_entropy = CountingEntropy::default();
        random_array::<32>(&their_entropy).unwrap();
        let their_keys = ready(other.ensure_tenant(scope, Timestamp::EPOCH, &their_entropy, &[])).unwrap();
        let table = Arc::new(Table::default());
        *table.rival.lock().unwrap() = theirs.rows.lock().unwrap().pop();
        let keyring = Keyring::new(root(1), Arc::clone(&table) as _);
        let our_keys = ready(keyring.ensure_tenant(scope, Timestamp::EPOCH, &CountingEntropy::default(), &[])).unwrap();
        assert_eq!(table.rows.lock().unwrap().len(), 1);
        assert_eq!(our_keys.lookup_hash("p", &[]), their_keys.lookup_hash("p", &[]));
    }

    #[test]
    fn platform_look_ups_follow_the_root_key() {
        let hash = |seed, purpose, part: &[u8]| {
            Keyring::new(root(seed), Arc::new(Table::default())).platform_lookup_hash(purpose, &[part])
        };
        assert_eq!(hash(1, "webhook", b"token"), hash(1, "webhook", b"token"));
        assert_ne!(hash(1, "webhook", b"token"), hash(2, "webhook", b"token"));
        assert_ne!(hash(1, "webhook", b"token"), hash(1, "resume", b"token"));
        assert_ne!(hash(1, "webhook", b"token"), hash(1, "webhook", b"tokem"));
    }

    #[test]
    fn no_key_without_entropy_and_no_key_in_debug() {
        let keyring = Keyring::new(root(b'A'), Arc::new(Table::default()));
        let result = keyring.create_tenant_key(project(1), KeyId::from_u128(1), Timestamp::EPOCH, &NoEntropy);
        assert!(matches!(result, Err(KeyError::Entropy(_))));
        let text = format!("{keyring:?}");
        assert!(!text.contains("ABCDEF") && !text.contains("65, 66") && text.contains("key_"), "{text}");
    }
}
