//! [`Keyring`]: from the root key to the keys of each tenant.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use ap_core::{
    audit::AuditRecord,
    id::KeyId,
    scope::Scope,
    store::{LookupHash, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    aead::NONCE_BYTES,
    entropy::{Entropy, random_array},
    envelope::{self, SealContext},
    error::{KeyError, VaultError},
    kdf,
    key::{RootKey, SecretKey},
    provider::KeyProvider,
    signature,
    vault::{DataKey, TenantKeys},
};

/// A row of the key table: a tenant key, sealed under its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Its id: what envelopes name. Unique in the whole table.
    pub id: KeyId,
    /// Whose key it is.
    pub scope: Scope,
    /// The key it is sealed under; for a tenant key the root key.
    pub parent: KeyId,
    /// When it was made; bound to the sealed key, so a changed time is noticed.
    pub created: Timestamp,
    /// The key itself.
    pub wrapped: Sealed,
}

/// Durable storage of wrapped keys: the key table. It never sees a key in the clear.
///
/// # Contract
///
/// * **Atomicity.** An insert happens wholly, with its audit records, or not at all.
/// * **Durability.** Once `insert_key` returns `Ok`, the row survives a crash: data sealed under it depends on that.
/// * **Uniqueness.** No two rows have the same id, whatever their scopes.
#[async_trait]
pub trait KeyStore: fmt::Debug + Send + Sync + 'static {
    /// Every key of `scope`, in any order; empty if it has none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Backend`].
    async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError>;

    /// Adds `key` and `audit` in one transaction.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if a row with this id exists; [`StoreError`] lists the rest.
    async fn insert_key(&self, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError>;
}

/// Opens tenant keys with the root key, and keeps the recently used ones open.
///
/// Root key → tenant keys → a key per sealed value. Tenant keys are random and stored wrapped, so they can be re-wrapped
/// under another root key, and destroying one destroys what it sealed.
pub struct Keyring {
    root: RootKey,
    root_id: KeyId,
    platform_lookup: SecretKey,
    store: Arc<dyn KeyStore>,
    open: Mutex<OpenKeys>,
}

impl Keyring {
    /// How many tenants' keys stay open; the least recently used ones are wiped first. Unit: tenants.
    pub const MAX_OPEN_TENANTS: usize = 1024;

    /// Builds the keyring on the key of `provider`.
    ///
    /// Whether it is the right key shows when the first stored key is opened: open the platform's own with
    /// [`Keyring::ensure_tenant`] at start-up.
    ///
    /// # Errors
    /// [`KeyError`] of the provider.
    pub async fn open(provider: &dyn KeyProvider, store: Arc<dyn KeyStore>) -> Result<Self, KeyError> {
        Ok(Self::new(provider.root_key().await?, store))
    }

    /// Builds the keyring on `root`.
    #[must_use]
    pub fn new(root: RootKey, store: Arc<dyn KeyStore>) -> Self {
        let platform_lookup = kdf::derive_key(root.secret(), &[b"ap-crypto/platform-lookup/v1"]);
        Self { root_id: root.id(), root, platform_lookup, store, open: Mutex::default() }
    }

    /// The keys of `scope`.
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
        let stored = self.store.keys(scope).await?;
        let keys = stored.iter().map(|key| self.unwrap(scope, key)).collect::<Result<Vec<_>, _>>()?;
        let keys = Arc::new(TenantKeys::new(scope, keys).ok_or(KeyError::NoKey { scope })?);
        self.lock().insert(Arc::clone(&keys));
        Ok(keys)
    }

    /// The keys of `scope`; makes and stores the first one if it has none.
    ///
    /// For scopes that no transaction creates, as the platform itself. Processes that do this at the same time end up
    /// with the same key: the first key's id follows from the root key and the scope, and the table has each id once.
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
        let key = SecretKey::generate(entropy)?;
        let nonce = random_array::<NONCE_BYTES>(entropy)?;
        let record = *id.as_bytes();
        let context = wrap_context(scope, &record, created);
        let wrapped = envelope::seal(self.root_id, self.root.secret(), &context, key.expose(), &nonce)
            .map_err(|_| KeyError::Unopenable { id, scope })?;
        let row = WrappedKey { id, scope, parent: self.root_id, created, wrapped };
        let keys = TenantKeys::new(scope, vec![DataKey { id, created, key }]).ok_or(KeyError::NoKey { scope })?;
        Ok((row, Arc::new(keys)))
    }

    /// Closes the keys of `scope`: the next use reads the key table again. Needed after a key was added or destroyed.
    pub fn forget(&self, scope: Scope) {
        self.lock().tenants.remove(&scope);
    }

    /// A keyed hash (HMAC-SHA256) for look-ups that come before the tenant is known, such as webhook tokens.
    ///
    /// Comes from the root key, so it changes when that is replaced. Parts are told apart.
    #[must_use]
    pub fn platform_lookup_hash(&self, purpose: &str, parts: &[&[u8]]) -> LookupHash {
        let message: Vec<&[u8]> = std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()).collect();
        LookupHash(signature::hmac_of_parts(&self.platform_lookup, &message))
    }

    fn unwrap(&self, scope: Scope, stored: &WrappedKey) -> Result<DataKey, KeyError> {
        if stored.parent != self.root_id {
            return Err(KeyError::WrongRootKey { scope, expected: stored.parent, actual: self.root_id });
        }
        let record = *stored.id.as_bytes();
        let context = wrap_context(scope, &record, stored.created);
        let find = |id| (id == self.root_id).then_some(self.root.secret());
        let damaged = |_: VaultError| KeyError::Unopenable { id: stored.id, scope };
        let bytes = envelope::open(find, &context, &stored.wrapped).map_err(damaged)?;
        let key = SecretKey::from_slice(&bytes).ok_or(KeyError::Unopenable { id: stored.id, scope })?;
        Ok(DataKey { id: stored.id, created: stored.created, key })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OpenKeys> {
        // Every change under the lock is a single map operation, so a panic elsewhere leaves nothing inconsistent.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("root_id", &self.root_id).finish_non_exhaustive()
    }
}

/// Open keys by tenant, each with the tick of its last use.
#[derive(Default)]
struct OpenKeys {
    tenants: BTreeMap<Scope, (u64, Arc<TenantKeys>)>,
    tick: u64,
}

impl OpenKeys {
    fn find(&mut self, scope: Scope) -> Option<Arc<TenantKeys>> {
        self.tick += 1;
        let (used, keys) = self.tenants.get_mut(&scope)?;
        *used = self.tick;
        Some(Arc::clone(keys))
    }

    fn insert(&mut self, keys: Arc<TenantKeys>) {
        if self.tenants.len() >= Keyring::MAX_OPEN_TENANTS
            && let Some(oldest) = self.tenants.iter().min_by_key(|(_, (used, _))| *used).map(|(scope, _)| *scope)
        {
            self.tenants.remove(&oldest);
        }
        self.tick += 1;
        self.tenants.insert(keys.scope(), (self.tick, keys));
    }
}

fn wrap_context(scope: Scope, record: &[u8; 16], created: Timestamp) -> SealContext<'_> {
    let version = created.as_micros().cast_unsigned();
    SealContext { scope, table: "keys", record, field: "wrapped", version, purpose: "key-wrap" }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use ap_core::{
        id::{PlatformId, ProjectId},
        store::Entity,
    };

    use super::*;
    use crate::entropy::test_support::{CountingEntropy, NoEntropy};

    #[derive(Debug, Default)]
    struct Table {
        rows: Mutex<Vec<WrappedKey>>,
        reads: Mutex<usize>,
        /// Inserted by somebody else right before the next insert.
        rival: Mutex<Option<WrappedKey>>,
    }

    #[async_trait]
    impl KeyStore for Table {
        async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError> {
            *self.reads.lock().unwrap() += 1;
            Ok(self.rows.lock().unwrap().iter().filter(|row| row.scope == scope).cloned().collect())
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

    #[test]
    fn the_table_is_read_once_until_forgotten() {
        let table = Arc::new(Table::default());
        let (keyring, _) = stored(&table, project(1), 5);
        let first = ready(keyring.tenant(project(1))).unwrap();
        assert!(Arc::ptr_eq(&first, &ready(keyring.tenant(project(1))).unwrap()));
        assert_eq!(*table.reads.lock().unwrap(), 1);
        keyring.forget(project(1));
        assert!(!Arc::ptr_eq(&first, &ready(keyring.tenant(project(1))).unwrap()));
        assert_eq!(*table.reads.lock().unwrap(), 2);
    }

    #[test]
    fn the_least_recently_used_tenant_is_closed_first() {
        let mut open = OpenKeys::default();
        let tenant = |id: u128| {
            let key = SecretKey::init_with(|bytes| bytes.fill(1));
            let key = DataKey { id: KeyId::from_u128(1), created: Timestamp::EPOCH, key };
            Arc::new(TenantKeys::new(project(id), vec![key]).unwrap())
        };
        for id in 0..Keyring::MAX_OPEN_TENANTS as u128 {
            open.insert(tenant(id));
        }
        assert_eq!(open.tenants.len(), Keyring::MAX_OPEN_TENANTS);
        assert!(open.find(project(0)).is_some());
        open.insert(tenant(5000));
        assert_eq!(open.tenants.len(), Keyring::MAX_OPEN_TENANTS);
        assert!(open.find(project(0)).is_some() && open.find(project(5000)).is_some());
        assert!(open.find(project(1)).is_none());
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
