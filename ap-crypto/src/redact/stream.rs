//! [`RedactStream`]: redaction of a body that arrives in chunks.

use zeroize::Zeroizing;

use super::{Redactor, Region};

/// Redacts a body chunk by chunk, as if it were whole: a secret split across chunks is found.
///
/// Holds back as many bytes as a match may still need: see [`Redactor::held_back_bytes`].
pub struct RedactStream<'r> {
    redactor: &'r Redactor,
    held: Held,
}

/// What of a text was not given out yet.
#[derive(Default)]
pub(super) struct Held {
    buffer: Zeroizing<Vec<u8>>,
    /// How much of the buffer's beginning belongs to a match whose marker was given out already.
    masked: usize,
}

impl<'r> RedactStream<'r> {
    pub(super) fn new(redactor: &'r Redactor) -> Self {
        Self { redactor, held: Held::default() }
    }

    /// Takes the next chunk, and returns what can be given out by now; often nothing.
    #[must_use]
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        let hold = self.redactor.held_back_bytes();
        if hold == 0 {
            return chunk.to_vec();
        }
        self.held.take_in(chunk);
        // Waiting for twice the hold means that every byte is looked at twice at most, however small the chunks are.
        if self.held.len() < 2 * hold {
            return Vec::new();
        }
        self.held.give_out_all_but(hold, self.redactor)
    }

    /// Ends the body, and returns the rest.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.held.give_out(self.held.len(), self.redactor)
    }
}

impl Held {
    pub(super) fn take_in(&mut self, chunk: &[u8]) {
        let length = self.buffer.len() + chunk.len();
        if length > self.buffer.capacity() {
            // Growing in place would leave an unwiped copy behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.buffer.extend_from_slice(chunk);
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Where the last line that is whole ends; 0 if none is.
    pub(super) fn end_of_lines(&self) -> usize {
        memchr::memrchr(b'\n', &self.buffer).map_or(0, |at| at + 1)
    }

    pub(super) fn give_out_all_but(&mut self, hold: usize, redactor: &Redactor) -> Vec<u8> {
        let mut cut = self.buffer.len().saturating_sub(hold);
        // Cut between escapes: what stands before an odd backslash is the first half of one.
        let backslashes = self.buffer.iter().take(cut).rev().take_while(|byte| **byte == b'\\').count();
        if !backslashes.is_multiple_of(2) {
            cut -= 1;
        }
        self.give_out(cut, redactor)
    }

    /// Gives out the first `cut` bytes, and the rest of what is masked there.
    pub(super) fn give_out(&mut self, cut: usize, redactor: &Redactor) -> Vec<u8> {
        let mut out = Vec::with_capacity(cut);
        let mut done = self.masked;
        for Region { start, end, name } in redactor.regions(&self.buffer) {
            if start >= cut.max(done) {
                break;
            }
            if start >= done {
                out.extend_from_slice(self.buffer.get(done..start).unwrap_or_default());
                out.extend_from_slice(redactor.marker(name).as_bytes());
            }
            done = done.max(end);
        }
        out.extend_from_slice(self.buffer.get(done..cut).unwrap_or_default());
        self.masked = done.saturating_sub(cut);
        self.buffer.drain(..cut);
        out
    }
}

impl std::fmt::Debug for RedactStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedactStream({} bytes held back)", self.held.len())
    }
}
