//! Connections as JSON: the reference product's form, the guide's, and ours, which are one.
//!
//! ```json
//! { "type": "SECRET_TEXT", "value": { "secret_text": "…" }, "origins": ["https://api.example"] }
//! { "type": "BASIC_AUTH", "value": { "username": "ann", "password": "…" }, "origins": ["https://api.example"] }
//! { "type": "CUSTOM_AUTH", "value": { "props": { "url": "https://api.example", "token": "…" } }, "clear": ["url"] }
//! { "type": "OAUTH2", "value": { "client_id": "…", "client_secret": "…", "token_url": "https://id.example/token", … } }
//! { "type": "STATIC_API_KEY", "key": "…", "expiresAt": null }
//! { "type": "OAUTH2", "accessToken": "…", "expiresAt": "2030-01-01T00:00:00Z", "scope": "flows:read" }
//! ```
//!
//! A secret that is kept elsewhere is `{ "from": "env:NAME" }` in its place, also for `client_secret`; connections with such
//! a field are of type `CUSTOM_AUTH` then.
//! Members of `value` may stand beside `type` as well. Around them: `displayName`, `pieceName` or `pieces`, `placements`,
//! `origins`, `expiresAt`, `validation`, `revealToCode`. What is not known is refused by name.

use std::{collections::BTreeMap, fmt, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};

use super::{
    Connection, ConnectionError, ConnectionTerms, ConnectionValue, FieldValue, NewSecrets, Placement, SecretReference,
    oauth::{ClientAuth, OAuth2, OAuthApp, OAuthGrant, OAuthTokens},
};
use crate::{property::Properties, time::Timestamp};

impl Connection {
    /// Reads a connection from JSON; see the module `ap_core::connection::definition` for the forms. At most 256 KiB.
    ///
    /// Of a `CUSTOM_AUTH` connection `schema` says which fields are secret: those that are [`sensitive`]. Without a schema all
    /// are but `url`, `base_url`, and what `clear` lists. `now` is when tokens count as issued that do not say it.
    ///
    /// # Errors
    /// [`ConnectionError`] names the member at fault, and never repeats a value.
    ///
    /// [`sensitive`]: crate::property::Property::sensitive
    ///
    /// # Examples
    /// ```
    /// use ap_core::{connection::Connection, time::Timestamp};
    ///
    /// let json = br#"{ "type": "STATIC_API_KEY", "key": "ap_live_1234567890abcdef", "expiresAt": null }"#;
    /// let connection = Connection::from_json("mcp", json, None, Timestamp::EPOCH)?;
    /// assert_eq!(connection.value().type_name(), "SECRET_TEXT");
    /// # Ok::<(), ap_core::connection::ConnectionError>(())
    /// ```
    pub fn from_json(
        name: &str,
        json: &[u8],
        schema: Option<&Properties>,
        now: Timestamp,
    ) -> Result<Self, ConnectionError> {
        let mut members = Members::parse(json)?;
        let kind = members.text(&["type"])?.ok_or_else(|| missing("type"))?;
        if let Some(external) = members.text(&["externalId", "name"])?
            && external != name
        {
            return wrong("externalId", "is another name than the one to write to");
        }
        let terms = terms(&mut members)?;
        let origins = members.list(&["origins"], "origins")?;
        let mut placements: Vec<Placement> = members.list(&["placements"], "placements")?;
        let value = match kind.as_str() {
            "SECRET_TEXT" => secret_text(&mut members, &["secret_text", "secretText", "secret"])?,
            "STATIC_API_KEY" => secret_text(&mut members, &["key"])?,
            "BEARER_TOKEN" => secret_text(&mut members, &["token"])?,
            "BASIC_AUTH" => {
                let username = members.text(&["username"])?.ok_or_else(|| missing("username"))?;
                match given(&mut members, &["password"])? {
                    FieldValue::Secret(password) => ConnectionValue::BasicAuth { username, password },
                    elsewhere => {
                        if placements.is_empty() {
                            placements.push(Placement::Basic);
                        }
                        let fields = [("username", FieldValue::Clear(username)), ("password", elsewhere)];
                        custom_of(fields)
                    }
                }
            }
            "CUSTOM_AUTH" => custom(&mut members, schema)?,
            "OAUTH2" => ConnectionValue::OAuth2(Box::new(oauth(&mut members, terms.expires, now)?)),
            _ => {
                return wrong(
                    "type",
                    "is none of SECRET_TEXT, STATIC_API_KEY, BEARER_TOKEN, BASIC_AUTH, CUSTOM_AUTH and OAUTH2",
                );
            }
        };
        members.finish()?;
        if kind == "BEARER_TOKEN" && placements.is_empty() {
            placements.push(Placement::Bearer { field: "secret_text".to_owned() });
        }
        let terms = match &value {
            // Its tokens have the time, and what renews them a later one.
            ConnectionValue::OAuth2(_) => ConnectionTerms { expires: None, ..terms },
            _ => terms,
        };
        Self::new(name, value, placements, origins)?.with_terms(terms)
    }
}

impl NewSecrets {
    /// Reads new secrets from JSON: a definition as [`Connection::from_json`] reads it, of which only the secrets that change are
    /// there, and `expiresAt` if they end. At most 256 KiB.
    ///
    /// ```json
    /// { "secret_text": "…", "expiresAt": "2030-01-01T00:00:00Z" }
    /// { "password": "…" }
    /// { "props": { "accessKeyId": "…", "secretAccessKey": "…" } }
    /// { "client_secret": { "from": "vault:secret/data/crm#client_secret" } }
    /// ```
    ///
    /// # Errors
    /// [`ConnectionError`] names the member at fault, and never repeats a value.
    pub fn from_json(json: &[u8]) -> Result<Self, ConnectionError> {
        let mut members = Members::parse(json)?;
        let mut new = Self::new().with_expiry(members.time(&["expiresAt"])?);
        let props = match members.take(&["props"]) {
            Some(props) => Members::of(props, "props")?.0,
            None => BTreeMap::new(),
        };
        let known = [
            ("secret_text", &["secret_text", "secretText", "secret", "key", "token"][..]),
            ("username", &["username"]),
            ("password", &["password"]),
            ("client_secret", &["client_secret", "clientSecret"]),
        ];
        let known = known.into_iter().filter_map(|(name, names)| Some((name.to_owned(), members.take(names)?)));
        for (name, leaf) in known.collect::<Vec<_>>().into_iter().chain(props) {
            let value = match leaf {
                Leaf::Text(text) => FieldValue::Secret(text),
                Leaf::Number(number) => FieldValue::Secret(SecretString::from(number.to_string())),
                Leaf::Object(object) => FieldValue::Reference(reference(&name, object)?),
                Leaf::Null | Leaf::Bool(_) | Leaf::List(_) => {
                    return wrong(&name, "is text, or `{ \"from\": \"scheme:path\" }`");
                }
            };
            if new.fields.insert(name.clone(), value).is_some() {
                return wrong(&name, "stands beside `props` and inside it");
            }
        }
        members.finish()?;
        Ok(new)
    }
}

fn terms(members: &mut Members) -> Result<ConnectionTerms, ConnectionError> {
    let mut pieces: Vec<String> = members.list(&["pieces"], "pieces")?;
    if let Some(piece) = members.text(&["pieceName"])? {
        // The reference product's packages.
        pieces.push(piece.strip_prefix("@activepieces/piece-").unwrap_or(&piece).to_owned());
    }
    let expires = members.time(&["expiresAt"])?;
    let validation = match members.take(&["validation"]).map(|leaf| leaf.into_clear()) {
        None | Some(serde_json::Value::Null) => None,
        Some(value) => Some(serde_json::from_value(value).map_err(|_| ConnectionError::Field {
            field: "validation".to_owned(),
            reason: "is `{ \"method\": \"GET\", \"url\": \"https://…\" }`".to_owned(),
        })?),
    };
    Ok(ConnectionTerms {
        display_name: members.text(&["displayName"])?,
        pieces,
        expires,
        predefined: false,
        reveal_to_code: members.flag(&["revealToCode"])?,
        validation,
    })
}

fn secret_text(members: &mut Members, names: &[&str]) -> Result<ConnectionValue, ConnectionError> {
    Ok(match given(members, names)? {
        FieldValue::Secret(secret) => ConnectionValue::SecretText { secret },
        elsewhere => custom_of([("secret_text", elsewhere)]),
    })
}

/// A secret, or where it is kept.
fn given(members: &mut Members, names: &[&str]) -> Result<FieldValue, ConnectionError> {
    let name = names.first().copied().unwrap_or_default();
    match members.take(names) {
        Some(Leaf::Text(text)) => Ok(FieldValue::Secret(text)),
        Some(Leaf::Object(object)) => reference(name, object).map(FieldValue::Reference),
        None | Some(Leaf::Null) => Err(missing(name)),
        Some(_) => wrong(name, "is text, or `{ \"from\": \"scheme:path\" }`"),
    }
}

fn reference(name: &str, mut object: BTreeMap<String, Leaf>) -> Result<SecretReference, ConnectionError> {
    match (object.remove("from"), object.is_empty()) {
        (Some(Leaf::Text(text)), true) => SecretReference::parse(text.expose_secret()),
        _ => wrong(name, "is text, or `{ \"from\": \"scheme:path\" }`"),
    }
}

fn custom_of<const N: usize>(fields: [(&str, FieldValue); N]) -> ConnectionValue {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    ConnectionValue::CustomAuth { fields }
}

fn custom(members: &mut Members, schema: Option<&Properties>) -> Result<ConnectionValue, ConnectionError> {
    let clear: Vec<String> = members.list(&["clear"], "clear")?;
    let props = Members::of(members.take(&["props"]).ok_or_else(|| missing("props"))?, "props")?;
    if let Some(schema) = schema {
        if !clear.is_empty() {
            return wrong("clear", "the piece says which fields are secret: leave it out");
        }
        if let Some(required) = schema.iter().find(|property| property.required && !props.0.contains_key(property.name))
        {
            return Err(missing(required.name));
        }
    }
    let mut fields = BTreeMap::new();
    for (name, leaf) in props.0 {
        let secret = match schema {
            Some(schema) => match schema.get(&name) {
                Some(property) => property.sensitive,
                None => return wrong(&name, "is not a field of the piece's connections"),
            },
            None => !clear.contains(&name) && !CLEAR.contains(&name.as_str()),
        };
        let text = match leaf {
            Leaf::Null => continue,
            Leaf::Text(text) => text,
            Leaf::Number(number) => SecretString::from(number.to_string()),
            Leaf::Bool(flag) => SecretString::from(flag.to_string()),
            Leaf::Object(object) if secret => {
                let reference = reference(&name, object)?;
                fields.insert(name, FieldValue::Reference(reference));
                continue;
            }
            Leaf::List(_) | Leaf::Object(_) => return wrong(&name, "is text, a number, true or false"),
        };
        let value = if secret { FieldValue::Secret(text) } else { FieldValue::Clear(text.expose_secret().to_owned()) };
        fields.insert(name, value);
    }
    Ok(ConnectionValue::CustomAuth { fields })
}

fn oauth(members: &mut Members, expires: Option<Timestamp>, now: Timestamp) -> Result<OAuth2, ConnectionError> {
    let client_secret = match members.take(&["client_secret", "clientSecret"]) {
        None | Some(Leaf::Null) => None,
        Some(Leaf::Text(text)) => Some(FieldValue::Secret(text)),
        Some(Leaf::Object(object)) => Some(FieldValue::Reference(reference("client_secret", object)?)),
        Some(_) => return wrong("client_secret", "is text, or `{ \"from\": \"scheme:path\" }`"),
    };
    let scope = members.text(&["scope"])?;
    let token_url = members.text(&["token_url", "tokenUrl"])?;
    let client_id = members.text(&["client_id", "clientId"])?;
    let authorization_url = members.text(&["authorization_url", "authorizationUrl", "auth_url", "authUrl"])?;
    let redirect_url = members.text(&["redirect_url", "redirectUrl"])?;
    let issuer = members.text(&["issuer"])?;
    let grant = members.word(&["grant_type", "grantType"], "grant_type")?;
    let client_auth = members.word(&["authorization_method", "authorizationMethod"], "authorization_method")?;
    let parameters = match members.take(&["parameters", "props"]).map(Leaf::into_clear) {
        None | Some(serde_json::Value::Null) => BTreeMap::new(),
        Some(value) => serde_json::from_value(value).map_err(|_| ConnectionError::Field {
            field: "parameters".to_owned(),
            reason: "are names with texts".to_owned(),
        })?,
    };
    let app = match (client_id, token_url) {
        (Some(client_id), Some(token_url)) => Some(OAuthApp {
            grant: grant.unwrap_or(OAuthGrant::AuthorizationCode),
            client_id,
            client_auth: client_auth.unwrap_or(ClientAuth::Header),
            authorization_url,
            token_url,
            redirect_url,
            scope: scope.clone(),
            issuer,
            parameters,
        }),
        (None, None) => None,
        (None, Some(_)) => return Err(missing("client_id")),
        (Some(_), None) => return Err(missing("token_url")),
    };
    if let Some(kind) = members.text(&["token_type", "tokenType"])?
        && !kind.eq_ignore_ascii_case("bearer")
    {
        return wrong("token_type", "only bearer tokens can be used (RFC 6750)");
    }
    let issued = members.seconds(&["claimed_at", "claimedAt"])?.map_or(now, |seconds| {
        Timestamp::from_millis(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000))
    });
    let lifetime = members.seconds(&["expires_in", "expiresIn"])?;
    let ends = lifetime.map(|seconds| issued.saturating_add(Duration::from_secs(seconds))).or(expires);
    let refresh = members.secret(&["refresh_token", "refreshToken"])?;
    let tokens = members
        .secret(&["access_token", "accessToken"])?
        .map(|access| OAuthTokens::bearer(access, issued).with_expiry(ends).with_scope(scope).with_refresh(refresh));
    let client = |app: OAuthApp| match client_secret {
        Some(FieldValue::Reference(reference)) => OAuth2::client(app, None).with_client_secret_from(reference),
        Some(FieldValue::Secret(secret)) => OAuth2::client(app, Some(secret)),
        Some(FieldValue::Clear(_)) | None => OAuth2::client(app, None),
    };
    Ok(match (app, tokens) {
        (Some(app), None) => client(app),
        (Some(app), Some(tokens)) => client(app).with_tokens(tokens),
        (None, Some(tokens)) => OAuth2::of_tokens(tokens),
        (None, None) => return Err(missing("access_token")),
    })
}

/// JSON whose texts may be secrets: wiped when dropped.
enum Leaf {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(SecretString),
    List(Vec<Leaf>),
    Object(BTreeMap<String, Leaf>),
}

impl Leaf {
    /// As ordinary JSON; for what is no secret.
    fn into_clear(self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(flag) => flag.into(),
            Self::Number(number) => number.into(),
            Self::Text(text) => text.expose_secret().into(),
            Self::List(items) => items.into_iter().map(Self::into_clear).collect(),
            Self::Object(members) => members.into_iter().map(|(key, leaf)| (key, leaf.into_clear())).collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Leaf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LeafVisitor)
    }
}

struct LeafVisitor;

impl<'de> de::Visitor<'de> for LeafVisitor {
    type Value = Leaf;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Leaf, E> {
        Ok(Leaf::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Leaf, E> {
        Ok(Leaf::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Leaf, E> {
        Ok(Leaf::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Leaf, E> {
        Ok(Leaf::Number(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Leaf, E> {
        serde_json::Number::from_f64(number).map(Leaf::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Leaf, E> {
        Ok(Leaf::Text(SecretString::from(text)))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Leaf, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Leaf::List(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Leaf, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((key, leaf)) = access.next_entry::<String, Leaf>()? {
            if members.insert(key, leaf).is_some() {
                return Err(de::Error::custom("a member stands there twice"));
            }
        }
        Ok(Leaf::Object(members))
    }
}

/// What of an object was not taken yet.
struct Members(BTreeMap<String, Leaf>);

impl Members {
    /// Of a definition: what stands in `value`, and what stands beside it.
    fn parse(json: &[u8]) -> Result<Self, ConnectionError> {
        if json.len() > MAX_JSON_BYTES {
            return wrong("value", "a connection has at most 256 KiB");
        }
        let parsed: Leaf = serde_json::from_slice(json).map_err(|error| ConnectionError::Field {
            field: "value".to_owned(),
            // The words of the parser may repeat a piece of a secret.
            reason: format!("is not the JSON of a connection (line {}, column {})", error.line(), error.column()),
        })?;
        let mut members = Self::of(parsed, "value")?;
        if let Some(value) = members.take(&["value"]) {
            for (key, leaf) in Self::of(value, "value")?.0 {
                // The reference product repeats the type inside.
                if key != "type" && members.0.insert(key.clone(), leaf).is_some() {
                    return wrong(&key, "stands beside `value` and inside it");
                }
            }
        }
        Ok(members)
    }

    fn time(&mut self, names: &[&str]) -> Result<Option<Timestamp>, ConnectionError> {
        let Some(text) = self.text(names)? else { return Ok(None) };
        let time = text.parse().map_err(|_| ConnectionError::Field {
            field: names.first().copied().unwrap_or_default().to_owned(),
            reason: "is null or an RFC 3339 time such as `2030-01-01T00:00:00Z`".to_owned(),
        })?;
        Ok(Some(time))
    }

    fn of(leaf: Leaf, field: &str) -> Result<Self, ConnectionError> {
        match leaf {
            Leaf::Object(members) => Ok(Self(members)),
            _ => wrong(field, "is a JSON object"),
        }
    }

    /// The member under the first of these names that is there.
    fn take(&mut self, names: &[&str]) -> Option<Leaf> {
        names.iter().find_map(|name| self.0.remove(*name))
    }

    fn secret(&mut self, names: &[&str]) -> Result<Option<SecretString>, ConnectionError> {
        match self.take(names) {
            None | Some(Leaf::Null) => Ok(None),
            Some(Leaf::Text(text)) => Ok(Some(text)),
            Some(_) => wrong(names.first().copied().unwrap_or_default(), "is text"),
        }
    }

    fn text(&mut self, names: &[&str]) -> Result<Option<String>, ConnectionError> {
        Ok(self.secret(names)?.map(|text| text.expose_secret().to_owned()))
    }

    fn flag(&mut self, names: &[&str]) -> Result<bool, ConnectionError> {
        match self.take(names) {
            None | Some(Leaf::Null) => Ok(false),
            Some(Leaf::Bool(flag)) => Ok(flag),
            Some(_) => wrong(names.first().copied().unwrap_or_default(), "is true or false"),
        }
    }

    fn seconds(&mut self, names: &[&str]) -> Result<Option<u64>, ConnectionError> {
        match self.take(names) {
            None | Some(Leaf::Null) => Ok(None),
            Some(Leaf::Number(number)) if number.as_u64().is_some() => Ok(number.as_u64()),
            Some(_) => wrong(names.first().copied().unwrap_or_default(), "is a whole number of seconds"),
        }
    }

    fn list<T: de::DeserializeOwned>(&mut self, names: &[&str], field: &str) -> Result<Vec<T>, ConnectionError> {
        match self.take(names) {
            None | Some(Leaf::Null) => Ok(Vec::new()),
            Some(leaf) => {
                serde_json::from_value(leaf.into_clear()).or_else(|_| wrong(field, "is no valid list of such"))
            }
        }
    }

    fn word<T: de::DeserializeOwned>(&mut self, names: &[&str], field: &str) -> Result<Option<T>, ConnectionError> {
        match self.text(names)? {
            None => Ok(None),
            Some(text) => {
                serde_json::from_value(text.into()).map(Some).or_else(|_| wrong(field, "is none of the known words"))
            }
        }
    }

    fn finish(self) -> Result<(), ConnectionError> {
        match self.0.into_keys().find(|key| !IGNORED.contains(&key.as_str())) {
            Some(key) => {
                wrong(&key.chars().filter(|char| !char.is_control()).take(64).collect::<String>(), "is not known here")
            }
            None => Ok(()),
        }
    }
}

fn wrong<T>(field: &str, reason: &str) -> Result<T, ConnectionError> {
    Err(ConnectionError::Field { field: field.to_owned(), reason: reason.to_owned() })
}

fn missing(field: &str) -> ConnectionError {
    ConnectionError::Field { field: field.to_owned(), reason: "is required".to_owned() }
}

/// Fields that are clear unless a piece says otherwise.
const CLEAR: [&str; 2] = ["url", "base_url"];
/// What the reference product sends along and nothing here depends on.
const IGNORED: [&str; 3] = ["metadata", "pieceVersion", "projectId"];
const MAX_JSON_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        connection::{ConnectionStatus, Field, Origin},
        property::{Property, PropertyKind},
    };

    fn parse(json: &str) -> Result<Connection, ConnectionError> {
        Connection::from_json("api", json.as_bytes(), None, Timestamp::EPOCH)
    }

    fn fields(connection: &Connection) -> Vec<(String, bool)> {
        let of = connection.value().fields().into_iter();
        of.map(|(name, field)| (name.to_owned(), matches!(field, Field::Secret(_)))).collect()
    }

    #[test]
    fn the_guides_static_key_works() {
        let connection = parse(r#"{ "type": "STATIC_API_KEY", "key": "ap_live_1234567890abcdef", "expiresAt": null }"#)
            .expect("guide §5.3");
        assert_eq!(connection.terms().expires, None);
        let dated = parse(
            r#"{ "type": "STATIC_API_KEY", "key": "ap_live_1234567890abcdef", "expiresAt": "2024-12-31T23:59:59Z" }"#,
        );
        let dated = dated.expect("a date");
        assert_eq!(dated.status(Timestamp::EPOCH), ConnectionStatus::Active);
        assert_eq!(dated.status(Timestamp::from_millis(1_800_000_000_000)), ConnectionStatus::Expired);
    }

    #[test]
    fn the_guides_oauth_token_needs_somebody_who_can_renew_it() {
        let guide = r#"{ "type": "OAUTH2", "accessToken": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...",
            "refreshToken": "refresh_token_here", "expiresAt": "2024-12-31T23:59:59Z", "scope": "flows:read flows:execute"EXTRA }"#;
        let error = parse(&guide.replace("EXTRA", "")).expect_err("guide §5.3").to_string();
        assert!(error.contains("`refresh_token`") && error.contains("tokenUrl"), "{error}");
        let known = guide.replace("EXTRA", r#", "tokenUrl": "https://id.example/token", "clientId": "me""#);
        let known = parse(&known).expect("with a client");
        let tokens = known.oauth().and_then(OAuth2::tokens).expect("tokens");
        assert_eq!(tokens.expires_text(), "2024-12-31T23:59:59Z");
        assert_eq!(known.terms().expires, None);
        let alone = guide.replace("EXTRA", "").replace(r#""refreshToken": "refresh_token_here","#, "");
        let alone = parse(&alone).expect("without a refresh token");
        assert_eq!(alone.status(Timestamp::from_millis(1_800_000_000_000)), ConnectionStatus::Expired);
    }

    #[test]
    fn the_reference_products_upsert_works() {
        let connection = parse(
            r#"{ "externalId": "api", "displayName": "My API", "pieceName": "@activepieces/piece-http", "projectId": "p",
                "type": "OAUTH2", "value": { "type": "OAUTH2", "client_id": "c", "client_secret": "canary-secret",
                "token_url": "https://id.example/token", "authorization_url": "https://id.example/auth",
                "redirect_url": "https://host.example/callback", "scope": "read write", "authorization_method": "BODY",
                "access_token": "canary-access", "refresh_token": "canary-refresh", "token_type": "bearer",
                "expires_in": 3600, "claimed_at": 1700000000 }, "origins": ["https://api.example/v1"] }"#,
        )
        .expect("valid");
        let oauth = connection.oauth().expect("OAuth 2.0");
        assert_eq!(oauth.app().map(|app| app.client_auth), Some(ClientAuth::Body));
        assert_eq!(oauth.tokens().and_then(OAuthTokens::expires), Some(Timestamp::from_millis(1_700_003_600_000)));
        assert_eq!(connection.terms().pieces, ["http"]);
        assert_eq!(connection.terms().display_name.as_deref(), Some("My API"));
        assert_eq!(connection.origins(), [Origin::of_url("https://api.example").expect("origin")]);
        assert_eq!(fields(&connection)[0], ("access_token".to_owned(), true));
        assert!(!format!("{connection:?}").contains("canary"), "{connection:?}");
    }

    #[test]
    fn the_piece_says_what_is_secret() {
        let schema = Properties::new([
            Property::new("token", "Token", PropertyKind::ShortText).required().sensitive(),
            Property::new("account", "Account", PropertyKind::ShortText),
        ]);
        let json = br#"{ "type": "CUSTOM_AUTH", "value": { "props": { "token": "canary-token", "account": "me" } } }"#;
        let connection = Connection::from_json("api", json, Some(&schema), Timestamp::EPOCH).expect("valid");
        assert_eq!(fields(&connection), [("account".to_owned(), false), ("token".to_owned(), true)]);
        for (props, at_fault) in [(r#"{ "account": "me" }"#, "token"), (r#"{ "token": "canary-token", "x": 1 }"#, "x")]
        {
            let json = format!(r#"{{ "type": "CUSTOM_AUTH", "value": {{ "props": {props} }} }}"#);
            let error =
                Connection::from_json("api", json.as_bytes(), Some(&schema), Timestamp::EPOCH).expect_err(props);
            assert!(error.to_string().contains(&format!("`{at_fault}`")), "{error}");
        }
        let open = parse(
            r#"{ "type": "CUSTOM_AUTH", "props": { "url": "https://a.example", "region": "eu", "key": "canary-key" },
            "clear": ["region"] }"#,
        );
        let secret: Vec<_> = fields(&open.expect("valid")).into_iter().filter(|(_, secret)| *secret).collect();
        assert_eq!(secret, [("key".to_owned(), true)]);
    }

    #[test]
    fn secrets_may_be_kept_elsewhere() {
        for (json, name, placement) in [
            (
                r#"{ "type": "SECRET_TEXT", "secret_text": { "from": "env:KEY" } }"#,
                "secret_text",
                Placement::Bearer { field: "secret_text".to_owned() },
            ),
            (
                r#"{ "type": "BASIC_AUTH", "username": "ann", "password": { "from": "file:db/password" } }"#,
                "password",
                Placement::Basic,
            ),
            (
                r#"{ "type": "CUSTOM_AUTH", "props": { "url": "https://a.example", "key": { "from": "vault:a/b#c" } } }"#,
                "key",
                Placement::Bearer { field: "key".to_owned() },
            ),
        ] {
            let connection = parse(json).expect(json);
            let names: Vec<_> = connection.value().references().map(|(name, _)| name.to_owned()).collect();
            assert_eq!((names, connection.placements()), (vec![name.to_owned()], [placement].as_slice()));
        }
        let client = r#"{ "type": "OAUTH2", "client_id": "c", "token_url": "https://id.example/token",
            "grant_type": "client_credentials", "client_secret": { "from": "aws-sm:crm#secret" } }"#;
        let client = parse(client).expect("a client whose secret is kept elsewhere");
        let hidden: Vec<_> = client.value().hidden_references().map(SecretReference::as_str).collect();
        assert_eq!((hidden, client.value().references().count()), (vec!["aws-sm:crm#secret"], 0));
        let resolved = client.with_resolved(|_| Some("canary-client".into())).expect("long enough");
        let hidden: Vec<_> = resolved.value().hidden_secrets().map(ExposeSecret::expose_secret).collect();
        assert_eq!(hidden, ["canary-client"]);
        for wrong in [
            r#"{ "type": "OAUTH2", "client_id": "c", "token_url": "https://id.example", "client_secret": { "from": "canary" } }"#,
            r#"{ "type": "OAUTH2", "client_id": "c", "token_url": "https://id.example", "client_secret": 12345678 }"#,
            r#"{ "type": "SECRET_TEXT", "secret_text": { "from": "canary" } }"#,
            r#"{ "type": "SECRET_TEXT", "secret_text": { "from": "env:KEY", "x": 1 } }"#,
            r#"{ "type": "CUSTOM_AUTH", "props": { "url": { "from": "env:KEY" }, "key": "canary-key" } }"#,
        ] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_is_named_and_no_value_repeated() {
        for (json, at_fault) in [
            ("", "value"),
            ("[]", "value"),
            (r#"{ "value": {} }"#, "type"),
            (r#"{ "type": "NO_AUTH" }"#, "type"),
            (r#"{ "type": "SECRET_TEXT" }"#, "secret_text"),
            (r#"{ "type": "SECRET_TEXT", "secret_text": 12345678 }"#, "secret_text"),
            (r#"{ "type": "SECRET_TEXT", "secret_text": "canary" }"#, "secret_text"),
            (r#"{ "type": "SECRET_TEXT", "secret_text": "canary-1", "token": "canary-2" }"#, "token"),
            (
                r#"{ "type": "SECRET_TEXT", "secret_text": "canary-1", "value": { "secret_text": "canary-2" } }"#,
                "secret_text",
            ),
            (r#"{ "type": "SECRET_TEXT", "secret_text": "canary-1", "secret_text": "canary-2" }"#, "value"),
            (r#"{ "type": "SECRET_TEXT", "secret_text": "canary-1", "expiresAt": "canary-soon" }"#, "expiresAt"),
            (r#"{ "type": "SECRET_TEXT", "secret_text": "canary-1", "name": "other" }"#, "externalId"),
            (r#"{ "type": "SECRET_TEXT", "secret_text": "canary-1", "origins": ["canary"] }"#, "origins"),
            (r#"{ "type": "BASIC_AUTH", "username": "ann" }"#, "password"),
            (r#"{ "type": "OAUTH2", "client_id": "c" }"#, "token_url"),
            (r#"{ "type": "OAUTH2", "access_token": "canary-1", "token_type": "mac" }"#, "token_type"),
            (r#"{ "type": "OAUTH2", "access_token": "canary-1", "expires_in": -1 }"#, "expires_in"),
            (
                r#"{ "type": "OAUTH2", "client_id": "c", "token_url": "https://i.example", "grant_type": "password" }"#,
                "grant_type",
            ),
        ] {
            let error = parse(json).expect_err(json).to_string();
            assert!(error.contains(&format!("`{at_fault}`")), "{json}: {error}");
            assert!(!error.contains("canary"), "{json}: {error}");
        }
        let large = format!(r#"{{ "type": "SECRET_TEXT", "secret_text": "{}" }}"#, "x".repeat(MAX_JSON_BYTES));
        assert!(parse(&large).expect_err("too large").to_string().contains("256 KiB"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(noise in "\\PC{0,60}", bytes: Vec<u8>) {
            let _ = parse(&noise);
            let _ = Connection::from_json("api", &bytes, None, Timestamp::EPOCH);
            let _ = parse(&format!(r#"{{"type":"OAUTH2","access_token":"12345678","expires_in":{noise}}}"#));
        }
    }
}
