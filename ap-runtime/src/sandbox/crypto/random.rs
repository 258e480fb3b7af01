//! [`StepRandom`]: the randomness of one step.

use super::HostError;
use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit, StreamCipher},
};

/// ChaCha20 (RFC 8439) under the seed of the step: the same step draws the same bytes again.
///
/// Handles come from a stream of their own, so what a script draws tells nothing of them.
pub(super) struct StepRandom {
    drawn: ChaCha20,
    handles: ChaCha20,
}

impl StepRandom {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self { drawn: stream(seed, b"step: random"), handles: stream(seed, b"step: handle") }
    }

    /// The next `length` bytes for the script, up to [`MOST_RANDOM_BYTES`].
    pub(super) fn bytes(&mut self, length: usize) -> Result<Vec<u8>, HostError> {
        let mut bytes = vec![0; length];
        self.drawn.try_apply_keystream(&mut bytes).map_err(|_| exhausted())?;
        Ok(bytes)
    }

    /// What the next handle is called.
    pub(super) fn handle(&mut self) -> Result<[u8; 32], HostError> {
        let mut bytes = [0; 32];
        self.handles.try_apply_keystream(&mut bytes).map_err(|_| exhausted())?;
        Ok(bytes)
    }
}

/// Where the engine's own generator starts, which is no cryptographic one: from what a script draws there it can find this
/// number, and nothing of the seed.
pub(crate) fn engine_seed(seed: &[u8; 32]) -> u64 {
    let mut bytes = [0; 8];
    stream(seed, b"step: engine").apply_keystream(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn stream(seed: &[u8; 32], nonce: &[u8; 12]) -> ChaCha20 {
    ChaCha20::new(seed.into(), nonce.into())
}

/// After 256 GiB.
fn exhausted() -> HostError {
    HostError::new("Error", "the step has used up its randomness")
}

/// Most that one call draws. Unit: bytes; 1 MiB.
pub(super) const MOST_RANDOM_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_from_the_seed_and_not_from_each_other() {
        let draw = |seed: u8| {
            let mut random = StepRandom::new(&[seed; 32]);
            (random.bytes(32).unwrap(), random.bytes(5).unwrap(), random.handle().unwrap(), random.handle().unwrap())
        };
        let (first, second, handle, next) = draw(1);
        assert_eq!(draw(1), (first.clone(), second.clone(), handle, next));
        assert_ne!(draw(2).0, first);
        assert_ne!(first[..], handle);
        assert_ne!(handle, next);
        assert_eq!(engine_seed(&[1; 32]), engine_seed(&[1; 32]));
        let engine = engine_seed(&[1; 32]).to_le_bytes();
        assert!(![&first[..8], &handle[..8], &[1; 8]].contains(&&engine[..]));
        assert_eq!(StepRandom::new(&[1; 32]).bytes(37).unwrap(), [first, second].concat());
    }

    #[test]
    fn the_stream_is_that_of_the_cipher() {
        // RFC 8439 §2.4.2 has another nonce and counter: here the block of zeros under a zero key is enough to see ChaCha20.
        let mut bytes = [0; 8];
        ChaCha20::new(&[0; 32].into(), &[0; 12].into()).apply_keystream(&mut bytes);
        assert_eq!(bytes, [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
    }
}
