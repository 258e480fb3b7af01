//! Connections: stored credentials of one project, and where those may go.
//!
//! Flow code, pieces and journals never hold a value of a secret field; they hold placeholder text. The values live in
//! `secrecy` types, wiped on drop, with no way to print or serialise them by accident.

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// A connection as its owner defines it. Built once, checked by [`Connection::new`], sealed by the vault.
#[derive(Debug)]
pub struct Connection {
    name: String,
    value: ConnectionValue,
    placements: Vec<Placement>,
    origins: Vec<Origin>,
}

impl Connection {
    /// Defines a connection.
    ///
    /// `name` is what flows write after `connections.`; `placements` empty means the default of the value's type
    /// (bearer for secret text, custom `token`/`api_key` fields and OAuth 2.0; basic for basic authentication); `origins`
    /// empty means the origin of the value's clear `url` (or `base_url`) field, and without one nowhere.
    ///
    /// # Errors
    /// [`ConnectionError`] names the part at fault.
    pub fn new(
        name: impl Into<String>,
        value: ConnectionValue,
        placements: Vec<Placement>,
        origins: Vec<Origin>,
    ) -> Result<Self, ConnectionError> {
        let name = name.into();
        check_name(&name)?;
        value.check()?;
        let placements = if placements.is_empty() { value.default_placements() } else { placements };
        placements.iter().try_for_each(|placement| placement.check(&value))?;
        let origins = if origins.is_empty() { value.default_origins()? } else { origins };
        Ok(Self { name, value, placements, origins })
    }

    /// The name flows use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The credential itself.
    #[must_use]
    pub const fn value(&self) -> &ConnectionValue {
        &self.value
    }

    /// Where its secrets may be put.
    #[must_use]
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    /// The only origins its secrets may be sent to.
    #[must_use]
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }
}

/// The credential of a connection, by type. Wire names are the reference product's.
#[non_exhaustive]
pub enum ConnectionValue {
    /// User name and password (RFC 7617). Fields: `username` (clear), `password`.
    BasicAuth {
        /// The user name; not a secret. Must not contain a colon.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// Named fields, each either clear or secret.
    CustomAuth {
        /// The fields by name.
        fields: BTreeMap<String, FieldValue>,
    },
    /// One secret. Field: `secret_text`.
    SecretText {
        /// The secret.
        secret: SecretString,
    },
}

/// One field of a custom connection.
pub enum FieldValue {
    /// Readable by flows: a URL, an account name, a region.
    Clear(String),
    /// Never readable; flows get placeholder text.
    Secret(SecretString),
}

impl ConnectionValue {
    /// Wire name of the type.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::BasicAuth { .. } => "BASIC_AUTH",
            Self::CustomAuth { .. } => "CUSTOM_AUTH",
            Self::SecretText { .. } => "SECRET_TEXT",
        }
    }

    /// Every field with its name, clear ones as text.
    pub fn fields(&self) -> Vec<(&str, Field<'_>)> {
        match self {
            Self::BasicAuth { username, password } => {
                vec![("username", Field::Clear(username)), ("password", Field::Secret(password))]
            }
            Self::CustomAuth { fields } => fields
                .iter()
                .map(|(name, value)| match value {
                    FieldValue::Clear(text) => (name.as_str(), Field::Clear(text)),
                    FieldValue::Secret(secret) => (name.as_str(), Field::Secret(secret)),
                })
                .collect(),
            Self::SecretText { secret } => vec![("secret_text", Field::Secret(secret))],
        }
    }

    /// The only secret field, if there is exactly one: what a bare `{{connections.name}}` stands for.
    #[must_use]
    pub fn single_secret(&self) -> Option<(&str, &SecretString)> {
        let mut secrets = self.fields().into_iter().filter_map(|(name, field)| match field {
            Field::Secret(secret) => Some((name, secret)),
            Field::Clear(_) => None,
        });
        match (secrets.next(), secrets.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), ConnectionError> {
        if let Self::BasicAuth { username, .. } = self
            && username.contains(':')
        {
            return Err(ConnectionError::Field {
                field: "username".to_owned(),
                reason: "must not contain a colon (RFC 7617 §2)".to_owned(),
            });
        }
        let fields = self.fields();
        if fields.is_empty() || fields.len() > MAX_FIELDS {
            return Err(ConnectionError::Field {
                field: "fields".to_owned(),
                reason: format!("a connection has 1 to {MAX_FIELDS} fields"),
            });
        }
        let (mut secret_bytes, mut secret_lines) = (0, 0);
        for (name, field) in fields {
            let refuse = |reason: String| Err(ConnectionError::Field { field: name.to_owned(), reason });
            check_name(name)?;
            if let Field::Secret(secret) = field {
                let text = secret.expose_secret();
                secret_bytes += text.len();
                let lines = text.lines().count();
                secret_lines += if lines > 1 { lines } else { 0 };
            }
            match field {
                Field::Secret(secret) if secret.expose_secret().len() < MIN_SECRET_BYTES => {
                    return refuse(format!(
                        "a secret needs at least {MIN_SECRET_BYTES} bytes: shorter ones cannot be told from ordinary text \
                         when output is scrubbed; mark the field clear if it is no secret"
                    ));
                }
                Field::Secret(secret) if secret.expose_secret().len() > MAX_FIELD_BYTES => {
                    return refuse(format!("at most {MAX_FIELD_BYTES} bytes"));
                }
                Field::Clear(text) if text.len() > MAX_FIELD_BYTES => {
                    return refuse(format!("at most {MAX_FIELD_BYTES} bytes"));
                }
                Field::Secret(_) | Field::Clear(_) => {}
            }
        }
        let refuse = |reason: String| Err(ConnectionError::Field { field: "fields".to_owned(), reason });
        if secret_bytes > MAX_SECRET_BYTES {
            return refuse(format!("the secrets of a connection have at most {MAX_SECRET_BYTES} bytes together"));
        }
        if secret_lines > MAX_SECRET_LINES {
            return refuse(format!("the secrets of a connection have at most {MAX_SECRET_LINES} lines together"));
        }
        Ok(())
    }

    fn default_placements(&self) -> Vec<Placement> {
        match self {
            Self::BasicAuth { .. } => vec![Placement::Basic],
            Self::CustomAuth { .. } | Self::SecretText { .. } => self
                .single_secret()
                .map(|(field, _)| vec![Placement::Bearer { field: field.to_owned() }])
                .unwrap_or_default(),
        }
    }

    fn default_origins(&self) -> Result<Vec<Origin>, ConnectionError> {
        let fields = self.fields();
        let clear = |wanted: &str| {
            fields.iter().find_map(|(name, field)| match field {
                Field::Clear(text) if *name == wanted => Some(*text),
                Field::Clear(_) | Field::Secret(_) => None,
            })
        };
        clear("url")
            .or_else(|| clear("base_url"))
            .map(|url| Origin::of_url(url).map(|origin| vec![origin]))
            .unwrap_or(Ok(vec![]))
    }
}

impl fmt::Debug for ConnectionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionValue({})", self.type_name())
    }
}

impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clear(_) => "FieldValue::Clear(…)",
            Self::Secret(_) => "FieldValue::Secret(…)",
        })
    }
}

/// A borrowed field of a [`ConnectionValue`].
#[derive(Clone, Copy)]
pub enum Field<'a> {
    /// Readable by flows.
    Clear(&'a str),
    /// Never readable by flows.
    Secret(&'a SecretString),
}

/// One place a secret may be put. Egress substitutes nowhere else, and never in a host or path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type", deny_unknown_fields)]
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
    /// A query parameter.
    Query {
        /// The parameter name.
        name: String,
        /// The secret field.
        field: String,
    },
}

impl Placement {
    fn check(&self, value: &ConnectionValue) -> Result<(), ConnectionError> {
        let refuse = |reason: String| Err(ConnectionError::Placement { reason });
        let field = match self {
            Self::Basic => {
                let fields = value.fields();
                let has = |wanted: &str, allowed: fn(&Field<'_>) -> bool| {
                    fields.iter().any(|(name, field)| *name == wanted && allowed(field))
                };
                let password = has("password", |field| matches!(field, Field::Secret(_)));
                return if has("username", |_| true) && password {
                    Ok(())
                } else {
                    refuse("`basic` needs a field `username` and a secret field `password`".to_owned())
                };
            }
            Self::Header { name, .. } if !is_token(name) || is_reserved_header(name) => {
                return refuse(format!("`{name}` is not a header field a credential may go to"));
            }
            Self::Query { name, .. } if name.is_empty() => return refuse("a query parameter needs a name".to_owned()),
            Self::Body { pointer, .. } if !pointer.starts_with('/') => {
                return refuse(format!("`{pointer}` is not an RFC 6901 pointer to a member, such as `/token`"));
            }
            Self::Bearer { field }
            | Self::Body { field, .. }
            | Self::Header { field, .. }
            | Self::Query { field, .. } => field,
        };
        match value.fields().into_iter().find(|(name, _)| name == field) {
            Some((_, Field::Secret(_))) => Ok(()),
            Some((_, Field::Clear(_))) => refuse(format!("field `{field}` is not secret, so it needs no placement")),
            None => refuse(format!("there is no field `{field}`")),
        }
    }
}

/// Scheme, host and port: where a connection's secrets may be sent (RFC 6454 §4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(String);

impl Origin {
    /// The origin of an `http` or `https` URL; path and query are ignored.
    ///
    /// # Errors
    /// [`ConnectionError::Origin`] for anything else, and for URLs with user name or password.
    pub fn of_url(url: &str) -> Result<Self, ConnectionError> {
        let refuse = || ConnectionError::Origin { url: url.chars().take(200).collect() };
        let parsed = url::Url::parse(url).map_err(|_| refuse())?;
        Self::of_parsed(&parsed).ok_or_else(refuse)
    }

    /// The origin of a parsed `http` or `https` URL without user information.
    #[must_use]
    pub fn of_parsed(url: &url::Url) -> Option<Self> {
        let plain = url.username().is_empty() && url.password().is_none();
        (matches!(url.scheme(), "http" | "https") && plain && url.has_host())
            .then(|| Self(url.origin().ascii_serialization()))
    }

    /// `scheme://host[:port]`, the port left out where it is the scheme's own.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether requests to this origin are encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl TryFrom<String> for Origin {
    type Error = ConnectionError;

    fn try_from(url: String) -> Result<Self, ConnectionError> {
        Self::of_url(&url)
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.0
    }
}

/// Why a connection was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// A field has a value it may not have.
    #[error("field `{field}`: {reason}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that flows could not write.
    #[error("`{name}` is no name: use letters, digits, `_` and `-`, starting with a letter or `_`, at most 64 in all")]
    Name {
        /// The name, shortened.
        name: String,
    },
    /// An origin that is none.
    #[error("`{url}` is no origin: write `https://host` or `https://host:port`")]
    Origin {
        /// The text, shortened.
        url: String,
    },
    /// A placement that cannot be.
    #[error("placement: {reason}")]
    Placement {
        /// What is wrong with it.
        reason: String,
    },
}

pub(crate) fn check_name(name: &str) -> Result<(), ConnectionError> {
    let mut chars = name.chars();
    let head = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    if head && name.len() <= 64 && chars.all(|next| next.is_ascii_alphanumeric() || next == '_' || next == '-') {
        Ok(())
    } else {
        Err(ConnectionError::Name { name: name.chars().take(80).collect() })
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
const MAX_FIELDS: usize = 32;
const MAX_FIELD_BYTES: usize = 16 << 10;
/// What is searched for in all output costs time and memory in proportion to these two.
const MAX_SECRET_BYTES: usize = 64 << 10;
/// Lines of secrets that have several; each is searched for by itself.
const MAX_SECRET_LINES: usize = 256;
/// Shorter secrets cannot be found again in output without masking ordinary text (design: under 8 bytes refused).
const MIN_SECRET_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret_text(text: &str) -> ConnectionValue {
        ConnectionValue::SecretText { secret: text.into() }
    }

    #[test]
    fn debug_shows_no_value() {
        let value = ConnectionValue::CustomAuth {
            fields: [
                ("token".to_owned(), FieldValue::Secret("canary-secret".into())),
                ("url".to_owned(), FieldValue::Clear("https://canary.example".to_owned())),
            ]
            .into(),
        };
        let connection = Connection::new("api", value, vec![], vec![]).expect("valid");
        assert!(!format!("{connection:?}").contains("canary-secret"));
        assert_eq!(connection.placements(), [Placement::Bearer { field: "token".to_owned() }]);
        assert_eq!(connection.origins(), [Origin::of_url("https://canary.example/x").expect("origin")]);
    }

    #[test]
    fn short_secrets_are_refused_with_the_reason() {
        assert!(Connection::new("a", secret_text("12345678"), vec![], vec![]).is_ok());
        let error = Connection::new("a", secret_text("1234567"), vec![], vec![]).expect_err("7 bytes");
        assert!(error.to_string().contains("at least 8 bytes"), "{error}");
    }

    #[test]
    fn names_flows_cannot_write_are_refused() {
        for name in ["", "1a", "a b", "a.b", "é", &"x".repeat(65)] {
            assert!(matches!(
                Connection::new(name, secret_text("12345678"), vec![], vec![]),
                Err(ConnectionError::Name { .. })
            ));
        }
        assert!(Connection::new("x".repeat(64), secret_text("12345678"), vec![], vec![]).is_ok());
    }

    #[test]
    fn placements_must_name_a_secret_field() {
        let wrong =
            |placement| Connection::new("a", secret_text("12345678"), vec![placement], vec![]).expect_err("refused");
        wrong(Placement::Bearer { field: "token".to_owned() });
        wrong(Placement::Basic);
        wrong(Placement::Header { name: "Host".to_owned(), field: "secret_text".to_owned() });
        wrong(Placement::Header { name: "X Y".to_owned(), field: "secret_text".to_owned() });
        wrong(Placement::Body { pointer: "token".to_owned(), field: "secret_text".to_owned() });
    }

    fn custom(fields: impl IntoIterator<Item = (String, FieldValue)>) -> Result<Connection, ConnectionError> {
        Connection::new("a", ConnectionValue::CustomAuth { fields: fields.into_iter().collect() }, vec![], vec![])
    }

    #[test]
    fn reserved_headers_take_no_secret() {
        for name in RESERVED_HEADERS.into_iter().chain(["Accept-Encoding", "Proxy-Authorization"]) {
            let placement = Placement::Header { name: name.to_owned(), field: "secret_text".to_owned() };
            assert!(Connection::new("a", secret_text("12345678"), vec![placement], vec![]).is_err(), "{name}");
        }
    }

    #[test]
    fn basic_needs_a_secret_password() {
        let basic = |password: FieldValue| {
            let fields =
                [("username".to_owned(), FieldValue::Clear("ann".to_owned())), ("password".to_owned(), password)];
            let value = ConnectionValue::CustomAuth { fields: fields.into() };
            Connection::new("a", value, vec![Placement::Basic], vec![])
        };
        assert!(basic(FieldValue::Secret("12345678".into())).is_ok());
        let error = basic(FieldValue::Clear("12345678".to_owned())).expect_err("clear");
        assert!(error.to_string().contains("secret field `password`"), "{error}");
    }

    #[test]
    fn secret_bytes_of_a_connection_are_limited() {
        let fields = |last: usize| {
            let sizes = [MAX_FIELD_BYTES, MAX_FIELD_BYTES, MAX_FIELD_BYTES, MAX_FIELD_BYTES - 8, last];
            custom(
                sizes
                    .iter()
                    .enumerate()
                    .map(|(index, size)| (format!("f{index}"), FieldValue::Secret("x".repeat(*size).into()))),
            )
        };
        // Four full fields less 8 bytes, and one more of 8 bytes at least.
        assert!(fields(8).is_ok());
        let error = fields(9).expect_err("64 KiB and one byte");
        assert!(error.to_string().contains("65536 bytes together"), "{error}");
        assert!(
            custom(
                (0..4).map(|index| (format!("f{index}"), FieldValue::Secret("x".repeat(MAX_FIELD_BYTES - 1).into())))
            )
            .is_ok()
        );
    }

    #[test]
    fn secret_lines_of_a_connection_are_limited() {
        let fields = |lines: usize| {
            let secret = |lines: usize| FieldValue::Secret("0123\n".repeat(lines).into());
            custom([
                ("a".to_owned(), secret(100)),
                ("b".to_owned(), secret(lines)),
                ("c".to_owned(), FieldValue::Secret("one line".into())),
            ])
        };
        assert!(fields(155).is_ok() && fields(156).is_ok());
        let error = fields(157).expect_err("257 lines");
        assert!(error.to_string().contains("256 lines together"), "{error}");
    }

    #[test]
    fn origins_drop_paths_and_refuse_the_rest() {
        let origin = |url| Origin::of_url(url).map(|origin| origin.as_str().to_owned());
        assert_eq!(origin("https://API.example:443/v1?x").as_deref(), Ok("https://api.example"));
        assert_eq!(origin("http://127.0.0.1:8080/").as_deref(), Ok("http://127.0.0.1:8080"));
        for wrong in ["ftp://a.example", "a.example", "https://user:pw@a.example", "data:text/plain,x"] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
