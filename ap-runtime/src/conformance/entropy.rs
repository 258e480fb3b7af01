//! Rules for [`Entropy`]: what it fills looks random. They find a source that is broken, not one that is predictable.

use std::collections::BTreeSet;

use ap_crypto::entropy::{Entropy, random_array};

/// Every byte that is asked for is filled, none is left as it was.
pub async fn every_byte_is_filled(entropy: &impl Entropy) {
    for length in (0..70).chain([255, 256, 257, 4_096, 65_537]) {
        let mut seen = vec![0_u8; length];
        // Of 64 draws a good source leaves a byte zero in all with a chance of 2^-512.
        for _ in 0..64 {
            let mut bytes = vec![0; length];
            entropy.fill(&mut bytes).expect("randomness");
            seen.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte);
        }
        assert!(seen.iter().all(|byte| *byte != 0), "a byte of {length} was never filled");
    }
}

/// No draw repeats another, nor does a long one repeat itself.
pub async fn no_draw_repeats(entropy: &impl Entropy) {
    let mut seen: BTreeSet<[u8; 16]> = BTreeSet::new();
    for _ in 0..5_000 {
        assert!(seen.insert(random_array(entropy).expect("randomness")), "the same 16 bytes twice");
    }
    let mut long = vec![0; 80_000];
    entropy.fill(&mut long).expect("randomness");
    for block in long.as_chunks::<16>().0 {
        assert!(seen.insert(*block), "the same 16 bytes twice");
    }
}

/// Every bit of a byte is set about as often as not.
pub async fn bits_are_balanced(entropy: &impl Entropy) {
    let mut bytes = vec![0; 100_000];
    entropy.fill(&mut bytes).expect("randomness");
    for bit in 0..8 {
        let set = bytes.iter().filter(|byte| *byte >> bit & 1 == 1).count();
        // Seven standard deviations (each 158): a good source fails once in 10^11 times.
        assert!(set.abs_diff(50_000) < 1_107, "bit {bit} is set in {set} of 100,000 bytes");
    }
}

/// Runs an [`Entropy`] through every rule, one `#[test]` per rule.
///
/// # Examples
/// ```
/// ap_runtime::entropy_conformance!(ap_crypto::entropy::SystemEntropy);
/// ```
#[macro_export]
macro_rules! entropy_conformance {
    ($entropy:expr) => {
        $crate::__conformance_tests! { $entropy; every_byte_is_filled, no_draw_repeats, bits_are_balanced }
    };
}
