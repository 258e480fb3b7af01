//! Connections: stored credentials of one project, and where those may go.
//!
//! Flow code, pieces and journals never hold a value of a secret field; they hold placeholder text. The values live in
//! `secrecy` types, wiped on drop, with no way to print or serialise them by accident.

mod bucket;
pub mod definition;
mod oauth;
mod origin;
mod placement;
mod reference;
mod rotation;
mod terms;

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

pub use self::{
    bucket::bucket_endpoint,
    oauth::{ClientAuth, OAuth2, OAuthApp, OAuthGrant, OAuthTokens, PendingGrant, Renewal},
    origin::Origin,
    placement::{HmacAlgorithm, JwtAlgorithm, KeyEncoding, MacEncoding, Placement, RESERVED_HEADERS},
    reference::SecretReference,
    rotation::{NewSecrets, Rotation, RotationState, RotationStatus},
    terms::{ConnectionFault, ConnectionStatus, ConnectionTerms, FaultReason, ValidationRequest},
};

/// A connection as its owner defines it. Built once, checked by [`Connection::new`], sealed by the vault.
#[derive(Debug)]
pub struct Connection {
    name: String,
    value: ConnectionValue,
    placements: Vec<Placement>,
    origins: Vec<Origin>,
    terms: ConnectionTerms,
    fault: Option<ConnectionFault>,
    rotation: Option<Rotation>,
}

impl Connection {
    /// Defines a connection.
    ///
    /// `name` is what flows write after `connections.`; `placements` empty means the default of the value's type
    /// (bearer for secret text, custom `token`/`api_key` fields and OAuth 2.0; basic for basic authentication; none for the
    /// access key of an object store, which is only ever signed with); `origins`
    /// empty means what the value's clear fields name, and otherwise nowhere: `url`, `base_url` or `endpoint`; else `host`
    /// with `port`, which is a database if there is a field `database`, else a mail server (`smtps` on port 465); else, with
    /// a field `secretAccessKey`, the object store of Amazon in `region`. Of an object store it is the bucket's own origin, if
    /// there is a field `bucket` and [`bucket_endpoint`] has one.
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
        Ok(Self { name, value, placements, origins, terms: ConnectionTerms::default(), fault: None, rotation: None })
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
    /// OAuth 2.0 (RFC 6749). Fields: `access_token`, and clear `token_type`, `scope`, `expires_at`; none before it is connected.
    OAuth2(Box<OAuth2>),
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
    /// A secret that is kept elsewhere and resolved when it is used; flows get placeholder text.
    Reference(SecretReference),
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
            Self::OAuth2(_) => "OAUTH2",
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
                .filter_map(|(name, value)| match value {
                    FieldValue::Clear(text) => Some((name.as_str(), Field::Clear(text))),
                    FieldValue::Reference(_) => None,
                    FieldValue::Secret(secret) => Some((name.as_str(), Field::Secret(secret))),
                })
                .collect(),
            Self::OAuth2(oauth) => oauth.tokens().map(oauth_fields).unwrap_or_default(),
            Self::SecretText { secret } => vec![("secret_text", Field::Secret(secret))],
        }
    }

    /// Secrets that are in no field: for the token endpoint alone, and never to be seen in any output either.
    pub fn hidden_secrets(&self) -> impl Iterator<Item = &SecretString> {
        let oauth = match self {
            Self::OAuth2(oauth) => Some(oauth),
            _ => None,
        };
        oauth.into_iter().flat_map(|oauth| oauth.hidden_secrets())
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
        if let Self::OAuth2(oauth) = self {
            return oauth.check();
        }
        if let Self::BasicAuth { username, .. } = self
            && username.contains(':')
        {
            return Err(ConnectionError::Field {
                field: "username".to_owned(),
                reason: "must not contain a colon (RFC 7617 §2)".to_owned(),
            });
        }
        let fields = self.fields();
        let count = fields.len() + self.references().count();
        self.references().try_for_each(|(name, _)| check_name(name))?;
        if !(1..=MAX_FIELDS).contains(&count) {
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
            Self::CustomAuth { fields } if fields.contains_key("secretAccessKey") => Vec::new(),
            Self::OAuth2(_) => vec![Placement::Bearer { field: ACCESS_TOKEN.to_owned() }],
            Self::CustomAuth { .. } | Self::SecretText { .. } => {
                let fields = self.fields();
                let secrets = fields.iter().filter(|(_, field)| matches!(field, Field::Secret(_)));
                let mut secrets = secrets.map(|(name, _)| *name).chain(self.references().map(|(name, _)| name));
                match (secrets.next(), secrets.next()) {
                    (Some(only), None) => vec![Placement::Bearer { field: only.to_owned() }],
                    _ => Vec::new(),
                }
            }
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
        let is_store = fields.iter().any(|(name, _)| *name == "secretAccessKey");
        let of_store = |endpoint: &str| {
            let path_style = clear("forcePathStyle").map(|text| text != "false");
            let bucket = Url::parse(endpoint).ok().zip(clear("bucket").filter(|_| is_store));
            let own = bucket.and_then(|(endpoint, bucket)| bucket_endpoint(&endpoint, bucket, path_style));
            Ok(vec![Origin::of_url(own.as_ref().map_or(endpoint, Url::as_str))?])
        };
        if let Some(url) = clear("url").or_else(|| clear("base_url")) {
            return Ok(vec![Origin::of_url(url)?]);
        }
        if let Some(endpoint) = clear("endpoint") {
            return of_store(endpoint);
        }
        if let Some(host) = clear("host") {
            let (scheme, port) = server_of(clear("database").is_some(), clear("port"))?;
            return Ok(vec![Origin::of_server(scheme, host, port)?]);
        }
        let amazon = clear("region").filter(|_| is_store);
        if amazon.is_some_and(|region| !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')) {
            return Err(ConnectionError::Field {
                field: "region".to_owned(),
                reason: "must be the name of a region, such as `eu-west-1`".to_owned(),
            });
        }
        amazon.map_or(Ok(vec![]), |region| of_store(&format!("https://s3.{region}.amazonaws.com")))
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
            Self::Reference(_) => "FieldValue::Reference(…)",
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
    #[error(
        "`{url}` is no origin: write `https://host` or `https://host:port`, or `postgres`, `smtp` or `smtps` instead"
    )]
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
    /// A reference to a secret that is none.
    #[error("a reference to a secret is written `scheme:path`, such as `env:NAME` or `vault:secret/data/crm#token`")]
    Reference,
    /// A term that cannot be.
    #[error("`{term}` {reason}")]
    Terms {
        /// Which.
        term: &'static str,
        /// What it must be.
        reason: String,
    },
}

fn oauth_fields(tokens: &OAuthTokens) -> Vec<(&str, Field<'_>)> {
    let mut fields =
        vec![(ACCESS_TOKEN, Field::Secret(tokens.access())), ("token_type", Field::Clear(tokens.token_type()))];
    fields.extend(tokens.scope().map(|scope| ("scope", Field::Clear(scope))));
    fields.push(("expires_at", Field::Clear(tokens.expires_text())));
    fields
}

/// Scheme and port of a server that a connection names by `host`.
fn server_of(database: bool, port: Option<&str>) -> Result<(&'static str, u16), ConnectionError> {
    let own = if database { 5432 } else { 587 };
    let port = port.map_or(Ok(own), str::parse).map_err(|_| ConnectionError::Field {
        field: "port".to_owned(),
        reason: "must be a whole number from 0 to 65535".to_owned(),
    })?;
    let scheme = match (database, port) {
        (true, _) => "postgres",
        (false, 465) => "smtps",
        (false, _) => "smtp",
    };
    Ok((scheme, port))
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

/// The field of an OAuth 2.0 connection that holds the access token.
pub const ACCESS_TOKEN: &str = "access_token";
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
    fn origins_follow_from_clear_fields() {
        let origins = |fields: &[(&str, &str)], secret: &str| {
            let clear = fields.iter().map(|(name, text)| ((*name).to_owned(), FieldValue::Clear((*text).to_owned())));
            let secret = (secret.to_owned(), FieldValue::Secret("12345678".into()));
            let connection = custom(clear.chain([secret]))?;
            Ok::<_, ConnectionError>(
                connection.origins().iter().map(|origin| origin.as_str().to_owned()).collect::<Vec<_>>(),
            )
        };
        for (fields, secret, expected) in [
            (&[("host", "db.example"), ("database", "app")][..], "password", "postgres://db.example"),
            (
                &[("host", "db.example"), ("database", "app"), ("port", "6432")],
                "password",
                "postgres://db.example:6432",
            ),
            (&[("host", "mail.example")], "password", "smtp://mail.example"),
            (&[("host", "mail.example"), ("port", "465")], "password", "smtps://mail.example"),
            (&[("host", "mail.example"), ("port", "25")], "password", "smtp://mail.example:25"),
            (&[("url", "postgres://db.example/app")], "password", "postgres://db.example"),
            (&[("endpoint", "https://s3.example/x")], "secretAccessKey", "https://s3.example"),
            (&[("region", "eu-west-1")], "secretAccessKey", "https://s3.eu-west-1.amazonaws.com"),
            (
                &[("region", "eu-west-1"), ("bucket", "own")],
                "secretAccessKey",
                "https://own.s3.eu-west-1.amazonaws.com",
            ),
            (
                &[("region", "eu-west-1"), ("bucket", "own"), ("forcePathStyle", "true")],
                "secretAccessKey",
                "https://s3.eu-west-1.amazonaws.com",
            ),
            (
                &[("endpoint", "https://s3.example"), ("bucket", "own"), ("forcePathStyle", "false")],
                "secretAccessKey",
                "https://own.s3.example",
            ),
            (&[("endpoint", "https://s3.example"), ("bucket", "own")], "secretAccessKey", "https://s3.example"),
        ] {
            assert_eq!(origins(fields, secret).as_deref(), Ok(&[expected.to_owned()][..]));
        }
        assert_eq!(origins(&[("region", "eu-west-1")], "token").as_deref(), Ok(&[][..]));
        assert!(origins(&[("host", "mail.example"), ("port", "65536")], "password").is_err());
        assert!(origins(&[("region", "a/b")], "secretAccessKey").is_err());
    }
}
