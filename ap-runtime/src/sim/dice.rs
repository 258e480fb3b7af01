//! [`Dice`]: everything that is left to chance, from one seed.

use std::sync::{Mutex, PoisonError};

use ap_crypto::entropy::{Entropy, EntropyError};

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed throws the same numbers.
#[derive(Debug)]
pub(super) struct Dice(Mutex<u64>);

impl Dice {
    /// Dice of their own for each `purpose`, so that one more throw for one purpose changes nothing for the others.
    pub(super) fn new(seed: u64, purpose: u64) -> Self {
        Self(Mutex::new(mix(seed ^ mix(purpose.wrapping_add(STEP)))))
    }

    pub(super) fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(STEP);
        mix(*state)
    }

    /// A number below `bound`, 0 if that is 0.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True once in `count` times.
    pub(super) fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in bytes.chunks_mut(8) {
            let thrown = self.next().to_le_bytes();
            chunk.iter_mut().zip(thrown).for_each(|(byte, thrown)| *byte = thrown);
        }
        Ok(())
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
