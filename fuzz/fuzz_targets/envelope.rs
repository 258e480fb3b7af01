//! Sealed bytes from a database that somebody may have written to.
#![no_main]

use std::sync::{Arc, LazyLock};

use ap_core::{
    audit::AuditRecord,
    id::{KeyId, ProjectId},
    scope::Scope,
    store::{Sealed, StoreError},
    time::Timestamp,
};
use ap_crypto::{
    entropy::{Entropy, EntropyError},
    envelope::SealContext,
    key::RootKey,
    keyring::{KeyStore, Keyring, WrappedKey},
    vault::TenantKeys,
};
use async_trait::async_trait;
use libfuzzer_sys::fuzz_target;

/// The same bytes every time, so that the seed in `seeds/envelope` is the envelope sealed here.
#[derive(Debug)]
struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        (0..).zip(bytes).for_each(|(at, byte): (u8, _)| *byte = at.wrapping_mul(37).wrapping_add(11));
        Ok(())
    }
}

/// Holds no key: the one used here is never stored.
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
        Ok(())
    }
    async fn delete_key(&self, _: &WrappedKey, _: &[AuditRecord]) -> Result<(), StoreError> {
        Ok(())
    }
}

static KEYS: LazyLock<(Arc<TenantKeys>, Sealed)> = LazyLock::new(|| {
    let root = RootKey::from_slice(&std::array::from_fn::<u8, 32, _>(|at| at as u8)).expect("32 different bytes");
    let scope = Scope::Project(ProjectId::from_u128(1));
    let keyring = Keyring::new(root, Arc::new(NoKeys));
    let (_, keys) = keyring
        .create_tenant_key(scope, KeyId::from_u128(2), Timestamp::from_millis(0), &Fixed)
        .expect("a key can be made");
    let sealed = keys.seal(&context(scope), b"a value worth sealing", &Fixed).expect("it can be sealed");
    (keys, sealed)
});

fn context(scope: Scope) -> SealContext<'static> {
    SealContext { scope, table: "fuzz", record: b"record", field: "value", version: 1, purpose: "at-rest" }
}

fuzz_target!(|data: &[u8]| {
    let (keys, sealed) = &*KEYS;
    let given = Sealed::from_bytes(data.to_vec().into());
    let opened = keys.open(&context(keys.scope()), &given);
    assert_eq!(opened.is_ok(), data == &sealed.as_bytes()[..], "only what was sealed opens");
    // One changed byte at a place the input chooses.
    if let [place, change, ..] = data
        && *change != 0
    {
        let mut bytes = sealed.as_bytes().to_vec();
        let at = usize::from(*place) % bytes.len();
        bytes[at] ^= change;
        assert!(keys.open(&context(keys.scope()), &Sealed::from_bytes(bytes.into())).is_err());
    }
});
