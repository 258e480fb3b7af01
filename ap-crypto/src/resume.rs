//! Resume tokens: who is waited for proves with one that it may answer, once, until it expires.
//!
//! A token is base64url behind `aprs_`: project (16 bytes), run (16), slot (32), expiry in microseconds (8), decision (1),
//! and an HMAC-SHA256 (32) over all of it under a key of the run. Nothing of it has to be stored to be checked; that it
//! works once is the store's matter, which takes one signal per slot.

use std::fmt;

use ap_core::{
    id::{ProjectId, RunId},
    store::LookupHash,
    time::Timestamp,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::ZeroizeOnDrop;

use crate::{
    key::SecretKey,
    signature::{constant_time_eq, hmac_of_parts},
};

/// What every resume token begins with.
pub const RESUME_PREFIX: &str = "aprs_";

/// What the holder of a token says by using it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// It answers: a webhook, a party of a barrier.
    Answer,
    /// It approves.
    Approve,
    /// It rejects.
    Reject,
}

impl Decision {
    const fn byte(self) -> u8 {
        match self {
            Self::Answer => 0,
            Self::Approve => 1,
            Self::Reject => 2,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Answer),
            1 => Some(Self::Approve),
            2 => Some(Self::Reject),
            _ => None,
        }
    }
}

/// Makes and checks the resume tokens of one run. Comes from [`TenantKeys::resume_key`](crate::vault::TenantKeys::resume_key).
#[derive(ZeroizeOnDrop)]
pub struct ResumeKey(SecretKey);

impl ResumeKey {
    pub(crate) const fn new(key: SecretKey) -> Self {
        Self(key)
    }

    /// The slot of one party of the wait at `path`.
    #[must_use]
    pub fn slot(&self, path: &str, party: &str) -> LookupHash {
        LookupHash(hmac_of_parts(&self.0, &[b"slot", path.as_bytes(), party.as_bytes()]))
    }

    /// A token for a slot.
    #[must_use]
    pub fn token(&self, claims: &ResumeClaims) -> String {
        let mut bytes = claims.to_bytes();
        bytes.extend_from_slice(&hmac_of_parts(&self.0, &[b"token", &bytes]));
        let mut text = String::from(RESUME_PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        text
    }

    /// Checks a token that was read before, in constant time; whether it has expired is the caller's to see.
    #[must_use]
    pub fn is_genuine(&self, token: &UncheckedToken) -> bool {
        constant_time_eq(&hmac_of_parts(&self.0, &[b"token", &token.claims.to_bytes()]), &token.mac)
    }
}

impl fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeKey(…)")
    }
}

impl PartialEq for ResumeKey {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(self.0.expose(), other.0.expose())
    }
}

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeClaims {
    /// The run's project.
    pub project: ProjectId,
    /// The run.
    pub run: RunId,
    /// Which party of which wait.
    pub slot: LookupHash,
    /// From when on it does not work.
    pub expires: Timestamp,
    /// What using it means.
    pub decision: Decision,
}

impl ResumeClaims {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.extend_from_slice(self.project.as_bytes());
        bytes.extend_from_slice(self.run.as_bytes());
        bytes.extend_from_slice(&self.slot.0);
        bytes.extend_from_slice(&self.expires.as_micros().to_be_bytes());
        bytes.push(self.decision.byte());
        bytes
    }
}

/// A token as it was received. Nothing in it is true before [`ResumeKey::is_genuine`] says so; until then it only tells whose
/// key to ask.
#[derive(Clone, Debug)]
pub struct UncheckedToken {
    claims: ResumeClaims,
    mac: [u8; 32],
}

impl UncheckedToken {
    /// Reads the form of a token. `None` if it has not the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(RESUME_PREFIX).filter(|digits| digits.len() <= MAX_DIGITS)?;
        let bytes = URL_SAFE_NO_PAD.decode(digits).ok()?;
        let (project, rest) = bytes.split_first_chunk::<16>()?;
        let (run, rest) = rest.split_first_chunk::<16>()?;
        let (slot, rest) = rest.split_first_chunk::<32>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let ([decision], mac) = rest.split_first_chunk::<1>()?;
        let claims = ResumeClaims {
            project: ProjectId::from_u128(u128::from_be_bytes(*project)),
            run: RunId::from_u128(u128::from_be_bytes(*run)),
            slot: LookupHash(*slot),
            expires: Timestamp::from_micros(i64::from_be_bytes(*expires)),
            decision: Decision::from_byte(*decision)?,
        };
        Some(Self { claims, mac: mac.try_into().ok()? })
    }

    /// What it claims.
    #[must_use]
    pub const fn claims(&self) -> &ResumeClaims {
        &self.claims
    }
}

const TOKEN_BYTES: usize = 16 + 16 + 32 + 8 + 1 + 32;
const MAX_DIGITS: usize = TOKEN_BYTES.div_ceil(3) * 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> ResumeKey {
        ResumeKey::new(SecretKey::init_with(|bytes| bytes.fill(byte)))
    }

    fn claims(key: &ResumeKey) -> ResumeClaims {
        ResumeClaims {
            project: ProjectId::from_u128(1),
            run: RunId::from_u128(2),
            slot: key.slot("approval", "ann"),
            expires: Timestamp::from_millis(77),
            decision: Decision::Approve,
        }
    }

    #[test]
    fn a_token_says_what_went_in_and_is_the_runs_own() {
        let (ours, other) = (key(1), key(2));
        let token = UncheckedToken::parse(&ours.token(&claims(&ours))).unwrap();
        assert_eq!(token.claims(), &claims(&ours));
        assert!(ours.is_genuine(&token) && !other.is_genuine(&token));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let ours = key(1);
        let text = ours.token(&claims(&ours));
        for at in 0..text.len() {
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            let wrong = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(UncheckedToken::parse(&wrong).is_none_or(|token| !ours.is_genuine(&token)), "{wrong}");
            assert!(UncheckedToken::parse(&text[..at]).is_none(), "{at}");
        }
        assert!(UncheckedToken::parse(&format!("{text}AAAA")).is_none());
    }

    #[test]
    fn slots_tell_paths_and_parties_apart() {
        let ours = key(1);
        assert_ne!(ours.slot("ab", "c"), ours.slot("a", "bc"));
        assert_ne!(ours.slot("a", "b"), key(2).slot("a", "b"));
    }
}
