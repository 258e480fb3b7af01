//! [`Placement`]: where in a request a secret may go.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ACCESS_TOKEN, ConnectionError, ConnectionValue, Field};

/// One place a secret may be put. Egress substitutes nowhere else, and never in a host or path.
///
/// With [`Placement::Hmac`], [`Placement::Jwt`] and [`Placement::SigV4`] the secret itself goes nowhere: what is put there was
/// signed with it, after everything else of the request is in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type", deny_unknown_fields)]
#[non_exhaustive]
pub enum Placement {
    /// `Authorization: Basic …` from `username` and `password` (RFC 7617).
    Basic,
    /// `Authorization: Bearer …` (RFC 6750 §2.1).
    Bearer {
        /// The secret field.
        field: String,
    },
    /// A member of a JSON object body.
    Body {
        /// RFC 6901 pointer of the member, such as `/auth/token`.
        pointer: String,
        /// The secret field.
        field: String,
    },
    /// A header field of its own.
    Header {
        /// The header name, such as `X-API-Key`.
        name: String,
        /// The secret field.
        field: String,
    },
    /// A header field with a message authentication code of the request (RFC 2104).
    Hmac {
        /// The secret field: the shared key.
        field: String,
        /// The header name, such as `X-Signature`.
        header: String,
        /// The hash. Default: SHA-256.
        #[serde(default)]
        algorithm: HmacAlgorithm,
        /// How the code is written. Default: hexadecimal.
        #[serde(default)]
        encoding: MacEncoding,
        /// How the key is written in the field. Default: its text is the key.
        #[serde(default)]
        key_encoding: KeyEncoding,
        /// What is signed, with `{body}`, `{method}`, `{path}` (with the query), `{host}`, `{timestamp}` (Unix seconds) and
        /// `{timestamp_ms}` in the place of what the request has. Default: `{body}`.
        #[serde(default = "whole_body")]
        message: String,
        /// What stands before the code, such as `sha256=` or `t={timestamp},v1=`. Default: nothing.
        #[serde(default)]
        prefix: String,
        /// A header field for the time that was signed, in Unix seconds. Default: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timestamp_header: Option<String>,
    },
    /// `Authorization: Bearer …` with a JSON Web Token made for this request (RFC 7519, RFC 7523).
    Jwt {
        /// The secret field: the shared key, or a private key in PEM (PKCS #8).
        field: String,
        /// The algorithm. Default: HS256.
        #[serde(default)]
        algorithm: JwtAlgorithm,
        /// Header `kid`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_id: Option<String>,
        /// Claim `iss`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issuer: Option<String>,
        /// Claim `sub`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
        /// Claim `aud`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        audience: Option<String>,
        /// How long the token is good for: claim `exp` minus `iat`. Unit: seconds. Default: 300. Accepted: 1 to 3,600.
        #[serde(default = "five_minutes")]
        lifetime_s: u32,
        /// Other claims.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        claims: Map<String, Value>,
    },
    /// A query parameter.
    Query {
        /// The parameter name.
        name: String,
        /// The secret field.
        field: String,
    },
    /// AWS Signature Version 4, in the head.
    SigV4 {
        /// The field with the access key's id. Not a secret.
        access_key_id: String,
        /// The secret field with the access key.
        field: String,
        /// The secret field with the session token of a temporary key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_token: Option<String>,
        /// The region, such as `eu-west-1`.
        region: String,
        /// The service, such as `execute-api`.
        service: String,
    },
}

/// The hash of an HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HmacAlgorithm {
    /// HMAC-SHA-256.
    #[default]
    Sha256,
    /// HMAC-SHA-512.
    Sha512,
}

/// How the bytes of a message authentication code are written (RFC 4648).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacEncoding {
    /// The standard alphabet, padded.
    Base64,
    /// The URL-safe alphabet, not padded.
    Base64Url,
    /// Lower-case digits.
    #[default]
    Hex,
}

/// How a key is written in its field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyEncoding {
    /// The key is what this decodes to (RFC 4648 §4).
    Base64,
    /// The key is what this decodes to (RFC 4648 §8).
    Hex,
    /// The text is the key.
    #[default]
    Text,
}

/// How a JSON Web Token is signed (RFC 7518 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// HMAC with SHA-256, by a shared key of 32 bytes or more (RFC 7518 §3.2).
    #[default]
    #[serde(rename = "HS256")]
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

fn whole_body() -> String {
    "{body}".to_owned()
}

const fn five_minutes() -> u32 {
    300
}

impl Placement {
    /// Whether the secret signs the request and is not itself part of it.
    #[must_use]
    pub const fn signs(&self) -> bool {
        matches!(self, Self::Hmac { .. } | Self::Jwt { .. } | Self::SigV4 { .. })
    }

    /// The secret field it names; `None` for [`Placement::Basic`], whose fields have fixed names.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Basic => None,
            Self::Bearer { field }
            | Self::Body { field, .. }
            | Self::Header { field, .. }
            | Self::Hmac { field, .. }
            | Self::Jwt { field, .. }
            | Self::Query { field, .. }
            | Self::SigV4 { field, .. } => Some(field),
        }
    }

    pub(super) fn check(&self, value: &ConnectionValue) -> Result<(), ConnectionError> {
        let refuse = |reason: String| Err(ConnectionError::Placement { reason });
        let has = |wanted: &str, secret: bool| {
            let fields = value.fields();
            fields.iter().any(|(name, field)| *name == wanted && matches!(field, Field::Secret(_)) == secret)
                || secret && value.references().any(|(name, _)| name == wanted)
        };
        if let Some(reason) = self.wrong_form() {
            return refuse(reason);
        }
        match self {
            Self::Basic if !has("password", true) || !(has("username", true) || has("username", false)) => {
                return refuse("`basic` needs a field `username` and a secret field `password`".to_owned());
            }
            Self::SigV4 { access_key_id, .. } if !has(access_key_id, false) => {
                return refuse(format!("`{access_key_id}` must be a clear field with the id of the access key"));
            }
            Self::SigV4 { session_token: Some(token), .. } if !has(token, true) => {
                return refuse(format!("`{token}` must be a secret field with the session token"));
            }
            _ => {}
        }
        match self.field() {
            None => Ok(()),
            Some(field) if has(field, true) => Ok(()),
            Some(field) if has(field, false) => {
                refuse(format!("field `{field}` is not secret, so it needs no placement"))
            }
            // Not connected yet.
            Some(ACCESS_TOKEN) if matches!(value, ConnectionValue::OAuth2(_)) => Ok(()),
            Some(field) => refuse(format!("there is no field `{field}`")),
        }
    }

    /// What is wrong whatever fields there are.
    fn wrong_form(&self) -> Option<String> {
        let bad_header = |name: &str| !is_token(name) || is_reserved_header(name);
        match self {
            Self::Header { name, .. }
            | Self::Hmac { header: name, .. }
            | Self::Hmac { timestamp_header: Some(name), .. }
                if bad_header(name) =>
            {
                Some(format!("`{name}` is not a header field a credential may go to"))
            }
            Self::Query { name, .. } if name.is_empty() => Some("a query parameter needs a name".to_owned()),
            Self::Body { pointer, .. } if !pointer.starts_with('/') => {
                Some(format!("`{pointer}` is not an RFC 6901 pointer to a member, such as `/token`"))
            }
            Self::Hmac { message, prefix, .. } if unknown_token(message) || unknown_token(prefix) => {
                Some(format!("what is signed may name {} in braces, and nothing else", TOKENS.join(", ")))
            }
            Self::Jwt { lifetime_s, .. } if !(1..=3_600).contains(lifetime_s) => {
                Some("a token is good for 1 to 3600 seconds".to_owned())
            }
            Self::Jwt { claims, .. } if OWN_CLAIMS.iter().any(|own| claims.contains_key(*own)) => {
                Some(format!("`claims` may not hold {}: they have members of their own", OWN_CLAIMS.join(", ")))
            }
            _ => None,
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_reserved_header(name: &str) -> bool {
    let own = ["accept-encoding"];
    RESERVED_HEADERS.iter().chain(&own).any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// Whether a `{…}` in a template names nothing of a request.
fn unknown_token(template: &str) -> bool {
    template.split('{').skip(1).any(|rest| rest.split_once('}').is_none_or(|(name, _)| !TOKENS.contains(&name)))
}

/// What a signed message may be made of.
const TOKENS: [&str; 6] = ["body", "host", "method", "path", "timestamp", "timestamp_ms"];
const OWN_CLAIMS: [&str; 5] = ["aud", "exp", "iat", "iss", "sub"];

/// Header fields that frame a message or concern one connection (RFC 9110 §7.6.1, RFC 9112 §6), in lower case.
///
/// No credential may go there, and no request may set them.
pub const RESERVED_HEADERS: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::connection::{Connection, FieldValue};

    fn check(placement: &Value) -> Result<(), String> {
        let placement: Placement = serde_json::from_value(placement.clone()).map_err(|error| error.to_string())?;
        let text = serde_json::to_value(&placement).map_err(|error| error.to_string())?;
        assert_eq!(serde_json::from_value::<Placement>(text).ok().as_ref(), Some(&placement));
        assert!(placement.signs());
        let secret = || FieldValue::Secret("0123456789".into());
        let fields = [("key", secret()), ("id", FieldValue::Clear("AKID".to_owned())), ("session", secret())];
        let fields = fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect();
        let value = ConnectionValue::CustomAuth { fields };
        Connection::new("a", value, vec![placement], vec![]).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn signatures_are_declared_with_defaults() {
        for placement in [
            json!({ "type": "hmac", "field": "key", "header": "X-Signature" }),
            json!({
                "type": "hmac", "field": "key", "header": "X-Signature", "algorithm": "sha512", "encoding": "base64url",
                "keyEncoding": "base64", "message": "{timestamp}.{method} {path}\n{body}", "prefix": "t={timestamp},v1=",
                "timestampHeader": "X-Time",
            }),
            json!({ "type": "jwt", "field": "key" }),
            json!({
                "type": "jwt", "field": "key", "algorithm": "ES256", "keyId": "k", "issuer": "i", "subject": "s",
                "audience": "a", "lifetimeS": 3600, "claims": { "scope": "read" },
            }),
            json!({ "type": "sigV4", "field": "key", "accessKeyId": "id", "region": "eu-west-1", "service": "execute-api" }),
            json!({
                "type": "sigV4", "field": "key", "accessKeyId": "id", "sessionToken": "session", "region": "r",
                "service": "s",
            }),
        ] {
            assert_eq!(check(&placement), Ok(()), "{placement}");
        }
    }

    #[test]
    fn signatures_that_cannot_be() {
        for (placement, reason) in [
            (json!({ "type": "hmac", "field": "key", "header": "Host" }), "`Host` is not a header field"),
            (
                json!({ "type": "hmac", "field": "key", "header": "X-S", "timestampHeader": "Content-Length" }),
                "`Content-Length` is not a header field",
            ),
            (json!({ "type": "hmac", "field": "key", "header": "X-S", "message": "{secret}" }), "may name body"),
            (json!({ "type": "hmac", "field": "key", "header": "X-S", "prefix": "{" }), "may name body"),
            (json!({ "type": "hmac", "field": "id", "header": "X-S" }), "`id` is not secret"),
            (json!({ "type": "hmac", "field": "none", "header": "X-S" }), "no field `none`"),
            (json!({ "type": "hmac", "field": "key", "header": "X-S", "algorithm": "md5" }), "unknown variant"),
            (json!({ "type": "hmac", "field": "key", "header": "X-S", "nonce": true }), "unknown field"),
            (json!({ "type": "jwt", "field": "key", "lifetimeS": 0 }), "1 to 3600"),
            (json!({ "type": "jwt", "field": "key", "lifetimeS": 3601 }), "1 to 3600"),
            (json!({ "type": "jwt", "field": "key", "algorithm": "none" }), "unknown variant"),
            (json!({ "type": "jwt", "field": "key", "claims": { "exp": 1 } }), "members of their own"),
            (
                json!({ "type": "sigV4", "field": "key", "accessKeyId": "key", "region": "r", "service": "s" }),
                "must be a clear field",
            ),
            (
                json!({
                    "type": "sigV4", "field": "key", "accessKeyId": "id", "sessionToken": "id", "region": "r",
                    "service": "s",
                }),
                "must be a secret field",
            ),
        ] {
            let error = check(&placement).expect_err("refused");
            assert!(error.contains(reason), "{error}");
        }
    }
}
