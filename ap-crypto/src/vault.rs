//! [`TenantKeys`]: everything done with the keys of one tenant.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use ap_core::{
    id::{ConnectionId, KeyId, RunId},
    scope::Scope,
    store::{LookupHash, Sealed},
    time::Timestamp,
};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::{
    aead::NONCE_BYTES,
    entropy::{Entropy, random_array},
    envelope::{self, SealContext},
    error::VaultError,
    kdf,
    key::SecretKey,
    placeholder::CredentialRef,
    resume::ResumeKey,
    signature,
};

/// The opened keys of one tenant: seals and opens its values, hashes its look-ups, makes its placeholders.
///
/// Comes from [`Keyring`](crate::keyring::Keyring), and follows it: a key that is added or retired while this is held takes
/// effect at once. All methods are CPU work without I/O. Values are sealed under the newest key and open under any; look-up
/// hashes and placeholders outlive every key.
pub struct TenantKeys {
    scope: Scope,
    set: RwLock<Arc<KeySet>>,
}

/// What a tenant has at one moment.
#[derive(Debug, ZeroizeOnDrop)]
pub(crate) struct KeySet {
    /// Ascending by creation; the pair is split so that there is always one.
    newest: DataKey,
    older: Vec<DataKey>,
    subkeys: Subkeys,
}

/// One tenant key as the key table has it, opened.
#[derive(Debug, ZeroizeOnDrop)]
pub(crate) struct DataKey {
    #[zeroize(skip)]
    pub(crate) id: KeyId,
    #[zeroize(skip)]
    pub(crate) created: Timestamp,
    pub(crate) key: SecretKey,
}

/// What is derived from a tenant's first key and then stays.
#[derive(Debug, ZeroizeOnDrop)]
pub(crate) struct Subkeys {
    lookup: SecretKey,
    placeholder: SecretKey,
    resume: SecretKey,
}

impl Subkeys {
    pub(crate) const BYTES: usize = 3 * SecretKey::BYTES;

    pub(crate) fn derive(scope: Scope, first: &SecretKey) -> Self {
        let subkey = |domain: &[u8]| kdf::derive_key(first, &[domain, &scope.to_bytes()]);
        Self {
            lookup: subkey(b"ap-crypto/lookup/v1"),
            placeholder: subkey(b"ap-crypto/placeholder/v1"),
            resume: subkey(b"ap-crypto/resume/v1"),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let (chunks, _) = bytes.as_chunks::<{ SecretKey::BYTES }>();
        let [lookup, placeholder, resume] = chunks else { return None };
        let key = |bytes: &[u8; SecretKey::BYTES]| SecretKey::init_with(|slot| *slot = *bytes);
        Some(Self { lookup: key(lookup), placeholder: key(placeholder), resume: key(resume) })
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; Self::BYTES]> {
        let mut bytes = Zeroizing::new([0; Self::BYTES]);
        let keys = [&self.lookup, &self.placeholder, &self.resume];
        for (slot, key) in bytes.chunks_mut(SecretKey::BYTES).zip(keys) {
            slot.copy_from_slice(key.expose());
        }
        bytes
    }
}

impl KeySet {
    /// Seals under the last of `keys`, which are in order of age; derives the subkeys from the first if there are none. `None`
    /// if there is no key at all.
    pub(crate) fn new(scope: Scope, mut keys: Vec<DataKey>, subkeys: Option<Subkeys>) -> Option<Self> {
        let newest = keys.pop()?;
        let subkeys = subkeys.unwrap_or_else(|| Subkeys::derive(scope, &keys.first().unwrap_or(&newest).key));
        Some(Self { newest, older: keys, subkeys })
    }

    fn keys(&self) -> impl Iterator<Item = &DataKey> {
        std::iter::once(&self.newest).chain(self.older.iter().rev())
    }
}

impl TenantKeys {
    pub(crate) fn of(scope: Scope, set: KeySet) -> Self {
        Self { scope, set: RwLock::new(Arc::new(set)) }
    }

    /// Goes on with other keys.
    pub(crate) fn replace(&self, set: KeySet) {
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }

    fn set(&self) -> Arc<KeySet> {
        // A lock is poisoned by a panic while an `Arc` is put in its place, which leaves one of the two.
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whose keys these are.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// The key new values are sealed under.
    #[must_use]
    pub fn current_key(&self) -> KeyId {
        self.set().newest.id
    }

    /// Whether `sealed` names a key that is open here. Bytes that are no envelope name none, and count as known: no key helps.
    #[must_use]
    pub fn knows(&self, sealed: &Sealed) -> bool {
        envelope::key_id(sealed).is_none_or(|id| self.set().keys().any(|key| key.id == id))
    }

    /// Seals anew, under the newest key and for the same place, what another one sealed; `None` if it is under the newest.
    ///
    /// # Errors
    /// As [`TenantKeys::open`] and [`TenantKeys::seal`].
    pub fn reseal(
        &self,
        context: &SealContext<'_>,
        sealed: &Sealed,
        entropy: &dyn Entropy,
    ) -> Result<Option<Sealed>, VaultError> {
        if envelope::key_id(sealed) == Some(self.current_key()) {
            return Ok(None);
        }
        self.seal(context, &self.open(context, sealed)?, entropy).map(Some)
    }

    /// Seals `plaintext` for its place. See [`crate::envelope`] for the format.
    ///
    /// # Errors
    /// [`VaultError::TooLarge`] above [`MAX_PLAINTEXT_BYTES`](envelope::MAX_PLAINTEXT_BYTES),
    /// [`VaultError::WrongScope`] if the context names another tenant, [`VaultError::Entropy`] without a nonce.
    pub fn seal(
        &self,
        context: &SealContext<'_>,
        plaintext: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Sealed, VaultError> {
        if context.scope != self.scope {
            return Err(VaultError::WrongScope);
        }
        let (nonce, set) = (random_array::<NONCE_BYTES>(entropy)?, self.set());
        envelope::seal(set.newest.id, &set.newest.key, context, plaintext, &nonce)
    }

    /// Opens what was sealed for exactly this place by any key of this tenant.
    ///
    /// # Errors
    /// [`VaultError::Unopenable`], whatever is wrong; the log (target `ap_crypto`) has the reason.
    pub fn open(&self, context: &SealContext<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let set = self.set();
        let find = |id| set.keys().find(|key| key.id == id && context.scope == self.scope).map(|key| &key.key);
        envelope::open(find, context, sealed)
    }

    /// A keyed hash (HMAC-SHA256) by which a value can be found again without being stored.
    ///
    /// The same purpose and parts give the same hash for this tenant, and for no other; parts are told apart. The hash
    /// stays the same when keys are added and retired.
    #[must_use]
    pub fn lookup_hash(&self, purpose: &str, parts: &[&[u8]]) -> LookupHash {
        let message: Vec<&[u8]> = std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()).collect();
        LookupHash(signature::hmac_of_parts(&self.set().subkeys.lookup, &message))
    }

    /// The text that stands for one secret field of a connection during one run.
    #[must_use]
    pub fn placeholder(&self, run: RunId, connection: ConnectionId, field: &str) -> CredentialRef {
        let parts: [&[u8]; 3] = [run.as_bytes(), connection.as_bytes(), field.as_bytes()];
        CredentialRef::from_mac(&signature::hmac_of_parts(&self.set().subkeys.placeholder, &parts))
    }

    /// The key by which somebody outside answers a run that waits. Stays the same when a newer key is added.
    #[must_use]
    pub fn resume_key(&self, run: RunId) -> ResumeKey {
        ResumeKey::new(kdf::derive_key(&self.set().subkeys.resume, &[b"run", run.as_bytes()]))
    }
}

impl fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantKeys").field("scope", &self.scope).field("set", &self.set()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ap_core::id::ProjectId;

    use super::*;
    use crate::entropy::test_support::{CountingEntropy, NoEntropy};

    const fn wiped_on_drop<T: ZeroizeOnDrop>() {}
    const _: () = wiped_on_drop::<KeySet>();

    fn data_key(id: u8) -> DataKey {
        DataKey {
            id: KeyId::from_u128(u128::from(id)),
            created: Timestamp::from_micros(i64::from(id)),
            key: SecretKey::init_with(|bytes| bytes.fill(id)),
        }
    }

    fn tenant(project: u128, ids: &[u8]) -> TenantKeys {
        let scope = ProjectId::from_u128(project).into();
        TenantKeys::of(scope, KeySet::new(scope, ids.iter().map(|id| data_key(*id)).collect(), None).unwrap())
    }

    fn context(project: u128) -> SealContext<'static> {
        let scope = ProjectId::from_u128(project).into();
        SealContext { scope, table: "t", record: b"r", field: "f", version: 1, purpose: "p" }
    }

    #[test]
    fn a_new_key_seals_and_the_old_one_still_opens() {
        let entropy = CountingEntropy::default();
        let (before, after) = (tenant(1, &[1]), tenant(1, &[1, 2]));
        let old = before.seal(&context(1), b"old", &entropy).unwrap();
        let new = after.seal(&context(1), b"new", &entropy).unwrap();
        assert_eq!(&*after.open(&context(1), &old).unwrap(), b"old");
        assert_eq!(&*after.open(&context(1), &new).unwrap(), b"new");
        assert!(matches!(before.open(&context(1), &new), Err(VaultError::Unopenable)));
        assert_eq!(after.current_key(), KeyId::from_u128(2));
        assert_eq!(before.lookup_hash("p", &[b"x"]), after.lookup_hash("p", &[b"x"]));
    }

    #[test]
    fn another_tenant_is_refused_both_ways() {
        let entropy = CountingEntropy::default();
        let (one, two) = (tenant(1, &[1]), tenant(2, &[1]));
        assert!(matches!(one.seal(&context(2), b"x", &entropy), Err(VaultError::WrongScope)));
        let sealed = one.seal(&context(1), b"x", &entropy).unwrap();
        // Same key bytes and id on purpose: the scope alone must refuse it.
        assert!(matches!(two.open(&context(1), &sealed), Err(VaultError::Unopenable)));
        assert!(matches!(two.open(&context(2), &sealed), Err(VaultError::Unopenable)));
    }

    #[test]
    fn the_same_value_never_looks_the_same() {
        let (keys, entropy) = (tenant(1, &[1]), CountingEntropy::default());
        let seal = || keys.seal(&context(1), b"x", &entropy).unwrap();
        assert_ne!(seal(), seal());
        assert!(matches!(keys.seal(&context(1), b"x", &NoEntropy), Err(VaultError::Entropy(_))));
    }

    #[test]
    fn placeholders_belong_to_one_run_connection_field_and_tenant() {
        let (run, connection) = (RunId::from_u128, ConnectionId::from_u128);
        let keys = tenant(1, &[1]);
        let all = [
            keys.placeholder(run(1), connection(1), "a"),
            keys.placeholder(run(2), connection(1), "a"),
            keys.placeholder(run(1), connection(2), "a"),
            keys.placeholder(run(1), connection(1), "b"),
            keys.placeholder(run(1), connection(1), ""),
            tenant(2, &[1]).placeholder(run(1), connection(1), "a"),
            tenant(1, &[2]).placeholder(run(1), connection(1), "a"),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all[0], keys.placeholder(run(1), connection(1), "a"));
        assert!(all.iter().all(|text| CredentialRef::looks_like(text.as_str())));
    }

    #[test]
    fn look_ups_belong_to_one_purpose_and_tenant() {
        let keys = tenant(1, &[1]);
        let all = [
            keys.lookup_hash("dedupe", &[b"ab", b"c"]),
            keys.lookup_hash("dedupe", &[b"a", b"bc"]),
            keys.lookup_hash("dedupe", &[b"abc"]),
            keys.lookup_hash("dedup", &[b"eab", b"c"]),
            keys.lookup_hash("external", &[b"ab", b"c"]),
            tenant(2, &[1]).lookup_hash("dedupe", &[b"ab", b"c"]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn debug_hides_every_key() {
        let text = format!("{:?}", tenant(1, &[1, 2]));
        assert!(text.contains("SecretKey(…)"), "{text}");
        assert!(!text.contains("[1, 1") && !text.contains("0101") && !text.contains("[2, 2"), "{text}");
    }
}
