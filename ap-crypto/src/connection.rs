//! The form in which a [`Connection`] is sealed: versioned JSON that exists only between these functions and the vault.
//!
//! Field values are base64 inside the JSON. So no string of it ever needs an escape, and the parser borrows every value
//! from the input instead of copying it to a buffer that nobody wipes.

use std::{collections::BTreeMap, io};

use ap_core::{
    connection::{
        ACCESS_TOKEN, Connection, ConnectionFault, ConnectionTerms, ConnectionValue, Field, FieldValue, NewSecrets,
        OAuth2, OAuthApp, OAuthTokens, Origin, PendingGrant, Placement, Rotation, SecretReference,
    },
    store::LookupHash,
    time::Timestamp,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::VaultError;

/// Writes `connection` out, secrets included. The result is for [`TenantKeys::seal`](crate::vault::TenantKeys::seal) and
/// nothing else.
///
/// # Errors
/// [`VaultError::UnsupportedConnection`] if this version could not read the type back.
pub fn encode_connection(connection: &Connection) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let type_name = connection.value().type_name();
    if !TYPES.contains(&type_name) {
        return Err(VaultError::UnsupportedConnection { type_name });
    }
    let hidden = connection.value().hidden_references().map(|reference| (CLIENT_SECRET, reference));
    let references = connection.value().references().chain(hidden);
    let references = references.map(|(name, reference)| (name, encode(reference.as_str())));
    let references: Vec<(&str, Zeroizing<String>)> = references.collect();
    let beside = connection.rotation().map(Rotation::secrets).into_iter().flat_map(NewSecrets::fields);
    let beside: Vec<_> = beside
        .map(|(name, value)| match value {
            FieldValue::Clear(text) => (name, (false, false), encode(text)),
            FieldValue::Reference(reference) => (name, (true, true), encode(reference.as_str())),
            FieldValue::Secret(secret) => (name, (true, false), encode(secret.expose_secret())),
        })
        .collect();
    let encoded = match connection.oauth() {
        Some(oauth) => oauth_secrets(oauth),
        None => connection
            .value()
            .fields()
            .into_iter()
            .map(|(name, field)| match field {
                Field::Clear(text) => (name, false, encode(text)),
                Field::Secret(secret) => (name, true, encode(secret.expose_secret())),
            })
            .collect(),
    };
    let terms = connection.terms();
    let stored = Stored {
        v: VERSION,
        name: connection.name(),
        r#type: type_name,
        fields: encoded
            .iter()
            .map(|(name, secret, value)| StoredField { name, secret: *secret, value, elsewhere: false })
            .chain(references.iter().map(|(name, value)| StoredField { name, secret: true, value, elsewhere: true }))
            .collect(),
        placements: connection.placements().to_vec(),
        origins: connection.origins().to_vec(),
        terms: (*terms != ConnectionTerms::default()).then(|| terms.clone()),
        fault: connection.fault(),
        oauth: connection.oauth().map(stored_oauth),
        rotation: connection.rotation().map(|rotation| stored_rotation(rotation, &beside)),
    };
    let unsupported = |_: serde_json::Error| VaultError::UnsupportedConnection { type_name };
    // Measured first: a buffer that grows leaves unwiped copies of its beginning behind.
    let mut length = Counter(0);
    serde_json::to_writer(&mut length, &stored).map_err(unsupported)?;
    let mut json = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *json, &stored).map_err(unsupported)?;
    Ok(json)
}

/// Reads back what [`encode_connection`] wrote, and checks it as any new connection.
///
/// # Errors
/// [`VaultError::Unopenable`] if it is anything else; the log (target `ap_crypto`) says at which point.
pub fn decode_connection(json: &[u8]) -> Result<Connection, VaultError> {
    try_decode(json).map_err(|reason| {
        tracing::warn!(target: "ap_crypto", reason, "an opened connection cannot be read");
        VaultError::Unopenable
    })
}

fn try_decode(json: &[u8]) -> Result<Connection, &'static str> {
    let stored: Stored<'_> = serde_json::from_slice(json).map_err(|_| "not the stored form of a connection")?;
    if stored.v != VERSION {
        return Err("unknown version of the stored form");
    }
    let mut fields = decoded(&stored.fields)?;
    let value = match (stored.r#type, fields.len()) {
        (OAUTH2, _) => oauth(&mut fields, stored.oauth.ok_or("OAuth 2.0 without its client and tokens")?)?,
        (_, _) if stored.oauth.is_some() => return Err("OAuth 2.0 in another type of connection"),
        (BASIC_AUTH, 2) => match (fields.remove("username"), fields.remove("password")) {
            (Some(FieldValue::Clear(username)), Some(FieldValue::Secret(password))) => {
                ConnectionValue::BasicAuth { username, password }
            }
            _ => return Err("basic authentication without user name and password"),
        },
        (CUSTOM_AUTH, _) => ConnectionValue::CustomAuth { fields },
        (SECRET_TEXT, 1) => match fields.remove("secret_text") {
            Some(FieldValue::Secret(secret)) => ConnectionValue::SecretText { secret },
            _ => return Err("secret text without its secret"),
        },
        _ => return Err("unknown type of connection, or fields it does not have"),
    };
    let connection = Connection::new(stored.name, value, stored.placements, stored.origins);
    let connection = connection.and_then(|connection| connection.with_terms(stored.terms.unwrap_or_default()));
    let connection = connection.map(|connection| connection.with_fault(stored.fault));
    let rotation = stored.rotation.map(rotation).transpose()?;
    connection.and_then(|connection| connection.with_rotation(rotation)).map_err(|_| "refused as a new connection")
}

fn decoded(stored: &[StoredField<'_>]) -> Result<BTreeMap<String, FieldValue>, &'static str> {
    let mut fields = BTreeMap::new();
    for field in stored {
        let text = decode(field.value).ok_or("a field is not base64 of UTF-8")?;
        let value = if field.elsewhere {
            FieldValue::Reference(SecretReference::parse(&text).map_err(|_| "a reference that is none")?)
        } else if field.secret {
            FieldValue::Secret(SecretString::from(text.as_str()))
        } else {
            FieldValue::Clear(text.to_string())
        };
        if fields.insert(field.name.to_owned(), value).is_some() {
            return Err("a field is there twice");
        }
    }
    Ok(fields)
}

fn stored_rotation<'a>(
    rotation: &Rotation,
    beside: &'a [(&'a str, (bool, bool), Zeroizing<String>)],
) -> StoredRotation<'a> {
    let fields = beside.iter().map(|(name, (secret, elsewhere), value)| StoredField {
        name,
        secret: *secret,
        value,
        elsewhere: *elsewhere,
    });
    let (since, verified, until) = match rotation {
        Rotation::Staged { since, verified, .. } => (*since, *verified, None),
        Rotation::Retiring { since, until, .. } => (*since, None, Some(*until)),
    };
    let expires = rotation.secrets().expires();
    StoredRotation { fields: fields.collect(), since, verified, until, expires }
}

fn rotation(stored: StoredRotation<'_>) -> Result<Rotation, &'static str> {
    let StoredRotation { fields, since, verified, until, expires } = stored;
    let new = NewSecrets::new().with_expiry(expires);
    let secrets = decoded(&fields)?.into_iter().fold(new, |new, (name, value)| new.with_value(name, value));
    match (until, verified) {
        (None, verified) => Ok(Rotation::Staged { secrets, since, verified }),
        (Some(until), None) => Ok(Rotation::Retiring { secrets, since, until }),
        (Some(_), Some(_)) => Err("a rotation that is at two points"),
    }
}

fn oauth_secrets(oauth: &OAuth2) -> Vec<(&'static str, bool, Zeroizing<String>)> {
    let tokens = oauth.tokens();
    let secrets = [
        (ACCESS_TOKEN, tokens.map(OAuthTokens::access)),
        (REFRESH_TOKEN, tokens.and_then(OAuthTokens::refresh)),
        // Not what a reference was resolved to.
        (CLIENT_SECRET, oauth.client_secret().filter(|_| oauth.client_secret_from().is_none())),
        (CODE_VERIFIER, oauth.pending().map(|pending| &pending.verifier)),
    ];
    let there = secrets.into_iter().filter_map(|(name, secret)| Some((name, true, encode(secret?.expose_secret()))));
    there.collect()
}

fn stored_oauth(oauth: &OAuth2) -> StoredOAuth {
    StoredOAuth {
        app: oauth.app().cloned(),
        tokens: oauth.tokens().map(|tokens| StoredTokens {
            issued: tokens.issued(),
            expires: tokens.expires(),
            scope: tokens.scope().map(str::to_owned),
        }),
        pending: oauth.pending().map(|pending| StoredPending {
            state: STANDARD.encode(pending.state.0),
            principal: pending.principal.clone(),
            expires: pending.expires,
        }),
    }
}

fn oauth(fields: &mut BTreeMap<String, FieldValue>, stored: StoredOAuth) -> Result<ConnectionValue, &'static str> {
    let elsewhere = match fields.remove(CLIENT_SECRET) {
        Some(FieldValue::Reference(reference)) => Some(reference),
        Some(value) => {
            fields.insert(CLIENT_SECRET.to_owned(), value);
            None
        }
        None => None,
    };
    let mut secret = |name: &str| match fields.remove(name) {
        None => Ok(None),
        Some(FieldValue::Secret(secret)) => Ok(Some(secret)),
        Some(_) => Err("a secret of OAuth 2.0 that is marked clear"),
    };
    let (access, refresh) = (secret(ACCESS_TOKEN)?, secret(REFRESH_TOKEN)?);
    let (client_secret, verifier) = (secret(CLIENT_SECRET)?, secret(CODE_VERIFIER)?);
    if !fields.is_empty() {
        return Err("a field that OAuth 2.0 does not have");
    }
    let tokens = match (stored.tokens, access) {
        (Some(StoredTokens { issued, expires, scope }), Some(access)) => {
            Some(OAuthTokens::bearer(access, issued).with_expiry(expires).with_scope(scope).with_refresh(refresh))
        }
        (None, None) if refresh.is_none() => None,
        _ => return Err("tokens of OAuth 2.0 that are there by half"),
    };
    let pending = match (stored.pending, verifier) {
        (Some(StoredPending { state, principal, expires }), Some(verifier)) => {
            let state = STANDARD.decode(state).ok().and_then(|state| state.try_into().ok());
            let state = LookupHash(state.ok_or("a state that is no hash")?);
            Some(PendingGrant { state, verifier, principal, expires })
        }
        (None, None) => None,
        _ => return Err("an authorization that is there by half"),
    };
    let oauth = match (stored.app, tokens) {
        (Some(app), None) => OAuth2::client(app, client_secret),
        (Some(app), Some(tokens)) => OAuth2::client(app, client_secret).with_tokens(tokens),
        (None, Some(tokens)) if client_secret.is_none() && elsewhere.is_none() => OAuth2::of_tokens(tokens),
        (None, _) => return Err("OAuth 2.0 without client and tokens"),
    };
    let oauth = match elsewhere {
        Some(reference) => oauth.with_client_secret_from(reference),
        None => oauth,
    };
    Ok(ConnectionValue::OAuth2(Box::new(oauth.with_pending(pending))))
}

/// Borrows everything that may be secret; no owner of a secret type is ever serialised.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<'a> {
    v: u8,
    name: &'a str,
    r#type: &'a str,
    #[serde(borrow)]
    fields: Vec<StoredField<'a>>,
    placements: Vec<Placement>,
    origins: Vec<Origin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terms: Option<ConnectionTerms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<ConnectionFault>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oauth: Option<StoredOAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    rotation: Option<StoredRotation<'a>>,
}

/// Secrets beside those in use: staged ones, or retiring ones if there is an `until`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRotation<'a> {
    #[serde(borrow)]
    fields: Vec<StoredField<'a>>,
    since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verified: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

/// What of OAuth 2.0 is not secret. The secrets are fields.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOAuth {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<OAuthApp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<StoredTokens>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<StoredPending>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredTokens {
    issued: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPending {
    state: String,
    principal: String,
    expires: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredField<'a> {
    name: &'a str,
    secret: bool,
    value: &'a str,
    /// The value is a reference to the secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    elsewhere: bool,
}

/// Counts what would be written.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encode(text: &str) -> Zeroizing<String> {
    let mut digits = Zeroizing::new(String::with_capacity(text.len().div_ceil(3) * 4));
    STANDARD.encode_string(text, &mut digits);
    digits
}

fn decode(digits: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(digits.len())]);
    let length = STANDARD.decode_slice(digits, &mut bytes).ok()?;
    bytes.truncate(length);
    // On success the bytes move into the string, which is wiped in turn.
    String::from_utf8(std::mem::take(&mut *bytes))
        .map(Zeroizing::new)
        .map_err(|error| Zeroizing::new(error.into_bytes()))
        .ok()
}

const VERSION: u8 = 1;
const BASIC_AUTH: &str = "BASIC_AUTH";
const CUSTOM_AUTH: &str = "CUSTOM_AUTH";
const OAUTH2: &str = "OAUTH2";
const SECRET_TEXT: &str = "SECRET_TEXT";
const TYPES: [&str; 4] = [BASIC_AUTH, CUSTOM_AUTH, OAUTH2, SECRET_TEXT];
const REFRESH_TOKEN: &str = "refresh_token";
const CLIENT_SECRET: &str = "client_secret";
const CODE_VERIFIER: &str = "code_verifier";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(connection: &Connection) -> Vec<(String, bool, String)> {
        let fields = connection.value().fields().into_iter().map(|(name, field)| match field {
            Field::Clear(text) => (name.to_owned(), false, text.to_owned()),
            Field::Secret(secret) => (name.to_owned(), true, secret.expose_secret().to_owned()),
        });
        fields.collect()
    }

    fn assert_round_trip(connection: &Connection) {
        let json = encode_connection(connection).unwrap();
        let back = decode_connection(&json).unwrap();
        assert_eq!(back.name(), connection.name());
        assert_eq!(back.value().type_name(), connection.value().type_name());
        assert_eq!(back.placements(), connection.placements());
        assert_eq!(back.origins(), connection.origins());
        assert_eq!(plain(&back), plain(connection));
    }

    fn custom(fields: Vec<(String, bool, String)>) -> ConnectionValue {
        let fields = fields.into_iter().map(|(name, secret, text)| {
            (name, if secret { FieldValue::Secret(text.into()) } else { FieldValue::Clear(text) })
        });
        ConnectionValue::CustomAuth { fields: fields.collect() }
    }

    #[test]
    fn every_type_round_trips() {
        let basic = ConnectionValue::BasicAuth { username: "ann".to_owned(), password: "pass\"w\u{f6}rd\n".into() };
        let secret = ConnectionValue::SecretText { secret: "12345678".into() };
        let header = Placement::Header {
            name: "X-Key \u{e9}".trim_end_matches(" \u{e9}").to_owned(),
            field: "secret_text".to_owned(),
        };
        let query = Placement::Query { name: "key=\"\u{e9}".to_owned(), field: "secret_text".to_owned() };
        let origin = Origin::of_url("https://api.example").unwrap();
        for (value, placements) in [(basic, vec![]), (secret, vec![header, query])] {
            assert_round_trip(&Connection::new("api", value, placements, vec![origin.clone()]).unwrap());
        }
        let two = custom(vec![
            ("one".to_owned(), true, "12345678".to_owned()),
            ("two".to_owned(), true, "abcdefgh".to_owned()),
            ("base_url".to_owned(), false, "https://api.example/v1".to_owned()),
        ]);
        assert_round_trip(&Connection::new("api", two, vec![], vec![]).unwrap());
    }

    fn oauth_connection() -> Connection {
        let app = r#"{ "clientId": "me", "tokenUrl": "https://id.example/token", "scope": "a b",
            "authorizationUrl": "https://id.example/auth", "redirectUrl": "https://host.example/callback" }"#;
        let tokens = OAuthTokens::bearer("access-token".into(), Timestamp::from_millis(1_000))
            .with_refresh(Some("refresh-token".into()))
            .with_scope(Some("a".to_owned()))
            .with_expiry(Some(Timestamp::from_millis(2_000)));
        let pending = PendingGrant {
            state: LookupHash([9; 32]),
            verifier: "code-verifier".into(),
            principal: "usr_1".to_owned(),
            expires: Timestamp::from_millis(3_000),
        };
        let oauth = OAuth2::client(serde_json::from_str(app).unwrap(), Some("client-secret".into()));
        let oauth = oauth.with_tokens(tokens).with_pending(Some(pending));
        let origin = Origin::of_url("https://api.example").unwrap();
        let fault = ConnectionFault {
            at: Timestamp::from_millis(4_000),
            reason: ap_core::connection::FaultReason::GrantRejected,
        };
        Connection::new("api", ConnectionValue::OAuth2(Box::new(oauth)), vec![], vec![origin])
            .unwrap()
            .with_terms(ConnectionTerms { pieces: vec!["http".to_owned()], ..ConnectionTerms::default() })
            .unwrap()
            .with_fault(Some(fault))
    }

    #[test]
    fn oauth_round_trips_with_its_hidden_secrets() {
        let connection = oauth_connection();
        assert_round_trip(&connection);
        let json = encode_connection(&connection).unwrap();
        let back = decode_connection(&json).unwrap();
        assert_eq!((back.terms(), back.fault()), (connection.terms(), connection.fault()));
        let secrets = |connection: &Connection| -> Vec<String> {
            connection.value().hidden_secrets().map(|secret| secret.expose_secret().to_owned()).collect()
        };
        assert_eq!(secrets(&back), ["client-secret", "refresh-token", "code-verifier"]);
        let (old, new) = (connection.oauth().unwrap(), back.oauth().unwrap());
        assert_eq!(old.app(), new.app());
        assert_eq!(old.tokens().unwrap().expires(), new.tokens().unwrap().expires());
        assert_eq!(old.pending().unwrap().state, new.pending().unwrap().state);
        assert_eq!(json.len(), json.capacity());
    }

    #[test]
    fn references_round_trip_as_such() {
        let reference = SecretReference::parse("vault:secret/data/crm#token").unwrap();
        let fields = [("key".to_owned(), FieldValue::Reference(reference.clone()))].into();
        let connection = Connection::new("api", ConnectionValue::CustomAuth { fields }, vec![], vec![]).unwrap();
        let back = decode_connection(&encode_connection(&connection).unwrap()).unwrap();
        assert_eq!(back.value().references().collect::<Vec<_>>(), [("key", &reference)]);
        assert_eq!(back.placements(), connection.placements());
    }

    #[test]
    fn what_a_reference_was_resolved_to_is_never_stored() {
        let reference = SecretReference::parse("vault:secret/data/crm#client_secret").unwrap();
        let client = oauth_connection().map_oauth(|oauth| oauth.with_client_secret_from(reference.clone())).unwrap();
        let resolved = client.with_resolved(|_| Some("canary-client".into())).unwrap();
        let back = decode_connection(&encode_connection(&resolved).unwrap()).unwrap();
        let oauth = back.oauth().unwrap();
        assert_eq!((oauth.client_secret_from(), oauth.client_secret().is_none()), (Some(&reference), true));
        assert!(oauth.tokens().is_some() && back.is_same_definition(&resolved));
    }

    #[test]
    fn a_rotation_round_trips_with_what_is_beside() {
        let at = Timestamp::from_millis;
        let value =
            |fields: Vec<(String, bool, String)>| Connection::new("api", custom(fields), vec![], vec![]).unwrap();
        let fields =
            vec![("id".to_owned(), false, "AK1".to_owned()), ("key".to_owned(), true, "old-canary".to_owned())];
        let reference = SecretReference::parse("vault:secret/data/crm#token").unwrap();
        let text = || NewSecrets::new().with("id", "AK2".into()).with("key", "new-canary\n\u{e9}".into());
        let elsewhere = NewSecrets::new().with_reference("key", reference.clone());
        for new in [text(), text().with_expiry(Some(at(7_000))), elsewhere] {
            let staged = value(fields.clone()).staging(new, at(1_000)).unwrap();
            let verified =
                decode_connection(&encode_connection(&staged).unwrap()).unwrap().with_verified(at(1_000), at(2_000));
            let active =
                decode_connection(&encode_connection(&verified).unwrap()).unwrap().activated(at(3_000), at(4_000));
            let active = active.unwrap();
            for connection in [staged, verified, active] {
                assert_round_trip(&connection);
                let json = encode_connection(&connection).unwrap();
                let back = decode_connection(&json).unwrap();
                let status = |connection: &Connection| connection.rotation().unwrap().status();
                assert_eq!(status(&back), status(&connection));
                let expires = |connection: &Connection| connection.rotation().unwrap().secrets().expires();
                assert_eq!(expires(&back), expires(&connection));
                let hidden = |connection: &Connection| -> Vec<String> {
                    connection.hidden_secrets().map(|secret| secret.expose_secret().to_owned()).collect()
                };
                assert_eq!(hidden(&back), hidden(&connection));
                assert!(back.references_in_rotation().eq(connection.references_in_rotation()));
                assert_eq!(json.len(), json.capacity());
            }
        }
        let staged = value(fields).staging(text(), at(1_000)).unwrap();
        let json = String::from_utf8(encode_connection(&staged).unwrap().to_vec()).unwrap();
        for wrong in [
            json.replace(
                "\"since\":\"1970",
                "\"until\":\"1970-01-01T00:00:03Z\",\"verified\":\"1970-01-01T00:00:03Z\",\"since\":\"1970",
            ),
            json.replace("\"rotation\":{\"fields\":[{\"name\":\"id\"", "\"rotation\":{\"fields\":[{\"name\":\"other\""),
        ] {
            assert_ne!(wrong, json);
            assert!(decode_connection(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn halves_of_oauth_are_refused() {
        let json = String::from_utf8(encode_connection(&oauth_connection()).unwrap().to_vec()).unwrap();
        let field = |name: &str| {
            let start = json.find(&format!("{{\"name\":\"{name}\"")).unwrap();
            let end = json[start..].find('}').unwrap() + start + 1;
            json[start..end].to_owned()
        };
        let clear = |name: &str| field(name).replace("true", "false");
        for wrong in [
            json.replace(&format!("{},", field("access_token")), ""),
            json.replace(&format!(",{}", field("code_verifier")), ""),
            json.replace(&field("refresh_token"), &clear("refresh_token")),
            json.replace("refresh_token", "another"),
            json.replace("\"type\":\"OAUTH2\"", "\"type\":\"CUSTOM_AUTH\""),
            json.replace("\"issued\"", "\"issue\""),
        ] {
            assert_ne!(wrong, json);
            assert!(decode_connection(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_buffer_never_grows() {
        let value = ConnectionValue::SecretText { secret: "s".repeat(5000).into() };
        let json = encode_connection(&Connection::new("api", value, vec![], vec![]).unwrap()).unwrap();
        assert_eq!(json.len(), json.capacity());
        assert!(!String::from_utf8_lossy(&json).contains('\\'));
    }

    #[test]
    fn the_stored_form_never_changes() {
        let value = ConnectionValue::SecretText { secret: "12345678".into() };
        let origin = Origin::of_url("https://api.example").unwrap();
        let connection = Connection::new("api", value, vec![], vec![origin]).unwrap();
        assert_eq!(String::from_utf8_lossy(&encode_connection(&connection).unwrap()), SNAPSHOT);
        assert!(decode_connection(SNAPSHOT.as_bytes()).is_ok());
    }

    const SNAPSHOT: &str = r#"{"v":1,"name":"api","type":"SECRET_TEXT","fields":[{"name":"secret_text","secret":true,"value":"MTIzNDU2Nzg="}],"placements":[{"type":"bearer","field":"secret_text"}],"origins":["https://api.example"]}"#;

    #[test]
    fn anything_else_is_refused() {
        let wrong = [
            String::new(),
            "{}".to_owned(),
            SNAPSHOT[..SNAPSHOT.len() - 1].to_owned(),
            format!("{SNAPSHOT} x"),
            SNAPSHOT.replace("\"v\":1", "\"v\":2"),
            SNAPSHOT.replace("\"v\":1", "\"v\":1,\"w\":1"),
            SNAPSHOT.replace("SECRET_TEXT", "BASIC_AUTH"),
            SNAPSHOT.replace("SECRET_TEXT", "OTHER"),
            SNAPSHOT.replace("\"secret\":true", "\"secret\":false"),
            SNAPSHOT.replace("\"name\":\"secret_text\"", "\"name\":\"secret\""),
            SNAPSHOT.replace("MTIzNDU2Nzg=", "MTIzNDU2Nzg"),
            SNAPSHOT.replace("MTIzNDU2Nzg=", "MTIzNDU2Nw=="),
            SNAPSHOT.replace("MTIzNDU2Nzg=", "//////////8="),
            SNAPSHOT.replace("https://api.example", "ftp://api.example"),
            SNAPSHOT.replace("\"name\":\"api\"", "\"name\":\"a b\""),
        ];
        for json in wrong {
            assert!(matches!(decode_connection(json.as_bytes()), Err(VaultError::Unopenable)), "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_fields_round_trip(fields in prop::collection::btree_map("[a-z_][a-z0-9_]{0,9}", (any::<bool>(), "\\PC{8,40}"), 1..6)) {
            let fields = fields.into_iter().map(|(name, (secret, text))| (format!("f{name}"), secret, text)).collect();
            assert_round_trip(&Connection::new("api", custom(fields), vec![], vec![]).unwrap());
        }

        #[test]
        fn decoding_never_panics(noise: Vec<u8>) {
            prop_assert!(decode_connection(&noise).is_err());
        }
    }
}
