//! [`Parts`]: what is left when a placeholder or a handle was cut, so that it does not become a key by mistake.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Every part of some length of the texts that stand for secrets.
///
/// They tell nothing, so nothing is kept from the script here. But a script that cuts a secret, as programs do that know its form,
/// would sign with text that anybody may see, or encrypt under what no other attempt draws again.
#[derive(Default)]
pub(super) struct Parts {
    windows: HashSet<[u8; PART]>,
}

impl Parts {
    /// Takes up the parts of `text`.
    pub(super) fn add(&mut self, text: &str) {
        self.windows.extend(text.as_bytes().windows(PART).filter_map(|part| <[u8; PART]>::try_from(part).ok()));
    }

    /// Whether `key` holds a part: as it is, in UTF-16, or read as base64.
    pub(super) fn in_key(&self, key: &[u8]) -> bool {
        if self.windows.is_empty() {
            return false;
        }
        let key = key.get(..LOOKED_AT).unwrap_or(key);
        let utf16 = || key.iter().copied().step_by(2).collect::<Vec<u8>>();
        let spelled = |from: usize| key.get(from..).map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        self.stand_in(key)
            || self.stand_in(&utf16())
            || (0..3).filter_map(spelled).any(|digits| self.stand_in(digits.as_bytes()))
    }

    fn stand_in(&self, text: &[u8]) -> bool {
        text.windows(PART).any(|part| self.windows.contains(part))
    }
}

/// Shortest part that is recognised. Unit: bytes. That a key of nobody's has it by chance: 1 in 10^13 at most, with the most handles.
const PART: usize = 12;
/// How much of a key is looked at. Unit: bytes. Longer ones are no keys that somebody cut out of a secret.
const LOOKED_AT: usize = 1024;
