//! The `state` of an authorization, and what a provider sends back with it.

use std::collections::BTreeMap;

use ap_core::{
    scope::Scope,
    store::{LookupHash, Sealed},
};
use ap_crypto::{
    entropy::{Entropy, random_array},
    envelope::SealContext,
    error::VaultError,
    vault::TenantKeys,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use url::form_urlencoded;
use zeroize::Zeroizing;

/// A new state for the connection of this name: sealed, so that it says nothing and comes from nobody else; random, so that it
/// is used once.
pub(crate) fn seal(keys: &TenantKeys, owner: Scope, name: &str, entropy: &dyn Entropy) -> Result<String, VaultError> {
    let mut plain = Zeroizing::new(random_array::<NONCE>(entropy)?.to_vec());
    plain.extend_from_slice(name.as_bytes());
    Ok(URL_SAFE_NO_PAD.encode(keys.seal(&context(owner), &plain, entropy)?.as_bytes()))
}

/// The name of the connection that a state was made for.
pub(crate) fn open(keys: &TenantKeys, owner: Scope, state: &str) -> Option<String> {
    let plain = keys.open(&context(owner), &envelope(state)?).ok()?;
    String::from_utf8(plain.get(NONCE..)?.to_vec()).ok()
}

/// The envelope that a state is, if it may be one.
pub(crate) fn envelope(state: &str) -> Option<Sealed> {
    if state.len() > MAX_STATE {
        return None;
    }
    Some(Sealed::from_bytes(URL_SAFE_NO_PAD.decode(state).ok()?.into()))
}

/// What is kept of a state.
pub(crate) fn hash(keys: &TenantKeys, state: &str) -> LookupHash {
    keys.lookup_hash("oauth-state", &[state.as_bytes()])
}

/// A code verifier with 256 bits of entropy (RFC 7636 §7.1).
pub(crate) fn verifier(entropy: &dyn Entropy) -> Result<SecretString, VaultError> {
    let bytes = Zeroizing::new(random_array::<32>(entropy)?);
    Ok(SecretString::from(URL_SAFE_NO_PAD.encode(*bytes)))
}

/// The parameters of a callback (RFC 6749 §4.1.2).
pub(crate) struct Callback {
    pub(crate) state: String,
    pub(crate) outcome: Result<SecretString, String>,
    /// RFC 9207.
    pub(crate) issuer: Option<String>,
}

impl Callback {
    /// Reads the query of a callback.
    pub(crate) fn parse(query: &str) -> Result<Self, &'static str> {
        if query.len() > MAX_QUERY {
            return Err("the query is longer than 16 KiB");
        }
        let query = query.strip_prefix('?').unwrap_or(query);
        let mut given: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let known = KNOWN.contains(&name.as_ref());
            if known && given.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err("a parameter stands there twice");
            }
        }
        let state = given.remove("state").ok_or("there is no `state`")?;
        let outcome = match (given.remove("code"), given.remove("error")) {
            (Some(code), None) if !code.is_empty() => Ok(SecretString::from(code)),
            (None, Some(code)) => Err(code),
            _ => return Err("there is neither `code` nor `error`, or both"),
        };
        Ok(Self { state, outcome, issuer: given.remove("iss") })
    }
}

fn context(scope: Scope) -> SealContext<'static> {
    SealContext { scope, table: "oauth", record: b"state", field: "state", version: 1, purpose: "authorization" }
}

const NONCE: usize = 32;
const MAX_STATE: usize = 1024;
const MAX_QUERY: usize = 16 << 10;
const KNOWN: [&str; 4] = ["code", "error", "iss", "state"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn callbacks_are_read_once_and_whole() {
        let good =
            Callback::parse("?code=a%2Bb&state=s&iss=https%3A%2F%2Fid.example&session_state=x").expect("a callback");
        assert_eq!((good.state.as_str(), good.issuer.as_deref()), ("s", Some("https://id.example")));
        assert_eq!(good.outcome.expect("a code").expose_secret(), "a+b");
        let denied = Callback::parse("error=access_denied&state=s").expect("a callback");
        assert_eq!(denied.outcome.expect_err("an error"), "access_denied");
        for wrong in [
            "",
            "code=a",
            "state=s",
            "code=&state=s",
            "code=a&error=b&state=s",
            "code=a&code=b&state=s",
            "code=a&state=s&state=t",
            "code=a&state=s&iss=a&iss=b",
            &format!("code=a&state={}", "s".repeat(MAX_QUERY)),
        ] {
            assert!(Callback::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(noise in "\\PC{0,80}") {
            let _ = Callback::parse(&noise);
            let _ = Callback::parse(&format!("state={noise}&code={noise}"));
        }
    }
}
