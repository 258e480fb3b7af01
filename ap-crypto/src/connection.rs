//! The form in which a [`Connection`] is sealed: versioned JSON that exists only between these functions and the vault.
//!
//! Field values are base64 inside the JSON. So no string of it ever needs an escape, and the parser borrows every value
//! from the input instead of copying it to a buffer that nobody wipes.

use std::{collections::BTreeMap, io};

use ap_core::connection::{Connection, ConnectionValue, Field, FieldValue, Origin, Placement};
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
    let encoded: Vec<(&str, bool, Zeroizing<String>)> = connection
        .value()
        .fields()
        .into_iter()
        .map(|(name, field)| match field {
            Field::Clear(text) => (name, false, encode(text)),
            Field::Secret(secret) => (name, true, encode(secret.expose_secret())),
        })
        .collect();
    let stored = Stored {
        v: VERSION,
        name: connection.name(),
        r#type: type_name,
        fields: encoded.iter().map(|(name, secret, value)| StoredField { name, secret: *secret, value }).collect(),
        placements: connection.placements().to_vec(),
        origins: connection.origins().to_vec(),
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
    let mut fields = BTreeMap::new();
    for field in &stored.fields {
        let text = decode(field.value).ok_or("a field is not base64 of UTF-8")?;
        let value = if field.secret {
            FieldValue::Secret(SecretString::from(text.as_str()))
        } else {
            FieldValue::Clear(text.to_string())
        };
        if fields.insert(field.name.to_owned(), value).is_some() {
            return Err("a field is there twice");
        }
    }
    let value = match (stored.r#type, fields.len()) {
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
    Connection::new(stored.name, value, stored.placements, stored.origins).map_err(|_| "refused as a new connection")
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
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredField<'a> {
    name: &'a str,
    secret: bool,
    value: &'a str,
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
const SECRET_TEXT: &str = "SECRET_TEXT";
const TYPES: [&str; 3] = [BASIC_AUTH, CUSTOM_AUTH, SECRET_TEXT];

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
