//! Under which terms a connection is used, and how it stands: [`ConnectionTerms`], [`ConnectionStatus`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Connection, ConnectionError, ConnectionValue,
    oauth::{Renewal, is_web},
};
use crate::time::Timestamp;

/// Under which terms a connection is used. None of it is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ConnectionTerms {
    /// Name for people, at most 200 characters; free to change. Flows use [`Connection::name`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The only pieces that may use it, at most 64; none means every piece. The word `webhook` stands for the door.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<String>,
    /// When it stops being good, if the issuer says so. Tokens of OAuth 2.0 have a time of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whether the host provisioned it: a project uses it, and cannot change or delete it.
    #[serde(skip_serializing_if = "is_false")]
    pub predefined: bool,
    /// Whether scripts get its secrets instead of placeholder text. Only an admin may say so; values are masked in whatever
    /// comes out.
    #[serde(skip_serializing_if = "is_false")]
    pub reveal_to_code: bool,
    /// What to ask the peer to learn whether the credential is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationRequest>,
}

/// A request that succeeds with a good credential and fails with 401 or 403 otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValidationRequest {
    /// `GET`, `HEAD` or `POST`. Default: `GET`.
    #[serde(default = "get")]
    pub method: String,
    /// Where to send it: one of the connection's origins. The credential goes where the placements say.
    pub url: String,
}

/// How a connection stands. Wire names are the reference product's, and `EXPIRED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum ConnectionStatus {
    /// Good, as far as is known.
    Active,
    /// The provider rejected it; see [`ConnectionFault`]. It stays so until it is connected again or found good.
    Error,
    /// Its time is over, and nothing can renew it.
    Expired,
    /// Nobody has connected it yet.
    Missing,
}

/// What a provider said against a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionFault {
    /// When.
    pub at: Timestamp,
    /// What.
    pub reason: FaultReason,
}

/// Why a connection is in error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultReason {
    /// The token endpoint does not take the client: its id, secret or way to authenticate is wrong (RFC 6749 §5.2).
    ClientRejected,
    /// The grant is revoked, expired or used up: `invalid_grant` (RFC 6749 §5.2).
    GrantRejected,
    /// The peer refused the credential when it was asked.
    ValidationFailed,
}

impl Connection {
    /// The same connection under these terms.
    ///
    /// # Errors
    /// [`ConnectionError::Terms`] names the one at fault.
    pub fn with_terms(self, terms: ConnectionTerms) -> Result<Self, ConnectionError> {
        terms.check()?;
        Ok(Self { terms, ..self })
    }

    /// Its terms.
    #[must_use]
    pub const fn terms(&self) -> &ConnectionTerms {
        &self.terms
    }

    /// The same connection with what the provider said against it, or with nothing.
    #[must_use]
    pub fn with_fault(self, fault: Option<ConnectionFault>) -> Self {
        Self { fault, ..self }
    }

    /// What the provider said against it.
    #[must_use]
    pub const fn fault(&self) -> Option<ConnectionFault> {
        self.fault
    }

    /// Whether this piece may use it.
    #[must_use]
    pub fn allows_piece(&self, piece: &str) -> bool {
        self.terms.pieces.is_empty() || self.terms.pieces.iter().any(|allowed| allowed == piece)
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> ConnectionStatus {
        if self.fault.is_some() {
            return ConnectionStatus::Error;
        }
        if self.terms.expires.is_some_and(|expires| expires <= now) {
            return ConnectionStatus::Expired;
        }
        match &self.value {
            ConnectionValue::OAuth2(oauth) => match oauth.renewal(now) {
                Renewal::Impossible if oauth.tokens().is_none() => ConnectionStatus::Missing,
                Renewal::Impossible => ConnectionStatus::Expired,
                Renewal::Due { .. } | Renewal::NotDue => ConnectionStatus::Active,
            },
            _ => ConnectionStatus::Active,
        }
    }
}

impl ConnectionTerms {
    fn check(&self) -> Result<(), ConnectionError> {
        let refuse = |term: &'static str, reason: &str| Err(ConnectionError::Terms { term, reason: reason.to_owned() });
        if self.display_name.as_ref().is_some_and(|name| !(1..=MAX_DISPLAY_NAME).contains(&name.chars().count())) {
            return refuse("displayName", "has 1 to 200 characters");
        }
        let piece = |name: &String| {
            let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=64).contains(&name.len()) && name.bytes().all(letter)
        };
        if self.pieces.len() > MAX_PIECES || !self.pieces.iter().all(piece) {
            return refuse(
                "pieces",
                "are at most 64 names of pieces: lower-case letters, digits and `-`, such as `http`",
            );
        }
        if let Some(ValidationRequest { method, url }) = &self.validation {
            if !["GET", "HEAD", "POST"].contains(&method.as_str()) {
                return refuse("validation", "is a GET, HEAD or POST request");
            }
            if url.len() > MAX_URL_BYTES || !is_web(url) {
                return refuse("validation", "needs the absolute URL of one of the connection's origins");
            }
        }
        Ok(())
    }
}

impl ConnectionStatus {
    /// The wire spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Error => "ERROR",
            Self::Expired => "EXPIRED",
            Self::Missing => "MISSING",
        }
    }
}

impl fmt::Display for ConnectionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientRejected => "the provider does not take the client",
            Self::GrantRejected => "the provider rejected the grant",
            Self::ValidationFailed => "the peer refused the credential",
        })
    }
}

fn get() -> String {
    "GET".to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

const MAX_DISPLAY_NAME: usize = 200;
const MAX_PIECES: usize = 64;
const MAX_URL_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(terms: ConnectionTerms) -> Result<Connection, ConnectionError> {
        let value = ConnectionValue::SecretText { secret: "12345678".into() };
        Connection::new("api", value, vec![], vec![])?.with_terms(terms)
    }

    #[test]
    fn terms_hold_at_their_edges() {
        let name = |length| ConnectionTerms { display_name: Some("n".repeat(length)), ..ConnectionTerms::default() };
        assert!(with(name(0)).is_err() && with(name(1)).is_ok() && with(name(200)).is_ok() && with(name(201)).is_err());
        let pieces = |count| ConnectionTerms { pieces: vec!["http".to_owned(); count], ..ConnectionTerms::default() };
        assert!(with(pieces(64)).is_ok() && with(pieces(65)).is_err());
        for wrong in ["", "Http", "http.request", &"x".repeat(65)] {
            let terms = ConnectionTerms { pieces: vec![wrong.to_owned()], ..ConnectionTerms::default() };
            assert!(with(terms).is_err(), "{wrong}");
        }
        let ask = |method: &str, url: &str| {
            let validation = Some(ValidationRequest { method: method.to_owned(), url: url.to_owned() });
            with(ConnectionTerms { validation, ..ConnectionTerms::default() })
        };
        assert!(ask("GET", "https://api.example/me").is_ok());
        assert!(ask("DELETE", "https://api.example/me").is_err());
        assert!(ask("GET", "ftp://api.example/me").is_err());
        assert!(ask("GET", &format!("https://api.example/{}", "x".repeat(2048))).is_err());
    }

    #[test]
    fn a_connection_without_pieces_serves_all_and_with_some_only_those() {
        let open = with(ConnectionTerms::default()).expect("valid");
        assert!(open.allows_piece("http") && open.allows_piece("email"));
        let bound = with(ConnectionTerms { pieces: vec!["http".to_owned()], ..ConnectionTerms::default() });
        let bound = bound.expect("valid");
        assert!(bound.allows_piece("http") && !bound.allows_piece("email") && !bound.allows_piece("htt"));
    }

    #[test]
    fn a_fault_outweighs_and_time_ends_it() {
        let at = Timestamp::from_millis(1_000);
        let terms = ConnectionTerms { expires: Some(at), ..ConnectionTerms::default() };
        let connection = with(terms).expect("valid");
        assert_eq!(connection.status(Timestamp::from_millis(999)), ConnectionStatus::Active);
        assert_eq!(connection.status(at), ConnectionStatus::Expired);
        let faulty = connection.with_fault(Some(ConnectionFault { at, reason: FaultReason::GrantRejected }));
        assert_eq!(faulty.status(Timestamp::EPOCH), ConnectionStatus::Error);
        assert_eq!(faulty.with_fault(None).status(Timestamp::EPOCH), ConnectionStatus::Active);
    }

    #[test]
    fn statuses_are_spelled_like_the_reference_products() {
        use ConnectionStatus as Status;
        for (status, text) in [
            (Status::Active, "ACTIVE"),
            (Status::Error, "ERROR"),
            (Status::Expired, "EXPIRED"),
            (Status::Missing, "MISSING"),
        ] {
            assert_eq!(serde_json::to_value(status).expect("text"), text);
            assert_eq!(status.to_string(), text);
        }
    }
}
