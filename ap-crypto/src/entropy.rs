//! [`Entropy`]: where nonces, keys and tokens get their randomness.

use std::{error::Error as StdError, fmt};

/// Source of unpredictable bytes. Production uses [`SystemEntropy`]; a simulation supplies a seeded one.
///
/// # Security
/// Everything sealed is only as safe as this source: it must be cryptographically secure outside of tests.
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Fills the whole of `bytes`.
    ///
    /// # Errors
    /// [`EntropyError`] if the source failed; `bytes` may then be partly written and must not be used.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError>;
}

/// The random number generator of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(bytes).map_err(EntropyError::new)
    }
}

/// `N` fresh bytes. For key material use the types of [`crate::key`], which are wiped on drop.
///
/// # Errors
/// [`EntropyError`] if the source failed.
pub fn random_array<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N], EntropyError> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

/// The source of randomness failed. Nothing was generated; the operator must look at the host.
#[derive(Debug, thiserror::Error)]
#[error("the source of randomness failed")]
pub struct EntropyError(#[source] Box<dyn StdError + Send + Sync>);

impl EntropyError {
    /// Wraps what the source reported.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

#[cfg(test)]
pub(crate) mod test_support {
    use std::sync::Mutex;

    use super::*;

    /// Deterministic bytes: SHA-256 of a counter. Never repeats, so nonces stay unique within a test.
    #[derive(Debug, Default)]
    pub(crate) struct CountingEntropy(Mutex<u64>);

    impl Entropy for CountingEntropy {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
            use sha2::{Digest, Sha256};
            for chunk in bytes.chunks_mut(32) {
                let mut counter = self.0.lock().unwrap();
                *counter += 1;
                chunk.copy_from_slice(&Sha256::digest(counter.to_le_bytes())[..chunk.len()]);
            }
            Ok(())
        }
    }

    /// Always fails.
    #[derive(Debug)]
    pub(crate) struct NoEntropy;

    impl Entropy for NoEntropy {
        fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
            Err(EntropyError::new("out of randomness"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_source_fills_every_byte() {
        // 64 draws: the chance that any one position is zero in all of them is 2^-512.
        let mut seen = [0_u8; 40];
        for _ in 0..64 {
            for (slot, byte) in seen.iter_mut().zip(random_array::<40>(&SystemEntropy).unwrap()) {
                *slot |= byte;
            }
        }
        assert!(seen.iter().all(|byte| *byte != 0));
    }

    #[test]
    fn a_failing_source_is_an_error() {
        assert!(random_array::<8>(&test_support::NoEntropy).is_err());
    }
}
