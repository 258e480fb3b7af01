//! The envelope: one sealed value, bound to its key and to the place it belongs.
//!
//! ```text
//! offset  0  version      1 byte   1
//!         1  algorithm    1 byte   1 = XChaCha20-Poly1305 under HKDF-SHA256
//!         2  key id      16 bytes  which tenant key
//!        18  commitment  32 bytes  only that key gives it
//!        50  nonce       24 bytes  random
//!        74  ciphertext  as long as the value, then a tag of 16 bytes
//! ```
//!
//! Every value has a key of its own: HKDF-SHA256 (RFC 5869) with the nonce as salt gives record key and commitment from
//! the tenant key in one output. Opening compares the commitment, in constant time, before it decrypts anything: no
//! ciphertext opens under two keys, which Poly1305 alone allows. The associated data is the whole header and the
//! [`SealContext`], length-prefixed, so a value moved to another tenant, record, field, version or purpose does not open.
//!
//! # Security
//! Not protected: the length of a value, and whether a whole old row, with its old version, was put back.

use ap_core::{id::KeyId, scope::Scope, store::Sealed};
use bytes::Bytes;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    aead::{self, NONCE_BYTES, TAG_BYTES},
    error::VaultError,
    kdf,
    key::SecretKey,
};

/// Largest value that can be sealed. Unit: bytes; 64 MiB.
pub const MAX_PLAINTEXT_BYTES: usize = 64 << 20;

/// How much longer an envelope is than its value. Unit: bytes.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Which bytes of an envelope name its key.
pub const KEY_ID: std::ops::Range<usize> = 2..18;

/// How long the part of an envelope is that no other one has: up to and including the nonce. Unit: bytes.
pub const HEADER_BYTES: usize = 2 + 16 + COMMITMENT_BYTES + NONCE_BYTES;

/// The place a value belongs to. Sealing and opening must name the same one, in every part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealContext<'a> {
    /// The tenant.
    pub scope: Scope,
    /// The kind of record, such as `connections`.
    pub table: &'static str,
    /// The record's key: for most the 16 bytes of its id.
    pub record: &'a [u8],
    /// Which of the record's sealed fields.
    pub field: &'static str,
    /// The record's version: the revision the write results in, or the sequence number of a journal record.
    pub version: u64,
    /// What the value is sealed for, such as `at-rest`.
    pub purpose: &'static str,
}

impl SealContext<'_> {
    /// The header, then every part behind its length: two different contexts never give the same bytes.
    fn associated_data(&self, header: &[u8]) -> Vec<u8> {
        let version = self.version.to_be_bytes();
        let scope = self.scope.to_bytes();
        let parts = [
            DOMAIN,
            header,
            &scope,
            self.table.as_bytes(),
            self.record,
            self.field.as_bytes(),
            &version,
            self.purpose.as_bytes(),
        ];
        let mut data = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
        for part in parts {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part);
        }
        data
    }
}

/// The key an envelope names: under which it was sealed, if nobody changed it. `None` if the bytes are no envelope.
#[must_use]
pub fn key_id(sealed: &Sealed) -> Option<KeyId> {
    Envelope::parse(sealed.as_bytes()).ok().map(|envelope| envelope.key_id)
}

/// Seals `plaintext` under a key derived from `key` for this nonce.
pub(crate) fn seal(
    key_id: KeyId,
    key: &SecretKey,
    context: &SealContext<'_>,
    plaintext: &[u8],
    nonce: &[u8; NONCE_BYTES],
) -> Result<Sealed, VaultError> {
    check_size(plaintext.len())?;
    let derived = RecordKey::derive(key, key_id, nonce);
    let mut envelope = Vec::with_capacity(plaintext.len() + OVERHEAD_BYTES);
    envelope.extend_from_slice(&[VERSION, ALGORITHM]);
    envelope.extend_from_slice(key_id.as_bytes());
    envelope.extend_from_slice(derived.commitment());
    envelope.extend_from_slice(nonce);
    let associated_data = context.associated_data(&envelope);
    envelope.extend_from_slice(plaintext);
    // Wiped if the cipher refuses: until it has run, these bytes are the plaintext.
    let mut envelope = Zeroizing::new(envelope);
    let tag = envelope
        .get_mut(HEADER_BYTES..)
        .and_then(|message| aead::encrypt(derived.key(), nonce, &associated_data, message))
        .ok_or(VaultError::TooLarge { actual_bytes: plaintext.len(), limit_bytes: MAX_PLAINTEXT_BYTES })?;
    envelope.extend_from_slice(&tag);
    Ok(Sealed::from_bytes(Bytes::from(std::mem::take(&mut *envelope))))
}

/// Opens what [`seal`] made for the same context; `keys` finds the key an envelope names.
pub(crate) fn open<'k>(
    keys: impl FnOnce(KeyId) -> Option<&'k SecretKey>,
    context: &SealContext<'_>,
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    try_open(keys, context, sealed.as_bytes()).map_err(|reason| {
        tracing::warn!(
            target: "ap_crypto",
            reason,
            scope = %context.scope,
            table = context.table,
            field = context.field,
            version = context.version,
            purpose = context.purpose,
            envelope_bytes = sealed.as_bytes().len(),
            "a sealed value was refused"
        );
        VaultError::Unopenable
    })
}

fn try_open<'k>(
    keys: impl FnOnce(KeyId) -> Option<&'k SecretKey>,
    context: &SealContext<'_>,
    envelope: &[u8],
) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let parsed = Envelope::parse(envelope)?;
    let key = keys(parsed.key_id).ok_or("unknown key id")?;
    let derived = RecordKey::derive(key, parsed.key_id, parsed.nonce);
    if !bool::from(derived.commitment().ct_eq(parsed.commitment)) {
        return Err("key commitment differs");
    }
    let associated_data = context.associated_data(parsed.header);
    aead::decrypt(derived.key(), parsed.nonce, &associated_data, parsed.ciphertext)
        .ok_or("authentication failed: the value or its context was changed")
}

/// The parts of an envelope, borrowed.
struct Envelope<'a> {
    header: &'a [u8],
    key_id: KeyId,
    commitment: &'a [u8; COMMITMENT_BYTES],
    nonce: &'a [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "shorter than an envelope";
        if bytes.len() < OVERHEAD_BYTES {
            return Err(SHORT);
        }
        if bytes.len() > MAX_PLAINTEXT_BYTES + OVERHEAD_BYTES {
            return Err("longer than an envelope");
        }
        let (header, ciphertext) = bytes.split_at_checked(HEADER_BYTES).ok_or(SHORT)?;
        let ([version, algorithm], rest) = header.split_first_chunk().ok_or(SHORT)?;
        if *version != VERSION {
            return Err("unknown envelope version");
        }
        if *algorithm != ALGORITHM {
            return Err("unknown algorithm");
        }
        let (key_id, rest) = rest.split_first_chunk::<16>().ok_or(SHORT)?;
        let (commitment, rest) = rest.split_first_chunk().ok_or(SHORT)?;
        let (nonce, _) = rest.split_first_chunk().ok_or(SHORT)?;
        Ok(Self { header, key_id: KeyId::from_u128(u128::from_be_bytes(*key_id)), commitment, nonce, ciphertext })
    }
}

/// Record key and commitment, both halves of one HKDF output.
struct RecordKey(Zeroizing<[[u8; 32]; 2]>);

impl RecordKey {
    fn derive(key: &SecretKey, key_id: KeyId, nonce: &[u8; NONCE_BYTES]) -> Self {
        Self(kdf::derive_pair(nonce, key, &[DOMAIN, &[VERSION, ALGORITHM], key_id.as_bytes()]))
    }

    fn key(&self) -> &[u8; 32] {
        let [key, _] = &*self.0;
        key
    }

    fn commitment(&self) -> &[u8; COMMITMENT_BYTES] {
        let [_, commitment] = &*self.0;
        commitment
    }
}

const fn check_size(actual_bytes: usize) -> Result<(), VaultError> {
    if actual_bytes > MAX_PLAINTEXT_BYTES {
        return Err(VaultError::TooLarge { actual_bytes, limit_bytes: MAX_PLAINTEXT_BYTES });
    }
    Ok(())
}

const VERSION: u8 = 1;
const ALGORITHM: u8 = 1;
const COMMITMENT_BYTES: usize = 32;
const DOMAIN: &[u8] = b"ap-crypto/envelope";

#[cfg(test)]
mod two_keys;

#[cfg(test)]
mod tests {
    use ap_core::id::{PlatformId, ProjectId};
    use proptest::prelude::*;

    use super::*;

    const RECORD: [u8; 16] = [5; 16];
    pub(super) const CONTEXT: SealContext<'static> = SealContext {
        scope: Scope::Project(ProjectId::from_u128(7)),
        table: "connections",
        record: &RECORD,
        field: "value",
        version: 3,
        purpose: "at-rest",
    };

    pub(super) fn key(seed: u8) -> (KeyId, SecretKey) {
        (KeyId::from_u128(u128::from(seed)), SecretKey::init_with(|bytes| bytes.fill(seed)))
    }

    fn sealed(plaintext: &[u8]) -> Vec<u8> {
        let (id, key) = key(1);
        seal(id, &key, &CONTEXT, plaintext, &[9; 24]).unwrap().as_bytes().to_vec()
    }

    fn open_with(seed: u8, context: &SealContext<'_>, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (id, key) = key(seed);
        open(|wanted| (wanted == id).then_some(&key), context, &Sealed::from_bytes(envelope.to_vec().into()))
    }

    fn assert_refused(result: Result<Zeroizing<Vec<u8>>, VaultError>, what: &str) {
        assert!(matches!(result, Err(VaultError::Unopenable)), "{what}: {result:?}");
    }

    #[test]
    fn every_single_bit_change_is_refused() {
        let envelope = sealed(b"secret");
        assert_eq!(envelope.len(), 6 + OVERHEAD_BYTES);
        assert_eq!(&open_with(1, &CONTEXT, &envelope).unwrap()[..], b"secret");
        for bit in 0..envelope.len() * 8 {
            let mut changed = envelope.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // The key is handed out whatever id the envelope names, so that the id itself is under test too.
            let (_, right_key) = key(1);
            let changed = Sealed::from_bytes(changed.into());
            assert_refused(open(|_| Some(&right_key), &CONTEXT, &changed), &format!("bit {bit}"));
        }
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let envelope = sealed(b"secret");
        for length in 0..envelope.len() {
            assert_refused(open_with(1, &CONTEXT, &envelope[..length]), &format!("length {length}"));
        }
        assert_refused(open_with(1, &CONTEXT, &[&envelope[..], &[0]].concat()), "one byte more");
    }

    #[test]
    fn every_change_of_context_is_refused() {
        let envelope = sealed(b"secret");
        let swaps = [
            SealContext { scope: Scope::Project(ProjectId::from_u128(8)), ..CONTEXT },
            SealContext { scope: Scope::Platform(PlatformId::from_u128(7)), ..CONTEXT },
            SealContext { table: "values", ..CONTEXT },
            SealContext { record: &[6; 16], ..CONTEXT },
            SealContext { record: &RECORD[..15], ..CONTEXT },
            SealContext { record: &[], ..CONTEXT },
            SealContext { field: "valu", ..CONTEXT },
            SealContext { field: "", ..CONTEXT },
            SealContext { version: 2, ..CONTEXT },
            SealContext { version: 4, ..CONTEXT },
            SealContext { purpose: "export", ..CONTEXT },
            // Parts that only differ in where one ends and the next begins.
            SealContext {
                table: "connection",
                record: b"s\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05",
                ..CONTEXT
            },
        ];
        for swapped in &swaps {
            assert_refused(open_with(1, swapped, &envelope), &format!("{swapped:?}"));
        }
    }

    #[test]
    fn every_single_bit_change_of_the_context_is_refused() {
        let envelope = sealed(b"secret");
        for bit in 0..64 {
            let changed = SealContext { version: CONTEXT.version ^ 1 << bit, ..CONTEXT };
            assert_refused(open_with(1, &changed, &envelope), &format!("version bit {bit}"));
        }
        for bit in 0..128 {
            let scope = Scope::Project(ProjectId::from_u128(7 ^ 1 << bit));
            assert_refused(open_with(1, &SealContext { scope, ..CONTEXT }, &envelope), &format!("scope bit {bit}"));
            let record = (u128::from_be_bytes(RECORD) ^ 1 << bit).to_be_bytes();
            let changed = SealContext { record: &record, ..CONTEXT };
            assert_refused(open_with(1, &changed, &envelope), &format!("record bit {bit}"));
        }
    }

    #[test]
    fn another_key_is_refused_even_under_the_right_id() {
        let envelope = sealed(b"secret");
        assert_refused(open_with(2, &CONTEXT, &envelope), "unknown id");
        let (_, wrong) = key(2);
        let sealed = Sealed::from_bytes(envelope.into());
        assert_refused(open(|_| Some(&wrong), &CONTEXT, &sealed), "right id, wrong key");
    }

    #[test]
    fn the_size_limit_is_exact() {
        assert!(check_size(MAX_PLAINTEXT_BYTES - 1).is_ok());
        assert!(check_size(MAX_PLAINTEXT_BYTES).is_ok());
        let (id, key) = key(1);
        let result = seal(id, &key, &CONTEXT, &vec![0; MAX_PLAINTEXT_BYTES + 1], &[9; 24]);
        assert!(matches!(result, Err(VaultError::TooLarge { actual_bytes, .. }) if actual_bytes == (64 << 20) + 1));
        let mut long = sealed(b"");
        long.resize(MAX_PLAINTEXT_BYTES + OVERHEAD_BYTES, 0);
        assert_eq!(Envelope::parse(&long).err(), None);
        long.push(0);
        assert_eq!(Envelope::parse(&long).err(), Some("longer than an envelope"));
    }

    #[test]
    fn the_format_never_changes() {
        // Computed by another implementation of HKDF and XChaCha20-Poly1305; a difference means that stored data no longer opens.
        let envelope = sealed(b"secret");
        let mut text = String::new();
        crate::hex::push_hex(&envelope, &mut text);
        assert_eq!(text, PINNED);
    }

    const PINNED: &str = "010100000000000000000000000000000001a321ad77d91b34692a38dfe9b77c53e30c95979e6a3836036a28f2\
        6dae91974e0909090909090909090909090909090909090909090909095797b06be24a2b0b54bb4fddecd0c3ab\
        22ed3b2529dc";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_sealed_opens(plaintext in prop::collection::vec(any::<u8>(), 0..600), nonce: [u8; 24], record: Vec<u8>) {
            let (id, key) = key(1);
            let context = SealContext { record: &record, ..CONTEXT };
            let sealed = seal(id, &key, &context, &plaintext, &nonce).unwrap();
            prop_assert_eq!(sealed.as_bytes().len(), plaintext.len() + OVERHEAD_BYTES);
            let opened = open(|_| Some(&key), &context, &sealed).unwrap();
            prop_assert_eq!(&*opened, &plaintext);
        }

        #[test]
        fn noise_never_opens_and_never_panics(mut noise in prop::collection::vec(any::<u8>(), 0..200), header: bool) {
            if header && noise.len() > 2 {
                noise[..2].copy_from_slice(&[VERSION, ALGORITHM]);
            }
            let (_, key) = key(1);
            prop_assert!(open(|_| Some(&key), &CONTEXT, &Sealed::from_bytes(noise.into())).is_err());
        }
    }
}
