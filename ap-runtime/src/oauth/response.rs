//! What comes back from a token endpoint. Nothing of it is repeated in an error but a code from a known list.

use std::{fmt, time::Duration};

use ap_core::{
    capability::{HttpError, HttpResponse},
    connection::{FaultReason, OAuthTokens},
    time::Timestamp,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};

/// Why there are no tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFailure {
    /// The provider answered something that is no answer. Nothing follows from it for the grant.
    #[error("the token endpoint answered {0}")]
    Malformed(&'static str),
    /// Not sent, or not taken, for a reason that somebody has to mend; nothing is wrong with the grant.
    #[error("the token request is refused: {0}")]
    Refused(String),
    /// The provider says no for good.
    #[error("{0}")]
    Rejected(FaultReason),
    /// Trying again may help.
    #[error("{reason}")]
    Transient {
        /// What happened.
        reason: String,
        /// How long the provider asked us to wait.
        retry_after: Option<Duration>,
    },
}

/// Reads an answer. Scope and refresh token stay what they were if the provider does not say otherwise.
pub(crate) fn read(
    response: &HttpResponse,
    now: Timestamp,
    previous: Option<&OAuthTokens>,
) -> Result<OAuthTokens, TokenFailure> {
    let parsed: Option<Answer> = serde_json::from_slice(&response.body).ok();
    match response.status {
        200..=299 => match parsed {
            // Some providers answer errors with 200.
            Some(Answer { error: Some(code), .. }) => Err(of_code(&code, response, now)),
            Some(answer) => tokens(answer, now, previous),
            None => Err(TokenFailure::Malformed("something that is no JSON of RFC 6749 §5.1")),
        },
        408 | 425 | 429 | 500.. => Err(transient(response, now)),
        300..=399 => Err(TokenFailure::Malformed("with a redirect: give the address it leads to")),
        _ => match parsed.and_then(|answer| answer.error) {
            Some(code) => Err(of_code(&code, response, now)),
            None => Err(TokenFailure::Refused(format!("HTTP {} without an error of RFC 6749 §5.2", response.status))),
        },
    }
}

/// What a failed exchange means.
pub(crate) fn failed(error: HttpError) -> TokenFailure {
    match error {
        HttpError::Credential { reason } | HttpError::InvalidRequest { reason } | HttpError::Refused { reason } => {
            TokenFailure::Refused(reason)
        }
        HttpError::ResponseTooLarge { .. } => TokenFailure::Malformed("with more than 256 KiB"),
        other => TokenFailure::Transient {
            reason: format!("the token endpoint cannot be asked: {other}"),
            retry_after: None,
        },
    }
}

fn tokens(answer: Answer, now: Timestamp, previous: Option<&OAuthTokens>) -> Result<OAuthTokens, TokenFailure> {
    let Answer { access_token, token_type, expires_in, refresh_token, scope, .. } = answer;
    if token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(TokenFailure::Malformed("with a token that is no bearer token (RFC 6750)"));
    }
    let usable = |token: &SecretString| {
        let text = token.expose_secret();
        (8..=16 << 10).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    let access = access_token.map(|Token(token)| token).filter(usable);
    let access =
        access.ok_or(TokenFailure::Malformed("without an access token of 8 to 16384 visible ASCII characters"))?;
    let rotated = match refresh_token.map(|Token(token)| token) {
        // Empty means none to some providers.
        Some(token) if token.expose_secret().is_empty() => None,
        Some(token) if usable(&token) => Some(token),
        Some(_) => return Err(TokenFailure::Malformed("with a refresh token that cannot be kept")),
        None => None,
    };
    let kept = || previous.and_then(OAuthTokens::refresh).map(|token| SecretString::from(token.expose_secret()));
    let scope = scope.filter(|scope| (1..=2048).contains(&scope.len()));
    let scope = scope.or_else(|| previous.and_then(OAuthTokens::scope).map(str::to_owned));
    let expires = expires_in.map(|Seconds(seconds)| now.saturating_add(Duration::from_secs(seconds.min(LONGEST_LIFE))));
    let refresh = rotated.or_else(kept);
    Ok(OAuthTokens::bearer(access, now).with_expiry(expires).with_scope(scope).with_refresh(refresh))
}

fn of_code(code: &str, response: &HttpResponse, now: Timestamp) -> TokenFailure {
    match code {
        // The second is GitHub's word for it.
        "invalid_grant" | "bad_refresh_token" => TokenFailure::Rejected(FaultReason::GrantRejected),
        "invalid_client" | "unauthorized_client" => TokenFailure::Rejected(FaultReason::ClientRejected),
        "server_error" | "temporarily_unavailable" | "slow_down" => transient(response, now),
        "invalid_request" | "invalid_scope" | "unsupported_grant_type" | "invalid_target" => {
            TokenFailure::Refused(format!("the provider says `{code}`"))
        }
        _ => TokenFailure::Refused(format!("HTTP {} with an error that RFC 6749 does not know", response.status)),
    }
}

fn transient(response: &HttpResponse, now: Timestamp) -> TokenFailure {
    let retry_after = response.header("retry-after").and_then(|text| retry_after(text, now));
    TokenFailure::Transient { reason: format!("the token endpoint answered HTTP {}", response.status), retry_after }
}

/// RFC 9110 §10.2.3: seconds or a date, at most an hour.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_microsecond();
            Timestamp::from_micros(at).saturating_since(now)
        }
    };
    Some(wait.min(Duration::from_secs(3_600)))
}

/// RFC 6749 §5.1 and §5.2, as providers write it.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    access_token: Option<Token>,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<Seconds>,
    #[serde(default)]
    refresh_token: Option<Token>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// Text that is wiped when dropped.
struct Token(SecretString);

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Token;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token")
            }

            fn visit_str<E>(self, text: &str) -> Result<Token, E> {
                Ok(Token(SecretString::from(text)))
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// A number of seconds; some providers write it as text.
struct Seconds(u64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds")
            }

            fn visit_u64<E>(self, seconds: u64) -> Result<Seconds, E> {
                Ok(Seconds(seconds))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Seconds, E> {
                if !(0.0..=9e15).contains(&seconds) {
                    return Err(E::custom("out of range"));
                }
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the range")]
                let whole = seconds as u64;
                Ok(Seconds(whole))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Seconds, E> {
                text.parse().map(Seconds).map_err(|_| E::custom("no number"))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Ten years: what a provider calls longer is renewed then.
const LONGEST_LIFE: u64 = 10 * 365 * 86_400;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> HttpResponse {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HttpResponse { status, headers, body: bytes::Bytes::copy_from_slice(body.as_bytes()), redirected_to: None }
    }

    fn of(status: u16, body: &str) -> Result<OAuthTokens, TokenFailure> {
        let previous = OAuthTokens::bearer("old-access".into(), NOW)
            .with_refresh(Some("old-refresh".into()))
            .with_scope(Some("old-scope".to_owned()));
        read(&response(status, &[], body), NOW, Some(&previous))
    }

    fn refresh(tokens: &OAuthTokens) -> Option<&str> {
        tokens.refresh().map(|token| token.expose_secret())
    }

    #[test]
    fn tokens_are_read_and_what_is_left_out_stays() {
        let body = r#"{"access_token":"new-access","token_type":"bearer","expires_in":3600,"refresh_token":"new-refresh","scope":"a"}"#;
        let new = of(200, body).expect("tokens");
        assert_eq!((new.access().expose_secret(), refresh(&new)), ("new-access", Some("new-refresh")));
        assert_eq!((new.scope(), new.expires()), (Some("a"), Some(NOW.saturating_add(Duration::from_secs(3_600)))));
        for sparse in [r#"{"access_token":"new-access"}"#, r#"{"access_token":"new-access","refresh_token":""}"#] {
            let new = of(200, sparse).expect("tokens");
            assert_eq!((refresh(&new), new.scope(), new.expires()), (Some("old-refresh"), Some("old-scope"), None));
        }
        for seconds in ["\"60\"", "60.5"] {
            let body = format!(r#"{{"access_token":"new-access","expires_in":{seconds}}}"#);
            assert_eq!(of(200, &body).expect("tokens").expires(), Some(NOW.saturating_add(Duration::from_secs(60))));
        }
        let eternal = of(200, r#"{"access_token":"new-access","expires_in":18446744073709551615}"#).expect("tokens");
        assert_eq!(eternal.expires(), Some(NOW.saturating_add(Duration::from_secs(LONGEST_LIFE))));
    }

    #[test]
    fn only_the_providers_own_word_is_against_the_grant() {
        let rejected = |reason| TokenFailure::Rejected(reason);
        for (status, body, failure) in [
            (400, r#"{"error":"invalid_grant"}"#, rejected(FaultReason::GrantRejected)),
            (401, r#"{"error":"invalid_client"}"#, rejected(FaultReason::ClientRejected)),
            (200, r#"{"error":"bad_refresh_token"}"#, rejected(FaultReason::GrantRejected)),
        ] {
            assert_eq!(of(status, body).expect_err(body), failure);
        }
        for (status, body) in [
            (500, r#"{"error":"invalid_grant"}"#),
            (503, ""),
            (429, ""),
            (408, ""),
            (400, r#"{"error":"temporarily_unavailable"}"#),
        ] {
            let failure = of(status, body).expect_err(body);
            assert!(matches!(failure, TokenFailure::Transient { .. }), "{status} {body}: {failure:?}");
        }
        for (status, body) in [
            (400, "invalid_grant"),
            (400, r#"{"error":"canary"}"#),
            (404, "<html>invalid_grant</html>"),
            (302, ""),
            (200, ""),
            (200, "[]"),
            (200, r#"{"access_token":"short"}"#),
            (200, r#"{"access_token":"with\nbreak-canary"}"#),
            (200, r#"{"access_token":"canary-access","token_type":"mac"}"#),
            (200, r#"{"access_token":"canary-access","refresh_token":"short"}"#),
            (200, r#"{"access_token":"canary-access","expires_in":-1}"#),
            (200, r#"{"refresh_token":"canary-refresh"}"#),
        ] {
            let failure = of(status, body).expect_err(body);
            let neutral = matches!(failure, TokenFailure::Malformed(_) | TokenFailure::Refused(_));
            assert!(neutral, "{status} {body}: {failure:?}");
            assert!(!format!("{failure} {failure:?}").contains("canary"), "{failure:?}");
        }
    }

    #[test]
    fn the_provider_may_ask_for_time() {
        let wait = |value: &str| match read(&response(429, &[("retry-after", value)], ""), NOW, None) {
            Err(TokenFailure::Transient { retry_after, .. }) => retry_after.map(|wait| wait.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("99999999999"), Some(3_600));
        assert_eq!(wait("Tue, 14 Nov 2023 22:13:50 GMT"), Some(30));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-1"), None);
    }

    #[test]
    fn what_was_not_answered_says_nothing() {
        let timeout = HttpError::Timeout { limit: Duration::from_secs(1) };
        let cut = HttpError::Interrupted { reason: "cut".to_owned() };
        let away = HttpError::Unreachable { reason: "away".to_owned() };
        for error in [timeout, cut, away] {
            assert!(matches!(failed(error), TokenFailure::Transient { retry_after: None, .. }));
        }
        let refused = HttpError::Refused { reason: "an address".to_owned() };
        assert_eq!(failed(refused), TokenFailure::Refused("an address".to_owned()));
    }

    proptest! {
        #[test]
        fn reading_never_panics(status in 100_u16..1000, noise in "\\PC{0,80}", body: Vec<u8>) {
            let _ = of(status, &noise);
            let _ = read(&HttpResponse { status, headers: vec![("retry-after".to_owned(), noise)], body: body.into(), redirected_to: None }, NOW, None);
        }
    }
}
