//! Keys of data subjects: destroying one erases what is sealed under it, and nothing else.
//!
//! What is sealed for a data subject is sealed twice: under the subject's key, and that under the tenant's. So a value opens with
//! both or not at all, and a rotation of the tenant's key treats it like any other. A subject's key is random, and stored wrapped
//! twice as well: under the root key, and that under the tenant's. Whoever has an old copy of a stored key needs the root key of
//! that time to open it, even if the tenant's key is still in use: once that root key is destroyed, so is every copy.

use std::fmt;

use ap_core::{
    id::KeyId,
    scope::Scope,
    store::{LookupHash, Sealed},
    time::Timestamp,
};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::{
    aead::NONCE_BYTES,
    entropy::{Entropy, EntropyError, random_array},
    envelope::{self, SealContext},
    error::{KeyError, VaultError},
    key::SecretKey,
    keyring::Keyring,
    vault::TenantKeys,
};

/// The key of one data subject, opened. Wiped on drop.
#[derive(ZeroizeOnDrop)]
pub struct SubjectKey {
    #[zeroize(skip)]
    id: KeyId,
    key: SecretKey,
}

impl SubjectKey {
    /// A new random key, to be known as `id`.
    ///
    /// # Errors
    /// [`EntropyError`] if the source failed.
    pub fn generate(id: KeyId, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        Ok(Self { id, key: SecretKey::generate(entropy)? })
    }

    /// Names the key in the key table.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A subject's key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedSubjectKey {
    /// Its id. Unique in its tenant.
    pub id: KeyId,
    /// Whose subject it is.
    pub scope: Scope,
    /// Keyed hash of the subject; a tenant has one key for each at a time.
    pub subject: LookupHash,
    /// The root key it is wrapped under.
    pub root: KeyId,
    /// When it was made.
    pub created: Timestamp,
    /// The key: wrapped under the root key, and that under the tenant's.
    pub wrapped: Sealed,
}

impl TenantKeys {
    /// Seals `plaintext` for its place, under the keys of `subject` and of this tenant; without a subject as
    /// [`TenantKeys::seal`].
    ///
    /// # Errors
    /// As [`TenantKeys::seal`].
    pub fn seal_for(
        &self,
        subject: Option<&SubjectKey>,
        context: &SealContext<'_>,
        plaintext: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Sealed, VaultError> {
        let Some(subject) = subject else { return self.seal(context, plaintext, entropy) };
        let nonce = random_array::<NONCE_BYTES>(entropy)?;
        let inner = envelope::seal(subject.id, &subject.key, &inner(context), plaintext, &nonce)?;
        self.seal(context, inner.as_bytes(), entropy)
    }

    /// Opens what was sealed for exactly this place under the keys of `subject` and of this tenant; without a subject as
    /// [`TenantKeys::open`].
    ///
    /// # Errors
    /// As [`TenantKeys::open`].
    pub fn open_for(
        &self,
        subject: Option<&SubjectKey>,
        context: &SealContext<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let outer = self.open(context, sealed)?;
        let Some(subject) = subject else { return Ok(outer) };
        let find = |id| (id == subject.id).then_some(&subject.key);
        envelope::open(find, &inner(context), &Sealed::from_bytes(outer.to_vec().into()))
    }
}

impl Keyring {
    /// Wraps `key` for storage.
    ///
    /// # Errors
    /// [`KeyError::Entropy`]; [`KeyError::Unopenable`] if the tenant's keys are those of another scope.
    pub fn wrap_subject_key(
        &self,
        (tenant, key): (&TenantKeys, &SubjectKey),
        subject: LookupHash,
        created: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<WrappedSubjectKey, KeyError> {
        let (id, scope) = (key.id, tenant.scope());
        let record = record(id, &subject);
        let context = context(scope, &record, created, ROOT_WRAP);
        let nonce = random_array::<NONCE_BYTES>(entropy)?;
        let damaged = |_: VaultError| KeyError::Unopenable { id, scope };
        let (root, secret) = self.root();
        let inner = envelope::seal(root, secret, &context, key.key.expose(), &nonce).map_err(damaged)?;
        let outer = SealContext { purpose: TENANT_WRAP, ..context };
        let wrapped = tenant.seal(&outer, inner.as_bytes(), entropy).map_err(damaged)?;
        Ok(WrappedSubjectKey { id, scope, subject, root, created, wrapped })
    }

    /// Opens a stored key.
    ///
    /// # Errors
    /// [`KeyError::Unopenable`] if it, or one of the columns beside it, was changed; [`KeyError::WrongRootKey`] if it is wrapped
    /// under a root key that was not given.
    pub fn unwrap_subject_key(&self, tenant: &TenantKeys, stored: &WrappedSubjectKey) -> Result<SubjectKey, KeyError> {
        let WrappedSubjectKey { id, scope, subject, root, created, wrapped } = stored;
        let record = record(*id, subject);
        let context = context(*scope, &record, *created, TENANT_WRAP);
        let damaged = |_: VaultError| KeyError::Unopenable { id: *id, scope: *scope };
        let inner = tenant.open(&context, wrapped).map_err(damaged)?;
        let inner = Sealed::from_bytes(inner.to_vec().into());
        let bytes = self.with_root(*scope, *root, |key| {
            let find = |named| (named == *root).then_some(key.secret());
            envelope::open(find, &SealContext { purpose: ROOT_WRAP, ..context }, &inner).map_err(damaged)
        })??;
        let key = SecretKey::from_slice(&bytes).ok_or(KeyError::Unopenable { id: *id, scope: *scope })?;
        Ok(SubjectKey { id: *id, key })
    }

    /// The stored key as it is once its root key is the first one; `None` if that is so already.
    ///
    /// # Errors
    /// As [`Keyring::unwrap_subject_key`] and [`Keyring::wrap_subject_key`].
    pub fn rewrap_subject_key(
        &self,
        tenant: &TenantKeys,
        stored: &WrappedSubjectKey,
        entropy: &dyn Entropy,
    ) -> Result<Option<WrappedSubjectKey>, KeyError> {
        if stored.root == self.root_id() {
            return Ok(None);
        }
        let key = self.unwrap_subject_key(tenant, stored)?;
        self.wrap_subject_key((tenant, &key), stored.subject, stored.created, entropy).map(Some)
    }
}

/// What the tenant's key seals a stored key for: what a rotation of that key seals it for anew. `record` is made by
/// [`wrapped_record`].
#[must_use]
pub fn wrapped_context(scope: Scope, record: &[u8], created: Timestamp) -> SealContext<'_> {
    context(scope, record, created, TENANT_WRAP)
}

/// The name of a stored key in [`wrapped_context`].
#[must_use]
pub fn wrapped_record(id: KeyId, subject: &LookupHash) -> [u8; 48] {
    record(id, subject)
}

fn record(id: KeyId, subject: &LookupHash) -> [u8; 48] {
    let mut record = [0; 48];
    let (head, tail) = record.split_at_mut(16);
    head.copy_from_slice(id.as_bytes());
    tail.copy_from_slice(&subject.0);
    record
}

fn context<'a>(scope: Scope, record: &'a [u8], created: Timestamp, purpose: &'static str) -> SealContext<'a> {
    let version = created.as_micros().cast_unsigned();
    SealContext { scope, table: "subject_keys", record, field: "wrapped", version, purpose }
}

/// The place of what stands inside a value that is sealed twice.
fn inner<'a>(context: &SealContext<'a>) -> SealContext<'a> {
    SealContext { purpose: "data-subject", ..*context }
}

const ROOT_WRAP: &str = "subject-key-wrap";
const TENANT_WRAP: &str = "subject-key";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ap_core::id::ProjectId;

    use super::*;
    use crate::{
        entropy::test_support::{CountingEntropy, NoEntropy},
        key::RootKey,
        keyring::test_support::NoKeys,
    };

    const fn wiped_on_drop<T: ZeroizeOnDrop>() {}
    const _: () = wiped_on_drop::<SubjectKey>();

    const SUBJECT: LookupHash = LookupHash([7; 32]);

    fn ring(root: &RootKey) -> Keyring {
        Keyring::new(root.copy(), Arc::new(NoKeys))
    }

    fn tenant(ring: &Keyring, project: u128, entropy: &CountingEntropy) -> Arc<TenantKeys> {
        let scope = ProjectId::from_u128(project).into();
        ring.create_tenant_key(scope, KeyId::from_u128(project), Timestamp::EPOCH, entropy).unwrap().1
    }

    fn place() -> SealContext<'static> {
        let scope = ProjectId::from_u128(1).into();
        SealContext { scope, table: "t", record: b"r", field: "f", version: 1, purpose: "p" }
    }

    #[test]
    fn a_value_opens_with_both_keys_and_with_neither_alone() {
        let entropy = CountingEntropy::default();
        let keys = tenant(&ring(&RootKey::generate(&entropy).unwrap()), 1, &entropy);
        let ann = SubjectKey::generate(KeyId::from_u128(8), &entropy).unwrap();
        let bob = SubjectKey::generate(KeyId::from_u128(9), &entropy).unwrap();
        let same_id = SubjectKey::generate(KeyId::from_u128(8), &entropy).unwrap();
        let sealed = keys.seal_for(Some(&ann), &place(), b"value", &entropy).unwrap();
        assert_eq!(&*keys.open_for(Some(&ann), &place(), &sealed).unwrap(), b"value");
        for other in [&bob, &same_id] {
            assert!(matches!(keys.open_for(Some(other), &place(), &sealed), Err(VaultError::Unopenable)));
        }
        let outside = keys.open_for(None, &place(), &sealed).unwrap();
        assert!(!outside.windows(5).any(|window| window == b"value"), "the tenant's key alone shows it");
        let plain = keys.seal_for(None, &place(), b"value", &entropy).unwrap();
        assert!(matches!(keys.open_for(Some(&ann), &place(), &plain), Err(VaultError::Unopenable)));
        let moved = SealContext { version: 2, ..place() };
        assert!(matches!(keys.open_for(Some(&ann), &moved, &sealed), Err(VaultError::Unopenable)));
        assert!(matches!(keys.seal_for(Some(&ann), &place(), b"value", &NoEntropy), Err(VaultError::Entropy(_))));
    }

    #[test]
    fn a_value_follows_the_rotation_of_its_tenants_key() {
        let entropy = CountingEntropy::default();
        let keys = tenant(&ring(&RootKey::generate(&entropy).unwrap()), 1, &entropy);
        let ann = SubjectKey::generate(KeyId::from_u128(8), &entropy).unwrap();
        let sealed = keys.seal_for(Some(&ann), &place(), b"value", &entropy).unwrap();
        let outer = keys.open(&place(), &sealed).unwrap();
        let again = keys.seal(&place(), &outer, &entropy).unwrap();
        assert_eq!(&*keys.open_for(Some(&ann), &place(), &again).unwrap(), b"value");
    }

    #[test]
    fn a_stored_key_opens_as_it_was_stored_and_not_otherwise() {
        let entropy = CountingEntropy::default();
        let root = RootKey::generate(&entropy).unwrap();
        let ring = ring(&root);
        let keys = tenant(&ring, 1, &entropy);
        let key = SubjectKey::generate(KeyId::from_u128(8), &entropy).unwrap();
        let row = ring.wrap_subject_key((&keys, &key), SUBJECT, Timestamp::EPOCH, &entropy).unwrap();
        assert_eq!(row.root, root.id());
        let opened = ring.unwrap_subject_key(&keys, &row).unwrap();
        assert_eq!((opened.id(), opened.key.expose()), (key.id(), key.key.expose()));
        let changed = [
            WrappedSubjectKey { id: KeyId::from_u128(9), ..row.clone() },
            WrappedSubjectKey { subject: LookupHash([8; 32]), ..row.clone() },
            WrappedSubjectKey { created: Timestamp::from_micros(1), ..row.clone() },
            WrappedSubjectKey { scope: ProjectId::from_u128(2).into(), ..row.clone() },
        ];
        for changed in changed {
            assert!(
                matches!(ring.unwrap_subject_key(&keys, &changed), Err(KeyError::Unopenable { .. })),
                "{changed:?}"
            );
        }
        let foreign = WrappedSubjectKey { root: KeyId::from_u128(3), ..row.clone() };
        assert!(matches!(ring.unwrap_subject_key(&keys, &foreign), Err(KeyError::WrongRootKey { .. })));
        let text = format!("{key:?}");
        assert!(text.starts_with("SubjectKey") && !text.contains("key: "), "{text}");
    }

    #[test]
    fn an_old_copy_of_a_stored_key_is_worthless_without_the_root_key_of_its_time() {
        let entropy = CountingEntropy::default();
        let (old, new) = (RootKey::generate(&entropy).unwrap(), RootKey::generate(&entropy).unwrap());
        let before = ring(&old);
        let keys = tenant(&before, 1, &entropy);
        let key = SubjectKey::generate(KeyId::from_u128(8), &entropy).unwrap();
        let copy = before.wrap_subject_key((&keys, &key), SUBJECT, Timestamp::EPOCH, &entropy).unwrap();
        assert_eq!(before.rewrap_subject_key(&keys, &copy, &entropy).unwrap(), None);

        let after = ring(&new).with_previous(vec![old]).unwrap();
        let row = after.rewrap_subject_key(&keys, &copy, &entropy).unwrap().expect("another root key");
        assert_eq!(row.root, new.id());
        after.forget_previous();
        assert_eq!(after.unwrap_subject_key(&keys, &row).unwrap().key.expose(), key.key.expose());
        // The tenant's key is the same, and does not help.
        assert!(matches!(after.unwrap_subject_key(&keys, &copy), Err(KeyError::WrongRootKey { .. })));
    }
}
