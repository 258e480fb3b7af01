//! The piece `crypto`: encrypting single values, and signing, with the secret of a connection as the key (guide §4.3, §7.5).

use std::sync::Arc;

use ap_core::{
    capability::{CipherText, FieldKeyUse},
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::StepError,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::{
    exchange::step_error,
    input::{self, wrong},
};

/// The piece `crypto`.
#[derive(Clone, Copy, Debug)]
pub struct Crypto;

impl Piece for Crypto {
    fn name(&self) -> &str {
        "crypto"
    }

    fn display_name(&self) -> &str {
        "Cryptography"
    }

    fn description(&self) -> &str {
        "Encrypts, decrypts and signs values with the secret of a connection as the key."
    }

    fn auth(&self) -> Option<AuthSchema> {
        Some(AuthSchema {
            types: &["SECRET_TEXT", "CUSTOM_AUTH"],
            required: true,
            description: "The key: for encryption 64 hex digits, or base64 of 32 bytes. It is used where it is and never shown.",
        })
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        [Kind::Encrypt, Kind::Decrypt, Kind::Hmac]
            .into_iter()
            .map(|kind| Arc::new(Keyed { kind, spec: kind.spec() }) as _)
            .collect()
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Encrypt,
    Decrypt,
    Hmac,
}

impl Kind {
    fn spec(self) -> ActionSpec {
        let key = || {
            Property::new("key", "Key", PropertyKind::Connection)
                .describe("The connection whose secret is the key.")
                .required()
        };
        let algorithm = || {
            Property::new("algorithm", "Algorithm", PropertyKind::StaticDropdown { options: CIPHERS })
                .describe(
                    "Both authenticate what they encrypt; random nonces of `aes-256-gcm` allow 2^32 values per key.",
                )
                .default("aes-256-gcm")
        };
        let associated = || {
            Property::new("associatedData", "Associated data", PropertyKind::LongText)
                .describe("Authenticated and not kept: the same is needed to decrypt. Say what the value belongs to, such as a record's id.")
                .default("")
        };
        match self {
            Self::Encrypt => ActionSpec {
                name: "encrypt",
                display_name: "Encrypt",
                description: "Encrypts a value of at most 8 MiB of JSON; `algorithm`, and `iv`, `data` and `authTag` in hex, come out.",
                properties: Properties::new([
                    key(),
                    Property::new("value", "Value", PropertyKind::Json)
                        .describe("What to encrypt: any value, as JSON.")
                        .required(),
                    algorithm(),
                    associated(),
                ]),
            },
            Self::Decrypt => ActionSpec {
                name: "decrypt",
                display_name: "Decrypt",
                description: "Decrypts what `encrypt` made; the value comes out, as text if it is no JSON.",
                properties: Properties::new([
                    key(),
                    Property::new("value", "Value", PropertyKind::Object)
                        .describe("`iv`, `data` and `authTag` in hex, and perhaps `algorithm`.")
                        .required(),
                    associated(),
                ]),
            },
            Self::Hmac => ActionSpec {
                name: "hmac",
                display_name: "HMAC",
                description: "Signs a text by HMAC-SHA256 (RFC 2104); the signature comes out.",
                properties: Properties::new([
                    key(),
                    Property::new("text", "Text", PropertyKind::LongText)
                        .describe("What to sign, as UTF-8.")
                        .required(),
                    Property::new("encoding", "Encoding", PropertyKind::StaticDropdown { options: &["hex", "base64"] })
                        .describe("How the signature is written.")
                        .default("hex"),
                ]),
            },
        }
    }
}

/// One action with a key.
#[derive(Debug)]
struct Keyed {
    kind: Kind,
    spec: ActionSpec,
}

#[async_trait]
impl Action for Keyed {
    fn spec(&self) -> &ActionSpec {
        &self.spec
    }

    /// Nothing outside changes. But the use of a key is audited, and what was encrypted must not differ after a crash from
    /// what a later step has sent: so each attempt is in the ledger.
    fn effect(&self, _: &Value) -> Effect {
        Effect::Repeatable
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let done = match self.kind {
            Kind::Encrypt => encrypt(context, &input),
            Kind::Decrypt => decrypt(context, &input),
            Kind::Hmac => hmac(context, &input),
        };
        done.map_err(ActionError::from)
    }
}

fn encrypt(context: &ActionContext<'_>, input: &Value) -> Result<Value, StepError> {
    let cipher = input::text(input, "algorithm").to_owned();
    let used = FieldKeyUse { key: input::text(input, "key").to_owned(), cipher: cipher.clone() };
    let plain = input.get("value").unwrap_or(&Value::Null).to_string();
    let sealed = context.keys.encrypt(&used, plain.as_bytes(), input::text(input, "associatedData"));
    let CipherText { nonce, data, tag } = sealed.map_err(|error| step_error(&error))?;
    Ok(json!({ "algorithm": cipher, "iv": hex(&nonce), "data": hex(&data), "authTag": hex(&tag) }))
}

fn decrypt(context: &ActionContext<'_>, input: &Value) -> Result<Value, StepError> {
    let value = input.get("value").unwrap_or(&Value::Null);
    let part = |name: &str| {
        let digits = value.get(name).and_then(Value::as_str);
        digits.and_then(unhex).ok_or_else(|| wrong("value", format!("needs `{name}`, in hex")))
    };
    let cipher = value.get("algorithm").and_then(Value::as_str).unwrap_or("aes-256-gcm").to_owned();
    let used = FieldKeyUse { key: input::text(input, "key").to_owned(), cipher };
    let sealed = CipherText { nonce: part("iv")?, data: part("data")?, tag: part("authTag")? };
    let plain = context.keys.decrypt(&used, &sealed, input::text(input, "associatedData"));
    let plain = plain.map_err(|error| step_error(&error))?;
    let limits = ap_core::json::JsonLimits::payload();
    Ok(ap_core::json::parse(&plain, &limits).unwrap_or_else(|_| String::from_utf8_lossy(&plain).into_owned().into()))
}

fn hmac(context: &ActionContext<'_>, input: &Value) -> Result<Value, StepError> {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let signed = context.keys.hmac_sha256(input::text(input, "key"), input::text(input, "text"));
    let signature = signed.map_err(|error| step_error(&error))?;
    Ok(if input::text(input, "encoding") == "base64" { STANDARD.encode(signature) } else { hex(&signature) }.into())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |symbol: u8| char::from(symbol).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<_>>>()?;
    rest.is_empty().then_some(bytes)
}

const CIPHERS: &[&str] = &["aes-256-gcm", "xchacha20-poly1305"];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ap_core::capability::{ExchangeError, KeyClient};

    use super::*;
    use crate::testing::{KEY, NONE, NOW};

    /// Turns bits over instead of encrypting, and remembers nothing.
    #[derive(Debug)]
    struct Turned;

    impl KeyClient for Turned {
        fn encrypt(&self, key: &FieldKeyUse, plain: &[u8], associated: &str) -> Result<CipherText, ExchangeError> {
            assert_eq!(key.key, "apcred_key");
            let data = plain.iter().map(|byte| !byte).collect();
            Ok(CipherText { nonce: key.cipher.as_bytes().to_vec(), data, tag: associated.as_bytes().to_vec() })
        }

        fn decrypt(&self, key: &FieldKeyUse, value: &CipherText, associated: &str) -> Result<Vec<u8>, ExchangeError> {
            if value.tag != associated.as_bytes() || value.nonce != key.cipher.as_bytes() {
                return Err(ExchangeError::InvalidRequest { reason: "it does not open".to_owned() });
            }
            Ok(value.data.iter().map(|byte| !byte).collect())
        }

        fn hmac_sha256(&self, key: &str, message: &str) -> Result<[u8; 32], ExchangeError> {
            if message.is_empty() {
                return Err(ExchangeError::Credential { reason: key.to_owned() });
            }
            Ok([0xa5; 32])
        }
    }

    async fn run(action: &str, input: Value) -> Result<Value, ActionError> {
        let actions = Crypto.actions();
        let action = actions.iter().find(|candidate| candidate.spec().name == action).expect("an action");
        let input = action.spec().properties.validate(input)?;
        assert_eq!(action.effect(&input), Effect::Repeatable);
        let context = ActionContext {
            http: &NONE,
            sql: &NONE,
            mail: &NONE,
            objects: &NONE,
            keys: &Turned,
            idempotency_key: KEY,
            send_idempotency_key: false,
            timeout: Duration::from_secs(1),
            now: NOW,
        };
        action.run(&context, input).await
    }

    #[tokio::test]
    async fn values_of_every_kind_come_back() {
        for value in [json!("text"), json!(7), json!(null), json!({ "a": [1, true] })] {
            let sealed = run("encrypt", json!({ "key": "apcred_key", "value": value, "associatedData": "r1" })).await;
            let sealed = sealed.expect("encrypted");
            assert_eq!(sealed["algorithm"], "aes-256-gcm");
            let opened = run("decrypt", json!({ "key": "apcred_key", "value": sealed, "associatedData": "r1" })).await;
            assert_eq!(opened.expect("decrypted"), value);
            let other = run("decrypt", json!({ "key": "apcred_key", "value": sealed, "associatedData": "r2" })).await;
            assert_eq!(other.expect_err("another record").error.kind, ap_core::run::StepErrorKind::Input);
        }
    }

    #[tokio::test]
    async fn what_another_system_encrypted_is_text_unless_it_is_json() {
        let data = hex(&b"Jane".map(|byte| !byte));
        let value = json!({ "iv": hex(b"aes-256-gcm"), "data": data, "authTag": "" });
        assert_eq!(run("decrypt", json!({ "key": "apcred_key", "value": value })).await.expect("text"), json!("Jane"));
        for (name, digits) in [("iv", json!("0")), ("data", json!("zz")), ("authTag", json!(null))] {
            let mut wrong = value.clone();
            wrong[name] = digits;
            let error = run("decrypt", json!({ "key": "apcred_key", "value": wrong })).await.expect_err("no hex").error;
            assert!(error.message.contains(&format!("`{name}`")), "{}", error.message);
        }
    }

    #[tokio::test]
    async fn signatures_are_written_as_wanted() {
        let signed =
            |encoding: &'static str| run("hmac", json!({ "key": "apcred_key", "text": "x", "encoding": encoding }));
        assert_eq!(signed("hex").await.expect("signed"), json!("a5".repeat(32)));
        assert_eq!(signed("base64").await.expect("signed"), json!("paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaU="));
        let refused = run("hmac", json!({ "key": "apcred_key", "text": "" })).await.expect_err("refused");
        assert_eq!(refused.error.kind, ap_core::run::StepErrorKind::Connection);
    }
}
