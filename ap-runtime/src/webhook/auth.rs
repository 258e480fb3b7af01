//! Who may call a webhook: secrets resolved beforehand, compared in constant time.

use std::fmt;

use ap_core::time::Timestamp;
use ap_crypto::signature::{HmacSha256, SignatureEncoding, constant_time_eq};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use secrecy::{ExposeSecret, SecretString};

/// The authentication of one webhook, with its secrets at hand.
pub(super) enum Authentication {
    /// User name and password (RFC 7617).
    Basic { username: SecretString, password: SecretString },
    /// A shared secret in a header.
    Header { name: HeaderName, expected: SecretString },
    /// A signature over the raw body.
    Hmac { name: HeaderName, key: HmacSha256, encoding: SignatureEncoding, prefix: String },
    /// Anyone who knows the URL.
    None,
}

/// The authentication of one webhook: the one in use, and while a secret of it is replaced the one of before.
#[derive(Debug)]
pub(super) struct Authentications {
    pub(super) current: Authentication,
    /// Good until then.
    pub(super) retiring: Option<(Authentication, Timestamp)>,
}

/// The sender is not who it should be. One answer whatever the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unauthenticated;

/// A request whose sender was authenticated. Only [`Authentication::verify`] makes one.
pub(super) struct VerifiedWebhook {
    headers: HeaderMap,
    body: Bytes,
}

impl Authentication {
    /// What can be checked before the body is read.
    pub(super) fn precheck(&self, headers: &HeaderMap) -> Result<(), Unauthenticated> {
        match self {
            Self::Basic { username, password } => {
                let given = only(headers, &header::AUTHORIZATION)?;
                let given = given.to_str().map_err(|_| Unauthenticated)?;
                let (scheme, encoded) = given.split_once(' ').ok_or(Unauthenticated)?;
                let decoded = STANDARD.decode(encoded.trim()).map_err(|_| Unauthenticated)?;
                let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Unauthenticated)?;
                let (user, pass) = decoded.split_at(colon);
                // Both are compared whatever the first says, so that time does not tell which was wrong.
                let user = constant_time_eq(user, username.expose_secret().as_bytes());
                let pass = constant_time_eq(pass.get(1..).unwrap_or_default(), password.expose_secret().as_bytes());
                if scheme.eq_ignore_ascii_case("basic") & user & pass { Ok(()) } else { Err(Unauthenticated) }
            }
            Self::Header { name, expected } => {
                let given = only(headers, name)?;
                if constant_time_eq(given.as_bytes(), expected.expose_secret().as_bytes()) {
                    Ok(())
                } else {
                    Err(Unauthenticated)
                }
            }
            // Needs the body; that there is exactly one signature can be said already.
            Self::Hmac { name, .. } => only(headers, name).map(|_| ()),
            Self::None => Ok(()),
        }
    }

    /// Checks everything, the signature over the raw body included.
    ///
    /// Headers that carry a credential are gone from the result: they must not reach the flow.
    pub(super) fn verify(&self, mut headers: HeaderMap, body: Bytes) -> Result<VerifiedWebhook, Unauthenticated> {
        self.precheck(&headers)?;
        if let Self::Hmac { name, key, encoding, prefix } = self {
            let given = only(&headers, name)?.to_str().map_err(|_| Unauthenticated)?;
            let signature = given.strip_prefix(prefix.as_str()).ok_or(Unauthenticated)?;
            key.verify(&[&body], signature, *encoding).map_err(|_| Unauthenticated)?;
        }
        if let Self::Header { name, .. } = self {
            headers.remove(name);
        }
        for name in [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE] {
            headers.remove(name);
        }
        Ok(VerifiedWebhook { headers, body })
    }
}

impl Authentications {
    /// As [`Authentication::precheck`], by any that is good at `now`.
    pub(super) fn precheck(&self, headers: &HeaderMap, now: Timestamp) -> Result<(), Unauthenticated> {
        self.good_at(now).map(|one| one.precheck(headers)).fold(Err(Unauthenticated), Result::or)
    }

    /// As [`Authentication::verify`], by any that is good at `now`.
    pub(super) fn verify(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        now: Timestamp,
    ) -> Result<VerifiedWebhook, Unauthenticated> {
        let tried = self.good_at(now).map(|one| one.verify(headers.clone(), body.clone()));
        tried.fold(Err(Unauthenticated), Result::or)
    }

    fn good_at(&self, now: Timestamp) -> impl Iterator<Item = &Authentication> {
        let retiring = self.retiring.iter().filter(move |(_, until)| now < *until).map(|(one, _)| one);
        std::iter::once(&self.current).chain(retiring)
    }
}

impl VerifiedWebhook {
    pub(super) fn into_parts(self) -> (HeaderMap, Bytes) {
        (self.headers, self.body)
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(…)",
            Self::Header { .. } => "Header(…)",
            Self::Hmac { .. } => "Hmac(…)",
            Self::None => "None",
        })
    }
}

/// The one value of a header. Two are refused: which of them a later reader takes is anybody's guess.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h http::HeaderValue, Unauthenticated> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(Unauthenticated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().expect("header value"));
        }
        map
    }

    fn header_auth() -> Authentication {
        Authentication::Header { name: HeaderName::from_static("x-api-key"), expected: "canary-secret".into() }
    }

    #[test]
    fn a_header_must_match_exactly_and_stand_once() {
        let auth = header_auth();
        assert!(auth.precheck(&headers(&[("x-api-key", "canary-secret")])).is_ok());
        for wrong in [
            vec![],
            vec![("x-api-key", "")],
            vec![("x-api-key", "canary-secre")],
            vec![("x-api-key", "canary-secrets")],
            vec![("x-api-key", "canary-secret"), ("x-api-key", "canary-secret")],
        ] {
            assert_eq!(auth.precheck(&headers(&wrong)), Err(Unauthenticated), "{wrong:?}");
        }
    }

    #[test]
    fn credentials_do_not_reach_the_flow() {
        let given = headers(&[("x-api-key", "canary-secret"), ("authorization", "x"), ("cookie", "y"), ("x-id", "7")]);
        let verified = header_auth().verify(given, Bytes::new()).expect("verified");
        let (left, _) = verified.into_parts();
        assert_eq!(left, headers(&[("x-id", "7")]));
    }

    #[test]
    fn basic_credentials_may_hold_colons_in_the_password() {
        let auth = Authentication::Basic { username: "webhook_user".into(), password: "pa:ss:word".into() };
        let basic = |text: &str| headers(&[("authorization", &format!("Basic {}", STANDARD.encode(text)))]);
        assert!(auth.precheck(&basic("webhook_user:pa:ss:word")).is_ok());
        for wrong in ["webhook_user:pa:ss", "webhook_user", ":pa:ss:word", "other:pa:ss:word", ""] {
            assert_eq!(auth.precheck(&basic(wrong)), Err(Unauthenticated), "{wrong}");
        }
        assert!(auth.precheck(&headers(&[("authorization", "Bearer x")])).is_err());
        assert!(auth.precheck(&headers(&[("authorization", "Basic ***")])).is_err());
    }

    #[test]
    fn a_signature_covers_the_raw_bytes() {
        let key = HmacSha256::new(&"a-signing-secret".into()).expect("key");
        let signature: String = key.sign(&[b"{\"a\": 1}"]).iter().map(|byte| format!("{byte:02x}")).collect();
        let auth = Authentication::Hmac {
            name: HeaderName::from_static("x-signature"),
            key,
            encoding: SignatureEncoding::Hex,
            prefix: "sha256=".to_owned(),
        };
        let signed = |text: &str| headers(&[("x-signature", text)]);
        let right = format!("sha256={signature}");
        assert!(auth.verify(signed(&right), Bytes::from_static(b"{\"a\": 1}")).is_ok());
        assert!(auth.verify(signed(&right), Bytes::from_static(b"{\"a\":1}")).is_err());
        assert!(auth.verify(signed(&signature), Bytes::from_static(b"{\"a\": 1}")).is_err());
        assert!(auth.verify(signed("sha256="), Bytes::from_static(b"{\"a\": 1}")).is_err());
        assert!(auth.verify(HeaderMap::new(), Bytes::new()).is_err());
    }

    #[test]
    fn while_a_secret_is_replaced_both_are_good_and_afterwards_one() {
        let header = |secret: &str| Authentication::Header {
            name: HeaderName::from_static("x-api-key"),
            expected: secret.into(),
        };
        let until = Timestamp::from_millis(1_000);
        let both = Authentications { current: header("canary-new"), retiring: Some((header("canary-old"), until)) };
        let check = |secret: &str, at| {
            let headers = headers(&[("x-api-key", secret)]);
            let verified = both.verify(&headers, &Bytes::new(), Timestamp::from_millis(at)).map(|of| of.into_parts().0);
            assert_eq!(both.precheck(&headers, Timestamp::from_millis(at)).is_ok(), verified.is_ok());
            // Either is taken out of what the flow sees.
            assert!(verified.as_ref().map_or(true, HeaderMap::is_empty));
            verified.is_ok()
        };
        assert!(check("canary-new", 999) && check("canary-old", 999) && !check("canary-other", 999));
        assert!(check("canary-new", 1_000) && !check("canary-old", 1_000));
        assert!(!format!("{both:?}").contains("canary"));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", header_auth()).contains("canary"));
    }
}
