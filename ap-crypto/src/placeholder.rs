//! [`CredentialRef`]: the text that stands for a secret wherever flows can look.

use std::{fmt, ops::Range};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Stands for one secret field of one connection within one run: `apcred_` and 43 base64url digits.
///
/// Made by [`TenantKeys::placeholder`](crate::vault::TenantKeys::placeholder). It reveals nothing and opens nothing: only
/// egress, for the run it was made in, puts the secret in its place. So it may be printed, stored and sent.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialRef {
    text: String,
}

impl CredentialRef {
    /// What every placeholder starts with.
    pub const PREFIX: &'static str = "apcred_";
    /// Length of every placeholder. Unit: bytes.
    pub const BYTES: usize = Self::PREFIX.len() + DIGITS;

    pub(crate) fn from_mac(mac: &[u8; 32]) -> Self {
        let mut text = String::with_capacity(Self::BYTES);
        text.push_str(Self::PREFIX);
        URL_SAFE_NO_PAD.encode_string(mac, &mut text);
        Self { text }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `text` has the form of a placeholder. Says nothing about whether any run knows it.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.strip_prefix(Self::PREFIX).is_some_and(|digits| is_mac(digits.as_bytes()))
    }
}

impl fmt::Display for CredentialRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CredentialRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialRef({})", self.text)
    }
}

/// Where in `text` something has the form of a placeholder, from left to right.
///
/// What stands around a placeholder does not matter: `…}}suffix` in a template puts text right behind one. So none is passed over,
/// and the places may overlap: text before a placeholder that has the form of one, with its beginning for the last digits, hides
/// nothing. Whoever puts something in their place keeps to those that a run knows, and of two that overlap to the first.
pub fn find_placeholders(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let start = from + text.get(from..)?.find(CredentialRef::PREFIX)?;
            from = start + 1;
            let end = start + CredentialRef::BYTES;
            let digits = text.as_bytes().get(start + CredentialRef::PREFIX.len()..end);
            if digits.is_some_and(is_mac) {
                return Some(start..end);
            }
        }
    })
}

/// Exactly 256 bits in base64url without padding, spare bits zero.
fn is_mac(digits: &[u8]) -> bool {
    let mut mac = [0; 33];
    digits.len() == DIGITS && URL_SAFE_NO_PAD.decode_slice(digits, &mut mac).is_ok_and(|length| length == 32)
}

const DIGITS: usize = 43;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(seed: u8) -> String {
        CredentialRef::from_mac(&[seed; 32]).to_string()
    }

    #[test]
    fn only_the_exact_form_looks_like_one() {
        let text = sample(250);
        assert_eq!(text.len(), CredentialRef::BYTES);
        assert!(CredentialRef::looks_like(&text));
        let wrong = [
            String::new(),
            "apcred_".to_owned(),
            text[..49].to_owned(),
            format!("{text}A"),
            format!(" {text}"),
            text.replace("apcred", "apCred"),
            // The last digit holds four bits; a spare bit that is set is another spelling of the same value.
            format!("{}B", &text[..49]),
            format!("{}=", &text[..49]),
            format!("{}+", &text[..49]),
        ];
        for wrong in wrong {
            assert!(!CredentialRef::looks_like(&wrong), "{wrong}");
        }
    }

    #[test]
    fn placeholders_are_found_wherever_they_stand() {
        let (one, two) = (sample(1), sample(2));
        let found = |text: &str| find_placeholders(text).map(|range| text[range].to_owned()).collect::<Vec<_>>();
        assert_eq!(found(&one), [one.as_str()]);
        assert_eq!(found(&format!("Bearer {one}!")), [one.as_str()]);
        assert_eq!(found(&format!("é{one}{two}é")), [one.clone(), two.clone()]);
        assert_eq!(found(&format!("apcred_{one}apcred_")), [one.as_str()]);
        assert_eq!(found(&format!("{one}abc-_")), [one.as_str()]);
        // The prefix stands among the digits of what comes before.
        for hidden in 0..CredentialRef::PREFIX.len() {
            let text = format!("apcred_{}{one}", "A".repeat(DIGITS - hidden));
            let is_one = CredentialRef::looks_like(&text[..CredentialRef::BYTES]);
            assert_eq!(found(&text).last(), Some(&one), "{text}");
            assert_eq!(found(&text).len(), if is_one { 2 } else { 1 }, "{text}");
        }
        let nested = format!("apcred_{}{one}", "A".repeat(20));
        assert_eq!(found(&nested).last(), Some(&one));
        assert_eq!(found("apcred_").len(), 0);
        assert_eq!(found(&format!("apcred_{}", "é".repeat(43))).len(), 0);
    }

    proptest! {
        #[test]
        fn searching_never_panics_and_finds_only_placeholders(text in "(apcred_|[A-Za-z0-9_é-]{0,50}|\\PC{0,9}){0,6}") {
            for range in find_placeholders(&text) {
                prop_assert!(CredentialRef::looks_like(&text[range]));
            }
        }

        #[test]
        fn whatever_stands_around_one_does_not_hide_it(
            before in "(apcred_[A-Za-z0-9_-]{0,50}){0,3}",
            after in "(apcred_|[A-Za-z0-9_-]{0,50}){0,3}",
            seed: u8,
        ) {
            let one = sample(seed);
            let text = format!("{before}{one}{after}");
            let range = before.len()..before.len() + one.len();
            prop_assert!(find_placeholders(&text).any(|found| found == range));
        }
    }
}
